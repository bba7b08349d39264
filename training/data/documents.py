"""Documents in a new order every epoch, as one stream of tokens that windows are cut from."""

from collections.abc import Iterator

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from tokenizer import encode_batch
from training.data.mixture import Part
from training.data.windows import Windows, store

MOST_KNOWN = 200_000  # words whose ids are kept while a corpus is encoded, about 40 MB


def stored_documents(tokenizer: PreTrainedTokenizerBase, part: Part) -> torch.Tensor:
    """The ids of a corpus' documents, `(length,)`, with an end token after each; kept as [`store`] does it.

    All processes have to call this together.
    """
    key = f"{tokenizer.backend_tokenizer.to_str()}\0{part.sha256}\0{sorted(part.left_out)}"
    return store(tokenizer, key, lambda: encode_documents(tokenizer, part))


def encode_documents(tokenizer: PreTrainedTokenizerBase, part: Part) -> Iterator[np.ndarray]:
    """The ids of each document, and an end token."""
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
    """The documents of the corpora of one phase, laid one after the other.

    An epoch has each document as many times as its corpus' weight says. Of a fraction of the weight it has documents
    drawn at random, the last of them cut where the fraction ends, so that all epochs are equally long. The order is a
    function of the seed and the epoch alone.

    Args:
        corpora: for each corpus the ids that [`stored_documents`] gives, its weight, and whether an end token follows
            each of its documents.
        end: the id of the end token.
    """

    def __init__(self, corpora: list[tuple[torch.Tensor, float, bool]], end: int, seed: int):
        self.seed, self.epoch = seed, None
        self.tokens = [tokens.numpy() for tokens, _, _ in corpora]
        self.weights = [weight for _, weight, _ in corpora]
        # Of each corpus, where its documents begin, and their lengths with the end token if they keep it.
        self.begins, self.sizes = [], []
        for tokens, (_, _, whole) in zip(self.tokens, corpora, strict=True):
            ends = np.flatnonzero(tokens == end) + 1
            self.begins.append(np.concatenate(([0], ends[:-1])))
            self.sizes.append(ends - self.begins[-1] - (not whole))

    def __len__(self) -> int:
        """The tokens of an epoch."""
        return sum(int(weight * sizes.sum()) for weight, sizes in zip(self.weights, self.sizes, strict=True))

    def lay(self, epoch: int) -> None:
        """Put the documents into the order of an epoch."""
        if epoch == self.epoch:
            return
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        corpora, begins, sizes = [], [], []
        for number, (weight, begin, size) in enumerate(zip(self.weights, self.begins, self.sizes, strict=True)):
            read = np.tile(np.arange(len(size)), int(weight))
            rest = int(weight * size.sum()) - int(size[read].sum())
            order = torch.randperm(len(size), generator=generator).numpy()
            upto = np.cumsum(size[order])
            count = int(np.searchsorted(upto, rest)) + 1 if rest else 0
            lengths = np.concatenate((size[read], size[order[:count]]))
            if count:
                lengths[-1] -= upto[count - 1] - rest
            corpora.append(np.full(len(lengths), number))
            begins.append(begin[np.concatenate((read, order[:count]))])
            sizes.append(lengths)
        order = torch.randperm(sum(map(len, sizes)), generator=generator).numpy()
        self.corpus, self.begin, size = (np.concatenate(of)[order] for of in (corpora, begins, sizes))
        self.upto = np.cumsum(size)
        self.begin -= self.upto - size  # what to add to a place in the epoch to have that in the corpus
        self.epoch = epoch

    def read(self, epoch: int, begin: int, length: int) -> torch.Tensor:
        """The ids of an epoch from `begin` on, `(length,)`."""
        self.lay(epoch)
        places = np.arange(begin, begin + length)
        documents = np.searchsorted(self.upto, places, side="right")
        ids = np.empty(length, np.int64)
        for number, tokens in enumerate(self.tokens):
            own = self.corpus[documents] == number
            ids[own] = tokens[(places + self.begin[documents])[own]]
        return torch.from_numpy(ids)


class Phases:
    """Batches of a mixture, and from a step on those of its last phase."""

    def __init__(self, first: Windows, last: Windows, begins: int):
        self.first, self.last, self.begins = first, last, begins
        self.windows = first.windows

    def at(self, step: int) -> dict[str, torch.Tensor]:
        """A step's inputs of the model."""
        return self.first.at(step) if step < self.begins else self.last.at(step - self.begins)
