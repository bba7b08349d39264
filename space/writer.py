"""The models that the Space serves, and what they answer."""

import json
import os
import random
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from modeling import PRESETS, OzymandiasConfig
from space.language import VisitorError, check_encodable, say
from space.loading import load_checkpoint, load_once, short_name
from training.command import UserError
from training.generate import stream_text
from training.quality import is_chinese
from training.quatrains import request

CHECKPOINTS = Path(__file__).with_name("checkpoints")
EVOLUTION = tuple(PRESETS)
LONGEST_PROMPT = 2000  # characters
LONGEST_TEXT = 1000  # new tokens
COLDEST, HOTTEST = 0.01, 2.0  # temperatures besides 0: logits divided by a smaller number are no longer finite
NARROWEST = 0.01  # the smallest top_p
LARGEST_SEED = 2**31 - 1
LONGEST_READ = 8000  # characters of an answer, or of another text, that a model reads again to explain it or to go on
TURN = 0.05  # seconds that an answer is written on for before the reader sees more: nobody reads character by character
# Answers are written in turns, first come, first served, by two threads: many that all compute at once take Python's
# lock from each other after every few operations, and get half the work done.
WRITERS = ThreadPoolExecutor(2, "writer")
TITLE_START = "\n\n"  # what a new poem or paragraph begins after
# What the English model, which has read novels too, begins with, and what of that the reader sees: a poem comes after a
# number, a story begins with its heroine.
ENGLISH_STARTS = {"poetry": ("\n\n\n\n\nX.\n\n", ""), "oz": ("\n\nDorothy", "Dorothy")}

ASKS = r"(?:please\W+|(?:can|could|would|will) you\W+|i(?:'d| would) like\W+|i want\W+)*"
VERB = r"(?:write|tell|give|show|sing|recite|make|compose|read|say)"
POETRY, OZ = r"(?:poem|poems|poetry|verse|verses|sonnet)", r"(?:oz|wizard)"
CHINESE_REQUEST = (
    r"\W*(?:请|帮我|给我|为我|再)*\s*(?:写|作|赋|吟|来).{0,8}?(?:诗|绝句|五绝|七绝).{0,40}|\W*(?:五|七)言?绝句?.{0,20}"
)
SUBJECT = (
    r"《(.{1,12}?)》|(?:题为|题目是|题目：|关于|咏|写一写)[“「]?(\w{1,8}?)(?:[”」]|的|[，。！？\s]|$)|[：:]\s*(\w{1,8})"
)


@dataclass(frozen=True)
class Served:
    """A checkpoint that can be picked: its folder or Hub id, and a revision of that."""

    source: str
    revision: str | None = None


def served_models() -> dict[str, Served]:
    """The checkpoints that write, by key: the one that `OZYMANDIAS_MODEL` names, then those in the repository.

    `OZYMANDIAS_MODEL` is a folder or a Hub id, with `@REVISION` behind it to pin one.
    """
    named = {key: model for key, model in named_model().items() if is_decoder(model.source, model.revision)}
    return named | shipped(["english", "chinese", *(f"poetry-{step}" for step in EVOLUTION)])


def seen_models() -> dict[str, Served]:
    """The checkpoints to look into, by key: those that write, and those of other architectures."""
    return named_model() | served_models() | shipped(["oz-encoder", "oz-next-passage"])


def named_model() -> dict[str, Served]:
    name = os.environ.get("OZYMANDIAS_MODEL")
    source, _, revision = (name or "").partition("@")
    return {"named": Served(source, revision or None)} if source else {}


def shipped(names: list[str]) -> dict[str, Served]:
    return {name: Served(str(CHECKPOINTS / name)) for name in names if (CHECKPOINTS / name).is_dir()}


@lru_cache
def is_decoder(source: str, revision: str | None) -> bool:
    """Whether a checkpoint writes on by itself; of one that cannot be read, loading it will say so."""
    try:
        config = OzymandiasConfig.from_pretrained(source, revision=revision)
    except (OSError, ValueError):
        return True
    return config.is_causal and not config.is_encoder_decoder


def default_model() -> str:
    """The key of the model that is picked at first: the one that was named, else the best of English.

    Raises:
        UserError: there is none.
    """
    models = served_models()
    for key in ("named", "english", "poetry-modern", *models):
        if key in models:
            return key
    raise UserError("there is no checkpoint to serve; name one: OZYMANDIAS_MODEL=FOLDER_OR_HUB_ID.")


@lru_cache
def label(key: str, language: str) -> str:
    """`Poetry 4: gpt, 0.84M, loss 1.62`: a model of the repository, by the run record beside its weights."""
    record = json.loads((CHECKPOINTS / key / "run.json").read_text(encoding="utf-8"))
    step = key.removeprefix("poetry-")
    if step in EVOLUTION:
        name = say(language, "model_poetry", number=EVOLUTION.index(step) + 1, step=step)
    else:
        name = say(language, f"model_{key}")
    millions, loss = record["parameters"] / 1e6, record["best_validation_loss"]
    return say(language, "model_label", name=name, millions=millions, loss=loss)


def find_model(key: str, models: dict[str, Served]) -> Served:
    """The model with a key.

    Raises:
        VisitorError: there is none; it names those that there are.
    """
    if not isinstance(key, str) or key not in models:
        raise VisitorError("no_model", name=shorten(key), names=", ".join(models))
    return models[key]


def choices(models: dict[str, Served], language: str) -> list[tuple[str, str]]:
    """What a page shows for each model, and its key; the one that was named has its own name."""
    return [
        (short_name(served.source) if key == "named" else label(key, language), key) for key, served in models.items()
    ]


@load_once
def load(served: Served) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a checkpoint to write with, once; its errors are those of [`load_checkpoint`]."""
    model, tokenizer = load_checkpoint(served.source, served.revision)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def check_text(text: str, most: int = LONGEST_READ) -> None:
    """Refuse what is no text, has more than `most` characters, or cannot be encoded.

    Raises:
        VisitorError: which of them it is.
    """
    if not isinstance(text, str):
        raise VisitorError("no_string", given=shorten(text))
    if len(text) > most:
        raise VisitorError("long_prompt", given=len(text), most=most)
    check_encodable(text)


def check_prompt(prompt: str) -> None:
    """Refuse, with a [`VisitorError`], a prompt that is empty, too long or cannot be encoded."""
    check_text(prompt, LONGEST_PROMPT)
    if not prompt.strip():
        raise VisitorError("empty_prompt")


def check_settings(temperature: float, top_p: float, length: int, seed: int) -> None:
    """Refuse settings outside their range, or of another type, as a program or an emptied box can send them.

    Raises:
        VisitorError: it names the setting, its value and the range.
    """
    if not (is_number(temperature, 0, 0) or is_number(temperature, COLDEST, HOTTEST)):
        raise VisitorError("bad_temperature", given=shorten(temperature), least=COLDEST, most=HOTTEST)
    if not is_number(top_p, NARROWEST, 1):
        raise VisitorError("bad_top_p", given=shorten(top_p), least=NARROWEST)
    if not is_number(length, 1, LONGEST_TEXT, whole=True):
        raise VisitorError("bad_length", given=shorten(length), most=LONGEST_TEXT)
    if not is_number(seed, 0, LARGEST_SEED, whole=True):
        raise VisitorError("bad_seed", given=shorten(seed), most=LARGEST_SEED)


def is_number(value: object, least: float, most: float, whole: bool = False) -> bool:
    """Whether a value is a number in a range, both ends included; `whole` asks for a whole number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and least <= value <= most and (not whole or value == int(value))


def shorten(value: object) -> str:
    """A value as an error message quotes it; an emptied box is `""`."""
    return repr("" if value is None else value)[:40]


def asked_for(prompt: str) -> str:
    """What the reader asks for: `"poetry"`, `"oz"` or `"chinese"`, as by "Write me a poem"; "" for an opening line."""
    if re.fullmatch(CHINESE_REQUEST, prompt, re.S):
        return "chinese"
    for corpus, words in (("oz", OZ), ("poetry", POETRY)):
        asked = rf"\W*{ASKS}{VERB}\b.*\b{words}\b.*"
        if re.fullmatch(rf"{asked}|\W*(?:{ASKS})(?:a|an|some|the)?\s*{words}\W*(?:please)?\W*", prompt, re.I | re.S):
            return corpus
    return ""


def quatrain_request(prompt: str) -> str:
    """How the Chinese model is asked for the quatrain that a reader wants: of five characters a line, or of seven."""
    form = "七言绝句" if "七" in prompt else "五言绝句"
    found = re.search(SUBJECT, prompt)
    return TITLE_START + request(form, next(filter(None, found.groups())) if found else "春")


class Opening(NamedTuple):
    """How an answer begins: the model, what it is given, what of that the reader sees, and what ends the answer."""

    model: str
    start: str
    shown: str
    end: str = ""


def choose(prompt: str, key: str, models: dict[str, Served]) -> Opening:
    """How the answer to a prompt begins, where the reader has picked a model."""
    corpus = asked_for(prompt)
    if corpus == "chinese" and "chinese" not in models:
        corpus = ""
    if (corpus == "chinese" or is_chinese([prompt])) and key not in ("chinese", "named") and "chinese" in models:
        key = "chinese"
    if corpus == "chinese":
        return Opening(key, quatrain_request(prompt), "", end=TITLE_START)
    if corpus and key != "named" and not key.startswith(corpus) and "english" in models:
        key = "english"
    if corpus and key == "english":
        return Opening(key, *ENGLISH_STARTS[corpus])
    if corpus:
        return Opening(key, TITLE_START, "")
    return Opening(key, prompt, prompt)


def begin(prompt: str, key: str) -> tuple[Served, Opening]:
    """The model that answers a prompt, and how the answer begins.

    Raises:
        UserError: a prompt that is empty or too long, or an unknown model.
    """
    check_prompt(prompt)
    models = served_models()
    opening = choose(prompt, key, models)
    return find_model(opening.model, models), opening


def answer(
    prompt: str,
    key: str,
    temperature: float = 0.8,
    top_p: float = 0.95,
    length: int = 300,
    seed: int = 0,
    kept: str | None = None,
) -> Iterator[str]:
    """Yield the answer as it grows: the opening line and what the model writes on from it.

    Args:
        prompt: an opening line, or a request for poetry, for Oz or, in Chinese, for a quatrain, which the model that
            knows them answers. A Chinese line goes to the Chinese model.
        key: the model, a key of [`served_models`].
        temperature: 0, or 0.01 to 2; see [`training.generate.stream_text`].
        top_p: 0.01 to 1; see there.
        length: tokens to write, 1 to 1,000: characters, or byte pairs.
        seed: the same seed gives the same text; 0 draws anew.
        kept: how the answer begins, where it is to go on from an earlier one.

    Raises:
        UserError: a prompt that is empty or too long, a beginning that is too long, a setting out of its range, an
            unknown model, or one that cannot be loaded.
    """
    served, (_, start, text, end) = begin(prompt, key)
    check_settings(temperature, top_p, length, seed)
    if kept is not None:
        check_text(kept)
        start, text = start + kept[len(text) :], kept
    model, tokenizer = load(served)
    pieces = stream_text(
        model,
        tokenizer,
        prompt=start,
        max_new_tokens=int(length),
        temperature=temperature,
        top_p=top_p,
        seed=int(seed) or random.randrange(1, LARGEST_SEED),
    )
    ended = False
    while not ended:
        more, ended = WRITERS.submit(take_turn, pieces).result()
        text += more
        if end and end in text:
            text, ended = text.partition(end)[0], True
        yield text


def take_turn(pieces: Iterator[str]) -> tuple[str, bool]:
    """What comes in the time of one turn, and whether that was all."""
    until, text = time.monotonic() + TURN, ""
    for piece in pieces:
        text += piece
        if time.monotonic() > until:
            return text, False
    return text, True
