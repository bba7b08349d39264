"""Tables that a command writes into training/benchmarks/README.md."""

from pathlib import Path

from training.results import write_between

README = Path(__file__).with_name("README.md")


def write_table(name: str, text: str) -> None:
    """Put `text` between the two lines of README.md that name a table.

    Raises:
        UserError: README.md has no such lines.
    """
    write_between(README, f"<!-- {name}: written by a command -->", f"<!-- end of {name} -->", text)
