"""The speedrun's comparison and tables, and that it resumes where it stopped."""

import json

import pytest

from tests.forks import run_forked
from training.benchmarks.contenders import Course
from training.benchmarks.speedrun import compare, spread, table


def course(contender: str, seed: int, *scores) -> Course:
    return Course(contender, "oz", seed, 100, 600, 0.1, 1000.0, 50.0, list(scores))


def test_the_goal_is_the_last_loss_of_the_other_one_of_the_same_seed():
    courses = [
        course("nanoGPT", 1, (10, 50.0, 1.8), (20, 100.0, 1.5)),
        course("ours (speedrun)", 1, (5, 4.0, 1.6), (10, 8.0, 1.5)),
        course("nanoGPT", 2, (20, 90.0, 1.4)),
        course("ours (speedrun)", 2, (10, 8.0, 1.45)),
    ]
    first, second = compare(courses)
    assert (first["goal"], first["seconds"], first["our_seconds"], first["times_faster"]) == (1.5, 100.0, 8.0, 12.5)
    assert second["our_seconds"] is None
    entries = [{**vars(c), "model_flops_utilisation": 0.5} for c in courses]
    text = table(entries, [first, second])
    assert "not reached by 1 of 2" in text


def test_a_spread_is_the_median_and_all():
    assert spread([3.0, 1.0, 2.0], 1) == "2.0 (3.0, 1.0, 2.0)"
    assert spread([2.0], 2) == "2.00"


def test_what_was_measured_is_not_measured_again(tmp_path):
    """The second command prints the same table without training: it would take minutes."""
    from training.benchmarks.machine import describe_machine

    scores = [(10, 5.0, 2.0), (20, 10.0, 1.0)]
    entries = []
    for name in ("llama", "gpt2", "ours (speedrun)"):
        entry = {**vars(course(name, 1, *scores)), "corpus": "sampler"}
        entries.append({**entry, "matrix_peak_gflops": 100.0, "model_flops_utilisation": 0.5})
    machine = json.loads(run_forked("-c", PRINT_MACHINE).stdout)
    assert machine.keys() == describe_machine().keys()
    (tmp_path / "results.json").write_text(json.dumps({"machine": machine, "courses": entries}))
    options = ["--corpora", "sampler", "--seeds", "1", "--output", tmp_path]
    done = run_forked("-m", "training.benchmarks.speedrun", *options)
    assert "| sampler | llama | 1.0000 | 10.0 | 10.0 | 1.0 |" in done.stdout
    assert (tmp_path / "loss.png").stat().st_size > 1000


def test_figures_of_another_machine_are_not_mixed_in(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"machine": {}, "courses": []}))
    done = run_forked("-m", "training.benchmarks.speedrun", "--corpora", "sampler", "--output", tmp_path, check=False)
    assert done.returncode == 1
    assert "another machine" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["speedrun", "throughput", "levers", "memory", "scaling"])
def test_help_says_how_to_run_it(command):
    said = run_forked("-m", f"training.benchmarks.{command}", "--help").stdout
    assert f"python -m training.benchmarks.{command}" in said
    assert "default" in said


PRINT_MACHINE = """
import json
from training.benchmarks.machine import describe_machine
print(json.dumps(describe_machine()))
"""
