"""The training texts that answers are compared with. They are fetched in the background, never during a request."""

import re
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from space.loading import local_folder
from training.command import UserError
from training.data.corpora import QUATRAINS, Corpus, corpus_path, load_corpus
from training.data.works import COLLECTIONS, WORKS
from training.engine.checkpoints import RECORD
from training.engine.provenance import trained_on

RETRY_AFTER = 600  # seconds
FETCHED: set[str] = set()  # Hub datasets that this process has loaded, so that they are in its cache


def corpora_of(models: Iterable) -> list[str]:
    """The corpora that served models, as `writer.served_models` returns them, were trained on, each once."""
    folders = [local_folder(model.source, model.revision) for model in models]
    return names_of(tuple((stage["name"], stage["sha256"]) for folder in folders for stage in trained_on(str(folder))))


def is_here(name: str) -> bool:
    """Whether a corpus can be loaded without a network."""
    works = ("chinese-poems",) if name == QUATRAINS else COLLECTIONS.get(name, (name,))
    if all(work in WORKS for work in works):
        return all(corpus_path(work).exists() for work in works)
    return name == "sampler" or name in FETCHED or Path(name).exists()


def fetch(names: list[str]) -> list[str]:
    """Fetch the corpora that are not here, one after the other, and return those that could not be fetched."""
    for name in names:
        if not is_here(name):
            try:
                load_corpus(name)
            except UserError:
                continue
            FETCHED.add(name)
    return [name for name in names if not is_here(name)]


def keep_fetching(names: list[str]) -> None:
    """Fetch corpora in a background thread, and retry those that failed until all are here."""

    def work() -> None:
        while fetch(names):
            time.sleep(RETRY_AFTER)

    threading.Thread(target=work, name="fetching", daemon=True).start()


def split_stages(stages: tuple[tuple[str, str], ...]) -> dict[str, list[str]]:
    """The corpora that each stage of a training joined. Nothing is known of a stage without a name."""
    return {name: [name] if Path(name).exists() else re.split(r"\s*\+\s*", name) for name, _ in stages if name}


def names_of(stages: tuple[tuple[str, str], ...]) -> list[str]:
    """The corpora of all stages of a training, each once."""
    return list(dict.fromkeys(name for stage in split_stages(stages).values() for name in stage))


def load_stages(stages: tuple[tuple[str, str], ...]) -> tuple[dict[str, Corpus], list[str]]:
    """The corpora of all stages of a training, by name, and the names of those that are missing.

    A text that is not the one trained on counts as missing, and `run.json` does where a stage has no record.
    """
    unknown = [] if stages and all(name for name, _ in stages) else [RECORD]
    parts, names = split_stages(stages), names_of(stages)
    if "chinese-poems" in names and QUATRAINS in names:
        names.remove(QUATRAINS)  # chinese-poems contains them
    corpora, missing = {}, [name for name in names if not is_here(name)]
    for name in (name for name in names if name not in missing):
        try:
            corpora[name] = load_corpus(name)
        except UserError:
            missing.append(name)
    for stage, sha256 in (stage for stage in stages if stage[0]):
        texts = [corpora[name].text for name in parts[stage] if name in corpora]
        if len(texts) == len(parts[stage]) and Corpus(stage, tuple(texts)).sha256 != sha256:
            missing.append(stage)
            corpora = {name: corpus for name, corpus in corpora.items() if name not in parts[stage]}
    return corpora, unknown + [Path(name).name if Path(name).is_absolute() else name for name in missing]
