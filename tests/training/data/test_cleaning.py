"""Cleaning removes from books and poems what their authors did not write, and changes nothing else."""

from collections import Counter

import pytest

from training.data.cleaning import clean_book
from training.data.verses import clean_poem, clean_poems, lay_out_poem, mend, read_poem

PROSE = (
    "The old woman went down to the river every morning to look for\n"
    "the heron, and every morning the heron was there before she came, standing on\n"
    "one leg in the reeds and looking as if it had never moved at all.\n"
)
HEADER = "Title: A Tale\n\n*** START OF THIS PROJECT GUTENBERG EBOOK A TALE ***\n\nProduced by A. Reader\n\n\n"
OLD_HEADER = (
    "***START**THE SMALL PRINT!**\nlicence\n*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\n\n"
)
FOOTER = "\n\n\nEnd of the Project Gutenberg EBook of A Tale\n\n*** END OF THIS PROJECT GUTENBERG EBOOK ***\nlicence\n"


def book(text: str, header: str = HEADER) -> str:
    documents = clean_book((header + text + FOOTER).replace("\n", "\r\n").encode(), "A Tale", "A. Writer")
    return "\n\n".join(document.text for document in documents)


def chapter(number: str, title: str, text: str = PROSE) -> str:
    return f"\n\n\n\nCHAPTER {number}\n\n{title}\n\n" + "\n".join([text] * 3)


@pytest.mark.parametrize("header", [HEADER, OLD_HEADER])
def test_header_and_licence_are_left_out(header):
    text = book(chapter("I", "The Heron"), header)
    assert text.startswith("CHAPTER I\n\nThe Heron\n\nThe old woman went down")
    assert text.endswith("never moved at all.")
    assert "licence" not in text


def test_title_page_and_contents_are_left_out():
    front = (
        "A TALE\n\nBY\n\nA. WRITER\n\nLONDON 1901\n\n\n\nCONTENTS\n\n  I. The Heron       1\n  II. The Reeds      9\n"
    )
    text = book(front + chapter("I", "The Heron") + chapter("II", "The Reeds"))
    assert text.startswith("CHAPTER I\n\nThe Heron")
    assert "LONDON" not in text
    assert text.count("The Reeds") == 1


def test_chapters_are_documents_with_their_headings_as_titles():
    raw = HEADER + chapter("I", "The Heron") + chapter("II", "The Reeds")
    documents = clean_book(raw.encode(), "A Tale", "A. Writer")
    assert [document.title for document in documents] == ["CHAPTER I The Heron", "CHAPTER II The Reeds"]
    assert {document.author for document in documents} == {"A. Writer"}


def test_wrapped_prose_is_joined_and_verse_keeps_its_lines():
    verse = "    The heron stands\n    On yellow sands\n    And never says a word.\n"
    text = book(chapter("I", "The Heron") + "\n" + verse + "\n" + PROSE)
    assert "look for the heron, and every morning the heron was there before she came, standing on one leg" in text
    assert "\n\nThe heron stands\nOn yellow sands\nAnd never says a word.\n\n" in text


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("It was _very_ =bold= of you.", "It was very bold of you."),
        ("“Don’t,” she said—‘never.’", "\"Don't,\" she said--'never.'"),
        ("He knew it.[12] So did she.{3}", "He knew it. So did she."),
        ("[Illustration: A heron\nin the [green] reeds]\n\nHe flew.", "He flew."),
        ("He flew.\n\n[Footnote 1: Herons\ndo.]\n\nShe ran.", "He flew.\n\nShe ran."),
        ("He flew.\n\n       *       *       *       *       *\n\nShe ran.", "He flew.\n\nShe ran."),
        ("He flew over\n\n[Illustration]\n\nthe river.", "He flew over the river."),
    ],
)
def test_marks_are_left_out(written, read):
    assert read in book(chapter("I", "The Heron") + "\n" + written + "\n\n" + PROSE)


def test_page_numbers_are_removed_and_chapter_numbers_stay():
    pages = "\n".join(f"{PROSE}\n\n\n{number}\n" for number in range(1, 80))
    assert "\n79\n" not in book(chapter("I", "The Heron") + pages)
    few = "".join(f"\n\n\n\n{number}\n\n\nHow It Went\n\n" + "\n".join([PROSE] * 3) for number in (1, 2))
    assert "\n2\n" in book(few)


@pytest.mark.parametrize(
    "end",
    [
        "\n\nTHE END\n\n\nBOOKS FOR THE YOUNG\n\nThe Stork. Price $1.25\n",
        '\n\nTranscriber\'s Note:\n\nPage 3, "hreon" changed to "heron".\n',
        "\n\nFOOTNOTES:\n\n[1] A bird.\n",
    ],
)
def test_text_after_the_end_is_left_out(end):
    assert book(chapter("I", "H") + chapter("II", "R") + chapter("III", "S") + end).endswith("never moved at all.")


def test_a_chapter_called_the_end_does_not_end_the_book():
    text = book(
        "".join(chapter(n, "T") for n in ("I", "II", "III", "IV", "V", "VI")) + chapter("VII", "THE END", PROSE)
    )
    assert "THE END" not in text  # its heading is removed
    assert text.count("The old woman") == 21


def test_front_matter_gives_author_and_title():
    text = "---\nauthor: A. Poet \ntitle: The Heron\ntags:\n - bird\n---\n\n Line one,\n Line two.\n"
    assert read_poem(text) == ("A. Poet", "The Heron", "\n Line one,\n Line two.\n")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (" The reeds, [1]\n   the sands,     5\n the river&#39;s hands.", "The reeds,\nthe sands,\nthe river's hands."),
        ("One\nTwo\nThree\nFour\nFive\n[1] A note on the heron.\nmore of it", "One\nTwo\nThree\nFour\nFive"),
        ("The _heron_ -- he\n\n\n\n* * *\n\nstood", "The heron--he\n\nstood"),
        ("ph[oe]nix &amp; dove[Editor's guess]", "phoenix & dove"),
    ],
)
def test_poems_are_laid_out(written, read):
    assert lay_out_poem(written) == read


WORDS = Counter({"don't": 9, "loved": 40, "beloved": 40, "dark": 90, "god": 90, "love": 99, "winged": 40, "he": 99})


@pytest.mark.parametrize(
    ("lost", "mended"),
    [
        ("Thou'rt belov?d, he's wing?d", "Thou'rt belovèd, he's wingèd"),  # this poem still has its apostrophes
        ("God?s love, he lov?d", "God's love, he lov'd"),  # this one has lost them
        ("I don?t", "I don't"),
        ("?Twas love", "'Twas love"),
        ("the dark?god", "the dark--god"),
        ("?Love,? he said", '"Love," he said'),
        ("a fine of ?200", "a fine of £200"),
        ("tho? dark", "tho' dark"),
        ("from C?sar to the f?te", "from Cæsar to the fête"),
    ],
)
def test_lost_characters_are_restored(lost, mended):
    lost = lost.replace("?", "\ufffd")
    assert mend(lost, WORDS, straight="'" in lost) == mended


@pytest.mark.parametrize("lost", ["the qu?zz of it", "he was lov?d"])
def test_a_poem_with_a_doubtful_character_is_left_out(lost):
    body = f"{lost.replace('?', chr(0xFFFD))}\nand so it went on for a while by the river"
    assert clean_poem("A. Poet", "T", body, WORDS) == ("a lost character", None)


def poem(title: str, body: str, author: str = "A. Poet") -> tuple[str, str]:
    return title, f"---\nauthor: {author}\ntitle: {title}\n---\n{body}"


def test_duplicates_prose_and_other_poets_are_left_out():
    lines = [
        f"The {bird} of the {place} goes over the water alone,"
        for bird in ("heron", "stork", "crane", "rail")
        for place in ("reeds", "sands")
    ]
    whole = "\n".join(lines)
    files = [
        poem("The Birds", whole),
        poem("The Birds, a Part", "\n".join(lines[:5]), "B. Poet"),
        poem("In Prose", f"One,\nTwo.\n\n{PROSE}{PROSE}\n\nThree,\nfour."),
        poem("Another's", "One line of verse is here,\nand then another one.", "C. Poet"),
    ]
    poems, left_out = clean_poems(files, {"A. Poet": "A. Poet", "B. Poet": "B. Poet"})
    assert [(poem.title, poem.text) for poem in poems] == [("The Birds", f"The Birds\n\n{whole}")]
    assert left_out == {"prose among the verse": 1, "stands twice": 1} | {
        reason: 0 for reason in left_out if reason not in ("prose among the verse", "stands twice")
    }
