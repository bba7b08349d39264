import json

import pytest

from tests.forks import run_forked
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
