"""Encode whole corpora to arrays of ids, and decode single tokens to bytes.

In a corpus a special token is plain text: a story that contains "<|end|>" does not end there.

Texts repeat themselves, so the tokenizer encodes each distinct piece (a character or a word) only once. That is several
times as fast and gives the same ids.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from .bpe import BYTE_OF, HAN, PRE_TOKENIZER
from .character import is_byte

# Pieces of one or several words of `bpe.WORD`: every border here is a border there, so the ids are the same. Letters
# and digits share a class, which Python's `re` has built in. Encoding is 1.3 to 1.5 times as fast as by that rule.
SPACE = "\t\v-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # without the line end
PIECES = re.compile(
    rf"['’](?:s|t|re|ve|m|ll|d)(?![^\W_])|[{HAN}]| ?[^\W_{HAN}]+| ?(?:[^\w\n{SPACE}]|_)+"
    rf"|\n+|[{SPACE}]+(?![^\n{SPACE}])|[{SPACE}]+"
)
SECTION = 100_000  # characters encoded at once, because a list of pieces takes far more memory than their ids


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> np.ndarray:
    """The ids of a text, `(length,)`, in the smallest type that holds them."""
    known: dict[str, bytes] = {}
    parts = [encode_batch(tokenizer, [section], known=known) for section in sections(text)]
    return np.concatenate([encode_batch(tokenizer, []), *parts])


def sections(text: str) -> Iterator[str]:
    """Split a text into parts that can be encoded separately."""
    begin = 0
    while begin < len(text):
        end = section_end(text, begin)
        yield text[begin:end]
        begin = end


def section_end(text: str, begin: int = 0) -> int:
    """Where the section that starts at `begin` ends: after line ends, or at the end of the text.

    No token of this project's tokenizers goes past line ends. Those of others may, but a stream that cuts its text at
    the same places still gets the same ids.
    """
    end = text.find("\n", begin + SECTION)
    if end < 0:
        return len(text)
    while text[end : end + 1] == "\n":
        end += 1
    return end


def encode_batch(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], end: Sequence[int] = (), known: dict[str, bytes] | None = None
) -> np.ndarray:
    """The ids of several texts in a row, each followed by `end`: `(length,)`, in the smallest type that holds them.

    Args:
        known: the ids of pieces seen before, as bytes; new pieces are added to it.
    """
    known = {} if known is None else known
    cut = cutter(tokenizer.backend_tokenizer)
    pieces = [list(chain.from_iterable(map(cut, sections(text)))) for text in texts]
    dtype = np.uint16 if len(tokenizer) <= 1 << 16 else np.int32
    new = list(set(chain.from_iterable(pieces)).difference(known))
    stored = (np.array(ids, dtype).tobytes() for ids in encode_pieces(tokenizer, new))
    known.update(zip(new, stored, strict=True))
    # Joining bytes is fast, because Python never touches the single ids.
    after = np.array(end, dtype).tobytes()
    ids = (chain(map(known.__getitem__, of_text), [after]) for of_text in pieces)
    return np.frombuffer(bytearray().join(chain.from_iterable(ids)), dtype)


def encode_pieces(tokenizer: PreTrainedTokenizerBase, pieces: list[str]) -> Iterable[list[int]]:
    """The ids of each piece."""
    backend = tokenizer.backend_tokenizer  # skips masks and offsets, which would take most of the time
    # Set only if necessary, because a setter fails while another thread encodes.
    if not backend.encode_special_tokens:
        backend.encode_special_tokens = True
    if backend.padding is not None:
        backend.no_padding()
    if backend.truncation is not None:
        backend.no_truncation()
    return (encoding.ids for encoding in backend.encode_batch_fast(pieces, add_special_tokens=False))


@lru_cache(maxsize=32)
def cutter(backend: Tokenizer) -> Callable[[str], list[str]]:
    """How to split texts for a tokenizer: into characters or words for one of this project's, else not at all."""
    parts = json.loads(backend.to_str())
    plain = parts["normalizer"] is None and all(token["special"] for token in parts["added_tokens"])
    if plain and parts["model"]["type"] == "BPE":
        if parts["pre_tokenizer"] is None and not parts["model"]["merges"]:
            return list
        if parts["pre_tokenizer"] == json.loads(PRE_TOKENIZER.__getstate__()):
            return PIECES.findall
    return lambda text: [text]


def token_bytes(tokenizer: PreTrainedTokenizerBase, token: int) -> bytes:
    """The bytes that a token stands for: some of a character's bytes, a character, or many characters."""
    piece = tokenizer.convert_ids_to_tokens(token)
    if type(tokenizer.backend_tokenizer.decoder).__name__ == "ByteLevel":
        return bytes(BYTE_OF[character] for character in piece)
    return bytes([int(piece[3:5], 16)]) if is_byte(piece) else piece.encode()
