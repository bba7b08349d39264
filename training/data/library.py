"""The library: shelves of English books and poems to learn from, as shards of documents.

    python -m training.corpora baum tales verse                     # fetch and clean them, once
    python -m training.pretrain --stream true --corpus "$HOME/.cache/ozymandias/library/verse/train-*.jsonl" ...

`library.tsv` lists the books of the shelves `baum` and `tales`, `poets.tsv` the poets of `verse`, each with the split
that it is in: a book or a poet is never divided. All shelves are made together, since what stands in a validation or
test split of one may be told again in a book of another one, and must not be trained on. `docs/library.md` says more.
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

from filelock import FileLock
from tqdm import tqdm

from training.command import UserError, in_one_line
from training.data.cleaning import Document, clean_book
from training.data.verses import clean_poems
from training.data.works import address, cache_folder, download
from training.files import write_text

BOOKS_COMMIT = "a0b16d35a9851168ce9ac649851c17b7ab08d48e"
BOOKS_URL = f"https://raw.githubusercontent.com/rcdm-uga/Gutenberg_Text/{BOOKS_COMMIT}"
POEMS_COMMIT = "f734b8eb96d1c8659e7865646306ec29eec851b4"
POEMS_URL = f"https://codeload.github.com/facjure/public-domain-poetry/tar.gz/{POEMS_COMMIT}"
SPLITS = ("train", "validation", "test")
SHARD = 4_000_000  # bytes of a shard, about
FETCHED_AT_ONCE = 6
INSTEAD = "and try again, or train on the corpus 'sampler', which needs none."
BETWEEN = "\n\n"


@dataclass(frozen=True)
class Shelf:
    """A shelf of the library; `sha256` is of all its documents as [`digest`] takes them, split after split."""

    title: str
    source: str
    sha256: str


@dataclass(frozen=True)
class Book:
    """A book: where it lies, the hash of its file, and where its text begins and ends if rules do not find it."""

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
    """A poet of `verse`, by the name under which the archive files the poems and the one that they are given."""

    split: str
    filed: str
    name: str
    known: str = ""  # "classic" for one whom most readers of English poetry know by name


SHELVES = {
    "baum": Shelf(
        "28 fantasies of L. Frank Baum, 13 of them of Oz",
        "GitHub rcdm-uga/Gutenberg_Text",
        "58eabf0fc406da151cf78cbd0261c9d41bea1d5559cade044fc92334a2f6556d",
    ),
    "tales": Shelf(
        "97 books of tales and children's novels",
        "GitHub rcdm-uga/Gutenberg_Text",
        "b85e14b6c2007c977c595ea24b58871408997483e2c502d3dc3341968e897688",
    ),
    "verse": Shelf(
        "poems of 231 poets",
        "GitHub facjure/public-domain-poetry",
        "5da620bdf40bf4af4a43e582d17f51d48a9b21cf863402be6704431a64e1fdad",
    ),
}
SUBSETS = {"verse-classics": "verse"}  # training documents of a shelf that are a corpus too; the other splits are its
# Of the poems of the listed poets, as [`read_archive`] gives them.
POEMS_SHA256 = "d8bfa7493950f6671efb1bcdbf7cd2df5bb34d5f829d8a4bf81a6b563b084b74"


def read_table(name: str) -> list[list[str]]:
    """The rows of a table beside this file, without its head."""
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
    """What a shelf or a subset of one is, and where it comes from."""
    shelf = SHELVES[SUBSETS.get(name, name)]
    return f"{'the best known of the ' if name in SUBSETS else ''}{shelf.title}, {shelf.source}"


def shelf_folder(name: str) -> Path:
    """Where the shards of a shelf lie, or will lie."""
    return cache_folder() / "library" / name


def is_there(name: str) -> bool:
    """Whether a shelf has been made: its test split is written last."""
    return (shelf_folder(name) / "test.jsonl").exists()


def load_shelf(name: str, accept_changed: bool = False) -> dict[str, str]:
    """The text of each split of a shelf or a subset of one, its documents joined.

    Raises:
        UserError: as [`check_shelf`].
    """
    check_shelf(name, accept_changed)
    return {split: BETWEEN.join(document.text for document in read_split(name, split)) for split in SPLITS}


def check_shelf(name: str, accept_changed: bool = False) -> None:
    """Make a shelf, or that of a subset, if it is not there, and compare it with the registry.

    Raises:
        UserError: it cannot be fetched or written, or differs from the one that the registry describes.
    """
    fetch_library()
    name = SUBSETS.get(name, name)
    found = digest(document for split in SPLITS for document in read_split(name, split))
    if found != SHELVES[name].sha256 and not accept_changed:
        raise UserError(
            f"corpus '{name}' differs from the text that this project's figures are about (sha256 {found[:16]}, "
            f"expected {SHELVES[name].sha256[:16]}); remove {shelf_folder(name).parent} to fetch it again, or use it "
            "as it is: --accept_changed_corpus true."
        )


def digest(documents: Iterator[Document]) -> str:
    """The hash of documents, in their order."""
    whole = hashlib.sha256()
    for document in documents:
        whole.update(f"{document.author}\0{document.title}\0{document.text}\0".encode())
    return whole.hexdigest()


def read_split(name: str, split: str) -> Iterator[Document]:
    """The documents of a split of a shelf, or a subset of one, that has been made.

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
    """Fetch, clean and write all shelves that are not there. Processes that call this at the same time wait.

    Raises:
        UserError: something cannot be fetched or written, or is not what the registry describes.
    """
    folder = shelf_folder("")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "fetch.lock"):
            if all(map(is_there, SHELVES)):
                return
            print(f"fetching the library's books from {address(BOOKS_URL)} and poems from {address(POEMS_URL)}")
            shelves = fetch_books(list_books())
            shelves["verse"] = fetch_poems(list_poets())
            separate(shelves)
            for name, splits in shelves.items():
                write_shelf(name, splits)
    except OSError as error:
        raise UserError(
            f"the library could not be written to {folder} ({error.strerror}); free some space, or name another "
            "folder for the cache by XDG_CACHE_HOME."
        ) from None


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
    raw = download(address(book.url), INSTEAD, bar=False)
    check(f"the book {book.title!r}", address(book.url), hashlib.sha256(raw).hexdigest(), book.sha256)
    return raw


def check(what: str, url: str, found: str, expected: str) -> None:
    """Refuse what was fetched if its hash is another one than the registry's."""
    if found != expected:
        raise UserError(
            f"what {url} sent is damaged or has changed: {what} has sha256 {found[:16]}, expected {expected[:16]}; "
            "try again later, or train on the corpus 'sampler', which needs none."
        )


def fetch_poems(poets: list[Poet]) -> dict[str, list[Document]]:
    """The poems of each split."""
    url = address(POEMS_URL)
    files = read_archive(download(url, INSTEAD), url, {poet.filed for poet in poets})
    hashed = hashlib.sha256("\0".join(itertools.chain.from_iterable(files)).encode()).hexdigest()
    check(f"the {len(files):,} poems of the listed poets", url, hashed, POEMS_SHA256)
    poems, _ = clean_poems(files, {poet.filed: poet.name for poet in poets})
    split_of = {poet.name: poet.split for poet in poets}
    splits: dict[str, list[Document]] = {split: [] for split in SPLITS}
    for poem in poems:
        splits[split_of[poem.author]].append(poem)
    return splits


def read_archive(raw: bytes, url: str, filed: set[str]) -> list[tuple[str, str]]:
    """The name and text of each file of the listed poets in the archive, by name: others do not change the hash.

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
            f"what {url} sent is damaged or has changed: it cannot be read as an archive of poems "
            f"({in_one_line(error)}); try again later, or train on the corpus 'sampler', which needs none."
        ) from None
    return sorted(files.items())


def separate(shelves: dict[str, dict[str, list[Document]]]) -> None:
    """Take out of the training and test splits what stands in a held-out split before them, of whatever shelf."""
    from training.data.overlap import find_shared  # it takes the corpora from the module that calls this one

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
    """Write the shards of a shelf. Training documents are shuffled: a stream reads them in the order of the shards."""
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
