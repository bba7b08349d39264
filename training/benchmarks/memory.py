"""Does memory grow? Read a long stream, or train for many steps.

    python -m training.benchmarks.memory                     # reads 2 GB of generated text, about six minutes
    python -m training.benchmarks.memory --gigabytes 0.05
    python -m training.benchmarks.memory --steps 10000       # trains a tiny model instead

The text is random words from a seed, in shards in a temporary folder that is removed at the end. Resident memory is
read at every tenth; the result is its growth from the first tenth, when everything is loaded, to the end.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from tqdm import tqdm

from tokenizer import build_character_tokenizer
from training.command import run_command
from training.data.stream import Stream, StreamedCorpus
from training.engine.loop import Run
from training.engine.recipe import Recipe
from training.files import write_text
from training.tables import write_table

MEGABYTE = 1_000_000


def resident() -> float:
    """This process's resident memory in MB."""
    return psutil.Process().memory_info().rss / MEGABYTE


def write_shards(folder: Path, size: int, shards: int = 8, seed: int = 0) -> None:
    """Write about `size` bytes of random words as `.jsonl` shards, some 2 kB a document."""
    chance = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(chance.choices(letters, k=chance.randint(2, 9))) for _ in range(5000)]
    bar = tqdm(total=size, unit="B", unit_scale=True, desc="writing")
    for shard in range(shards):
        written = 0
        with (folder / f"{shard:03}.jsonl").open("w", encoding="utf-8") as file:
            while written < size // shards:
                line = json.dumps({"text": " ".join(chance.choices(words, k=300))}) + "\n"
                file.write(line)
                written += len(line)
                bar.update(len(line))
    bar.close()


def watch(advance: Callable[[], int], total: int, unit: str) -> list[dict]:
    """Call `advance`, which returns its progress, until `total` is reached; record memory and time at every tenth."""
    rows, done, started = [], 0, time.perf_counter()
    bar = tqdm(total=total, unit=unit, unit_scale=True)
    while done < total:
        step = advance()
        done += step
        bar.update(step)
        if done * 10 >= total * (len(rows) + 1):
            rows.append({unit: done, "resident_mb": resident(), "seconds": time.perf_counter() - started})
            bar.write(f"{done:>14,} {unit}   {rows[-1]['resident_mb']:>8,.1f} MB resident")
    bar.close()
    return rows


def read_stream(gigabytes: float) -> dict:
    """Read a generated stream once from beginning to end."""
    with tempfile.TemporaryDirectory(prefix="stream-") as name:
        write_shards(Path(name), int(gigabytes * 1000 * MEGABYTE))
        corpus = StreamedCorpus(name, column="text", validation_characters=100_000)
        tokenizer = build_character_tokenizer(corpus.train)
        stream = Stream(corpus, tokenizer, context=1024, batch_size=8)
        size = sum(path.stat().st_size for path in corpus.paths)

        def advance() -> int:
            return stream.at(stream.step)["input_ids"].numel()  # a token is a character, and here a byte

        rows = watch(advance, int(0.98 * size), "bytes")  # the rest is held out, or is JSON around the text
    return {"mb_per_second": rows[-1]["bytes"] / MEGABYTE / rows[-1]["seconds"], **growth(rows)}


def train_long(steps: int) -> dict:
    """Train a tiny model on the sampler."""
    with tempfile.TemporaryDirectory(prefix="run-") as name:
        model = {"hidden_size": 32, "num_hidden_layers": 2}
        run = Run(Recipe(steps=steps, model=model, context=32, batch_size=4, optimizer="muon"), Path(name))
        run.start()

        def advance() -> int:
            float(run.step())
            return 1

        rows = watch(advance, steps, "steps")
    return growth(rows)


def growth(rows: list[dict]) -> dict:
    """The growth of memory from the first tenth to the end, and all measurements."""
    return {"growth_mb": rows[-1]["resident_mb"] - rows[0]["resident_mb"], "measured": rows}


def table(rows: list[dict]) -> str:
    """Memory at every tenth, in Markdown."""
    unit = next(iter(rows[0]))
    lines = [f"| {unit} | seconds | resident memory, MB |", "|--:|--:|--:|"]
    lines += [f"| {row[unit]:,} | {row['seconds']:,.0f} | {row['resident_mb']:,.1f} |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the stream (default 2)")
    parser.add_argument("--steps", type=int, help="train for this many steps instead of reading a stream")
    parser.add_argument("--output", type=Path, default=Path("runs/memory.json"), help="(default runs/memory.json)")
    parser.add_argument("--write", action="store_true", help="put the table into its page of docs/")
    arguments = parser.parse_args()
    figures = train_long(arguments.steps) if arguments.steps else read_stream(arguments.gigabytes)
    write_text(arguments.output, json.dumps(figures, indent=2) + "\n")
    if arguments.write:
        write_table("memory, steps" if arguments.steps else "memory, stream", table(figures["measured"]))
    print(f"memory grew by {figures['growth_mb']:,.1f} MB from the first tenth to the end: {arguments.output}")


if __name__ == "__main__":
    run_command(main)
