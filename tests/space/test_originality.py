import hashlib
import json
import random
import re
import time

import pytest

from space import originality
from space.originality import Originality, Passage, copied_passages
from space.tabs.write import describe_originality
from tests.space.conftest import at_once
from training.data.corpora import BETWEEN, load_corpus
from training.data.works import COLLECTIONS, WORKS, Work


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
    monkeypatch.setattr("training.data.corpora.NAMES", ("both", *texts))
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
    loaded, load_stages = [], originality.load_stages

    def slow(stages):
        loaded.append(stages)
        time.sleep(0.05)
        return load_stages(stages)

    monkeypatch.setattr(originality, "load_stages", slow)
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
