"""What a reader notices in stories and verse: loops, quotes that stay open, names that change, lines that rhyme.

Each figure means little alone: stories by people also repeat a refrain. So they are compared with the same figures of a
text that the model was not trained on.
"""

import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, median

from training.evaluation.quality import WORD, grams, share
from training.evaluation.verse import LONGEST_VERSE, analyse_verse

REPEATS, PHRASE = 3, 4  # a line, or this many words in a row, that comes so often is a loop
QUOTES = str.maketrans({"“": '"', "”": '"'})
# A capitalised word that does not begin a sentence: the word before it ends in a letter or a comma.
NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+")


@dataclass(frozen=True)
class Reading:
    """Figures over some texts. Shares are between 0 and 1, and `None` where there is nothing to measure.

    Attributes:
        stories, verse: how many of the texts are prose, and how many verse.
        loops: the share of texts that repeat a line, or a phrase of four words, three times.
        distinct_lines: the share of distinct ones among the lines of verse.
        closed_quotes: the share of stories in which every paragraph but the last, where a sample is cut, closes the
            quotation marks that it opens.
        steady_names: the share of the names in the second half of a story that its first half has.
        rhymes: the share of the lines of verse that rhyme with another one.
        uneven: the mean difference, in syllables, between a line of verse and the line before it.
    """

    stories: int
    verse: int
    loops: float
    distinct_lines: float | None
    closed_quotes: float | None
    steady_names: float | None
    rhymes: float | None
    uneven: float | None


def measure_reading(texts: list[str]) -> Reading:
    """Measure English texts, each of them a story or a poem."""
    verse = [text for text in texts if is_verse(text)]
    stories = [text for text in texts if not is_verse(text)]
    lines = [written(text) for text in verse]
    names = [pair for story in stories if (pair := recurring_names(story)) is not None]
    analysed = [[line for line in analyse_verse(text) if line.rhymes] for text in verse]
    rhymed = [bool(line.rhymes[0]) for poem in analysed for line in poem]
    steps = [abs(one.syllables - other.syllables) for poem in analysed for one, other in pairwise(poem)]
    return Reading(
        stories=len(stories),
        verse=len(verse),
        loops=share(sum(map(has_loop, texts)), texts),
        distinct_lines=mean_of([len(set(poem)) / len(poem) for poem in lines if poem]),
        closed_quotes=mean_of([closes_quotes(story) for story in stories]),
        steady_names=mean_of(names),
        rhymes=mean_of(rhymed),
        uneven=mean_of(steps),
    )


def mean_of(values: list) -> float | None:
    return float(mean(values)) if values else None


def written(text: str) -> list[str]:
    """The lines of a text that are not empty."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def is_verse(text: str) -> bool:
    """Whether a text's lines are as short as those of verse; prose has a paragraph a line."""
    lines = written(text)
    return bool(lines) and median(len(WORD.findall(line)) for line in lines) <= LONGEST_VERSE


def has_loop(text: str) -> bool:
    lines = Counter(line for line in written(text) if len(WORD.findall(line)) > 1)
    phrases = Counter(grams(WORD.findall(text.lower()), PHRASE))
    return any(count >= REPEATS for counter in (lines, phrases) for count in counter.values())


def closes_quotes(story: str) -> bool:
    paragraphs = [paragraph.translate(QUOTES) for paragraph in written(story)]
    return all(paragraph.count('"') % 2 == 0 for paragraph in paragraphs[:-1])


def recurring_names(story: str) -> float | None:
    """The share of the names in the second half of a story that its first half has too, if it has any."""
    middle = len(story) // 2
    before, after = (set(NAME.findall(half)) for half in (story[:middle], story[middle:]))
    return len(after & before) / len(after) if after else None
