"""The library: shelves of English books and poems for pre-training, as shards of documents.

    python -m training.corpora baum tales verse                     # fetch and clean them, once
    python -m training.pretrain --stream true --corpus "$HOME/.cache/ozymandias/library/verse/train-*.jsonl" ...

`library.tsv` lists the books of the shelves `baum` and `tales`, `poets.tsv` the poets of `verse`. Each book or poet is
in one split as a whole. All shelves are made together: a text in the validation or test split of one shelf may also
occur in a book of another, and must not be trained on. More in `docs/library.md`.
"""

import hashlib
import io
import itertools
import json
import os
import random
import re
import tarfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import quote

from tqdm import tqdm

from training.command import UserError, in_one_line
from training.data.cleaning import Document, clean_book
from training.data.verses import clean_poems
from training.data.works import address, cache_folder, check_unchanged, download, fill_once
from training.files import write_text

BOOKS_COMMIT = "a0b16d35a9851168ce9ac649851c17b7ab08d48e"
BOOKS_URL = f"https://raw.githubusercontent.com/rcdm-uga/Gutenberg_Text/{BOOKS_COMMIT}"
POEMS_COMMIT = "f734b8eb96d1c8659e7865646306ec29eec851b4"
POEMS_URL = f"https://codeload.github.com/facjure/public-domain-poetry/tar.gz/{POEMS_COMMIT}"
SPLITS = ("train", "validation", "test")
SHARD = 4_000_000  # approximate bytes of a shard
FETCHED_AT_ONCE = 6
TRY_LATER = "try again later, or train on the corpus 'sampler', which needs no network."
BETWEEN = "\n\n"  # joins documents and texts


@dataclass(frozen=True)
class Shelf:
    """A shelf of the library. `sha256` is the [`digest`] of all its documents, split after split."""

    title: str
    source: str
    sha256: str


@dataclass(frozen=True)
class Book:
    """A book: its path, the hash of its file, and where its text begins and ends if the rules do not find this."""

    shelf: str
    split: str
    path: str
    sha256: str
    begins: str
    ends: str

    @property
    def title(self) -> str:
        return re.split(r"\r|: Being", Path(self.path).stem)[0]

    @property
    def author(self) -> str:
        last, _, first = self.path.split("/")[0].partition(", ")
        return f"{re.sub(r' *[(].*[)]', '', first)} {last}".strip()

    @property
    def url(self) -> str:
        return f"{BOOKS_URL}/{quote(self.path)}"


@dataclass(frozen=True)
class Poet:
    """A poet of `verse`: `filed` is the name in the archive, `name` the author to give the poems."""

    split: str
    filed: str
    name: str
    known: str = ""  # "classic" for the best known poets


SHELVES = {
    "baum": Shelf(
        "28 fantasies by L. Frank Baum, 13 of them set in Oz",
        "GitHub rcdm-uga/Gutenberg_Text",
        "58eabf0fc406da151cf78cbd0261c9d41bea1d5559cade044fc92334a2f6556d",
    ),
    "tales": Shelf(
        "97 books of tales and children's novels",
        "GitHub rcdm-uga/Gutenberg_Text",
        "b85e14b6c2007c977c595ea24b58871408997483e2c502d3dc3341968e897688",
    ),
    "verse": Shelf(
        "poems by 231 poets",
        "GitHub facjure/public-domain-poetry",
        "5da620bdf40bf4af4a43e582d17f51d48a9b21cf863402be6704431a64e1fdad",
    ),
}
SUBSETS = {"verse-classics": "verse"}  # a corpus of some training documents of a shelf, with its other splits
# The hash of the listed poets' files, as [`read_archive`] returns them.
POEMS_SHA256 = "d8bfa7493950f6671efb1bcdbf7cd2df5bb34d5f829d8a4bf81a6b563b084b74"


def read_table(name: str) -> list[list[str]]:
    """The rows of a table in this folder, without its header."""
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines()[1:]]


def list_books() -> list[Book]:
    return [
        Book(shelf, split, json.loads(path), sha256, json.loads(begins), json.loads(ends))
        for shelf, split, path, sha256, begins, ends in read_table("library.tsv")
    ]


def list_poets() -> list[Poet]:
    return [Poet(*row) for row in read_table("poets.tsv")]


def shelf_source(name: str) -> str:
    """What a shelf or a subset contains, and where it comes from."""
    shelf = SHELVES[SUBSETS.get(name, name)]
    return f"{'the best known of the ' if name in SUBSETS else ''}{shelf.title}, {shelf.source}"


def shelf_folder(name: str) -> Path:
    """The folder of a shelf's shards; it may not exist yet."""
    return cache_folder() / "library" / name


def is_there(name: str) -> bool:
    """Whether a shelf has been made: its test split is written last."""
    return (shelf_folder(name) / "test.jsonl").exists()


def load_shelf(name: str, accept_changed: bool = False) -> dict[str, str]:
    """The text of each split of a shelf or a subset, its documents joined.

    Raises:
        UserError: as [`check_shelf`].
    """
    check_shelf(name, accept_changed)
    return {split: BETWEEN.join(document.text for document in read_split(name, split)) for split in SPLITS}


def check_shelf(name: str, accept_changed: bool = False) -> None:
    """Make a shelf, or the shelf of a subset, if it is missing, and compare it with the registry.

    Raises:
        UserError: it cannot be fetched or written, or differs from the registry.
    """
    fetch_library()
    name = SUBSETS.get(name, name)
    if not accept_changed:
        found = digest(document for split in SPLITS for document in read_split(name, split))
        check_unchanged(name, found, SHELVES[name].sha256, shelf_folder(name).parent)


def digest(documents: Iterator[Document]) -> str:
    """The hash of documents, in their order."""
    whole = hashlib.sha256()
    for document in documents:
        whole.update(f"{document.author}\0{document.title}\0{document.text}\0".encode())
    return whole.hexdigest()


def read_split(name: str, split: str) -> Iterator[Document]:
    """Yield the documents of a split of a shelf or a subset; the shelf must exist.

    Raises:
        UserError: a shard cannot be read.
    """
    if name in SUBSETS:
        chosen = {poet.name for poet in list_poets() if poet.known or split != "train"}
        yield from (document for document in read_split(SUBSETS[name], split) if document.author in chosen)
        return
    paths = sorted(shelf_folder(name).glob(f"{split}*.jsonl"))
    for path in paths:
        try:
            for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
                yield Document(**json.loads(line))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"shard {path} of the library cannot be read ({in_one_line(error)}); remove {path.parent.parent} to "
                "fetch it again."
            ) from None


def fetch_library() -> None:
    """Fetch, clean and write all shelves, unless they exist. If several processes call this at once, the others wait.

    Raises:
        UserError: something cannot be fetched or written, or differs from the registry.
    """
    with fill_once(shelf_folder(""), "the library"):
        if all(map(is_there, SHELVES)):
            return
        print(f"fetching the library's books from {address(BOOKS_URL)} and poems from {address(POEMS_URL)}")
        shelves = fetch_books(list_books())
        shelves["verse"] = fetch_poems(list_poets())
        separate(shelves)
        for name, splits in shelves.items():
            write_shelf(name, splits)


def fetch_books(books: list[Book]) -> dict[str, dict[str, list[Document]]]:
    """The documents of each split of each shelf of books."""
    shelves = {shelf: {split: [] for split in SPLITS} for shelf in dict.fromkeys(book.shelf for book in books)}
    context = get_context("spawn")
    with (
        ThreadPoolExecutor(FETCHED_AT_ONCE) as threads,
        ProcessPoolExecutor(min(4, os.cpu_count()), mp_context=context) as pool,
    ):
        try:
            cleaned = [threads.submit(fetch_and_clean, book, pool) for book in books]
            bar = tqdm(cleaned, "books", unit="book", leave=False, mininterval=0.5)
            for book, documents in zip(books, bar, strict=True):
                shelves[book.shelf][book.split] += documents.result()
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    return shelves


def fetch_and_clean(book: Book, pool: ProcessPoolExecutor) -> list[Document]:
    raw = fetch_book(book)
    return pool.submit(clean_book, raw, book.title, book.author, book.begins, book.ends).result()


def fetch_book(book: Book) -> bytes:
    raw = download(address(book.url), f"and {TRY_LATER}", bar=False)
    check_download(f"the book {book.title!r}", address(book.url), hashlib.sha256(raw).hexdigest(), book.sha256)
    return raw


def check_download(what: str, url: str, found: str, expected: str) -> None:
    """Compare the hash of a download with that of the registry.

    Raises:
        UserError: they differ.
    """
    if found != expected:
        raise UserError(
            f"the download from {url} is damaged or has changed: {what} has sha256 {found[:16]}, expected "
            f"{expected[:16]}; {TRY_LATER}"
        )


def fetch_poems(poets: list[Poet]) -> dict[str, list[Document]]:
    """The poems of each split."""
    url = address(POEMS_URL)
    files = read_archive(download(url, f"and {TRY_LATER}"), url, {poet.filed for poet in poets})
    hashed = hashlib.sha256("\0".join(itertools.chain.from_iterable(files)).encode()).hexdigest()
    check_download(f"the collection of {len(files):,} poems by the listed poets", url, hashed, POEMS_SHA256)
    poems, _ = clean_poems(files, {poet.filed: poet.name for poet in poets})
    split_of = {poet.name: poet.split for poet in poets}
    splits: dict[str, list[Document]] = {split: [] for split in SPLITS}
    for poem in poems:
        splits[split_of[poem.author]].append(poem)
    return splits


def read_archive(raw: bytes, url: str, filed: set[str]) -> list[tuple[str, str]]:
    """The name and text of each file of the listed poets, sorted by name. Other files do not change the hash.

    Raises:
        UserError: the archive is damaged.
    """
    files = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:gz") as archive:
            for member in archive:
                if member.isfile() and re.search(r"/poems/[^/]+\.txt$", member.name):
                    text = archive.extractfile(member).read().decode("utf-8", errors="replace").replace("\r\n", "\n")
                    author = re.search(r"(?m)^author:(.*)$", text[:1000])
                    if author and author[1].strip() in filed:
                        files[member.name.rsplit("/", 1)[1]] = text
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(
            f"the download from {url} is damaged or has changed: it cannot be read as an archive of poems "
            f"({in_one_line(error)}); {TRY_LATER}"
        ) from None
    return sorted(files.items())


def separate(shelves: dict[str, dict[str, list[Document]]]) -> None:
    """Remove leaks between splits, across all shelves.

    A test document goes if it shares a passage with a validation split, and a training document if it shares one with
    a validation or test split.
    """
    from training.data.overlap import find_shared  # here, since overlap imports corpora, which imports this module

    held_out = ""
    for split in ("validation", "test", "train"):
        for splits in shelves.values():
            text = "\0".join(document.text for document in splits[split])
            begins = list(itertools.accumulate((len(d.text) + 1 for d in splits[split]), initial=0))
            shared, place = set(), 0
            for begin, _ in find_shared(text, held_out):
                while begins[place + 1] <= begin:
                    place += 1
                shared.add(place)
            splits[split] = [document for number, document in enumerate(splits[split]) if number not in shared]
        held_out += "\0".join(d.text for splits in shelves.values() for d in splits[split]) if split != "train" else ""


def write_shelf(name: str, splits: dict[str, list[Document]]) -> None:
    """Write the shards of a shelf. Training documents are shuffled here, since a stream reads them in order."""
    folder = shelf_folder(name)
    train = sorted(splits["train"], key=lambda document: (document.author, document.title, document.text))
    random.Random(0).shuffle(train)
    lines, size, number = [], 0, 0
    for document in [*train, None]:
        if lines and (document is None or size >= SHARD):
            write_text(folder / f"train-{number:02}.jsonl", "".join(lines))
            lines, size, number = [], 0, number + 1
        if document:
            lines.append(to_line(document))
            size += len(lines[-1].encode())
    for split in SPLITS[1:]:
        write_text(folder / f"{split}.jsonl", "".join(map(to_line, splits[split])))


def to_line(document: Document) -> str:
    return json.dumps(asdict(document), ensure_ascii=False) + "\n"
