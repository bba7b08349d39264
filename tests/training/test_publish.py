"""From a finished run to a repository that strangers load, with the real Hub client and a Hub on loopback."""

import json
import shutil
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, ModelCard

from tests.conftest import run
from tests.hub_server import HubServer
from training import publish
from training.command import UserError

ONLINE = {"HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_test"}
WRITE = """
import os
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
texts = []
for revision in (None, os.environ["REVISION"]):
    options = {"revision": revision, "trust_remote_code": True}
    tokenizer = AutoTokenizer.from_pretrained("user/name", **options)
    model = AutoModelForCausalLM.from_pretrained("user/name", **options)
    inputs = tokenizer("The moon", return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=12, do_sample=False, eos_token_id=None)
    assert out.shape == (1, 20)
    texts.append(tokenizer.decode(out[0]))
assert texts[0] == texts[1]
assert texts[0].startswith("The moon")
write = pipeline("text-generation", model="user/name", trust_remote_code=True)
assert write("The moon", max_new_tokens=12)[0]["generated_text"].startswith("The moon")
"""


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture
def mine(trained, tmp_path):
    """A run of one's own to publish from."""
    return shutil.copytree(trained, tmp_path / "mine")


@pytest.mark.slow
def test_pushed_model_and_space_are_what_a_stranger_gets(hub, mine, outside, tmp_path):
    command = ["-m", "training.publish", mine / "best", "--repo", "user/name", "--space", "user/place"]
    said = run(*command, HF_ENDPOINT=hub.endpoint, **ONLINE).stdout
    assert f"{hub.endpoint}/user/name" in said

    commit = hub.repos["models/user/name"].commits[-1]
    assert {
        "model.safetensors",
        "tokenizer.json",
        "generation_config.json",
        "run.json",
        "README.md",
    } <= commit.files.keys()
    assert {"configuration_ozymandias.py", "modeling_ozymandias.py", "attention.py"} <= commit.files.keys()
    assert not [name for name in commit.files if name.endswith((".bin", ".pt", ".pkl"))]
    config = json.loads(commit.files["config.json"])
    assert config["auto_map"]["AutoModelForCausalLM"] == "modeling_ozymandias.OzymandiasForCausalLM"
    record = json.loads((mine / "run.json").read_text())
    card = commit.files["README.md"].decode()
    assert f"{record['best_validation_loss']:.4f}" in card
    assert f"{record['parameters']:,}" in card
    assert "| eager and sdpa attention | " in card
    assert ModelCard(card).data.license == "apache-2.0"

    outside(WRITE, HF_ENDPOINT=hub.endpoint, REVISION=commit.sha, **ONLINE)

    space = hub.repos["spaces/user/place"]
    assert space.sdk == "gradio"
    files = space.commits[-1].files
    assert {"app.py", "README.md", "requirements.txt", "space/app.py", "modeling/attention.py"} <= files.keys()
    assert f"user/name@{commit.sha}" in files["app.py"].decode()
    front = ModelCard(files["README.md"].decode()).data.to_dict()
    assert (front["sdk"], front["app_file"], front["models"]) == ("gradio", "app.py", ["user/name"])

    # The pushed Space, alone in a folder, answers with the pushed model.
    for name, content in files.items():
        (tmp_path / "place" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "place" / name).write_bytes(content)
    program = f"""
sys.path.insert(0, {str(tmp_path / "place")!r})
import os, re
os.environ["OZYMANDIAS_MODEL"] = re.search('"(user/name@.*)"', open({str(tmp_path / "place" / "app.py")!r}).read())[1]
from space.app import build_page, default_model
from space.writer import answer
build_page()
assert default_model() == "named"
*_, text = answer("The moon", "named", length=20, seed=3)
print(text)
"""
    assert outside(program, HF_ENDPOINT=hub.endpoint, **ONLINE).startswith("The moon")


def prepared(folder):
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def online(hub, monkeypatch):
    """The Hub on loopback as the only one that `upload` knows, and no waiting between tries, ours or the client's."""
    monkeypatch.setattr(publish, "HfApi", lambda: HfApi(endpoint=hub.endpoint, token="hf_test"))
    monkeypatch.setattr(publish, "WAITS", (0, 0, 0))
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return hub


@pytest.mark.parametrize("path", ["/repos/create", "/commit/"])
@pytest.mark.parametrize("status", [503, 0])  # 0 drops the connection
def test_upload_tries_again(online, tmp_path, path, status):
    online.fail_next(2, status=status, path_contains=path)
    revision = publish.upload(prepared(tmp_path / "model"), "user/name", "model", private=False)
    assert online.repos["models/user/name"].commits[-1].sha == revision


def test_upload_that_fails_for_good_keeps_the_folder_and_says_how_to_go_on(online, tmp_path):
    folder = prepared(tmp_path / "model")
    online.fail_next(50, status=503, path_contains="/commit/")
    with pytest.raises(UserError, match=r"user/name could not be uploaded.*--upload-only"):
        publish.upload(folder, "user/name", "model", private=False)
    assert (folder / "config.json").is_file()


def test_refusal_says_how_to_log_in_and_is_not_repeated(online, tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "HfApi", lambda: HfApi(endpoint=online.endpoint, token="bad"))
    with pytest.raises(UserError, match=r"401.*hf auth login"):
        publish.upload(prepared(tmp_path / "model"), "user/name", "model", private=False)
    assert len([path for _, path in online.requests if path == "/api/repos/create"]) == 1


def test_upload_only_sends_what_was_prepared(online, mine, monkeypatch):
    monkeypatch.setattr("sys.argv", ["publish", str(mine / "best"), "--repo", "user/name", "--upload-only"])
    with pytest.raises(UserError, match="nothing was prepared"):
        publish.main()
    (mine / "published").mkdir()
    prepared(mine / "published" / "model")
    publish.main()
    assert set(online.repos["models/user/name"].commits[-1].files) >= {"README.md", "config.json"}


def test_damaged_checkpoint_is_told_before_anything_is_sent(mine, tmp_path):
    weights = mine / "best" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(UserError, match="cannot be loaded"):
        publish.prepare_model(mine / "best", tmp_path / "out", "user/name", half=False)
    assert not (tmp_path / "out").exists()


def test_checkpoint_without_record_is_told(mine, tmp_path):
    (mine / "run.json").unlink()
    with pytest.raises(UserError, match=r"no run\.json"):
        publish.prepare_model(mine / "best", tmp_path / "out", "user/name", half=False)


def test_what_does_not_run_is_not_sent(mine, tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "TRY_MODEL", "raise SystemExit('boom')")
    with pytest.raises(UserError, match=r"does not run \(boom\); nothing was sent"):
        publish.prepare_model(mine / "best", tmp_path / "out", "user/name", half=False)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_code_needs_the_project(mine, tmp_path, monkeypatch):
    """As the checkpoints of the repository are stored."""
    publish.prepare_model(mine / "best", tmp_path / "out", "out", half=True, code=False)
    assert not list((tmp_path / "out").glob("*.py"))
    assert "auto_map" not in json.loads((tmp_path / "out" / "config.json").read_text())
    card = (tmp_path / "out" / "README.md").read_text()
    assert "import modeling" in card
    assert "trust_remote_code" not in card
    monkeypatch.setattr("sys.argv", ["publish", str(mine / "best"), "--repo", "user/name", "--no-code"])
    with pytest.raises(UserError, match="--no-code only with --prepare"):
        publish.main()
