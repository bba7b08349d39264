"""Building tokenizers."""

from .character import build_character_tokenizer

__all__ = ["build_character_tokenizer"]
