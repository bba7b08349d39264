import subprocess
import sys

import pytest

from tests.conftest import PROJECT
from tests.forks import run_forked
from training.command import UserError
from training.data.corpora import check_corpus
from training.loading import check_checkpoint, load_trained


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Runs as a user has them, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/mine/best", "runs/empty", "runs/other"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "best" / "config.json").write_text("{}")
    (tmp_path / "runs" / "mine" / "run.json").write_text("{}")
    (tmp_path / "runs" / "other" / "notes.txt").write_text("none here")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("runs/mine", "runs/mine is no checkpoint: it has no config.json; did you mean runs/mine/best?"),
        ("runs", "did you mean runs/mine/best?"),
        ("runs/empty", "runs/empty is no checkpoint: it is an empty folder; give the folder of a checkpoint"),
        ("runs/other", "it has no config.json; give the folder of a checkpoint, such as runs/NAME/best."),
        ("runs/mine/bets", "there is no folder runs/mine/bets; did you mean runs/mine/best?"),
        ("runs/yours", "there is no folder runs/yours; give the folder"),
        ("./yours", "there is no folder ./yours"),
        ("a/b/c", "there is no folder a/b/c"),
        ("runs/mine/run.json", "is a file; give the folder"),
    ],
)
def test_what_is_no_checkpoint_is_told_in_plain_words(folders, name, words):
    with pytest.raises(UserError) as refusal:
        check_checkpoint(name)
    assert words in str(refusal.value)
    with pytest.raises(UserError) as refusal:
        load_trained(name)
    assert "Repo id" not in str(refusal.value)


@pytest.mark.parametrize("name", ["runs/mine/best", "gpt2", "user/name", "user/name@main"])
def test_a_checkpoint_and_a_hub_id_pass(folders, name):
    check_checkpoint(name)


def test_a_hub_id_that_cannot_be_had_is_told_so(folders):
    with pytest.raises(UserError, match=r"no folder user/name, and it could not be downloaded from the Hub \(OSError"):
        load_trained("user/name")


@pytest.mark.parametrize("name", ["sampler", "oz+poetry", "user/name", "pyproject.toml", "training/recipes"])
def test_a_corpus_is_looked_for_without_reading_it(name, monkeypatch):
    monkeypatch.chdir(PROJECT)
    check_corpus(name)


@pytest.mark.parametrize("name", ["poetri", "oz+poetri"])
def test_a_misspelled_corpus_names_the_nearest(name):
    with pytest.raises(UserError, match=r"corpus 'poetri' .*did you mean poetry\?"):
        check_corpus(name)


@pytest.mark.parametrize("module", ["pretrain", "sweep"])
@pytest.mark.parametrize(
    "wrong",
    [
        ["--preset", "moder"],
        ["--corpus", "poetri"],
        ["--model.num_attention_heads", "3"],
        ["--start_from", "runs/none"],
        ["--stepz", "3"],
    ],
    ids=lambda wrong: wrong[0],
)
def test_a_wrong_recipe_is_refused_before_torch_is_imported(module, wrong, tmp_path):
    vary = ["--vary", "seed=1,2"] if module == "sweep" else []
    options = ["--recipe", "smoke", "--output", str(tmp_path / "run"), *vary, *wrong]
    program = f"""
import sys
sys.modules["torch"] = None
sys.argv = ["{module}", *{options!r}]
from training.command import run_command
from training.{module} import main
run_command(main)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("module", ["evaluate", "generate", "publish", "evaluation.quatrains", "evaluation.search"])
def test_every_command_says_what_folder_was_meant(module, trained):
    options = {
        "evaluate": [trained, "--corpus", "sampler"],
        "generate": [trained, "the moon"],
        "publish": [trained, "--prepare", trained.parent / "prepared"],
        "evaluation.quatrains": [trained],
        "evaluation.search": ["the moon", "--corpus", "sampler", "--checkpoint", trained],
    }
    done = run_forked("-m", f"training.{module}", *options[module], check=False)
    assert done.returncode == 1
    assert f"did you mean {trained / 'best'}?" in done.stderr
