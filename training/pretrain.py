"""Train a model from a text.

    python -m training.pretrain --recipe smoke                         # under 20 seconds, no network
    python -m training.pretrain --recipe oz-modern                     # one process
    accelerate launch -m training.pretrain --recipe oz-modern          # CPU, one GPU or many: Accelerate's settings
    python -m training.pretrain --recipe poetry-gpt --corpus my.txt --steps 500 --output runs/mine

To resume a run that was stopped, run the same command again: it starts from the last checkpoint. Ctrl-C saves one
first. The same command with more --steps extends a run, even a finished one.
"""

import argparse
from pathlib import Path

from training.command import RESUMABLE, let_others_work, run_command
from training.engine.recipe import add_recipe_options, check_inputs, load_recipe, overrides_from_arguments


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--recipe", required=True, help="the name of a file in training/recipes, or a path")
    parser.add_argument("--output", type=Path, help="the run's folder (default runs/RECIPE)")
    parser.add_argument("--overwrite", action="store_true", help="delete an earlier run in the folder")
    parser.add_argument("--dry-run", action="store_true", help="build everything and print the plan, but train nothing")
    add_recipe_options(parser)
    arguments, others = parser.parse_known_args()
    recipe = load_recipe(arguments.recipe, overrides_from_arguments(arguments, others))
    check_inputs(recipe)
    let_others_work()

    # Imports torch, which takes seconds: a wrong recipe is refused before.
    from training.engine.loop import disconnect, train

    output = arguments.output or Path("runs") / Path(arguments.recipe).stem
    train(recipe, output, overwrite=arguments.overwrite, dry_run=arguments.dry_run)
    disconnect()


if __name__ == "__main__":
    run_command(main, RESUMABLE)
