import errno
import json
import re
import resource
import shutil
import socket
import time

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from modeling import OzymandiasForCausalLM, preset_config
from modeling.loading import load_model
from tests.conftest import run
from tests.forks import run_forked
from tokenizer import build_character_tokenizer
from training.command import UserError
from training.engine.checkpoints import (
    REPLACED,
    UNFINISHED,
    list_checkpoints,
    list_snapshots,
    load_checkpoint,
    load_snapshot,
    recover,
    save_model,
    writing,
)
from training.engine.optimizers import build_optimizers
from training.engine.recipe import load_recipe
from training.loading import load_trained


def write(folder, text: str) -> None:
    with writing(folder) as unfinished:
        (unfinished / "file").write_text(text)


def test_a_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "best"
    write(folder, "one")
    write(folder, "two")
    assert (folder / "file").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed writing file")],
)
def test_full_disk_leaves_what_was_there(tmp_path, error):
    folder = tmp_path / "best"
    write(folder, "one")

    def fail(unfinished):
        (unfinished / "file").write_text("half")
        raise error

    with pytest.raises(UserError, match=r"best could not be written.*free some space"), writing(folder) as unfinished:
        fail(unfinished)
    assert (folder / "file").read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize(
    "error", [KeyError("a bug"), RuntimeError("shapes differ"), OSError(101, "no network")], ids=str
)
def test_what_is_no_fault_of_the_disk_is_not_called_one(tmp_path, error):
    with pytest.raises(type(error), match=re.escape(str(error))), writing(tmp_path / "best"):
        raise error


def test_a_folder_that_may_not_be_written_is_not_called_a_full_disk(tmp_path):
    (tmp_path / "file").touch()  # a folder below a file cannot be made, also not by root
    with (
        pytest.raises(UserError, match="give a folder that you can write to") as refusal,
        writing(tmp_path / "file" / "x"),
    ):
        pass
    assert "free some space" not in str(refusal.value)


@pytest.mark.parametrize("state", ["before the renames", "between the renames", "after the renames"])
def test_kill_at_any_moment_is_recovered(tmp_path, state):
    folder = tmp_path / "best"
    write(folder, "old")
    if state == "before the renames":
        (tmp_path / ("best" + UNFINISHED)).mkdir()
    elif state == "between the renames":
        folder.rename(tmp_path / ("best" + REPLACED))
        (tmp_path / ("best" + UNFINISHED)).mkdir()
    else:
        folder.rename(tmp_path / ("best" + REPLACED))
        write(folder, "new")
    recover(folder)
    assert (folder / "file").read_text() == ("new" if state == "after the renames" else "old")
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


def test_checkpoints_are_listed_by_step_and_unfinished_ones_are_not(tmp_path):
    for name in ("checkpoint-100", "checkpoint-20", "checkpoint-300" + UNFINISHED, "best"):
        (tmp_path / name).mkdir()
    assert [f.name for f in list_checkpoints(tmp_path)] == ["checkpoint-20", "checkpoint-100"]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.bin", "state.json", "random_states_0.pkl"])
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_damaged_checkpoint_is_told(trained, tmp_path, file, damage):
    folder = tmp_path / "checkpoint-40"
    shutil.copytree(list_checkpoints(trained)[-1], folder)
    accelerator = Accelerator()
    model = OzymandiasForCausalLM.from_pretrained(trained / "best")
    accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
    if damage == "missing":
        (folder / file).unlink()
    else:
        (folder / file).write_bytes((folder / file).read_bytes()[: (folder / file).stat().st_size // 2])
    with pytest.raises(UserError, match=r"checkpoint-40 is damaged.*remove that folder"):
        load_checkpoint(folder, accelerator)


@pytest.fixture
def of_two(trained, tmp_path):
    """A checkpoint as two processes leave it."""
    folder = tmp_path / "checkpoint-40"
    shutil.copytree(list_checkpoints(trained)[-1], folder)
    shutil.copy(folder / "random_states_0.pkl", folder / "random_states_1.pkl")
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "processes": 2}))
    return folder


def prepare(folder) -> Accelerator:
    accelerator = Accelerator()
    model = OzymandiasForCausalLM.from_pretrained(folder / "best")
    accelerator.prepare(model, *build_optimizers(model, load_recipe("smoke")))
    return accelerator


def test_one_process_goes_on_where_two_were(trained, of_two, capsys):
    state = load_checkpoint(of_two, prepare(trained))
    assert state["step"] == 40
    assert "processes" not in state
    assert "2 processes, and this run has 1" in capsys.readouterr().out


def test_random_states_of_all_processes_are_looked_for(trained, of_two):
    (of_two / "random_states_1.pkl").unlink()
    with pytest.raises(UserError, match=r"damaged \(random_states_1\.pkl is missing\)"):
        load_checkpoint(of_two, prepare(trained))


def test_half_precision_is_stored_and_single_is_computed(tmp_path):
    tokenizer = build_character_tokenizer("the moon")
    model = OzymandiasForCausalLM(preset_config("modern", vocab_size=len(tokenizer)))
    save_model(tmp_path, model, tokenizer, half=True)
    assert {w.dtype for w in load_file(tmp_path / "model.safetensors").values()} == {torch.float16}
    loaded = OzymandiasForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == torch.float32
    torch.testing.assert_close(loaded.lm_head.weight, model.lm_head.weight, atol=1e-4, rtol=1e-3)


def test_disk_that_takes_no_more_ends_a_run_with_one_sentence(tmp_path):
    """A limit on the size of a file stands for the full disk: the first checkpoint fits, its optimizer does not."""
    program = f"""
import resource, sys
from training.command import run_command
from training.pretrain import main
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
sys.argv = ["pretrain", "--recipe", "smoke", "--steps", "6", "--evaluate_every", "3", "--sample_length", "5",
            "--checkpoint_every", "3", "--optimizer", "adamw", "--output", {str(tmp_path / "run")!r}]
run_command(main)
"""
    done = run_forked("-c", program, check=False)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    assert done.returncode == 1
    assert "checkpoint-3 could not be written" in done.stderr
    assert "Traceback" not in done.stderr
    OzymandiasForCausalLM.from_pretrained(tmp_path / "run" / "best")
    assert not list(tmp_path.glob("run/*" + UNFINISHED))
    # With room again the same command goes to the end.
    command = program.replace("resource.setrlimit", "(lambda *a: None)")
    assert "best validation loss" in run_forked("-c", command).stdout


def test_snapshots_are_the_weights_of_their_steps(trained):
    """In half precision, at the steps that the recipe names and no others, and scored."""
    snapshots = list_snapshots(trained)
    assert list(snapshots) == [0, 20]
    model = load_model(trained / "best")
    last = {name: weight.clone() for name, weight in model.state_dict().items()}
    load_snapshot(model, snapshots[0])
    assert not torch.equal(model.state_dict()["model.embed_tokens.weight"], last["model.embed_tokens.weight"])
    assert model.lm_head.weight is model.get_input_embeddings().weight  # still tied
    scored = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert {0, 20} <= {line["step"] for line in scored if "validation_loss" in line}
    with pytest.raises(UserError, match="not a snapshot of this model"):
        load_snapshot(model.model, snapshots[0])


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return closed.getsockname()[1]


@pytest.mark.parametrize(
    "command",
    [
        ["training.evaluate", "user/none", "--corpus", "sampler"],
        ["training.pretrain", "--recipe", "smoke", "--start_from", "user/none"],
        ["modeling.interop.verify", "user/none"],
    ],
    ids=lambda command: command[0],
)
def test_without_a_network_a_hub_id_is_refused_at_once_in_one_line(tmp_path, command):
    """The client tries for half a minute, and says so each time."""
    endpoint = f"http://127.0.0.1:{closed_port()}"
    begin = time.monotonic()
    said = run("-m", *command, check=False, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE=0, HF_HOME=tmp_path)
    assert said.returncode == 1
    assert len(said.stderr.splitlines()) == 1
    assert "error: " in said.stderr
    assert "the Hub cannot be reached" in said.stderr
    assert time.monotonic() - begin < 25  # of which most is importing the libraries


def test_the_hub_is_asked_once_and_not_for_long(monkeypatch, tmp_path):
    asked = []

    def silent(url, timeout):
        asked.append(timeout)
        raise ConnectionError("timed out")

    monkeypatch.setattr("modeling.loading.get_hf_file_metadata", silent)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError,
        match=r"no folder user/none, and .* from the Hub \(OSError: the Hub cannot be reached: timed out\); give",
    ):
        load_trained("user/none")
    assert len(asked) == 1
    assert asked[0] <= 5
