"""Plan how large a model to train, and for how many steps, given a text and some minutes on this machine.

    python -m training.plan --corpus poetry --minutes 10
    python -m training.plan --corpus my.txt --minutes 2 --output runs/mine.yaml
    python -m training.pretrain --recipe runs/mine.yaml

One step of each size is timed. A scaling law predicts the loss that each size reaches in the time; it was fitted to the
runs in `scaling.json` (`python -m training.benchmarks.scaling` repeats them). Some texts are harder than others, so a
pilot of a few seconds on this text measures how far the law is off, and all predictions are shifted by that.
"""

import argparse
import dataclasses
import json
import logging
import math
import statistics
import tempfile
import time
from pathlib import Path

import yaml
from tqdm import tqdm

from training.command import UserError, run_command
from training.data.corpora import NAMES, load_corpus
from training.engine.recipe import Recipe
from training.files import write_text

SIZES = (
    (2, 64, 2),
    (2, 128, 4),
    (3, 128, 4),
    (4, 192, 6),
    (6, 256, 8),
    (6, 384, 6),
    (8, 512, 8),
)  # layers, hidden, heads
CONTEXT, BATCH = 128, 12
PILOT_SIZE, PILOT_STEPS = (2, 64, 2), 300  # the law does not hold for fewer steps
SCALING = Path(__file__).with_name("scaling.json")


@dataclasses.dataclass(frozen=True)
class Law:
    """`E + A / N^alpha + B / D'^beta`, with `D' = U + U repeats (1 - exp(-(D/U - 1) / repeats))`.

    `N` is the number of parameters, `D` of tokens seen, `U` of distinct tokens: a token is worth less each time it is
    repeated, and all repetitions together are worth at most `repeats` times the text. The unit is nats per character.

    Source: Hoffmann et al., "Training Compute-Optimal Large Language Models", 2022, https://arxiv.org/abs/2203.15556,
    equation 2; Muennighoff et al., "Scaling Data-Constrained Language Models", 2023, https://arxiv.org/abs/2305.16264,
    equation 5.
    """

    E: float
    A: float
    alpha: float
    B: float
    beta: float
    repeats: float

    def loss(self, parameters: float, tokens: float, unique: float) -> float:
        again = max(0.0, tokens / unique - 1)
        worth = min(tokens, unique) + unique * self.repeats * (1 - math.exp(-again / self.repeats))
        return self.E + self.A / parameters**self.alpha + self.B / worth**self.beta


def load_law() -> Law:
    return Law(**json.loads(SCALING.read_text(encoding="utf-8"))["law"])


def recipe_of(corpus: str, size: tuple[int, int, int], steps: int, epochs: float, seed: int = 1) -> Recipe:
    """The recipe for a model of `size` (layers, width, heads). Many epochs need dropout, or the text is memorised."""
    layers, hidden, heads = size
    model = {"num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads}
    model["num_key_value_heads"] = heads
    if epochs > 4:
        model["hidden_dropout"] = 0.1 if epochs <= 12 else 0.2
    return Recipe(
        about=f"{layers} layers, {hidden} wide, {steps} steps: by training.plan",
        corpus=corpus,
        preset="modern",
        model=model,
        context=CONTEXT,
        batch_size=BATCH,
        steps=steps,
        optimizer="muon",
        learning_rate=6e-3,
        matrix_learning_rate=0.02,
        matrix_momentum=0.9,
        warmup_steps=0,
        evaluate_every=max(1, math.ceil(steps / 8)),
        checkpoint_every=max(1, math.ceil(steps / 8)),
        seed=seed,
    )


def measure(recipe: Recipe, steps: int = 8) -> tuple[int, float]:
    """The number of parameters of a recipe's model, and the seconds that a step takes on this machine."""
    from training.engine.loop import Run

    with tempfile.TemporaryDirectory() as folder:
        run = Run(recipe, Path(folder), check_overlap=False)
        run.start()
        times = []
        for _ in range(steps + 2):
            begin = time.perf_counter()
            float(run.step())
            times.append(time.perf_counter() - begin)
        return run.model.num_parameters(), statistics.median(times[2:])


def train_once(recipe: Recipe) -> dict[str, float]:
    """Train a recipe and return only figures: parameters, tokens, the best loss and the seconds of training."""
    from training.engine.loop import Run
    from training.evaluation.scores import score_text

    with tempfile.TemporaryDirectory() as folder:
        run = Run(recipe, Path(folder))
        run.start()
        best, seconds = math.inf, 0.0
        for step in tqdm(range(1, recipe.steps + 1), desc=recipe.about, unit="step", leave=False):
            begin = time.perf_counter()
            float(run.step())
            seconds += time.perf_counter() - begin
            if step % recipe.evaluate_every == 0 or step == recipe.steps:
                best = min(best, score_text(run.model, run.tokenizer, run.corpus.validation)[0])
        tokens = recipe.steps * recipe.batch_size * recipe.context
        return {"parameters": run.model.num_parameters(), "tokens": tokens, "loss": best, "seconds": seconds}


def pilot(corpus: str, unique: int, law: Law) -> float:
    """The smallest size's loss on this text minus the law's prediction, in nats per character."""
    epochs = PILOT_STEPS * BATCH * CONTEXT / unique
    recipe = recipe_of(corpus, PILOT_SIZE, PILOT_STEPS, epochs)
    result = train_once(dataclasses.replace(recipe, evaluate_every=PILOT_STEPS))
    return result["loss"] - law.loss(result["parameters"], result["tokens"], unique)


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A size of the model, and the loss that it should reach in the time."""

    recipe: Recipe
    parameters: int
    step_seconds: float
    epochs: float
    loss: float


def propose(corpus: str, minutes: float) -> list[Proposal]:
    """A proposal for each size that the time allows, the best first.

    Raises:
        UserError: the time is too short even for the smallest size.
    """
    law, unique = load_law(), len(load_corpus(corpus).train)
    offset = pilot(corpus, unique, law)
    proposals = []
    for size in tqdm(SIZES, desc="timing sizes", unit="size", leave=False):
        parameters, seconds = measure(recipe_of(corpus, size, 1000, 1.0))
        steps = int(60 * minutes / seconds)
        if steps < 20:
            break
        tokens = steps * BATCH * CONTEXT
        loss = law.loss(parameters, tokens, unique) + offset
        epochs = tokens / unique
        recipe = dataclasses.replace(recipe_of(corpus, size, steps, epochs), expected_loss=round(loss, 3))
        proposals.append(Proposal(recipe, parameters, seconds, epochs, loss))
        if loss > min(p.loss for p in proposals) + 0.1:
            break  # larger models would only take fewer steps
    if not proposals:
        raise UserError(f"{minutes} minutes are too few for 20 steps of the smallest model; raise --minutes.")
    return sorted(proposals, key=lambda p: p.loss)


def table(proposals: list[Proposal]) -> str:
    """The proposals as a table of plain text, the best first."""
    lines = [f"{'layers':>6} {'hidden':>6} {'parameters':>11} {'ms a step':>9} {'steps':>7} {'epochs':>7} {'loss':>6}"]
    for p in proposals:
        model = p.recipe.model
        lines.append(
            f"{model['num_hidden_layers']:>6} {model['hidden_size']:>6} {p.parameters:>11,} "
            f"{1000 * p.step_seconds:>9.1f} {p.recipe.steps:>7,} {p.epochs:>7.1f} {p.loss:>6.3f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help=f"{', '.join(NAMES)}, or a path to a UTF-8 text")
    parser.add_argument("--minutes", type=float, required=True, help="training time, without evaluation and saving")
    parser.add_argument("--output", type=Path, help="the recipe to write (default runs/plan-CORPUS-MINUTESmin.yaml)")
    arguments = parser.parse_args()
    if arguments.minutes <= 0:
        raise UserError(f"--minutes must be more than 0; it is {arguments.minutes:g}.")
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    output = arguments.output or Path("runs") / f"plan-{Path(arguments.corpus).stem}-{arguments.minutes:g}min.yaml"
    proposals = propose(arguments.corpus, arguments.minutes)
    best = proposals[0]
    write_text(output, yaml.safe_dump(dataclasses.asdict(best.recipe), sort_keys=False, allow_unicode=True))
    print(table(proposals))
    print(
        f"\nfor the first one, expect a validation loss near {best.loss:.3f} nats per character after "
        f"{arguments.minutes:g} minutes of training\npython -m training.pretrain --recipe {output}"
    )


if __name__ == "__main__":
    run_command(main)
