"""A lever of speed changes only the time; a lever of learning changes the loss."""

import dataclasses

import pytest
import torch

from training.benchmarks import levers
from training.benchmarks.contenders import train_in_loop
from training.benchmarks.levers import LEARNING, SPEED, Lever, chosen
from training.command import UserError
from training.engine import kernels, loop, optimizers
from training.engine.recipe import load_recipe

STEPS = [("corpus", "sampler"), ("steps", "12"), ("batch_size", "4"), ("model.hidden_size", "32")]


def last_loss(lever: Lever) -> float:
    recipe = load_recipe("speedrun", [*STEPS, *lever.fields])
    return train_in_loop(lever.name, recipe, every=recipe.steps, patch=lever.patch).scores[-1][2]


@pytest.fixture(scope="module")
def base() -> float:
    return last_loss(LEARNING[0])


@pytest.mark.slow
@pytest.mark.parametrize("lever", LEARNING[1:], ids=lambda lever: lever.name)
def test_each_lever_of_learning_changes_the_loss(lever, base):
    assert 1e-6 < abs(last_loss(lever) - base) < 3.0


# What a compiler makes is tested in tests/training/engine/test_kernels.py.
EXACT = [lever for lever in SPEED[1:] if lever.name not in ("the model compiled", "no Muon")]


@pytest.mark.slow
@pytest.mark.parametrize("lever", EXACT, ids=lambda lever: lever.name)
def test_each_lever_of_speed_leaves_the_loss(lever, base, monkeypatch):
    touched = (optimizers, "orthogonalise"), (torch.optim, "AdamW"), (loop, "choose_kernels")
    touched += (kernels, "other_than_intel_with_avx512"), (kernels, "keep_freed_memory")
    for module, name in touched:
        monkeypatch.setattr(module, name, getattr(module, name))  # restored after the test
    assert last_loss(lever) == pytest.approx(base, abs=0.02 if "bf16" in lever.name else 1e-4)


def test_an_unknown_lever_is_refused():
    with pytest.raises(UserError, match="there is no lever 'nothing'"):
        chosen(LEARNING, ["nothing"])
    assert [lever.name for lever in chosen(SPEED, ["no Muon"])] == [SPEED[0].name, "no Muon"]


def test_every_field_of_a_lever_is_one_of_the_recipe():
    for lever in (*LEARNING, *SPEED):
        recipe = load_recipe("speedrun", lever.fields)
        assert lever.patch or lever.name == LEARNING[0].name or recipe != load_recipe("speedrun")
        assert dataclasses.asdict(recipe)


def test_logits_that_are_skipped_cost_nothing_of_the_loss():
    seconds, peak = levers.large_vocabulary(skip_logits=True, vocabulary=500)
    assert seconds > 0
    assert peak > 0
