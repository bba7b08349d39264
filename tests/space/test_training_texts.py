"""Training texts come in the background, and what failed is tried again."""

import hashlib
import threading

import pytest

from space import training_texts, writer
from space.originality import copied_passages
from space.training_texts import corpora_of, fetch, is_here, keep_fetching
from tests.space.conftest import wait_until
from tests.space.test_originality import checkpoint, prose
from training.command import UserError
from training.data import corpora
from training.data.works import WORKS, Work


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A work of the registry that is not here yet, a checkpoint that was trained on it, and how to let it arrive."""
    text, cache, asked = prose(21), tmp_path / "cache", []
    monkeypatch.delenv("OZYMANDIAS_CORPORA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    monkeypatch.setitem(WORKS, "far", Work("A far work", "", "", sha256, "far.txt", bytes.decode))
    monkeypatch.setattr(corpora, "NAMES", ("far",))
    network = threading.Event()

    def download(work, folder, instead):
        asked.append(threading.current_thread().name)
        if not network.is_set():
            raise UserError("no network")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / work.file).write_text(text, encoding="utf-8")

    monkeypatch.setattr(corpora, "fetch", download)
    record = checkpoint(tmp_path, tmp_path.name, sha256=sha256)
    (record / "run.json").write_text((record / "run.json").read_text().replace(f'"{tmp_path.name}"', '"far"'))
    return record, text, network, asked


def test_a_request_downloads_nothing_and_texts_that_failed_come_later(remote, monkeypatch):
    folder, text, network, asked = remote
    monkeypatch.setattr(training_texts, "RETRY_AFTER", 0.05)
    copied = text[300:500]
    first = copied_passages(copied, folder)
    assert (first.passages, first.missing, asked) == ((), ("far",), [])
    keep_fetching(["far"])
    wait_until(lambda: len(asked) > 2)  # failed, and tried again
    assert copied_passages(copied, folder).missing == ("far",)
    network.set()
    wait_until(lambda: is_here("far"))
    later = copied_passages(copied, folder)
    assert later.missing == ()
    assert later.share > 0.9
    assert set(asked) == {"fetching"}
    assert fetch(["far"]) == []


def test_all_corpora_of_the_served_models_are_fetched():
    assert {"poetry", "oz"} <= {
        part for name in corpora_of(writer.served_models().values()) for part in name.split("+")
    }


def test_a_dataset_of_the_hub_is_not_here_until_it_was_loaded():
    assert not is_here("user/texts")
