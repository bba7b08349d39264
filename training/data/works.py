"""The works that corpora are made of: where each is fetched from, how it is cleaned, and the hash of the result.

All are in the public domain. A missing work is downloaded once. `OZYMANDIAS_MIRROR` names another address that serves
the same paths, as `MIRROR/HOST/PATH`.
"""

import contextlib
import io
import json
import os
import re
import tarfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from training.command import UserError, in_one_line
from training.files import write_text

START_MARK, END_MARK = "*** START OF", "*** END OF"
LICENCE = "public domain"


@dataclass(frozen=True)
class Work:
    """A work in the public domain.

    `clean` turns the download from `url` into the text, `sha256` is the hash of that text, and `file` is its path in
    the folder of corpora.
    """

    title: str
    source: str
    url: str
    sha256: str
    file: str
    clean: Callable[[bytes], str]


def gutenberg(number: int, begins: str, ends: str = END_MARK) -> dict:
    """A book of Project Gutenberg.

    Args:
        begins: how the text itself begins, after the title page and prefaces.
        ends: what follows its last line.
    """

    def clean(raw: bytes) -> str:
        # A mark that is not found is skipped: the text then has another hash, which the caller reports.
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
        if START_MARK in text:
            text = text[text.index("\n", text.index(START_MARK)) :]
        if begins in text:
            text = text[text.index(begins) :]
        for end in (ends, END_MARK):
            if end in text:
                text = text[: text.index(end)]
        return text.rstrip() + "\n"

    return {
        "source": f"Project Gutenberg #{number}",
        "url": f"https://www.gutenberg.org/cache/epub/{number}/pg{number}.txt",
        "clean": clean,
    }


def nltk(name: str) -> dict:
    """A book of NLTK's selection from Project Gutenberg, which is one archive in Latin-1."""

    def clean(raw: bytes) -> str:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            return archive.read(f"gutenberg/{name}.txt").decode("latin-1").replace("\r\n", "\n")

    return {
        "source": "Project Gutenberg, in NLTK's selection",
        "url": "https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/packages/corpora/gutenberg.zip",
        "file": f"classics/{name}.txt",
        "clean": clean,
    }


def nn_learn(file: str) -> dict:
    """A Chinese classic from a tutorial's repository, already in simplified characters."""
    commit = "dad0f2bfad1b6e448d701dbf0e4aa8054b4a8e93"
    return {
        "source": f"GitHub Wayne82/nn-learn, data/{file}",
        "url": f"https://raw.githubusercontent.com/Wayne82/nn-learn/{commit}/data/{file}",
        "clean": lambda raw: raw.decode("utf-8"),
    }


def chinese_poetry() -> dict:
    """The poems of Tang and Song, each a title and its lines, in simplified characters."""
    commit = "99ebbef7e1345c0985c44b9fd96a3f9e776f117b"
    # Characters that versions of OpenCC convert differently; these are the results of the first version.
    fixed = str.maketrans("逕甯甦", "迳宁苏") | {ord(c): c for c in "遶谿幷拚貍擡劄舖袷扞牴箚搧\uf92c"}

    def clean(raw: bytes) -> str:
        try:
            import opencc
        except ImportError:
            raise UserError(
                "the corpus chinese-poems is converted from traditional characters by OpenCC; "
                "install it: pip install opencc"
            ) from None
        poems = []
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:gz") as archive:
            found = ((re.search(r"/全唐诗/poet\.(tang|song)\.(\d+)\.json$", m.name), m) for m in archive)
            files = {(match[1] == "song", int(match[2])): member for match, member in found if match}
            for key in sorted(files):
                poems += json.load(archive.extractfile(files[key]))
        text = "".join(
            f"{poem['title']}\n{chr(10).join(poem['paragraphs']).rstrip()}\n\n" for poem in poems if poem["paragraphs"]
        )
        # One character at a time: versions differ in how they convert phrases.
        convert = opencc.OpenCC("t2s").convert
        return text.translate({ord(c): convert(c) for c in set(text)} | fixed)

    return {
        "source": "GitHub chinese-poetry/chinese-poetry, 全唐诗",
        "url": f"https://codeload.github.com/chinese-poetry/chinese-poetry/tar.gz/{commit}",
        "clean": clean,
    }


CLASSICS = {
    "austen-emma": (
        "Emma, Jane Austen, 1816",
        "71b0923d75fcf2f1faa897b22da8de8e2476d7478a2b22388eb58a3420e00215",
    ),
    "austen-persuasion": (
        "Persuasion, Jane Austen, 1818",
        "cec097657cbfeb62aafe178973f514fa07ab66a5e28ea025ebd5d51ca870e40f",
    ),
    "austen-sense": (
        "Sense and Sensibility, Jane Austen, 1811",
        "57b169c7cfa502896dee25bd66616f61cc1d21084caf31f015176ee46fda9718",
    ),
    "blake-poems": (
        "Poems, William Blake, 1789",
        "840897a66e23a47dd1fd56b864f421b2be0af074dc081244f7995bf26939eee9",
    ),
    "chesterton-ball": (
        "The Ball and the Cross, G. K. Chesterton, 1909",
        "99c228c288d0fec4023cf60043cb99d9f8991e4114d4a0b8400c3b5b137ca559",
    ),
    "chesterton-brown": (
        "The Wisdom of Father Brown, G. K. Chesterton, 1914",
        "67027976205b4b30e367c704807f56c8ffac3e8ea6037d993e57ab1fe28447ec",
    ),
    "chesterton-thursday": (
        "The Man Who Was Thursday, G. K. Chesterton, 1908",
        "8b431a2a8db84089cd6f83fa66610c3b12c04114609df6e90137c0c58f2c5493",
    ),
    "melville-moby_dick": (
        "Moby Dick, Herman Melville, 1851",
        "ff7424f923506564f5806983c046be4b60f50edcd48d327abf795dabb5eaa7f7",
    ),
    "milton-paradise": (
        "Paradise Lost, John Milton, 1667",
        "49028a77c557de1459e96c026edbe72997be2d9015925f7baefb793cd6fe706f",
    ),
    "shakespeare-caesar": (
        "Julius Caesar, William Shakespeare, 1599",
        "a62d5a50106f348e9de81ac1a5d2fd8840d34d012a2924fab172ef607dcf45b0",
    ),
    "shakespeare-hamlet": (
        "Hamlet, William Shakespeare, 1599",
        "1eceab7027ad7e0cc25c6b6aadcb2e6bb070395cb2085f775ac732d63d5db240",
    ),
    "shakespeare-macbeth": (
        "Macbeth, William Shakespeare, 1603",
        "d4a204352cfe5924cbae76f764225d120e9f7617d39cb8c949dedd3f306353ac",
    ),
    "whitman-leaves": (
        "Leaves of Grass, Walt Whitman, 1855",
        "93ebaf1dccc8f1514b4b1c2f52e64e81829113fc58cff63fb51ada0c72f99c3e",
    ),
}
WORKS = {
    "oz": Work(
        "The Wonderful Wizard of Oz, L. Frank Baum, 1900",
        sha256="628ba1f9b3f740f1558c1726beb0d349eaed3912aaa86e827fe2dbe0c3df09d5",
        file="oz.txt",
        **gutenberg(55, begins="The Wonderful Wizard of Oz\n\nby L. Frank Baum", ends="\n\n\nThe End\n"),
    ),
    "dickinson": Work(
        "Poems: Three Series, Complete, Emily Dickinson, 1890 to 1896",
        sha256="37ebc275beb122554896c072a4e608c5fa64f683c6b3ea0ce4f75517bf2aebc9",
        file="dickinson.txt",
        **gutenberg(12242, begins="\n\nI.\n\nSUCCESS.", ends="\nEnd of Project Gutenberg"),
    ),
    "sonnets": Work(
        "Shakespeare's Sonnets, 1609",
        sha256="edfe79d4fb897ffda094c71e27e627b425d53c25150f0bb4972fbd732ff565b9",
        file="sonnets.txt",
        **gutenberg(1041, begins="  I\n\n  From fairest", ends="\nEnd of Project Gutenberg"),
    ),
    "shijing": Work(
        "诗经, the Book of Songs",
        sha256="f40eda13fab5e88dfa95b4f81ec6ad91f500e58bd758a5df79f22b5e5b7fcf81",
        file="shijing.txt",
        **nn_learn("shijing.txt"),
    ),
    "lunyu": Work(
        "论语, the Analects",
        sha256="a608b6d0c6027cc8d101fb4128b1eca21f76884f4fe709e085891dbcc10903b4",
        file="lunyu.txt",
        **nn_learn("lunyu_chapters.txt"),
    ),
    "chinese-poems": Work(
        "全唐诗 and 全宋诗, the poems of Tang and Song",
        sha256="607101d75b26affc4e8cba4787c1d4a188699ffcec6dc9b71e510fad9a5c1617",
        file="chinese_poems.txt",
        **chinese_poetry(),
    ),
    **{name: Work(title, sha256=sha256, **nltk(name)) for name, (title, sha256) in CLASSICS.items()},
}
COLLECTIONS = {"poetry": ("dickinson", "sonnets"), "classics": tuple(CLASSICS)}


def cache_folder() -> Path:
    """The folder of everything that is downloaded or computed once."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ozymandias"


def address(url: str) -> str:
    """The address to fetch from: the same path on the mirror, if there is one."""
    mirror = os.environ.get("OZYMANDIAS_MIRROR")
    return f"{mirror}/{url.removeprefix('https://')}" if mirror else url


def fetch(work: Work, folder: Path, instead: str) -> None:
    """Download an archive or text, and write every work that is made from it into `folder`.

    If several processes call this at once, the first does the work and the others find its files.

    Raises:
        UserError: the download or the writing fails; `instead` says what else to do.
    """
    with fill_once(folder, work.title):
        if (folder / work.file).exists():
            return
        url = address(work.url)
        print(f"fetching {work.title} from {url}")
        raw = download(url, instead)
        for other in WORKS.values():
            if other.url == work.url:
                write_text(folder / other.file, clean(other, raw, url, instead))


@contextlib.contextmanager
def fill_once(folder: Path, what: str) -> Iterator[None]:
    """Create `folder` and lock it, so that one process fills it while others wait.

    Raises:
        UserError: something cannot be written there; `what` names it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "fetch.lock"):
            yield
    except OSError as error:
        raise UserError(
            f"{what} could not be written to {folder} ({error.strerror}); free some space, or set XDG_CACHE_HOME to "
            "put the cache into another folder."
        ) from None


def check_unchanged(name: str, found: str, expected: str, place: Path) -> None:
    """Compare the hash of a corpus with that of the registry.

    Raises:
        UserError: they differ.
    """
    if found != expected:
        raise UserError(
            f"corpus '{name}' differs from the text that this project's figures were measured on (sha256 {found[:16]}, "
            f"expected {expected[:16]}); remove {place} to fetch it again, or use it as it is: "
            "--accept_changed_corpus true."
        )


def download(url: str, instead: str, bar: bool = True) -> bytes:
    """The bytes at an address. A progress bar shows after a second, unless `bar` is false."""
    request = urllib.request.Request(url, headers={"User-Agent": "ozymandias (github; one file, cached)"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            size, parts = response.headers.get("Content-Length"), []
            with tqdm(
                total=size and int(size), unit="B", unit_scale=True, delay=1, leave=False, disable=not bar
            ) as shown:
                while part := response.read(1 << 20):
                    parts.append(part)
                    shown.update(len(part))
            raw = b"".join(parts)
            if size and len(raw) < int(size):  # `read` with a length does not raise here
                raise OSError(f"the connection broke off after {len(raw):,} of {int(size):,} bytes")
            return raw
    except (OSError, HTTPException, ValueError) as error:
        raise UserError(f"{url} could not be fetched ({in_one_line(error)}); check the network, {instead}") from None


def clean(work: Work, raw: bytes, url: str, instead: str) -> str:
    """The text of a work, made from the download."""
    try:
        return work.clean(raw)
    except UserError:
        raise
    except Exception as error:  # archives, compression, JSON and encodings each raise their own for damaged bytes
        raise UserError(
            f"the download from {url} is damaged or has changed: {work.title} cannot be made from it "
            f"({in_one_line(error)}); try again later, {instead}"
        ) from None
