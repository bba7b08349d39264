"""Write tables into README.md and the pages of docs/."""

import re
from pathlib import Path

from training.command import UserError
from training.files import write_text

PROJECT = Path(__file__).parents[1]
PAGES = (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")))


def table_place(name: str) -> re.Pattern:
    """A pattern for the two lines that mark a table, and the text between them."""
    name = re.escape(name)
    return re.compile(rf"(<!-- {name}: written by .+? -->\n)(.*?)\n(<!-- end of {name} -->)", re.DOTALL)


def read_table(name: str) -> str:
    """The text of a table.

    Raises:
        UserError: no page has a place for it.
    """
    return table_place(name).search(find_page(name).read_text(encoding="utf-8"))[2]


def write_table(name: str, text: str) -> None:
    """Replace the text of a table.

    Raises:
        UserError: no page has a place for it.
    """
    page = find_page(name)
    before = page.read_text(encoding="utf-8")
    write_text(page, table_place(name).sub(lambda place: f"{place[1]}{text}\n{place[3]}", before))
    print(f"wrote the table {name} into {page}")


def find_page(name: str) -> Path:
    for page in PAGES:
        if table_place(name).search(page.read_text(encoding="utf-8")):
            return page
    raise UserError(
        f"no page has a place for the table '{name}'; add two lines where it belongs: "
        f"<!-- {name}: written by COMMAND --> and <!-- end of {name} -->."
    )
