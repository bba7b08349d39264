import pytest
import torch

from tokenizer import build_character_tokenizer
from training.command import UserError
from training.data import Batches, encode


def test_encode_gives_the_tokenizers_ids():
    text = "The moon,\nupon\r\nthe water — 诗\n\n"
    tokenizer = build_character_tokenizer(text[:20])
    assert encode(tokenizer, text).tolist() == tokenizer(text)["input_ids"]


def test_a_step_is_a_function_of_the_step_alone():
    tokens = torch.arange(1000)
    straight = Batches(tokens, context=7, batch_size=3, seed=5)
    seen = [straight.at(step)[0] for step in range(200)]
    jumping = Batches(tokens, context=7, batch_size=3, seed=5)
    for step in (150, 3, 199, 47):
        assert torch.equal(jumping.at(step)[0], seen[step])
    other = Batches(tokens, context=7, batch_size=3, seed=6)
    assert not torch.equal(other.at(0)[0], seen[0])


def test_targets_are_the_next_tokens():
    inputs, targets = Batches(torch.arange(500), context=16, batch_size=4, seed=0).at(9)
    assert inputs.shape == targets.shape == (4, 16)
    assert torch.equal(targets, inputs + 1)


def test_an_epoch_sees_no_token_twice_and_hardly_leaves_one_out():
    batches = Batches(torch.arange(1001), context=10, batch_size=9, seed=0)
    epochs = [torch.cat([batches.at(step)[0] for step in range(11 * e, 11 * e + 11)]) for e in range(3)]
    for windows in epochs:  # 11 steps of 9 windows
        assert windows.shape == (99, 10)
        assert len(windows.unique()) == 990
    first, second = ({int(w[0]) for w in windows} for windows in epochs[:2])
    assert first != second  # cut from another offset


def test_stream_of_exactly_one_window():
    inputs, targets = Batches(torch.arange(9), context=8, batch_size=2, seed=0).at(3)
    assert inputs.tolist() == [list(range(8))] * 2
    assert targets.tolist() == [list(range(1, 9))] * 2


def test_stream_shorter_than_a_window_is_refused():
    with pytest.raises(UserError, match=r"8 tokens.*9 of one window.*--context"):
        Batches(torch.arange(8), context=8, batch_size=2, seed=0)
