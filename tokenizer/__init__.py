"""Build tokenizers and encode texts with them."""

from .bpe import build_bpe_tokenizer
from .character import build_character_tokenizer
from .encode import encode_batch, encode_text, section_end, token_bytes

__all__ = [
    "build_bpe_tokenizer",
    "build_character_tokenizer",
    "encode_batch",
    "encode_text",
    "section_end",
    "token_bytes",
]
