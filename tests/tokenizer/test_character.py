import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.forks import run_forked
from tokenizer import build_character_tokenizer, encode_text

TOKENIZER = build_character_tokenizer("To be, or not to be: that is the question.\n")


@settings(max_examples=400, deadline=None)
@given(st.text())
def test_every_string_comes_back(text):
    ids = encode_text(TOKENIZER, text)
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " a .b , c",
        "诗经",
        "e\u0301 é",
        "\ufffd",
        "<0x41>",
        "\r\n\t\0",
        "👩‍👩‍👧",
        "  two  spaces  ",
        "naïve <|oops|>",
        "<|begin|>a<|end|><|padding|>",
        "\u2028\x85",
    ],
)
def test_awkward_strings_come_back(text, tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    for tokenizer in (TOKENIZER, AutoTokenizer.from_pretrained(tmp_path)):
        ids = encode_text(tokenizer, text).tolist()
        assert not set(ids) & set(tokenizer.all_special_ids)
        assert tokenizer.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True) == text


def test_known_characters_are_one_token_and_others_their_bytes():
    assert TOKENIZER.tokenize("to é") == ["t", "o", " ", "<0xC3>", "<0xA9>"]
    assert len(TOKENIZER) == 3 + 256 + len(set("To be, or not to be: that is the question.\n"))


def test_special_tokens_are_never_added_by_themselves():
    assert len(TOKENIZER("to")["input_ids"]) == 2
    special = (TOKENIZER.bos_token_id, TOKENIZER.eos_token_id, TOKENIZER.pad_token_id)
    assert special == (0, 1, 2)


def test_batch_padding_and_offsets():
    batch = TOKENIZER(["be", "to bé"], padding=True, return_offsets_mapping=True, return_tensors="pt")
    assert batch["attention_mask"].tolist() == [[0, 0, 0, 0, 1, 1], [1] * 6]
    assert batch["offset_mapping"][1].tolist() == [[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [4, 5]]


def test_saved_and_loaded(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "to be 诗 .\n"
    assert loaded(text)["input_ids"] == TOKENIZER(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"]) == text
    assert loaded.padding_side == "left"


def test_empty_text_is_refused():
    with pytest.raises(ValueError, match="empty"):
        build_character_tokenizer("")


def test_command(tmp_path):
    (tmp_path / "text.txt").write_text("the moon", encoding="utf-8")
    said = run_forked("-m", "tokenizer.train", tmp_path / "text.txt", "--output", tmp_path / "made").stdout
    assert str(3 + 256 + 7) in said
    assert AutoTokenizer.from_pretrained(tmp_path / "made").tokenize("moon") == list("moon")
    missing = run_forked("-m", "tokenizer.train", tmp_path / "no.txt", "--output", tmp_path / "x", check=False)
    assert missing.returncode == 2
    assert "no.txt" in missing.stderr
    assert "Traceback" not in missing.stderr


def test_a_mask_is_one_more_token_that_a_text_can_spell():
    plain, masked = (build_character_tokenizer("the moon", with_mask=mask) for mask in (False, True))
    assert masked.mask_token_id == len(plain) == len(masked) - 1
    assert masked("the moon")["input_ids"] == plain("the moon")["input_ids"]
    assert plain.mask_token is None
    assert masked("m<|mask|>on")["input_ids"][1] == masked.mask_token_id
