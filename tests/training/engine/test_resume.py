"""A run that goes on: with more steps, after a signal, and after a beginning that came to nothing."""

import json
import os
import signal
import time

import pytest

from tests.forks import ranks, run_forked, start_forked
from training.command import UserError
from training.engine.checkpoints import list_checkpoints
from training.engine.interrupts import Interruption
from training.engine.loop import Diverged, train
from training.engine.recipe import load_recipe

FIELDS = {"steps": 12, "batch_size": 8, "context": 32, "evaluate_every": 6, "checkpoint_every": 6, "log_every": 2}
FIELDS |= {"sample_length": 3, "warmup_steps": 2, "model.hidden_dropout": 0.1, "model.num_hidden_layers": 1}


def recipe(**fields):
    fields = {**FIELDS, **{name.replace("__", "."): value for name, value in fields.items()}}
    return load_recipe("smoke", [(name, str(value)) for name, value in fields.items()])


def losses(folder) -> list[tuple]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(line["step"], line.get("train_loss", 0.0), line.get("validation_loss", 0.0)) for line in lines]


def record(folder) -> dict:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def test_a_finished_run_goes_on_with_more_steps_and_other_intervals(tmp_path, capsys):
    train(recipe(), tmp_path / "run")
    first = losses(tmp_path / "run")
    longer = {"steps": 18, "evaluate_every": 9, "checkpoint_every": 3, "gradient_accumulation_steps": 2, "patience": 5}
    train(recipe(**longer), tmp_path / "run")
    said = capsys.readouterr().out
    assert "resuming from step 12" in said
    assert (
        "from step 12 the learning rate follows the schedule for 18 steps; before, it followed the one for 12" in said
    )
    assert losses(tmp_path / "run")[: len(first)] == first
    assert [step for step, _, score in losses(tmp_path / "run") if score] == [0, 6, 12, 18]
    assert record(tmp_path / "run")["steps"] == 18
    assert record(tmp_path / "run")["schedules"] == [{"from_step": 0, "steps": 12}, {"from_step": 12, "steps": 18}]
    assert "steps: 18" in (tmp_path / "run" / "recipe.yaml").read_text()
    train(recipe(**longer), tmp_path / "run")
    assert "this run is finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    "fields",
    [{"steps": 6}, {"batch_size": 4}, {"context": 16}, {"mixed_precision": "bf16"}, {"decay_share": 0.5}, {"seed": 2}],
    ids=str,
)
def test_what_changes_the_mathematics_is_refused_with_the_reason(tmp_path, fields):
    folder = tmp_path / "run"
    folder.mkdir()
    train(recipe(steps=8), folder)
    (name, value), *_ = fields.items()
    with pytest.raises(
        UserError, match=rf"another {name} \(.* there, '?{value}'? here\), which would change its losses"
    ):
        train(recipe(**{"steps": 8, **fields}), folder)


def test_a_run_without_a_step_is_begun_anew(tmp_path):
    """Rates far too high end it in one sentence, and the corrected command is taken."""
    folder = tmp_path / "run"
    wild = {"learning_rate": 1e30, "matrix_learning_rate": 1e30, "warmup_steps": 0, "log_every": 6}
    with pytest.raises(Diverged, match=r"diverged: the loss is nan at step 6; lower the rates \(learning_rate 1e\+30"):
        train(recipe(**wild, snapshots="[0]"), folder)
    assert [line[0] for line in losses(folder)] == [0]
    train(recipe(), folder)
    assert record(folder)["finished"]
    assert record(folder)["recipe"]["learning_rate"] == 6e-3
    assert not (folder / "snapshots").exists()


def test_of_two_signals_at_once_the_second_is_the_same_and_a_later_one_ends(monkeypatch):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    clock = iter([10.0, 10.2, 12.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with Interruption("") as interruption:
        assert not interruption.requested
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


LONG = {**FIELDS, "steps": 60, "evaluate_every": 20, "checkpoint_every": 60, "model.hidden_dropout": 0.0}


def command(folder) -> list:
    options = [part for name, value in LONG.items() for part in (f"--{name}", value)]
    return ["-m", "training.pretrain", "--recipe", "smoke", "--output", folder, *options]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    run_forked(*command(folder))
    return losses(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "number"), [(1, signal.SIGINT), (1, signal.SIGTERM), (2, signal.SIGINT)], ids=["int", "term", "two"]
)
def test_a_signal_saves_and_the_same_command_goes_on_as_if_unbroken(unbroken, tmp_path, processes, number):
    """Of two processes only one gets the signal; both stop at the same step."""
    folder = tmp_path / "run"
    shares = [{}] if processes == 1 else ranks(processes)
    said = [tmp_path / str(rank) for rank in range(processes)]
    started = [start_forked(at, *command(folder), **share) for at, share in zip(said, shares, strict=True)]
    deadline = time.monotonic() + 120
    while not (folder / "metrics.jsonl").exists() or len(losses(folder)) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(started[-1].pid, number)
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [130] * processes, (said[0] / "err").read_text()
    (checkpoint,) = list_checkpoints(folder)
    step = int(checkpoint.name.removeprefix("checkpoint-"))
    assert 0 < step < 60
    assert losses(folder)[-1][0] == step
    assert "Traceback" not in (said[0] / "err").read_text()
    done = run_forked(*command(folder), processes=processes)
    assert f"resuming from step {step}" in done.stdout
    for ours, theirs in zip(losses(folder), unbroken, strict=True):
        assert ours == (theirs if processes == 1 else pytest.approx(theirs, abs=1e-4))
