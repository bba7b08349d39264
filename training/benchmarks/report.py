"""Tables that a command writes into training/benchmarks/README.md."""

from pathlib import Path

from training.command import UserError

README = Path(__file__).with_name("README.md")


def write_table(name: str, text: str) -> None:
    """Put `text` between the two lines of README.md that name a table.

    Raises:
        UserError: README.md has no such lines.
    """
    begin, end = f"<!-- {name}: written by a command -->", f"<!-- end of {name} -->"
    readme = README.read_text(encoding="utf-8")
    if begin not in readme or end not in readme:
        raise UserError(f"{README} has no place for the table; put these two lines there: {begin} and {end}.")
    head, tail = readme[: readme.index(begin)], readme[readme.index(end) :]
    README.write_text(f"{head}{begin}\n{text}\n{tail}", encoding="utf-8")
    print(f"wrote {README}")
