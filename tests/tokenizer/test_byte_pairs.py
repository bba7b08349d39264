import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.forks import run_forked
from tokenizer import build_bpe_tokenizer, encode_text
from tokenizer.bpe import BYTE_OF
from tokenizer.byte_pairs import BytePairs
from training.data.corpora import load_corpus


def assert_same_as_the_library(text: str, vocab_size: int) -> None:
    """The same merges in the same order, and the same ids for the training text."""
    ours, library = BytePairs.train(text, vocab_size), build_bpe_tokenizer(text, vocab_size)
    merges = json.loads(library.backend_tokenizer.to_str())["model"]["merges"]
    assert ours.merges == [tuple(bytes(BYTE_OF[c] for c in part) for part in merge) for merge in merges]
    ids = ours.encode(text)
    assert ids == encode_text(library, text).tolist()
    assert ours.decode(ids) == text


@pytest.mark.parametrize("vocab_size", [259, 400, 2000])
def test_same_as_the_library(vocab_size):
    assert_same_as_the_library(load_corpus("sampler").text, vocab_size)


@pytest.mark.corpora
@pytest.mark.slow
@pytest.mark.parametrize("name", ["oz", "poetry", "shijing", "lunyu", "classics"])
def test_same_as_the_library_on_the_corpora(corpora, name):
    assert_same_as_the_library(load_corpus(name).train, 2048)


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("aab -.,\n春夏"), min_size=1, max_size=60))
def test_same_as_the_library_on_repetitions(text):
    """Pairs that overlap themselves, as in `aaa`, are easily counted wrong."""
    assert_same_as_the_library(text, 300)


def test_each_merge_is_shown():
    pairs = BytePairs.train("the cat sat on the mat, the cat sat", vocab_size=262)
    assert pairs.merges == [(b"a", b"t"), (b"h", b"e"), (b"t", b"he")]
    assert list(pairs.steps("the")) == [[b"t", b"h", b"e"], [b"t", b"he"], [b"the"]]


def test_inspect_shows_pieces_and_merges(tmp_path):
    (tmp_path / "text.txt").write_text("the cat sat on the mat, the cat sat", encoding="utf-8")
    shown = run_forked("-m", "tokenizer.show", "the春", "--learn", tmp_path / "text.txt", "--vocab_size", "262").stdout
    assert "'the'\n    't' 'h' 'e'\n    't' 'he'\n    'the'\n" in shown
    assert "(part of a character)" in shown
    assert "4 tokens for 4 characters (6 bytes): 1.00 characters a token" in shown
    build_bpe_tokenizer("the moon the moon", 270).save_pretrained(tmp_path / "saved")
    shown = run_forked("-m", "tokenizer.show", "the moon", "--tokenizer", tmp_path / "saved").stdout
    assert "2 tokens for 8 characters" in shown
    wrong = run_forked("-m", "tokenizer.show", "x", "--tokenizer", tmp_path / "none", check=False)
    assert wrong.returncode == 1
    assert "holds no tokenizer" in wrong.stderr
    assert "Traceback" not in wrong.stderr
