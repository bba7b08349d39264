"""What this machine can do: its matrix peak, which the benchmarks compare with, and its description."""

import os
import platform
import time

import torch
import transformers


def matrix_peak(device: str = "cpu", size: int = 2048, dtype: torch.dtype = torch.float32) -> float:
    """The most GFLOP/s of a product of two `size x size` matrices, with whichever of torch's libraries is faster here.

    On a CPU torch has two for float32: MKL, and oneDNN. It uses oneDNN only if lower precision is allowed, but without
    bf16 units oneDNN computes in float32 too.
    """
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best, before = 0.0, torch.get_float32_matmul_precision()
    for precision in ("highest", "medium"):
        torch.set_float32_matmul_precision(precision)
        for _ in range(12):
            wait(device)
            begin = time.perf_counter()
            a @ b
            wait(device)
            best = max(best, 2 * size**3 / (time.perf_counter() - begin) / 1e9)
    torch.set_float32_matmul_precision(before)
    return best


def wait(device: str) -> None:
    """Wait until the device has finished its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def describe_machine() -> dict[str, str | int]:
    """The hardware and versions that a speed depends on."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else torch.cpu.get_capabilities()["cpu_name"]
    return {
        "device": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
