"""Byte-pair encoding: the tokens are the byte sequences that are most frequent in the training text.

    >>> tokenizer = build_bpe_tokenizer("the cat sat on the mat, the cat sat", vocab_size=262)
    >>> tokenizer.tokenize("the rat sat")
    ['the', 'Ġ', 'r', 'at', 'Ġ', 's', 'at']

It begins with the 256 bytes, so no text is unknown, and merges the most frequent pair of neighbours into a new token
until the vocabulary is full. `Ġ` stands for the byte of a space. `byte_pairs.py` is the same algorithm written out,
and shows every merge. Source: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016,
https://arxiv.org/abs/1508.07909; on bytes: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
"""

import regex
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from .character import BEGIN, END, MASK, PADDING, wrap

# No token crosses the border between two pieces: an English ending after an apostrophe; a Chinese character; a word, a
# number or punctuation, each with a space before it; line ends; other white space, without its last character if a word
# follows. These are GPT-2's rules, but line ends are pieces of their own, so are Chinese characters, and an apostrophe
# may be curly.
HAN = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = (
    rf"['’](?:s|t|re|ve|m|ll|d)(?![\p{{L}}\p{{N}}])|[{HAN}]| ?(?:(?![{HAN}])\p{{L}})+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+"
    r"|\n+|[^\S\n]+(?!\S)|[^\S\n]+"
)
WORDS = regex.compile(WORD)
VOCAB_SIZE = 1024  # default number of tokens
# Turns of a conversation, and room for forms of text that a later stage may need.
CHAT = ["<|system|>", "<|user|>", "<|assistant|>", "<|end_of_turn|>", *(f"<|reserved_{n}|>" for n in range(16))]
BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}  # `Ġ` is 32
PRE_TOKENIZER = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(Regex(WORD), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)


def build_bpe_tokenizer(
    texts: str | list[str], vocab_size: int, with_mask: bool = False, with_chat: bool = False
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on a text, or on several.

    Args:
        vocab_size: the total number of tokens: special ones, 256 bytes and merges. A short text may give fewer.
        with_mask: as in [`build_character_tokenizer`].
        with_chat: add the special tokens `CHAT`, which no text is encoded into, for the stages after pre-training.

    Raises:
        ValueError: an empty text, or a vocabulary too small for the bytes.
    """
    texts = [texts] if isinstance(texts, str) else texts
    if not any(texts):
        raise ValueError("A tokenizer cannot be built from an empty text; give a text to train on.")
    special = [BEGIN, END, PADDING] + ([MASK] if with_mask else []) + (CHAT if with_chat else [])
    if vocab_size < len(special) + 256:
        raise ValueError(
            f"vocab_size ({vocab_size}) leaves no room for {len(special)} special tokens and 256 bytes; "
            f"give at least {len(special) + 256}."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = PRE_TOKENIZER
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return wrap(tokenizer, with_mask, CHAT if with_chat else None)
