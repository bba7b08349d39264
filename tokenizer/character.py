"""The character tokenizer: one token a character of the training text, and bytes for every other character.

    >>> tokenizer = build_character_tokenizer("To be, or not to be")
    >>> tokenizer.tokenize("to 诗")
    ['t', 'o', ' ', '<0xE8>', '<0xAF>', '<0x97>']

It is a Hugging Face fast tokenizer and is saved as `tokenizer.json`.
"""

from collections import Counter

from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

BEGIN, END, PADDING, MASK = "<|begin|>", "<|end|>", "<|padding|>", "<|mask|>"


def build_character_tokenizer(
    text: str, vocab_size: int | None = None, with_mask: bool = False
) -> PreTrainedTokenizerFast:
    """Make a tokenizer whose vocabulary is the special tokens, the 256 bytes and the characters of `text`.

    It is a byte-pair encoding without a single merge: that leaves characters, and its byte fallback (the one that
    Llama's tokenizer has) leaves nothing unknown, so that every string comes back from its ids unchanged. The special
    tokens are never added by themselves, since training texts are continuous.

    Args:
        vocab_size: tokens in all, of which the characters are the commonest; the rest is written in bytes. Chinese has
            thousands of characters that a text uses once or twice. By default every character has a token.
        with_mask: have a token, `<|mask|>`, the last, that stands for a hidden one, as an encoder needs.

    Raises:
        ValueError: an empty text, which has no vocabulary, or a vocabulary too small for the bytes.
    """
    if not text:
        raise ValueError("A tokenizer cannot be built from an empty text; give it the text to train on.")
    tokens = [BEGIN, END, PADDING] + [f"<0x{byte:02X}>" for byte in range(256)]
    masks = [MASK] if with_mask else []
    room = None if vocab_size is None else vocab_size - len(tokens) - len(masks)
    if room is not None and room < 0:
        raise ValueError(
            f"vocab_size ({vocab_size}) leaves no room for the special tokens and 256 bytes; "
            f"give at least {vocab_size - room}."
        )
    commonest = sorted(Counter(text).items(), key=lambda item: (-item[1], item[0]))[:room]
    tokens += sorted(character for character, _ in commonest) + masks
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return wrap(tokenizer, with_mask)


def is_byte(token: str) -> bool:
    """Whether a token stands for a byte, `<0x00>` to `<0xFF>`."""
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def wrap(tokenizer: Tokenizer, with_mask: bool, others: list[str] | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer as transformers uses it, with other special tokens if there are any."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PADDING,
        mask_token=MASK if with_mask else None,
        **({"extra_special_tokens": others} if others else {}),
        padding_side="left",  # generation continues at the right end
        clean_up_tokenization_spaces=False,  # "a ." and "a." are different texts
    )
