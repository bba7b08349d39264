"""From a text to batches of token ids."""

import torch
from transformers import PreTrainedTokenizerBase

from training.command import UserError


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> torch.Tensor:
    """The ids of a text, `(length,)`. Line by line, which gives the same ids and keeps the tokenizer fast."""
    lines = text.splitlines(keepends=True)
    encoded = tokenizer(lines, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return torch.tensor([token for line in encoded for token in line], dtype=torch.long)


class Batches:
    """Windows of a token stream, a new order every epoch; which windows a step sees is a function of the step alone.

    Each epoch cuts the stream into windows of `context` tokens from another random offset, and goes through them in a
    random order. As nothing is kept between steps, a run resumes with the same batches at any step, and several
    processes see together what one process would see.

    Args:
        tokens: the stream, `(length,)`.
        context: tokens in a window; each window has one more, the last target.
        batch_size: windows in a step, over all processes and accumulated parts.
        seed: decides offsets and orders.

    Raises:
        UserError: the stream is shorter than one window.
    """

    def __init__(self, tokens: torch.Tensor, context: int, batch_size: int, seed: int):
        if len(tokens) < context + 1:
            raise UserError(
                f"the training split has {len(tokens)} tokens, fewer than the {context + 1} of one window; "
                f"give a longer text or a smaller --context."
            )
        self.tokens, self.context, self.batch_size, self.seed = tokens, context, batch_size, seed
        # One window fewer than fit, where there is more than one, leaves room for the offset.
        self.windows = max(1, (len(tokens) - 1) // context - 1)
        self.epoch, self.starts = None, None

    def epoch_starts(self, epoch: int) -> torch.Tensor:
        """Where the windows of an epoch start, in its order, `(windows,)`."""
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            room = len(self.tokens) - 1 - self.windows * self.context
            offset = int(torch.randint(room + 1, (), generator=generator))
            order = torch.randperm(self.windows, generator=generator)
            self.epoch, self.starts = epoch, offset + order * self.context
        return self.starts

    def at(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of a step (counted from 0), `(batch_size, context)` each."""
        rows = []
        for index in range(step * self.batch_size, (step + 1) * self.batch_size):
            start = int(self.epoch_starts(index // self.windows)[index % self.windows])
            rows.append(self.tokens[start : start + self.context + 1])
        window = torch.stack(rows)  # (batch_size, context + 1)
        return window[:, :-1].contiguous(), window[:, 1:].contiguous()
