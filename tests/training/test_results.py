import dataclasses
import json

import pytest

from tests.forks import run_forked
from training import results
from training.command import UserError
from training.engine.recipe import Recipe
from training.tables import read_table


def test_the_page_has_the_table_of_the_records():
    """Written by the command, not by hand; run `python -m training.results` when this fails."""
    assert read_table("results") == results.table(results.evolution())


def test_the_evolution_stands_in_its_order_and_each_step_is_better():
    poetry = [record for _, record in results.evolution() if record["corpus"]["name"] == "poetry"]
    assert [record["recipe"]["preset"] for record in poetry] == list(results.ORDER)
    losses = [record["best_validation_loss"] for record in poetry]
    assert losses == sorted(losses, reverse=True)
    assert len({record["tokens"] for record in poetry}) == 1  # the same budget


def test_samples_cannot_break_the_table():
    assert results.one_line("\n a | b\n\n<img> *c* `d`\n") == r"a \| b / \<img\> \*c\* \`d\` ..."


def record(loss: float, **fields) -> dict:
    """The record of a run with some fields of a recipe; `corpus` and `mixed_precision` are the record's own."""
    recipe = {**dataclasses.asdict(Recipe()), "corpus": "oz", **fields}
    corpus = {"name": "oz", "sha256": fields.get("sha256", "01")}
    recipe.pop("sha256", None)
    return {
        "recipe": recipe,
        "corpus": corpus,
        "parameters": 5,
        "best_validation_loss": loss,
        "mixed_precision": "no",
        "trained_on_before": [],
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 2},
        {"about": "another word for it"},
        {"expected_loss": 1.5},
        {"trackers": ["tensorboard"]},
        {"log_every": 99},
        {"checkpoint_every": 7, "keep_checkpoints": 9},
        {"sample_length": 3, "sample_prompt": "x"},
    ],
)
def test_runs_that_differ_by_seed_and_book_keeping_are_one_row(fields):
    table = results.seeds_table([("a", record(1.0)), ("b", record(2.0, **fields))])
    assert table.count("| oz |") == 1
    assert "| 2 | **1.5000** | 1.0000 | 2.0000 |" in table


@pytest.mark.parametrize(
    "fields",
    [
        {"tokenizer": "bpe"},
        {"vocab_size": 300},
        {"average_decay": 0.9},
        {"start_from": "runs/base/best"},
        {"beta1": 0.5},
        {"beta2": 0.5},
        {"gradient_clip": 0.0},
        {"remove_overlap": True},
        {"evaluate_every": 10},
        {"model": {"hidden_dropout": 0.2}},
        {"sha256": "02"},
    ],
)
def test_runs_that_differ_by_anything_else_are_rows_of_their_own(fields):
    table = results.seeds_table([("a", record(1.0)), ("b", record(2.0, **fields))])
    assert table.count("| oz |") == 2
    if "sha256" not in fields:
        name, value = next(iter(fields.get("model", fields).items()))
        assert f"`{name}: {json.dumps(value)}`" in table  # the reader sees by what they differ


def test_a_field_that_is_newer_than_a_run_had_its_default():
    older = record(1.0)
    del older["recipe"]["remove_overlap"], older["trained_on_before"]
    assert results.seeds_table([("a", older), ("b", record(2.0))]).count("| oz |") == 1


def test_command_prints_the_table_of_other_runs(trained, tmp_path):
    said = run_forked("-m", "training.results", trained).stdout
    loss = json.loads((trained / "run.json").read_text())["best_validation_loss"]
    assert f"**{loss:.4f}**" in said
    seeds = run_forked("-m", "training.results", "--seeds", trained, trained).stdout
    assert f"| 2 | **{loss:.4f}** | {loss:.4f} | {loss:.4f} |" in seeds
    with pytest.raises(UserError, match=r"no run\.json"):
        results.read_records([tmp_path])
