"""Check and load the checkpoint and the device that a command names.

Nothing here imports torch at the top: its import takes seconds, and a wrong name should be refused at once.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from training.command import UserError, in_one_line

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONFIG = "config.json"  # every checkpoint has one
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w.-]+)?")


def check_checkpoint(name: str, ask_hub: bool = False) -> None:
    """Check that `name` is the folder of a checkpoint or looks like a Hub id.

    Args:
        ask_hub: if it looks like a Hub id, also ask the Hub for it. This imports torch.

    Raises:
        UserError: it is neither, or the Hub cannot be reached; the message suggests the folder that was probably meant.
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
        if ask_hub:
            ask_for(name)
        return
    beside = folder.parent
    near = difflib.get_close_matches(folder.name, [p.name for p in beside.iterdir()], n=1) if beside.is_dir() else []
    meant = f"did you mean {beside / near[0]}?" if near else "give the folder of a checkpoint, such as runs/NAME/best."
    raise UserError(f"there is no folder {name}; {meant}")


def ask_for(name: str) -> None:
    """Ask the Hub for a checkpoint.

    Raises:
        UserError: the Hub cannot be reached.
    """
    from modeling.loading import check_reachable

    try:
        check_reachable(name)
    except OSError as error:
        raise UserError(not_loaded(name, error)) from None


def not_loaded(name: str, error: Exception) -> str:
    """The message for a checkpoint that passed [`check_checkpoint`] and could not be loaded."""
    if Path(name).exists():
        return (
            f"the checkpoint in {name} cannot be loaded ({in_one_line(error)[:200]}); give the folder of a complete "
            "checkpoint."
        )
    reason = f"{type(error).__name__}: {in_one_line(error)}"[:200]
    return (
        f"there is no folder {name}, and it could not be downloaded from the Hub ({reason}); give the folder of a "
        "checkpoint, such as runs/NAME/best, or check the Hub id and the network."
    )


def load_trained(
    checkpoint: str | Path, revision: str | None = None
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Load the tokenizer and the model, in evaluation mode, from a folder that [`save_model`] wrote or from the Hub.

    Raises:
        UserError: there is no such checkpoint, or it is damaged.
    """
    from transformers import AutoTokenizer

    from modeling.loading import load_model

    check_checkpoint(str(checkpoint), ask_hub=True)
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, revision=revision, trust_remote_code=False)
        return tokenizer, load_model(checkpoint, revision)
    except Exception as error:  # transformers and safetensors each raise their own types for a bad checkpoint
        raise UserError(not_loaded(str(checkpoint), error)) from error


def choose_device(name: str | None) -> torch.device:
    """The device of this name. Without a name: the machine's accelerator, or the CPU if it has none.

    Raises:
        UserError: this machine has no such device.
    """
    import torch

    if name is None:
        return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # an AssertionError if torch was built without this device
        raise UserError(
            f"--device {name} cannot be used here ({in_one_line(error)[:100]}); try --device cpu."
        ) from None
