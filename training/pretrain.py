"""Train a model from a text.

    python -m training.pretrain --recipe smoke                         # under 20 seconds, no network
    python -m training.pretrain --recipe oz-modern                     # one process
    accelerate launch -m training.pretrain --recipe oz-modern          # CPU, one GPU or many, as Accelerate is set up
    python -m training.pretrain --recipe poetry-gpt --corpus my.txt --steps 500 --output runs/mine

A run that was stopped, however it was, goes on from its last checkpoint when the same command is given again; Ctrl-C
writes one first. The same command with more --steps makes a run longer, also a finished one.
"""

import argparse
from pathlib import Path

from training.command import GOES_ON, let_others_work, run_command
from training.engine.recipe import add_recipe_options, check_inputs, load_recipe, overrides_from_arguments


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--recipe", required=True, help="a name in training/recipes, or a path to a YAML file")
    parser.add_argument("--output", type=Path, help="the run's folder (default runs/RECIPE)")
    parser.add_argument("--overwrite", action="store_true", help="remove what the folder holds of an earlier run")
    parser.add_argument("--dry-run", action="store_true", help="build everything, print the plan, train nothing")
    add_recipe_options(parser)
    arguments, others = parser.parse_known_args()
    recipe = load_recipe(arguments.recipe, overrides_from_arguments(arguments, others))
    check_inputs(recipe)
    let_others_work()

    from training.engine.loop import (  # torch takes seconds, which a refused recipe should not wait for
        disconnect,
        train,
    )

    output = arguments.output or Path("runs") / Path(arguments.recipe).stem
    train(recipe, output, overwrite=arguments.overwrite, dry_run=arguments.dry_run)
    disconnect()


if __name__ == "__main__":
    run_command(main, GOES_ON)
