"""Clean books of Project Gutenberg for training: only the author's text, one paragraph to a line.

[`clean_book`] returns the chapters of a book. Spelling and wording are not changed.
"""

import itertools
import re
from dataclasses import dataclass

LONGEST = 30_000  # characters of a document; a longer chapter is cut
SHORTEST = 400  # characters; a shorter piece is joined to the next one
# Typographic variants of the same sign become one, and marks of emphasis are removed.
SIGNS = str.maketrans(
    {
        **dict.fromkeys("“”„‟«»″", '"'),
        **dict.fromkeys("‘’‚‛`´′", "'"),
        **dict.fromkeys("—―", "--"),
        **dict.fromkeys("–‑", "-"),
        **dict.fromkeys("\xa0\u2003\u2009\t", " "),
        "ſ": "s",
        **dict.fromkeys("\xad\ufeff\u200b_=~", ""),
        "…": "...",
    }
)
BEGINS = (
    r"\*\*\* ?START OF (?:THE|THIS) PROJECT GUTENBERG EBOOK.*?(?:\*\*\*|\n\n)",
    r"\*END\*? ?THE SMALL PRINT!.*\n",
)
ENDS = r"\n\W*(?:END OF (?:THE |THIS )?PROJECT GUTENBERG|End (?:of )?(?:the |this )?Project Gutenberg)"
# Additions of editors and transcribers in brackets.
MARKS = (
    r"\[ ?\**(?:Illustrations?|Illo|Picture|Image|Sidenote|Footnotes?|Transcriber'?s? Notes?|Transcription|Note|"
    r"Decoration|Frontispiece|Map|Music|Blank Page|Pg|Page|Greek|Hebrew|Handwritten|Ornament|Tailpiece|Headpiece)\b"
    r"(?:[^\[\]]|\[[^\[\]]*\])*\]"
)
AFTER = r"(?<=[\w.,;:!?'\"-])"
REFERENCES = "|".join(
    (
        rf"{AFTER} ?\[(?:\d{{1,3}}|[A-Z]|[*†‡]+)\]",
        rf"{AFTER}\(\d{{1,3}}\)",
        r" ?\{\d{1,3}\w?\}",
        r"(?m: \(\d{1,2}\)$)",
        rf"{AFTER} ?[*+]+(?=[\s'\",.;!?)])",
        r"(?<=[a-z])&(?= )",
    )
)
NOTES = r"transcriber|proofread|pgdp\.net|gutenberg|\betext\b|\bebook\b|scanned (?:by|from)|html version|underscores"
BACK = (
    r"\n\s*(?:THE END|The End|FINIS|Finis|End of The Grey Fairy Book)\W*\n",
    r"\n\W*(?i:transcriber'?s?'? (?:end )?notes?)\b",
    r"\n\s*(?:FOOTNOTES?|Footnotes?|NOTES|ADVERTISEMENTS?)(?: AND .*)?\W*\n",
    r"\n\s*(?:Printed (?:by|in)|PRINTED (?:BY|IN)|PHOTOGRAPHED AND PRINTED|PRINTING OFFICE)\b",
    r"\n\s*(?:(?:BOOKS|Books) (?:BY|by) |THE FAMOUS OZ BOOKS|The (?:Famous|Wonderful) Oz Books|BURT'S SERIES)",
)
NUMERAL = r"(?:[IVXLC]+|\d{1,3})"
WORDS = r"(?:CHAPTER|BOOK|PART|STORY|SCENE|STAVE|LETTER|ADVENTURE|VOLUME|CHIRP|Chapter|Book|Part|Chap\.|CHAP\.)"
HEADING = rf"(?:{WORDS}\b.{{0,90}}|{NUMERAL}\.?(?:[ -].{{1,80}})?)"
CONTENTS = (
    r"(?:TABLE OF |LIST OF |THE )?(?:CONTENTS|CHAPTERS|ILLUSTRATIONS|COLOURED PLATES|FULL-?PAGE PLATES|PLATES)\W*"
)
CONTENTS += r"|CHAPTER LIST\W*|PAGE|FACING PAGE"
# A note on the source of a tale, or a footnote in a paragraph of its own.
SOURCES = "|".join(
    (
        r"[\[(](?:From|Adapted|Translated|Taken|Told|Traditions|Contes|Volksm|Japan|[A-Z]\w+ische)[^\]]*[\])]\.?",
        r"[\[(][^\])]{3,80}(?:M[aä]h?rchen|Contes|Stories|Tales|Volk\w+)[^\])]*[\])]\.?",
        r"From (?:the )?'[^']*'\.?|Grimm\.|Asbjornsen and Moe\.?",
        r"(?:[\[(]\d{1,3}[\])]|[*+&]+|\[[*+]\]) .*",
    )
)


@dataclass(frozen=True)
class Document:
    """One chapter, tale or poem."""

    text: str
    title: str
    author: str


@dataclass(frozen=True)
class Block:
    """Consecutive lines, none of them blank, with the number of blank lines before them."""

    lines: tuple[str, ...]
    gap: int

    @property
    def joined(self) -> str:
        return " ".join(line.strip() for line in self.lines)

    @property
    def is_heading(self) -> bool:
        text = self.joined
        if not 0 < len(text) <= 110 or len(self.lines) > 4 or not re.search(r"[A-Za-z0-9]", text):
            return False
        if re.fullmatch(HEADING, text) and (self.gap > 1 or not text.isdigit()):
            return not re.fullmatch(r"I[ -].*[^A-Z\W].*", text) or self.gap > 1  # "I was ..." is not one
        capitals = text.upper() == text and len(re.findall("[A-Z]", text)) > 2
        quoted = text[0] in "\"'(" or text[-1] in ",;:-"
        return not quoted and self.gap > 1 and (capitals or (self.gap > 2 and text[-1] not in ".!?\"'"))

    @property
    def is_subtitle(self) -> bool:
        """Whether this can be the second line of a heading."""
        text = self.joined
        return len(text) <= 80 and len(self.lines) < 3 and text[0].isalnum() and (text[-1].isalnum() or text.isupper())

    @property
    def is_prose(self) -> bool:
        """Whether this is a paragraph of full lines, unlike a table or a title page."""
        text = tidy(self.joined)
        full = sum(len(tidy(line)) for line in self.lines[:-1]) >= 45 * (len(self.lines) - 1)
        return len(text) > 150 and full and len(re.findall(r"[a-z]", text)) > 0.6 * len(text)


def clean_book(raw: bytes, title: str, author: str, begins: str = "", ends: str = "") -> list[Document]:
    """The chapters of a book.

    Args:
        begins, ends: how the text itself begins, and what follows its end, if the rules do not find this.
    """
    text = raw.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    text = without_frame(text)
    for mark in (begins, ends):
        assert mark in text, f"library.tsv: {title} does not contain {mark!r}"
    if begins:
        text = text[text.index(begins) :]
    if ends:
        text = text[: text.index(ends)]
    text = re.sub(r"(?<=\d)[-–](?=\d)", "-", text).translate(SIGNS)
    text = without_back(without_marks(text), bool(ends))
    blocks = split_blocks(text)
    blocks = [block for block in blocks if not is_note(block.joined)]
    if not begins:
        blocks = blocks[first_block(blocks, 0) :]
    blocks = without_contents(blocks)
    width = wrap_width(blocks)
    return [Document(piece, heading or title, author) for heading, piece in chapters(blocks, width)]


def is_note(text: str) -> bool:
    """Whether a paragraph is a transcriber's note, or a note on the source of a tale."""
    if len(text) < 90 and re.fullmatch(
        r"(?:Adapted |Translated |Taken )?[Ff]rom [^.;,!?]{3,80}\.?|.*M(?:a|ä|ae)h?rchen.*", text
    ):
        return True
    maker = len(text) < 1500 and re.search(NOTES, text, re.IGNORECASE)
    return bool(maker or re.fullmatch(SOURCES, text))


def without_frame(text: str) -> str:
    """Remove the header and licence of Project Gutenberg, in their present and early forms."""
    for begin in BEGINS:
        if found := list(re.finditer(begin, text, re.DOTALL if "START" in begin else 0)):
            text = text[found[-1].end() :]
            break
    if end := re.search(ENDS, text):
        text = text[: end.start()]
    if end := re.search(r"\n\*\*\* ?END OF", text):
        text = text[: end.start()]
    return text


def without_marks(text: str) -> str:
    """Remove the marks of illustrations, pages and notes, and rows of asterisks."""
    text = re.sub(MARKS, "", text, flags=re.IGNORECASE)
    text = re.sub(
        r"\{[^{}]*\.jpg\}|\[\*\*[^\]]*\]|(?im:^ *\d* *(?:full[ -]page )?line-art drawing\.? *$)|(?m:^.*\|.*\|.*$)|\|",
        "",
        text,
    )
    text = re.sub(rf"\[({WORDS} [IVXLC]+)\]", r"\1", text)
    text = re.sub(REFERENCES, "", text)
    gloss = r" \[[^\]]{1,200}\](?=[\s,.;:!?\"')])"
    if len(re.findall(gloss, text)) > 30:  # an editor explains words to children
        text = re.sub(gloss, "", text)
    text = without_page_numbers(text)
    text = re.sub(r"(?m)^(?:[ *.·•+#-]*[*•+#][ *.·•+#-]*|[ .-]{4,})$", "", text)
    text = re.sub(r"(?<=\S) ?-- ?(?=\S)", "--", re.sub(r"-{3,}", "--", text))
    text = re.sub(r"(?<=\w) - (?=\w)|(?<=[,;.!?]) - (?=\w)", "--", text)
    return re.sub(r"''(?!')|,,", '"', text)


def without_page_numbers(text: str) -> str:
    """Remove page numbers, and join paragraphs that a page break or a picture divided.

    If there are only a few numbers on lines of their own, they are chapter numbers and stay.
    """
    number = r"(?m)^ *[\[({]?(?:[Pp]\. ?|[Pp]g\. ?|[Pp]age )?(\d{1,4})[\])}]? *$\n?"
    if sum(int(found) > 60 for found in re.findall(number, text)) > 5:
        text = re.sub(number, "", text)
        text = re.sub(r"(?m)^ *\d{1,3} +(?=[A-Z][\w' -]+$)", "", text)  # before the caption of an illustration
    return re.sub(r"(?<=[a-z,;])\n{2,}(?=[a-z])", "\n", text)


def without_back(text: str, cut: bool) -> str:
    """Remove whatever follows the end of a book, unless it was removed already (`cut`)."""
    for end in () if cut else BACK:
        for match in re.finditer(end, text):
            share = 0.6 if re.search("transcriber|footnote", match[0], re.IGNORECASE) else 0.88
            title = re.search(rf"(?:^|\n) *{HEADING} *\n*$", text[: match.start()])  # a chapter may have this name
            if match.start() > share * len(text) and not title:
                text = text[: match.start()]
                break
    return re.sub(r"(?mi)^ *\W?(?:the end|finis)\W*$", "", text)


def split_blocks(text: str) -> list[Block]:
    blocks, gap, lines = [], 0, []
    for line in [*text.split("\n"), ""]:
        if line.strip():
            lines.append(line.rstrip())
        elif lines:
            blocks.append(Block(tuple(lines), gap))
            lines, gap = [], 1
        else:
            gap += 1
    return blocks


def first_block(blocks: list[Block], begin: int) -> int:
    """Where the text begins after a title page or a table: at the headings before the first paragraph of prose."""
    place = next((i for i in range(begin, len(blocks)) if blocks[i].is_prose), begin)
    found = place
    while found > begin and place - found < 2 and blocks[found - 1].is_heading and len(blocks[found - 1].lines) < 4:
        found -= 1
    if found == place and place - begin > 1 and blocks[place - 1].is_subtitle and blocks[place - 2].is_heading:
        found -= 2
    return found


def without_contents(blocks: list[Block]) -> list[Block]:
    """Remove the tables of contents and illustrations, which are in the first quarter of a book."""
    place = 0
    while place < len(blocks) // 4:
        if re.fullmatch(CONTENTS, blocks[place].lines[0].strip(), re.IGNORECASE):
            blocks = blocks[:place] + blocks[first_block(blocks, place + 1) :]
        else:
            place += 1
    return blocks


def wrap_width(blocks: list[Block]) -> int:
    """The length at which most lines of a book are wrapped."""
    lengths = sorted(len(line) for block in blocks if len(block.lines) > 3 for line in block.lines[:-1])
    return lengths[int(0.9 * len(lengths))] if lengths else 70


def paragraphs(block: Block, width: int) -> str:
    """Lay out a block for training: prose in one line, verse in its own lines, without indentation."""
    indents = [len(line) - len(line.lstrip()) for line in block.lines]
    base = min(indents)
    runs: list[list[str]] = []
    before = None
    for line, indent in zip(block.lines, indents, strict=True):
        inside = indent > base + 1
        if (inside != before and before is not None) or not runs:
            runs.append([])
        runs[-1].append(line.strip())
        before = inside
    if len(runs) > 3 or any(len(run) == 1 for run in runs):
        runs = [[line.strip() for line in block.lines]]  # verse with alternate lines or the first indented
    return "\n\n".join(lay_out(run, width - base if len(runs) == 1 else width) for run in runs)


def lay_out(lines: list[str], width: int) -> str:
    """Join wrapped lines into one; verse keeps its line breaks."""
    lines = [re.sub(r" {2,}", " ", line) for line in lines]
    early = [len(a) + 1 + len(b.split(" ")[0]) < width - 5 for a, b in itertools.pairwise(lines)]
    capital = [bool(re.match(r"[\"'(\[-]*[A-Z0-9]", line)) for line in lines[1:]]
    verse = lines[1:] and sum(early) >= 0.5 * len(early) and sum(capital) >= 0.5 * len(capital)
    if verse:
        return "\n".join(lines)
    text = ""
    for line in lines:
        joint = "" if not text or text.endswith("--") or line.startswith("--") else " "
        text += joint + line
    return text


def chapters(blocks: list[Block], width: int) -> list[tuple[str, str]]:
    """The title and text of each chapter, or of each piece of a book without headings."""
    pieces: list[tuple[str, list[str]]] = [("", [])]
    after_heading = False
    blocks = [
        block for i, block in enumerate(blocks) if not i or not block.is_heading or block.joined != blocks[i - 1].joined
    ]
    for block in blocks:
        text = paragraphs(block, width)
        first = not pieces[-1][1]
        if block.is_heading and (first or (not after_heading and block.gap > 1 and size_of(pieces[-1][1]) >= SHORTEST)):
            pieces[len(pieces) - first :] = [(tidy(block.joined), [tidy(block.joined)])]
        elif (block.is_heading or block.is_subtitle) and after_heading and len(pieces[-1][1]) == 1:
            pieces[-1] = (f"{pieces[-1][0]} {tidy(block.joined)}", [*pieces[-1][1], tidy(block.joined)])
        else:
            pieces[-1][1].append(text)
        after_heading = block.is_heading
    return [(title, part) for title, parts in pieces for part in cut(parts)]


def tidy(text: str) -> str:
    return re.sub(r" {2,}", " ", text).strip()


def size_of(parts: list[str]) -> int:
    return sum(map(len, parts))


def cut(parts: list[str]) -> list[str]:
    """Join paragraphs into pieces of about equal length, none much longer than `LONGEST`."""
    count = -(-size_of(parts) // LONGEST)
    if count == 0 or size_of(parts) < 40:
        return []
    goal, pieces, have = size_of(parts) / count, [[]], 0
    for part in parts:
        if have >= goal * len(pieces) and len(pieces) < count:
            pieces.append([])
        pieces[-1].append(part)
        have += len(part)
    return ["\n\n".join(piece).strip() for piece in pieces]
