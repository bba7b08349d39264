import json

import pytest

from tests.conftest import PROJECT, run
from tests.forks import free_port, run_forked
from training.command import UserError
from training.sweep import parse_vary

SMALL = ["--steps", "6", "--evaluate_every", "6", "--sample_length", "2", "--model.num_hidden_layers", "1"]


def test_a_sweep_ranks_its_settings_and_trains_nothing_twice(tmp_path):
    command = ["-m", "training.sweep", "--recipe", "smoke", "--vary", "learning_rate=1e-2,1e-6", "--output", tmp_path]
    assert "2 settings, 2 seeds each: 4 runs" in run_forked(*command, "--seeds", "1,2", "--dry-run", *SMALL).stdout
    assert not list(tmp_path.iterdir())
    said = run_forked(*command, *SMALL).stdout
    assert "best: learning_rate=1e-2" in said
    before = (tmp_path / "learning_rate=1e-6" / "seed-1" / "run.json").read_text()
    said = run_forked(*command, "--seeds", "1,2", *SMALL).stdout
    assert said.count("this run is finished") == 2
    assert (tmp_path / "learning_rate=1e-6" / "seed-1" / "run.json").read_text() == before
    table = (tmp_path / "sweep.md").read_text().splitlines()
    assert [row.split("|")[1].strip() for row in table[4:]] == ["learning_rate=1e-2", "learning_rate=1e-6"]
    records = [json.loads((tmp_path / "learning_rate=1e-2" / f"seed-{n}" / "run.json").read_text()) for n in (1, 2)]
    losses = [record["best_validation_loss"] for record in records]
    assert f"**{sum(losses) / 2:.4f}** | {min(losses):.4f} | {max(losses):.4f} | 2 |" in table[4]
    assert (tmp_path / "sweep.png").stat().st_size > 1000


@pytest.mark.parametrize("processes", [1, 2])
def test_each_run_has_its_own_precision_also_on_two_processes(tmp_path, processes):
    command = ["-m", "training.sweep", "--recipe", "smoke", "--vary", "mixed_precision=no,bf16", "--output", tmp_path]
    said = run_forked(*command, *SMALL, processes=processes).stdout
    assert "best: mixed_precision=" in said
    for precision in ("no", "bf16"):
        record = json.loads((tmp_path / f"mixed_precision={precision}" / "seed-1" / "run.json").read_text())
        assert (record["mixed_precision"], record["processes"], record["finished"]) == (precision, processes, True)


@pytest.mark.slow
def test_a_sweep_runs_under_accelerate_launch(tmp_path):
    config = PROJECT / "training" / "accelerate" / "two-cpu-processes.yaml"
    launch = ["-m", "accelerate.commands.launch", "--config_file", config, "--main_process_port", free_port()]
    command = ["-m", "training.sweep", "--recipe", "smoke", "--vary", "seed=1,2", "--output", tmp_path]
    said = run(*launch, *command, *SMALL, OMP_NUM_THREADS=1, PYTHONPATH=PROJECT).stdout
    assert said.count("best: seed=") == 1
    assert (tmp_path / "sweep.md").read_text().count("| seed=") == 2


def test_a_setting_that_diverges_is_left_out_and_the_others_go_on(tmp_path):
    command = ["-m", "training.sweep", "--recipe", "smoke", "--vary", "learning_rate=1e30,1e-3", "--output", tmp_path]
    said = run_forked(*command, *SMALL, "--warmup_steps", "0").stdout
    assert "left out of the table: training has diverged" in said
    assert "best: learning_rate=1e-3" in said


def test_wrong_sweeps_are_refused_before_any_training(tmp_path):
    with pytest.raises(UserError, match="FIELD=VALUE,VALUE"):
        parse_vary("weight_decay")
    for vary, words in (("nothing=1,2", "nothing"), ("steps=10,many", "steps"), ("weight_decay=0.1,,", "FIELD=VALUE")):
        refused = run_forked(
            "-m", "training.sweep", "--recipe", "smoke", "--vary", vary, "--output", tmp_path / "x", check=False
        )
        assert refused.returncode == 1
        assert words in refused.stderr
        assert "Traceback" not in refused.stderr
    assert not (tmp_path / "x").exists()
