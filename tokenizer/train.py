"""Build a tokenizer from a text and save it.

python -m tokenizer.train my.txt --output my-tokenizer                              # one token for each character
python -m tokenizer.train my.txt --output my-tokenizer --kind bpe --vocab_size 2048
"""

import argparse
from pathlib import Path

from .bpe import VOCAB_SIZE, build_bpe_tokenizer
from .character import build_character_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="a UTF-8 text")
    parser.add_argument("--output", type=Path, required=True, help="the folder to save the tokenizer in")
    parser.add_argument("--kind", choices=("character", "bpe"), default="character", help="default %(default)s")
    parser.add_argument("--vocab_size", type=int, help=f"tokens (default: every character, or {VOCAB_SIZE} for bpe)")
    arguments = parser.parse_args()
    try:
        text = arguments.text.read_text(encoding="utf-8")
        if arguments.kind == "bpe":
            tokenizer = build_bpe_tokenizer(text, arguments.vocab_size or VOCAB_SIZE)
        else:
            tokenizer = build_character_tokenizer(text, arguments.vocab_size)
        tokenizer.save_pretrained(arguments.output)
    except (OSError, ValueError) as error:
        parser.error(f"{arguments.text}: {error}")
    print(f"{len(tokenizer)} tokens: {arguments.output / 'tokenizer.json'}")


if __name__ == "__main__":
    main()
