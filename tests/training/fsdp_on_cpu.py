"""`training.pretrain` under Accelerate's FSDP in CPU processes, for a machine without GPUs.

    accelerate launch --config_file training/accelerate/two-cpu-processes.yaml tests/training/fsdp_on_cpu.py ...

Accelerate shards on accelerators alone. Told here that gloo's processes have GPUs, and that the CPU is these, it takes
the same path as there: torch's `fully_shard` around every block, DTensors, `clip_grad_norm_` over shards.
"""

import os

import torch
import yaml
from accelerate import DistributedType, PartialState

from training.command import run_command
from training.pretrain import main

if __name__ == "__main__":
    with open("training/accelerate/fsdp.yaml", encoding="utf-8") as file:
        config = yaml.safe_load(file)["fsdp_config"]
    names = {"fsdp_transformer_layer_cls_to_wrap": "FSDP_TRANSFORMER_CLS_TO_WRAP"}
    os.environ |= {names.get(name, name.upper()): str(value) for name, value in config.items()}
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "ACCELERATE_TORCH_DEVICE": "cpu"}
    PartialState._prepare_backend = lambda *given: ("gloo", DistributedType.MULTI_GPU)
    torch.distributed.init_process_group("gloo")
    run_command(main)
