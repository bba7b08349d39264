"""The contenders of the speedrun: one score for all, and nanoGPT's code run unchanged."""

import math
import sys

import pytest
import torch

from training.benchmarks.contenders import (
    CONTEXT,
    Course,
    find_nanogpt,
    flops_per_token,
    run_nanogpt,
    run_ours,
    score,
    train_in_loop,
    transformers_model,
)
from training.command import UserError
from training.data.corpora import load_corpus
from training.engine.recipe import load_recipe

# A checkout in the shape of nanoGPT's, with a model that learns nothing: what the driver reads and wraps.
MODEL = """
import dataclasses, torch
@dataclasses.dataclass
class GPTConfig:
    vocab_size: int = 0
class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.transformer = torch.nn.ModuleDict({"wpe": torch.nn.Embedding(7, 1)})
        self.table = torch.nn.Parameter(torch.zeros(config.vocab_size, config.vocab_size))
    def forward(self, x, y):
        return self.table[x], None
"""
TRAIN = """
import os, pickle, sys, numpy, torch
from model import GPT, GPTConfig
options = dict(a[2:].split("=") for a in sys.argv[2:])
torch.manual_seed(1337)
vocabulary = pickle.load(open(os.path.join(options["dataset"], "meta.pkl"), "rb"))["vocab_size"]
assert numpy.memmap(options["dataset"] + "/train.bin", dtype=numpy.uint16).max() < vocabulary
model = GPT(GPTConfig(vocab_size=vocabulary))
print("drawn", float(torch.rand(())))
for step in range(int(options["max_iters"]) + 1):
    if step % 1000 == 0 and step:
        state = {"model": model.state_dict(), "model_args": {"vocab_size": vocabulary}, "iter_num": step}
        torch.save(state, os.path.join(options["out_dir"], "ckpt.pt"))
    print(f"iter {step}: loss 1.0, time {5000 if step % 1000 == 0 else 10:.2f}ms, mfu 0.1%")
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "configurator.py").write_text("")
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield tmp_path
    sys.modules.pop("model", None)


def test_nanogpt_is_timed_by_its_own_clock_and_scored_by_ours(checkout):
    seed_before, save_before = torch.manual_seed, torch.save
    course = run_nanogpt("sampler", 3, find_nanogpt(checkout))
    vocabulary = len(set(load_corpus("sampler").text))
    assert [step for step, _, _ in course.scores] == [1000, 2000]
    # The steps that also evaluate say 5 s, and count as the median step of 10 ms.
    assert [seconds for _, seconds, _ in course.scores] == pytest.approx([10.0, 20.0])
    assert all(loss == pytest.approx(math.log(vocabulary), abs=1e-4) for _, _, loss in course.scores)
    assert course.parameters == vocabulary**2
    assert (torch.manual_seed, torch.save) == (seed_before, save_before)


def test_a_folder_that_is_no_checkout_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a checkout of nanoGPT"):
        find_nanogpt(tmp_path)


def test_a_score_is_the_mean_over_all_whole_windows():
    torch.manual_seed(0)
    tokens = torch.randint(5, (3 * CONTEXT + 20,))
    table = torch.randn(5, 5)
    losses = -table.log_softmax(-1)[tokens[:-1], tokens[1:]][: 3 * CONTEXT]
    assert score(lambda x: table[x], tokens, len(tokens)) == pytest.approx(float(losses.mean()), abs=1e-5)
    # With two tokens a character each character costs as much as both.
    assert score(lambda x: table[x], tokens, len(tokens) // 2) == pytest.approx(2 * float(losses.mean()), abs=1e-5)


def test_the_seconds_to_a_loss_are_those_of_the_first_score_that_has_it():
    course = Course("a", "b", 1, 0, 0, 0.0, 0.0, 0.0, [(1, 1.0, 3.0), (2, 2.0, 2.0), (3, 3.0, 1.0)])
    assert course.seconds_to(2.5) == 2.0
    assert course.seconds_to(2.0) == 2.0
    assert course.seconds_to(0.5) is None


def test_flops_of_a_known_model():
    assert flops_per_token(124_000_000, 12, 768, 1024) == 6 * 124_000_000 + 12 * 12 * 768 * 1024


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_other_models_learn_in_the_same_loop(kind):
    recipe = load_recipe("smoke", [("steps", "40"), ("optimizer", "adamw"), ("context", "64")])
    course = train_in_loop(kind, recipe, 4, build=lambda vocab: transformers_model(kind, 1, 32, 2, vocab, 64))
    assert course.scores[-1][2] < course.scores[0][2] < math.log(300)
    assert course.scores[-1][1] > 0


@pytest.mark.slow
def test_the_recipe_of_the_speedrun_learns_fast():
    course = run_ours("sampler", 1)
    assert course.scores[-1][0] == 140
    assert course.scores[-1][2] < 2.0
