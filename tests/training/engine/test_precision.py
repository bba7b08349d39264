"""Mixed precision as far as a CPU computes it: the losses of float32, nearly, and float32 in what is saved."""

import dataclasses
import json

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from training.command import UserError
from training.engine import loop
from training.engine.recipe import load_recipe

FIELDS = {"steps": 20, "evaluate_every": 10, "log_every": 1, "sample_length": 1, "gradient_accumulation_steps": 2}


@pytest.fixture(autouse=True)
def another_accelerator():
    """Accelerate keeps one precision for a whole process, which is the tests' as well."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def train(folder, precision: str) -> torch.Tensor:
    """The training losses of a short run of the smoke recipe, with Muon, clipping and accumulation, `(steps,)`."""
    fields = {**FIELDS, "mixed_precision": precision}
    loop.train(load_recipe("smoke", [(name, str(value)) for name, value in fields.items()]), folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return torch.tensor([line["train_loss"] for line in lines if "train_loss" in line])


def half_on_cpu(scale: float):
    """`build_accelerator` with what Accelerate has for fp16 on a GPU: autocast, and a scaler that begins at `scale`."""
    build = loop.build_accelerator

    def build_half(recipe, output):
        accelerator = build(dataclasses.replace(recipe, mixed_precision="no"), output)
        accelerator.state._mixed_precision = "fp16"
        accelerator.native_amp = True
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        return accelerator

    return build_half


@pytest.fixture(scope="module")
def exact(tmp_path_factory) -> torch.Tensor:
    AcceleratorState._reset_state(reset_partial_state=True)
    return train(tmp_path_factory.mktemp("exact") / "run", "no")


def assert_near_and_saved_whole(losses, exact, folder) -> None:
    difference = (losses - exact).abs().max()
    assert 0 < difference < 0.03  # the same would mean that nothing was computed in half precision
    for file in (folder / "best" / "model.safetensors", folder / "checkpoint-20" / "model.safetensors"):
        assert {weight.dtype for weight in load_file(file).values()} == {torch.float32}
    optimizer = torch.load(folder / "checkpoint-20" / "optimizer_1.bin")
    assert {state["exp_avg"].dtype for state in optimizer["state"].values()} == {torch.float32}


def test_bf16_is_near_float32(tmp_path, exact):
    losses = train(tmp_path / "run", "bf16")
    assert_near_and_saved_whole(losses, exact, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["mixed_precision"] == "bf16"


def test_fp16_is_near_float32(tmp_path, exact, monkeypatch):
    """Unscaling the gradients of the second optimizer twice, as Accelerate does by itself, gives other losses."""
    monkeypatch.setattr(loop, "build_accelerator", half_on_cpu(2.0**16))
    losses = train(tmp_path / "run", "no")
    assert_near_and_saved_whole(losses, exact, tmp_path / "run")
    assert torch.load(tmp_path / "run" / "checkpoint-20" / "scaler.pt")["scale"] == 2.0**16


def test_fp16_steps_that_overflow_are_left_out(tmp_path, exact, monkeypatch):
    """The scale begins so high that gradients are infinite, and is halved once a step until they are not."""
    monkeypatch.setattr(loop, "build_accelerator", half_on_cpu(2.0**28))
    losses = train(tmp_path / "run", "no")
    scale = torch.load(tmp_path / "run" / "checkpoint-20" / "scaler.pt")["scale"]
    halved = 28 - int(torch.tensor(scale).log2())
    assert 3 < halved < 20
    assert losses.isfinite().all()
    assert losses[:halved].std() < 0.1 * exact[:halved].std()  # of the same weights, on other batches
    assert losses[-1] < losses[0]


def test_fp16_on_a_cpu_is_refused(tmp_path):
    """Accelerate would take it, compute in float32, and say fp16."""
    with pytest.raises(UserError, match=r"fp16 needs a GPU.*bf16"):
        train(tmp_path / "run", "fp16")
    assert not (tmp_path / "run").exists()
