import gc
import io
import sys
import threading

import pytest
import torch

from modeling import OzymandiasForCausalLM, preset_config
from tests.conftest import random_model
from tests.forks import run_forked
from tokenizer import build_character_tokenizer
from training.engine.checkpoints import save_model
from training.evaluation.sampling import choose, stream_text, stream_tokens
from training.generate import main

TEXT = "the moon upon the water \ufffd\n"
TOKENIZER = build_character_tokenizer(TEXT)


def build(preset: str = "modern", **fields) -> OzymandiasForCausalLM:
    torch.manual_seed(0)
    fields = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, **fields}
    model = OzymandiasForCausalLM(preset_config(preset, vocab_size=len(TOKENIZER), **fields)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.3)
    return model


class Scripted:
    """A tokenizer's model that says given tokens one after another."""

    def __init__(self, tokens: list[int]):
        self.tokens, self.calls, self.device = list(tokens), 0, "cpu"
        self.config = preset_config("modern", vocab_size=len(TOKENIZER), eos_token_id=1)

    def __call__(self, **inputs):
        self.read = inputs["input_ids"][0].tolist()
        logits = torch.zeros(1, 1, len(TOKENIZER))
        logits[0, 0, self.tokens[min(self.calls, len(self.tokens) - 1)]] = 1e4
        self.calls += 1
        return type("Output", (), {"logits": logits})


def test_same_seed_same_text():
    model = build()
    texts = ["".join(stream_text(model, TOKENIZER, "the", 50, seed=s)) for s in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


def test_a_special_token_in_a_prompt_is_text():
    model = Scripted([5])
    list(stream_text(model, TOKENIZER, "the <|end|>", 1))
    assert TOKENIZER.decode(model.read) == "the <|end|>"
    assert TOKENIZER.eos_token_id not in model.read


def test_seed_is_not_disturbed_by_others():
    """Two texts that are drawn in turns are those that are drawn one after the other."""
    model, prompt = build(eos_token_id=None), TOKENIZER("the")["input_ids"]
    alone = [list(stream_tokens(model, prompt, 20, 1.0, 1.0, seed)) for seed in (1, 2)]
    in_turns = zip(*(stream_tokens(model, prompt, 20, 1.0, 1.0, seed) for seed in (1, 2)), strict=True)
    assert [list(tokens) for tokens in zip(*in_turns, strict=True)] == alone


@pytest.mark.parametrize("preset", ["bigram", "gpt", "modern"])
def test_likeliest_text_is_that_of_generate(preset):
    model = build(preset, eos_token_id=None)
    ids = TOKENIZER("the moon", return_tensors="pt")
    expected = model.generate(**ids, max_new_tokens=30, do_sample=False, suppress_tokens=[0, 2])[0, 8:]
    written = stream_tokens(model, ids["input_ids"][0].tolist(), 30, temperature=0, top_p=1.0, seed=0)
    assert list(written) == expected.tolist()


@pytest.mark.parametrize("preset", ["gpt", "modern"])
@pytest.mark.parametrize("prompt", ["t", "the moon upon the water " * 4])
def test_text_goes_past_the_context(preset, prompt):
    """Each token is the one that the model gives when it sees the window alone, without a cache."""
    model = build(preset, max_position_embeddings=8, eos_token_id=None)
    prompt_ids = TOKENIZER(prompt)["input_ids"]
    written = list(stream_tokens(model, prompt_ids, 40, temperature=0, top_p=1.0, seed=0))
    assert len(written) == 40
    window = list(prompt_ids)
    for token in written:
        if len(window) > 8 or (len(window) >= 8 and window == prompt_ids):
            window = window[-4:]
        logits = model(torch.tensor([window])).logits[0, -1]
        logits[[0, 2]] = -torch.inf
        assert token == int(logits.argmax())
        window.append(token)


def test_only_whole_characters_are_shown():
    ids = TOKENIZER("诗t\ufffdé😀")["input_ids"]
    pieces = list(stream_text(Scripted([*ids, 1]), TOKENIZER, "t", 50, temperature=0))
    assert pieces == ["诗", "t", "\ufffd", "é", "😀"]


def test_real_replacement_character_does_not_stall():
    stream = stream_text(Scripted(TOKENIZER("\ufffdt")["input_ids"]), TOKENIZER, "t", 50, temperature=0)
    assert next(stream) == "\ufffd"


def test_broken_bytes_at_the_end_are_shown_as_such():
    half = TOKENIZER("诗")["input_ids"][:2]
    assert "".join(stream_text(Scripted([*half, 1]), TOKENIZER, "t", 50, temperature=0)) == "\ufffd"


def test_end_token_ends_the_text_and_other_special_tokens_are_never_drawn():
    assert list(stream_tokens(Scripted([5, 6, 1, 7]), [5], 50, 0, 1.0, 0)) == [5, 6]
    model = build()
    model.lm_head.weight.data[[0, 2]] = 100.0
    assert not {0, 2} & set(stream_tokens(model, [260], 50, 1.0, 1.0, 0))


def test_a_list_of_end_tokens_and_an_end_token_that_is_the_first_token_too_end_the_text():
    """GPT-2's one special token is bos and eos; Llama 3 has a list of end tokens."""
    for fields in ({"eos_token_id": [9, 1]}, {"eos_token_id": 1, "bos_token_id": 1}):
        model = Scripted([5, 6, 1, 7])
        model.config = preset_config("modern", vocab_size=len(TOKENIZER), **fields)
        assert list(stream_tokens(model, [5], 50, 0, 1.0, 0)) == [5, 6]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder") / "best"
    save_model(folder, build(eos_token_id=None), TOKENIZER)
    return folder


def write(*options, check: bool = True):
    return run_forked("-m", "training.generate", *options, check=check)


def test_the_command_writes_texts_and_nothing_else(decoder):
    options = ("--temperature", "0.7", "--top-p", "0.9", "--length", "80", "--seed", "3")
    texts = write(decoder, "the moon", *options, "--number", "2").stdout.removesuffix("\n").split("\n\n---\n\n")
    model = build(eos_token_id=None)
    assert texts == ["the moon" + "".join(stream_text(model, TOKENIZER, "the moon", 80, 0.7, 0.9, s)) for s in (3, 4)]


def test_the_command_reads_the_prompt_from_the_standard_input(decoder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("the water\n"))
    monkeypatch.setattr(sys, "argv", ["generate", str(decoder), "-", "--length", "5", "--temperature", "0"])
    main()
    expected = "".join(stream_text(build(eos_token_id=None), TOKENIZER, "the water", 5, 0, 0.95, 1))
    assert capsys.readouterr().out == f"the water{expected}\n"


def test_the_command_shows_its_defaults():
    said = " ".join(write("--help").stdout.split())
    assert all(f"(default {value})" in said for value in ("0.8", "0.95", "256", "1"))
    assert "(default: the accelerator" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--temperature", "-1", "--top-p", "1.5"], "--temperature must be 0 or more; --top-p must be above 0"),
        (["--temperature", "nan", "--length", "0"], "--temperature must be 0 or more; --length must be at least 1"),
        (["--device", "nonsense"], "--device nonsense cannot be used"),
    ],
)
def test_the_command_refuses_what_cannot_be_done(decoder, options, words):
    done = write(decoder, "the", *options, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_an_encoder_is_refused_and_an_encoder_decoder_writes_a_passage(tmp_path):
    for name, fields in (("encoder", {"is_causal": False}), ("both", {"is_encoder_decoder": True})):
        config = preset_config(
            "gpt", vocab_size=len(TOKENIZER), bos_token_id=0, eos_token_id=1, pad_token_id=2, **fields
        )
        save_model(tmp_path / name, random_model(config), TOKENIZER)
    refused = write(tmp_path / "encoder", "the moon", check=False)
    assert refused.returncode == 1
    assert "encoder is an encoder, which cannot continue a text" in refused.stderr
    texts = [write(tmp_path / "both", "the moon", "--length", "60", "--seed", seed).stdout for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert "the moon" not in texts[0]


def test_who_stops_asking_stops_the_work():
    """No thread is left, and no token is computed that nobody asked for."""
    threads = threading.active_count()
    model = Scripted([260])
    stream = stream_text(model, TOKENIZER, "t", 10_000, temperature=0)
    for _ in range(5):
        next(stream)
    stream.close()
    gc.collect()
    assert model.calls == 5
    assert threading.active_count() == threads


def test_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="empty"):
        next(stream_text(build(), TOKENIZER, "", 5))


def test_top_p_leaves_out_the_tail():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    generator = torch.Generator().manual_seed(0)
    assert {choose(logits, 1.0, 0.7, generator) for _ in range(200)} == {0, 1}
    assert {choose(logits, 1.0, 1.0, generator) for _ in range(400)} == {0, 1, 2, 3}
    assert {choose(logits, 0.05, 1.0, generator) for _ in range(200)} == {0}
