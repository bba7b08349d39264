"""Tables of results from run records.

python -m training.results                       # write that of the evolution into docs/evolution.md
python -m training.results runs/a runs/b         # print the table of these runs instead
python -m training.results --seeds runs/a runs/b # the same, the seeds of one recipe in one row
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

# Fields of a recipe that change nothing of what is trained or scored. Runs that share the others are one recipe.
BOOK_KEEPING = (
    *("seed", "about", "expected_loss", "expected_sample", "trackers", "log_every"),
    *("checkpoint_every", "keep_checkpoints", "sample_prompt", "sample_length"),
)
SAMPLE = 70  # characters of a sample in the table
# The order of the evolution; other runs follow by name.
ORDER = tuple(PRESETS)


def read_records(folders: list[Path]) -> list[tuple[str, dict]]:
    """The run records in some folders, in the order of the table."""
    records = []
    for folder in folders:
        path = folder / "run.json"
        if not path.is_file():
            raise UserError(f"{folder} holds no run.json; give the folder of a run.")
        records.append((folder.name, json.loads(path.read_text(encoding="utf-8"))))

    def place(named: tuple[str, dict]) -> tuple:
        name, record = named
        preset = preset_of(record).strip("`")
        return record["corpus"]["name"] != "poetry", ORDER.index(preset) if preset in ORDER else len(ORDER), name

    return sorted(records, key=place)


def evolution() -> list[tuple[str, dict]]:
    """The records of the five steps in the repository."""
    return read_records([PROJECT / "space" / "checkpoints" / f"poetry-{step}" for step in ORDER])


def table(records: list[tuple[str, dict]]) -> str:
    """One row a run, in Markdown."""
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
    """One row for the runs that differ by their seed alone: mean, lowest and highest loss."""
    groups: dict[str, list[dict]] = {}
    for _, record in records:
        groups.setdefault(json.dumps(decisive(record), sort_keys=True), []).append(record)
    rows = [
        "| corpus | preset | changed | parameters | seeds | loss, mean | lowest | highest |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    recipes = [decisive(group[0])["recipe"] for group in groups.values()]
    # Besides the model's fields, those in which the rows differ, without what other columns show.
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
    """All of a record that decides its loss, but for the seed. A field that is newer than the run had its default."""
    recipe = dataclasses.asdict(Recipe()) | record["recipe"]
    return {
        "recipe": {name: value for name, value in recipe.items() if name not in BOOK_KEEPING},
        "corpus": record["corpus"]["sha256"],
        "trained_on_before": record.get("trained_on_before", []),
        "mixed_precision": record.get("mixed_precision", "no"),
    }


def preset_of(record: dict) -> str:
    """The preset of a run; one that started from a checkpoint has its architecture, whatever the recipe says."""
    return "" if record["recipe"].get("start_from") else f"`{record['recipe']['preset']}`"


def changes(fields: dict) -> str:
    """The fields in which a run differs from its preset and from the other rows."""
    return ", ".join(f"`{name}: {json.dumps(value)}`" for name, value in fields.items())


def one_line(sample: str) -> str:
    """The beginning of a sample on one line, safe inside a table."""
    line = " / ".join(part.strip() for part in sample.strip().splitlines() if part.strip())[:SAMPLE].rstrip()
    return line.translate({ord(c): f"\\{c}" for c in "\\|*_`<>[]"}) + " ..."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="folders with a run.json")
    parser.add_argument("--seeds", action="store_true", help="put runs that differ by their seed alone into one row")
    arguments = parser.parse_args()
    if arguments.runs:
        print((seeds_table if arguments.seeds else table)(read_records(arguments.runs)))
        return
    write_table("results", table(evolution()))


if __name__ == "__main__":
    run_command(main)
