"""Passages of an answer that are copied from the texts that its model was trained on."""

import re
import threading
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from space.training_texts import is_here, load_stages, names_of
from training.data.corpora import BETWEEN, QUATRAINS, Corpus, load_corpus
from training.data.works import COLLECTIONS, WORKS
from training.engine.provenance import trained_on
from training.evaluation.quality import WORD

LETTERS = 24  # bytes of UTF-8: a passage with fewer bytes of letters does not count as copied
WINDOW = 16  # bytes that are hashed to look passages up
STEP = LETTERS - WINDOW + 1  # every passage that counts holds a window that starts at a multiple of STEP
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
COMMON = 20  # places: a window that stands in more of them is a stock phrase, and would take long to compare
# The titles of the parts of a work: the last such line before a passage names its part.
TITLE_LINE = rb"\n\n(.+)"
HEADINGS = {
    **dict.fromkeys(("chinese-poems", QUATRAINS, "shijing", "lunyu"), TITLE_LINE),
    "sampler": rb"\n([A-Z][A-Z ,'-]+)\n",
    "sonnets": rb"\n  ([IVXLC]+)\n",
    "oz": rb"\n(Chapter [IVXLC]+)\n",
}
LONGEST_PART = 100_000  # bytes from a title to the end of its part
LIBRARY = threading.Lock()
LIBRARIES: dict[tuple, tuple[list[str], "Library"]] = {}  # by stages of training, with the corpora that it has


@dataclass(frozen=True)
class Passage:
    """A passage of an answer that appears word for word in a text that its model was trained on.

    Attributes:
        begin, end: its place in the answer, in characters.
        work: the title of the work, or the name of a text that is not in the registry.
        part: the title of the poem, or the chapter or number; "" for a work without parts.
    """

    begin: int
    end: int
    work: str
    part: str


@dataclass(frozen=True)
class Originality:
    """How much of an answer is copied.

    Attributes:
        passages: the copied passages, in order and without overlaps.
        share: the share of them in the characters from the first word after the prompt to the last, from 0 to 1.
        compared: the names of the corpora that the answer was compared with.
        missing: the names of corpora that it could not be compared with; `run.json` if there is no record of what the
            model was trained on.
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
    """An index of training texts, to look passages up.

    Attributes:
        text: all texts, one after the other, in UTF-8.
        windows, places: the sorted hashes of every [`STEP`]-th window of the text, and where each window starts.
        begins, works, titles: for each work, where it starts in the text, its corpus, and its title.
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
        """The title and the part of the work at a place in the text."""
        number = bisect_right(self.begins, place) - 1
        if (pattern := HEADINGS.get(self.works[number])) is None:
            return self.titles[number], ""
        # The line breaks between two works count as the beginning of the second.
        begin = max(self.begins[number] - len(BETWEEN), place - LONGEST_PART)
        matches = re.finditer(pattern, self.text[begin : place + LONGEST_PART])
        headings = [match[1] for match in matches if begin + match.start() <= place]
        return self.titles[number], headings[-1].decode(errors="ignore").strip() if headings else ""


def copied_passages(answer: str, checkpoint: str | Path, prompt: str = "") -> Originality:
    """Find the passages of an answer that appear word for word in the training splits of its model's corpora.

    A passage counts if it consists of whole words and has 24 bytes or more of text: about six English words, or eight
    Chinese characters. In validation splits, which are not copied, this marks 1.3% of oz (phrases such as "Scarecrow
    and the Tin Woodman"), at most 0.5% of each of the classics, and nothing in poetry; 0.5% of lunyu; 2.2% of shijing,
    which has refrains; and 1.7% of chinese-poems, or 0.5% without the poems that the training split has too.

    The first call loads the corpora that are here, which takes seconds; [`space.training_texts`] fetches the others.
    Texts that `remove_overlap` in [`training.engine.recipe`] left out of the training are compared too.

    Args:
        checkpoint: a folder with the run record in it or beside it.
        prompt: ignored where the answer begins with it, since the model did not write it.
    """
    known = [stage for stage in trained_on(str(checkpoint)) if stage["name"]]
    library = load_library(tuple((stage["name"], stage["sha256"]) for stage in known))
    own = answer.removeprefix(prompt)
    before = len(answer) - len(own)
    words = [match.span() for match in WORD.finditer(own)]
    at = np.cumsum([0, *(len(character.encode()) for character in own)])  # where each character begins, in bytes
    matches = sorted(find_matches(own, words, at, library), key=lambda match: match[1] - match[0])
    owner = np.full(len(words) + 2, -1)  # the longest match that holds each word; -1 for none, as at both ends
    for number, (first, after, _) in enumerate(matches):
        owner[first + 1 : after + 1] = number
    passages = []
    for first, after in pairwise(np.flatnonzero(np.diff(owner))):
        # Signs between words do not count, and a longer match may have taken words away: it can be too short now.
        size = sum(at[end] - at[begin] for begin, end in words[first:after])
        if (number := owner[first + 1]) >= 0 and size >= LETTERS:
            (begin, _), (_, end) = words[first], words[after - 1]
            source = library.source(int(at[begin]) + matches[number][2])
            passages.append(Passage(before + begin, before + end, *source))
    copied = sum(passage.end - passage.begin for passage in passages)
    share = copied / (words[-1][1] - words[0][0]) if words else 0.0
    return Originality(tuple(passages), share, library.compared, library.missing)


def find_matches(
    own: str, words: list[tuple[int, int]], at: np.ndarray, library: Library
) -> Iterator[tuple[int, int, int]]:
    """Yield runs of words that a library has too: `(first, after the last, offset)`.

    The library has them `offset` bytes after their place in `own`.

    Args:
        words: where each word of `own` begins and ends, in characters.
        at: where each character begins, in bytes `(characters + 1,)`.
    """
    data, read = (np.frombuffer(text, dtype=np.uint8) for text in (own.encode(), library.text))
    begins, ends = at[np.array(words, dtype=int).reshape(-1, 2)].T
    for offset in find_offsets(data, library):
        low, high = max(0, -offset), min(len(data), len(read) - offset)
        same = data[low:high] == read[low + offset : high + offset]
        edges = low + np.flatnonzero(np.diff(np.concatenate(([False], same, [False]))))
        for begin, end in edges.reshape(-1, 2)[np.diff(edges)[::2] >= LETTERS]:
            first, after = int(np.searchsorted(begins, begin)), int(np.searchsorted(ends, end, side="right"))
            yield first, after, offset


def find_offsets(data: np.ndarray, library: Library) -> list[int]:
    """The distances from windows of `data` `(length,)` uint8 to the same windows in a library, each once."""
    windows = hash_windows(data, 1)
    first, last = (np.searchsorted(library.windows, windows, side=side) for side in ("left", "right"))
    known = np.flatnonzero((last > first) & (last - first <= COMMON))
    places = [library.places[first[n] : last[n]].astype(np.int64) - n for n in known]
    return np.unique(np.concatenate(places)).tolist() if places else []


def hash_windows(data: np.ndarray, step: int) -> np.ndarray:
    """A 64-bit hash of every `step`-th window of `data` `(length,)` uint8.

    Matches are compared byte by byte afterwards, so this can be weaker and faster than the hash of
    [`training.data.overlap`].
    """
    if len(data) < WINDOW:
        return np.empty(0, dtype=np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(data, WINDOW)[::step]
    halves = np.ascontiguousarray(windows).view(np.uint64)
    return halves[:, 0] * MULTIPLIER + halves[:, 1]


def load_library(stages: tuple[tuple[str, str], ...]) -> Library:
    """The training splits of corpora, each given by its name and the hash of its text, as far as they are here.

    It is built once, and again when more corpora have arrived. The lock keeps two threads from building it twice, which
    would take twice the memory.
    """
    with LIBRARY:
        here = [name for name in names_of(stages) if is_here(name)]
        if stages not in LIBRARIES or LIBRARIES[stages][0] != here:
            LIBRARIES.pop(stages, None)  # frees its memory before the new one takes as much
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
    windows = hash_windows(np.frombuffer(text, dtype=np.uint8), STEP)
    order = np.argsort(windows)
    places = (order * STEP).astype(np.uint32)
    compared = tuple(corpus.name for corpus in corpora.values())
    return Library(text, windows[order], places, begins, works, titles, compared, tuple(missing))


def title_of(work: str, corpus: Corpus) -> str:
    work = "chinese-poems" if work == QUATRAINS else work
    return WORKS[work].title if work in WORKS else corpus.name


def works_of(name: str) -> list[tuple[str, int]]:
    """The works in a corpus, and where each begins, in characters."""
    works, begins = COLLECTIONS.get(name, (name,)), [0]
    for work in works[:-1]:
        begins.append(begins[-1] + len(load_corpus(work).text) + len(BETWEEN))
    return list(zip(works, begins, strict=True))
