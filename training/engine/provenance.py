"""What a run and the stages before it were trained on, and whether the run is scored on any of it."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from modeling.loading import find_file
from training.command import UserError
from training.data.corpora import Corpus, load_corpus
from training.data.mixture import Mixture
from training.data.overlap import TOLERATED, compare_with_itself, describe, separate, without_shared
from training.engine.checkpoints import RECORD, record_path
from training.engine.recipe import Recipe


def check_run(
    recipe: Recipe, corpus: Corpus | Mixture, say: Callable[[str], None], resumed: bool = False
) -> tuple[Corpus | Mixture, list[dict]]:
    """Look whether a run, or one that its checkpoint comes from, trains on what the run is scored on.

    Args:
        resumed: the run was looked at when it began; a large text takes a minute, so that it is not done again.

    Returns:
        The corpus, without what `remove_overlap` leaves out; and what the checkpoint was trained on before, as
        [`trained_on`] gives it.

    Raises:
        UserError: one text has passages of another's validation split. What a single text repeats of itself is only
            told, since it may be its own refrain.
    """
    if isinstance(corpus, Mixture):
        if recipe.remove_overlap or not resumed:
            corpus = separate(corpus, recipe.remove_overlap, say)
    elif recipe.remove_overlap:
        left = without_shared(corpus.train, corpus.validation)
        say(f"left out of training: {len(corpus.train) - len(left):,} characters, with what the validation split has")
        corpus = dataclasses.replace(corpus, training_text=left)
    earlier = trained_on(recipe.start_from)
    if not resumed:
        if isinstance(corpus, Corpus):  # the training split of a stream is larger than memory
            compare_with_itself(corpus, say)
        for stage in earlier:
            compare_with_stage(recipe, corpus, stage, say)
    return corpus, earlier


def compare_with_stage(recipe: Recipe, corpus: Corpus, stage: dict, say: Callable[[str], None]) -> None:
    """Look whether a stage before, one of [`trained_on`], has trained on a corpus' validation split."""
    if corpus.name in stage.get("held_out", ()):
        say(f"{stage['name']} was trained on without what {corpus.name} is scored on")
        return
    if stage["name"] is None:
        say(
            f"nothing is known of what {stage['checkpoint']} was trained on (no {RECORD} was found): "
            "the validation split may be among it, and the loss too good"
        )
        return
    try:
        before = load_corpus(stage["name"], recipe.accept_changed_corpus, recipe.text_column)
    except UserError:
        before = None
    if before is None or before.sha256 != stage["sha256"]:
        say(f"{recipe.start_from} was trained on {stage['name']}, which is not here to be compared")
        return
    train = without_shared(before.train, before.validation) if stage.get("overlap_removed") else before.train
    share, found = describe(before.name, train, corpus.name, corpus.validation)
    if share > TOLERATED and before.sha256 != corpus.sha256:
        raise UserError(f"{found}; start from a checkpoint that has not seen them.")
    say(found)


def trained_on(checkpoint: str | None) -> list[dict]:
    """The corpora that a checkpoint has seen, first to last, from the run record beside it or on the Hub.

    Each is a `name` and a `sha256`, with `overlap_removed` where its training left out what its validation split has,
    and `held_out`, the corpora that a mixture was compared with.
    Where nothing is known these are `None`, and `checkpoint` says of which one.
    """
    if not checkpoint:
        return []
    record = find_record(checkpoint)
    if record is None:
        return [unknown(checkpoint)]
    recipe, corpus = record["recipe"], record["corpus"]
    if "parts" in corpus:
        read = {part["name"]: part["sha256"] for part in (*corpus["parts"], *corpus["final_parts"])}
    else:
        read = {recipe["corpus"]: corpus["sha256"]}
    removed = {"overlap_removed": True} if recipe.get("remove_overlap") else {}
    if "parts" in corpus:
        removed["held_out"] = [*read, *recipe["held_out"]]
    return [*stages_before(record), *({"name": name, "sha256": sha256, **removed} for name, sha256 in read.items())]


def stages_before(record: dict) -> list[dict]:
    """What came before a run, as [`trained_on`] gives it, by its record."""
    start = record["recipe"].get("start_from")
    # Records of earlier versions left it empty where nothing was known.
    return record.get("trained_on_before") or ([unknown(start)] if start else [])


def unknown(checkpoint: str) -> dict:
    return {"name": None, "sha256": None, "checkpoint": str(checkpoint)}


def find_record(checkpoint: str) -> dict | None:
    """The run record in or beside a checkpoint, or in its repository on the Hub, if there is one."""
    path = record_path(Path(checkpoint)) or find_file(checkpoint, RECORD)
    try:
        record = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except ValueError:
        return None
    return record if {"recipe", "corpus"} <= record.keys() else None
