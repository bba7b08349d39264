"""What all commands share: an error that is a user's to mend, and how a command ends when it meets one."""

import sys
from collections.abc import Callable


class UserError(ValueError):
    """Something that the user can mend. Its text is one sentence or two: what is wrong, where, and what to do."""


def in_one_line(error: Exception) -> str:
    """What another library's exception says, without its line ends, to stand in a sentence of ours."""
    return " ".join(str(error).split())


def run_command(main: Callable[[], None]) -> None:
    """Run `main`; print a [`UserError`] as one sentence and end with 1, without a traceback. Ctrl-C ends with 130."""
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
