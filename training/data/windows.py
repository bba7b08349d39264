"""From a text to batches of token ids, for each training task."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from accelerate import PartialState
from transformers import PreTrainedTokenizerBase

from tokenizer import encode_text
from training.command import UserError
from training.data.corpora import cache_folder
from training.files import whole_file

IGNORED = -100  # the label that cross entropy ignores


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> torch.Tensor:
    """The ids of a text as a model's input, `(length,)`."""
    return torch.from_numpy(encode_text(tokenizer, text)).long()


def encode_with_gaps(tokenizer: PreTrainedTokenizerBase, text: str) -> torch.Tensor:
    """The ids of a text for an encoder: `<|mask|>` becomes the mask token, other special tokens are plain text."""
    first, *others = text.split(tokenizer.mask_token) if tokenizer.mask_token else [text]
    parts = [encode(tokenizer, first)]
    for part in others:
        parts += [torch.tensor([tokenizer.mask_token_id]), encode(tokenizer, part)]
    return torch.cat(parts)


def stored_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> torch.Tensor:
    """The ids of a text, `(length,)`, cached by [`store`]."""
    return store(tokenizer, text, lambda: [encode_text(tokenizer, text)])


def store(tokenizer: PreTrainedTokenizerBase, key: str, encoded: Callable[[], Iterable[np.ndarray]]) -> torch.Tensor:
    """Ids, `(length,)`, as uint16 or int32: encoded once, cached in a file, and memory-mapped from it.

    If the cache cannot be written, they stay in memory. All processes must call this together.

    Args:
        key: identifies what is encoded; each key and tokenizer has its own file.
        encoded: returns the ids in parts, which are never all in memory.
    """
    name = hashlib.sha256(f"{tokenizer.backend_tokenizer.to_str()}\0{key}".encode()).hexdigest()
    path = cache_folder() / "tokens" / f"{name[:32]}.bin"
    with PartialState().local_main_process_first():  # the others read the file that it writes
        if not path.exists():
            try:
                write_tokens(path, encoded())
            except OSError:
                return torch.from_numpy(np.concatenate(list(encoded())))
    dtype = torch.uint16 if len(tokenizer) <= 1 << 16 else torch.int32
    return torch.from_file(str(path), size=path.stat().st_size // dtype.itemsize, dtype=dtype)


def write_tokens(path: Path, parts: Iterable[np.ndarray]) -> None:
    """Write a file of tokens whole or not at all."""
    with whole_file(path) as unfinished, unfinished.open("wb") as file:
        for part in parts:
            file.write(part.tobytes())


class EpochTokens(Protocol):
    """Tokens whose order changes every epoch."""

    def __len__(self) -> int:
        """How many tokens an epoch has."""

    def read(self, epoch: int, begin: int, length: int) -> torch.Tensor:
        """The tokens of an epoch from `begin` on, `(length,)`."""


class Windows:
    """Windows of a token stream, in a new order every epoch. The windows of a step depend only on the step.

    Each epoch cuts the stream into windows that begin every `context` tokens, from another random offset, and goes
    through them in a random order. No state is kept between steps, so a run resumes with the same batches at any step,
    and several processes together see what one process would see.

    Args:
        tokens: the stream, `(length,)`, the same in every epoch or with an order for each.
        context: tokens from the beginning of one window to the beginning of the next.
        batch_size: windows in a step, over all processes and micro-batches.
        seed: decides offsets and orders.
        length: tokens in a window; it overlaps the next one by `length - context`.

    Raises:
        UserError: the stream is shorter than one window.
    """

    def __init__(self, tokens: torch.Tensor | EpochTokens, context: int, batch_size: int, seed: int, length: int):
        if len(tokens) < length:
            raise UserError(
                f"the training split has {len(tokens)} tokens, fewer than the {length} of one window; "
                f"give a longer text or a smaller --context."
            )
        self.tokens, self.context, self.batch_size, self.seed, self.length = tokens, context, batch_size, seed, length
        # If several windows fit, one fewer leaves room for the offset.
        self.windows = max(1, (len(tokens) - length) // context)
        self.epoch, self.starts = None, None

    def epoch_starts(self, epoch: int) -> torch.Tensor:
        """Where the windows of an epoch start, in the order in which they are read, `(windows,)`."""
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            room = len(self.tokens) - self.length - (self.windows - 1) * self.context
            offset = int(torch.randint(room + 1, (), generator=generator))
            order = torch.randperm(self.windows, generator=generator)
            self.epoch, self.starts = epoch, offset + order * self.context
        return self.starts

    def windows_at(self, step: int) -> torch.Tensor:
        """The windows of a step (counted from 0), `(batch_size, length)`."""
        rows = []
        for index in range(step * self.batch_size, (step + 1) * self.batch_size):
            epoch, place = divmod(index, self.windows)
            start = int(self.epoch_starts(epoch)[place])
            if isinstance(self.tokens, torch.Tensor):
                rows.append(self.tokens[start : start + self.length])
            else:
                rows.append(self.tokens.read(epoch, start, self.length))
        return torch.stack(rows).long()


Text = str | EpochTokens  # a text, or tokens that are encoded already


def tokens_of(tokenizer: PreTrainedTokenizerBase, text: Text) -> torch.Tensor | EpochTokens:
    """The tokens of a text, encoded now unless they are already."""
    return stored_tokens(tokenizer, text) if isinstance(text, str) else text


class NextToken(Windows):
    """A decoder's task: predict the token after each token of a window."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: Text, context: int, batch_size: int, seed: int):
        super().__init__(tokens_of(tokenizer, text), context, batch_size, seed, length=context + 1)

    def at(self, step: int) -> dict[str, torch.Tensor]:
        """The model's inputs for a step, `(batch_size, context)` each."""
        windows = self.windows_at(step)
        targets = windows[:, 1:].contiguous()
        return {"input_ids": windows[:, :-1].contiguous(), "labels": targets, "shift_labels": targets}


class NextPassage(Windows):
    """An encoder-decoder's task: the encoder reads a passage, and the decoder writes the one after it.

    The two passages never overlap. If the encoder is given the target, as in a well-known tutorial, the loss falls to
    almost zero and nothing is learned.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: Text, context: int, batch_size: int, seed: int):
        super().__init__(tokens_of(tokenizer, text), context, batch_size, seed, length=2 * context)

    def at(self, step: int) -> dict[str, torch.Tensor]:
        """The model's inputs for a step, `(batch_size, context)` each."""
        source, target = self.windows_at(step).split(self.context, dim=1)
        return {"input_ids": source.contiguous(), "labels": target.contiguous()}


class Masked(Windows):
    """An encoder's task: predict the masked tokens of a window from the tokens on both sides.

    Whole spans are masked, since the rest of a word gives a single masked character away. Source: Joshi et al.,
    "SpanBERT", 2019, https://arxiv.org/abs/1907.10529, section 3.1.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: Text, context: int, batch_size: int, seed: int):
        super().__init__(tokens_of(tokenizer, text), context, batch_size, seed, length=context)
        self.mask = tokenizer.mask_token_id

    def at(self, step: int) -> dict[str, torch.Tensor]:
        """The model's inputs for a step, `(batch_size, context)` each."""
        inputs, targets = mask_spans(self.windows_at(step), self.mask, self.seed * 1_000_003 + step)
        return {"input_ids": inputs, "labels": targets}


def mask_spans(windows: torch.Tensor, mask: int, seed: int, longest: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask about a fifth of each window in spans of 1 to `longest` tokens.

    Returns:
        The inputs, and the targets at masked positions with `IGNORED` elsewhere; both of the shape of `windows`.
    """
    generator = torch.Generator().manual_seed(seed)
    begins = torch.rand(windows.shape, generator=generator) < 0.22 * 2 / (longest + 1)
    begins[:, 0] |= ~begins.any(dim=1)  # a window without a masked token would have no loss
    lengths = begins * torch.randint(1, longest + 1, windows.shape, generator=generator)
    hidden = lengths > 0
    for further in range(1, longest):
        hidden[:, further:] |= lengths[:, :-further] > further
    return windows.masked_fill(hidden, mask), windows.masked_fill(~hidden, IGNORED)


class Copy:
    """A first task for an encoder-decoder: copy the source. The decoder sees it only through cross-attention.

    Sources are random strings of the text's characters, of any length up to the context, followed by the end token.
    No string is seen twice, so the model cannot memorise them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: str, context: int, batch_size: int, seed: int):
        self.letters = encode(tokenizer, "".join(sorted(set(text))))
        self.end, self.padding = tokenizer.eos_token_id, tokenizer.pad_token_id
        self.context, self.batch_size, self.seed = context, batch_size, seed

    def at(self, step: int) -> dict[str, torch.Tensor]:
        """The model's inputs for a step, `(batch_size, context)` each. Training never sees those of negative steps."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        shape = (self.batch_size, self.context)
        source = self.letters[torch.randint(len(self.letters), shape, generator=generator)]
        lengths = torch.randint(1, self.context, (self.batch_size, 1), generator=generator)
        place = torch.arange(self.context)
        source[place == lengths] = self.end
        source[place > lengths] = self.padding
        inside = (place <= lengths).long()
        return {"input_ids": source, "attention_mask": inside, "labels": source.masked_fill(inside == 0, IGNORED)}


TASKS = {"next_token": NextToken, "masked": Masked, "next_passage": NextPassage, "copy": Copy}
