"""The README and the pages of docs/: what they name is there, and their figures are those that were measured."""

import json
import re

import pytest

from tests.conftest import PROJECT
from training.benchmarks import corpora
from training.tables import PAGES, read_table

TEXTS = {page.name: page.read_text(encoding="utf-8") for page in (*PAGES, PROJECT / "CONTRIBUTING.md")}


def headline(result: str) -> str:
    """A row of the README's table of results."""
    return next(line for line in TEXTS["README.md"].splitlines() if line.startswith(f"| {result}"))


def cells(name: str, heading: str) -> list[str]:
    """A column of a table that a command has written."""
    rows = [[cell.strip() for cell in line.split("|")] for line in read_table(name).splitlines()]
    begin = next(number for number, row in enumerate(rows) if heading in row)
    column, end = rows[begin].index(heading), rows.index([""], begin) if [""] in rows[begin:] else None
    return [row[column] for row in rows[begin + 2 : end]]


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_to_files(page):
    folder = PROJECT if page in ("README.md", "CONTRIBUTING.md") else PROJECT / "docs"
    links = re.findall(r"\]\((?!http)([^)#]+)\)", TEXTS[page])
    assert [link for link in links if not (folder / link).exists()] == []


@pytest.mark.parametrize("page", TEXTS)
def test_commands_and_files_are_there(page):
    modules = set(re.findall(r"python -m ((?:modeling|tokenizer|training|space|tests)[\w.]*)", TEXTS[page]))
    files = [PROJECT / module.rstrip(".").replace(".", "/") for module in modules]
    assert [file for file in files if not file.with_suffix(".py").is_file()] == []
    paths = set(re.findall(r"`((?:modeling|tokenizer|training|space|tests|docs)/[\w/.-]*)`", TEXTS[page]))
    assert [path for path in paths if not (PROJECT / path).exists()] == []


def test_the_readme_is_short():
    assert len(TEXTS["README.md"].splitlines()) <= 150


def test_the_table_of_the_corpora_is_that_of_the_records():
    """Written by a command; run `python -m training.benchmarks.corpora --write` when this fails."""
    assert read_table("corpora") == corpora.table()


def test_the_readme_tells_the_speed_that_was_measured():
    ratios = [float(cell.split()[0]) for cell in cells("speedrun", "times faster")]
    assert f"{min(ratios):.0f} to {max(ratios):.0f} times faster" in headline("Speed")


def test_the_readme_tells_the_losses_that_were_measured():
    figures = {name: json.loads((corpora.RECORDS / f"{name}.json").read_text()) for name in ("oz", "poetry")}
    nanogpt = {row.corpus: float(row.nanogpt) for row in corpora.ROWS if row.corpus in figures}
    oz, poetry = figures.values()
    assert f"{oz['loss']:.3f} and {poetry['loss']:.3f}" in headline("Learning")
    assert f"nanoGPT {nanogpt['oz']:.3f} and {nanogpt['poetry']:.3f}" in headline("Learning")
    assert f"PPMd {oz['ppmd']:.3f} and {poetry['ppmd']:.3f}" in headline("Learning")


def test_the_readme_tells_the_differences_that_were_measured():
    differences = re.findall(r"\| (\d\.\de-\d) \|", TEXTS["architectures.md"])
    assert f"within {max(differences, key=float)}" in headline("Parity")


def test_the_readme_tells_the_quatrains_that_were_counted():
    kept, total = re.search(r"(\d+) times out of (\d+)", TEXTS["corpora.md"]).groups()
    assert f"{kept} of {total}" in headline("Text")
