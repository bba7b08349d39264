import json
import math

import pytest
import torch

from modeling import OzymandiasForCausalLM, preset_config
from tests.forks import run_forked
from tokenizer import build_character_tokenizer
from training.command import UserError
from training.data.windows import IGNORED
from training.evaluation.scores import count_windows, score_text, sliding_windows


@pytest.mark.parametrize("length", [2, 7, 8, 9, 12, 13, 40, 41, 1000])
@pytest.mark.parametrize("context", [1, 2, 7, 8])
def test_every_token_but_the_first_is_a_target_once(length, context):
    inputs, targets = sliding_windows(torch.arange(length), context)
    assert inputs.shape == targets.shape
    assert inputs.shape[1] == context
    scored = targets[targets != IGNORED]
    assert scored.sort().values.tolist() == list(range(1, length))
    # A target stands behind the token before it, with half a context or the beginning of the text before that.
    rows, columns = (targets != IGNORED).nonzero(as_tuple=True)
    assert torch.equal(inputs[rows, columns] + 1, targets[rows, columns])
    assert bool(((columns >= context - max(1, context // 2)) | (rows == 0)).all())


def model_and_tokenizer(text: str):
    tokenizer = build_character_tokenizer(text)
    torch.manual_seed(0)
    model = OzymandiasForCausalLM(preset_config("modern", vocab_size=len(tokenizer), max_position_embeddings=16))
    torch.nn.init.normal_(model.lm_head.weight, std=0.3)
    return model, tokenizer


def test_loss_of_a_short_text_is_the_models_own():
    text = "the moon upon."
    model, tokenizer = model_and_tokenizer(text)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert score_text(model, tokenizer, text)[0] == pytest.approx(float(model(ids, labels=ids).loss.detach()), abs=1e-5)


def test_bytes_of_an_unknown_character_count_as_one_character():
    """A model that knows nothing pays log(vocabulary) for each of the three bytes of a Chinese character."""
    model, tokenizer = model_and_tokenizer("ab")
    torch.nn.init.zeros_(model.lm_head.weight)
    one = score_text(model, tokenizer, "abab")[0]
    assert one == pytest.approx(math.log(len(tokenizer)), abs=1e-4)
    assert score_text(model, tokenizer, "a诗")[0] == pytest.approx(3 * math.log(len(tokenizer)), abs=1e-4)


def test_shares_of_several_processes_add_up_and_the_mode_is_kept(monkeypatch):
    text = "the moon upon the water, and the water on the stone. " * 5
    model, tokenizer = model_and_tokenizer(text)
    model.train()
    whole = score_text(model, tokenizer, text)[0]
    monkeypatch.setattr("training.evaluation.scores.LOGITS", 1)  # one window at a time
    shares = [score_text(model, tokenizer, text, process=p, processes=3)[0] for p in range(3)]
    assert sum(shares) == pytest.approx(whole, rel=1e-5)
    assert model.training


def test_no_more_windows_are_cut_and_scored_at_once_than_the_logits_may_take(monkeypatch):
    """The memory of scoring does not grow with the text, but for the ids of its tokens."""
    text = "the moon upon the water, and the water on the stone. " * 40
    model, tokenizer = model_and_tokenizer(text)
    whole = score_text(model, tokenizer, text)[0]
    asked, seen = [], []

    def recorded(tokens, context, numbers):
        asked.append(len(numbers))
        return sliding_windows(tokens, context, numbers)

    def forward(**batch):
        seen.append(batch["input_ids"].numel() * len(tokenizer))
        return call(**batch)

    call = model.forward
    monkeypatch.setattr("training.evaluation.scores.sliding_windows", recorded)
    monkeypatch.setattr(model, "forward", forward)
    monkeypatch.setattr("training.evaluation.scores.LOGITS", 5 * 16 * len(tokenizer))
    assert score_text(model, tokenizer, text)[0] == pytest.approx(whole, rel=1e-5)
    assert max(asked) == 5
    assert max(seen) == 5 * 16 * len(tokenizer)
    assert sum(asked) == count_windows(len(text), 16) == len(sliding_windows(torch.arange(len(text)), 16)[0])


def test_nothing_to_score_is_told():
    model, tokenizer = model_and_tokenizer("ab")
    with pytest.raises(UserError, match="nothing to score"):
        score_text(model, tokenizer, "a")


def test_command_repeats_the_recorded_loss(trained):
    said = run_forked("-m", "training.evaluate", trained / "best", "--corpus", "sampler").stdout
    recorded = json.loads((trained / "run.json").read_text())["best_validation_loss"]
    assert f"{recorded:.4f} nats" in said
    missing = run_forked("-m", "training.evaluate", trained / "nothing", "--corpus", "sampler", check=False)
    assert missing.returncode == 1
    assert "nothing" in missing.stderr
    assert "Traceback" not in missing.stderr


def test_only_shelves_of_the_library_have_a_test_split():
    done = run_forked(
        "-m", "training.evaluate", "space/checkpoints/english", "--corpus", "sampler", "--split", "test", check=False
    )
    assert done.returncode == 1
    assert "corpus 'sampler' has no test split (only baum, tales, verse do); leave --split out." in done.stderr
