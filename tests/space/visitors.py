"""Many visitors who chat at once: nothing may be lost or mixed up, and nobody may wait long for the first word.

python -m tests.space.visitors --minutes 5          # 16 visitors, against a page that it starts itself
"""

import argparse
import subprocess
import sys
import threading
import time
import urllib.request
from itertools import pairwise

from gradio_client import Client

from tests.conftest import PROJECT
from tests.space.conftest import free_port

LINES = ("The moon upon the water", "A bird came down", "The sea was", "Dorothy looked at the Scarecrow and")


def memory(process: int) -> float:
    """Resident memory of a process in MB."""
    with open(f"/proc/{process}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def chat(url: str, visitor: int, until: float, length: int, firsts: list, errors: list) -> None:
    """One visitor, who sends a line, reads the answer while it grows, and sends the next one."""
    client, line = Client(url, verbose=False), f"{LINES[visitor % len(LINES)]} {visitor}"
    expected = None
    while time.monotonic() < until:
        begun, pieces = time.monotonic(), []
        try:
            for piece in client.submit(line, "", 0.8, 0.95, length, 1 + visitor, api_name="/generate"):
                if not pieces:
                    firsts.append(time.monotonic() - begun)
                pieces.append(piece)
            grows = all(later.startswith(earlier) for earlier, later in pairwise(pieces))
            if not (pieces and grows and pieces[-1].startswith(line) and pieces[-1] == (expected or pieces[-1])):
                errors.append(f"visitor {visitor} was given another text: {pieces[-1:]}")
            expected = pieces[-1]  # one seed, one text
        except Exception as error:  # whatever a visitor may see
            errors.append(f"visitor {visitor}: {type(error).__name__}: {error}")


def measure(url: str, process: int, visitors: int, seconds: float, length: int) -> dict:
    """Let visitors chat for a while.

    Returns:
        `answers`, `errors`, `slowest` and `median` seconds to the first text, and `memory`: MB after each tenth of the
        time.
    """
    firsts, errors, begun = [], [], time.monotonic()
    threads = [
        threading.Thread(target=chat, args=(url, visitor, begun + seconds, length, firsts, errors))
        for visitor in range(visitors)
    ]
    for thread in threads:
        thread.start()
    used = []
    for tenth in range(1, 11):
        time.sleep(max(0, begun + seconds * tenth / 10 - time.monotonic()))
        used.append(memory(process))
    for thread in threads:
        thread.join()
    firsts.sort()
    return {
        "answers": len(firsts),
        "errors": errors,
        "slowest": firsts[-1],
        "median": firsts[len(firsts) // 2],
        "memory": used,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visitors", type=int, default=16, help="default %(default)s")
    parser.add_argument("--minutes", type=float, default=5, help="default %(default)s")
    parser.add_argument("--length", type=int, default=300, help="tokens of an answer (default %(default)s)")
    arguments = parser.parse_args()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([sys.executable, "-m", "space.app", "--port", str(port)], cwd=PROJECT)
    try:
        while True:
            try:
                urllib.request.urlopen(url, timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        found = measure(url, server.pid, arguments.visitors, 60 * arguments.minutes, arguments.length)
    finally:
        server.terminate()
    print(
        f"{arguments.visitors} visitors, {arguments.minutes:g} minutes: {found['answers']} answers, "
        f"{len(found['errors'])} errors; first text after {found['median']:.2f} s (median), "
        f"{found['slowest']:.2f} s (slowest); MB after each tenth of the time: "
        f"{', '.join(f'{used:.1f}' for used in found['memory'])}"
    )
    for error in found["errors"][:5]:
        print(error)


if __name__ == "__main__":
    main()
