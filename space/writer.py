"""The models that the Space serves, and what they answer."""

import json
import os
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from modeling import PRESETS  # this import also makes Ozymandias known to the Auto classes
from training.command import UserError, in_one_line
from training.generate import stream_text

CHECKPOINTS = Path(__file__).with_name("checkpoints")
EVOLUTION = tuple(PRESETS)
LONGEST_PROMPT = 2000  # characters
LONGEST_TEXT = 1000  # new tokens
BETWEEN_UPDATES = 0.05  # seconds: a browser need not draw every character
TITLE_START = "\n\n"  # what a new poem or paragraph begins after

ASKS = r"(?:please\W+|(?:can|could|would|will) you\W+|i(?:'d| would) like\W+|i want\W+)*"
VERB = r"(?:write|tell|give|show|sing|recite|make|compose|read|say)"
POETRY, OZ = r"(?:poem|poems|poetry|verse|verses|sonnet)", r"(?:oz|wizard)"


@dataclass(frozen=True)
class Served:
    """A checkpoint that can be picked: its folder or Hub id, a revision of that, and the name that the page shows."""

    source: str
    revision: str | None
    label: str


def served_models() -> dict[str, Served]:
    """The checkpoints to pick from, by key: the one that `OZYMANDIAS_MODEL` names, then those in the repository.

    `OZYMANDIAS_MODEL` is a folder or a Hub id, with `@REVISION` behind it to pin one.
    """
    models = {}
    if named := os.environ.get("OZYMANDIAS_MODEL"):
        source, _, revision = named.partition("@")
        models["named"] = Served(source, revision or None, source)
    folders = [f"poetry-{step}" for step in EVOLUTION] + ["oz-modern"]
    for name in folders:
        folder = CHECKPOINTS / name
        if folder.is_dir():
            models[name] = Served(str(folder), None, label(name, folder))
    return models


@lru_cache
def label(name: str, folder: Path) -> str:
    """`Poetry 4: gpt, 0.84M, loss 1.62`, with the number of parameters, from the run record beside the weights."""
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    corpus, _, step = name.partition("-")
    number = f" {EVOLUTION.index(step) + 1}" if corpus == "poetry" else ""
    size = f"{record['parameters'] / 1e6:.2f}M"
    return f"{corpus.capitalize()}{number}: {step}, {size}, loss {record['best_validation_loss']:.2f}"


@lru_cache(maxsize=8)
def load(served: Served) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a checkpoint, once.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(served.source, revision=served.revision)
        model = AutoModelForCausalLM.from_pretrained(served.source, revision=served.revision)
    except Exception as error:  # transformers, safetensors and the Hub client each have their own for a bad checkpoint
        raise UserError(
            f"the model {served.source} cannot be loaded ({in_one_line(error)[:200]}); "
            "pick another one, or fetch or train it again."
        ) from error
    return model.eval(), tokenizer


def check_prompt(prompt: str) -> str:
    """What is wrong with a prompt and what to do, or nothing."""
    if not prompt.strip():
        return "There is nothing to write on from: give an opening line, or ask for poetry or for Oz."
    if len(prompt) > LONGEST_PROMPT:
        return f"This text has {len(prompt):,} characters; give at most {LONGEST_PROMPT:,}."
    return ""


def asked_for(prompt: str) -> str:
    """`"poetry"` or `"oz"` where the reader asks for one, such as "Write me a poem"; nothing for an opening line."""
    for corpus, words in (("oz", OZ), ("poetry", POETRY)):
        asked = rf"\W*{ASKS}{VERB}\b.*\b{words}\b.*"
        if re.fullmatch(rf"{asked}|\W*(?:{ASKS})(?:a|an|some|the)?\s*{words}\W*(?:please)?\W*", prompt, re.I | re.S):
            return corpus
    return ""


def answer(
    prompt: str, key: str, temperature: float = 0.8, top_p: float = 0.95, length: int = 300, seed: int = 0
) -> Iterator[str]:
    """Yield the answer as it grows: the opening line and what the model writes on from it.

    Args:
        prompt: an opening line, or a request for poetry or for Oz, which the model of that corpus answers.
        key: the model, a key of [`served_models`].
        temperature, top_p: see [`training.generate.stream_text`].
        length: characters to write.
        seed: the same seed gives the same text; 0 draws anew.

    Raises:
        UserError: a prompt that is empty or too long, an unknown model, or one that cannot be loaded.
    """
    if problem := check_prompt(prompt):
        raise UserError(problem)
    models = served_models()
    corpus = asked_for(prompt)
    if corpus and not key.startswith(corpus) and f"{corpus}-modern" in models:
        key = f"{corpus}-modern"
    if key not in models:
        raise UserError(f"there is no model '{key}'; pick one of {', '.join(models)}.")
    model, tokenizer = load(models[key])
    text = "" if corpus else prompt
    pieces = stream_text(
        model,
        tokenizer,
        prompt=TITLE_START if corpus else prompt,
        max_new_tokens=max(1, min(int(length), LONGEST_TEXT)),
        temperature=max(0.0, temperature),
        top_p=min(max(top_p, 0.01), 1.0),
        seed=int(seed) or random.randrange(1, 2**31),
    )
    shown = time.monotonic()
    for piece in pieces:
        text += piece
        if time.monotonic() - shown > BETWEEN_UPDATES:
            shown = time.monotonic()
            yield text
    yield text
