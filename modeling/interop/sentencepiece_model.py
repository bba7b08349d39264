"""A character vocabulary as a SentencePiece file, which llama.cpp's converter reads.

It knows a `tokenizer.json` of Qwen3 or Llama by the split into words that those have, and ours splits into characters.
"""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # SentencePiece's kinds of piece
SPACE = "▁"  # how it writes a space


def is_character_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer has one token a character, with bytes for the rest, and nothing longer."""
    vocabulary = tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens)
    return "<0x00>" in vocabulary and all(len(token) == 1 or is_byte(token) for token in vocabulary)


def is_byte(token: str) -> bool:
    """Whether a token stands for a byte, `<0x00>` to `<0xFF>`."""
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def save_sentencepiece_model(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write `tokenizer.model`, with the ids of a character-level `tokenizer`, into the folder of its other files.

    Their config is made to say that nothing is put before a text: the converter would assume a space and a begin token.

    Raises:
        ImportError: the package `protobuf`, in which SentencePiece keeps its files, is not installed.
    """
    from transformers.utils import sentencepiece_model_pb2_new as sentencepiece  # needs protobuf

    model = sentencepiece.ModelProto()
    for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        # SentencePiece must have one unknown piece; as bytes stand for every character, it is never used.
        kind = UNKNOWN if token == tokenizer.pad_token else CONTROL if token in tokenizer.all_special_tokens else NORMAL
        model.pieces.add(piece=token.replace(" ", SPACE), score=0.0, type=BYTE if is_byte(token) else kind)
    model.trainer_spec.model_type = model.trainer_spec.BPE
    model.trainer_spec.vocab_size = len(model.pieces)
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.unk_id = tokenizer.pad_token_id
    model.trainer_spec.bos_id = tokenizer.bos_token_id
    model.trainer_spec.eos_id = tokenizer.eos_token_id
    model.trainer_spec.pad_id = -1
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    config = folder / "tokenizer_config.json"
    settings = {**json.loads(config.read_text()), "add_prefix_space": False, "add_bos_token": False}
    config.write_text(json.dumps(settings, indent=2))
