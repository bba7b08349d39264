"""The texts to train on: the registry's and the user's own (`python -m training.corpora` lists and fetches them).

The first 90% of a text's characters train and the last 10% validate, contiguous and never shuffled, so that every
figure of the project is measured on the same characters. `classics+oz` joins texts, each with its own split.
"""

import difflib
import hashlib
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from training.command import UserError, in_one_line
from training.data.library import BETWEEN, SHELVES, SUBSETS, load_shelf, shelf_source
from training.data.quatrains import label_quatrains
from training.data.works import COLLECTIONS, WORKS, cache_folder, check_unchanged, fetch

SAMPLER = Path(__file__).with_name("sampler.txt")
QUATRAINS = "quatrains"
NAMES = ("sampler", *WORKS, *COLLECTIONS, QUATRAINS, *SHELVES, *SUBSETS)
HUB_DATASET = r"[\w.-]+/[\w.-]+"


@dataclass(frozen=True)
class Corpus:
    """One or more texts, with a training and a validation split of each."""

    name: str
    texts: tuple[str, ...]
    source: str = "a text of the trainer's own"
    splits: tuple[int, ...] = ()  # where the validation split of each text begins; by default after 90%
    training_text: str | None = None  # the training split, if passages were removed from it
    test: str | None = None  # a third split, used for no decision; most corpora have none

    @property
    def text(self) -> str:
        return BETWEEN.join(self.texts)

    @property
    def borders(self) -> tuple[int, ...]:
        return self.splits or tuple(int(0.9 * len(text)) for text in self.texts)

    @cached_property
    def train(self) -> str:
        if self.training_text is not None:
            return self.training_text
        return BETWEEN.join(text[:border] for text, border in zip(self.texts, self.borders, strict=True))

    @cached_property
    def validation(self) -> str:
        return BETWEEN.join(text[border:] for text, border in zip(self.texts, self.borders, strict=True))

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def size(self) -> str:
        return f"{len(self.text):,} characters"

    def scored(self, characters: int | None) -> dict[str, str]:
        """The text to score, by name: the validation split, or its first `characters`."""
        return {self.name: self.validation[:characters]}

    def figures(self) -> dict:
        """The fields that a run's record stores."""
        return {
            "name": self.name,
            "source": self.source,
            "sha256": self.sha256,
            "characters": len(self.text),
            "distinct_characters": len(set(self.text)),
            "validation_characters": len(self.validation),
        }


def load_corpus(name: str, accept_changed: bool = False, column: str = "text") -> Corpus:
    """Load a corpus of the registry by its name, or the user's own; or several, joined by `+`.

    Args:
        name: a name in the registry, a UTF-8 file, a folder of `.txt` files, or a dataset on the Hub (`user/name`).
        accept_changed: use a text of the registry even if it differs from the one that the figures were measured on.
        column: the column of a dataset that holds the text.

    Raises:
        UserError: there is no such corpus, it cannot be fetched or read, or it differs from the one expected.
    """
    if "+" in name and not Path(name).exists():
        parts = [load_corpus(part.strip(), accept_changed, column) for part in name.split("+")]
        return Corpus(
            "+".join(part.name for part in parts),
            tuple(text for part in parts for text in part.texts),
            "; ".join(dict.fromkeys(part.source for part in parts)),
            tuple(border for part in parts for border in part.borders),
            test=None if any(part.test is None for part in parts) else BETWEEN.join(part.test for part in parts),
        )
    if name in SHELVES or name in SUBSETS:
        splits = load_shelf(name, accept_changed)
        train = splits["train"] + BETWEEN
        return Corpus(name, (train + splits["validation"],), shelf_source(name), (len(train),), test=splits["test"])
    if name == "sampler":
        return Corpus(name, (read_text(SAMPLER),), "verse written for the project")
    if name == QUATRAINS:
        poems = load_corpus("chinese-poems", accept_changed)
        train, validation = label_quatrains(poems.train) + BETWEEN, label_quatrains(poems.validation)
        return Corpus(name, (train + validation,), f"the quatrains of {poems.source}", (len(train),))
    if name in NAMES:
        works = COLLECTIONS.get(name, (name,))
        text = BETWEEN.join(load_work(work, accept_changed) for work in works)
        return Corpus(name, (text,), "; ".join(f"{WORKS[w].title}, {WORKS[w].source}" for w in works))
    if Path(name).is_file():
        return Corpus(Path(name).stem, (read_text(Path(name)),))
    if Path(name).is_dir():
        return Corpus(Path(name).resolve().name, (read_folder(Path(name)),))
    if re.fullmatch(HUB_DATASET, name):
        return Corpus(name, (read_dataset(name, column),), f"the Hub's dataset {name}")
    raise UserError(unknown_corpus(name))


def check_corpus(name: str) -> None:
    """Check that a name can be a corpus, without reading it.

    Raises:
        UserError: it cannot.
    """
    parts = name.split("+") if not Path(name).exists() else [name]
    for part in (part.strip() for part in parts):
        if part not in NAMES and not Path(part).exists() and not re.fullmatch(HUB_DATASET, part):
            raise UserError(unknown_corpus(part))


def unknown_corpus(name: str) -> str:
    near = difflib.get_close_matches(name, NAMES, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return (
        f"corpus '{name}' is neither a known name nor a file{hint}; give one of {', '.join(NAMES)}, the path of a "
        "UTF-8 text or of a folder of them, or a dataset on the Hub (user/name)."
    )


def read_folder(folder: Path) -> str:
    """All `.txt` files in a folder and its subfolders, joined in the order of their paths.

    Raises:
        UserError: there are none, or one cannot be used.
    """
    paths = sorted(folder.rglob("*.txt"))
    if not paths:
        raise UserError(f"corpus {folder} is a folder without .txt files; put the texts there.")
    return BETWEEN.join(read_text(path) for path in paths)


def read_dataset(name: str, column: str) -> str:
    """The texts in one column of the training split of a dataset on the Hub, joined.

    Raises:
        UserError: it cannot be fetched, or has no such column.
    """
    import datasets

    try:
        dataset = datasets.load_dataset(name, split="train")
    except Exception as error:  # the Hub client, the network and the readers each raise their own
        raise UserError(
            f"corpus '{name}' is neither a file nor a dataset that can be loaded from the Hub "
            f"({in_one_line(error)[:200]}); give a path, or check the dataset's name and the network."
        ) from None
    if column not in dataset.column_names:
        raise UserError(
            f"the dataset {name} has no column '{column}', only {', '.join(dataset.column_names)}; give --text_column."
        )
    return BETWEEN.join(text for text in dataset[column] if text)


def read_text(path: Path) -> str:
    """Read a UTF-8 text through `datasets`, which memory-maps it. Check first that it is one.

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
        raise UserError(f"corpus {path} is a binary file (it contains a null byte); give a plain text file.")

    import datasets  # the import takes a second, and a refused recipe should not wait for it

    datasets.disable_progress_bars()
    dataset = datasets.load_dataset("text", data_files=str(path), sample_by="document", split="train")
    return dataset[0]["text"]


def load_work(name: str, accept_changed: bool) -> str:
    """A work of the registry: from the folder `OZYMANDIAS_CORPORA` if it is set, else from the cache or the network."""
    work, path = WORKS[name], corpus_path(name)
    if not path.exists():
        if "OZYMANDIAS_CORPORA" in os.environ:
            raise UserError(
                f"corpus '{name}' is missing: OZYMANDIAS_CORPORA names a folder without {work.file} "
                f"({corpora_folder()}); put the file there, or unset the variable to fetch it."
            )
        fetch(
            work,
            corpora_folder(),
            f"put the text at {path} yourself, or train on the corpus 'sampler', which needs no network.",
        )
    text = read_text(path)
    if not accept_changed:
        check_unchanged(name, hashlib.sha256(text.encode()).hexdigest(), work.sha256, path)
    return text


def corpora_folder() -> Path:
    """The folder of the works' cleaned texts; it may not exist yet."""
    return Path(os.environ.get("OZYMANDIAS_CORPORA", cache_folder() / "corpora"))


def corpus_path(name: str) -> Path:
    """The path of a work's cleaned text; it may not exist yet."""
    return corpora_folder() / WORKS[name].file
