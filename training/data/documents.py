"""The documents of a mixture, shuffled every epoch and joined into one stream of tokens for windows to be cut from."""

from collections.abc import Iterator

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from tokenizer import encode_batch
from training.data.mixture import Part
from training.data.windows import Windows, store

MOST_KNOWN = 200_000  # words whose ids are cached while a corpus is encoded, about 40 MB


def stored_documents(tokenizer: PreTrainedTokenizerBase, part: Part) -> torch.Tensor:
    """The ids of a corpus's documents, `(length,)`, with an end token after each; cached by [`store`].

    All processes must call this together.
    """
    key = f"{tokenizer.backend_tokenizer.to_str()}\0{part.sha256}\0{sorted(part.left_out)}"
    return store(tokenizer, key, lambda: encode_documents(tokenizer, part))


def encode_documents(tokenizer: PreTrainedTokenizerBase, part: Part) -> Iterator[np.ndarray]:
    """Yield the ids of each document, with an end token."""
    known: dict = {}
    count = len(part.lengths) - len(part.left_out)
    bar = tqdm(
        part.documents(), f"encoding {part.name}", total=count, unit="document", delay=2, leave=False, mininterval=0.5
    )
    for document in bar:
        if len(known) > MOST_KNOWN:
            known.clear()
        yield encode_batch(tokenizer, [document], [tokenizer.eos_token_id], known)


class Documents:
    """The documents of all corpora of one phase, shuffled and joined anew for each epoch.

    An epoch has each document as many times as the weight of its corpus says. For the fractional part of the weight it
    draws documents at random and cuts the last one short, so that all epochs are equally long. The order depends only
    on the seed and the epoch.

    Args:
        corpora: for each corpus, the ids that [`stored_documents`] returns, its weight, and whether an end token
            follows each of its documents.
        end: the id of the end token.
    """

    def __init__(self, corpora: list[tuple[torch.Tensor, float, bool]], end: int, seed: int):
        self.seed, self.epoch = seed, None
        self.tokens = [tokens.numpy() for tokens, _, _ in corpora]
        self.weights = [weight for _, weight, _ in corpora]
        # For each corpus: where its documents begin, and their lengths, with the end token if it is kept.
        self.begins, self.sizes = [], []
        for tokens, (_, _, whole) in zip(self.tokens, corpora, strict=True):
            ends = np.flatnonzero(tokens == end) + 1
            self.begins.append(np.concatenate(([0], ends[:-1])))
            self.sizes.append(ends - self.begins[-1] - (not whole))

    def __len__(self) -> int:
        """How many tokens an epoch has."""
        return sum(int(weight * sizes.sum()) for weight, sizes in zip(self.weights, self.sizes, strict=True))

    def shuffle(self, epoch: int) -> None:
        """Put the documents into the order of an epoch."""
        if epoch == self.epoch:
            return
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        corpora, begins, sizes = [], [], []
        for number, (weight, begin, size) in enumerate(zip(self.weights, self.begins, self.sizes, strict=True)):
            read = np.tile(np.arange(len(size)), int(weight))
            rest = int(weight * size.sum()) - int(size[read].sum())
            order = torch.randperm(len(size), generator=generator).numpy()
            ends = np.cumsum(size[order])
            count = int(np.searchsorted(ends, rest)) + 1 if rest else 0
            lengths = np.concatenate((size[read], size[order[:count]]))
            if count:
                lengths[-1] -= ends[count - 1] - rest
            corpora.append(np.full(len(lengths), number))
            begins.append(begin[np.concatenate((read, order[:count]))])
            sizes.append(lengths)
        order = torch.randperm(sum(map(len, sizes)), generator=generator).numpy()
        self.corpus, self.begin, size = (np.concatenate(of)[order] for of in (corpora, begins, sizes))
        self.ends = np.cumsum(size)
        self.begin -= self.ends - size  # added to a position in the epoch, this gives the position in the corpus
        self.epoch = epoch

    def read(self, epoch: int, begin: int, length: int) -> torch.Tensor:
        """The ids of an epoch from `begin` on, `(length,)`."""
        self.shuffle(epoch)
        places = np.arange(begin, begin + length)
        documents = np.searchsorted(self.ends, places, side="right")
        ids = np.empty(length, np.int64)
        for number, tokens in enumerate(self.tokens):
            own = self.corpus[documents] == number
            ids[own] = tokens[(places + self.begin[documents])[own]]
        return torch.from_numpy(ids)


class Phases:
    """Batches of a mixture; from the step `begins` on, those of its last phase."""

    def __init__(self, first: Windows, last: Windows, begins: int):
        self.first, self.last, self.begins = first, last, begins
        self.windows = first.windows

    def at(self, step: int) -> dict[str, torch.Tensor]:
        """The model's inputs for a step."""
        return self.first.at(step) if step < self.begins else self.last.at(step - self.begins)
