"""What all commands share: an error that is a user's to mend, and how a command ends when it meets one."""

import os
import sys
import unicodedata
from collections.abc import Callable

GOES_ON = "interrupted; the same command goes on from the last checkpoint"


class UserError(ValueError):
    """Something that the user can mend. Its text is one sentence or two: what is wrong, where, and what to do."""


def in_one_line(error: Exception) -> str:
    """What another library's exception says, without its line ends, to stand in a sentence of ours."""
    return " ".join(str(error).split())


def printable(text: str) -> str:
    """A text as a terminal can show it: a control character is written as its escape. Line ends and tabs stay."""
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character).startswith("C") and character not in "\n\t"
        else character
        for character in text
    )


def let_others_work() -> None:
    """Let OpenMP's threads sleep while they wait, unless the user has said how they should. Call it before torch is
    imported, which reads this only then.

    By default they spin, as if the cores were theirs alone. Two trainings on two cores, or one beside a chat, then take
    many times as long as one after the other.
    """
    if "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def run_command(main: Callable[[], None], interrupted: str = "interrupted") -> None:
    """Run `main`; print a [`UserError`] as one sentence and end with 1, without a traceback. Ctrl-C ends with 130.

    Args:
        interrupted: what to say after Ctrl-C.
    """
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print(f"\n{interrupted}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output has stopped, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
