"""Tables of results from run records.

python -m training.results                       # write the table of the evolution into docs/evolution.md
python -m training.results runs/a runs/b         # print a table of these runs instead
python -m training.results --seeds runs/a runs/b # the same, with one row for all seeds of a recipe
"""

import argparse
import dataclasses
import json
from pathlib import Path
from statistics import mean

from modeling import PRESETS
from training.command import UserError, run_command
from training.engine.recipe import Recipe
from training.tables import PROJECT, write_table

# Fields of a recipe that do not affect the result. Runs that agree in all others count as the same recipe.
BOOK_KEEPING = (
    *("seed", "about", "expected_loss", "expected_sample", "trackers", "log_every"),
    *("checkpoint_every", "keep_checkpoints", "sample_prompt", "sample_length"),
)
SAMPLE = 70  # characters of a sample in the table
# The order of the evolution's rows; other runs follow by name.
ORDER = tuple(PRESETS)


def read_records(folders: list[Path]) -> list[tuple[str, dict]]:
    """The names and records of the runs in some folders, in the order of the table.

    Raises:
        UserError: a folder has no record.
    """
    records = []
    for folder in folders:
        path = folder / "run.json"
        if not path.is_file():
            raise UserError(f"there is no run.json in {folder}; give the folder of a run.")
        records.append((folder.name, json.loads(path.read_text(encoding="utf-8"))))

    def place(named: tuple[str, dict]) -> tuple:
        name, record = named
        preset = preset_of(record).strip("`")
        return record["corpus"]["name"] != "poetry", ORDER.index(preset) if preset in ORDER else len(ORDER), name

    return sorted(records, key=place)


def evolution() -> list[tuple[str, dict]]:
    """The records of the evolution's five steps, from the repository's checkpoints."""
    return read_records([PROJECT / "space" / "checkpoints" / f"poetry-{step}" for step in ORDER])


def table(records: list[tuple[str, dict]]) -> str:
    """A Markdown table with one row per run."""
    rows = [
        "| recipe | parameters | tokens | seconds | loss at the start | loss | a sample |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    for name, record in records:
        rows.append(
            f"| `{name}` | {record['parameters']:,} | {record['tokens']:,} | {record['training_seconds']:,.0f} | "
            f"{record['first_validation_loss']:.3f} | **{record['best_validation_loss']:.4f}** | "
            f"{one_line(record['sample'])} |"
        )
    return "\n".join(rows)


def seeds_table(records: list[tuple[str, dict]]) -> str:
    """A Markdown table with one row for all runs that differ only in the seed: mean, lowest and highest loss."""
    groups: dict[str, list[dict]] = {}
    for _, record in records:
        groups.setdefault(json.dumps(decisive(record), sort_keys=True), []).append(record)
    rows = [
        "| corpus | preset | changed | parameters | seeds | loss, mean | lowest | highest |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    recipes = [decisive(group[0])["recipe"] for group in groups.values()]
    # Besides the model's fields, show those in which the rows differ and that have no column of their own.
    varying = [name for name in recipes[0] if any(recipe[name] != recipes[0][name] for recipe in recipes)]
    varying = [name for name in varying if name not in ("corpus", "preset", "model")]
    for group, recipe in zip(groups.values(), recipes, strict=True):
        first, losses = group[0], [record["best_validation_loss"] for record in group]
        changed = changes({**recipe["model"], **{name: recipe[name] for name in varying}})
        rows.append(
            f"| {first['corpus']['name']} | {preset_of(first)} | {changed} | "
            f"{first['parameters']:,} | {len(group)} | "
            f"**{mean(losses):.4f}** | {min(losses):.4f} | {max(losses):.4f} |"
        )
    return "\n".join(rows)


def decisive(record: dict) -> dict:
    """Everything in a record that affects its loss, except the seed. Fields newer than the run count as defaults."""
    recipe = dataclasses.asdict(Recipe()) | record["recipe"]
    return {
        "recipe": {name: value for name, value in recipe.items() if name not in BOOK_KEEPING},
        "corpus": record["corpus"]["sha256"],
        "trained_on_before": record.get("trained_on_before", []),
        "mixed_precision": record.get("mixed_precision", "no"),
    }


def preset_of(record: dict) -> str:
    """The preset of a run, or nothing if it started from a checkpoint, which decides the architecture."""
    return "" if record["recipe"].get("start_from") else f"`{record['recipe']['preset']}`"


def changes(fields: dict) -> str:
    """Fields and their values in Markdown."""
    return ", ".join(f"`{name}: {json.dumps(value)}`" for name, value in fields.items())


def one_line(sample: str) -> str:
    """The beginning of a sample on one line, escaped for a Markdown table."""
    line = " / ".join(part.strip() for part in sample.strip().splitlines() if part.strip())[:SAMPLE].rstrip()
    return line.translate({ord(c): f"\\{c}" for c in "\\|*_`<>[]"}) + " ..."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="folders with a run.json")
    parser.add_argument("--seeds", action="store_true", help="one row for all runs that differ only in the seed")
    arguments = parser.parse_args()
    if arguments.runs:
        print((seeds_table if arguments.seeds else table)(read_records(arguments.runs)))
        return
    write_table("results", table(evolution()))


if __name__ == "__main__":
    run_command(main)
