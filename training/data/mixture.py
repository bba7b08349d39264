"""Several corpora with weights, mixed document by document: `corpus: {baum: 3, tales: 1, verse: 0.5}` in a recipe.

An epoch reads each corpus as many times as its weight says; with a weight of 0.5, it reads a random half. The documents
of a shelf of the library are its chapters, tales and poems; they are read from the shards one by one, so they are never
all in memory. Any other text has no marks between documents. It is cut at blank lines into passages, so that it can be
shuffled too, and no end token follows a passage.
"""

import dataclasses
import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from training.data.corpora import BETWEEN, load_corpus
from training.data.library import SHELVES, SUBSETS, check_shelf, read_split, shelf_source

PASSAGE = 4_000  # characters of a passage at least
VOCABULARY_CHARACTERS = 10_000_000


@dataclass(frozen=True)
class Part:
    """A corpus of a mixture.

    `name` is its name in the recipe, `weight` how many times an epoch reads it, and `read` yields the documents of its
    training split. If `whole`, these are whole texts, each followed by an end token; otherwise passages of one text.
    """

    name: str
    weight: float
    source: str
    sha256: str
    characters: int  # with the validation split
    letters: frozenset[str]
    lengths: tuple[int, ...]  # of the documents, in characters
    read: Callable[[], Iterator[str]]
    whole: bool
    validation: str
    test: str = ""
    left_out: frozenset[int] = frozenset()  # documents that share a passage with a held-out text

    def __str__(self) -> str:
        return self.name if self.weight == 1 else f"{self.name} x {self.weight:g}"

    def documents(self) -> Iterator[str]:
        """The documents to train on."""
        return (document for number, document in enumerate(self.read()) if number not in self.left_out)

    def figures(self) -> dict:
        """The fields that a run's record stores."""
        return {name: getattr(self, name) for name in ("name", "weight", "sha256", "characters")}


@dataclass(frozen=True)
class Mixture:
    """The corpora of a run's main phase, those of its last phase, and others whose splits are held out too."""

    parts: tuple[Part, ...]
    final: tuple[Part, ...] = ()
    held_out: tuple[Part, ...] = ()

    @property
    def name(self) -> str:
        final = f"; at last {', '.join(map(str, self.final))}" if self.final else ""
        return ", ".join(map(str, self.parts)) + final

    @cached_property
    def trained_on(self) -> tuple[Part, ...]:
        """The corpora of both phases, each once."""
        return tuple({part.name: part for part in (*self.parts, *self.final)}.values())

    @property
    def sha256(self) -> str:
        """A hash of all texts and their weights."""
        phases = ([(part.weight, part.sha256) for part in phase] for phase in (self.parts, self.final))
        return hashlib.sha256(repr(list(phases)).encode()).hexdigest()

    @property
    def characters(self) -> int:
        """The characters of all corpora. A subset does not count if its shelf is among them."""
        names = {part.name for part in self.trained_on}
        return sum(part.characters for part in self.trained_on if SUBSETS.get(part.name) not in names)

    @property
    def size(self) -> str:
        return f"{self.characters:,} characters"

    @cached_property
    def validation(self) -> str:
        """The validation splits of the main phase, joined."""
        return BETWEEN.join(part.validation for part in self.parts)

    def scored(self, characters: int | None) -> dict[str, str]:
        """The text to score of each corpus: its validation split, or an equal share of `characters` from its start."""
        share = None if characters is None else max(2, characters // len(self.parts))
        return {part.name: part.validation[:share] for part in self.parts}

    def sample(self) -> list[str]:
        """The text to train the tokenizer on: random documents in the proportions of the main phase."""
        shares = [part.weight * sum(part.lengths) for part in self.parts]
        scale = min(1.0, VOCABULARY_CHARACTERS / sum(shares))
        return [text for part, share in zip(self.parts, shares, strict=True) for text in draw(part, int(scale * share))]

    def figures(self) -> dict:
        """The fields that a run's record stores."""
        return {
            "name": self.name,
            "source": "; ".join(dict.fromkeys(part.source for part in self.trained_on)),
            "sha256": self.sha256,
            "characters": self.characters,
            "distinct_characters": len(frozenset().union(*(part.letters for part in self.trained_on))),
            "validation_characters": len(self.validation),
            "parts": [part.figures() for part in self.parts],
            "final_parts": [part.figures() for part in self.final],
        }


def draw(part: Part, characters: int) -> list[str]:
    """Documents of a corpus in a fixed random order, until they add up to `characters`.

    If the corpus has fewer characters, its documents are drawn again in another order.
    """
    numbers = [number for number in range(len(part.lengths)) if number not in part.left_out]
    chooser, order, drawn = random.Random(0), [], []
    while characters > 0 and numbers:
        order = order or chooser.sample(numbers, len(numbers))
        drawn.append(order.pop())
        characters -= part.lengths[drawn[-1]]
    wanted = set(drawn)
    texts = {number: document for number, document in enumerate(part.read()) if number in wanted}
    return [texts[number] for number in drawn]


def load_mixture(
    corpus: Mapping[str, float],
    final: Mapping[str, float],
    held_out: list[str],
    accept_changed: bool = False,
    column: str = "text",
) -> Mixture:
    """Load the corpora of a recipe's `corpus`, `final_corpus` and `held_out`, each once.

    Raises:
        UserError: as [`load_corpus`].
    """
    loaded: dict[str, Part] = {}

    def load(name: str, weight: float) -> Part:
        if name not in loaded:
            loaded[name] = load_part(name, accept_changed, column)
        return dataclasses.replace(loaded[name], weight=weight)

    phases = (tuple(load(name, weight) for name, weight in phase.items()) for phase in (corpus, final))
    return Mixture(*phases, tuple(load(name, 1) for name in held_out))


def load_part(name: str, accept_changed: bool, column: str) -> Part:
    """Load a corpus, with weight 1."""
    if name in SHELVES or name in SUBSETS:
        check_shelf(name, accept_changed)
        return shelf_part(name)
    corpus = load_corpus(name, accept_changed, column)
    return Part(
        name,
        1,
        corpus.source,
        corpus.sha256,
        len(corpus.text),
        frozenset(corpus.text),
        tuple(map(len, cut(corpus.train))),
        lambda: cut(corpus.train),
        whole=False,
        validation=corpus.validation,
        test=corpus.test or "",
    )


def shelf_part(name: str) -> Part:
    """A shelf, with the same figures as from [`load_corpus`]."""
    held = {split: BETWEEN.join(d.text for d in read_split(name, split)) for split in ("validation", "test")}
    sha256, letters, lengths = hashlib.sha256(), set(held["validation"]), []
    for document in read_split(name, "train"):
        text = document.text + BETWEEN
        sha256.update(text.encode())
        letters.update(text)
        lengths.append(len(document.text))
    sha256.update(held["validation"].encode())
    return Part(
        name,
        1,
        shelf_source(name),
        sha256.hexdigest(),
        sum(lengths) + len(lengths) * len(BETWEEN) + len(held["validation"]),
        frozenset(letters),
        tuple(lengths),
        lambda: (document.text for document in read_split(name, "train")),
        whole=True,
        **held,
    )


def cut(text: str) -> Iterator[str]:
    """Cut a text into passages that end with blank lines; joined, they give the text."""
    begin = 0
    while begin < len(text):
        end = text.find(BETWEEN, begin + PASSAGE)
        end = len(text) if end < 0 else end + len(BETWEEN)
        while text[end : end + 1] == "\n":
            end += 1
        yield text[begin:end]
        begin = end
