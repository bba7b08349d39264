"""The character tokenizer: one token for each character of the training text, and bytes for every other character.

    >>> tokenizer = build_character_tokenizer("To be, or not to be")
    >>> tokenizer.tokenize("to 诗")
    ['t', 'o', ' ', '<0xE8>', '<0xAF>', '<0x97>']

It is a fast tokenizer of transformers, saved as `tokenizer.json`.
"""

from collections import Counter

from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

BEGIN, END, PADDING, MASK = "<|begin|>", "<|end|>", "<|padding|>", "<|mask|>"


def build_character_tokenizer(
    text: str, vocab_size: int | None = None, with_mask: bool = False
) -> PreTrainedTokenizerFast:
    """Make a tokenizer whose vocabulary is the special tokens, the 256 bytes and the characters of `text`.

    It is a byte-pair encoding without merges, which leaves single characters. Its byte fallback, as in Llama's
    tokenizer, covers all others, so every string can be decoded from its ids unchanged. Special tokens are never added
    automatically, because training texts are continuous.

    Args:
        vocab_size: the total number of tokens. The most frequent characters get one and the rest is written in bytes,
            because a Chinese text uses thousands of characters only once or twice. By default every character has one.
        with_mask: add a last token, `<|mask|>`, that stands for a hidden one, as an encoder needs.

    Raises:
        ValueError: an empty text, which has no vocabulary, or a vocabulary too small for the bytes.
    """
    if not text:
        raise ValueError("A tokenizer cannot be built from an empty text; give a text to train on.")
    tokens = [BEGIN, END, PADDING] + [f"<0x{byte:02X}>" for byte in range(256)]
    masks = [MASK] if with_mask else []
    room = None if vocab_size is None else vocab_size - len(tokens) - len(masks)
    if room is not None and room < 0:
        raise ValueError(
            f"vocab_size ({vocab_size}) leaves no room for the special tokens and 256 bytes; "
            f"give at least {vocab_size - room}."
        )
    frequent = sorted(Counter(text).items(), key=lambda item: (-item[1], item[0]))[:room]
    tokens += sorted(character for character, _ in frequent) + masks
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return wrap(tokenizer, with_mask)


def is_byte(token: str) -> bool:
    """Whether a token stands for a byte, `<0x00>` to `<0xFF>`."""
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def wrap(tokenizer: Tokenizer, with_mask: bool, others: list[str] | None = None) -> PreTrainedTokenizerFast:
    """Wrap a tokenizer of the tokenizers library for transformers, with further special tokens if any are given."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PADDING,
        mask_token=MASK if with_mask else None,
        **({"extra_special_tokens": others} if others else {}),
        padding_side="left",  # a text is continued at its right end
        clean_up_tokenization_spaces=False,  # "a ." and "a." are different texts
    )
