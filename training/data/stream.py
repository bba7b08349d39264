"""Texts larger than memory: shards that are read, tokenised and cut into windows while training runs.

A recipe with `stream: true` names a folder or a glob of shards as its corpus. The shards are dealt out to *lanes*, and
row `r` of a batch comes from lane `r % lanes`, whichever process reads it. So 1, 2 or 4 processes together see the same
batches, each reads only the lanes of its own rows, and a run can resume with another number of processes. Memory holds
one batch of documents per lane, or a section of a `.txt`, however long the stream is.

A row of a `.jsonl` or `.parquet` shard is a document, and so is a whole `.txt` shard; an end token follows each. A
document gets the same ids as from `encode_text`. `.jsonl` can be compressed, as `.jsonl.gz` or `.jsonl.zst`. The shards
are read in the order of their names, over and over: shuffle documents before you write them to shards.
"""

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from fsspec import available_compressions
from transformers import PreTrainedTokenizerBase

from tokenizer import encode_batch, section_end
from training.command import UserError, in_one_line

READERS = {".txt": "text", ".jsonl": "json", ".jsonl.gz": "json", ".jsonl.zst": "json", ".parquet": "parquet"}
ROWS = 256  # documents, or lines of a text, tokenised at once
MOST_LANES = 8
VOCABULARY_CHARACTERS = 4_000_000


class StreamedCorpus:
    """Shards, and two texts from their beginning: the validation split, and the text to train the tokenizer on.

    `validation` is never trained on; `train` is only the beginning of the training text.

    Raises:
        UserError: there are no shards, they are of several kinds, cannot be read, or hold too little text.
    """

    def __init__(self, path: str, column: str, validation_characters: int):
        self.paths, self.column = find_shards(path), column
        self.name = self.paths[0].parent.name or Path(path).stem
        self.kind = kind_of(self.paths[0])
        self.held_out: dict[int, int] = {}  # shard -> how many of its first rows are held out
        validation = self.first_rows(validation_characters)
        if sum(len(text) for _, text in validation) < validation_characters:
            raise UserError(
                f"the shards of '{path}' have fewer than the {validation_characters:,} characters that are held out "
                "for validation; give more text or a smaller --stream_validation."
            )
        for shard, _ in validation:
            self.held_out[shard] = self.held_out.get(shard, 0) + 1
        between = "" if self.kind == ".txt" else "\n\n"
        self.validation = between.join(text for _, text in validation)
        self.train = between.join(text for _, text in self.first_rows(VOCABULARY_CHARACTERS))
        if not self.train:
            raise UserError(
                f"the shards of '{path}' have no text left after the validation split; give more text or a smaller "
                "--stream_validation."
            )

    @property
    def size(self) -> str:
        return f"a stream of {len(self.paths)} shards, {sum(path.stat().st_size for path in self.paths):,} bytes"

    @property
    def sha256(self) -> str:
        """A hash of the shards' names and sizes, since the text itself is too long to read for it."""
        return hashlib.sha256(repr([(path.name, path.stat().st_size) for path in self.paths]).encode()).hexdigest()

    def scored(self, characters: int | None) -> dict[str, str]:
        """The text to score, by name: the validation split, or its first `characters`."""
        return {self.name: self.validation[:characters]}

    def figures(self) -> dict:
        """The fields that a run's record stores."""
        return {
            "name": self.name,
            "source": "a stream of the trainer's own",
            "sha256": self.sha256,
            "shards": len(self.paths),
            "bytes": sum(path.stat().st_size for path in self.paths),
            "validation_characters": len(self.validation),
        }

    def first_rows(self, characters: int) -> list[tuple[int, str]]:
        """The first rows that are not held out, each with its shard, until they add up to `characters`."""
        rows, found = [], 0
        for shard in range(len(self.paths)):
            for text in itertools.chain.from_iterable(self.read(shard, self.open(shard), new=True)):
                if found >= characters:
                    return rows
                rows.append((shard, text))
                found += len(text)
        return rows

    def open(self, shard: int):
        """The rows of a shard as a `datasets.IterableDataset`, whose position can be saved and restored."""
        import datasets  # the import takes a second, and a refused recipe should not wait for it

        reader, path = READERS[self.kind], str(self.paths[shard])
        options = {
            "text": {"keep_linebreaks": True, "chunksize": 1 << 20},
            "json": {"chunksize": 1 << 20},
            "parquet": {"columns": [self.column], "batch_size": ROWS},
        }
        try:
            rows = datasets.load_dataset(reader, data_files=path, split="train", streaming=True, **options[reader])
        except Exception as error:  # each reader raises its own for a damaged file
            raise self.unreadable(shard, error) from error
        return rows.with_format("arrow")

    def read(self, shard: int, rows, new: bool) -> Iterator[list[str]]:
        """Yield batches of the texts of an opened shard. If it is `new`, its held-out rows are skipped.

        Raises:
            UserError: the shard cannot be read, or has no such column of text.
        """
        column = "text" if self.kind == ".txt" else self.column
        held_out = self.held_out.get(shard, 0) if new else 0
        batches = rows.iter(batch_size=ROWS)
        while True:
            try:
                texts = [text or "" for text in next(batches)[column].to_pylist()]
                "".join(texts)  # raises if one is not a string
            except StopIteration:
                return
            except Exception as error:
                raise self.unreadable(shard, error) from error
            held_out, texts = max(0, held_out - len(texts)), texts[held_out:]
            if texts:
                yield texts

    def unreadable(self, shard: int, error: Exception) -> UserError:
        column = "" if self.kind == ".txt" else f" with a column '{self.column}' of text"
        return UserError(
            f"shard {self.paths[shard]} cannot be read as {READERS[self.kind]}{column} ({in_one_line(error)[:200]}); "
            f"repair or remove it{', or name the column with --text_column' if column else ''}."
        )


def kind_of(shard: Path) -> str | None:
    """The file ending that selects a shard's reader, such as `.jsonl.gz`, or `None` for an unknown one."""
    return next((kind for kind in READERS if shard.name.endswith(kind)), None)


def find_shards(path: str) -> list[Path]:
    """The shards in a folder or of a glob, sorted by name, without hidden files.

    Raises:
        UserError: there are none, they are of several kinds, or one is of an unknown kind.
    """
    folder = Path(path)
    found = folder.iterdir() if folder.is_dir() else Path(folder.anchor).glob(str(folder.relative_to(folder.anchor)))
    shards = sorted(shard for shard in found if shard.is_file() and not shard.name.startswith("."))
    if unknown := [shard for shard in shards if kind_of(shard) is None]:
        raise UserError(
            f"{unknown[0]} is not a shard that can be read ({', '.join(READERS)}); convert or remove it, or select "
            f"the shards with a glob, such as '{unknown[0].parent}/*.jsonl'."
        )
    if not shards:
        raise UserError(
            f"no shards were found at '{path}'; with stream: true, corpus is a folder or a glob of "
            f"{', '.join(READERS)} files, such as 'texts/*.jsonl'."
        )
    kinds = {kind_of(shard) for shard in shards}
    if ".jsonl.zst" in kinds and "zstd" not in available_compressions():
        raise UserError(f"{shards[0]} is compressed; to read .zst shards: pip install zstandard.")
    if len(kinds) > 1:
        raise UserError(
            f"'{path}' has shards of several kinds ({', '.join(sorted(kinds))}); select one with a glob, such as "
            "'*.jsonl'."
        )
    return shards


def count_lanes(requested: int | None, shards: int, batch_size: int, processes: int) -> int:
    """The number of lanes: as requested, or as many as fit, up to 8.

    Raises:
        UserError: the numbers of lanes, shards, rows in a batch and processes do not fit together.
    """
    fitting = [n for n in range(1, min(MOST_LANES, shards) + 1) if batch_size % n == 0]
    lanes = requested or fitting[-1]
    if lanes > shards:
        raise UserError(f"{lanes} stream_lanes need as many shards, but there are {shards}; give fewer lanes.")
    if batch_size % lanes:
        raise UserError(f"batch_size ({batch_size}) must be a multiple of stream_lanes ({lanes}); change one of them.")
    if lanes % processes:
        raise UserError(
            f"{lanes} lanes of the stream cannot be divided among {processes} processes; make --stream_lanes a "
            f"multiple of {processes} (there are {shards} shards, and batch_size is {batch_size})."
        )
    return lanes


class Lane:
    """Some of the shards, read as one endless sequence of windows."""

    def __init__(self, corpus: StreamedCorpus, shards: list[int], tokenizer: PreTrainedTokenizerBase):
        self.corpus, self.shards, self.tokenizer = corpus, shards, tokenizer
        self.end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self.turn, self.rows, self.position = 0, None, None
        self.text = ""  # text of a .txt shard that is read but not encoded yet
        self.left = encode_batch(tokenizer, [])  # tokens that no window has had yet
        self.tokens = self.read()

    def take(self, length: int) -> np.ndarray:
        """The next window, `(length,)`. Its last token is also the first of the next one."""
        while len(self.left) < length:
            self.left = np.concatenate((self.left, next(self.tokens)))
        window, self.left = self.left[:length], self.left[length - 1 :]
        return window

    def read(self) -> Iterator[np.ndarray]:
        """Yield tokens from the current position on, a batch of documents at a time, without end."""
        lines = self.corpus.kind == ".txt"
        found = True
        while True:
            shard = self.shards[self.turn % len(self.shards)]
            self.rows = self.corpus.open(shard)
            if self.position is not None:
                self.rows.load_state_dict(self.position)
            for texts in self.corpus.read(shard, self.rows, new=self.position is None):
                found = True
                if not lines:
                    yield encode_batch(self.tokenizer, texts, self.end)
                    continue
                self.text += "".join(texts)
                while (end := section_end(self.text)) < len(self.text):  # the last section may not be complete
                    section, self.text = self.text[:end], self.text[end:]
                    yield encode_batch(self.tokenizer, [section])
            rest, self.text = self.text, ""
            self.turn, self.rows, self.position = self.turn + 1, None, None
            if lines:
                yield encode_batch(self.tokenizer, [rest], self.end)
            if self.turn % len(self.shards) == 0:
                if not found:
                    names = ", ".join(str(self.corpus.paths[shard]) for shard in self.shards)
                    raise UserError(f"there is nothing to train on in {names}; use fewer --stream_lanes or more text.")
                found = False

    def state_dict(self) -> dict:
        position = self.position if self.rows is None else self.rows.state_dict()
        return {"turn": self.turn, "position": position, "text": self.text, "left": self.left}

    def load_state_dict(self, state: dict) -> None:
        self.turn, self.position, self.text, self.left = (state[n] for n in ("turn", "position", "text", "left"))
        self.rows, self.tokens = None, self.read()


class Stream:
    """The batches of a streamed corpus, in order. Its position is part of a checkpoint.

    Args:
        context: tokens that the model sees at once.
        batch_size: windows in a step, over all processes and micro-batches.
        lanes: how many sequences of shards are read side by side; by default as many as fit.
        process, processes: the number of this process, and how many there are.

    Raises:
        UserError: as [`count_lanes`].
    """

    def __init__(
        self,
        corpus: StreamedCorpus,
        tokenizer: PreTrainedTokenizerBase,
        context: int,
        batch_size: int,
        lanes: int | None = None,
        process: int = 0,
        processes: int = 1,
    ):
        self.context, self.batch_size, self.step = context, batch_size, 0
        shards = range(len(corpus.paths))
        self.count = count_lanes(lanes, len(shards), batch_size, processes)
        own = range(process, self.count, processes)
        self.lanes = {lane: Lane(corpus, list(shards[lane :: self.count]), tokenizer) for lane in own}

    def at(self, step: int) -> dict[str, torch.Tensor]:
        """The model's inputs for a step, `(batch_size, context)` each. Rows that other processes read are zeros.

        Steps must come in order: to go to another one, load the state of its checkpoint.
        """
        assert step == self.step, f"the stream is at step {self.step}, not at {step}"
        windows = np.zeros((self.batch_size, self.context + 1), dtype=np.int64)
        for row in range(self.batch_size):
            if lane := self.lanes.get(row % self.count):
                windows[row] = lane.take(self.context + 1)
        self.step += 1
        windows = torch.from_numpy(windows)
        targets = windows[:, 1:].contiguous()
        return {"input_ids": windows[:, :-1].contiguous(), "labels": targets, "shift_labels": targets}

    def state_dict(self) -> dict:
        """The step and the state of all lanes, including other processes': all must call this together."""
        states = gather_object([{lane: reader.state_dict() for lane, reader in self.lanes.items()}])
        return {"step": self.step, "lanes": {lane: state for part in states for lane, state in part.items()}}

    def load_state_dict(self, state: dict) -> None:
        self.step = state["step"]
        for lane, reader in self.lanes.items():
            reader.load_state_dict(state["lanes"][lane])
