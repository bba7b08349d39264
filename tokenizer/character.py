"""The character tokenizer: one token a character of the training text, and bytes for every other character.

    >>> tokenizer = build_character_tokenizer("To be, or not to be")
    >>> tokenizer.tokenize("to 诗")
    ['t', 'o', ' ', '<0xE8>', '<0xAF>', '<0x97>']

It is a Hugging Face fast tokenizer and is saved as `tokenizer.json`.
"""

from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

BEGIN, END, PADDING, MASK = "<|begin|>", "<|end|>", "<|padding|>", "<|mask|>"


def build_character_tokenizer(text: str, with_mask: bool = False) -> PreTrainedTokenizerFast:
    """Make a tokenizer whose vocabulary is the special tokens, the 256 bytes and the characters of `text`.

    It is a byte-pair encoding without a single merge: that leaves characters, and its byte fallback (the one that
    Llama's tokenizer has) leaves nothing unknown, so that every string comes back from its ids unchanged. The special
    tokens are never added by themselves, since training texts are continuous.

    Args:
        with_mask: have a token, `<|mask|>`, the last, that stands for a hidden one, as an encoder needs.

    Raises:
        ValueError: an empty text, which has no vocabulary.
    """
    if not text:
        raise ValueError("A tokenizer cannot be built from an empty text; give it the text to train on.")
    tokens = [BEGIN, END, PADDING] + [f"<0x{byte:02X}>" for byte in range(256)] + sorted(set(text))
    tokens += [MASK] if with_mask else []
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PADDING,
        mask_token=MASK if with_mask else None,
        padding_side="left",  # generation continues at the right end
        clean_up_tokenization_spaces=False,  # "a ." and "a." are different texts
        # A text that says "<|end|>" is text, and ends nothing; but where there is a mask, texts are to say it.
        split_special_tokens=not with_mask,
    )
