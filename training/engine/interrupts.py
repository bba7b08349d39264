"""Ctrl-C and SIGTERM during training: the first one asks for a checkpoint, a second one stops at once."""

import os
import signal
import threading
import time

SAME = 1.0  # seconds; signals this close count as one: launchers forward Ctrl-C to processes that already received it


class Interruption:
    """A context in which the first SIGINT or SIGTERM only sets `requested`; a later one raises `KeyboardInterrupt`.

    Does nothing outside the main thread, where Python cannot catch signals.

    Args:
        notice: printed on stderr at the first signal; nothing if empty.
    """

    def __init__(self, notice: str):
        self.notice, self.first, self.earlier = notice, None, {}

    @property
    def requested(self) -> bool:
        return self.first is not None

    def note(self, number, frame) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = now
            os.write(2, self.notice.encode())  # the signal may have interrupted a print, which must not be re-entered
        elif now - self.first > SAME:
            raise KeyboardInterrupt

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self.earlier = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self.earlier.items():
            signal.signal(number, handler)
