import hashlib
import json
import random
import re
import threading
import time

import pronouncing
import pytest

from space import remarks
from space.remarks import LineRemark, Originality, Passage, copied_passages, estimated_syllables, verse_remarks
from space.write_tab import describe_originality
from training.corpora import BETWEEN, load_corpus
from training.works import COLLECTIONS, WORKS, Work

QUATRAIN = """The lamp is lit, the door is shut,
The kettle sings above the flame,
A spider in the corner cut
The thread by which the evening came."""
POEM = "夜坐\n青山如故人，江水似长天。\n独坐听秋雨，高灯照客船。"


def rhymes(text: str) -> list[str]:
    return [letter for remark in verse_remarks(text) for letter in remark.rhymes]


def test_syllables_and_rhymes_of_a_quatrain():
    assert [remark.syllables for remark in verse_remarks(QUATRAIN)] == [8, 8, 8, 8]
    assert not any(remark.estimated for remark in verse_remarks(QUATRAIN))
    assert rhymes(QUATRAIN) == ["A", "B", "A", "B"]


def test_every_line_has_its_remark_and_letters_begin_anew_after_an_empty_one():
    found = verse_remarks(f"\n{QUATRAIN}\n\n \n{QUATRAIN}\n* * *")
    assert len(found) == 12
    assert [found[n] for n in (0, 5, 6, 11)] == [LineRemark()] * 4
    assert found[1:5] == found[7:11]
    assert verse_remarks("") == [LineRemark()]


@pytest.mark.parametrize(
    ("ends", "letters"),
    [
        (["butterfly", "sky"], ["A", "A"]),  # a lesser stress
        (["wind", "kind"], ["A", "A"]),  # one of two ways to say it
        (["day", "night", "day"], ["", "", ""]),  # a repeat
        (["day", "day", "way"], ["A", "A", "A"]),
        (["Day,", "‘way’!"], ["A", "A"]),
        (["day", *["night"] * 7, "way"], ["A", *[""] * 7, "A"]),
        (["day", *["night"] * 8, "way"], [""] * 10),  # too far apart to be heard
        (["zorbled", "zorbled", "gorbled"], ["", "", ""]),  # not in the dictionary
    ],
)
def test_rhymes(ends, letters):
    assert rhymes("\n".join(f"And then the {end}" for end in ends)) == letters


def test_syllables_of_words_that_the_dictionary_lacks_are_estimated():
    (line,) = verse_remarks("The zorbled snoodle gave a plimpish moan")
    assert (line.syllables, line.estimated) == (10, True)
    words = {"o'er": 1, "feed'st": 1, "glane": 1, "snarped": 1, "snarted": 2, "trobble": 2, "winkies": 2, "hmm": 1}
    assert {word: estimated_syllables(word) for word in words} == words


def test_a_long_line_is_prose():
    verse, prose = "a b c d e f g h i j k day", "a b c d e f g h i j k l way"
    assert rhymes(f"{verse}\nThe way") == ["A", "A"]
    assert rhymes(f"{verse}\n{prose}") == ["", ""]
    assert verse_remarks(prose)[0].syllables == 13


def test_tones_and_rhymes_of_chinese():
    title, *lines = verse_remarks(POEM)
    assert title == LineRemark()
    assert [line.tones for line in lines] == [("平平平仄平", "平仄仄平平"), ("平仄平平仄", "平平仄仄平")]
    assert [line.rhymes for line in lines] == [("", "A"), ("", "A")]
    assert [line.syllables for line in lines] == [0, 0]


@pytest.mark.parametrize(
    ("ends", "letters"),
    [
        ("山天西船", ["A", "A", "", "A"]),  # the first clause may; the third may not
        ("水天船山", ["", "A", "", "A"]),
        ("水天山饭", ["", "", "", ""]),  # level and oblique
        ("水诗山机", ["", "", "", ""]),  # one letter of pinyin, and two vowels
        ("水东山风", ["", "A", "", "A"]),
        ("水天山天", ["", "", "", ""]),  # a repeat
    ],
)
def test_chinese_rhymes_fall_on_every_second_clause(ends, letters):
    first, second, third, fourth = (f"我不知何处{end}" for end in ends)
    assert rhymes(f"{first}，{second}。\n{third}，{fourth}。") == letters
    assert rhymes(f"{first}\n{second}\n{third}\n{fourth}") == letters


def test_clauses_that_are_not_equally_long_are_no_verse():
    assert rhymes("我看山，我不知何处天。\n我听水，我不知何处船。") == [""] * 4


def test_readings_follow_the_phrase_and_have_no_neutral_tone():
    (line,) = verse_remarks("长城，长大，走了，𰾄")
    assert line.tones == ("平平", "仄仄", "仄仄", "？")


def test_mixed_text():
    lines = verse_remarks("The moon is in the sky\n月在青天，moon！\n春 is spring\n\n12, 34")
    assert [line.syllables for line in lines] == [6, 0, 3, 0, 0]
    assert [line.tones for line in lines] == [(), ("仄仄平平",), (), (), ()]


def test_the_dictionary_is_loaded_by_one_thread_at_a_time(monkeypatch):
    """The second would take it for loaded when it is half so, and know no word."""
    loading, together = threading.Semaphore(1), []

    def load():
        together.append(not loading.acquire(blocking=False))
        time.sleep(0.05)
        loading.release()

    monkeypatch.setattr(pronouncing, "init_cmu", load)
    at_once(lambda: verse_remarks(""))
    assert together == [False, False]


def at_once(call) -> list:
    """What two threads get that call at the same time."""
    found, barrier = [], threading.Barrier(2)

    def wait_and_call():
        barrier.wait()
        found.append(call())

    threads = [threading.Thread(target=wait_and_call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def prose(seed: int, words: int = 2000) -> str:
    """Lines of words of five letters that no other seed has."""
    draw = random.Random(seed)
    made = ["".join(draw.choices("bdfgklmnprst", k=5)) for _ in range(words)]
    return "\n".join(" ".join(made[n : n + 9]) for n in range(0, words, 9))


def checkpoint(folder, *stages: str, sha256: str = ""):
    """A folder with the record of a training on corpora, first to last."""
    corpora = [{"name": str(s), "sha256": sha256 or load_corpus(str(s)).sha256} for s in stages]
    record = {"recipe": {"corpus": corpora[-1]["name"]}, "corpus": corpora[-1], "trained_on_before": corpora[:-1]}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


@pytest.fixture
def mine(tmp_path):
    """A checkpoint that was trained on a text of one's own, and this text."""
    (tmp_path / "mine.txt").write_text(prose(1), encoding="utf-8")
    return checkpoint(tmp_path, tmp_path / "mine.txt"), prose(1)


def test_a_memorising_answer_is_marked_and_an_invented_one_is_not(mine):
    folder, text = mine
    begin, end = text.index(" ", 400) + 1, text.index(" ", 700)
    found = copied_passages(f"\n{text[begin:end]}.", folder)
    assert found.passages == (Passage(1, 1 + end - begin, "mine", ""),)
    assert (found.share, found.compared, found.missing) == (1.0, ("mine",), ())
    invented = copied_passages(prose(2, 200), folder)
    assert (invented.passages, invented.share, invented.longest, invented.missing) == ((), 0.0, None, ())
    assert copied_passages("", folder).share == 0.0


def test_passages_are_marked_to_the_word(mine):
    folder, text = mine
    words = [text[n : n + 59] for n in range(0, len(text), 54)]  # nine of five letters, and the next
    one, other = words[10], words[30]
    answer = f"so z{one[1:]} said {other[:-2]}y, and so"  # the first word and the last begin and end otherwise
    found = copied_passages(answer, folder)
    assert [answer[p.begin : p.end] for p in found.passages] == [one[6:], other[:-6]]
    assert found.longest == found.passages[0]
    assert found.share == (53 + 53) / len(answer)


def test_what_is_long_enough_is_found_wherever_it_stands(tmp_path):
    chinese = "".join(map(chr, random.Random(1).sample(range(0x4E00, 0x9000), 3000)))
    english = prose(3, 500)
    (tmp_path / "both.txt").write_text(f"{chinese}\n{english}\n{prose(4, 900)}", encoding="utf-8")
    folder = checkpoint(tmp_path, tmp_path / "both.txt")
    for begin in range(20):
        passage = chinese[begin : begin + 8]
        assert copied_passages(f"说{passage}说", folder).passages == (Passage(1, 9, "both", ""),)
        assert copied_passages(f"说{passage[:7]}说", folder).passages == ()
        words = english.replace("\n", " ").split(" ")[begin : begin + 5]
        passage = english[english.index(words[0]) :][:29]  # 25 letters
        assert len(copied_passages(f"and {passage} and", folder).passages) == 1
        assert copied_passages(f"and {passage[:23]} and", folder).passages == ()


def test_the_validation_split_is_not_what_was_trained_on(mine):
    folder, _ = mine
    corpus = load_corpus(str(folder / "mine.txt"))
    assert copied_passages(corpus.validation[10:300], folder).passages == ()
    assert copied_passages(corpus.train[-300:], folder).share > 0.9


def test_the_prompt_does_not_count(mine):
    folder, text = mine
    prompt, own = text[600:800], text[800:900]
    assert copied_passages(f"{prompt} and what then?", folder, prompt).passages == ()
    (passage,) = copied_passages(prompt + own, folder, prompt).passages
    assert passage.begin >= len(prompt)
    assert passage.end >= len(prompt + own) - 5
    assert copied_passages(prompt + own, folder, prompt).share > 0.8
    assert copied_passages(own, folder, "Write me a poem").share > 0.8  # the answer to a request


@pytest.fixture
def collection(tmp_path, monkeypatch):
    """A checkpoint that was trained on a collection of two works, of which poems are the second, and their texts."""
    poems = [
        f"{chr(0x5000 + n)}{chr(0x5100 + n)}\n" + "".join(chr(0x6000 + 40 * n + k) for k in range(40))
        for n in range(60)
    ]
    texts = {"first": prose(5, 300), "chinese-poems": "\n\n".join(poems)}
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        monkeypatch.setitem(WORKS, name, Work(f"Title of {name}", "", "", sha256, f"{name}.txt", bytes.decode))
    monkeypatch.setitem(COLLECTIONS, "both", tuple(texts))
    monkeypatch.setattr("training.corpora.NAMES", ("both", *texts))
    monkeypatch.setenv("OZYMANDIAS_CORPORA", str(tmp_path))
    return checkpoint(tmp_path, "both"), *texts.values()


def test_works_and_poems_are_named_rightly_at_their_borders(collection):
    folder, first, poems = collection
    (passage,) = copied_passages(first[-29:], folder).passages
    assert (passage.work, passage.part) == ("Title of first", "")
    for number in (0, 1, 30):
        title, line = poems.split(BETWEEN)[number].split("\n")
        for written in (line[:9], line[-9:], f"{title}\n{line[:7]}"):
            (passage,) = copied_passages(written, folder).passages
            assert (passage.work, passage.part) == ("Title of chinese-poems", title)
    title, line = poems.split(BETWEEN)[-1].split("\n")
    assert copied_passages(line, folder).passages == ()  # the last tenth of the collection


def test_quatrains_are_looked_up_among_the_poems_that_they_are_of(collection):
    folder, _, poems = collection
    title, line = poems.split(BETWEEN)[0].split("\n")
    found = copied_passages(line, checkpoint(folder, "quatrains + chinese-poems", sha256="01"))
    assert (found.passages[0].part, found.missing) == (title, ())


def test_the_longest_passage_tells_the_source(tmp_path):
    shared, more = " ".join(prose(6, 9).split()), " ".join(prose(7, 9).split())
    (tmp_path / "one.txt").write_text(f"{prose(8, 200)} brown mouse {shared} {prose(9)}", encoding="utf-8")
    (tmp_path / "two.txt").write_text(f"{prose(10, 200)} {shared} {more} {prose(11)}", encoding="utf-8")
    folder = checkpoint(tmp_path, f"{tmp_path}/one.txt+{tmp_path}/two.txt", tmp_path / "one.txt")
    (passage,) = copied_passages(f"mouse {shared} {more}", folder).passages  # too little of it is left of the other
    assert passage == Passage(6, 6 + len(f"{shared} {more}"), "two", "")
    (passage,) = copied_passages(f"mouse {shared}", folder).passages
    assert passage == Passage(0, 6 + len(shared), "one", "")


def test_texts_that_cannot_be_compared_are_told(tmp_path, mine):
    folder, text = mine
    own = folder / "mine.txt"
    copied = text[300:500]
    both = copied_passages(copied, checkpoint(tmp_path, f"gone.txt+{own}", sha256="01"))
    assert both.missing == ("gone.txt",)
    assert both.share > 0.9
    changed = copied_passages(copied, checkpoint(tmp_path, own, sha256="02"))
    assert (changed.passages, changed.compared, changed.missing) == ((), (), ("mine.txt",))
    (folder / "run.json").unlink()
    unknown = copied_passages(copied, folder)
    assert (unknown.compared, unknown.missing) == ((), ("run.json",))


@pytest.mark.parametrize(
    ("compared", "missing", "words"),
    [
        (("oz", "poetry"), (), r"No passage .* in oz, poetry, which is all that the model has read\.$"),
        (
            ("oz",),
            ("poetry",),
            r"No passage .* word for word in oz\. Not compared with poetry: .* not here\.$",
        ),
        ((), ("poetry",), r"Not known: .* could not be compared .*\. Not compared with poetry"),
        ((), ("run.json",), r"Not known: .* could not be compared .*\. There is no record \(run\.json\)"),
    ],
)
def test_what_was_compared_is_told(compared, missing, words):
    """Where nothing was, nothing may be said to be original."""
    assert re.search(words, describe_originality(Originality((), 0.0, compared, missing), "en"))


def test_texts_are_loaded_once_though_two_ask_at_once(mine, monkeypatch):
    folder, text = mine
    loaded, load_stages = [], remarks.load_stages

    def slow(stages):
        loaded.append(stages)
        time.sleep(0.05)
        return load_stages(stages)

    monkeypatch.setattr(remarks, "load_stages", slow)
    found = at_once(lambda: copied_passages(text[300:500], folder))
    assert found[0] == found[1] == copied_passages(text[300:500], folder)
    assert found[0].passages
    assert len(loaded) == 1


@pytest.mark.corpora
@pytest.mark.parametrize(
    ("name", "part", "begin", "end"),
    [
        ("shijing", "《周南・关雎》", 20, 60),
        ("lunyu", "学而篇", 20, 60),
        ("oz", "Chapter IV", None, None),
        ("sonnets", "XVIII", None, None),
        ("sampler", "WEATHER GLASS", None, None),
    ],
)
def test_parts_of_works(corpora, tmp_path, name, part, begin, end):
    text = load_corpus(name).text
    if begin is None:
        begin = text.index(f"{part}\n") + len(part) + 10
        end = begin + 100
    passage, *_ = copied_passages(text[begin:end], checkpoint(tmp_path, name)).passages
    assert passage.part == part


@pytest.mark.corpora
def test_real_text_that_was_not_trained_on_is_hardly_marked(corpora, tmp_path):
    """And what is, is found at once when the texts are loaded: a page waits for it."""
    folder = checkpoint(tmp_path, "oz+poetry+classics")
    poetry, oz, emma = (load_corpus(name) for name in ("poetry", "oz", "austen-emma"))
    assert copied_passages(poetry.validation, folder).share == 0
    assert copied_passages(oz.validation, folder).share < 0.02
    began = time.perf_counter()
    passage, *_ = copied_passages(emma.text[300_000:303_000], folder).passages
    assert time.perf_counter() - began < 1
    assert passage.work == "Emma, Jane Austen, 1816"
