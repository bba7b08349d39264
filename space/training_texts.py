"""The training texts that answers are compared with: fetched in the background, never within a visitor's request."""

import re
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from space.loading import local_folder
from training.checkpoints import RECORD
from training.command import UserError
from training.corpora import QUATRAINS, Corpus, corpus_path, load_corpus
from training.overlap import trained_on
from training.works import COLLECTIONS, WORKS

AGAIN = 600  # seconds until what could not be fetched is tried again
FETCHED: set[str] = set()  # datasets of the Hub that this process has loaded, and so has in its cache


def texts_of(models: Iterable) -> list[str]:
    """The corpora that served models, as `writer.served_models` gives them, were trained on, each once."""
    folders = [local_folder(model.source, model.revision) for model in models]
    return names_of(tuple((stage["name"], stage["sha256"]) for folder in folders for stage in trained_on(str(folder))))


def is_here(name: str) -> bool:
    """Whether a corpus can be loaded without a network."""
    works = ("chinese-poems",) if name == QUATRAINS else COLLECTIONS.get(name, (name,))
    if all(work in WORKS for work in works):
        return all(corpus_path(work).exists() for work in works)
    return name == "sampler" or name in FETCHED or Path(name).exists()


def fetch(names: list[str]) -> list[str]:
    """Fetch those corpora that are not here, one after the other; returns those that could not be fetched."""
    for name in names:
        if not is_here(name):
            try:
                load_corpus(name)
            except UserError:
                continue
            FETCHED.add(name)
    return [name for name in names if not is_here(name)]


def keep_fetching(names: list[str]) -> None:
    """Fetch corpora in a thread of their own, and try again later what failed, until all are here."""

    def work() -> None:
        while fetch(names):
            time.sleep(AGAIN)

    threading.Thread(target=work, name="fetching", daemon=True).start()


def parts_of(stages: tuple[tuple[str, str], ...]) -> dict[str, list[str]]:
    """The corpora that each stage of a training joins; of a stage that has no name nothing is known."""
    return {name: [name] if Path(name).exists() else re.split(r"\s*\+\s*", name) for name, _ in stages if name}


def names_of(stages: tuple[tuple[str, str], ...]) -> list[str]:
    """The corpora of the stages of a training, each once."""
    return list(dict.fromkeys(name for stage in parts_of(stages).values() for name in stage))


def load_stages(stages: tuple[tuple[str, str], ...]) -> tuple[dict[str, Corpus], list[str]]:
    """The corpora of the stages of a training, each once, and the names of those that are not there.

    Among these is `run.json` where no record tells of a stage.
    """
    unknown = [] if stages and all(name for name, _ in stages) else [RECORD]
    parts, names = parts_of(stages), names_of(stages)
    if "chinese-poems" in names and QUATRAINS in names:
        names.remove(QUATRAINS)  # which are among them
    corpora, missing = {}, [name for name in names if not is_here(name)]
    for name in (name for name in names if name not in missing):
        try:
            corpora[name] = load_corpus(name)
        except UserError:
            missing.append(name)
    for stage, sha256 in (stage for stage in stages if stage[0]):
        there = [corpora[name].text for name in parts[stage] if name in corpora]
        if len(there) == len(parts[stage]) and Corpus(stage, tuple(there)).sha256 != sha256:
            missing.append(stage)
            corpora = {name: corpus for name, corpus in corpora.items() if name not in parts[stage]}
    return corpora, unknown + [Path(name).name if Path(name).is_absolute() else name for name in missing]
