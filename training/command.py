"""What all commands share: errors that the user can fix, and how a command reports them."""

import os
import sys
import unicodedata
from collections.abc import Callable

RESUMABLE = "interrupted; run the same command again to resume from the last checkpoint"


class UserError(ValueError):
    """An error that the user can fix. The message is one or two sentences: what is wrong, where, and what to do."""


def in_one_line(error: Exception) -> str:
    """The message of another library's exception on one line, to be quoted in one of ours."""
    return " ".join(str(error).split())


def printable(text: str) -> str:
    """A text that is safe to print on a terminal: control characters are escaped, except for line ends and tabs."""
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character).startswith("C") and character not in "\n\t"
        else character
        for character in text
    )


def let_others_work() -> None:
    """Let OpenMP's threads sleep while they wait, unless the user has configured this. Call it before importing torch,
    since OpenMP reads the setting only then.

    By default the threads spin. Two trainings at the same time on two cores, or one beside a chat, then take many times
    as long as one after the other.
    """
    if "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def run_command(main: Callable[[], None], interrupted: str = "interrupted") -> None:
    """Run `main`. A [`UserError`] is printed without a traceback, with exit code 1; Ctrl-C gives exit code 130.

    Args:
        interrupted: the message after Ctrl-C.
    """
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print(f"\n{interrupted}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has stopped, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
