import hashlib
import json

import pytest

from tests.conftest import run
from tests.forks import run_forked
from tests.hub_server import HubServer, Repo
from training.command import UserError
from training.data import corpora as registry
from training.data.corpora import SAMPLER, load_corpus
from training.data.works import CLASSICS, WORKS


def test_sampler_is_of_the_promised_size():
    corpus = load_corpus("sampler")
    assert 20_000 <= len(corpus.text) <= 40_000
    assert corpus.text == SAMPLER.read_text(encoding="utf-8")
    assert not [line for line in corpus.text.splitlines() if len(line) > 90]


def test_splits_are_contiguous_and_whole():
    corpus = load_corpus("sampler")
    assert corpus.train + corpus.validation == corpus.text
    assert len(corpus.train) == int(0.9 * len(corpus.text))


@pytest.mark.corpora
@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("oz", 207_799),
        ("dickinson", 170_387),
        ("sonnets", 100_226),
        ("shijing", 41_803),
        ("lunyu", 22_094),
        ("chinese-poems", 23_862_485),
        ("melville-moby_dick", 1_220_066),
    ],
)
def test_real_texts_have_their_hash(corpora, name, length):
    corpus = load_corpus(name)
    assert len(corpus.text) == length
    assert corpus.sha256 == WORKS[name].sha256


@pytest.mark.corpora
def test_poetry_is_dickinson_and_the_sonnets(corpora):
    assert load_corpus("poetry").text == load_corpus("dickinson").text + "\n\n" + load_corpus("sonnets").text


@pytest.mark.corpora
def test_classics_are_thirteen_works(corpora):
    text = load_corpus("classics").text
    assert len(text) == 6_024_209
    assert text.startswith("[Emma by Jane Austen 1816]")
    assert all(load_corpus(name).sha256 == WORKS[name].sha256 for name in CLASSICS)


@pytest.mark.corpora
def test_quatrains_keep_the_split_of_the_poems(corpora):
    quatrains, poems = load_corpus("quatrains"), load_corpus("chinese-poems")
    assert quatrains.train + quatrains.validation == quatrains.text
    for part, whole in ((quatrains.train, poems.train), (quatrains.validation, poems.validation)):
        lines = [line for line in part.split("\n") if line and "：" not in line]
        assert len(lines) > 10_000
        assert all(line in whole for line in lines[::3000])


def test_joined_corpora_are_split_one_by_one(tmp_path):
    for name, letter in (("a", "x"), ("b", "y")):
        (tmp_path / f"{name}.txt").write_text(letter * 100, encoding="utf-8")
    corpus = load_corpus(f"{tmp_path / 'a.txt'}+{tmp_path / 'b.txt'}")
    assert corpus.name == "a+b"
    assert corpus.train == "x" * 90 + "\n\n" + "y" * 90
    assert corpus.validation == "x" * 10 + "\n\n" + "y" * 10


def test_folder_of_texts_is_one_corpus(tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "b.txt").write_text("second", encoding="utf-8")
    (tmp_path / "more" / "c.txt").write_text("third", encoding="utf-8")
    (tmp_path / "a.txt").write_text("first", encoding="utf-8")
    (tmp_path / "notes.md").write_text("not a text", encoding="utf-8")
    corpus = load_corpus(str(tmp_path))
    assert (corpus.name, corpus.text) == (tmp_path.name, "first\n\nsecond\n\nthird")


def test_a_dataset_on_the_hub_is_fetched_and_its_column_read(tmp_path):
    """From a Hub on loopback, in a fresh process, since `datasets` reads the Hub's address when it is imported."""
    program = """
from training.command import UserError
from training.data.corpora import load_corpus
print(repr(load_corpus("user/poems", column="poem").text))
try:
    load_corpus("user/poems")
except UserError as error:
    print(error)
"""
    poems = {"train": ["first", "", None, "second"], "test": ["third"]}
    with HubServer() as hub:
        hub.repos["datasets/user/poems"] = repo = Repo("datasets", "user/poems")
        rows = {split: [json.dumps({"poem": poem, "id": 1}) for poem in of] for split, of in poems.items()}
        repo.commit("poems", {f"{split}.jsonl": "\n".join(lines).encode() for split, lines in rows.items()})
        said = run("-c", program, HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE=0, HF_HOME=tmp_path).stdout
    text, refusal = said.splitlines()
    assert text == repr("first\n\nsecond")
    assert "the dataset user/poems has no column 'text', only poem, id; give --text_column" in refusal


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty"]),
        (b" \n\n ", ["empty"]),
        (b"\x89PNG\r\n\x1a\n\x00\x00\xff", ["not UTF-8", "byte 0"]),
        (b"text\0text", ["binary"]),
        ("Verlorene Mühe".encode("latin-1"), ["not UTF-8", "iconv"]),
    ],
)
def test_a_file_that_is_not_text_is_refused(tmp_path, content, words):
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    with pytest.raises(UserError) as refusal:
        load_corpus(str(path))
    assert all(word in str(refusal.value) for word in [*words, "mine.txt"]), str(refusal.value)


def test_an_unknown_corpus_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="sampler, oz"):
        load_corpus(str(tmp_path / "nothing.txt"))
    with pytest.raises(UserError, match="a folder without"):
        load_corpus(str(tmp_path))
    with pytest.raises(UserError, match=r"nor a dataset that can be loaded from the Hub.*check the dataset's name"):
        load_corpus("someone/nothing")


def test_own_text_is_read_as_it_is(tmp_path):
    text = "  indented\n\n\n诗 “quoted” — text\n" * 100
    (tmp_path / "mine.txt").write_text(text, encoding="utf-8")
    corpus = load_corpus(str(tmp_path / "mine.txt"))
    assert (corpus.name, corpus.text) == ("mine", text)
    assert corpus.sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_a_folder_without_the_text_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("OZYMANDIAS_CORPORA", str(tmp_path))
    with pytest.raises(UserError, match=r"oz\.txt"):
        load_corpus("oz")


def test_command_lists_and_loads():
    listed = run_forked("-m", "training.corpora").stdout
    assert all(name in listed for name in registry.NAMES)
    loaded = run_forked("-m", "training.corpora", "sampler").stdout
    assert "27,488" in loaded
    assert load_corpus("sampler").sha256[:16] in loaded
