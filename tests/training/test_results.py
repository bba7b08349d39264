import json

import pytest

from tests.forks import run_forked
from training import results
from training.command import UserError


def test_the_readme_has_the_table_of_the_records():
    """Written by the command, not by hand; run `python -m training.results` when this fails."""
    readme = (results.PROJECT / "README.md").read_text(encoding="utf-8")
    begin, end = readme.index(results.BEGIN) + len(results.BEGIN), readme.index(results.END)
    assert readme[begin:end].strip() == results.table(results.evolution())


def test_the_evolution_stands_in_its_order_and_each_step_is_better():
    poetry = [record for _, record in results.evolution() if record["corpus"]["name"] == "poetry"]
    assert [record["recipe"]["preset"] for record in poetry] == list(results.ORDER)
    losses = [record["best_validation_loss"] for record in poetry]
    assert losses == sorted(losses, reverse=True)
    assert len({record["tokens"] for record in poetry}) == 1  # the same budget


def test_samples_cannot_break_the_table():
    assert results.one_line("\n a | b\n\n<img> *c* `d`\n") == r"a \| b / \<img\> \*c\* \`d\` ..."


def test_command_prints_the_table_of_other_runs(trained, tmp_path):
    said = run_forked("-m", "training.results", trained).stdout
    loss = json.loads((trained / "run.json").read_text())["best_validation_loss"]
    assert f"**{loss:.4f}**" in said
    seeds = run_forked("-m", "training.results", "--seeds", trained, trained).stdout
    assert f"| 2 | **{loss:.4f}** | {loss:.4f} | {loss:.4f} |" in seeds
    with pytest.raises(UserError, match=r"no run\.json"):
        results.read_records([tmp_path])
