"""Checkpoints of a sharded model (FSDP), unsharded, in the same files as those of a model that is not sharded.

Accelerate's own checkpoints hold shards, support one optimizer, and can be read only by the number of processes that
wrote them. These can be read by any number of processes, sharded or not. The price: the main process holds the full
state in memory while it writes.
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
    """Write what `Accelerator.save_state` writes. Must be called by all processes together."""

    def gather(value):
        if not isinstance(value, DTensor):
            return value
        value = whole(value)
        return value.cpu() if accelerator.is_main_process else None

    (model,) = accelerator._models
    weights = accelerator.get_state_dict(model)
    for tied in model.all_tied_weights_keys:
        weights.pop(tied, None)  # only the main process has weights here
    optimizers = [tree_map(gather, optimizer.state_dict()) for optimizer in accelerator._optimizers]
    optimizers = [SimpleNamespace(state_dict=lambda state=state: state) for state in optimizers]
    process, step, scaler = accelerator.process_index, accelerator.step, accelerator.scaler
    save_accelerator_state(str(folder), [weights], optimizers, [], [], process, step, scaler)
    for index, custom in enumerate(accelerator._custom_objects):
        save_custom_state(custom, str(folder), index)


def load_state(folder: Path, accelerator: Accelerator) -> None:
    """Restore what `Accelerator.load_state` restores. Must be called by all processes together."""
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
    """Load full weights into a sharded model: the main process sends each process its shard.

    Must be called by all processes together.

    Args:
        weights: the model's full `state_dict` in the main process, and an empty dict in the others.
    """
    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))


def shell_of(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same architecture without weights, through which full weights can be saved.

    FSDP replaces a model's class by one of torch, and saving the sharded model would copy torch's code beside the
    weights instead of ours.
    """
    with torch.device("meta"):
        shell = model_class(model.config)(model.config)
    if model.can_generate():
        shell.generation_config = model.generation_config
    return shell


def whole(value: torch.Tensor) -> torch.Tensor:
    """The full tensor of a sharded one, in every process. Other tensors are returned unchanged."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def shard_like(param: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """This process's shard of a full tensor with a sharded parameter's shape. Other tensors are returned unchanged."""
    if not isinstance(param, DTensor) or value.shape != param.shape:
        return value
    return distribute_tensor(value.to(param.device), param.device_mesh, param.placements, src_data_rank=None)
