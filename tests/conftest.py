"""What all tests share: no network but loopback, and a model small enough to be trained in seconds."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

PROJECT = Path(__file__).parent.parent
CORPORA_MISSING = "OZYMANDIAS_CORPORA names no folder with the texts"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A connection to anything but this machine fails, so that no test needs a network without anybody noticing."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"the tests may not connect to {address[0]}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def default_products():
    """torch's default: a run that an earlier test started in this process may have set another for all of it."""
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder with the real texts; a test that needs it skips where it is missing."""
    folder = Path(os.environ.get("OZYMANDIAS_CORPORA", "/nowhere"))
    if not (folder / "oz.txt").is_file():
        pytest.skip(CORPORA_MISSING)
    return folder


def run(*arguments, check: bool = True, timeout: int = 300, **environment) -> subprocess.CompletedProcess:
    """Run `python ARGUMENTS` in the project, as a user would; `forks.run_forked` does not wait for the libraries."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=environment.pop("cwd", PROJECT),
        stdin=subprocess.DEVNULL,
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


VOCAB = 60


def random_model(config, implementation: str = "sdpa"):
    """A model of a config's architecture whose weights are all random and large enough to tell right from wrong."""
    from modeling.modeling_ozymandias import model_class

    torch.manual_seed(0)
    model = model_class(config)._from_config(config, attn_implementation=implementation).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(1.0 if "norm" in name and "weight" in name else 0.0, 0.2)
    return model


def ids(*shape: int, seed: int = 1) -> torch.Tensor:
    """Random token ids below `VOCAB` that are no special tokens."""
    return torch.randint(3, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


# In a fresh process the project cannot be imported, though it is installed: only what a checkpoint holds can be used.
OUTSIDE = f"""
import importlib.util, sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.path = [path for path in sys.path if path not in ("", {str(PROJECT)!r})]
assert all(importlib.util.find_spec(name) is None for name in ("modeling", "training"))
"""


@pytest.fixture
def outside(tmp_path):
    """Run a program in a fresh process without the project, with Hub caches of its own."""

    def call(program: str, **environment) -> str:
        homes = {"HF_HOME": tmp_path / "hf-home", "HF_MODULES_CACHE": tmp_path / "hf-modules", "PYTHONPATH": ""}
        return run("-c", OUTSIDE + program, cwd=tmp_path, **{**homes, **environment}).stdout

    return call


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """The checkpoints of the repository as they would be pushed, with the code beside the weights."""
    from training.engine.checkpoints import save_model
    from training.loading import load_trained

    folder = tmp_path_factory.mktemp("prepared")
    for checkpoint in (PROJECT / "space" / "checkpoints").iterdir():
        tokenizer, model = load_trained(checkpoint)
        save_model(folder / checkpoint.name, model, tokenizer, half=True)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """The folder of a short finished run on the sampler corpus."""
    from training.engine.loop import train
    from training.engine.recipe import load_recipe

    folder = tmp_path_factory.mktemp("runs") / "trained"
    settings = {
        "steps": 40,
        "evaluate_every": 20,
        "checkpoint_every": 20,
        "warmup_steps": 4,
        "sample_length": 20,
        "snapshots": [0, 20],
    }
    train(load_recipe("smoke", [(name, str(value)) for name, value in settings.items()]), folder)
    return folder
