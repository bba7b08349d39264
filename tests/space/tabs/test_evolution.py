"""Five models, one run and three tokenizers, in a real browser."""

import shutil

import pytest

from space import evolution
from space.evolution import LABORATORY, five_models, growing_run, load_snapshot_of, read_curve, score_by, write_together
from space.inside import trace
from space.writer import CHECKPOINTS
from tests.conftest import run
from tests.hub_server import HubServer, Repo
from tests.space.conftest import open_tab, wait_until
from training.command import UserError
from training.data.corpora import load_corpus
from training.engine.checkpoints import list_snapshots
from training.publish import copy_records

LINE = "The moon upon the water"


def test_five_models_write_together():
    *_, texts = write_together(LINE, five_models(), 40, seed=1)
    assert list(texts) == [f"poetry-{step}" for step in ("bigram", "single-head", "multi-head", "gpt", "modern")]
    assert all(text.startswith(LINE) and len(text) > len(LINE) + 20 for text in texts.values())
    assert len(set(texts.values())) == 5


def test_a_run_grows_from_noise():
    run = growing_run()
    steps, curve = list(list_snapshots(run)), dict(read_curve(run))
    assert steps[0] == 0
    assert curve[steps[0]] > 5  # a guess among all characters
    assert curve[steps[-1]] == min(curve.values()) < 2
    first, last = (trace(*load_snapshot_of(run, step), LINE) for step in (steps[0], steps[-1]))
    chances = [t.logits.log_softmax(-1)[range(len(t.ids) - 1), t.ids[1:]].mean() for t in (first, last)]
    assert chances[1] - chances[0] > 2
    with pytest.raises(UserError, match="no snapshot of step 7"):
        load_snapshot_of(run, 7)


def test_the_run_of_a_named_checkpoint_is_shown(trained, monkeypatch):
    monkeypatch.setenv("OZYMANDIAS_MODEL", str(trained / "best"))
    assert growing_run() == trained
    assert trace(*load_snapshot_of(trained, 20), LINE).ids


ON_THE_HUB = """
from space.evolution import growing_run, load_snapshot_of, read_curve
from space.inside import trace
from space.loading import local_folder
from space.originality import copied_passages
run = growing_run()
assert trace(*load_snapshot_of(run, 20), "The moon").ids
found = copied_passages(COPIED, local_folder("user/name", REVISION))
print(len(read_curve(run)), found.share, found.compared, found.missing)
"""


def test_the_run_of_a_published_checkpoint_is_shown_and_compared(trained, tmp_path):
    """Its record, curve and snapshots lie beside its weights on the Hub, and nowhere here."""
    folder = shutil.copytree(trained / "best", tmp_path / "model")
    copy_records(trained, folder)
    with HubServer() as hub:
        repo = hub.repos["models/user/name"] = Repo("models", "user/name")
        files = [path for path in folder.rglob("*") if path.is_file()]
        revision = repo.commit("model", {str(path.relative_to(folder)): path.read_bytes() for path in files}).sha
        program = f"COPIED, REVISION = {load_corpus('sampler').train[100:300]!r}, {revision!r}\n{ON_THE_HUB}"
        named = {"OZYMANDIAS_MODEL": f"user/name@{revision}", "HF_ENDPOINT": hub.endpoint}
        said = run("-c", program, HF_HUB_OFFLINE=0, HF_HOME=tmp_path / "hf", **named).stdout
    assert said.split(maxsplit=2)[0] == str(len(read_curve(trained)))
    assert float(said.split(maxsplit=2)[1]) > 0.9
    assert said.strip().endswith("('sampler',) ()")


@pytest.mark.parametrize("kind", LABORATORY)
def test_all_pieces_of_the_laboratory_are_scored(kind):
    text = "The moon 明月"
    _, scored = score_by(kind, text)
    assert "".join(text[token.begin : token.end] for token in scored) == text
    assert all(token.surprisal > 0 for token in scored)
    assert len(scored) >= {"characters": 11, "bpe": 4, "bytes": 15}[kind]


def test_a_missing_model_of_the_laboratory_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(evolution, "CHECKPOINTS", tmp_path)
    with pytest.raises(UserError, match="lab-bytes is not there; train it"):
        score_by("bytes", "x")


def test_the_five_have_curves():
    for key in five_models():
        assert len(read_curve(CHECKPOINTS / key)) > 5


@pytest.mark.browser
def test_the_tab_writes_grows_and_cuts(page):
    open_tab(page, "Evolution")
    page.click("#five-run")
    boxes = page.locator("[id^=box-poetry] textarea")
    wait_until(lambda: all(len(boxes.nth(i).input_value()) > 60 for i in range(5)))
    first = page.locator("#growth-text textarea").input_value()
    page.locator("#growth-step input[type=range]").fill("9")
    page.get_by_text("Step 2,000").wait_for()
    wait_until(lambda: page.locator("#growth-text textarea").input_value() != first)
    page.fill("#lab-text textarea", "<i>明月</i>")
    page.click("#lab-run")
    page.get_by_text("bits per character", exact=False).nth(2).wait_for()
    wait_until(lambda: page.locator("#lab-bytes .token").count() >= 13)
    assert page.locator("#lab-bytes i").count() == 0
    page.locator("#language").get_by_text("中文").click()
    page.get_by_text("每字符").nth(2).wait_for()
    page.get_by_text("第 2,000 步").wait_for()
