"""Compare tokenizers: characters per token, the speed of encoding, and the loss per character.

    python -m training.benchmarks.tokenizers --corpus classics              # lengths and speeds, on one core
    python -m training.benchmarks.tokenizers --corpus poetry --train  # and the losses of three seeds each: half an hour

Losses in nats per token cannot be compared, since a longer token is harder to predict. So each model is scored in nats
per character, after the same number of steps with the same number of tokens. Longer tokens then cover more text.
"""

import argparse
import dataclasses
import os
import statistics
import time

from tokenizer import encode_text
from training.command import run_command
from training.data.corpora import NAMES, Corpus, load_corpus
from training.engine.build import build_tokenizer
from training.engine.recipe import Recipe, load_recipe
from training.evaluation.quality import is_chinese
from training.plan import train_once
from training.tables import write_table

KINDS = (("character", None), ("bpe", 512), ("bpe", 1024), ("bpe", 2048), ("bpe", 4096))
CHINESE_KINDS = (("character", None), ("character", 4096), ("bpe", 4096))
SEEDS = (1, 2, 3)


def recipe_for(corpus: str, kind: str, size: int | None, seed: int = 1) -> Recipe:
    recipe = load_recipe("poetry-modern", [("context", "64"), ("steps", "1000"), ("evaluate_every", "100")])
    return dataclasses.replace(recipe, corpus=corpus, tokenizer=kind, vocab_size=size, seed=seed)


def measure(corpus: Corpus, recipe: Recipe) -> tuple[int, float, float]:
    """The size of the vocabulary, characters per token on the validation split, and MB of text encoded per second."""
    tokenizer = build_tokenizer(recipe, corpus.train)
    speeds = []
    for _ in range(3):
        begin = time.perf_counter()
        encode_text(tokenizer, corpus.text)
        speeds.append(len(corpus.text.encode()) / 1e6 / (time.perf_counter() - begin))
    return len(tokenizer), len(corpus.validation) / len(encode_text(tokenizer, corpus.validation)), max(speeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="classics", help=f"{', '.join(NAMES)} ... (default %(default)s)")
    parser.add_argument("--train", action="store_true", help="train a model with each, with three seeds")
    parser.add_argument("--write", action="store_true", help="put the table into its page of docs/")
    arguments = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = "1"  # the library reads it when it first encodes
    corpus = load_corpus(arguments.corpus)
    kinds = CHINESE_KINDS if is_chinese([corpus.validation]) else KINDS
    lines = [
        "| tokens | vocabulary | characters a token | encoding, MB/s | validation loss, nats per character |",
        "|---|--:|--:|--:|--:|",
    ]
    for kind, size in kinds:
        vocabulary, length, speed = measure(corpus, recipe_for(arguments.corpus, kind, size))
        losses = [
            train_once(recipe_for(arguments.corpus, kind, size, seed))["loss"] for seed in SEEDS if arguments.train
        ]
        loss = f"{statistics.mean(losses):.4f} ({min(losses):.4f} to {max(losses):.4f})" if losses else ""
        name = "characters" if kind == "character" else "byte pairs"
        lines.append(f"| {name} | {vocabulary:,} | {length:.2f} | {speed:.1f} | {loss} |")
        print(lines[-1], flush=True)
    if arguments.write:
        write_table(f"tokenizers on {corpus.name}", "\n".join(lines))


if __name__ == "__main__":
    run_command(main)
