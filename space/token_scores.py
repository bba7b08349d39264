"""Tokens as a page shows them, what a model held of each, and what else could have stood in its place."""

import codecs
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from tokenizer import token_bytes


@dataclass(frozen=True)
class Alternative:
    """A token that could have stood in a place; `text` is its own, `shown` the same as a page can show it."""

    id: int
    shown: str
    text: str
    probability: float


@dataclass(frozen=True)
class ScoredToken:
    """A token of a text, and how likely the model held it.

    Attributes:
        begin, end: the characters of the text that end with this token; none, where it is a part of one and others
            follow. All spans together are the text.
        probability: of this token after those before it; `None` where there are none.
        surprise: `-log2` of the probability, in bits.
        alternatives: the likeliest tokens of this place, the first before all.
    """

    id: int
    shown: str
    begin: int
    end: int
    probability: float | None = None
    surprise: float | None = None
    alternatives: tuple[Alternative, ...] = ()


def show_token(tokenizer: Tokenizer, token: int) -> str:
    """A token as a page can show it: line ends and lonely spaces as signs, bytes of a part of a character as `<E6>`."""
    text = token_bytes(tokenizer, token).decode(errors="surrogateescape").replace("\n", "⏎")
    text = text if text.strip(" ") else text.replace(" ", "␣")
    return "".join(f"<{ord(c) - 0xDC00:02X}>" if "\udc80" <= c <= "\udcff" else c for c in text)


class Chances(NamedTuple):
    """Logarithms of probabilities: of the tokens themselves, `(scored,)`, and the largest ones, `(scored, top)`."""

    own: torch.Tensor
    largest: torch.Tensor
    largest_ids: torch.Tensor


def keep_chances(logits: torch.Tensor, ids: torch.Tensor, top: int) -> Chances:
    """What logits `(scored, vocab)` say of the tokens `ids` `(scored,)` and of the `top` likeliest ones."""
    nats = logits.log_softmax(-1)
    return Chances(nats.gather(1, ids[:, None])[:, 0], *nats.topk(top))


def judge_all(tokenizer: Tokenizer, chances: Chances, ids: list[int]) -> list[ScoredToken]:
    """The tokens of a text, the last of them with their chances."""
    judged = zip(*(part.tolist() for part in chances), strict=True)
    unscored = len(ids) - len(chances.own)
    # A text that was cut may begin or end within a character.
    characters, end, scored = codecs.getincrementaldecoder("utf-8")(errors="replace"), 0, []
    for place, token in enumerate(ids):
        begin, end = end, end + len(characters.decode(token_bytes(tokenizer, token)))
        found = judge(tokenizer, *next(judged)) if place >= unscored else ()
        scored.append(ScoredToken(token, show_token(tokenizer, token), begin, end, *found))
    return scored


def judge(tokenizer: Tokenizer, own: float, largest: list[float], largest_ids: list[int]) -> tuple:
    """Probability, surprise and alternatives of a token, from logarithms of probabilities."""
    alternatives = []
    for value, other in zip(largest, largest_ids, strict=True):
        text = token_bytes(tokenizer, other).decode(errors="replace")
        alternatives.append(Alternative(other, show_token(tokenizer, other), text, math.exp(value)))
    return math.exp(own), -own / math.log(2), tuple(alternatives)
