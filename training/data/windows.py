"""From a text to batches of token ids, for each of the tasks that a model can be trained on."""

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

IGNORED = -100  # the label that cross entropy leaves out


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> torch.Tensor:
    """The ids of a text as a model takes them, `(length,)`."""
    return torch.from_numpy(encode_text(tokenizer, text)).long()


def encode_with_gaps(tokenizer: PreTrainedTokenizerBase, text: str) -> torch.Tensor:
    """The ids of a text for an encoder: `<|mask|>` in it is a gap, and other special tokens are text."""
    first, *others = text.split(tokenizer.mask_token) if tokenizer.mask_token else [text]
    parts = [encode(tokenizer, first)]
    for part in others:
        parts += [torch.tensor([tokenizer.mask_token_id]), encode(tokenizer, part)]
    return torch.cat(parts)


def stored_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> torch.Tensor:
    """The ids of a text, `(length,)`, kept as [`store`] does it."""
    return store(tokenizer, text, lambda: [encode_text(tokenizer, text)])


def store(tokenizer: PreTrainedTokenizerBase, key: str, encoded: Callable[[], Iterable[np.ndarray]]) -> torch.Tensor:
    """Ids, `(length,)`, as uint16 or int32: made once, kept in the cache, and memory-mapped from there.

    Where the cache cannot be written they are in memory. All processes have to call this together.

    Args:
        key: what the ids are of; another key or tokenizer is stored apart.
        encoded: gives the ids in parts, which are never all in memory.
    """
    name = hashlib.sha256(f"{tokenizer.backend_tokenizer.to_str()}\0{key}".encode()).hexdigest()
    path = cache_folder() / "tokens" / f"{name[:32]}.bin"
    with PartialState().local_main_process_first():  # the others find what it has written
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


class Laid(Protocol):
    """Tokens that every epoch has in another order."""

    def __len__(self) -> int:
        """The tokens of an epoch."""

    def read(self, epoch: int, begin: int, length: int) -> torch.Tensor:
        """The tokens of an epoch from `begin` on, `(length,)`."""


class Windows:
    """Windows of a token stream, a new order every epoch; which windows a step sees is a function of the step alone.

    Each epoch cuts the stream into windows that begin every `context` tokens, from another random offset, and goes
    through them in a random order. As nothing is kept between steps, a run resumes with the same batches at any step,
    and several processes see together what one process would see.

    Args:
        tokens: the stream, `(length,)`, the same in every epoch or laid anew.
        context: tokens from the beginning of one window to that of the next.
        batch_size: windows in a step, over all processes and accumulated parts.
        seed: decides offsets and orders.
        length: tokens in a window; it sees `length - context` of the next one too.

    Raises:
        UserError: the stream is shorter than one window.
    """

    def __init__(self, tokens: torch.Tensor | Laid, context: int, batch_size: int, seed: int, length: int):
        if len(tokens) < length:
            raise UserError(
                f"the training split has {len(tokens)} tokens, fewer than the {length} of one window; "
                f"give a longer text or a smaller --context."
            )
        self.tokens, self.context, self.batch_size, self.seed, self.length = tokens, context, batch_size, seed, length
        # One window fewer than fit, where there is more than one, leaves room for the offset.
        self.windows = max(1, (len(tokens) - length) // context)
        self.epoch, self.starts = None, None

    def epoch_starts(self, epoch: int) -> torch.Tensor:
        """Where the windows of an epoch start, in its order, `(windows,)`."""
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


def stream_of(tokenizer: PreTrainedTokenizerBase, text: str | Laid) -> torch.Tensor | Laid:
    """The tokens of a text, or those that are laid already."""
    return stored_tokens(tokenizer, text) if isinstance(text, str) else text


class NextToken(Windows):
    """A decoder's task: the token after each of a window."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: str | Laid, context: int, batch_size: int, seed: int):
        super().__init__(stream_of(tokenizer, text), context, batch_size, seed, length=context + 1)

    def at(self, step: int) -> dict[str, torch.Tensor]:
        """A step's inputs of the model, `(batch_size, context)` each."""
        windows = self.windows_at(step)
        targets = windows[:, 1:].contiguous()
        return {"input_ids": windows[:, :-1].contiguous(), "labels": targets, "shift_labels": targets}


class NextPassage(Windows):
    """An encoder-decoder's task: the encoder reads a passage, and the decoder writes the one after it.

    The two have no token in common. Where the encoder is given the target, as in a well-known tutorial, the loss falls
    to nothing and nothing is learned.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: str | Laid, context: int, batch_size: int, seed: int):
        super().__init__(stream_of(tokenizer, text), context, batch_size, seed, length=2 * context)

    def at(self, step: int) -> dict[str, torch.Tensor]:
        """A step's inputs of the model, `(batch_size, context)` each."""
        source, target = self.windows_at(step).split(self.context, dim=1)
        return {"input_ids": source.contiguous(), "labels": target.contiguous()}


class Masked(Windows):
    """An encoder's task: what stands in the gaps of a window, from what is on both sides of them.

    The gaps are whole spans, since a single hidden character is told by the word around it. Source: Joshi et al.,
    "SpanBERT", 2019, https://arxiv.org/abs/1907.10529, section 3.1.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: str | Laid, context: int, batch_size: int, seed: int):
        super().__init__(stream_of(tokenizer, text), context, batch_size, seed, length=context)
        self.mask = tokenizer.mask_token_id

    def at(self, step: int) -> dict[str, torch.Tensor]:
        """A step's inputs of the model, `(batch_size, context)` each."""
        inputs, targets = mask_spans(self.windows_at(step), self.mask, self.seed * 1_000_003 + step)
        return {"input_ids": inputs, "labels": targets}


def mask_spans(windows: torch.Tensor, mask: int, seed: int, longest: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Hide about a fifth of each window in spans of 1 to `longest` tokens; returns inputs and targets."""
    generator = torch.Generator().manual_seed(seed)
    begins = torch.rand(windows.shape, generator=generator) < 0.22 * 2 / (longest + 1)
    begins[:, 0] |= ~begins.any(dim=1)  # a window without a gap would have no loss
    lengths = begins * torch.randint(1, longest + 1, windows.shape, generator=generator)
    hidden = lengths > 0
    for further in range(1, longest):
        hidden[:, further:] |= lengths[:, :-further] > further
    return windows.masked_fill(hidden, mask), windows.masked_fill(~hidden, IGNORED)


class Copy:
    """An encoder-decoder's first task: write the source again. Only cross-attention can bring it over.

    Sources are random strings over the characters of the text, of any length up to the context, and end with the end
    token. No string is seen twice, so that nothing can be learned by heart.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: str, context: int, batch_size: int, seed: int):
        self.letters = encode(tokenizer, "".join(sorted(set(text))))
        self.end, self.padding = tokenizer.eos_token_id, tokenizer.pad_token_id
        self.context, self.batch_size, self.seed = context, batch_size, seed

    def at(self, step: int) -> dict[str, torch.Tensor]:
        """A step's inputs of the model, `(batch_size, context)` each; training never sees those of negative steps."""
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
