"""Checkpoints of a model that is sharded over the processes (FSDP): whole, in the files of one that is not.

Accelerate's own keep shards, take one optimizer and can be read by as many processes as wrote them. These are read by
any number of processes, sharded or not. The price is that the main process holds the whole state in memory while it
writes.
"""

from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate import Accelerator
from accelerate.checkpointing import (
    load_accelerator_state,
    load_custom_state,
    save_accelerator_state,
    save_custom_state,
)
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map
from transformers import PreTrainedModel

from modeling.modeling_ozymandias import model_class


def save_state(folder: Path, accelerator: Accelerator) -> None:
    """Write what `Accelerator.save_state` writes. All processes have to call this together."""

    def gather(value):
        if not isinstance(value, DTensor):
            return value
        value = whole(value)
        return value.cpu() if accelerator.is_main_process else None

    (model,) = accelerator._models
    weights = accelerator.get_state_dict(model)
    for tied in model.all_tied_weights_keys:
        weights.pop(tied, None)  # only the main process has any
    optimizers = [tree_map(gather, optimizer.state_dict()) for optimizer in accelerator._optimizers]
    optimizers = [SimpleNamespace(state_dict=lambda state=state: state) for state in optimizers]
    process, step, scaler = accelerator.process_index, accelerator.step, accelerator.scaler
    save_accelerator_state(str(folder), [weights], optimizers, [], [], process, step, scaler)
    for index, custom in enumerate(accelerator._custom_objects):
        save_custom_state(custom, str(folder), index)


def load_state(folder: Path, accelerator: Accelerator) -> None:
    """Restore what `Accelerator.load_state` restores. All processes have to call this together."""
    (model,) = accelerator._models
    weights = load_file(folder / "model.safetensors")
    weights |= {tied: weights[source] for tied, source in model.all_tied_weights_keys.items()}
    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True))
    for index, optimizer in enumerate(accelerator._optimizers):
        file = folder / (f"optimizer_{index}.bin" if index else "optimizer.bin")
        state = torch.load(file, map_location="cpu", weights_only=True)
        params = [p for group in optimizer.param_groups for p in group["params"]]
        for number, values in state["state"].items():
            values.update({name: shard_like(params[number], value) for name, value in values.items()})
        optimizer.load_state_dict(state)
    load_accelerator_state(str(folder), [], [], [], [], accelerator.process_index, accelerator.scaler)
    for index, custom in enumerate(accelerator._custom_objects):
        load_custom_state(custom, str(folder), index)


def load_weights(model: PreTrainedModel, weights: dict[str, torch.Tensor]) -> None:
    """Give a sharded model whole weights, of which each process takes its shard from the main one.

    All processes have to call this together.

    Args:
        weights: the model's whole `state_dict` in the main process, and nothing in the others.
    """
    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))


def shell_of(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same architecture without weights, to be saved with whole ones.

    A sharded model is of a class that torch makes, and torch's code would be saved beside it in the place of ours.
    """
    with torch.device("meta"):
        shell = model_class(model.config)(model.config)
    if model.can_generate():
        shell.generation_config = model.generation_config
    return shell


def whole(value: torch.Tensor) -> torch.Tensor:
    """The whole of a sharded tensor, in every process; another is returned as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def shard_like(param: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """This process's shard of a whole tensor that is as large as a parameter; another is left as it is."""
    if not isinstance(param, DTensor) or value.shape != param.shape:
        return value
    return distribute_tensor(value.to(param.device), param.device_mesh, param.placements, src_data_rank=None)
