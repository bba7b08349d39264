"""The table of results: every corpus, compared with published figures, nanoGPT and a compressor.

    python -m training.benchmarks.corpora            # print the table, from the records in the project
    python -m training.benchmarks.corpora --rerun    # train what is not in runs/ yet (hours), score, and record it
    python -m training.benchmarks.corpora --write    # and put the table into docs/corpora.md

A row is the fine-tuned model of a corpus, scored over the whole validation split of that corpus. Tokens and seconds are
those of fine-tuning; those of the pre-training before it are in brackets.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

from training.command import UserError, run_command
from training.data.corpora import load_corpus
from training.engine.checkpoints import RECORD
from training.engine.kernels import choose_kernels
from training.engine.recipe import load_recipe
from training.evaluation.compressor import ppmd_loss
from training.evaluation.sampling import stream_text
from training.evaluation.scores import score_text
from training.files import write_text
from training.loading import load_trained
from training.results import one_line
from training.tables import write_table

SAMPLE_TOKENS = 60
RUNS, RECORDS = Path("runs"), Path(__file__).with_name("records")


@dataclass(frozen=True)
class Row:
    """A corpus, the recipes of its model in order, and figures to compare with, in nats per character.

    `published` is from the tutorials that train on the corpus, `nanogpt` from its configuration for small runs on a CPU
    (0.80M parameters), both on this split. `order` is PPMd's best. The model's sample continues `prompt`.
    """

    corpus: str
    recipes: tuple[str, ...]
    order: int
    prompt: str = "\n"
    published: str = ""
    nanogpt: str = ""


ROWS = (
    Row(
        "oz",
        ("english-base", "english"),
        order=8,
        prompt="Dorothy looked ",
        published="target leaked",
        nanogpt="1.5004",
    ),
    Row("poetry", ("english-base", "english"), order=5, published="about 2.0", nanogpt="1.7469"),
    Row("shijing", ("chinese-base", "chinese-shijing"), order=14, published="9.0820"),
    Row("lunyu", ("chinese-base", "chinese-lunyu"), order=6, published="8.2385"),
    Row("chinese-poems", ("chinese-base", "chinese"), order=12, published="4.5358"),
)


def record_row(row: Row) -> None:
    """Train the missing stages of a row, score its model, and store the records of its runs."""
    from training.engine.loop import train

    for name in row.recipes:
        train(load_recipe(name), RUNS / name)
    best = RUNS / row.recipes[-1] / "best"
    tokenizer, model = load_trained(best)
    choose_kernels(model, model.device, model.config.max_position_embeddings)
    corpus = load_corpus(row.corpus)
    loss, accuracy = score_text(model, tokenizer, corpus.validation)
    sample = "".join(stream_text(model, tokenizer, row.prompt, SAMPLE_TOKENS, temperature=0.8, seed=1))
    ppmd, order = ppmd_loss(corpus, [row.order])
    figures = {
        "corpus": corpus.figures(),
        "loss": loss,
        "accuracy": accuracy,
        "sample": row.prompt + sample,
        "ppmd": ppmd,
        "ppmd_order": order,
        "stages": [json.loads((RUNS / name / RECORD).read_text(encoding="utf-8")) for name in row.recipes],
    }
    write_text(RECORDS / f"{row.corpus}.json", json.dumps(figures, indent=1, ensure_ascii=False) + "\n")


def table(rows: tuple[Row, ...] = ROWS) -> str:
    """A row for each corpus that has a record, in Markdown.

    Raises:
        UserError: there are no records.
    """
    lines = [
        "| corpus | characters | vocabulary | model | parameters | tokens | seconds | train | **validation** | bits | "
        "top-1 | published | nanoGPT | PPMd | a sample |",
        "|---|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        path = RECORDS / f"{row.corpus}.json"
        if path.is_file():
            lines.append(table_row(row, json.loads(path.read_text(encoding="utf-8"))))
    if len(lines) == 2:
        raise UserError(f"there are no records in {RECORDS}; give --rerun.")
    return "\n".join(lines)


def table_row(row: Row, figures: dict) -> str:
    base, last = figures["stages"][0], figures["stages"][-1]
    recipe = base["recipe"]
    shape = f"{recipe['model']['num_hidden_layers']} x {recipe['model']['hidden_size']}, {recipe['context']}"
    kind = "byte pairs" if recipe["tokenizer"] == "bpe" else "characters"
    cells = [
        f"`{row.corpus}`",
        f"{figures['corpus']['characters']:,}",
        f"{last['vocabulary']:,} {kind}",
        shape,
        f"{last['parameters'] / 1e6:.1f}M",
        f"{last['tokens'] / 1e6:.1f}M ({base['tokens'] / 1e6:.0f}M)",
        f"{last['training_seconds']:,.0f} ({base['training_seconds']:,.0f})",
        f"{last['train_loss']:.3f}",
        f"**{figures['loss']:.4f}**",
        f"{figures['loss'] / math.log(2):.3f}",
        f"{figures['accuracy']:.1%}",
        row.published,
        row.nanogpt,
        f"{figures['ppmd']:.4f}",
        one_line(figures["sample"]),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rerun", action="store_true", help="train, score and record anew what is not in runs/")
    parser.add_argument("--only", nargs="*", metavar="CORPUS", help="only these corpora")
    parser.add_argument("--write", action="store_true", help="put the table into docs/corpora.md")
    arguments = parser.parse_args()
    rows = tuple(row for row in ROWS if not arguments.only or row.corpus in arguments.only)
    if arguments.rerun:
        for row in rows:
            record_row(row)
    text = table()
    print(text)
    if arguments.write:
        write_table("corpora", text)


if __name__ == "__main__":
    run_command(main)
