"""Save and load checkpoints and snapshots. A kill or a full disk at any moment leaves a complete one behind.

A folder is written under a temporary name and renamed when it is complete; only then are older ones removed.
"""

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.command import UserError, in_one_line
from training.engine import sharded
from training.files import UNFINISHED, whole_file

# What torch and safetensors say when the disk is full or a file is too large.
FULL_DISK = ("No space left", "os error 28", "os error 27", "PytorchStreamWriter failed", "unexpected pos")
REPLACED = ".replaced"
STATE, RECORD, METRICS, SNAPSHOTS, BEST = "state.json", "run.json", "metrics.jsonl", "snapshots", "best"


@contextmanager
def writing(folder: Path, accelerator: Accelerator | None = None) -> Iterator[Path]:
    """Give a temporary folder to write to, and replace `folder` by it when the block ends without an error.

    With an accelerator all its processes write to the same folder, and the main one renames it.

    Raises:
        UserError: the folder cannot be written; what was at `folder` before is untouched.
    """
    main = accelerator is None or accelerator.is_main_process
    wait = accelerator.wait_for_everyone if accelerator else lambda: None
    unfinished, replaced = folder.with_name(folder.name + UNFINISHED), folder.with_name(folder.name + REPLACED)
    try:
        if main:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        wait()
        yield unfinished
        wait()
        if main:
            if folder.exists():
                folder.rename(replaced)
            unfinished.rename(folder)
            shutil.rmtree(replaced, ignore_errors=True)
        wait()
    except (OSError, RuntimeError, SafetensorError) as error:
        recover(folder)
        raise not_written(folder, error) from error


def not_written(path: Path, error: Exception) -> Exception:
    """The exception to raise after a failed write to `path`: a [`UserError`] with the remedy if the disk or the path
    is to blame, and otherwise the error itself.
    """
    text = in_one_line(error)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if full or any(words in text for words in FULL_DISK):
        remedy = "free some space, or give another folder"
    elif isinstance(error, SafetensorError) or str(getattr(error, "filename", "")).startswith(str(path)):
        remedy = "give a folder that you can write to"
    else:
        return error
    return UserError(
        f"{path} could not be written ({text}); {remedy}, and run the same command again. What was saved before is "
        "intact."
    )


def recover(folder: Path) -> None:
    """Restore a folder if a kill fell between the two renames, and remove unfinished ones."""
    replaced = folder.with_name(folder.name + REPLACED)
    if replaced.exists() and not folder.exists():
        replaced.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)
    shutil.rmtree(folder.with_name(folder.name + UNFINISHED), ignore_errors=True)


def save_model(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    half: bool = False,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write to a folder what `from_pretrained` loads: weights, config, tokenizer, generation config and code.

    Args:
        half: store the weights in half precision. The config still says float32, so the loaded model computes in it.
        weights: the model's full `state_dict`, if the model itself holds only shards of it.
    """
    if weights is not None:
        model = sharded.shell_of(model)
    model.save_pretrained(folder, state_dict=stored_weights(model, weights, half))
    tokenizer.save_pretrained(folder)


def stored_weights(
    model: PreTrainedModel, weights: dict[str, torch.Tensor] | None, half: bool
) -> dict[str, torch.Tensor]:
    """The weights of a model, or `weights` instead, without tied copies of the embedding matrix."""
    tied = model.all_tied_weights_keys
    weights = model.state_dict() if weights is None else weights
    return {name: weight.half() if half else weight for name, weight in weights.items() if name not in tied}


def save_snapshot(run: Path, step: int, model: PreTrainedModel, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write `snapshots/STEP.safetensors`: only the weights, in half precision; `weights` as for [`save_model`].

    Raises:
        UserError: the file cannot be written.
    """
    path = run / SNAPSHOTS / f"{step:06}.safetensors"
    try:
        with whole_file(path) as unfinished:
            save_file(stored_weights(model, weights, half=True), unfinished)
    except (OSError, SafetensorError) as error:
        raise not_written(path, error) from error


def list_snapshots(folder: Path) -> dict[int, Path]:
    """The snapshots of a run by step, in order."""
    return {int(path.stem): path for path in sorted((folder / SNAPSHOTS).glob("*.safetensors"))}


def load_snapshot(model: PreTrainedModel, path: Path) -> None:
    """Load a snapshot into a model of the same run.

    Raises:
        UserError: the snapshot is of another model.
    """
    missing, unexpected = model.load_state_dict(load_file(path), strict=False)
    if unexpected or set(missing) - set(model.all_tied_weights_keys):
        raise UserError(f"{path} is not a snapshot of this model; choose one from the same run.")


def record_path(checkpoint: Path) -> Path | None:
    """The run record in or beside a checkpoint, if there is one."""
    return next((path for path in (checkpoint / RECORD, checkpoint.parent / RECORD) if path.is_file()), None)


def save_checkpoint(run: Path, accelerator: Accelerator, state: dict, keep: int) -> None:
    """Write `checkpoint-STEP`: model, optimizers, random states and `state`. Then remove all but the newest `keep`."""
    with writing(run / f"checkpoint-{state['step']}", accelerator) as unfinished:
        if accelerator.distributed_type == DistributedType.FSDP:
            sharded.save_state(unfinished, accelerator)
        else:
            accelerator.save_state(str(unfinished))
        if accelerator.is_main_process:
            state = {**state, "processes": accelerator.num_processes}
            (unfinished / STATE).write_text(json.dumps(state, indent=2))
    if accelerator.is_main_process:
        for old in list_checkpoints(run)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)


def list_checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    steps = [f.name.removeprefix("checkpoint-") for f in run.glob("checkpoint-*")]
    return [run / f"checkpoint-{step}" for step in sorted(int(s) for s in steps if s.isdigit())]


def load_checkpoint(folder: Path, accelerator: Accelerator) -> dict:
    """Restore model, optimizers and random states from a checkpoint, and return its `state`.

    If a different number of processes wrote it, dropout gets new random numbers: the old processes' random states
    cannot be divided among the new ones.

    Raises:
        UserError: one of its files is missing or damaged.
    """
    try:
        state = json.loads((folder / STATE).read_text())
        processes = state.pop("processes", accelerator.num_processes)
        # If random states are missing, Accelerate only logs it, and dropout would silently differ.
        for process in range(processes):
            if not (folder / f"random_states_{process}.pkl").is_file():
                raise FileNotFoundError(f"random_states_{process}.pkl is missing")
        if accelerator.distributed_type == DistributedType.FSDP:
            sharded.load_state(folder, accelerator)
        else:
            accelerator.load_state(str(folder))
    except Exception as error:  # each reader raises its own types for a damaged file
        raise UserError(
            f"checkpoint {folder} is damaged ({in_one_line(error)[:200]}); remove that folder to resume from "
            "the one before it, or start over with --overwrite."
        ) from error
    if processes != accelerator.num_processes:
        set_seed(state["step"], device_specific=True)
        accelerator.print(
            f"the checkpoint was written by {processes} processes, and this run has {accelerator.num_processes}: the "
            "batches stay the same, and dropout gets new random numbers"
        )
    return state
