"""Text that a training set shares with a validation split, which would make the loss look better than it is.

    python -m training.data.overlap classics oz     # does classics train on passages that oz is scored on?
    python -m training.data.overlap chinese-poems   # the same within one corpus

A shared passage is at least 48 identical bytes of UTF-8 in a row: 48 letters of English, or 16 Chinese characters. Two
authors do not write that much alike by chance, and a quotation that a model could memorise is longer.
"""

import argparse
import bisect
import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np
from tqdm import tqdm

from training.command import UserError, run_command
from training.data.corpora import NAMES, Corpus, load_corpus
from training.data.mixture import Mixture, Part

PASSAGE = 48  # bytes of UTF-8
TOLERATED = 0.001  # share of a validation split that may be shared: an author's own refrains
CHUNK = 1 << 22  # bytes hashed at once
FILTER = np.uint64(1 << 26)  # entries of the table that rules out most values


def hashes(data: np.ndarray) -> np.ndarray:
    """A 64-bit polynomial hash of every `PASSAGE` consecutive bytes of `data` `(length,)` uint8: `(length - 47,)`.

    Two hashes of equal length combine into one of twice that length, so 48 = 32 + 16 bytes take six steps.
    """
    base = np.uint64(0x9E3779B97F4A7C15)
    level, reach, power, whole, covered = data.astype(np.uint64) + np.uint64(1), 1, base, None, 0
    with np.errstate(over="ignore"):
        while covered < PASSAGE:
            if PASSAGE & reach:
                if whole is None:
                    whole = level
                else:
                    length = len(level) - covered
                    whole = whole[:length] * power + level[covered:]
                covered += reach
            level, power, reach = level[:-reach] * power + level[reach:], power * power, 2 * reach
    return whole


def find_shared(text: str, other: str) -> list[tuple[int, int]]:
    """The passages of `text` that `other` has too: `(begin, end)` in characters, in order; touching ones are merged."""
    data, others = (np.frombuffer(t.encode(), dtype=np.uint8) for t in (text, other))
    small, large = sorted((data, others), key=len)
    if len(small) < PASSAGE:
        return []
    known = np.unique(np.concatenate([values for _, values in hashed_chunks(small)]))
    places = finder(known)
    common = np.unique(np.concatenate([values[places(values)] for _, values in hashed_chunks(large)]))
    places = finder(common)
    begins = np.concatenate([begin + places(values) for begin, values in hashed_chunks(data)])
    if not len(begins):
        return []
    first = np.concatenate(([True], np.diff(begins) > PASSAGE))  # merges passages that touch
    last = np.concatenate((first[1:], [True]))
    # From bytes to whole characters.
    characters = np.cumsum((data & 0xC0) != 0x80)
    spans = zip(begins[first], begins[last] + PASSAGE, strict=True)
    return [(int(characters[b - 1]) if b else 0, int(characters[e - 1])) for b, e in spans]


def hashed_chunks(data: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The hashes of `data` by chunks, with the position of each chunk. All at once take eight times the memory."""
    for begin in range(0, len(data) - PASSAGE + 1, CHUNK):
        yield begin, hashes(data[begin : begin + CHUNK + PASSAGE - 1])


def finder(known: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function from an array of values to the positions of those that are in `known`, which is sorted."""
    table = np.zeros(FILTER, dtype=bool)  # rules out most values quickly
    table[known % FILTER] = True

    def places(values: np.ndarray) -> np.ndarray:
        maybe = np.flatnonzero(table[values % FILTER])
        nearest = np.searchsorted(known, values[maybe]).clip(max=len(known) - 1)
        return maybe[known[nearest] == values[maybe]] if len(known) else maybe

    return places


def describe(name: str, train: str, of: str, validation: str) -> tuple[float, str]:
    """The share of a validation split that the training text has too, and a sentence that says so.

    Args:
        name: the corpus of the training text `train`.
        of: the corpus of the split `validation`.
    """
    spans = find_shared(validation, train)
    if not spans:
        return 0.0, f"the training text of {name} shares no passage with the validation split of {of}"
    share = sum(end - begin for begin, end in spans) / len(validation)
    begin, end = max(spans, key=lambda span: span[1] - span[0])
    passages = "passage" if len(spans) == 1 else "passages"
    return share, (
        f"the training text of {name} shares {len(spans):,} {passages}, {share:.2%} of the characters, with the "
        f"validation split of {of}; the longest: {' '.join(validation[begin : min(end, begin + 60)].split())!r}"
    )


def without_shared(train: str, validation: str) -> str:
    """Remove the paragraphs of a training text that share a passage with a validation split."""
    kept, at = [], 0
    for begin, end in find_shared(train, validation):
        begin, end = train.rfind("\n\n", at, begin), train.find("\n\n", end)
        kept.append(train[at : max(at, begin)])
        at = len(train) if end < 0 else max(at, end)
    return "".join([*kept, train[at:]])


def separate(mixture: Mixture, remove: bool, say: Callable[[str], None]) -> Mixture:
    """Search every document of a mixture for passages of the splits that any of its corpora holds out.

    Args:
        remove: leave out the documents that contain some.

    Raises:
        UserError: some documents contain more than refrains, and `remove` is false.
    """
    held = {part.name: part for part in (*mixture.trained_on, *mixture.held_out)}.values()
    held_out = np.frombuffer(
        "\0".join({t: None for part in held for t in (part.validation, part.test)}).encode(), np.uint8
    )
    places = finder(np.unique(np.concatenate([values for _, values in hashed_chunks(held_out)])))
    cleaned = {}
    for part in tqdm(mixture.trained_on, "comparing with held-out texts", unit=" corpora", delay=2, leave=False):
        shared = shared_documents(part.read(), places)
        cleaned[part.name] = frozenset(shared)
        if remove:
            say(f"left out of {part.name}: {len(shared):,} documents that contain held-out text")
            continue
        for other in held:
            share, found = describe(part.name, "\0".join(shared.values()), other.name, other.validation + other.test)
            if share > TOLERATED:
                raise UserError(f"{found}; --remove_overlap true leaves such documents out of training.")
            if share:
                say(found)
    say(f"compared with the held-out texts of {', '.join(part.name for part in held)}")
    if not remove:
        return mixture

    def without(parts: tuple[Part, ...]) -> tuple[Part, ...]:
        return tuple(dataclasses.replace(part, left_out=cleaned[part.name]) for part in parts)

    return dataclasses.replace(mixture, parts=without(mixture.parts), final=without(mixture.final))


def shared_documents(documents: Iterator[str], places: Callable[[np.ndarray], np.ndarray]) -> dict[int, str]:
    """The documents with passages whose hashes `places` finds, by number. Short documents are hashed together."""
    found, begins, texts, size = {}, [], [], 0
    for number, document in enumerate(itertools.chain(documents, [None])):
        if texts and (document is None or size > CHUNK):
            for place in places(hashes(np.frombuffer(b"\0".join(texts), dtype=np.uint8))) if size > PASSAGE else ():
                which = bisect.bisect_right(begins, place) - 1
                found[number - len(texts) + which] = texts[which].decode()
            begins, texts, size = [], [], 0
        if document is not None:
            begins.append(size)
            texts.append(document.encode())
            size += len(texts[-1]) + 1
    return found


def compare_with_itself(corpus: Corpus, say: Callable[[str], None]) -> None:
    """Check that a corpus does not train on its own validation split.

    Raises:
        UserError: several texts share more than refrains. A single text that repeats itself is only reported.
    """
    share, found = describe(corpus.name, corpus.train, corpus.name, corpus.validation)
    if share > TOLERATED:
        remedy = "--remove_overlap true leaves them out of training"
        if len(corpus.texts) > 1:
            raise UserError(f"{found}; {remedy}.")
        found += f"; the loss flatters the model accordingly, and {remedy}"
    say(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = f"{', '.join(NAMES)}, or one of your own; join several with +"
    parser.add_argument("train", help=f"the corpus whose training split to search: {known}")
    parser.add_argument("validation", nargs="?", help="the corpus whose validation split to look for (default: TRAIN)")
    arguments = parser.parse_args()
    train = load_corpus(arguments.train)
    of = load_corpus(arguments.validation) if arguments.validation else train
    share, found = describe(train.name, train.train, of.name, of.validation)
    if share > TOLERATED:
        raise UserError(f"{found}.")
    print(found)


if __name__ == "__main__":
    run_command(main)
