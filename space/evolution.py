"""Growth in three ways: five models side by side, one run from step to step, and three tokenizers."""

import json
from collections.abc import Iterator
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from space.inside import load_traceable, make_traceable, score_tokens
from space.loading import load_once, local_folder
from space.token_scores import ScoredToken
from space.writer import CHECKPOINTS, EVOLUTION, answer, served_models
from training.command import UserError
from training.engine.checkpoints import BEST, METRICS, list_snapshots, load_snapshot, record_path

GROWTH = CHECKPOINTS / "poetry-growth"
LABORATORY = ("characters", "bpe", "bytes")
LONGEST_SAMPLE = 500  # characters

Curve = list[tuple[int, float]]  # (step, validation loss)


def read_curve(folder: Path) -> Curve:
    """The validation losses in the run record of a checkpoint; empty if there is none."""
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    points = [json.loads(line) for line in lines]
    return [(point["step"], point["validation_loss"]) for point in points if "validation_loss" in point]


def five_models() -> list[str]:
    """The keys of the five steps of the evolution that are served."""
    return [key for step in EVOLUTION if (key := f"poetry-{step}") in served_models()]


def write_together(prompt: str, keys: list[str], length: int, seed: int) -> Iterator[dict[str, str]]:
    """Yield what each model has written so far, while all of them write in turns."""
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
    """The folder of a run with snapshots: the named checkpoint's, or else the one in the repository."""
    return next((folder for folder in (named_run(), GROWTH) if folder and list_snapshots(folder)), None)


def named_run() -> Path | None:
    """The folder of the named checkpoint's run, if it has a run record, here or on the Hub."""
    if (named := served_models().get("named")) is None:
        return None
    try:
        path = record_path(local_folder(named.source, named.revision))
    except UserError:  # loading the model will raise it again, where it is shown
        return None
    return path.parent if path else None


def best_of(run: Path) -> Path:
    """The checkpoint of a run: `best/` beside the snapshots, or the folder itself where the run was published."""
    return run / BEST if (run / BEST).is_dir() else run


@load_once
def load_snapshot_of(folder: Path, step: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of a run as it was after a training step, ready to be traced.

    Raises:
        UserError: the run has no such snapshot, or it cannot be read.
    """
    trained, tokenizer = load_traceable(str(best_of(folder)))
    model = make_traceable(type(trained)(trained.config))
    path = list_snapshots(folder).get(step)
    if path is None:
        raise UserError(f"There is no snapshot of step {step}; pick another one.")
    load_snapshot(model, path)
    return model, tokenizer


def score_by(kind: str, text: str) -> tuple[PreTrainedModel, list[ScoredToken]]:
    """Score a text with the model of one of [`LABORATORY`]'s tokenizers; returns the model and the scored tokens.

    Raises:
        UserError: the model is missing, or the text is empty.
    """
    folder = CHECKPOINTS / f"lab-{kind}"
    if not folder.is_dir():
        raise UserError(f"the model lab-{kind} is not there; train it with the recipe of the same name.")
    model, tokenizer = load_traceable(str(folder))
    return model, score_tokens(model, tokenizer, "\n", text)  # after a line end, so that the first one is scored too
