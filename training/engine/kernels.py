"""Choose the fastest of several equivalent kernels.

The choice depends on the machine, not on a timing: the same machine computes the same bits every time.
"""

import ctypes
import os
import shutil
import sys

import torch
from torch import nn
from transformers import PreTrainedModel

from training.command import UserError
from training.engine.attention import CAUSAL_CHUNKS

COMPILERS = (os.environ.get("CXX", "g++"), "g++", "clang++", "c++")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # constants of malloc.h
SHORT = 512  # tokens; up to this length the attention scores of a batch fit into a CPU's caches


def choose_kernels(model: PreTrainedModel, device: torch.device, context: int) -> None:
    """Choose how to multiply matrices and compute attention while `model` is trained on `device`.

    On a CUDA device: TF32 for float32 matrix products, whose units would otherwise idle. Attention stays at sdpa, which
    takes the flash kernel in half precision.

    On a CPU: torch multiplies float32 matrices with MKL, which does not use AVX-512 on processors of other makers than
    Intel. oneDNN does, and took half the time on an AMD EPYC. torch calls it only if lower precision is allowed
    ("medium"); but lower precision needs AMX units, which only Intel's processors have, so that oneDNN computes in
    float32 here as well. sdpa would call oneDNN for tiny blocks, at which it is slow, so attention is eager. On any
    CPU, a decoder's attention is computed in chunks of queries (`attention.py`). With a context of more than `SHORT`
    tokens nothing is changed.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    if device.type != "cpu":
        return
    keep_freed_memory()
    if context > SHORT:
        return
    if other_than_intel_with_avx512():
        torch.set_float32_matmul_precision("medium")
        model.set_attn_implementation("eager")
    if getattr(model.config, "is_causal", False) and not model.config.is_encoder_decoder:  # of other models: unknown
        model.set_attn_implementation(CAUSAL_CHUNKS)


def keep_freed_memory() -> None:
    """Let the C library keep the memory that a step frees for the next step.

    By default glibc returns large blocks to the system, which hands them out again page by page and zeroes each page.
    Other C libraries have no such setting.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for threshold in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            libc.mallopt(threshold, 2**30)


def other_than_intel_with_avx512() -> bool:
    """Whether this processor has AVX-512 but MKL does not use it."""
    if not torch.backends.mkldnn.is_available():
        return False
    abilities = getattr(torch.cpu, "get_capabilities", dict)()  # missing in some versions of torch before 2.12
    return bool(abilities.get("avx512_f")) and "Intel" not in abilities.get("cpu_name", "Intel")


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """A compiled model that shares the weights of `model`, which itself is not compiled.

    Only the training step is compiled: evaluation has varying lengths and would keep recompiling.

    Raises:
        UserError: a CPU without a C++ compiler.
    """
    if device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
        raise UserError("on a CPU compile needs a C++ compiler such as g++; install one, or leave compile out.")
    return torch.compile(model)
