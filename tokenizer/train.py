"""Build a tokenizer from a text and save it.

python -m tokenizer.train my.txt --output my-tokenizer
"""

import argparse
from pathlib import Path

from tokenizer.character import build_character_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="a UTF-8 text")
    parser.add_argument("--output", type=Path, required=True, help="the folder to save the tokenizer in")
    arguments = parser.parse_args()
    try:
        tokenizer = build_character_tokenizer(arguments.text.read_text(encoding="utf-8"))
        tokenizer.save_pretrained(arguments.output)
    except (OSError, ValueError) as error:
        parser.error(f"{arguments.text}: {error}")
    print(f"{len(tokenizer)} tokens: {arguments.output / 'tokenizer.json'}")


if __name__ == "__main__":
    main()
