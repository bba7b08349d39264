"""Train a recipe with several values of some fields, and find the best.

    python -m training.sweep --recipe poetry-modern --vary model.hidden_dropout=0,0.1,0.2 --vary weight_decay=0.1,0.3
    python -m training.sweep --recipe poetry-modern --vary average_decay=0,0.99 --seeds 1,2,3 --steps 500

Every combination is trained with every seed, each in its own folder. To resume a sweep, run the same command again:
finished runs are not repeated. The results are in `sweep.md` and, as a plot, in `sweep.png`.
"""

import argparse
import json
import os
from itertools import product
from pathlib import Path
from statistics import mean

from training.command import RESUMABLE, UserError, let_others_work, run_command
from training.engine.recipe import add_recipe_options, check_inputs, load_recipe, overrides_from_arguments
from training.files import write_text

TABLE, PLOT = "sweep.md", "sweep.png"


def parse_vary(text: str) -> list[tuple[str, str]]:
    """Split `FIELD=A,B` into the pairs (FIELD, A) and (FIELD, B).

    Raises:
        UserError: the text has a different form.
    """
    field, equals, values = text.partition("=")
    if not equals or not all(values.split(",")):
        raise UserError(f"--vary {text} must be FIELD=VALUE,VALUE, such as weight_decay=0.1,0.3.")
    return [(field, value) for value in values.split(",")]


def folder_name(setting: tuple[tuple[str, str], ...]) -> str:
    return ",".join(f"{field}={value}".replace("/", "_") for field, value in setting)


def read_losses(folder: Path, seeds: list[str]) -> list[float]:
    """The best validation losses of the finished runs of a setting."""
    from training.engine.checkpoints import RECORD  # imports torch: a wrong recipe is refused before

    paths = [folder / f"seed-{seed}" / RECORD for seed in seeds]
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
    return [record["best_validation_loss"] for record in records if record["finished"]]


def write_table(output: Path, about: str, results: dict[str, list[float]]) -> None:
    """Write `sweep.md` and `sweep.png`, the best setting first."""
    ranked = sorted(results.items(), key=lambda item: mean(item[1]))
    rows = [f"| {name} | **{mean(x):.4f}** | {min(x):.4f} | {max(x):.4f} | {len(x)} |" for name, x in ranked]
    head = ["| setting | validation loss, mean | lowest | highest | seeds |", "|---|--:|--:|--:|--:|"]
    write_text(output / TABLE, "\n".join([about, "", *head, *rows]) + "\n")

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.4 * len(ranked)), layout="constrained")
    for place, (_, losses) in enumerate(reversed(ranked)):
        axes.plot(losses, [place] * len(losses), "o", color="tab:blue", alpha=0.5)
        axes.plot([mean(losses)], [place], "|", color="black", markersize=14)
    axes.set_yticks(range(len(ranked)), [name for name, _ in reversed(ranked)])
    axes.set(xlabel="validation loss, nats per character")
    axes.grid(alpha=0.3)
    figure.savefig(output / PLOT, dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--recipe", required=True, help="the name of a file in training/recipes, or a path")
    parser.add_argument(
        "--vary", action="append", required=True, metavar="FIELD=A,B", help="a field and its values; can be repeated"
    )
    parser.add_argument("--seeds", default="1", help="seeds for every combination, such as 1,2,3 (default %(default)s)")
    parser.add_argument("--output", type=Path, help="the folder for all runs (default runs/sweeps/RECIPE)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be trained, but train nothing")
    add_recipe_options(parser)
    arguments, others = parser.parse_known_args()
    fixed = overrides_from_arguments(arguments, others)
    settings = list(product(*(parse_vary(text) for text in arguments.vary)))
    seeds = [seed.strip() for seed in arguments.seeds.split(",")]
    output = arguments.output or Path("runs") / "sweeps" / Path(arguments.recipe).stem
    main_process = int(os.environ.get("RANK", 0)) == 0
    # Every recipe is checked before the first is trained: a wrong value should not show up hours later.
    runs = [
        (setting, seed, load_recipe(arguments.recipe, [*fixed, *setting, ("seed", seed)]))
        for setting in settings
        for seed in seeds
    ]
    for _, _, recipe in runs:
        check_inputs(recipe)
    let_others_work()
    say = print if main_process else lambda *words: None
    say(f"{len(settings)} settings, {len(seeds)} seeds each: {len(runs)} runs in {output}")

    from training.engine.loop import Diverged, disconnect, train

    results = {}
    for number, (setting, seed, recipe) in enumerate(runs, start=1):
        name = folder_name(setting)
        say(f"\n{number} of {len(runs)}: {name}, seed {seed}")
        try:
            train(recipe, output / name / f"seed-{seed}", dry_run=arguments.dry_run)
        except Diverged as error:
            say(f"left out of the table: {error}")
        if main_process and (losses := read_losses(output / name, seeds)):
            results[name] = losses
            write_table(output, f"`{arguments.recipe}` on {recipe.corpus}, {recipe.steps:,} steps", results)
    disconnect()
    if results:
        best = min(results, key=lambda name: mean(results[name]))
        print(f"\nbest: {best}, {mean(results[best]):.4f} nats per character; all results: {output / TABLE}")


if __name__ == "__main__":
    run_command(main, RESUMABLE)
