"""What a run and its earlier training stages were trained on, and whether the run is scored on any of it."""

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
    recipe: Recipe, corpus: Corpus | Mixture, say: Callable[[str], None], check_overlap: bool = True
) -> tuple[Corpus | Mixture, list[dict]]:
    """Check that neither a run nor the stages before its checkpoint train on text that the run is scored on.

    Args:
        say: prints what was found.
        check_overlap: search for shared passages. A large text takes a minute, so a resumed run, which was searched
            when it began, skips it. What `remove_overlap` leaves out is left out either way.

    Returns:
        The corpus, without what `remove_overlap` leaves out; and what the checkpoint was trained on before, in the
        form of [`trained_on`].

    Raises:
        UserError: one text contains passages of another's validation split. If a single text repeats itself, this is
            only reported: it may be a refrain.
    """
    if isinstance(corpus, Mixture):
        if recipe.remove_overlap or check_overlap:
            corpus = separate(corpus, recipe.remove_overlap, say)
    elif recipe.remove_overlap:
        left = without_shared(corpus.train, corpus.validation)
        removed = len(corpus.train) - len(left)
        say(f"left out of training: {removed:,} characters that overlap with the validation split")
        corpus = dataclasses.replace(corpus, training_text=left)
    earlier = trained_on(recipe.start_from)
    if check_overlap:
        if isinstance(corpus, Corpus):  # the training split of a stream is larger than memory
            compare_with_itself(corpus, say)
        for stage in earlier:
            compare_with_stage(recipe, corpus, stage, say)
    return corpus, earlier


def compare_with_stage(recipe: Recipe, corpus: Corpus, stage: dict, say: Callable[[str], None]) -> None:
    """Check that an earlier stage, one of [`trained_on`], was not trained on the corpus' validation split."""
    if corpus.name in stage.get("held_out", ()):
        say(f"{stage['name']} was trained on without what {corpus.name} is scored on")
        return
    if stage["name"] is None:
        say(
            f"it is not known what {stage['checkpoint']} was trained on (no {RECORD} was found): if that includes the "
            "validation split, the loss will look better than it is"
        )
        return
    try:
        before = load_corpus(stage["name"], recipe.accept_changed_corpus, recipe.text_column)
    except UserError:
        before = None
    if before is None or before.sha256 != stage["sha256"]:
        say(f"{recipe.start_from} was trained on {stage['name']}, which is not available here for comparison")
        return
    train = without_shared(before.train, before.validation) if stage.get("overlap_removed") else before.train
    share, found = describe(before.name, train, corpus.name, corpus.validation)
    if share > TOLERATED and before.sha256 != corpus.sha256:
        raise UserError(f"{found}; start from a checkpoint that has not seen them.")
    say(found)


def trained_on(checkpoint: str | None) -> list[dict]:
    """The corpora that a checkpoint was trained on, in order, from the run record beside it or on the Hub.

    Each has a `name` and a `sha256`; `overlap_removed` if passages of its validation split were left out of training;
    and, for a mixture, `held_out`, the corpora whose validation and test splits were kept out. If nothing is known,
    `name` and `sha256` are `None` and `checkpoint` says which checkpoint that is.
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
    """What a run's starting checkpoint was trained on, from the run's record, in the form of [`trained_on`]."""
    start = record["recipe"].get("start_from")
    # Earlier versions recorded an empty list if nothing was known.
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
