"""From texts to arrays of ids and back to bytes, for whole corpora.

What spells a special token in a corpus is text: a story that says "<|end|>" does not end there.

A text repeats itself: the tokenizer is asked once for each piece of it (a character, or a word), which makes it several
times as fast and gives the same ids.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import chain

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from .bpe import BYTE_OF, HAN, PRE_TOKENIZER
from .character import is_byte

# `bpe.WORD` for Python's own `re`, which is faster. Here numbers may stand with letters: each border is one of WORD's.
SPACE = "\t\v-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # but for the line end
WORDS = re.compile(
    rf"['’](?:s|t|re|ve|m|ll|d)(?![^\W_])|[{HAN}]| ?[^\W_{HAN}]+| ?(?:[^\w\n{SPACE}]|_)+"
    rf"|\n+|[{SPACE}]+(?![^\n{SPACE}])|[{SPACE}]+"
)
SECTION = 100_000  # characters encoded at once: a list of pieces takes many times the memory of their ids


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> np.ndarray:
    """The ids of a text, `(length,)`, in the smallest type that holds them."""
    known = {}
    parts = [encode_batch(tokenizer, [section], known=known) for section in sections(text)]
    return np.concatenate([encode_batch(tokenizer, []), *parts])


def sections(text: str) -> Iterator[str]:
    """A text in parts that are encoded each by itself."""
    begin = 0
    while begin < len(text):
        end = section_end(text, begin)
        yield text[begin:end]
        begin = end


def section_end(text: str, begin: int = 0) -> int:
    """Where the section that starts at `begin` ends: after line ends, or at the end of the text.

    This project's tokenizers have no token that goes on after line ends. Others may have some, and a stream that cuts
    its text at the same places has the same ids all the same.
    """
    end = text.find("\n", begin + SECTION)
    if end < 0:
        return len(text)
    while text[end : end + 1] == "\n":
        end += 1
    return end


def encode_batch(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], end: list[int] = (), known: dict | None = None
) -> np.ndarray:
    """The ids of texts one after the other, `end` after each: `(length,)`, in the smallest type that holds them.

    Args:
        known: the ids, as they are stored, of pieces that were met before; the new ones are added.
    """
    known = {} if known is None else known
    cut = cutter(tokenizer.backend_tokenizer)
    pieces = [list(chain.from_iterable(map(cut, sections(text)))) for text in texts]
    dtype = np.uint16 if len(tokenizer) <= 1 << 16 else np.int32
    new = list(set(chain.from_iterable(pieces)).difference(known))
    stored = (np.array(ids, dtype).tobytes() for ids in encode_pieces(tokenizer, new))
    known.update(zip(new, stored, strict=True))
    # Bytes are joined without a look at each id.
    after = np.array(end, dtype).tobytes()
    ids = (chain(map(known.__getitem__, of_text), [after]) for of_text in pieces)
    return np.frombuffer(bytearray().join(chain.from_iterable(ids)), dtype)


def encode_pieces(tokenizer: PreTrainedTokenizerBase, pieces: list[str]) -> Iterable[list[int]]:
    """The ids of each of some texts."""
    backend = tokenizer.backend_tokenizer  # leaves out what nobody asks for here, which takes most of the time
    # Set only where it is otherwise: a setter fails while another thread encodes.
    if not backend.encode_special_tokens:
        backend.encode_special_tokens = True
    if backend.padding is not None:
        backend.no_padding()
    if backend.truncation is not None:
        backend.no_truncation()
    return (encoding.ids for encoding in backend.encode_batch_fast(pieces, add_special_tokens=False))


@lru_cache(maxsize=32)
def cutter(backend: Tokenizer) -> Callable[[str], list[str]]:
    """How a tokenizer lets texts be cut: into characters or words where it is one of ours, else not at all."""
    parts = json.loads(backend.to_str())
    plain = parts["normalizer"] is None and all(token["special"] for token in parts["added_tokens"])
    if plain and parts["model"]["type"] == "BPE":
        if parts["pre_tokenizer"] is None and not parts["model"]["merges"]:
            return list
        if parts["pre_tokenizer"] == json.loads(PRE_TOKENIZER.__getstate__()):
            return WORDS.findall
    return lambda text: [text]


def token_bytes(tokenizer: PreTrainedTokenizerBase, token: int) -> bytes:
    """The bytes that a token stands for: one or some of a character's, a character, or many."""
    piece = tokenizer.convert_ids_to_tokens(token)
    if type(tokenizer.backend_tokenizer.decoder).__name__ == "ByteLevel":
        return bytes(BYTE_OF[character] for character in piece)
    return bytes([int(piece[3:5], 16)]) if is_byte(piece) else piece.encode()
