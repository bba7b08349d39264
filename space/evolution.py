"""What the page tells of growing: five models beside each other, one run from step to step, three tokenizers."""

import json
from collections.abc import Iterator
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from space.inside import load_eager, open_up, score_tokens
from space.loading import load_once, local_folder
from space.token_scores import ScoredToken
from space.writer import CHECKPOINTS, EVOLUTION, answer, served_models
from training.checkpoints import BEST, METRICS, list_snapshots, load_snapshot, record_path
from training.command import UserError

GROWTH = CHECKPOINTS / "poetry-growth"
LABORATORY = ("characters", "bpe", "bytes")
LONGEST_SAMPLE = 500  # characters that the laboratory scores

Curve = list[tuple[int, float]]  # steps, and the validation loss after each


def read_curve(folder: Path) -> Curve:
    """The validation losses of the run that a checkpoint is of."""
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    points = [json.loads(line) for line in lines]
    return [(point["step"], point["validation_loss"]) for point in points if "validation_loss" in point]


def five_models() -> list[str]:
    """The keys of the five steps of the evolution, as far as they are there."""
    return [key for step in EVOLUTION if (key := f"poetry-{step}") in served_models()]


def write_together(prompt: str, keys: list[str], length: int, seed: int) -> Iterator[dict[str, str]]:
    """Yield what each model has written by now, while all of them write in turns."""
    writing = {key: answer(prompt, key, length=length, seed=seed) for key in keys}
    texts = dict.fromkeys(keys, "")
    while writing:
        for key in list(writing):
            text = next(writing[key], None)
            if text is None:
                del writing[key]
            else:
                texts[key] = text
        yield dict(texts)


def growing_run() -> Path | None:
    """The folder of a run that has kept snapshots: that of the named checkpoint, or the one that is shipped."""
    return next((folder for folder in (named_run(), GROWTH) if folder and list_snapshots(folder)), None)


def named_run() -> Path | None:
    """The folder of the run that the named checkpoint is of, if there is a record of it, here or on the Hub."""
    if (named := served_models().get("named")) is None:
        return None
    try:
        path = record_path(local_folder(named.source, named.revision))
    except UserError:  # the model's own loading tells it
        return None
    return path.parent if path else None


def best_of(run: Path) -> Path:
    """The checkpoint of a run: beside its snapshots, or, where it was published, the same folder."""
    return run / BEST if (run / BEST).is_dir() else run


@load_once
def load_grown(folder: Path, step: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of a run as it was after a step, open to be looked into.

    Raises:
        UserError: the run has no such snapshot, or it cannot be read.
    """
    shared, tokenizer = load_eager(str(best_of(folder)))
    model = open_up(type(shared)(shared.config))
    path = list_snapshots(folder).get(step)
    if path is None:
        raise UserError(f"There is no snapshot of step {step}; pick another one.")
    load_snapshot(model, path)
    return model, tokenizer


def score_by(kind: str, text: str) -> tuple[PreTrainedModel, list[ScoredToken]]:
    """A text in the tokens of one of the laboratory's tokenizers, each with its surprise, and the model that had it.

    Raises:
        UserError: the model is not there, or the text is empty.
    """
    folder = CHECKPOINTS / f"lab-{kind}"
    if not folder.is_dir():
        raise UserError(f"the model lab-{kind} is not there; train it with the recipe of this name.")
    model, tokenizer = load_eager(str(folder))
    return model, score_tokens(model, tokenizer, "\n", text)  # after a line end, so that the first has a chance too
