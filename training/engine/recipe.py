"""A recipe: everything that decides how a model is trained. It is a YAML file; the command line can set every field.

The fields below are all there are. Unknown fields and values of the wrong type are refused before a corpus or a model
is loaded.
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
    """YAML reads 1e-3, which has no decimal point, as text."""
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

# Fields that do not affect the losses, up to rounding. A run can be resumed with other values of these.
SAME_LOSSES = {"about", "trackers", "expected_loss", "expected_sample", "sample_prompt", "sample_length", "patience"}
SAME_LOSSES |= {"gradient_accumulation_steps", "gradient_checkpointing", "compile", "snapshots", "log_every"}
SAME_LOSSES |= {"evaluate_every", "checkpoint_every", "keep_checkpoints"}


def option(default, help: str, **limits):
    """A recipe field with its explanation, which `--help` prints, and pydantic's limits on its value."""
    if isinstance(default, dict | list):
        return Field(default_factory=lambda: type(default)(default), description=help, **limits)
    return Field(default, description=help, **limits)


@dataclass(config=ConfigDict(strict=True, allow_inf_nan=False))
class Recipe:
    """The fields of a recipe.

    Raises:
        pydantic.ValidationError: a value of the wrong type or out of range; [`load_recipe`] turns it into a sentence.
    """

    about: str = option("", "one line on what the recipe is for")

    # data
    corpus: Texts = option(
        "sampler",
        "a corpus of this project (python -m training.corpora lists them), a UTF-8 text, a folder of .txt files or a "
        "dataset of the Hub; several joined by + are read as one text; {baum: 3, verse: 0.5} is a mixture: how many "
        "times an epoch reads each corpus, document by document in a new order, and of a fraction a random part",
    )
    final_corpus: Weights = option({}, "the mixture that the last steps read instead; corpus must be a mixture, too")
    final_share: Number = option(0.1, "the fraction of the steps that read final_corpus, if there is one", gt=0, lt=1)
    held_out: list[str] = option(
        [],
        "further corpora whose validation and test splits must not occur in a mixture; documents that contain them are "
        "refused, or left out with remove_overlap",
    )
    stream: bool = option(
        False,
        "read the corpus, a folder or a glob of .txt, .jsonl, .jsonl.gz, .jsonl.zst or .parquet shards, during "
        "training; it need not fit in memory",
    )
    text_column: str = option("text", "the column of a dataset, or of .jsonl and .parquet shards, that holds the text")
    stream_validation: int = option(
        100_000, "characters at the beginning of a stream that are held out for validation", ge=1
    )
    stream_lanes: int | None = option(
        None,
        "shards of a stream that are read in parallel: a divisor of batch_size and a multiple of the number of "
        "processes; null takes as many as possible, up to 8",
        ge=1,
    )
    accept_changed_corpus: bool = option(False, "use a downloaded text even if it differs from the expected one")
    remove_overlap: bool = option(
        False,
        "leave passages out of training that overlap with the validation split (python -m training.data.overlap)",
    )

    # tokenizer
    tokenizer: Literal["character", "bpe"] = option(
        "character", "character, or bpe (byte-pair encoding, trained on the training split)"
    )
    vocab_size: int | None = option(
        None,
        "tokens in the vocabulary; null takes every character, or 1024 tokens for bpe. Characters without a token are "
        "encoded as bytes",
        ge=1,
    )
    chat_tokens: bool = option(
        False,
        "add special tokens to a bpe vocabulary that post-training needs: the turns of a conversation, and 16 reserved "
        "ones",
    )

    # model
    start_from: str | None = option(
        None, "fine-tune this checkpoint (a folder or Hub id): its weights, config and tokenizer replace the preset's"
    )
    task: Literal["next_token", "masked", "next_passage", "copy"] = option(
        "next_token",
        "next_token for a decoder; masked (fill gaps) for an encoder; next_passage (write the text after a source) or "
        "copy (repeat the source) for an encoder-decoder",
    )
    preset: Literal["bigram", "single-head", "multi-head", "gpt", "modern"] = option(
        "modern", "the model's config to start from: bigram, single-head, multi-head, gpt or modern"
    )
    model: dict = option({}, "fields of OzymandiasConfig that differ from the preset; also --model.FIELD VALUE")
    context: int = option(64, "tokens that the model sees at once (max_position_embeddings)", ge=2)

    # optimisation
    steps: int = option(2000, "optimizer steps", ge=1)
    batch_size: int = option(12, "windows of `context` tokens in each optimizer step, over all processes", ge=1)
    gradient_accumulation_steps: int = option(
        1, "micro-batches that each process splits its part of a batch into", ge=1
    )
    optimizer: Literal["adamw", "muon"] = option(
        "adamw", "adamw, or muon (Muon for the blocks' matrices, AdamW for the rest)"
    )
    learning_rate: Number = option(1e-3, "peak learning rate of AdamW", ge=0)
    matrix_learning_rate: Number = option(0.02, "peak learning rate of Muon", ge=0)
    matrix_momentum: Number = option(0.95, "Muon's momentum; shorter runs need less", ge=0, lt=1)
    weight_decay: Number = option(0.1, "decoupled weight decay on matrices", ge=0)
    beta1: Number = option(0.9, "AdamW's decay of the first moment", ge=0, lt=1)
    beta2: Number = option(0.99, "AdamW's decay of the second moment", ge=0, lt=1)
    warmup_steps: int = option(100, "steps over which the learning rate rises from 0 to its peak", ge=0)
    decay_share: Number = option(
        0.8,
        "length of the cooldown in a warmup-stable-decay schedule: the fraction of the steps, at the end, over which "
        "the learning rate falls to 0",
        gt=0,
        le=1,
    )
    average_decay: Number = option(
        0.0,
        "evaluate and save an exponential moving average of the weights with this decay per step; 0 uses the weights "
        "themselves",
        ge=0,
        lt=1,
    )
    gradient_clip: Number = option(1.0, "largest norm of the gradient; 0 turns clipping off", ge=0)
    gradient_checkpointing: bool = option(
        False, "store only the input of each block and recompute the rest: less memory, a third more time"
    )
    compile: bool = option(False, "compile the model: takes half a minute, then steps are faster; a CPU needs g++")
    mixed_precision: Annotated[Literal["no", "fp16", "bf16"] | None, BeforeValidator(yes_or_no)] = option(
        None, "no, fp16 or bf16; null takes the setting of `accelerate launch`"
    )
    seed: int = option(1, "seed of the weights, the batches and the dropout", ge=0, lt=2**32)

    # evaluation
    evaluate_every: int = option(250, "steps between evaluations on the validation split", ge=1)
    validation_characters: int | None = option(
        None,
        "evaluate on only this many characters at the beginning of the validation split during training, and on the "
        "whole split with the best weights at the end; null always takes the whole split",
        ge=2,
    )
    patience: int | None = option(
        None,
        "stop after this many evaluations without a better loss; 0 never stops; null takes 3 if the run reads its text "
        "more than 20 times, and 0 otherwise",
        ge=0,
    )
    sample_prompt: str = option(
        "\n", "the text that the sample at each evaluation continues, or the input of an encoder", min_length=1
    )
    sample_length: int = option(200, "tokens of that sample", ge=0)
    expected_loss: Number | None = option(None, "the validation loss that this recipe reached")
    expected_sample: str = option("", "what a model with this loss writes")

    # records
    checkpoint_every: int = option(250, "steps between checkpoints to resume from", ge=1)
    keep_checkpoints: int = option(2, "number of these checkpoints to keep", ge=1)
    snapshots: list[NonNegativeInt] = option(
        [], "steps, such as [0, 10, 100], at which to evaluate the model and save its weights, to see how it develops"
    )
    log_every: int = option(10, "steps between lines in metrics.jsonl", ge=1)
    trackers: list[str] = option([], "Accelerate's trackers to use besides metrics.jsonl: trackio, tensorboard ...")


FIELDS = Recipe.__pydantic_fields__
GROUPS = {  # of `--help`, by their first fields
    "about": "the recipe",
    "corpus": "data",
    "tokenizer": "tokenizer",
    "start_from": "model",
    "steps": "optimisation",
    "evaluate_every": "evaluation",
    "checkpoint_every": "records",
}
TYPES = typing.get_type_hints(Recipe)


def load_recipe(name: str, overrides: list[tuple[str, str]] = ()) -> Recipe:
    """Read a recipe by its name in `training/recipes` or by its path, and override some of its fields.

    If the overrides affect the losses, the recipe's `expected_loss` and `expected_sample` no longer hold and are
    dropped.

    Args:
        overrides: pairs of a field (`model.FIELD` for one of the model's config) and its value in YAML.

    Raises:
        UserError: there is no such recipe, or fields are wrong; the message names all of them.
    """
    path = RECIPES / f"{name}.yaml" if (RECIPES / f"{name}.yaml").exists() else Path(name)
    in_file = read_fields(path)
    values, sources = dict(in_file), dict.fromkeys(in_file, f"in {path.name}")
    for field, text in overrides:
        value = field_value(field, text)
        if field.startswith("model."):
            model = values.get("model")
            value = {**(model if isinstance(model, dict) else {}), field.removeprefix("model."): value}
            field = "model"
        values[field], sources[field] = value, "on the command line"
    recipe = check_fields(values, sources)
    changed = {field for field in values if values[field] != in_file.get(field, default_of(field))}
    if changed - SAME_LOSSES - {"seed"} and not changed & {"expected_loss"}:
        recipe = dataclasses.replace(recipe, expected_loss=None, expected_sample="")
    return recipe


def read_fields(path: Path) -> dict:
    """The fields of a recipe file, as YAML reads them.

    Raises:
        UserError: there is no such file, or it is not a YAML mapping.
    """
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise UserError(f"there is no recipe '{path}'; give one of {known}, or the path of a YAML file.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path} is not YAML: {in_one_line(error)}.") from None
    if not isinstance(values, dict):
        raise UserError(f"recipe {path} must consist of `field: value` lines; it is a {type(values).__name__}.")
    return values


def field_value(field: str, text: str):
    """The value of a field on the command line. A text field takes it literally: a corpus may be called 1984."""
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
    """Build the recipe from its values.

    Args:
        sources: for each field, where its value comes from.

    Raises:
        UserError: unknown fields or wrong values; the message names all of them, with their sources.
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
            wrong.append(f"{name}{of} ({sources[name]}) {rule}; it is {problem['input']!r}")
    if wrong:
        raise UserError("; ".join(wrong) + ".")
    return recipe


def unknown_field(name: str) -> str:
    near = difflib.get_close_matches(name, FIELDS, n=1)
    return f"is not a field of a recipe ({f'did you mean {near[0]}?' if near else '--help lists them'})"


def check_mixture(recipe: Recipe, sources: dict[str, str]) -> list[str]:
    """Find fields that do not work with a mixture, or only with one. Returns what is wrong."""
    source = sources.get("corpus", "the default")
    if isinstance(recipe.corpus, dict):
        if recipe.stream:
            return [f"corpus ({source}) is a mixture, which cannot be streamed; give only the shards, or stream: false"]
        if recipe.task == "copy":
            return [f"corpus ({source}) is a mixture, and the task copy uses a single text; name one corpus"]
        return []
    only = [name for name in ("final_corpus", "held_out") if getattr(recipe, name)]
    return [f"{name} needs a mixture as the corpus ({source}), such as {{{recipe.corpus}: 1}}" for name in only]


def check_heads(recipe: Recipe, sources: dict[str, str]) -> list[str]:
    """Find the most common mistake in a model's fields early: the config that checks them takes seconds to import.

    The preset's width and heads count where the recipe sets none. Returns what is wrong.
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
    """Check that the corpora and the checkpoint that a recipe names exist.

    Raises:
        UserError: one does not; the message says what to give instead.
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
    """Add an option to the parser for each field of a recipe, with its explanation and default, in groups."""
    parser.epilog = "From `the recipe` on, every option overrides a field of it. Defaults are for fields that it omits."
    for name, field in FIELDS.items():
        if name in GROUPS:
            group = parser.add_argument_group(GROUPS[name])
        group.add_argument(f"--{name}", metavar="VALUE", help=f"{field.description} (default {default_of(name)!r})")


def overrides_from_arguments(arguments: argparse.Namespace, others: list[str]) -> list[tuple[str, str]]:
    """The recipe fields that a parsed command line sets, each with its text.

    Args:
        others: what the parser did not recognise, among it the options `--model.FIELD`.

    Raises:
        UserError: an unknown option.
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
