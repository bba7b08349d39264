"""A recipe: everything that decides how a model is trained, as a YAML file whose every field the command line can set.

The fields below are the only ones there are. A recipe or a command line with another one, or with a value of the wrong
type, is refused before a corpus or a model is loaded.
"""

import argparse
import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from training.command import UserError, in_one_line

RECIPES = Path(__file__).with_name("recipes")


def option(default, help: str, least: float | None = None, choices: tuple | None = None):
    """A recipe field with its one explanation, which `--help` prints, and the values that it takes."""
    metadata = {"help": help, "least": least, "choices": choices}
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Recipe:
    """The fields of a recipe."""

    about: str = option("", "one line on what the recipe is for")
    corpus: str = option(
        "sampler",
        "a corpus of the registry (python -m training.corpora), a UTF-8 text, a folder of .txt files or a dataset of "
        "the Hub; several with + between them",
    )
    stream: bool = option(
        False,
        "corpus is a folder or a glob of .txt, .jsonl, .jsonl.gz, .jsonl.zst or .parquet shards, which are read while "
        "training goes on and need not fit in memory",
    )
    text_column: str = option("text", "the column of a dataset, or of .jsonl and .parquet shards, that holds the text")
    stream_validation: int = option(
        100_000, "characters at the beginning of a stream that are scored and never trained on", least=1
    )
    stream_lanes: int | None = option(
        None,
        "shards of a stream that are read side by side, a number that divides batch_size and that the processes "
        "divide; null takes as many as fit, up to 8",
        least=1,
    )
    accept_changed_corpus: bool = option(False, "use a fetched text although it differs from the expected one")
    remove_overlap: bool = option(
        False, "leave out of training what shares a long passage with the validation split (python -m training.overlap)"
    )
    tokenizer: str = option(
        "character",
        "character, or bpe (byte-pair encoding, trained on the training split)",
        choices=("character", "bpe"),
    )
    vocab_size: int | None = option(
        None,
        "tokens in the vocabulary; null takes every character, or 1024 for bpe. What has no token is written in bytes",
        least=1,
    )
    start_from: str | None = option(
        None,
        "fine-tune this checkpoint (a folder or Hub id): its weights, config and tokenizer, in place of a preset's",
    )
    task: str = option(
        "next_token",
        "next_token for a decoder; masked, what stands in gaps, for an encoder; next_passage, the text after a source, "
        "or copy, the source itself, for an encoder-decoder",
        choices=("next_token", "masked", "next_passage", "copy"),
    )
    preset: str = option("modern", "where the model's config starts: bigram, single-head, multi-head, gpt or modern")
    model: dict = option({}, "fields of OzymandiasConfig that differ from the preset, also as --model.FIELD VALUE")
    context: int = option(64, "tokens that the model sees at once (max_position_embeddings)", least=2)
    steps: int = option(2000, "optimizer steps", least=1)
    batch_size: int = option(
        12, "windows of `context` tokens in each optimizer step, over all processes together", least=1
    )
    gradient_accumulation_steps: int = option(1, "parts that each process splits its share of a batch into", least=1)
    optimizer: str = option(
        "adamw", "adamw, or muon (Muon for the blocks' matrices, AdamW for the rest)", choices=("adamw", "muon")
    )
    learning_rate: float = option(1e-3, "peak learning rate of AdamW", least=0)
    matrix_learning_rate: float = option(0.02, "peak learning rate of Muon", least=0)
    matrix_momentum: float = option(0.95, "Muon's decay of its momentum; shorter runs want less")
    weight_decay: float = option(0.1, "decoupled weight decay on matrices", least=0)
    beta1: float = option(0.9, "AdamW's decay of the first moment")
    beta2: float = option(0.99, "AdamW's decay of the second moment")
    warmup_steps: int = option(100, "steps over which the learning rate rises from 0", least=0)
    decay_share: float = option(0.8, "share of the steps, at the end, over which the learning rate falls to 0")
    average_decay: float = option(
        0.0, "score and keep an exponential moving average of the weights with this decay a step; 0 keeps the weights"
    )
    gradient_clip: float = option(1.0, "largest norm of the gradient; 0 does not clip", least=0)
    gradient_checkpointing: bool = option(
        False, "keep only what enters each block, and compute the rest again: less memory, a third more time"
    )
    compile: bool = option(False, "compile the model: half a minute once, then faster steps; on a CPU it needs g++")
    mixed_precision: str | None = option(
        None, "no, fp16 or bf16; null takes what `accelerate launch` says", choices=(None, "no", "fp16", "bf16")
    )
    seed: int = option(1, "seed of the weights, the batches and the dropout")
    evaluate_every: int = option(250, "steps between scores of the whole validation split", least=1)
    validation_characters: int | None = option(
        None,
        "score only so many characters at the beginning of the validation split while training goes on, and the whole "
        "split with the best weights at its end; null always scores the whole",
        least=2,
    )
    patience: int = option(0, "stop after that many scores without a better one; 0 never stops", least=0)
    checkpoint_every: int = option(250, "steps between checkpoints to resume from", least=1)
    keep_checkpoints: int = option(2, "how many of them are kept", least=1)
    snapshots: list = option(
        [], "steps at which the model is scored and its weights are kept, such as [0, 10, 100], to look at how it grew"
    )
    log_every: int = option(10, "steps between lines in metrics.jsonl", least=1)
    sample_prompt: str = option(
        "\n", "the text that the sample at each evaluation goes on from, or that an encoder reads"
    )
    sample_length: int = option(200, "tokens of that sample", least=0)
    trackers: list = option([], "trackers of Accelerate besides metrics.jsonl: trackio, tensorboard ...")
    expected_loss: float | None = option(None, "the validation loss that this recipe has reached")
    expected_sample: str = option("", "what a model of this loss writes")


FIELDS = {f.name: f for f in dataclasses.fields(Recipe)}
TYPES = typing.get_type_hints(Recipe)
TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "fields",
    list: "a list",
    type(None): "null",
}


def load_recipe(name: str, overrides: list[tuple[str, str]] = ()) -> Recipe:
    """Read a recipe by the name of a file in `training/recipes`, or by its path, and set fields on top.

    Args:
        overrides: pairs of a field (`model.FIELD` for one of the model's config) and its YAML text.

    Raises:
        UserError: all that is wrong with the fields, in one message.
    """
    path = RECIPES / f"{name}.yaml" if (RECIPES / f"{name}.yaml").exists() else Path(name)
    values = read_fields(path)
    sources = dict.fromkeys(values, path.name)
    for field_name, text in overrides:
        if field_name.startswith("model."):
            value = {**(values.get("model") or {}), field_name.removeprefix("model."): parse_yaml(text)}
            field_name = "model"
        else:
            value = parse_yaml(text)
            if TYPES.get(field_name) is str:
                value = text  # a corpus called 1984 is text
        values[field_name], sources[field_name] = value, "the command line"
    wrong = []
    for field_name in list(values):
        if problem := check_field(field_name, values):
            wrong.append(f"{field_name} (in {sources[field_name]}) {problem}")
    if wrong:
        raise UserError("; ".join(wrong) + ".")
    return Recipe(**values)


def read_fields(path: Path) -> dict:
    """The fields of a recipe file as YAML has them."""
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise UserError(f"there is no recipe '{path}'; give one of {known}, or the path of a YAML file.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path} is not YAML: {in_one_line(error)}.") from None
    if not isinstance(values, dict):
        raise UserError(f"recipe {path} must be a list of `field: value` lines; it is a {type(values).__name__}.")
    return values


def parse_yaml(text: str):
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def check_field(name: str, values: dict) -> str:
    """Bring a field's value into its type in place; returns what is wrong with it, or nothing."""
    if name not in FIELDS:
        return f"is not a field of a recipe; the fields are {', '.join(FIELDS)}"
    given, accepted = values[name], typing.get_args(TYPES[name]) or (TYPES[name],)
    values[name] = value = convert(given, accepted)
    if type(value) not in accepted:
        return f"must be {' or '.join(TYPE_NAMES[t] for t in accepted)}, and is {given!r}"
    least, choices = FIELDS[name].metadata["least"], FIELDS[name].metadata["choices"]
    if least is not None and value is not None and value < least:
        return f"must be at least {least}, and is {given!r}"
    if choices and value not in choices:
        return f"must be one of {', '.join(map(str, choices))}, and is {given!r}"
    if name == "decay_share" and not 0 < value <= 1:
        return f"must be above 0 and at most 1, and is {given!r}"
    if name == "average_decay" and not 0 <= value < 1:
        return f"must be at least 0 and below 1, and is {given!r}"
    if name == "snapshots" and not all(type(step) is int and step >= 0 for step in value):
        return f"must be steps, such as [0, 10, 100], and is {given!r}"
    if name == "sample_prompt" and not value:
        return "must have at least one character, such as a line end"
    return ""


def convert(value, accepted: tuple[type, ...]):
    """Mend what YAML makes of values: 1e-3, which has no point, is text to it, 1 is no float, and `no` is false."""
    if str in accepted and value is False:
        return "no"
    if float in accepted and type(value) in (int, str):
        try:
            return float(value)
        except ValueError:
            pass
    return value


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """Give the parser one option for each field of a recipe, with its explanation and default."""
    group = parser.add_argument_group("recipe fields", "each overrides the recipe; the defaults are of no recipe")
    for name, f in FIELDS.items():
        default = f.default if f.default is not dataclasses.MISSING else f.default_factory()
        group.add_argument(f"--{name}", metavar="VALUE", help=f"{f.metadata['help']} (default {default!r})")


def overrides_from_arguments(arguments: argparse.Namespace, others: list[str]) -> list[tuple[str, str]]:
    """The fields that a parsed command line sets, each with its text. `others` are the options that the parser lacks.

    Raises:
        UserError: an option that is no field of a recipe.
    """
    overrides = [(name, text) for name in FIELDS if (text := getattr(arguments, name)) is not None]
    rest = list(others)
    while rest:
        option_name, equals, value = rest.pop(0).partition("=")
        if not option_name.startswith("--model."):
            raise UserError(f"unknown option {option_name}; the fields of a recipe are {', '.join(FIELDS)}.")
        if not equals and not rest:
            raise UserError(f"{option_name} needs a value.")
        overrides.append((option_name.removeprefix("--"), value if equals else rest.pop(0)))
    return overrides
