"""Ctrl-C and SIGTERM while a run is in its steps: the first asks for a checkpoint, a further one ends at once."""

import os
import signal
import threading
import time

SAME = 1.0  # seconds within which signals are one: a launcher passes Ctrl-C on to processes that had it already


class Interruption:
    """A context in which the first SIGINT or SIGTERM only sets `asked`; a later one raises `KeyboardInterrupt`.

    Outside the main thread, where Python cannot catch signals, nothing changes.

    Args:
        notice: what the first one writes on stderr; nothing if empty.
    """

    def __init__(self, notice: str):
        self.notice, self.first, self.earlier = notice, None, {}

    @property
    def asked(self) -> bool:
        return self.first is not None

    def note(self, number, frame) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = now
            os.write(2, self.notice.encode())  # print may be at work in what was interrupted
        elif now - self.first > SAME:
            raise KeyboardInterrupt

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self.earlier = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self.earlier.items():
            signal.signal(number, handler)
