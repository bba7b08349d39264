"""Which of several equal ways to compute is the fastest here. The choice follows from the machine, not from a timing:
the same machine computes the same bits every time.
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
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # numbers of malloc.h
SHORT = 512  # tokens, up to which all attention scores of a batch fit a processor's caches


def choose_kernels(model: PreTrainedModel, device: torch.device, context: int) -> None:
    """Set how matrices are multiplied and attention is computed while `model` is trained on `device`.

    On a CUDA device: TF32 for float32 products, where the units for it would idle otherwise; attention stays at sdpa,
    which takes the flash kernel for half precision.

    On a CPU torch multiplies float32 matrices by MKL, which on a processor that is not Intel's leaves AVX-512 unused.
    oneDNN does not: it took half the time on an AMD EPYC (training/benchmarks/README.md). torch asks it only where less
    precision is allowed ("medium"), yet without Intel's AMX units, which none but Intel's have, oneDNN computes in
    float32 as well. sdpa calls it for tiny blocks, at which it is slow, so with oneDNN attention is the eager one, as
    long as its scores are small. A decoder's attention is computed by chunks of queries (`attention.py`) on any CPU.
    With a longer context all stays as it was.
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
    """Let the C library keep what a step frees for the next one.

    By itself glibc gives large blocks back to the system, which hands them out again page by page, each one set to zero
    first. Other C libraries have no such switch.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for threshold in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            libc.mallopt(threshold, 2**30)


def other_than_intel_with_avx512() -> bool:
    """Whether this processor has AVX-512 that MKL does not use."""
    if not torch.backends.mkldnn.is_available():
        return False
    abilities = getattr(torch.cpu, "get_capabilities", dict)()  # torch below 2.12 may not tell
    return bool(abilities.get("avx512_f")) and "Intel" not in abilities.get("cpu_name", "Intel")


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """The model compiled as a whole, with the same weights; the model itself stays as it is.

    So what is not a training step, with other lengths at every turn, is not compiled again and again.

    Raises:
        UserError: a CPU without a C++ compiler.
    """
    if device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
        raise UserError("compile needs a C++ compiler such as g++ on a CPU; install one, or leave compile out.")
    return torch.compile(model)
