"""Several processes, and FSDP, are one process: the same losses, and checkpoints that each can go on from."""

import json
import shutil

import pytest
import torch
import yaml
from accelerate import DistributedType
from accelerate.commands.config.config_args import load_config_from_file
from transformers import AutoModelForCausalLM

from modeling.blocks import OzymandiasBlock
from tests.conftest import PROJECT, run
from tests.forks import free_port, run_forked
from training.command import UserError
from training.engine.loop import build_accelerator
from training.engine.recipe import Recipe

CONFIGS = PROJECT / "training" / "accelerate"
STEPS = 12
FIELDS = {
    "steps": STEPS,
    "batch_size": 8,
    "gradient_accumulation_steps": 2,
    "context": 64,
    "evaluate_every": 6,
    "checkpoint_every": 6,
    "log_every": 1,
    "sample_length": 5,
    "model.hidden_size": 32,
}


@pytest.fixture(scope="module")
def stream_fields(tmp_path_factory) -> dict:
    """The fields of a recipe whose corpus is a stream of four shards with lines of the sampler."""
    folder = tmp_path_factory.mktemp("stream") / "shards"
    folder.mkdir()
    lines = (PROJECT / "training" / "data" / "sampler.txt").read_text(encoding="utf-8").splitlines()
    for shard in range(4):
        texts = [json.dumps({"text": line}) + "\n" for line in lines[shard::4]]
        (folder / f"{shard}.jsonl").write_text("".join(texts), encoding="utf-8")
    return {"corpus": folder, "stream": "true", "stream_validation": 1000}


def pretrain(way: str, output, fields: dict) -> str:
    """Run the training on one process, on two (gloo), on two that `accelerate launch` starts (launched), or on two
    that share one model (fsdp); returns what it said."""
    options = [part for name, value in {**FIELDS, **fields}.items() for part in (f"--{name}", value)]
    command = ["-m", "training.pretrain", "--recipe", "smoke", "--output", output, *options]
    processes = 1 if way == "one" else 2
    if way == "launched":
        launch = ["-m", "accelerate.commands.launch", "--config_file", CONFIGS / "two-cpu-processes.yaml"]
        said = run(*launch, "--main_process_port", free_port(), *command, OMP_NUM_THREADS=1, PYTHONPATH=PROJECT).stdout
    elif way == "fsdp":
        said = run_forked("tests/training/fsdp_on_cpu.py", *command[2:], processes=processes).stdout
    else:
        said = run_forked(*command, processes=processes).stdout
    assert json.loads((output / "run.json").read_text())["processes"] == processes
    return said


def losses(folder) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(line["step"], line.get("train_loss", line.get("validation_loss"))) for line in lines]


def assert_same(folder, expected) -> None:
    ours, theirs = losses(folder), losses(expected)
    assert [step for step, _ in ours] == [step for step, _ in theirs]
    difference = max(abs(one - other) for (_, one), (_, other) in zip(ours, theirs, strict=True))
    print(f"{folder.name}: largest difference of a loss {difference:.1e}")
    assert difference < 1e-4


@pytest.fixture(scope="module")
def streamed(tmp_path_factory, stream_fields):
    """The folder of runs with Muon on a stream: `one`, `two` and `fsdp`."""
    folder = tmp_path_factory.mktemp("streamed")
    for name, way in (("one", "one"), ("two", "launched"), ("fsdp", "fsdp")):
        pretrain(way, folder / name, stream_fields)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("way", ["two", "fsdp"])
def test_two_processes_give_the_losses_of_one(streamed, way):
    """And the same folder at the end: the weights within rounding, the rest, its code included, to the byte."""
    assert_same(streamed / way, streamed / "one")
    folders = [streamed / name / "best" for name in ("one", way)]
    one, other = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in folders)
    assert one.keys() == other.keys()
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-4
    rest = [{p.name: p.read_bytes() for p in folder.iterdir() if p.name != "model.safetensors"} for folder in folders]
    assert rest[0] == rest[1]


@pytest.mark.slow
def test_the_whole_split_is_scored_by_a_sharded_model_as_by_a_whole_one(tmp_path):
    scores = {}
    for way in ("one", "fsdp"):
        pretrain(way, tmp_path / way, {"validation_characters": 300})
        record = json.loads((tmp_path / way / "run.json").read_text())
        scores[way] = (record["best_validation_loss"], record["partial_validation_loss"])
    assert scores["fsdp"] == pytest.approx(scores["one"], abs=1e-4)
    assert scores["one"][0] != scores["one"][1]


@pytest.mark.slow
def test_adamw_on_a_text_gives_the_losses_of_one(tmp_path):
    for way in ("one", "two"):
        pretrain(way, tmp_path / way, {"optimizer": "adamw"})
        assert_same(tmp_path / way, tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize(("begun", "resumed"), [("one", "two"), ("two", "one"), ("fsdp", "one"), ("fsdp", "fsdp")])
def test_a_run_resumes_with_another_number_of_processes(streamed, stream_fields, tmp_path, begun, resumed):
    """Back to the checkpoint in the middle: what comes after it is the same, in the stream's documents too."""
    folder = tmp_path / f"{begun}-{resumed}"
    shutil.copytree(streamed / begun, folder)
    shutil.rmtree(folder / f"checkpoint-{STEPS}")
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "finished": False}))
    said = pretrain(resumed, folder, stream_fields)
    assert f"resuming from step {STEPS // 2}" in said
    assert ("dropout gets new random numbers" in said) == ((begun == "one") != (resumed == "one"))
    assert_same(folder, streamed / "one")


def test_processes_that_nothing_connects_are_refused(tmp_path, monkeypatch):
    """As on a Mac, whose one GPU Accelerate gives to each: they would not know of one another, and write one folder."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    with pytest.raises(UserError, match=r"2 processes were launched.*ACCELERATE_USE_CPU"):
        build_accelerator(Recipe(), tmp_path)


NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def test_the_promised_configs_are_there():
    assert NAMES == ["deepspeed", "eight-gpus", "fsdp", "one-gpu", "several-nodes", "two-cpu-processes"]


@pytest.mark.parametrize("name", NAMES)
def test_accelerate_reads_every_config_and_its_first_line_is_its_command(name):
    path = CONFIGS / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert config.num_processes % config.num_machines == 0
    command = path.read_text().splitlines()[0]
    assert command.startswith(f"# accelerate launch --config_file training/accelerate/{name}.yaml ")
    assert "-m training.pretrain --recipe " in command
    assert (config.distributed_type == DistributedType.FSDP) == (name == "fsdp")


def test_fsdp_wraps_the_block():
    config = yaml.safe_load((CONFIGS / "fsdp.yaml").read_text())["fsdp_config"]
    assert config["fsdp_transformer_layer_cls_to_wrap"] == OzymandiasBlock.__name__
    assert config["fsdp_version"] == 2
