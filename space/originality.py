"""Which passages of an answer are copied from the texts that its model has read."""

import re
import threading
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from space.training_texts import is_here, load_stages, names_of
from training.corpora import BETWEEN, QUATRAINS, Corpus, load_corpus
from training.overlap import trained_on
from training.quality import WORD
from training.works import COLLECTIONS, WORKS

LETTERS = 24  # bytes of UTF-8: so much of a passage must be letters before it counts as copied
WINDOW = 16  # bytes by which passages are looked up
STEP = LETTERS - WINDOW + 1  # every passage that counts holds a whole window that begins at a multiple of it
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
COMMON = 20  # places: what stands in more of them is a formula, and would take long to compare
# What the part of a work that a passage stands in is called by: a line that comes before it.
TITLE_LINE = rb"\n\n(.+)"
HEADINGS = {
    **dict.fromkeys(("chinese-poems", QUATRAINS, "shijing", "lunyu"), TITLE_LINE),
    "sampler": rb"\n([A-Z][A-Z ,'-]+)\n",
    "sonnets": rb"\n  ([IVXLC]+)\n",
    "oz": rb"\n(Chapter [IVXLC]+)\n",
}
LONGEST_PART = 100_000  # bytes between such a line and the last passage under it
LIBRARY = threading.Lock()
LIBRARIES: dict[tuple, tuple[list[str], "Library"]] = {}  # by the stages of a training, with the texts that were here


@dataclass(frozen=True)
class Passage:
    """A passage of an answer that stands word for word in a text that its model was trained on.

    Attributes:
        begin, end: where it stands, in characters of the answer.
        work: the title of the work that has it, or the name of a text of the trainer's own.
        part: the title of the poem, or the chapter or number, where the work is divided by such; or "".
    """

    begin: int
    end: int
    work: str
    part: str


@dataclass(frozen=True)
class Originality:
    """What of an answer is copied.

    Attributes:
        passages: those that are, in order; none overlaps another.
        share: of the characters between the first word after the prompt and the last, between 0 and 1.
        compared: the names of the texts that the answer was compared with.
        missing: the texts that the answer could not be compared with, by the names of their corpora; `run.json` if
            there is no record of what the model was trained on.
    """

    passages: tuple[Passage, ...]
    share: float
    compared: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def longest(self) -> Passage | None:
        return max(self.passages, key=lambda passage: passage.end - passage.begin, default=None)


@dataclass(frozen=True)
class Library:
    """Training texts one after the other, and where in them a passage stands.

    Attributes:
        text: in UTF-8.
        windows, places: the hashes of every [`STEP`]-th window of the text, sorted, and where each begins.
        begins, works, titles: where each work begins in the text, its name in the registry, if it has one, and what it
            is called.
        compared, missing: see [`Originality`].
    """

    text: bytes
    windows: np.ndarray
    places: np.ndarray
    begins: list[int]
    works: list[str]
    titles: list[str]
    compared: tuple[str, ...]
    missing: tuple[str, ...]

    def source(self, place: int) -> tuple[str, str]:
        """The work that a place of the text belongs to, and the part of it."""
        number = bisect_right(self.begins, place) - 1
        if (pattern := HEADINGS.get(self.works[number])) is None:
            return self.titles[number], ""
        # Two line breaks stand before a work too.
        begin = max(self.begins[number] - len(BETWEEN), place - LONGEST_PART)
        found = re.finditer(pattern, self.text[begin : place + LONGEST_PART])
        headings = [match[1] for match in found if begin + match.start() <= place]
        return self.titles[number], headings[-1].decode(errors="ignore").strip() if headings else ""


def copied_passages(answer: str, checkpoint: str | Path, prompt: str = "") -> Originality:
    """Find what of an answer stands word for word in the training splits of what its model was trained on.

    A passage counts if it has whole words with 24 bytes of letters in a row: some six words of English, or eight
    Chinese characters. Of validation splits, which are not copied, this marks 1.3% of oz, formulas such as "Scarecrow
    and the Tin Woodman", at most 0.5% of each of the classics, and nothing of poetry; 0.5% of lunyu; 2.2% of shijing,
    which has refrains; and 1.7% of chinese-poems, but 0.5% of those that do not stand in the training split too.

    The first call loads the texts that are here, which takes seconds; [`space.training_texts`] fetches the others. What
    [`training.recipe`]'s `remove_overlap` left out of them is compared too.

    Args:
        checkpoint: a folder with the record of its run, in it or beside it.
        prompt: what the answer begins with and the model has not written, which is not looked at. An answer to a
            request begins otherwise.
    """
    known = [stage for stage in trained_on(str(checkpoint)) if stage["name"]]
    library = load_library(tuple((stage["name"], stage["sha256"]) for stage in known))
    own = answer.removeprefix(prompt)
    before = len(answer) - len(own)
    words = [match.span() for match in WORD.finditer(own)]
    at = np.cumsum([0, *(len(character.encode()) for character in own)])  # where each character begins, in bytes
    found = sorted(matches(own, words, at, library), key=lambda match: match[1] - match[0])
    owner = np.full(len(words) + 2, -1)  # the longest match that each word is in, between two that are in none
    for number, (first, after, _) in enumerate(found):
        owner[first + 1 : after + 1] = number
    passages = []
    for first, after in pairwise(np.flatnonzero(np.diff(owner))):
        # Without what is between words, or what a longer match has of this one, it may be too short.
        size = sum(at[end] - at[begin] for begin, end in words[first:after])
        if (number := owner[first + 1]) >= 0 and size >= LETTERS:
            (begin, _), (_, end) = words[first], words[after - 1]
            source = library.source(int(at[begin]) + found[number][2])
            passages.append(Passage(before + begin, before + end, *source))
    copied = sum(passage.end - passage.begin for passage in passages)
    share = copied / (words[-1][1] - words[0][0]) if words else 0.0
    return Originality(tuple(passages), share, library.compared, library.missing)


def matches(own: str, words: list[tuple[int, int]], at: np.ndarray, library: Library) -> Iterator[tuple[int, int, int]]:
    """What words in a row a library has too: the first, the one after the last, and how much further on it has them.

    Args:
        words: where the words of `own` begin and end, in characters.
        at: where its characters begin, in bytes `(characters + 1,)`.
    """
    data, read = (np.frombuffer(text, dtype=np.uint8) for text in (own.encode(), library.text))
    begins, ends = at[np.array(words, dtype=int).reshape(-1, 2)].T
    for offset in offsets(data, library):
        low, high = max(0, -offset), min(len(data), len(read) - offset)
        same = data[low:high] == read[low + offset : high + offset]
        edges = low + np.flatnonzero(np.diff(np.concatenate(([False], same, [False]))))
        for begin, end in edges.reshape(-1, 2)[np.diff(edges)[::2] >= LETTERS]:
            first, after = int(np.searchsorted(begins, begin)), int(np.searchsorted(ends, end, side="right"))
            yield first, after, offset


def offsets(data: np.ndarray, library: Library) -> list[int]:
    """By how much places in a library differ from those in `data` `(length,)` uint8 where a window of it stands."""
    windows = hashed(data, 1)
    first, last = (np.searchsorted(library.windows, windows, side=side) for side in ("left", "right"))
    known = np.flatnonzero((last > first) & (last - first <= COMMON))
    places = [library.places[first[n] : last[n]].astype(np.int64) - n for n in known]
    return np.unique(np.concatenate(places)).tolist() if places else []


def hashed(data: np.ndarray, step: int) -> np.ndarray:
    """A 64-bit hash of the window of `data` `(length,)` uint8 that begins at every `step`-th place.

    What is found by it is compared, so that it need not be as good as that of [`training.overlap`], which takes longer.
    """
    if len(data) < WINDOW:
        return np.empty(0, dtype=np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(data, WINDOW)[::step]
    halves = np.ascontiguousarray(windows).view(np.uint64)
    return halves[:, 0] * MULTIPLIER + halves[:, 1]


def load_library(stages: tuple[tuple[str, str], ...]) -> Library:
    """The training splits of corpora, each given by its name and the hash of its text, as far as the texts are here.

    It is loaded once, and again when texts have come: two threads would both build it, and take twice the memory.
    """
    with LIBRARY:
        here = [name for name in names_of(stages) if is_here(name)]
        if stages not in LIBRARIES or LIBRARIES[stages][0] != here:
            LIBRARIES.pop(stages, None)  # its memory is free before the new one takes as much
            LIBRARIES[stages] = here, build_library(stages)
        return LIBRARIES[stages][1]


def build_library(stages: tuple[tuple[str, str], ...]) -> Library:
    corpora, missing = load_stages(stages)
    text, begins, works, titles = b"", [], [], []
    for name, corpus in corpora.items():
        text += BETWEEN.encode()
        for work, begin in works_of(name):
            begins.append(len(text) + len(corpus.train[:begin].encode()))
            works.append(work)
            titles.append(title_of(work, corpus))
        text += corpus.train.encode()
    windows = hashed(np.frombuffer(text, dtype=np.uint8), STEP)
    order = np.argsort(windows)
    places = (order * STEP).astype(np.uint32)
    compared = tuple(corpus.name for corpus in corpora.values())
    return Library(text, windows[order], places, begins, works, titles, compared, tuple(missing))


def title_of(work: str, corpus: Corpus) -> str:
    work = "chinese-poems" if work == QUATRAINS else work
    return WORKS[work].title if work in WORKS else corpus.name


def works_of(name: str) -> list[tuple[str, int]]:
    """The works that a corpus is made of, and where each begins, in characters."""
    works, begins = COLLECTIONS.get(name, (name,)), [0]
    for work in works[:-1]:
        begins.append(begins[-1] + len(load_corpus(work).text) + len(BETWEEN))
    return list(zip(works, begins, strict=True))
