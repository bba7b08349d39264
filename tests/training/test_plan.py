"""A plan fits the time that is given, and its law says what Chinchilla's says."""

import pytest
import yaml

from tests.forks import run_forked
from training import plan
from training.benchmarks.scaling import fit_law
from training.command import UserError
from training.engine.recipe import load_recipe
from training.plan import Law, load_law, propose, recipe_of

LAW = Law(E=1.1, A=30.0, alpha=0.35, B=400.0, beta=0.45, repeats=12.0)


def test_the_law_falls_with_size_and_tokens_and_a_repeated_token_is_worth_less():
    assert LAW.loss(2e6, 1e6, 1e9) < LAW.loss(1e6, 1e6, 1e9)
    assert LAW.loss(1e6, 2e6, 1e9) < LAW.loss(1e6, 1e6, 1e9)
    assert LAW.loss(1e6, 2e6, 1e9) < LAW.loss(1e6, 2e6, 1e6) < LAW.loss(1e6, 1e6, 1e6)
    # No number of epochs is worth more than 1 + `repeats` texts.
    assert LAW.loss(1e6, 1e12, 1e6) >= LAW.loss(1e6, 13e6, 1e9) - 1e-9
    assert LAW.loss(1e30, 1e30, 1e30) == pytest.approx(LAW.E, abs=1e-6)


def test_the_fit_finds_the_law_that_made_the_runs():
    runs = [
        {"parameters": n, "tokens": d, "unique": 2.5e5, "loss": LAW.loss(n, d, 2.5e5)}
        for n in (1e5, 5e5, 2e6, 5e6)
        for d in (1.5e5, 5e5, 1.5e6, 4.5e6)
    ]
    law = fit_law(runs, iterations=1500)
    for r in runs:
        assert law.loss(r["parameters"], r["tokens"], r["unique"]) == pytest.approx(r["loss"], abs=0.02)


def test_the_shipped_law_is_one_of_a_text():
    law = load_law()
    assert 0 < law.E < 2
    assert 1 < law.loss(8e5, 1.5e6, 2.4e5) < 2


def test_a_text_that_is_seen_often_gets_dropout():
    assert "hidden_dropout" not in recipe_of("oz", (2, 64, 2), 100, epochs=2).model
    assert recipe_of("oz", (2, 64, 2), 100, epochs=8).model["hidden_dropout"] == 0.1
    assert recipe_of("oz", (2, 64, 2), 100, epochs=30).model["hidden_dropout"] == 0.2


@pytest.fixture
def quick(monkeypatch):
    """Two small sizes whose steps take 0.1 and 0.4 s, and no pilot."""
    seconds = {2: (100_000, 0.1), 3: (600_000, 0.4)}
    monkeypatch.setattr(plan, "SIZES", ((2, 64, 2), (3, 128, 4)))
    monkeypatch.setattr(plan, "measure", lambda recipe, steps=8: seconds[recipe.model["num_hidden_layers"]])
    monkeypatch.setattr(plan, "pilot", lambda corpus, unique, law: 0.25)
    monkeypatch.setattr(plan, "load_law", lambda: LAW)


@pytest.mark.usefixtures("quick")
def test_the_steps_fit_the_time():
    for proposal in propose("sampler", minutes=2):
        assert proposal.recipe.steps * proposal.step_seconds <= 120
        assert (proposal.recipe.steps + 1) * proposal.step_seconds > 120


@pytest.mark.usefixtures("quick")
def test_the_best_comes_first_and_the_pilot_moves_all():
    proposals = propose("sampler", minutes=10)
    assert [p.loss for p in proposals] == sorted(p.loss for p in proposals)
    unique = len(plan.load_corpus("sampler").train)
    best = proposals[0]
    tokens = best.recipe.steps * best.recipe.batch_size * best.recipe.context
    assert best.loss == pytest.approx(LAW.loss(best.parameters, tokens, unique) + 0.25)


@pytest.mark.usefixtures("quick")
def test_too_little_time_is_a_clear_error():
    with pytest.raises(UserError, match="too few"):
        propose("sampler", minutes=0.01)


@pytest.mark.slow
def test_the_command_writes_a_recipe_that_trains(tmp_path):
    output = tmp_path / "mine.yaml"
    done = run_forked("-m", "training.plan", "--corpus", "sampler", "--minutes", "0.05", "--output", output)
    assert "expect a validation loss near" in done.stdout
    assert done.stdout.count("with the validation split of sampler") == 1  # by the pilot, and not by each size
    recipe = load_recipe(str(output))
    assert recipe.expected_loss == yaml.safe_load(output.read_text())["expected_loss"]
    run_forked("-m", "training.pretrain", "--recipe", output, "--output", tmp_path / "run", "--dry-run")


@pytest.mark.parametrize("minutes", ["0", "-1"])
def test_no_time_is_refused(minutes):
    done = run_forked("-m", "training.plan", "--corpus", "sampler", f"--minutes={minutes}", check=False)
    assert done.returncode == 1
    assert "must be more than 0" in done.stderr
