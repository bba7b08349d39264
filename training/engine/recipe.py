"""A recipe: all that decides how a model is trained. It is a YAML file, and the command line can set every field.

The fields below are the only ones there are. A recipe or a command line with another one, or with a value of the wrong
type, is refused before a corpus or a model is loaded.
"""

import argparse
import dataclasses
import difflib
import typing
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, NonNegativeInt, Tag, ValidationError
from pydantic.dataclasses import dataclass

from training.command import UserError, in_one_line
from training.data.corpora import check_corpus
from training.loading import check_checkpoint

RECIPES = Path(__file__).parent.parent / "recipes"


def number(value):
    """YAML reads 1e-3, which has no point, as text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def yes_or_no(value):
    """YAML reads `no` as false."""
    return "no" if value is False else value


Number = Annotated[float, BeforeValidator(number)]
Weights = dict[str, Annotated[float, Field(gt=0, le=1000)]]  # how many times an epoch reads each corpus
Texts = Annotated[
    Annotated[str, Tag("one")] | Annotated[Weights, Field(min_length=1), Tag("several")],
    Discriminator(lambda value: "several" if isinstance(value, dict) else "one"),
]

# Fields that leave the course of the losses as it is, up to rounding.
SAME_LOSSES = {"about", "trackers", "expected_loss", "expected_sample", "sample_prompt", "sample_length", "patience"}
SAME_LOSSES |= {"gradient_accumulation_steps", "gradient_checkpointing", "compile", "snapshots", "log_every"}
SAME_LOSSES |= {"evaluate_every", "checkpoint_every", "keep_checkpoints"}


def option(default, help: str, **limits):
    """A recipe field with its one explanation, which `--help` prints, and pydantic's limits on its value."""
    if isinstance(default, dict | list):
        return Field(default_factory=lambda: type(default)(default), description=help, **limits)
    return Field(default, description=help, **limits)


@dataclass(config=ConfigDict(strict=True, allow_inf_nan=False))
class Recipe:
    """The fields of a recipe.

    Raises:
        pydantic.ValidationError: a value of the wrong type or out of range; [`load_recipe`] says so in a sentence.
    """

    about: str = option("", "one line on what the recipe is for")
    corpus: Texts = option(
        "sampler",
        "a corpus of the registry (python -m training.corpora), a UTF-8 text, a folder of .txt files or a dataset "
        "of the Hub; several as one text, with + between them; or a mixture, {baum: 3, verse: 0.5}: how many times an "
        "epoch reads each, document by document in a new order, and of a fraction a random part",
    )
    final_corpus: Weights = option({}, "the mixture that the last steps read instead; corpus has to be one, too")
    final_share: Number = option(0.1, "the share of the steps that read final_corpus, where it is given", gt=0, lt=1)
    held_out: list[str] = option(
        [],
        "corpora whose validation and test splits a mixture must not have either; what has is refused, or left out "
        "with remove_overlap",
    )
    stream: bool = option(
        False,
        "corpus is a folder or a glob of .txt, .jsonl, .jsonl.gz, .jsonl.zst or .parquet shards, which are read while "
        "training goes on and need not fit in memory",
    )
    text_column: str = option("text", "the column of a dataset, or of .jsonl and .parquet shards, that holds the text")
    stream_validation: int = option(
        100_000, "characters at the beginning of a stream that are scored and never trained on", ge=1
    )
    stream_lanes: int | None = option(
        None,
        "shards of a stream that are read side by side, a number that divides batch_size and that the processes "
        "divide; null takes as many as fit, up to 8",
        ge=1,
    )
    accept_changed_corpus: bool = option(False, "use a fetched text although it differs from the expected one")
    remove_overlap: bool = option(
        False,
        "leave out of training what shares a long passage with the validation split (python -m training.data.overlap)",
    )
    tokenizer: Literal["character", "bpe"] = option(
        "character", "character, or bpe (byte-pair encoding, trained on the training split)"
    )
    vocab_size: int | None = option(
        None,
        "tokens in the vocabulary; null takes every character, or 1024 for bpe. What has no token is written in bytes",
        ge=1,
    )
    chat_tokens: bool = option(
        False,
        "have special tokens in a bpe vocabulary for what comes after pre-training: turns of a conversation, and 16 "
        "that are reserved",
    )
    start_from: str | None = option(
        None,
        "fine-tune this checkpoint (a folder or Hub id): its weights, config and tokenizer, in place of a preset's",
    )
    task: Literal["next_token", "masked", "next_passage", "copy"] = option(
        "next_token",
        "next_token for a decoder; masked, what stands in gaps, for an encoder; next_passage, the text after a "
        "source, or copy, the source itself, for an encoder-decoder",
    )
    preset: Literal["bigram", "single-head", "multi-head", "gpt", "modern"] = option(
        "modern", "where the model's config starts: bigram, single-head, multi-head, gpt or modern"
    )
    model: dict = option({}, "fields of OzymandiasConfig that differ from the preset, also as --model.FIELD VALUE")
    context: int = option(64, "tokens that the model sees at once (max_position_embeddings)", ge=2)
    steps: int = option(2000, "optimizer steps", ge=1)
    batch_size: int = option(
        12, "windows of `context` tokens in each optimizer step, over all processes together", ge=1
    )
    gradient_accumulation_steps: int = option(1, "parts that each process splits its share of a batch into", ge=1)
    optimizer: Literal["adamw", "muon"] = option(
        "adamw", "adamw, or muon (Muon for the blocks' matrices, AdamW for the rest)"
    )
    learning_rate: Number = option(1e-3, "peak learning rate of AdamW", ge=0)
    matrix_learning_rate: Number = option(0.02, "peak learning rate of Muon", ge=0)
    matrix_momentum: Number = option(0.95, "Muon's decay of its momentum; shorter runs want less", ge=0, lt=1)
    weight_decay: Number = option(0.1, "decoupled weight decay on matrices", ge=0)
    beta1: Number = option(0.9, "AdamW's decay of the first moment", ge=0, lt=1)
    beta2: Number = option(0.99, "AdamW's decay of the second moment", ge=0, lt=1)
    warmup_steps: int = option(100, "steps over which the learning rate rises from 0", ge=0)
    decay_share: Number = option(
        0.8, "share of the steps, at the end, over which the learning rate falls to 0", gt=0, le=1
    )
    average_decay: Number = option(
        0.0,
        "score and keep an exponential moving average of the weights with this decay a step; 0 keeps the weights",
        ge=0,
        lt=1,
    )
    gradient_clip: Number = option(1.0, "largest norm of the gradient; 0 does not clip", ge=0)
    gradient_checkpointing: bool = option(
        False, "keep only what enters each block, and compute the rest again: less memory, a third more time"
    )
    compile: bool = option(False, "compile the model: half a minute once, then faster steps; on a CPU it needs g++")
    mixed_precision: Annotated[Literal["no", "fp16", "bf16"] | None, BeforeValidator(yes_or_no)] = option(
        None, "no, fp16 or bf16; null takes what `accelerate launch` says"
    )
    seed: int = option(1, "seed of the weights, the batches and the dropout", ge=0, lt=2**32)
    evaluate_every: int = option(250, "steps between scores of the whole validation split", ge=1)
    validation_characters: int | None = option(
        None,
        "score only so many characters at the beginning of the validation split while training goes on, and the "
        "whole split with the best weights at its end; null always scores the whole",
        ge=2,
    )
    patience: int | None = option(
        None,
        "stop after that many scores without a better one; 0 never stops; null is automatic: 3 where the run goes "
        "through the text more than 20 times, and 0 elsewhere",
        ge=0,
    )
    checkpoint_every: int = option(250, "steps between checkpoints to resume from", ge=1)
    keep_checkpoints: int = option(2, "how many of them are kept", ge=1)
    snapshots: list[NonNegativeInt] = option(
        [], "steps at which the model is scored and its weights are kept, such as [0, 10, 100], to look at how it grew"
    )
    log_every: int = option(10, "steps between lines in metrics.jsonl", ge=1)
    sample_prompt: str = option(
        "\n", "the text that the sample at each evaluation goes on from, or that an encoder reads", min_length=1
    )
    sample_length: int = option(200, "tokens of that sample", ge=0)
    trackers: list[str] = option([], "trackers of Accelerate besides metrics.jsonl: trackio, tensorboard ...")
    expected_loss: Number | None = option(None, "the validation loss that this recipe has reached")
    expected_sample: str = option("", "what a model of this loss writes")


FIELDS = Recipe.__pydantic_fields__
TYPES = typing.get_type_hints(Recipe)


def load_recipe(name: str, overrides: list[tuple[str, str]] = ()) -> Recipe:
    """Read a recipe by the name of a file in `training/recipes`, or by its path, and set fields on top.

    Where these change what the losses come to, the recipe's `expected_loss` and `expected_sample` no longer hold and
    are left out.

    Args:
        overrides: pairs of a field (`model.FIELD` for one of the model's config) and its YAML text.

    Raises:
        UserError: all that is wrong with the fields, in one message.
    """
    path = RECIPES / f"{name}.yaml" if (RECIPES / f"{name}.yaml").exists() else Path(name)
    written = read_fields(path)
    values, sources = dict(written), dict.fromkeys(written, f"in {path.name}")
    for field, text in overrides:
        value = field_value(field, text)
        if field.startswith("model."):
            model = values.get("model")
            value = {**(model if isinstance(model, dict) else {}), field.removeprefix("model."): value}
            field = "model"
        values[field], sources[field] = value, "on the command line"
    recipe = check_fields(values, sources)
    changed = {field for field in values if values[field] != written.get(field, default_of(field))}
    if changed - SAME_LOSSES - {"seed"} and not changed & {"expected_loss"}:
        recipe = dataclasses.replace(recipe, expected_loss=None, expected_sample="")
    return recipe


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


def field_value(field: str, text: str):
    """What a command line says of a field. A field of text takes it as it stands: a corpus called 1984 is text."""
    accepted = TYPES.get(field)
    if field == "corpus" and not text.startswith("{"):
        return text
    if accepted is str or (accepted == str | None and text != "null"):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def check_fields(values: dict, sources: dict[str, str]) -> Recipe:
    """The recipe of these values.

    Args:
        sources: for each field, where its value comes from.

    Raises:
        UserError: every unknown field and every wrong value, each with its source.
    """
    wrong = [f"{name} ({sources[name]}) {unknown_field(str(name))}" for name in values if name not in FIELDS]
    known = {name: value for name, value in values.items() if name in FIELDS}
    try:
        recipe = Recipe(**known)
        wrong += check_heads(recipe, sources) + check_mixture(recipe, sources)
    except ValidationError as error:
        for problem in error.errors():
            name, rule = problem["loc"][0], problem["msg"].partition(" ")[2]  # "Input should be a valid integer"
            key = problem["loc"][-1] if isinstance(values[name], dict) and len(problem["loc"]) > 1 else ""
            of = f" of {key}" if key not in ("", "several") else ""
            wrong.append(f"{name}{of} ({sources[name]}) {rule}, and is {problem['input']!r}")
    if wrong:
        raise UserError("; ".join(wrong) + ".")
    return recipe


def unknown_field(name: str) -> str:
    near = difflib.get_close_matches(name, FIELDS, n=1)
    return f"is not a field of a recipe ({f'did you mean {near[0]}?' if near else '--help lists them'})"


def check_mixture(recipe: Recipe, sources: dict[str, str]) -> list[str]:
    """Look for fields that do not go with a mixture, or only with one."""
    source = sources.get("corpus", "the default")
    if isinstance(recipe.corpus, dict):
        if recipe.stream:
            return [f"corpus ({source}) is a mixture, which no stream reads; give the shards alone, or stream: false"]
        if recipe.task == "copy":
            return [f"corpus ({source}) is a mixture, and the task copy takes the letters of one text; name one corpus"]
        return []
    only = [name for name in ("final_corpus", "held_out") if getattr(recipe, name)]
    return [f"{name} needs a mixture as corpus ({source}), such as {{{recipe.corpus}: 1}}" for name in only]


def check_heads(recipe: Recipe, sources: dict[str, str]) -> list[str]:
    """Look for the commonest mistake in a model's fields here: the config that would find it takes seconds to import.

    The preset's own width and heads stand in for what is not given.
    """
    fields = {"hidden_size": 128, "num_attention_heads": 1 if recipe.preset == "single-head" else 4, **recipe.model}
    width, heads = fields["hidden_size"], fields["num_attention_heads"]
    if recipe.start_from or fields.get("head_dim") or type(width) is not int or type(heads) is not int:
        return []
    if heads > 0 and width % heads == 0:
        return []
    return [
        f"model ({sources.get('model', 'as the preset has it')}) has num_attention_heads {heads}, which must divide "
        f"hidden_size {width}; change one of them, or give head_dim"
    ]


def check_inputs(recipe: Recipe) -> None:
    """Look whether the corpus and the checkpoint that a recipe names are there.

    Raises:
        UserError: one is not, with what to give.
    """
    if not recipe.stream:
        for name in (*([recipe.corpus] if isinstance(recipe.corpus, str) else recipe.corpus), *recipe.final_corpus):
            check_corpus(name)
        for name in recipe.held_out:
            check_corpus(name)
    if recipe.start_from:
        check_checkpoint(recipe.start_from)


def default_of(field: str):
    return FIELDS[field].get_default(call_default_factory=True)


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """Give the parser one option for each field of a recipe, with its explanation and default."""
    group = parser.add_argument_group("recipe fields", "each overrides the recipe; the defaults are of no recipe")
    for name, field in FIELDS.items():
        group.add_argument(f"--{name}", metavar="VALUE", help=f"{field.description} (default {default_of(name)!r})")


def overrides_from_arguments(arguments: argparse.Namespace, others: list[str]) -> list[tuple[str, str]]:
    """The fields that a parsed command line sets, each with its text. `others` are the options that the parser lacks.

    Raises:
        UserError: an option that is no field of a recipe.
    """
    overrides = [(name, text) for name in FIELDS if (text := getattr(arguments, name)) is not None]
    rest = list(others)
    while rest:
        option, equals, value = rest.pop(0).partition("=")
        if not option.startswith("--model."):
            raise UserError(f"{option} {unknown_field(option.removeprefix('--'))}.")
        if not equals and not rest:
            raise UserError(f"{option} needs a value.")
        overrides.append((option.removeprefix("--"), value if equals else rest.pop(0)))
    return overrides
