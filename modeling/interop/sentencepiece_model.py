"""Write a character vocabulary as a SentencePiece file, which llama.cpp's converter reads.

The converter recognises a `tokenizer.json` of Qwen3 or Llama by how it splits text into words, and ours splits it into
characters.
"""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # SentencePiece's kinds of piece
SPACE = "▁"  # how SentencePiece writes a space
BYTE_TOKENS = {f"<0x{byte:02X}>" for byte in range(256)}


def is_character_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer has a token for each byte, and all others are single characters."""
    vocabulary = tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens)
    return vocabulary >= BYTE_TOKENS and all(len(token) == 1 for token in vocabulary - BYTE_TOKENS)


def save_sentencepiece_model(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write `tokenizer.model`, with the ids of a character-level `tokenizer`, into the folder of its other files.

    It also sets in their config that nothing is put before a text. The converter would otherwise assume a space and a
    begin token.

    Raises:
        ImportError: the package `protobuf`, which reads and writes SentencePiece's format, is not installed.
    """
    from transformers.utils import sentencepiece_model_pb2_new as sentencepiece  # needs protobuf

    model = sentencepiece.ModelProto()
    for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        # SentencePiece requires an unknown piece. It is never used, because bytes cover every character.
        kind = UNKNOWN if token == tokenizer.pad_token else CONTROL if token in tokenizer.all_special_tokens else NORMAL
        model.pieces.add(piece=token.replace(" ", SPACE), score=0.0, type=BYTE if token in BYTE_TOKENS else kind)
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
