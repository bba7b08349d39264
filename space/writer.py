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

from modeling import PRESETS
from space.language import VisitorError, check_encodable, say
from space.loading import load_checkpoint, load_config, load_once, short_name
from training.command import UserError
from training.data.quatrains import request
from training.evaluation.quality import is_chinese
from training.evaluation.sampling import stream_text
from training.loading import check_checkpoint

CHECKPOINTS = Path(__file__).with_name("checkpoints")
EVOLUTION = tuple(PRESETS)
LONGEST_PROMPT = 2000  # characters
LONGEST_ANSWER = 1000  # new tokens
COLDEST, HOTTEST = 0.01, 2.0  # temperatures besides 0: logits divided by a smaller number overflow
NARROWEST = 0.01  # the smallest top_p
LARGEST_SEED = 2**31 - 1
LONGEST_READ = 8000  # characters of an answer, or of another text, that a model reads to explain or continue it
TURN = 0.05  # seconds of writing before the visitor sees more: nobody reads character by character
# Two threads write all answers in turns, first come, first served. If every answer had a thread of its own, they would
# take Python's lock from each other after every few operations and get half the work done.
WRITERS = ThreadPoolExecutor(2, "writer")
TITLE_START = "\n\n"  # precedes a new poem or paragraph
# The prompt for the English model, which has read novels too, and the part of it that the visitor sees: a poem comes
# after a number, a story begins with its heroine.
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
    """A checkpoint that can be chosen: its folder or Hub id, and a revision on the Hub."""

    source: str
    revision: str | None = None


def served_models() -> dict[str, Served]:
    """The decoders, which write answers, by key: the one in `OZYMANDIAS_MODEL`, then those in the repository.

    `OZYMANDIAS_MODEL` is a folder or a Hub id, or `ID@REVISION` to pin a revision.
    """
    named = {key: model for key, model in named_model().items() if is_decoder(model.source, model.revision)}
    return named | shipped(["english", "chinese", *(f"poetry-{step}" for step in EVOLUTION)])


def inspectable_models() -> dict[str, Served]:
    """All checkpoints that visitors can look inside, by key: the decoders, and those of other architectures."""
    return named_model() | served_models() | shipped(["oz-encoder", "oz-next-passage"])


def named_model() -> dict[str, Served]:
    """The checkpoint in `OZYMANDIAS_MODEL`, if there is one, under the key `named`."""
    name = os.environ.get("OZYMANDIAS_MODEL")
    source, _, revision = (name or "").partition("@")
    return {"named": Served(source, revision or None)} if source else {}


def check_named() -> None:
    """Check the folder in `OZYMANDIAS_MODEL`, if it is one.

    Raises:
        UserError: it is no checkpoint; the message suggests one that is.
    """
    for model in named_model().values():
        check_checkpoint(model.source)


def shipped(names: list[str]) -> dict[str, Served]:
    return {name: Served(str(CHECKPOINTS / name)) for name in names if (CHECKPOINTS / name).is_dir()}


@lru_cache
def is_decoder(source: str, revision: str | None) -> bool:
    """Whether a checkpoint is a decoder. One that cannot be read counts as such: loading it will raise the error."""
    try:
        config = load_config(source, revision)
    except (OSError, ValueError):
        return True
    return config.is_causal and not config.is_encoder_decoder


def default_model() -> str:
    """The key of the model that is selected at first: the named one, or else the best English one.

    Raises:
        UserError: there is no model at all.
    """
    models = served_models()
    for key in ("named", "english", "poetry-modern", *models):
        if key in models:
            return key
    raise UserError("there is no checkpoint to serve; name one: OZYMANDIAS_MODEL=FOLDER_OR_HUB_ID.")


@lru_cache
def label(key: str, language: str) -> str:
    """The label of a model in the repository, such as `Poetry 4: gpt, 0.84M, loss 1.62`, from its run record."""
    record = json.loads((CHECKPOINTS / key / "run.json").read_text(encoding="utf-8"))
    step = key.removeprefix("poetry-")
    if step in EVOLUTION:
        name = say(language, "model_poetry", number=EVOLUTION.index(step) + 1, step=step)
    else:
        name = say(language, f"model_{key}")
    millions, loss = record["parameters"] / 1e6, record["best_validation_loss"]
    return say(language, "model_label", name=name, millions=millions, loss=loss)


def find_model(key: str, models: dict[str, Served]) -> Served:
    """The model with this key.

    Raises:
        VisitorError: there is none; the message lists the keys that exist.
    """
    if not isinstance(key, str) or key not in models:
        raise VisitorError("no_model", name=quote(key), names=", ".join(models))
    return models[key]


def choices(models: dict[str, Served], language: str) -> list[tuple[str, str]]:
    """The label and the key of each model, for a list on the page; the named one is shown by its folder or Hub id."""
    return [
        (short_name(served.source) if key == "named" else label(key, language), key) for key, served in models.items()
    ]


@load_once
def load(served: Served) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a checkpoint for writing, once. Its errors are those of [`load_checkpoint`]."""
    model, tokenizer = load_checkpoint(served.source, served.revision)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def check_text(text: str, most: int = LONGEST_READ) -> None:
    """Check that a value is a string of at most `most` characters, all of which can be encoded.

    Raises:
        VisitorError: it is not.
    """
    if not isinstance(text, str):
        raise VisitorError("no_string", value=quote(text))
    if len(text) > most:
        raise VisitorError("long_prompt", value=len(text), most=most)
    check_encodable(text)


def check_prompt(prompt: str) -> None:
    """Raise a [`VisitorError`] for a prompt that is empty, too long or cannot be encoded."""
    check_text(prompt, LONGEST_PROMPT)
    if not prompt.strip():
        raise VisitorError("empty_prompt")


def check_settings(temperature: float, top_p: float, length: int, seed: int) -> None:
    """Check the settings of an answer: a program, or an emptied box, can send any value of any type.

    Raises:
        VisitorError: a setting is out of its range; the message has its name, value and range.
    """
    if not (is_number(temperature, 0, 0) or is_number(temperature, COLDEST, HOTTEST)):
        raise VisitorError("bad_temperature", value=quote(temperature), least=COLDEST, most=HOTTEST)
    if not is_number(top_p, NARROWEST, 1):
        raise VisitorError("bad_top_p", value=quote(top_p), least=NARROWEST)
    if not is_number(length, 1, LONGEST_ANSWER, whole=True):
        raise VisitorError("bad_length", value=quote(length), most=LONGEST_ANSWER)
    if not is_number(seed, 0, LARGEST_SEED, whole=True):
        raise VisitorError("bad_seed", value=quote(seed), most=LARGEST_SEED)


def is_number(value: object, least: float, most: float, whole: bool = False) -> bool:
    """Whether a value is a number from `least` to `most`, and a whole one if `whole` is set."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and least <= value <= most and (not whole or value == int(value))


def quote(value: object) -> str:
    """A value as an error message quotes it; an emptied box is `""`."""
    return repr("" if value is None else value)[:40]


def requested_corpus(prompt: str) -> str:
    """`"poetry"`, `"oz"` or `"chinese"` for a request such as "Write me a poem"; `""` for an opening line."""
    if re.fullmatch(CHINESE_REQUEST, prompt, re.S):
        return "chinese"
    for corpus, topic in (("oz", OZ), ("poetry", POETRY)):
        sentence = rf"\W*{ASKS}{VERB}\b.*\b{topic}\b.*"
        phrase = rf"\W*(?:{ASKS})(?:a|an|some|the)?\s*{topic}\W*(?:please)?\W*"
        if re.fullmatch(f"{sentence}|{phrase}", prompt, re.I | re.S):
            return corpus
    return ""


def quatrain_request(prompt: str) -> str:
    """The prompt that makes the Chinese model write the requested quatrain, with five or seven characters a line."""
    form = "七言绝句" if "七" in prompt else "五言绝句"
    subject = re.search(SUBJECT, prompt)
    return TITLE_START + request(form, next(filter(None, subject.groups())) if subject else "春")


class Opening(NamedTuple):
    """How an answer begins: the model's key, its prompt, the part of it that is shown, and what ends the answer."""

    model: str
    start: str
    shown: str
    end: str = ""


def choose_opening(prompt: str, key: str, models: dict[str, Served]) -> Opening:
    """How the answer to a prompt begins if the visitor has chosen the model `key`."""
    corpus = requested_corpus(prompt)
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
        UserError: the prompt is empty or too long, or the model is unknown.
    """
    check_prompt(prompt)
    models = served_models()
    opening = choose_opening(prompt, key, models)
    return find_model(opening.model, models), opening


def answer(
    prompt: str,
    key: str,
    temperature: float = 0.8,
    top_p: float = 0.95,
    length: int = 300,
    seed: int = 0,
    beginning: str | None = None,
) -> Iterator[str]:
    """Yield the answer as it grows: the opening line and the model's continuation.

    Args:
        prompt: an opening line, or a request for poetry, for Oz or, in Chinese, for a quatrain. Requests are answered
            by the model that was trained for them, and Chinese lines by the Chinese model.
        key: the model, a key of [`served_models`].
        temperature: 0, or 0.01 to 2; see [`training.generate.stream_text`].
        top_p: 0.01 to 1; see there.
        length: tokens to write, 1 to 1,000: characters, or byte pairs.
        seed: the same seed gives the same text; 0 chooses a new one.
        beginning: the beginning of an earlier answer, which is to be continued.

    Raises:
        UserError: the prompt is empty or too long, the beginning is too long, a setting is out of its range, or the
            model is unknown or cannot be loaded.
    """
    served, (_, start, text, end) = begin(prompt, key)
    check_settings(temperature, top_p, length, seed)
    if beginning is not None:
        check_text(beginning)
        start, text = start + beginning[len(text) :], beginning
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
    """The text that is written in one turn, and whether it is the last."""
    until, text = time.monotonic() + TURN, ""
    for piece in pieces:
        text += piece
        if time.monotonic() > until:
            return text, False
    return text, True
