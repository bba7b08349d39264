"""Starting from a checkpoint, byte-pair encoding, averaged weights, and scoring a part on the way."""

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.forks import run_forked
from training.command import UserError
from training.data.corpora import load_corpus
from training.engine.build import build_model, build_tokenizer
from training.engine.loop import Run, train
from training.engine.recipe import Recipe, load_recipe
from training.evaluation.scores import score_text

FIELDS = {"steps": 12, "evaluate_every": 6, "checkpoint_every": 6, "sample_length": 5, "batch_size": 8, "context": 32}


def small(**fields) -> Recipe:
    return load_recipe("smoke", [(name, str(value)) for name, value in {**FIELDS, **fields}.items()])


def record_of(folder) -> dict:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run on byte pairs."""
    folder = tmp_path_factory.mktemp("base") / "run"
    train(small(tokenizer="bpe", vocab_size=400), folder)
    return folder


def test_byte_pairs_are_scored_by_the_character(base):
    record = record_of(base)
    model = AutoModelForCausalLM.from_pretrained(base / "best").eval()
    tokenizer = AutoTokenizer.from_pretrained(base / "best")
    assert (record["vocabulary"], len(tokenizer), model.config.vocab_size) == (400, 400, 400)
    text = load_corpus("sampler").validation
    ids = torch.tensor(tokenizer(text)["input_ids"])
    assert record["first_validation_loss"] == pytest.approx(math.log(400) * len(ids) / len(text), rel=0.05)
    # The same by hand: every token but the first once, with at least half a context before it.
    nats, first = 0.0, 0
    for begin in range(0, len(ids) - 1, 16):
        window = ids[begin : begin + 33]
        with torch.no_grad():
            logits = model(input_ids=window[None, :-1]).logits[0]
        fresh = slice(0 if begin == 0 else 16, None)
        nats += float(torch.nn.functional.cross_entropy(logits[fresh], window[1:][fresh], reduction="sum"))
        first += int((logits[fresh].argmax(-1) == window[1:][fresh]).sum())
        if begin + 33 >= len(ids):
            break
    given = len(tokenizer.decode(ids[:1]))
    loss, accuracy = score_text(model, tokenizer, text)
    assert loss == pytest.approx(nats / (len(text) - given), rel=1e-4)
    assert accuracy == pytest.approx(first / (len(ids) - 1))
    assert record["best_validation_loss"] == pytest.approx(loss, rel=1e-4)
    assert record["train_loss"] == pytest.approx(loss, rel=0.3)  # in nats per character too


def test_fine_tuning_goes_on_with_weights_vocabulary_and_lineage(base, tmp_path):
    (tmp_path / "mine.txt").write_text(load_corpus("sampler").validation.upper() * 3, encoding="utf-8")
    recipe = small(start_from=base / "best", corpus=tmp_path / "mine.txt", learning_rate=1e-4, steps=6)
    fine = Run(recipe, tmp_path / "fine")
    before = AutoModelForCausalLM.from_pretrained(base / "best")
    assert all(torch.equal(a, b) for a, b in zip(fine.model.parameters(), before.parameters(), strict=True))
    train(recipe, tmp_path / "fine")
    record = record_of(tmp_path / "fine")
    assert [stage["name"] for stage in record["trained_on_before"]] == ["sampler"]
    assert record["vocabulary"] == 400
    assert record["best_validation_loss"] < record["first_validation_loss"]
    saved = AutoTokenizer.from_pretrained(tmp_path / "fine" / "best")
    assert saved.get_vocab() == AutoTokenizer.from_pretrained(base / "best").get_vocab()


def test_fine_tuning_can_change_dropout_and_context(base):
    recipe = small(start_from=base / "best", context=48, **{"model.hidden_dropout": 0.3})
    model = build_model(recipe, build_tokenizer(recipe, ""))
    assert (model.config.hidden_dropout, model.config.max_position_embeddings) == (0.3, 48)
    assert model.config.hidden_size == AutoModelForCausalLM.from_pretrained(base / "best").config.hidden_size


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_weights_and_moments_are_float32_whatever_the_checkpoint_is_stored_in(base, tmp_path, stored):
    """In half precision most updates of a fine-tuning are smaller than what a weight can show."""
    half = AutoModelForCausalLM.from_pretrained(base / "best", dtype=stored)
    half.save_pretrained(tmp_path / "half")
    AutoTokenizer.from_pretrained(base / "best").save_pretrained(tmp_path / "half")
    run = Run(small(start_from=tmp_path / "half"), tmp_path / "run")
    run.start()
    run.step()
    assert {weight.dtype for weight in run.model.parameters()} == {torch.float32}
    moments = {m.dtype for o in run.optimizers for state in o.state.values() for m in state.values() if m.ndim}
    assert moments == {torch.float32}
    run.model.save_pretrained(tmp_path / "saved")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "saved").dtype == torch.float32


def test_what_cannot_be_fine_tuned_is_told(base, tmp_path):
    for fields, words in (
        ({"start_from": tmp_path / "none"}, "there is no folder"),
        ({"start_from": base / "best", "task": "masked"}, "is not a model for the task masked"),
        ({"start_from": base / "best", "model.hidden_sise": 3}, "hidden_sise"),
        ({"start_from": base / "best", "model.hidden_size": 48}, "cannot be fine-tuned"),
    ):
        recipe = small(**fields)
        with pytest.raises(UserError, match=words):
            build_model(recipe, build_tokenizer(recipe, "text"))
    with pytest.raises(UserError, match="at least 259"):
        build_tokenizer(small(tokenizer="bpe", vocab_size=100), "text")


def test_averaged_weights_are_scored_and_survive_a_stop(tmp_path):
    fields = {"average_decay": 0.9, "log_every": 1, "decay_share": 1.0}
    whole = Run(small(**fields), tmp_path / "whole")
    whole.start()
    history = []
    for _ in range(5):
        whole.step()
        history.append(next(whole.model.parameters()).detach().clone())
    expected = history[0]
    for weights in history[1:]:
        expected = 0.9 * expected + 0.1 * weights
    assert torch.allclose(next(whole.scored.parameters()), expected, atol=1e-6)
    assert not torch.allclose(next(whole.model.parameters()), expected, atol=1e-6)

    train(small(**fields), tmp_path / "unbroken")
    command = ["-m", "training.pretrain", "--recipe", "smoke", "--output", str(tmp_path / "broken")]
    command += [part for name, value in {**FIELDS, **fields}.items() for part in (f"--{name}", str(value))]
    (tmp_path / "stop.py").write_text(
        "import sys, training.engine.loop as loop\n"
        "step = loop.Run.step\n"
        "def until(run):\n"
        "    if run.record.step == 8: raise KeyboardInterrupt\n"
        "    return step(run)\n"
        "loop.Run.step = until\n"
        "from training.command import run_command\n"
        "from training.pretrain import main\n"
        "run_command(main)\n"
    )
    assert run_forked(tmp_path / "stop.py", *command[2:], check=False).returncode == 130
    run_forked(*command)
    unbroken, broken = (record_of(tmp_path / name) for name in ("unbroken", "broken"))
    assert broken["final_validation_loss"] == unbroken["final_validation_loss"]


def test_a_part_is_scored_on_the_way_and_the_whole_at_the_end(tmp_path):
    train(small(validation_characters=300), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "best")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "best")
    validation = load_corpus("sampler").validation
    scored = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert min(scored) == pytest.approx(score_text(model, tokenizer, validation[:300])[0], rel=1e-4)
    whole = score_text(model, tokenizer, validation)[0]
    record = record_of(tmp_path / "run")
    assert record["best_validation_loss"] == pytest.approx(whole, rel=1e-4)
    assert record["partial_validation_loss"] == min(scored)


def test_evaluate_prints_what_samples_are_worth(base):
    samples = ["--samples", "2", "--prompt", "The moon", "--show", "1"]
    said = run_forked("-m", "training.evaluate", base / "best", "--corpus", "sampler", *samples).stdout
    for words in ("nats per character", "bits", "top-1 accuracy", "stride 16", "real words", "copied", "distinct"):
        assert words in said
    for words in ("repeat a line", "that rhyme", "quotes close", "--- sample 1\nThe moon"):
        assert words in said
    assert "--- sample 2" not in said
