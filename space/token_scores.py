"""Tokens as a page shows them, with their probabilities and the most likely alternatives."""

import codecs
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from tokenizer import token_bytes


@dataclass(frozen=True)
class Alternative:
    """A token that could have stood in a place: its text, and the text as [`show_token`] shows it."""

    id: int
    shown: str
    text: str
    probability: float


@dataclass(frozen=True)
class ScoredToken:
    """A token of a text, and the probability that the model gave it.

    Attributes:
        begin, end: the characters of the text that this token completes; the span is empty where the token is a part
            of a character that later tokens complete. All spans together are the text.
        probability: of this token after those before it; `None` for a token with none before it.
        surprisal: `-log2` of the probability, in bits.
        alternatives: the most likely tokens in this place, the most likely one first.
    """

    id: int
    shown: str
    begin: int
    end: int
    probability: float | None = None
    surprisal: float | None = None
    alternatives: tuple[Alternative, ...] = ()


def show_token(tokenizer: Tokenizer, token: int) -> str:
    """A token as a page shows it: `⏎` for a line end, `␣` for a token of spaces, `<E6>` for a byte of a character."""
    text = token_bytes(tokenizer, token).decode(errors="surrogateescape").replace("\n", "⏎")
    text = text if text.strip(" ") else text.replace(" ", "␣")
    return "".join(f"<{ord(c) - 0xDC00:02X}>" if "\udc80" <= c <= "\udcff" else c for c in text)


class LogProbabilities(NamedTuple):
    """Natural logarithms: `own` of the tokens themselves, `(scored,)`, and the `largest`, `(scored, top)`, with ids."""

    own: torch.Tensor
    largest: torch.Tensor
    largest_ids: torch.Tensor


def select_likeliest(logits: torch.Tensor, ids: torch.Tensor, top: int) -> LogProbabilities:
    """The log-probabilities of the tokens `ids` `(scored,)` and of the `top` most likely, from `(scored, vocab)`."""
    nats = logits.log_softmax(-1)
    return LogProbabilities(nats.gather(1, ids[:, None])[:, 0], *nats.topk(top))


def score_all(tokenizer: Tokenizer, scores: LogProbabilities, ids: list[int]) -> list[ScoredToken]:
    """The tokens of a text. Where there are fewer scores than tokens, they belong to the last ones."""
    rows = zip(*(part.tolist() for part in scores), strict=True)
    unscored = len(ids) - len(scores.own)
    # A text that was cut may begin or end inside a character.
    characters, end, scored = codecs.getincrementaldecoder("utf-8")(errors="replace"), 0, []
    for place, token in enumerate(ids):
        begin, end = end, end + len(characters.decode(token_bytes(tokenizer, token)))
        score = score_one(tokenizer, *next(rows)) if place >= unscored else ()
        scored.append(ScoredToken(token, show_token(tokenizer, token), begin, end, *score))
    return scored


def score_one(tokenizer: Tokenizer, own: float, largest: list[float], largest_ids: list[int]) -> tuple:
    """Probability, surprisal and alternatives of a token, from log-probabilities."""
    alternatives = []
    for value, other in zip(largest, largest_ids, strict=True):
        text = token_bytes(tokenizer, other).decode(errors="replace")
        alternatives.append(Alternative(other, show_token(tokenizer, other), text, math.exp(value)))
    return math.exp(own), -own / math.log(2), tuple(alternatives)
