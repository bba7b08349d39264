"""Checks of the checkpoint and the corpus that a command names. They need no torch, which takes seconds to import."""

import difflib
import re
from pathlib import Path

from training.command import UserError, in_one_line
from training.corpora import check_corpus
from training.recipe import Recipe

CONFIG = "config.json"  # every checkpoint has one
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w.-]+)?")


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


def check_checkpoint(name: str) -> None:
    """Look whether `name` is a checkpoint's folder, or may be one on the Hub.

    Raises:
        UserError: it is neither, with the folder that was probably meant.
    """
    folder = Path(name)
    if (folder / CONFIG).is_file():
        return
    if folder.is_dir():
        below = sorted(path.parent for path in (*folder.glob(f"*/{CONFIG}"), *folder.glob(f"*/best/{CONFIG}")))
        what = f"has no {CONFIG}" if any(folder.iterdir()) else "is an empty folder"
        meant = f"did you mean {below[0]}?" if below else "give the folder of a checkpoint, such as runs/NAME/best."
        raise UserError(f"{name} is no checkpoint: it {what}; {meant}")
    if folder.is_file():
        raise UserError(f"{name} is a file; give the folder of the checkpoint that it is part of.")
    local = name.startswith((".", "runs/")) or (len(folder.parts) > 1 and Path(folder.parts[0]).is_dir())
    if HUB_ID.fullmatch(name) and not local:
        return  # only the Hub knows
    beside = folder.parent
    near = difflib.get_close_matches(folder.name, [p.name for p in beside.iterdir()], n=1) if beside.is_dir() else []
    meant = f"did you mean {beside / near[0]}?" if near else "give the folder of a checkpoint, such as runs/NAME/best."
    raise UserError(f"there is no folder {name}; {meant}")


def not_loaded(name: str, error: Exception) -> str:
    """What to say of a checkpoint that passed [`check_checkpoint`] and could not be loaded."""
    if Path(name).exists():
        return (
            f"the checkpoint in {name} cannot be loaded ({in_one_line(error)[:200]}); give the folder of a whole one."
        )
    reason = f"{type(error).__name__}: {in_one_line(error)}"[:200]
    return (
        f"there is no folder {name}, and it could not be had from the Hub ({reason}); give the folder of a checkpoint, "
        "such as runs/NAME/best, or check the Hub id and the network."
    )
