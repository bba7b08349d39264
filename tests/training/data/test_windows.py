import string
import typing

import pytest
import torch

from tokenizer import build_character_tokenizer
from training.command import UserError
from training.data import windows as data
from training.data.windows import (
    IGNORED,
    TASKS,
    Copy,
    Masked,
    NextPassage,
    NextToken,
    Windows,
    encode,
    mask_spans,
    stored_tokens,
)
from training.engine.recipe import TYPES


def test_encode_gives_the_tokenizers_ids():
    text = "The moon,\nupon\r\nthe water — 诗\n\n"
    tokenizer = build_character_tokenizer(text[:20])
    assert encode(tokenizer, text).tolist() == tokenizer(text)["input_ids"]


def test_special_tokens_in_a_text_are_encoded_as_text(cache):
    for with_mask in (False, True):
        tokenizer = build_character_tokenizer("the moon <|maskend>", with_mask=with_mask)
        tokenizer(["padded", "and cut"], padding="max_length", truncation=True, max_length=3)  # changes its settings
        text = "the <|mask|> moon<|end|>"
        for ids in (encode(tokenizer, text), stored_tokens(tokenizer, text)):
            assert tokenizer.convert_ids_to_tokens(ids.tolist()) == list(text)
    assert encode(tokenizer, "").tolist() == []


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "tokens"


@pytest.mark.parametrize(("added", "dtype"), [(0, torch.uint16), (70_000, torch.int32)])
def test_tokens_are_stored_once_and_mapped(cache, monkeypatch, added, dtype):
    text = "The moon,\nupon\r\nthe water — 诗\n\n" * 5000  # several parts of lines
    tokenizer = build_character_tokenizer(text)
    tokenizer.add_tokens([f"<{n}>" for n in range(added)])
    tokens = stored_tokens(tokenizer, text)
    assert tokens.dtype == dtype
    assert torch.equal(tokens.long(), encode(tokenizer, text))
    (file,) = cache.iterdir()
    assert file.stat().st_size == len(tokens) * dtype.itemsize
    monkeypatch.setattr(data, "encode_text", None)  # nothing is encoded again
    assert torch.equal(stored_tokens(tokenizer, text).long(), tokens.long())
    batch = Windows(tokens, context=7, batch_size=3, seed=5, length=8).windows_at(4)
    assert batch.dtype == torch.long
    assert torch.equal(batch, Windows(tokens.long(), context=7, batch_size=3, seed=5, length=8).windows_at(4))


def test_each_text_and_tokenizer_has_a_file_of_its_own(cache):
    one, other = build_character_tokenizer("the moon"), build_character_tokenizer("the moons")
    for tokenizer, text in ((one, "moon"), (one, "moon moon"), (other, "moon")):
        assert stored_tokens(tokenizer, text).tolist() == encode(tokenizer, text).tolist()
    assert len(list(cache.iterdir())) == 3


def test_without_a_cache_tokens_stay_in_memory(cache):
    cache.parent.touch()  # not even root can create a folder below a file
    tokenizer = build_character_tokenizer("the moon")
    assert stored_tokens(tokenizer, "moon").tolist() == encode(tokenizer, "moon").tolist()


def test_a_disk_that_fills_up_leaves_no_half_file(cache, monkeypatch):
    tokenizer, replace = build_character_tokenizer("the moon"), data.Path.replace

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(data.Path, "replace", full)
    assert len(stored_tokens(tokenizer, "moon")) == 4
    assert list(cache.iterdir()) == []
    monkeypatch.setattr(data.Path, "replace", replace)


def test_windows_depend_only_on_the_step():
    tokens = torch.arange(1000)
    straight = Windows(tokens, context=7, batch_size=3, seed=5, length=8)
    seen = [straight.windows_at(step) for step in range(200)]
    jumping = Windows(tokens, context=7, batch_size=3, seed=5, length=8)
    for step in (150, 3, 199, 47):
        assert torch.equal(jumping.windows_at(step), seen[step])
    other = Windows(tokens, context=7, batch_size=3, seed=6, length=8)
    assert not torch.equal(other.windows_at(0), seen[0])


def test_targets_are_the_next_tokens():
    text = string.ascii_letters * 20
    tokenizer = build_character_tokenizer(text)
    batch = NextToken(tokenizer, text, context=16, batch_size=4, seed=0).at(9)
    assert batch["input_ids"].shape == batch["labels"].shape == (4, 16)
    assert all(
        "".join(tokenizer.batch_decode([x, y[-1:]])) in text
        for x, y in zip(batch["input_ids"], batch["labels"], strict=True)
    )
    assert torch.equal(batch["input_ids"][:, 1:], batch["labels"][:, :-1])
    assert batch["shift_labels"] is batch["labels"]


def test_an_epoch_sees_no_token_twice_and_hardly_misses_one():
    batches = Windows(torch.arange(1001), context=10, batch_size=9, seed=0, length=11)
    epochs = [torch.cat([batches.windows_at(step)[:, :-1] for step in range(11 * e, 11 * e + 11)]) for e in range(3)]
    for windows in epochs:  # 11 steps of 9 windows
        assert windows.shape == (99, 10)
        assert len(windows.unique()) == 990
    first, second = ({int(w[0]) for w in windows} for windows in epochs[:2])
    assert first != second  # cut from another offset


def test_stream_of_exactly_one_window():
    windows = Windows(torch.arange(9), context=8, batch_size=2, seed=0, length=9).windows_at(3)
    assert windows.tolist() == [list(range(9))] * 2


def test_stream_shorter_than_a_window_is_refused():
    with pytest.raises(UserError, match=r"8 tokens.*9 of one window.*--context"):
        Windows(torch.arange(8), context=8, batch_size=2, seed=0, length=9)


def test_the_target_is_the_passage_after_the_source_and_does_not_overlap_it():
    """If the encoder is given the target, the loss falls to almost zero and nothing is learned."""
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 500)))  # no character twice
    task = NextPassage(build_character_tokenizer(text), text, context=16, batch_size=4, seed=0)
    batch = task.at(5)
    assert batch["input_ids"].shape == batch["labels"].shape == (4, 16)
    for source, target in zip(batch["input_ids"], batch["labels"], strict=True):
        assert int(target[0]) == int(source[-1]) + 1
        assert not set(source.tolist()) & set(target.tolist())
    starts = torch.cat([task.at(step)["labels"][:, 0] for step in range(7)])
    assert len(starts.unique()) == 28  # of 29 windows in an epoch


def test_about_a_fifth_is_masked_in_spans_and_their_text_is_the_target():
    windows = torch.arange(64 * 200).view(64, 200) % 50 + 3
    inputs, targets = mask_spans(windows, mask=0, seed=4)
    hidden = inputs == 0
    assert 0.15 < float(hidden.float().mean()) < 0.25
    assert torch.equal(targets[hidden], windows[hidden])
    assert (targets[~hidden] == IGNORED).all()
    assert torch.equal(inputs[~hidden], windows[~hidden])
    starts = int((hidden & ~hidden.roll(1, 1)).sum())
    assert 3 < int(hidden.sum()) / starts < 9  # whole spans, not single tokens
    assert torch.equal(mask_spans(windows, mask=0, seed=4)[0], inputs)
    assert bool((mask_spans(windows[:, :2], mask=0, seed=4)[0] == 0).any(dim=1).all())


def test_an_encoders_inputs_and_targets_together_are_the_text():
    text = string.ascii_letters * 20
    tokenizer = build_character_tokenizer(text, with_mask=True)
    batch = Masked(tokenizer, text, context=32, batch_size=4, seed=0).at(2)
    whole = torch.where(batch["labels"] == IGNORED, batch["input_ids"], batch["labels"])
    assert all(line in text for line in tokenizer.batch_decode(whole))
    assert (batch["input_ids"][batch["labels"] != IGNORED] == tokenizer.mask_token_id).all()


def test_copies_are_random_strings_with_end_token_and_padding():
    text = "the moon upon"
    tokenizer = build_character_tokenizer(text)
    task = Copy(tokenizer, text, context=12, batch_size=50, seed=0)
    batch = task.at(3)
    lengths = batch["attention_mask"].sum(1)
    assert lengths.min() == 2
    assert lengths.max() == 12
    for row in range(50):
        written, rest = batch["input_ids"][row].split([int(lengths[row]), 12 - int(lengths[row])])
        assert written[-1] == tokenizer.eos_token_id
        assert set(tokenizer.decode(written[:-1])) <= set(text)
        assert (rest == tokenizer.pad_token_id).all()
        assert torch.equal(batch["labels"][row, : len(written)], written)
        assert (batch["labels"][row, len(written) :] == IGNORED).all()
    assert torch.equal(task.at(3)["input_ids"], batch["input_ids"])
    assert not torch.equal(task.at(-3)["input_ids"], batch["input_ids"])


def test_recipes_know_the_tasks():
    assert typing.get_args(TYPES["task"]) == tuple(TASKS)
