"""The command as a user gives it: from a text to a finished run, through kills and wrong input."""

import json
import math
import random
import shutil
import signal
import sys
import time

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

from tests.conftest import run
from tests.forks import run_forked, start_forked
from training.command import run_command
from training.engine.checkpoints import list_checkpoints
from training.engine.loop import MANY_EPOCHS, train
from training.engine.recipe import RECIPES, load_recipe
from training.pretrain import main

# Eight epochs of 24 steps, so that a kill falls into a later one; with dropout the random state matters, and with
# accumulation the parts.
SMALL = {
    "steps": 200,
    "batch_size": 8,
    "gradient_accumulation_steps": 2,
    "context": 128,
    "evaluate_every": 50,
    "checkpoint_every": 5,
    "log_every": 1,
    "sample_length": 5,
    "model.hidden_dropout": 0.1,
}


def arguments(output, recipe: str = "smoke", **fields) -> list[str]:
    options = [part for name, value in fields.items() for part in (f"--{name}", str(value))]
    return ["-m", "training.pretrain", "--recipe", recipe, "--output", str(output), *options]


def metrics(folder) -> list[dict]:
    """The lines of `metrics.jsonl` without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second")} for line in lines]


ENCODER_DECODER = {"steps": 12, "evaluate_every": 6, "checkpoint_every": 6, "context": 16, "batch_size": 8}


def test_an_encoder_decoder_learns_to_write_the_next_passage_and_resumes(tmp_path):
    fields = {**ENCODER_DECODER, "task": "next_passage", "gradient_accumulation_steps": 2}
    model = {"model.position_type": "learned", "model.num_hidden_layers": 1}
    run_forked(*arguments(tmp_path / "whole", **fields, **model))
    record = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert record["best_validation_loss"] < record["first_validation_loss"] - 0.3
    assert " -> " in record["sample"]
    saved = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "whole" / "best")
    assert AutoTokenizer.from_pretrained(tmp_path / "whole" / "best").padding_side == "right"
    assert saved.lm_head.weight.data_ptr() == saved.encoder.embed_tokens.weight.data_ptr()
    # Back to the checkpoint in the middle: what comes after it is the same.
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoint-12")
    unfinished = {**json.loads((tmp_path / "parts" / "run.json").read_text()), "finished": False}
    (tmp_path / "parts" / "run.json").write_text(json.dumps(unfinished))
    assert "resuming from step 6" in run_forked(*arguments(tmp_path / "parts", **fields, **model)).stdout
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    said = run_forked("-m", "training.evaluate", tmp_path / "whole" / "best", "--corpus", "sampler").stdout
    assert f"{record['best_validation_loss']:.4f} nats per character" in said


def test_an_encoder_learns_to_fill_gaps(tmp_path):
    fields = {"steps": 30, "evaluate_every": 15, "context": 32, "batch_size": 16, "task": "masked"}
    run_forked(*arguments(tmp_path / "run", **fields))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["best_validation_loss"] < record["first_validation_loss"] - 1
    assert "_" in record["sample"].split(" -> ")[0]
    folder = tmp_path / "run" / "best"
    said = run_forked("-m", "training.evaluate", folder, "--corpus", "sampler").stdout
    assert f"{record['best_validation_loss']:.4f} nats per character" in said
    tokenizer = AutoTokenizer.from_pretrained(folder)
    fill = pipeline("fill-mask", model=str(folder), tokenizer=tokenizer, trust_remote_code=True)
    assert len(fill(f"the m{tokenizer.mask_token}on")) == 5


def test_a_mixture_says_how_its_load_is_spread(tmp_path):
    model = {"feed_forward_type": "moe", "num_local_experts": 4, "output_router_logits": "true"}
    fields = {f"model.{name}": value for name, value in model.items()}
    run_forked(*arguments(tmp_path / "run", steps=4, context=32, batch_size=4, **fields))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert 0.25 <= record["busiest_expert"] < 0.6
    said = run_forked("-m", "training.evaluate", tmp_path / "run" / "best", "--corpus", "sampler").stdout
    shares = [float(word.rstrip("%")) for word in said.splitlines()[1].split(": ")[1].split()]
    assert sum(shares) == pytest.approx(100, abs=0.3)


def test_the_load_of_a_mixture_is_that_of_the_characters_that_are_scored(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "training.engine.loop.expert_load", lambda model, tokenizer, text: seen.append(text) or torch.ones(1)
    )
    fields = {"steps": "1", "context": "32", "batch_size": "2", "validation_characters": "40", "sample_length": "1"}
    fields |= {"model.feed_forward_type": "moe", "model.output_router_logits": "true"}
    train(load_recipe("smoke", list(fields.items())), tmp_path / "run")
    assert {len(text) for text in seen} == {40}


@pytest.mark.slow
def test_an_encoder_decoder_learns_to_copy(tmp_path):
    """Strings of up to 23 characters that training never saw; two fifths of the recipe's steps copy 99.8% of them."""
    run_forked(*arguments(tmp_path / "copy", recipe="copy", steps=120, evaluate_every=120))
    record = json.loads((tmp_path / "copy" / "run.json").read_text())
    assert record["exact_match"] >= 0.98


def test_a_run_leaves_all_that_is_promised(trained):
    record = json.loads((trained / "run.json").read_text(encoding="utf-8"))
    assert record["finished"]
    assert record["recipe"]["steps"] == record["steps"] == 40
    assert record["tokens"] == 40 * 16 * 64
    assert record["corpus"]["name"] == "sampler"
    assert len(record["corpus"]["sha256"]) == 64
    assert {"torch", "transformers", "accelerate"} <= record["versions"].keys()
    assert record["training_seconds"] > 0
    assert abs(record["first_validation_loss"] - torch.tensor(321.0).log()) < 0.2
    assert record["best_validation_loss"] < 3
    assert (trained / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "steps: 40" in (trained / "recipe.yaml").read_text()
    lines = metrics(trained)
    assert [line["step"] for line in lines if "validation_loss" in line] == [0, 20, 40]
    assert all(line["sample"] for line in lines if "validation_loss" in line)
    assert [line["step"] for line in lines if "train_loss" in line] == [10, 20, 30, 40]
    assert [f.name for f in list_checkpoints(trained)] == ["checkpoint-20", "checkpoint-40"]


def test_best_is_a_plain_folder(trained):
    model = AutoModelForCausalLM.from_pretrained(trained / "best")
    tokenizer = AutoTokenizer.from_pretrained(trained / "best")
    assert model.generation_config.do_sample
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    inputs = tokenizer("The moon", return_tensors="pt")
    assert len(tokenizer.decode(model.generate(**inputs, max_new_tokens=10)[0])) >= 8


@pytest.mark.slow
def test_smoke_reaches_its_expected_loss_in_under_20_seconds_of_training(tmp_path):
    done = run(*arguments(tmp_path / "run"))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["best_validation_loss"] == pytest.approx(record["recipe"]["expected_loss"], abs=0.05)
    assert record["training_seconds"] < 20
    assert "tokens/s" in done.stderr
    assert "going on" not in done.stdout


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    run_forked(*arguments(folder, **SMALL))
    return folder


def saved_steps(folder) -> list[int]:
    return [int(checkpoint.name.removeprefix("checkpoint-")) for checkpoint in list_checkpoints(folder)]


def last_step(folder, since: float) -> int:
    """The last step of which `metrics.jsonl` tells, where it was written to since a time; else -1."""
    path = folder / "metrics.jsonl"
    if not path.exists() or path.stat().st_mtime < since:
        return -1
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    return json.loads(whole.splitlines()[-1])["step"] if whole else -1


@pytest.mark.slow
def test_killed_ten_times_it_ends_as_if_unbroken(unbroken, tmp_path):
    """SIGKILL at random moments of a run's life, from its first file to its last; some of them hit a save.

    A random number of its own steps is waited for, and not of seconds, in which a busy machine would take no step.
    """
    chance = random.Random(time.time_ns())
    folder = tmp_path / "run"
    for _ in range(10):
        until = max([0, *saved_steps(folder)]) + chance.randint(0, 15)
        started = time.time()
        process = start_forked(tmp_path / "said", *arguments(folder, **SMALL))
        while last_step(folder, started) < until and process.is_alive():
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.05))
        assert process.is_alive(), "it came to its end before it could be killed"
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert saved_steps(folder), "no kill came after a save, which happens once in a hundred thousand times"
    run_forked(*arguments(folder, **SMALL))
    assert metrics(folder) == metrics(unbroken)
    ours, theirs = (json.loads((f / "run.json").read_text()) for f in (folder, unbroken))
    for name in ("best_validation_loss", "final_validation_loss", "best_step", "sample", "finished"):
        assert ours[name] == theirs[name]
    one, other = (AutoModelForCausalLM.from_pretrained(f / "best").state_dict() for f in (folder, unbroken))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_accumulated_parts_give_the_trajectory_of_the_whole(tmp_path):
    fields = {**SMALL, "steps": 10, "model.hidden_dropout": 0.0, "evaluate_every": 10}
    for parts in (1, 4):
        run_forked(*arguments(tmp_path / str(parts), **{**fields, "gradient_accumulation_steps": parts}))
    for one, other in zip(metrics(tmp_path / "1"), metrics(tmp_path / "4"), strict=True):
        for name in ("train_loss", "validation_loss"):
            assert one.get(name) == pytest.approx(other.get(name), abs=1e-4)


@pytest.mark.slow
def test_mixed_precision_and_trackers(tmp_path):
    folder = tmp_path / "run"
    fields = {**SMALL, "steps": 4, "evaluate_every": 4, "mixed_precision": "bf16", "trackers": "[trackio, tensorboard]"}
    run_forked(*arguments(folder, **fields), TRACKIO_DIR=tmp_path / "trackio")
    assert json.loads((folder / "run.json").read_text())["mixed_precision"] == "bf16"
    assert list(folder.rglob("events.out.tfevents*"))
    assert list((tmp_path / "trackio").glob("*.db"))


def command(capsys, monkeypatch, *options: str) -> tuple[int, str, str]:
    """The command in this process; returns its exit code, output and last words."""
    monkeypatch.setattr(sys, "argv", ["pretrain", *options])
    code = 0
    try:
        run_command(main)
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr()
    return (0, said.out, "") if code in (0, None) else (1, said.out, str(code))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("The moon upon the water.\n" * 200)
    return path


def make_empty(folder):
    (folder / "bad.txt").touch()
    return ["--corpus", str(folder / "bad.txt")]


def make_binary(folder):
    (folder / "bad.txt").write_bytes(bytes(range(256)))
    return ["--corpus", str(folder / "bad.txt")]


def make_short(folder):
    (folder / "bad.txt").write_text("too short for a window of 64")
    return ["--corpus", str(folder / "bad.txt")]


def make_unwritable(folder):
    (folder / "file").touch()  # a folder below a file cannot be made, also not by root
    return ["--output", str(folder / "file" / "run")]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (lambda folder: ["--corpus", str(folder / "none.txt")], ["none.txt", "sampler"]),
        (make_empty, ["bad.txt", "empty"]),
        (make_binary, ["bad.txt", "not UTF-8"]),
        (make_short, ["tokens", "--context"]),
        (make_unwritable, ["cannot be written", "--output"]),
        (lambda folder: ["--preset", "giant"], ["giant", "modern"]),
        (lambda folder: ["--stepz", "3"], ["stepz", "steps"]),
        (lambda folder: ["--start_from", str(folder / "none")], ["none", "there is no folder"]),
        (lambda folder: ["--steps", "three"], ["steps", "integer"]),
        (lambda folder: ["--model.hiden_size", "3"], ["hiden_size"]),
        (lambda folder: ["--trackers", "[wandbb]"], ["wandbb", "trackio"]),
        (lambda folder: ["--gradient_accumulation_steps", "5"], ["batch_size", "16", "5"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_bad_input_gets_one_sentence(capsys, monkeypatch, tmp_path, options, words):
    given = ["--recipe", "smoke", "--output", str(tmp_path / "run"), "--steps", "2"]
    code, _, error = command(capsys, monkeypatch, *given, *options(tmp_path))
    assert code == 1
    assert error.startswith("error: ")
    assert "\n" not in error
    assert all(word in error for word in words), error
    assert not (tmp_path / "run").exists()


def test_dry_run_builds_and_writes_nothing(capsys, monkeypatch, tmp_path, text):
    options = ["--recipe", "smoke", "--output", str(tmp_path / "run"), "--corpus", str(text), "--dry-run"]
    code, said, _ = command(capsys, monkeypatch, *options)
    assert code == 0
    assert "parameters" in said
    assert "mine" in said
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_left_alone_and_another_recipe_is_refused(capsys, monkeypatch, trained):
    options = ["--recipe", "smoke", "--output", str(trained), "--steps", "40", "--evaluate_every", "20"]
    options += ["--checkpoint_every", "20", "--warmup_steps", "4", "--sample_length", "20", "--snapshots", "[0, 20]"]
    before = (trained / "run.json").stat().st_mtime_ns
    code, said, _ = command(capsys, monkeypatch, *options)
    assert code == 0
    assert "finished" in said
    code, _, error = command(capsys, monkeypatch, *options, "--learning_rate", "1e-3")
    assert code == 1
    assert "learning_rate (0.006 there, 0.001 here)" in error
    assert "--overwrite" in error
    assert (trained / "run.json").stat().st_mtime_ns == before


def test_a_changed_text_is_not_gone_on_with(capsys, monkeypatch, tmp_path, text):
    options = ["--recipe", "smoke", "--output", str(tmp_path / "run"), "--corpus", str(text), "--steps", "1"]
    assert command(capsys, monkeypatch, *options)[0] == 0
    text.write_text(text.read_text() + "And one line more.\n")
    code, _, error = command(capsys, monkeypatch, *options)
    assert code == 1
    assert "has changed" in error


def test_full_disk_while_logging_is_one_sentence(capsys, monkeypatch, tmp_path, text):
    """The checkpoints have a test of their own; a line of metrics can fail as well."""
    from training.engine.record import RunRecord

    def full(*args, **values):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunRecord, "log", full)
    options = ["--recipe", "smoke", "--output", str(tmp_path / "run"), "--corpus", str(text), "--steps", "1"]
    code, _, error = command(capsys, monkeypatch, *options)
    assert code == 1
    assert "No space left" in error
    assert "free some space" in error


def test_a_folder_that_is_no_run_is_never_touched(capsys, monkeypatch, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    code, _, error = command(capsys, monkeypatch, "--recipe", "smoke", "--output", str(tmp_path), "--overwrite")
    assert code == 1
    assert "does not hold a run" in error
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_a_small_text_that_is_read_often_stops_by_itself_and_says_what_to_do(tmp_path, capsys):
    """As the README's command for a text of one's own does on 27 kB; here with fewer steps on a smaller text."""
    verse = (RECIPES.parent / "data" / "sampler.txt").read_text(encoding="utf-8")
    (tmp_path / "verse.txt").write_text(verse[:6000], encoding="utf-8")
    fields = {"steps": "200", "evaluate_every": "10", "sample_length": "1", "corpus": str(tmp_path / "verse.txt")}
    train(load_recipe("smoke", list(fields.items())), tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["finished"]
    assert record["steps"] == record["best_step"] + 30 < 200
    said = capsys.readouterr().out
    assert "stops early after 3 evaluations without a better loss" in said
    assert f"at step {record['best_step']}" in said
    assert f"since then it has risen to {record['final_validation_loss']:.4f}" in said
    assert "--start_from" in said


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_no_recipe_of_the_registry_stops_by_itself(name):
    """Their figures stand in the README. What reads its text often says in the recipe whether it may stop."""
    recipe = load_recipe(name)
    characters = {"sampler": 27_488, "oz": 207_799, "poetry": 270_615, "classics+quatrains": 1_000_000}
    text = 0.9 * characters.get(str(recipe.corpus), math.inf)
    per_token = 1 if recipe.tokenizer == "character" else 4
    epochs = recipe.steps * recipe.batch_size * recipe.context * per_token / text
    assert recipe.patience is not None or recipe.task == "copy" or epochs < MANY_EPOCHS


def test_early_stopping_keeps_the_best(tmp_path, text):
    """The learning rate is so high that the loss soon rises."""
    fields = {"steps": "100", "evaluate_every": "5", "patience": "2", "learning_rate": "3", "matrix_learning_rate": "9"}
    fields |= {"sample_length": "1", "corpus": str(text)}
    train(load_recipe("smoke", list(fields.items())), tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["finished"]
    assert record["steps"] < 100
    assert record["steps"] == record["best_step"] + 10
