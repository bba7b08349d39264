"""The files that describe a run: its full recipe, the metrics line by line, the loss curve and the record."""

import dataclasses
import json
import math
import os
import platform
import shutil
from pathlib import Path

import datasets
import tokenizers
import torch
import transformers
import yaml
from accelerate import Accelerator
from accelerate import __version__ as accelerate_version
from transformers import PreTrainedModel

from training.command import UserError
from training.data.corpora import Corpus
from training.data.stream import StreamedCorpus
from training.engine.checkpoints import BEST, METRICS, RECORD, SNAPSHOTS, list_checkpoints
from training.engine.optimizers import lr_scale
from training.engine.recipe import SAME_LOSSES, Recipe
from training.files import UNFINISHED, whole_file, write_text

RECIPE, CURVE = "recipe.yaml", "loss.png"
OVERFITTED = 0.02  # nats per character above the best loss; smaller rises are noise


def open_run(folder: Path, recipe: Recipe, corpus: Corpus | StreamedCorpus, overwrite: bool) -> bool:
    """Create the folder of a run, or find an earlier run there. Returns whether that run is already finished.

    A run can be resumed with more steps, and with other values of the fields that do not affect its losses. A run that
    has not taken a step starts over.

    Raises:
        UserError: the folder cannot be written, is not a run's, or holds a run with another recipe or another text.
    """
    resolved = yaml.safe_dump(dataclasses.asdict(recipe), sort_keys=False, allow_unicode=True)
    try:
        if (folder / RECIPE).exists() and overwrite:
            shutil.rmtree(folder)
        if not (folder / RECIPE).exists() and folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} is not empty and does not hold a run; give another --output.")
        new = not has_taken_steps(folder)
        finished = not new and check_earlier(folder, recipe, corpus)
        if new:
            shutil.rmtree(folder / SNAPSHOTS, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        for unfinished in filter(Path.is_file, folder.rglob(f"*{UNFINISHED}")):  # left by a kill
            unfinished.unlink()
        if not finished:
            write_text(folder / RECIPE, resolved)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); give another --output.") from None
    if finished:
        print(f"this run is finished: {folder / BEST}; give --overwrite to train it again, or another --output")
    return finished


def has_taken_steps(folder: Path) -> bool:
    """Whether a run got past the evaluation at step 0."""
    return bool(list_checkpoints(folder)) or any(line["step"] for line in read_metrics(folder))


def check_earlier(folder: Path, recipe: Recipe, corpus: Corpus | StreamedCorpus) -> bool:
    """Check that a recipe may resume the run in the folder. Returns whether that run is finished.

    Raises:
        UserError: it may not resume it; the message names every field that differs.
    """
    here = dataclasses.asdict(recipe)
    # A field that did not exist yet when the run began counts as its default.
    there = dataclasses.asdict(Recipe()) | yaml.safe_load((folder / RECIPE).read_text(encoding="utf-8"))
    changed = [name for name in here if here[name] != there.get(name)]
    wrong = [
        f"{name} ({there.get(name)!r} there, {here[name]!r} here)"
        for name in changed
        if name not in SAME_LOSSES and not (name == "steps" and here["steps"] > there["steps"])
    ]
    if wrong:
        raise UserError(
            f"{folder} holds a run with another {', '.join(wrong)}, which would change its losses from here on; "
            "give another --output, or --overwrite to delete it."
        )
    record = json.loads((folder / RECORD).read_text(encoding="utf-8")) if (folder / RECORD).exists() else {}
    if record and record["corpus"]["sha256"] != corpus.sha256:
        raise UserError(f"'{recipe.corpus}' has changed since the run in {folder} began; give another --output.")
    extended = record.get("steps", 0) < recipe.steps and {"steps", "patience"} & set(changed)
    return bool(record.get("finished")) and not extended


def read_metrics(folder: Path) -> list[dict]:
    """The complete lines of a run's `metrics.jsonl`; a kill may have left half a line at the end."""
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


@dataclasses.dataclass
class Progress:
    """The progress of a run: what a checkpoint stores besides weights, optimizers and random states."""

    step: int = 0
    seconds: float = 0.0  # of training alone
    train_loss: float = math.inf  # the last mean over `log_every` steps
    first_loss: float = math.inf
    best_loss: float = math.inf
    last_loss: float = math.inf
    best_step: int = 0
    best_sample: str = ""
    best_scores: dict = dataclasses.field(default_factory=dict)
    evaluations_since_best: int = 0
    schedules: list = dataclasses.field(default_factory=list)  # `from_step`, and for how many `steps` in all


class RunRecord(Progress):
    """The figures of a run and the files that hold them. Every process tracks the figures; the main one writes."""

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        patience: int,
        corpus: Corpus | StreamedCorpus,
        earlier: list[dict],
        model: PreTrainedModel,
        accelerator: Accelerator,
    ):
        super().__init__()
        self.folder, self.recipe, self.patience, self.accelerator = folder, recipe, patience, accelerator
        self.corpus, self.earlier = corpus.figures(), earlier
        self.parameters, self.vocabulary = model.num_parameters(), model.config.vocab_size

    def state(self) -> dict:
        """What a checkpoint stores."""
        return dataclasses.asdict(self)

    def resume(self, state: dict | None) -> None:
        """Continue from a checkpoint's state, or start from the beginning, and drop the metrics logged after it."""
        vars(self).update(state or {})
        if not self.schedules or self.schedules[-1]["steps"] != self.recipe.steps:
            self.schedules.append({"from_step": self.step, "steps": self.recipe.steps})
        if not self.accelerator.is_main_process or not (self.folder / METRICS).exists():
            return
        lines = [line for line in read_metrics(self.folder) if state and line["step"] <= self.step]
        write_text(self.folder / METRICS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        if state:
            print(f"resuming from step {self.step:,}")
        if len(self.schedules) > 1:
            begun = " and ".join(f"{schedule['steps']:,}" for schedule in self.schedules[:-1])
            print(
                f"from step {self.schedules[-1]['from_step']:,} the learning rate follows the schedule for "
                f"{self.recipe.steps:,} steps; before, it followed the one for {begun}"
            )

    @property
    def tokens(self) -> int:
        return self.step * self.recipe.batch_size * self.recipe.context

    def log_training(self, loss: float, steps: int, seconds: float) -> float:
        """Log the mean training loss of the last `steps` and the time they took. Returns tokens per second."""
        self.seconds += seconds
        self.train_loss = loss
        speed = steps * self.recipe.batch_size * self.recipe.context / seconds
        rate = self.recipe.learning_rate * lr_scale(self.step - 1, self.recipe)  # of the step just taken
        self.log(train_loss=loss, learning_rate=rate, tokens=self.tokens, seconds=self.seconds, tokens_per_second=speed)
        return speed

    def log_evaluation(self, loss: float, sample: str, **scores: float) -> bool:
        """Log a validation loss and other scores. Returns whether the loss is the best so far."""
        self.last_loss = loss
        if self.step == 0:
            self.first_loss = loss
        better = loss < self.best_loss
        if better:
            self.best_loss, self.best_step, self.best_sample, self.best_scores = loss, self.step, sample, scores
        self.evaluations_since_best = 0 if better else self.evaluations_since_best + 1
        self.log(validation_loss=loss, **scores, seconds=self.seconds, sample=sample)
        return better

    def log(self, **values) -> None:
        """Append a line to `metrics.jsonl`, and pass the numbers to the trackers."""
        if self.accelerator.is_main_process:
            with (self.folder / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": self.step, **values}, ensure_ascii=False) + "\n")
        numbers = {name: value for name, value in values.items() if isinstance(value, float)}
        self.accelerator.log(numbers, step=self.step)

    def out_of_patience(self) -> bool:
        """Whether the last `patience` evaluations brought no better loss."""
        return 0 < self.patience <= self.evaluations_since_best

    def finish(self) -> None:
        """Mark the run as finished, and print its result."""
        self.save(finished=True)
        if self.accelerator.is_main_process:
            print(
                f"best validation loss {self.best_loss:.4f} nats per character at step {self.best_step:,}, "
                f"{self.seconds:,.0f} s of training: {self.folder / BEST}"
            )
            best = self.best_scores.get("partial_validation_loss", self.best_loss)  # on the same characters
            if self.last_loss > best + OVERFITTED:
                print(
                    f"since then it has risen to {self.last_loss:.4f} at step {self.step:,}: the model has started to "
                    "memorise the text. For a lower loss use more text, start from a trained checkpoint (--start_from "
                    "space/checkpoints/english), or add dropout (--model.hidden_dropout 0.2)"
                )

    def save(self, finished: bool = False) -> None:
        """Write `run.json` and `loss.png`."""
        if not self.accelerator.is_main_process:
            return
        record = {
            "finished": finished,
            # A run that starts from a checkpoint has no preset; the recipe's default would be wrong.
            "recipe": dataclasses.asdict(self.recipe) | ({"preset": None} if self.recipe.start_from else {}),
            "corpus": self.corpus,
            "trained_on_before": self.earlier,
            "parameters": self.parameters,
            "vocabulary": self.vocabulary,
            "steps": self.step,
            "schedules": self.schedules,
            "tokens": self.tokens,
            "training_seconds": round(self.seconds, 2),
            "train_loss": self.train_loss,
            "first_validation_loss": self.first_loss,
            "best_validation_loss": self.best_loss,
            "best_step": self.best_step,
            "final_validation_loss": self.last_loss,
            **self.best_scores,
            "sample": self.best_sample,
            "device": f"{self.accelerator.device.type}, {os.cpu_count()} cores, {platform.machine()}",
            "processes": self.accelerator.num_processes,
            "mixed_precision": self.accelerator.mixed_precision,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "accelerate": accelerate_version,
                "tokenizers": tokenizers.__version__,
                "datasets": datasets.__version__,
            },
        }
        write_text(self.folder / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        draw_curve(self.folder)


def draw_curve(folder: Path) -> None:
    """Draw `loss.png` from `metrics.jsonl`: training and validation loss against steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = read_metrics(folder)
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for key, label, style in (("train_loss", "training", "-"), ("validation_loss", "validation", "o-")):
        points = [(line["step"], line[key]) for line in lines if key in line]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=4)
    axes.set(xlabel="step", ylabel="loss, nats per character", title=folder.name)
    axes.grid(alpha=0.3)
    axes.legend()
    with whole_file(folder / CURVE) as unfinished:
        figure.savefig(unfinished, format="png", dpi=120)
    pyplot.close(figure)
