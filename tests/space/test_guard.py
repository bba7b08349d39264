"""What a hostile, broken or absent client can do: nothing to the others."""

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from space import guard, writer
from tests.space.conftest import wait_until

LINE = ["The moon", "poetry-gpt", 0.8, 0.95, 60, 7]


def visitor(url: str, number: int, **headers) -> httpx.Client:
    """A client with an address of its own, as a proxy on this machine would report it."""
    return httpx.Client(
        base_url=f"{url}gradio_api", headers={"X-Forwarded-For": f"203.0.113.{number}", **headers}, timeout=60
    )


def run(coroutine):
    """Run a coroutine in a thread of its own: Playwright's loop may be running in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def join(client: httpx.Client, data: list, session: str | None = None) -> httpx.Response:
    return client.post("/call/generate", json={"data": data} | ({"session_hash": session} if session else {}))


def read(client: httpx.Client, event: str) -> tuple[float, str]:
    """The seconds until the first piece of an answer, and all of it."""
    begun, first, lines = time.monotonic(), None, []
    with client.stream("GET", f"/call/generate/{event}") as response:
        for line in response.iter_lines():
            lines.append(line)
            if first is None and line.startswith("data: [") and len(line) > 10:
                first = time.monotonic() - begun
    assert "event: complete" in lines, lines
    return first, json.loads(next(line for line in reversed(lines) if line.startswith("data: "))[6:])[0]


@pytest.mark.parametrize(
    ("path", "request_", "status", "words"),
    [
        ("/queue/join", {"content": b'{"data": ["' + b"x" * 2_000_000 + b'"]}'}, 413, "larger than 1,000,000 bytes"),
        ("/call/generate", {"content": b'{"data": ["x", "", NaN]}'}, 400, "not valid JSON"),
        ("/queue/join", {"content": b"[1]"}, 400, "not valid JSON"),
        ("/upload", {"files": {"files": b"x"}}, 415, "takes no files"),
        ("/component_server", {"files": {"files": b"x"}}, 415, "takes no files"),
    ],
)
def test_what_the_page_has_no_use_for_is_refused_with_a_sentence(url, path, request_, status, words):
    answer = visitor(url, 1).post(path, **request_)
    assert (answer.status_code, words in answer.json()["detail"]) == (status, True)
    answer = visitor(url, 1, **{"Accept-Language": "zh-CN"}).post(path, **request_)
    assert any("\u4e00" <= character <= "\u9fff" for character in answer.json()["detail"])


def test_the_queue_cannot_be_skipped(url):
    assert visitor(url, 2).post("/run/generate", json={"data": LINE}).status_code == 404


def test_unread_events_of_one_client_keep_nobody_waiting(url, monkeypatch):
    monkeypatch.setattr(guard, "PATIENCE", 3)
    monkeypatch.setattr(guard, "ABSENT", 4)
    script, other = visitor(url, 3), visitor(url, 4)
    with ThreadPoolExecutor(100) as pool:
        sent = [pool.submit(join, script, ["The sea", "english", 0.8, 0.95, 1000, 7]) for _ in range(300)]
        wait_until(lambda: sum(answer.done() for answer in sent) > 100)
        begun = time.monotonic()
        event = join(other, LINE).json()["event_id"]
        first, text = read(other, event)
        assert time.monotonic() - begun < 5
        assert text.startswith("The moon")
        assert first < 2
        refused = [answer.result().json()["detail"] for answer in sent if answer.result().status_code == 429]
    assert len(refused) > 200
    assert "try again in a moment" in refused[0]


def test_a_class_behind_one_address_is_answered_in_turn(url):
    def ask(number: int) -> str:
        client = visitor(url, 5)
        return read(client, join(client, ["The moon", "poetry-gpt", 0.8, 0.95, 60, 7]).json()["event_id"])[1]

    with ThreadPoolExecutor(20) as pool:
        assert len(set(pool.map(ask, range(20)))) == 1


def test_a_session_has_few_places(served, url, monkeypatch):
    monkeypatch.setattr(guard, "SESSION_PLACES", 2)
    monkeypatch.setattr(guard, "ABSENT", 1)
    monkeypatch.setattr(guard, "PATIENCE", 0.3)
    monkeypatch.setattr(writer, "stream_text", endless)
    client = visitor(url, 6)
    assert [join(client, LINE, "few").status_code for _ in range(3)] == [200, 200, 429]
    client.close()
    wait_until(lambda: not sessions(served, "few"))


def endless(*_, **__):
    while True:
        time.sleep(0.01)
        yield "la "


def sessions(page, *names: str) -> list:
    """What Gradio holds for some sessions: events, and results that were not fetched."""
    queue = page._queue
    events = [event for event in queue.event_ids_to_events.values() if event.session_hash in names]
    return [*events, *(name for name in names if name in queue.pending_messages_per_session)]


@pytest.mark.parametrize("length", ["endless", "short"])
def test_what_an_absent_client_asked_for_is_dropped(served, url, monkeypatch, length):
    """What runs is stopped, what waits goes, and results that nobody fetches are forgotten."""
    monkeypatch.setattr(guard, "ABSENT", 0.5)
    if length == "endless":
        monkeypatch.setattr(writer, "stream_text", endless)
    client = visitor(url, 7)
    for _ in range(4):
        assert join(client, LINE, "absent").status_code == 200
    assert sessions(served, "absent")
    wait_until(lambda: not sessions(served, "absent"), 10)
    client = visitor(url, 7)
    event = join(client, LINE).json()["event_id"]
    wait_until(lambda: not sessions(served, event), 10)


def test_a_reader_who_comes_in_time_gets_everything(served, url, monkeypatch):
    monkeypatch.setattr(guard, "ABSENT", 1)
    client = visitor(url, 8)
    event = join(client, LINE, "patient").json()["event_id"]
    wait_until(lambda: event not in served._queue.event_ids_to_events)  # it is finished before anybody reads it
    assert read(client, event)[1].startswith("The moon")


def test_a_session_is_not_dropped_while_an_event_of_it_comes_in():
    """It has no reader yet: the page opens one when it is told that its event has joined the queue."""
    dropped = []

    class Queue:
        async def clean_events(self, session_hash):
            dropped.append(session_hash)

    async def look() -> bool:
        watch = guard.Guard(None)
        watch.check_later(Queue(), "page")
        watch.entering["session page"] += 1
        watch.check_reader(Queue(), "page")
        await asyncio.sleep(0)
        waits = "page" in watch.timers
        watch.timers["page"].cancel()
        return waits

    assert run(look())
    assert not dropped


def test_calls_of_tools_are_few_for_each_address():
    waiting, end = threading.Semaphore(0), threading.Event()

    async def slow(scope, receive, send):
        waiting.release()
        while not end.is_set():
            await asyncio.sleep(0.01)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def all_calls() -> list[int]:
        client = httpx.AsyncClient(transport=httpx.ASGITransport(guard.Guard(slow)), base_url="http://page")
        calls = [asyncio.create_task(client.post("/gradio_api/mcp/", content=b"{}")) for _ in range(guard.CALLS)]
        while not all([waiting.acquire(blocking=False) for _ in calls]):
            await asyncio.sleep(0.01)
        refused = await client.post("/gradio_api/mcp/", content=b"{}")
        end.set()
        return [refused.status_code, *(answer.status_code for answer in await asyncio.gather(*calls))]

    assert run(all_calls()) == [429] + guard.CALLS * [200]
