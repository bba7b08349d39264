"""Many visitors in all tabs at once, and hostile clients among them: no visitor may get an error or wait long.

python -m tests.space.visitors --seconds 300        # 16 visitors, against a page that it starts itself
"""

import argparse
import contextlib
import json
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator

import gradio as gr
import httpx
from gradio_client.client import utils

from space import app
from space.tabs.write import message, plain
from tests.conftest import PROJECT
from tests.space.conftest import free_port

LINES = ("The moon upon the water", "A bird came down", "The sea was", "Dorothy looked at the Scarecrow and")
UNREAD = 300  # events that a hostile client posts at once


class Browser:
    """A client that does what the page does in a browser, by an address of its own as a proxy would report it."""

    def __init__(self, url: str, page: gr.Blocks, number: int):
        """`page` is one like the page at `url`: it tells the numbers of the functions there."""
        self.numbers = {getattr(fn.fn, "__qualname__", ""): number for number, fn in page.fns.items()}
        self.http = httpx.Client(base_url=url, headers={"X-Forwarded-For": f"198.51.100.{number}"}, timeout=60)
        self.session = uuid.uuid4().hex
        config = self.http.get("/config").json()
        self.events = {event["id"]: event for event in config["dependencies"]}
        self.parts = {part["id"]: part for part in config["components"]}

    def name(self, part: int) -> str:
        properties = self.parts[part]["props"]
        return properties.get("elem_id") or properties.get("label") or str(part)

    def post(self, function: str, **boxes) -> httpx.Response:
        """Send an event of the page, with what stands in some boxes; in the others is what was there at first."""
        event = self.events[self.numbers[function]]
        data = [
            None
            if self.parts[part]["type"] == "state"
            else boxes.get(self.name(part), self.parts[part]["props"].get("value"))
            for part in event["inputs"]
        ]
        body = {"data": data, "fn_index": event["id"], "session_hash": self.session}
        return self.http.post("/gradio_api/queue/join", json=body)

    def ask(self, function: str, **boxes) -> Iterator[dict]:
        """Yield what the page would show after each message, by the names of the boxes.

        Raises:
            RuntimeError: the page would show an error.
        """
        posted = self.post(function, **boxes)
        if posted.status_code != 200:
            raise RuntimeError(f"{posted.status_code}: {posted.text[:200]}")
        names, shown = [self.name(part) for part in self.events[self.numbers[function]]["outputs"]], None
        address = f"/gradio_api/queue/data?session_hash={self.session}"
        with self.http.stream("GET", address) as stream:
            for line in stream.iter_lines():
                told = json.loads(line[5:]) if line.startswith("data:") else {}
                if told.get("msg") not in ("process_generating", "process_completed", "unexpected_error"):
                    continue
                if not told.get("success", False):
                    raise RuntimeError(f"{function}: {json.dumps(told, ensure_ascii=False)[:300]}")
                data = told["output"].get("data") or []
                if told["msg"] == "process_generating" and shown is not None:
                    data = [utils.apply_diff(old, new) for old, new in zip(shown, data, strict=True)]
                if data:
                    shown = data
                    yield dict(zip(names, shown, strict=True))
                if told["msg"] == "process_completed":
                    return


def conversation(prompt: str, answer: str, model: str) -> list[dict]:
    """A message and its answer as a browser sends them."""
    return [message("user", prompt), message("assistant", answer, model)]


def chat(browser: Browser, line: str, length: int, seed: int) -> tuple[float, str]:
    """The seconds until the first words of an answer, and all of it."""
    begun, first, text = time.monotonic(), None, ""
    for shown in browser.ask("WriteTab.respond", prompt=line, chat=[], Length=length, Seed=seed):
        text = plain(shown["chat"][-1]["content"]) if len(shown["chat"]) > 1 else ""
        first = time.monotonic() - begun if text and first is None else first
    if not text.startswith(line):
        raise RuntimeError(f"another text was given: {text[:60]!r}")
    return first, text


def visit(url: str, page: gr.Blocks, number: int, until: float, length: int, found: dict) -> None:
    """One visitor, who goes from tab to tab; the next one begins at another tab."""
    try:
        browser, line = Browser(url, page, number), f"{LINES[number % len(LINES)]} {number}"
        expected, tab = None, number
        while time.monotonic() < until:
            begun, tab = time.monotonic(), tab + 1
            if tab % 4 == 0:
                first, text = chat(browser, line, length, 1 + number)
                if text != (expected or text):  # one seed, one text
                    raise RuntimeError(f"another text was given than before: {text[:60]!r}")
                expected = text
                found["first"].append(first)
            elif tab % 4 == 1:
                history = conversation(line, expected or f"{line} is", "english")
                *_, shown = browser.ask("WriteTab.describe", chat=history, explain=True)
                wrong = not shown["answer-tokens"]
            elif tab % 4 == 2:
                *_, shown = browser.ask("InsideTab.draw", **{"inside-text": f"{line} {tab}"})
                wrong = not shown["inside-tokens"]
            else:
                *_, shown = browser.ask("EvolutionTab.grow", **{"growth-prompt": f"{line} {tab}", "growth-step": 3})
                wrong = not shown["growth-text"].startswith(line)
            if tab % 4 and wrong:
                raise RuntimeError(f"tab {tab % 4} shows nothing: {str(shown)[:200]}")
            found[("chat", "explain", "inside", "evolution")[tab % 4]].append(time.monotonic() - begun)
    except Exception as error:  # whatever a visitor may see
        found["errors"].append(f"visitor {number}: {type(error).__name__}: {error}")


def flood(url: str, page: gr.Blocks, number: int, until: float, found: dict) -> None:
    """One client that posts events without ever reading what comes of them."""
    browser = Browser(url, page, number)
    browser.http.timeout = 1  # it does not wait for a place either

    def post() -> None:
        for _ in range(UNREAD // 10):
            if time.monotonic() < until:
                with contextlib.suppress(httpx.TimeoutException):
                    browser.post("WriteTab.respond", prompt="The flood", chat=[], Length=1000, Seed=1)
                found["unread"].append(1)

    while time.monotonic() < until:
        browser.session = uuid.uuid4().hex
        threads = [threading.Thread(target=post) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def forge(url: str, page: gr.Blocks, number: int, until: float, found: dict) -> None:
    """One client that sends histories and texts that the page would never send."""
    browser, texts = Browser(url, page, number), ("the moon " * 22_000, "月" * 100_000, "x" * 1_000_000)
    while time.monotonic() < until:
        for text in texts:
            begun = time.monotonic()
            history = conversation("The moon", text, "english")
            for function, boxes in (
                ("WriteTab.describe", {"chat": history, "explain": True}),
                ("EvolutionTab.grow", {"growth-prompt": text}),
                ("InsideTab.draw", {"inside-text": text}),
            ):
                with contextlib.suppress(RuntimeError):  # a sentence on what is too long
                    list(browser.ask(function, **boxes))
            found["forged"].append((time.monotonic() - begun) / 3)
        time.sleep(1)


def memory(process: int) -> float:
    """Resident memory of a process in MB."""
    with open(f"/proc/{process}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def measure(url: str, page: gr.Blocks, process: int, visitors: int, seconds: float, length: int = 300) -> dict:
    """Let visitors and hostile clients loose for a while.

    Returns:
        `errors` of the visitors; the seconds that each `chat`, `explain`, `inside` and `evolution` took, and `first`
        until the first words of an answer; the seconds of each `forged` request; a 1 for each `unread` event; and
        `memory`: MB after each tenth of the time.
    """
    names = ("errors", "first", "chat", "explain", "inside", "evolution", "forged", "unread", "memory")
    found, begun = {name: [] for name in names}, time.monotonic()
    until = begun + seconds
    jobs = [(visit, (url, page, 1 + number, until, length, found)) for number in range(visitors)]
    jobs += [(flood, (url, page, 201, until, found)), (forge, (url, page, 202, until, found))]
    threads = [threading.Thread(target=job, args=arguments) for job, arguments in jobs]
    for thread in threads:
        thread.start()
    for tenth in range(1, 11):
        time.sleep(max(0, begun + seconds * tenth / 10 - time.monotonic()))
        found["memory"].append(memory(process))
    for thread in threads:
        thread.join()
    return found


def report(found: dict) -> str:
    """The figures of a measurement, a line each."""
    lines = [
        f"{len(found['errors'])} errors of visitors",
        *found["errors"][:5],
        f"{len(found['unread'])} events unread",
    ]
    for name in ("first", "chat", "explain", "inside", "evolution", "forged"):
        times = sorted(found[name]) or [float("nan")]
        lines.append(
            f"{name:10} {len(found[name]):5} times; {times[len(times) // 2]:.2f} s median, {times[-1]:.2f} s most"
        )
    used = found["memory"]
    lines.append(f"MB after each tenth of the time: {', '.join(f'{mb:.0f}' for mb in used)}")
    lines.append(f"after the first half between {min(used[5:]):.0f} and {max(used[5:]):.0f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visitors", type=int, default=16, help="default %(default)s")
    parser.add_argument("--seconds", type=float, default=300, help="default %(default)s")
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
        page = app.build_page()
        found = measure(url, page, server.pid, arguments.visitors, arguments.seconds, arguments.length)
    finally:
        server.terminate()
    print(report(found))


if __name__ == "__main__":
    main()
