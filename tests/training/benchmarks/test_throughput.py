"""The timed steps are training steps."""

import argparse

import pytest
import torch

from training.benchmarks import throughput
from training.benchmarks.machine import matrix_peak
from training.benchmarks.throughput import OURS, build_step, table


@pytest.fixture
def arguments(monkeypatch) -> argparse.Namespace:
    monkeypatch.setitem(throughput.SIZES, "tiny", (2, 32, 2))
    return argparse.Namespace(
        device="cpu", vocabulary=40, context=16, batch=2, nanogpt=None, precision="no", compile=False
    )


@pytest.mark.parametrize("name", ["llama", "gpt2", *OURS])
def test_a_contender_takes_steps_of_about_equal_size(name, arguments):
    step, parameters = build_step(name, arguments, "tiny")
    step()
    step()
    assert 20_000 < parameters < 45_000


def test_the_table_gives_ratios_of_the_same_size():
    rows = [
        {"size": size, "contender": name, "parameters": 1, "tokens_per_second": speed, "model_flops_utilisation": 0.5}
        for size, name, speed in (("0.8M", "nanoGPT", 100.0), ("0.8M", "ours", 150.0), ("10.7M", "llama", 10.0))
    ]
    assert "| 0.8M | ours | 1 | 150 | 50% | 1.50 |  |" in table(rows)
    assert "| 10.7M | llama | 1 | 10 | 50% |  | 1.00 |" in table(rows)


def test_the_matrix_peak_leaves_the_precision_as_it_was():
    before = torch.get_float32_matmul_precision()
    assert matrix_peak(size=128) > 0.01
    assert torch.get_float32_matmul_precision() == before
