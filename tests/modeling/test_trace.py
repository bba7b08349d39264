"""One sentence on its way through a decoder."""

import pytest

from modeling import preset_config
from modeling.trace import trace
from tests.conftest import random_model
from tests.forks import run_forked
from tokenizer import build_character_tokenizer

TOKENIZER = build_character_tokenizer("the moon upon the water")


@pytest.mark.parametrize(("preset", "layers"), [("bigram", 0), ("modern", 4)])
def test_every_stage_shows_its_shape(preset, layers):
    model = random_model(preset_config(preset, vocab_size=len(TOKENIZER), eos_token_id=1, pad_token_id=2))
    rows = trace("the moon", TOKENIZER, model)
    names = [name for name, _ in rows]
    blocks = [f"block {number + 1}" for number in range(layers)]
    assert names == ["text", "tokens", "ids", "embeddings", *blocks, "logits", "next token", "text"]
    shown = dict(rows[1:-1])
    assert shown["tokens"] == "'t' 'h' 'e' ' ' 'm' 'o' 'o' 'n'"
    assert shown["ids"].endswith("], (1, 8)")
    assert shown["embeddings"] == "(1, 8, 128)"
    assert all(shown[block] == "attention weights (1, 4, 8, 8), hidden states (1, 8, 128)" for block in blocks)
    assert shown["logits"] == f"(1, 8, {len(TOKENIZER)})"
    assert shown["next token"].count("%") == 5
    assert rows[0][1] == "'the moon'"
    assert rows[-1][1].startswith("'the moon")


def test_what_cannot_be_traced_is_refused():
    encoder = random_model(preset_config("modern", vocab_size=len(TOKENIZER), is_causal=False))
    with pytest.raises(ValueError, match="not a decoder"):
        trace("the moon", TOKENIZER, encoder)
    with pytest.raises(ValueError, match="no text"):
        trace("", TOKENIZER, encoder)


def test_command():
    said = run_forked("-m", "modeling.trace", "the moon").stdout
    assert said.startswith("text        'the moon'\n")
    assert "block 6" in said
    missing = run_forked("-m", "modeling.trace", "the moon", "--checkpoint", "/no/such/folder", check=False)
    assert missing.returncode == 1
    assert "Traceback" not in missing.stderr
    assert "/no/such/folder" in missing.stderr
