"""The shelves of the library, from a small mirror of a few books and poems, and once from the real one."""

import hashlib
import io
import itertools
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from training.command import UserError
from training.data import library
from training.data.corpora import load_corpus
from training.data.library import SHELVES, SPLITS, Book, Poet, digest, is_there, list_books, list_poets, read_split
from training.data.overlap import find_shared
from training.data.stream import StreamedCorpus

NAMES = ("heron", "stork", "crane", "rail", "snipe", "ruff", "teal", "swan")
MADE = """
import sys
sys.path.insert(0, {tests!r})
from test_library import describe
describe({poems!r}, {books!r})
from training.data import library
library.fetch_library()
print(sum(1 for name in library.SHELVES for split in library.SPLITS for _ in library.read_split(name, split)))
"""


def tale(bird: str) -> str:
    """A book of three chapters that shares no passage with another bird's."""
    words = [f"{bird}{number}" for number in range(240)]
    chapters = []
    for part, number in enumerate(("I", "II", "III")):
        lines = [" ".join(words[begin : begin + 10]) for begin in range(part * 80, part * 80 + 80, 10)]
        chapters.append(
            f"CHAPTER {number}\n\n"
            + "\n".join([f"The story of {bird} and {bird} as {bird} told it to {bird} at home", *lines])
            + "\n"
        )
    return (
        "*** START OF THIS PROJECT GUTENBERG EBOOK A TALE ***\n\n\n\n"
        + "\n\n\n\n".join(chapters)
        + "\n\n\n*** END OF X"
    )


def poem(author: str, bird: str) -> str:
    lines = [f"{bird} {number} sings of {bird} {number + 1} and is gone," for number in range(8)]
    return f"---\nauthor: {author}\ntitle: The {bird}\n---\n" + "\n".join(lines)


def archive(poems: dict[str, str]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        for name, text in poems.items():
            member = tarfile.TarInfo(f"verse-1/poems/{name}.txt")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return raw.getvalue()


BOOKS = {split: f"Writer, A. (Ann)/{split} tale\rwith a long title.txt" for split in SPLITS}
POETS = {"train": "A. Poet", "validation": "B. Poet", "test": "C. Poet"}
POEMS = {f"{author} {bird}": poem(author, bird) for (split, author), bird in zip(POETS.items(), NAMES, strict=False)}


def describe(poems_sha256: str, sha256s: dict[str, str]) -> None:
    """Replace the library's lists by those of the small mirror."""
    books = [
        Book(shelf, split, path.replace("tale", f"{shelf} tale"), sha256s[f"{shelf} {split}"], "", "")
        for shelf in ("baum", "tales")
        for split, path in BOOKS.items()
    ]
    library.list_books = lambda: books
    library.list_poets = lambda: [Poet(split, author, author) for split, author in POETS.items()]
    library.POEMS_SHA256 = poems_sha256


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """The folder of a mirror with small shelves, which the library's lists describe."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OZYMANDIAS_MIRROR", (tmp_path / "mirror").as_uri())
    for name in ("list_books", "list_poets", "POEMS_SHA256"):
        monkeypatch.setattr(library, name, getattr(library, name))
    folder = tmp_path / "mirror"
    sha256s, birds = {}, iter(NAMES)
    for shelf in ("baum", "tales"):
        for split, path in BOOKS.items():
            path = folder / library.BOOKS_URL.removeprefix("https://") / path.replace("tale", f"{shelf} tale")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(tale(next(birds)), encoding="utf-8", newline="")
            sha256s[f"{shelf} {split}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    poems = folder / library.POEMS_URL.removeprefix("https://")
    poems.parent.mkdir(parents=True)
    poems.write_bytes(archive(POEMS | {"else": poem("Somebody Else", "wren")}))
    listed = sorted((f"{name}.txt", text) for name, text in POEMS.items())
    describe(hashlib.sha256("\0".join(itertools.chain.from_iterable(listed)).encode()).hexdigest(), sha256s)
    return folder


def poems_file(mirror: Path) -> Path:
    return mirror / library.POEMS_URL.removeprefix("https://")


def texts(name: str, split: str) -> str:
    return "\n\n".join(document.text for document in read_split(name, split))


def test_whole_works_and_poets_are_in_the_splits_that_the_lists_say(mirror):
    library.fetch_library()
    assert all(map(is_there, SHELVES))
    for (split, author), bird in zip(POETS.items(), NAMES, strict=False):
        assert [(d.author, d.title) for d in read_split("verse", split)] == [(author, f"The {bird}")]
    for (shelf, split), bird in zip(itertools.product(("baum", "tales"), SPLITS), NAMES, strict=False):
        documents = list(read_split(shelf, split))
        assert {document.author for document in documents} == {"A. Writer"}
        assert len(documents) == 3
        assert all(bird in document.text for document in documents)


def test_a_poem_is_its_title_a_blank_line_and_its_lines(mirror):
    library.fetch_library()
    text = texts("verse", "train")
    assert text.startswith("The heron\n\nheron 0 sings of heron 1 and is gone,\nheron 1")


def test_shelves_load_as_corpora_with_three_splits(mirror):
    corpus = load_corpus("baum", accept_changed=True)
    assert corpus.validation == texts("baum", "validation")
    assert corpus.test == texts("baum", "test")
    assert sorted(corpus.train.split("CHAPTER")) == sorted((texts("baum", "train") + "\n\n").split("CHAPTER"))
    both = load_corpus("baum+verse", accept_changed=True)
    assert both.test == f"{corpus.test}\n\n{texts('verse', 'test')}"
    assert load_corpus("baum+sampler", accept_changed=True).test is None


def test_a_shelf_that_differs_from_the_registry_is_refused(mirror):
    with pytest.raises(UserError, match=r"corpus 'verse' differs .* remove .*library to fetch it again"):
        load_corpus("verse")


def test_shards_stream(mirror, monkeypatch):
    monkeypatch.setattr(library, "SHARD", 1)  # a document each
    library.fetch_library()
    shards = str(library.shelf_folder("tales") / "train-*.jsonl")
    stream = StreamedCorpus(shards, "text", 100)
    assert [path.name for path in stream.paths] == ["train-00.jsonl", "train-01.jsonl", "train-02.jsonl"]
    assert stream.validation in texts("tales", "train")


def test_the_same_shelves_are_made_again(mirror, tmp_path, monkeypatch):
    library.fetch_library()
    first = {name: [digest(read_split(name, split)) for split in SPLITS] for name in SHELVES}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    library.fetch_library()
    assert {name: [digest(read_split(name, split)) for split in SPLITS] for name in SHELVES} == first


def test_text_of_a_held_out_split_is_not_trained_on():
    shared = " and this is told again in quite another book, word for word"
    documents = {
        bird: library.Document(f"The {bird} went home" + shared * (bird != "rail"), "T", "A") for bird in NAMES
    }
    shelves = {
        "baum": {"train": [documents["heron"], documents["rail"]], "validation": [], "test": [documents["crane"]]},
        "verse": {"train": [], "validation": [documents["stork"]], "test": []},
    }
    library.separate(shelves)
    assert shelves["baum"] == {"train": [documents["rail"]], "validation": [], "test": []}
    assert shelves["verse"]["validation"] == [documents["stork"]]


def test_two_processes_fetch_once(mirror):
    made = MADE.format(
        tests=str(Path(__file__).parent),
        poems=library.POEMS_SHA256,
        books={f"{book.shelf} {book.split}": book.sha256 for book in library.list_books()},
    )
    root = Path(__file__).parents[3]
    both = [
        subprocess.Popen([sys.executable, "-c", made], cwd=root, stdout=subprocess.PIPE, text=True, env=os.environ)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in both]
    assert [output.splitlines()[-1] for output in outputs] == ["21", "21"]
    assert sum("fetching the library" in output for output in outputs) == 1


def truncated(mirror: Path) -> None:
    poems_file(mirror).write_bytes(poems_file(mirror).read_bytes()[:-40])


def not_an_archive(mirror: Path) -> None:
    poems_file(mirror).write_bytes(b"<html>busy</html>")


def changed_poem(mirror: Path) -> None:
    name, text = next(iter(POEMS.items()))
    poems_file(mirror).write_bytes(archive(POEMS | {name: text.replace("sings", "sang")}))


def changed_book(mirror: Path) -> None:
    path = next(mirror.rglob("train baum tale*"))
    path.write_text(path.read_text().replace("story", "tale"))


def missing_book(mirror: Path) -> None:
    next(mirror.rglob("test tales tale*")).unlink()


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (truncated, r"the download from file://\S+ is damaged or has changed: it cannot be read as an archive"),
        (not_an_archive, r"the download from file://\S+ is damaged or has changed: it cannot be read as an archive"),
        (changed_poem, r"the collection of 3 poems by the listed poets has sha256 \w{16}, expected \w{16}; try again"),
        (changed_book, r"the book 'train baum tale' has sha256 \w{16}, expected \w{16}; try again"),
        (missing_book, r"file://\S+ could not be fetched .*; check the network, and try again"),
    ],
)
def test_each_bad_input_is_one_sentence(mirror, harm, sentence):
    harm(mirror)
    with pytest.raises(UserError, match=sentence) as caught:
        library.fetch_library()
    assert "\n" not in str(caught.value)
    assert not any(map(is_there, SHELVES))


def test_a_full_disk_is_one_sentence(mirror, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(library, "write_text", full)
    with pytest.raises(UserError, match=r"the library could not be written to .* [(]No space left on device[)]; free"):
        library.fetch_library()


def test_other_poems_in_the_archive_do_not_matter(mirror):
    poems_file(mirror).write_bytes(archive(POEMS | {"new": poem("Nobody Listed", "ruff")}))
    library.fetch_library()
    assert is_there("verse")


def test_a_damaged_shard_is_reported(mirror):
    library.fetch_library()
    shard = library.shelf_folder("verse") / "test.jsonl"
    shard.write_text(shard.read_text()[:-20] + "\n")
    with pytest.raises(UserError, match=r"shard \S+test.jsonl of the library cannot be read .* remove \S+ to fetch"):
        load_corpus("verse", accept_changed=True)


def test_the_lists_hold_what_the_shelves_say():
    books, poets = list_books(), list_poets()
    count = {shelf: sum(book.shelf == shelf for book in books) for shelf in ("baum", "tales")}
    assert count == {"baum": 28, "tales": 97}
    assert len({poet.filed for poet in poets}) == 233
    assert {book.split for book in books if book.shelf == "baum"} == set(SPLITS)
    for name in {poet.name for poet in poets}:  # two spellings are one poet, and in one split
        assert len({poet.split for poet in poets if poet.name == name}) == 1
    assert not [poet for poet in poets if re.search("shakespeare|dickinson", poet.filed, re.IGNORECASE)]
    assert all(re.fullmatch("[0-9a-f]{64}", book.sha256) for book in books)
    assert "%0D" in next(book.url for book in books if "Glinda" in book.title)


@pytest.mark.corpora
@pytest.mark.skipif("OZYMANDIAS_MIRROR" not in os.environ, reason="needs the mirror that OZYMANDIAS_MIRROR names")
def test_the_real_shelves(tmp_path, monkeypatch, corpora):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("OZYMANDIAS_CORPORA", str(corpora))
    shelves = {name: load_corpus(name) for name in SHELVES}  # each has the hash of the registry
    held_out = [load_corpus(name).validation for name in ("oz", "poetry", "dickinson", "sonnets")]
    for corpus in shelves.values():
        assert 300_000 <= len(corpus.validation) <= 500_000
        assert 300_000 <= len(corpus.test) <= 500_000
        for other in [*held_out, *(s.validation for s in shelves.values()), *(s.test for s in shelves.values())]:
            assert not find_shared(corpus.train, other)
        assert not any(find_shared(corpus.test, other) or find_shared(corpus.validation, other) for other in held_out)
