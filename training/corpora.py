"""The texts to train on.

    python -m training.corpora              # what there is, how large, and where each is cached
    python -m training.corpora oz poetry    # fetch these now

A corpus is one text. The first 90% of its characters train and the last 10% validate, contiguous and never shuffled,
so that every figure of the project is about the same characters.
"""

import argparse
import hashlib
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from training.command import UserError, run_command

SAMPLER = Path(__file__).with_name("sampler.txt")
START_MARK, END_MARK = "*** START OF", "*** END OF"


@dataclass(frozen=True)
class Work:
    """A work of Project Gutenberg, in the public domain.

    `begins` is how the text itself begins, after the title page and prefaces, and `ends` what follows its last line,
    where there is something. `sha256` is of the cleaned text; another edition has another one.
    """

    title: str
    number: int
    sha256: str
    begins: str
    ends: str = END_MARK

    @property
    def url(self) -> str:
        base = os.environ.get("OZYMANDIAS_GUTENBERG", "https://www.gutenberg.org")
        return f"{base}/cache/epub/{self.number}/pg{self.number}.txt"


WORKS = {
    "oz": Work(
        "The Wonderful Wizard of Oz, L. Frank Baum, 1900",
        55,
        "628ba1f9b3f740f1558c1726beb0d349eaed3912aaa86e827fe2dbe0c3df09d5",
        begins="The Wonderful Wizard of Oz\n\nby L. Frank Baum",
        ends="\n\n\nThe End\n",
    ),
    "dickinson": Work(
        "Poems: Three Series, Complete, Emily Dickinson, 1890 to 1896",
        12242,
        "37ebc275beb122554896c072a4e608c5fa64f683c6b3ea0ce4f75517bf2aebc9",
        begins="\n\nI.\n\nSUCCESS.",
        ends="\nEnd of Project Gutenberg",
    ),
    "sonnets": Work(
        "Shakespeare's Sonnets, 1609",
        1041,
        "edfe79d4fb897ffda094c71e27e627b425d53c25150f0bb4972fbd732ff565b9",
        begins="  I\n\n  From fairest",
        ends="\nEnd of Project Gutenberg",
    ),
}
COLLECTIONS = {"poetry": ("dickinson", "sonnets")}
NAMES = ("sampler", *WORKS, *COLLECTIONS)


@dataclass(frozen=True)
class Corpus:
    """A text and its two splits."""

    name: str
    text: str

    @property
    def source(self) -> str:
        """Where the text comes from, for the card of a model that was trained on it."""
        if self.name == "sampler":
            return "verse written for the project"
        works = [WORKS[part] for part in COLLECTIONS.get(self.name, (self.name,)) if part in WORKS]
        return "; ".join(f"{w.title}, Project Gutenberg #{w.number}" for w in works) or "a text of the trainer's own"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def size(self) -> str:
        return f"{len(self.text):,} characters"

    def figures(self) -> dict:
        """What the record of a run keeps of it."""
        return {
            "name": self.name,
            "source": self.source,
            "sha256": self.sha256,
            "characters": len(self.text),
            "distinct_characters": len(set(self.text)),
            "validation_characters": len(self.validation),
        }

    @property
    def train(self) -> str:
        return self.text[: int(0.9 * len(self.text))]

    @property
    def validation(self) -> str:
        return self.text[int(0.9 * len(self.text)) :]


def load_corpus(name: str, accept_changed: bool = False) -> Corpus:
    """Load a corpus of the registry by its name, or the user's own text by its path.

    Args:
        accept_changed: use a text of Project Gutenberg although it differs from the one that the figures are about.

    Raises:
        UserError: there is no such corpus, it cannot be fetched or read, or it differs from the one expected.
    """
    if name == "sampler":
        return Corpus(name, read_text(SAMPLER))
    if name in WORKS:
        return Corpus(name, load_work(name, accept_changed))
    if name in COLLECTIONS:
        return Corpus(name, "\n\n".join(load_work(part, accept_changed) for part in COLLECTIONS[name]))
    if not Path(name).is_file():
        what = "a folder (for stream: true)" if Path(name).is_dir() else "neither a corpus nor a file"
        raise UserError(f"corpus '{name}' is {what}; give one of {', '.join(NAMES)}, or the path of a UTF-8 text.")
    return Corpus(Path(name).stem, read_text(Path(name)))


def read_text(path: Path) -> str:
    """Read a UTF-8 text through `datasets`, which keeps it memory-mapped, after a look that it is one.

    Raises:
        UserError: the file is empty, or is not UTF-8 text.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"corpus {path} cannot be read ({error.strerror}); check the path and its permissions."
        ) from None
    if not raw.strip():
        raise UserError(f"corpus {path} is empty; give a file with text in it.")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"corpus {path} is not UTF-8 text (byte {error.start} is 0x{raw[error.start]:02x}); "
            "give a plain text file, or convert it: iconv -f ENCODING -t utf-8 FILE."
        ) from None
    if "\0" in text:
        raise UserError(f"corpus {path} is a binary file (it has a null byte); give a plain text file.")

    import datasets  # takes a second, which a refused recipe should not wait for

    datasets.disable_progress_bars()
    dataset = datasets.load_dataset("text", data_files=str(path), sample_by="document", split="train")
    return dataset[0]["text"]


def load_work(name: str, accept_changed: bool) -> str:
    """A work of the registry: from the folder `OZYMANDIAS_CORPORA` if it is set, else from the cache or the network."""
    work = WORKS[name]
    path = corpus_path(name)
    if not path.exists():
        if "OZYMANDIAS_CORPORA" in os.environ:
            raise UserError(
                f"corpus '{name}' is missing: OZYMANDIAS_CORPORA names a folder without {path.name} ({path.parent}); "
                "put the file there, or unset the variable to fetch it from Project Gutenberg."
            )
        fetch(work, path)
    text = read_text(path)
    found = hashlib.sha256(text.encode()).hexdigest()
    if found != work.sha256 and not accept_changed:
        raise UserError(
            f"corpus '{name}' differs from the text that this project's figures are about (sha256 {found[:16]}, "
            f"expected {work.sha256[:16]}, in {path}); to use it all the same, give --accept_changed_corpus true."
        )
    return text


def cache_folder() -> Path:
    """Where what was fetched or computed is kept for the next time."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ozymandias"


def corpus_path(name: str) -> Path:
    """Where the cleaned text of a work lies, or will lie."""
    return Path(os.environ.get("OZYMANDIAS_CORPORA", cache_folder() / "corpora")) / f"{name}.txt"


def fetch(work: Work, path: Path) -> None:
    """Download a work, clean it and keep it at `path`."""
    print(f"fetching {work.title} from {work.url}")
    try:
        request = urllib.request.Request(work.url, headers={"User-Agent": "ozymandias (github; one file, cached)"})
        with urllib.request.urlopen(request, timeout=60) as response:
            raw = response.read().decode("utf-8-sig")
    except (urllib.error.URLError, OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{work.url} could not be fetched ({error}); check the network, put the text at {path} yourself, "
            "or train on the corpus 'sampler', which needs none."
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(clean(raw, work), encoding="utf-8", newline="\n")
    unfinished.replace(path)


def clean(raw: str, work: Work) -> str:
    """Cut Project Gutenberg's header, title page and footer, and make line ends LF.

    What is not found is not cut: the text then has another hash, and `load_work` says so.
    """
    text = raw.replace("\r\n", "\n")
    if START_MARK in text:
        text = text[text.index("\n", text.index(START_MARK)) :]
    if work.begins in text:
        text = text[text.index(work.begins) :]
    for end in (work.ends, END_MARK):
        if end in text:
            text = text[: text.index(end)]
    return text.rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"corpora to load and check: {', '.join(NAMES)}")
    names = parser.parse_args().names
    for name in names:
        corpus = load_corpus(name)
        print(
            f"{name:10} {len(corpus.text):>9,} characters, {len(set(corpus.text))} distinct, "
            f"sha256 {corpus.sha256[:16]}: {len(corpus.train):,} train, {len(corpus.validation):,} validate"
        )
    if names:
        return
    print(f"{'sampler':10} verse written for this project; in the package")
    for name, work in WORKS.items():
        path = corpus_path(name)
        print(f"{name:10} {work.title}; {path if path.exists() else f'not fetched yet: {work.url}'}")
    for name, parts in COLLECTIONS.items():
        print(f"{name:10} {' and '.join(parts)}, joined")


if __name__ == "__main__":
    run_command(main)
