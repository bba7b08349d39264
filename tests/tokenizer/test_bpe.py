import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.forks import run_forked
from tokenizer import build_bpe_tokenizer, build_character_tokenizer, encode_batch, encode_text, token_bytes
from tokenizer.bpe import CHAT
from training.data.corpora import load_corpus

TEXT = load_corpus("sampler").text + "春眠不觉晓，处处闻啼鸟。\n" * 9
TOKENIZER = build_bpe_tokenizer(TEXT, vocab_size=600)
KINDS = [TOKENIZER, build_character_tokenizer(TEXT), build_character_tokenizer(TEXT, vocab_size=300)]
# White space of every kind, signs, digits that are no decimals, letters of several scripts.
AWKWARD = st.text(
    st.sampled_from("abst'’ .,-_\t\n\r\x0b\x0c\x1c\x85\xa0\u2003\u2028\u3000é½²Ⅷ1春𠀀あ\u0301\ufffd👩"), max_size=40
)


@settings(max_examples=80, deadline=None)
@given(st.one_of(st.text(), AWKWARD))
def test_every_string_comes_back(text):
    for tokenizer in KINDS:
        ids = encode_text(tokenizer, text).tolist()
        assert tokenizer.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True) == text
        assert b"".join(token_bytes(tokenizer, id) for id in ids) == text.encode()


@settings(max_examples=120, deadline=None)
@given(st.one_of(st.text(), AWKWARD))
def test_encoding_in_pieces_gives_the_tokenizers_ids(text):
    for tokenizer in KINDS:
        assert encode_text(tokenizer, text).tolist() == tokenizer(text, split_special_tokens=True)["input_ids"]


def test_long_texts_are_cut_where_no_token_is(monkeypatch):
    monkeypatch.setattr("tokenizer.encode.SECTION", 50)
    for tokenizer in KINDS:
        assert encode_text(tokenizer, TEXT).tolist() == tokenizer(TEXT)["input_ids"]
    assert encode_text(TOKENIZER, "").tolist() == []
    assert encode_batch(TOKENIZER, ["the", "", "moon"], end=[1]).tolist() == [
        *TOKENIZER("the")["input_ids"],
        1,
        1,
        *TOKENIZER("moon")["input_ids"],
        1,
    ]


def test_no_token_crosses_a_word_or_joins_chinese_characters():
    for piece in ("春", "眠", "，", "\n\n", " the", "'s", "’s", "12"):
        assert TOKENIZER.decode(TOKENIZER(f"x{piece}")["input_ids"][1:]) == piece
    tokens = [token_bytes(TOKENIZER, i).decode(errors="replace") for i in range(3, len(TOKENIZER))]
    assert not [
        t for t in tokens if len(t) > 1 and (" " in t[1:] or "\n" in t.strip("\n") or t.strip("春眠不觉晓") == "")
    ]


def test_tokens_of_later_stages_are_in_the_vocabulary_and_never_in_a_text(tmp_path):
    tokenizer = build_bpe_tokenizer(TEXT, vocab_size=600, with_chat=True)
    assert len(tokenizer) == 600
    assert {"<|system|>", "<|user|>", "<|assistant|>", "<|end_of_turn|>", "<|reserved_15|>"} <= set(CHAT)
    assert tokenizer.convert_tokens_to_ids(CHAT) == list(range(3, 23))
    turn = "<|user|>the moon<|end_of_turn|>"
    tokenizer.save_pretrained(tmp_path)
    for same in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert not set(encode_text(same, turn).tolist()) & set(range(23))
        ids = same(turn)["input_ids"]
        assert (ids[0], ids[-1]) == (4, 6)
        assert same.decode(ids, skip_special_tokens=True) == "the moon"
    assert not set(CHAT) & set(TOKENIZER.get_vocab())
    with pytest.raises(ValueError, match="23 special tokens and 256 bytes; give at least 279"):
        build_bpe_tokenizer(TEXT, vocab_size=278, with_chat=True)


def test_several_texts_make_the_tokenizer_that_one_makes():
    backend = build_bpe_tokenizer(re.split(r"(?<=\n)(?=[^\n])", TEXT), vocab_size=600).backend_tokenizer
    assert backend.to_str() == TOKENIZER.backend_tokenizer.to_str()


def test_vocabulary_has_the_size_that_was_asked_for(tmp_path):
    assert len(TOKENIZER) == 600
    assert len(KINDS[2]) == 300
    assert KINDS[2].tokenize("e春") == ["e", "<0xE6>", "<0x98>", "<0xA5>"]  # the rarer one is written in bytes
    masked = build_bpe_tokenizer(TEXT, 400, with_mask=True)
    assert masked("the <|mask|>")["input_ids"][-1] == masked.mask_token_id
    assert "<|mask|>" not in TOKENIZER.get_vocab()
    TOKENIZER.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("the moon")["input_ids"] == TOKENIZER("the moon")["input_ids"]


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("build", [build_bpe_tokenizer, build_character_tokenizer])
def test_a_special_token_is_one_to_the_tokenizer_and_text_to_a_corpus(build, with_mask, tmp_path):
    """Chat templates and users write special tokens as text and mean the token; in a corpus it is only text."""
    build(TEXT, 600, with_mask).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>"]})
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    text = "<|user|>a<|end|>b" + "<|mask|>" * with_mask
    for _ in range(2):  # neither way of encoding leaves something behind for the other
        ids = encode_text(tokenizer, text).tolist()
        assert not set(ids) & {user, *tokenizer.all_special_ids}
        assert tokenizer.decode(ids) == text
        expected = [user, *tokenizer("a")["input_ids"], tokenizer.eos_token_id, *tokenizer("b")["input_ids"]]
        assert tokenizer(text)["input_ids"] == expected + [tokenizer.mask_token_id] * with_mask


@pytest.mark.parametrize("build", [build_bpe_tokenizer, build_character_tokenizer])
def test_what_cannot_be_built_is_refused(build):
    with pytest.raises(ValueError, match="empty"):
        build("", 500)
    with pytest.raises(ValueError, match="at least 259"):
        build("the moon", 258)


def test_command(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    command = ("-m", "tokenizer.train", tmp_path / "text.txt", "--output", tmp_path / "made", "--kind", "bpe")
    assert "300 tokens" in run_forked(*command, "--vocab_size", "300").stdout
    refused = run_forked(*command, "--vocab_size", "100", check=False)
    assert (refused.returncode, "at least 259" in refused.stderr, "Traceback" in refused.stderr) == (2, True, False)
