"""Show how a tokenizer splits a text.

python -m tokenizer.show "The Emerald City"                          # with the tokenizer of the English model
python -m tokenizer.show "春眠不觉晓" --tokenizer runs/mine/best       # with that of a checkpoint or Hub id
python -m tokenizer.show "the moon" --learn my.txt --vocab_size 400  # with one learned from a text, merge by merge
"""

import argparse
import sys
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from .bpe import VOCAB_SIZE, WORDS
from .byte_pairs import BytePairs
from .encode import encode_text, token_bytes

ENGLISH = Path(__file__).parent.parent / "space" / "checkpoints" / "english"


def show_pieces(pieces: list[tuple[int, bytes]], text: str) -> str:
    """A line for each token: its id, its bytes in hexadecimal, and their text if they form whole characters."""
    lines = [f"{'id':>6}  {'bytes':<24}  text"]
    for id, data in pieces:
        try:
            shown = repr(data.decode())
        except UnicodeDecodeError:
            shown = "(part of a character)"
        lines.append(f"{id:>6}  {data.hex(' '):<24}  {shown}")
    count, size = len(pieces), len(text.encode())
    lines.append(
        f"{count} tokens for {len(text)} characters ({size} bytes): {len(text) / count:.2f} characters a token"
        if count
        else "no tokens"
    )
    return "\n".join(lines)


def show_merges(pairs: BytePairs, text: str) -> str:
    """Each word of a text from its bytes to its tokens, a line for every merge."""
    lines = []
    for word in dict.fromkeys(WORDS.findall(text)):
        lines.append(repr(word))
        lines += ["    " + " ".join(repr(piece)[1:] for piece in pieces) for pieces in pairs.steps(word)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", help="the text to split")
    parser.add_argument("--tokenizer", default=str(ENGLISH), help="a folder or Hub id (default: the English model's)")
    parser.add_argument("--learn", type=Path, metavar="FILE", help="learn byte pairs from this text instead")
    parser.add_argument("--vocab_size", type=int, default=VOCAB_SIZE, help="tokens to learn (default %(default)s)")
    arguments = parser.parse_args()
    if arguments.learn:
        try:
            pairs = BytePairs.train(arguments.learn.read_text(encoding="utf-8"), arguments.vocab_size)
        except (OSError, UnicodeDecodeError) as error:
            sys.exit(f"error: {arguments.learn} cannot be read as UTF-8 text ({error}); give a text file.")
        print(show_merges(pairs, arguments.text), end="\n\n")
        print(show_pieces([(id, pairs.tokens[id]) for id in pairs.encode(arguments.text)], arguments.text))
        return
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(arguments.tokenizer)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {arguments.tokenizer} holds no tokenizer that can be loaded: {' '.join(str(error).split())}")
    ids = encode_text(tokenizer, arguments.text).tolist()
    print(show_pieces([(id, token_bytes(tokenizer, id)) for id in ids], arguments.text))


if __name__ == "__main__":
    main()
