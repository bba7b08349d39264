"""Limits on what a browser or a program may send, applied before Gradio reads it.

Gradio has one queue for all visitors. It is first come, first served, and Gradio works through it whether or not
anybody still waits for the results. This ASGI middleware sees every request first:

- A request has at most a megabyte, must be JSON, and carries no file, since nothing here takes one.
- An event joins the queue only while few others of its session and its address are in it. Further events are held
  until there is a place, and refused if too many are held. So one client can never fill the queue.
- Events whose results nobody reads are dropped after a while, and so are results that nobody fetched. (Gradio drops
  them when a connection breaks, but not when none was ever opened.)
- Each address may make only a few calls of MCP tools at once, because each keeps a thread of the server while it waits.

The address is the one that uvicorn reports: the other end of the connection or, if that is a trusted proxy, the last
address in `X-Forwarded-For` that is not a trusted proxy. Loopback is trusted. On Hugging Face every connection comes
from a proxy in a private network; there `app.main` trusts private addresses, so that visitors are counted separately.
Behind any other proxy, name it in the environment variable `FORWARDED_ALLOW_IPS`; otherwise all visitors share the
places of one address and wait for each other.
"""

import asyncio
import json
import time
from collections import Counter

from gradio.queueing import Queue
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from space.language import language_of, say

LARGEST = 1_000_000  # bytes of a request; the longest conversation that the page keeps is smaller
DISCARDED = 32  # a body up to 32 times as large is read and discarded, so that the browser gets an answer
SESSION_PLACES, ADDRESS_PLACES = 4, 6  # events waiting or running; changing the language of a page takes three
HELD = 64  # events of one address that may wait for a place
PATIENCE = 30  # seconds that an event waits for a place
POLL = 0.1  # seconds until it is checked again whether there is a place
ABSENT = 30  # seconds until unread events and results are dropped; a slow phone starts reading after some seconds
CALLS = 4  # MCP calls of one address at once


class Guard:
    """The middleware described at the top of this file. It runs in the server's event loop and needs no locks."""

    def __init__(self, app: ASGIApp):
        self.app = app
        self.entering: Counter[str] = Counter()  # events admitted but not yet in the queue, by session and by address
        self.held: Counter[str] = Counter()  # events, by address
        self.calls: Counter[str] = Counter()  # MCP calls, by address
        self.readers: Counter[str] = Counter()  # open streams of results, by session
        self.timers: dict[str, asyncio.TimerHandle] = {}  # by session
        self.dropping: set[asyncio.Task] = set()  # the event loop itself holds only weak references to tasks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["method"] == "POST":
            await self.post(Request(scope), receive, send)
        elif session := read_session(Request(scope)):
            self.readers[session] += 1
            try:
                await self.app(scope, receive, send)
            finally:
                decrement(self.readers, session)
                self.check_later(queue_of(scope), session)
        else:
            await self.app(scope, receive, send)

    async def post(self, request: Request, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a sentence that says why not."""
        path, address = request.url.path, request.client.host if request.client else ""
        if path.endswith("/upload") or request.headers.get("content-type", "").startswith("multipart/"):
            await refuse(request, receive, send, 415, "no_files")
            return
        body = await read_body(receive)
        if body is None:
            await refuse(request, receive, send, 413, "too_large", most=LARGEST)
        elif path.endswith("/queue/join") or "/call/" in path:
            await self.join(request, address, body, receive, send)
        elif "/mcp" in path:
            await self.call(request, address, body, receive, send)
        else:
            await self.app(request.scope, replay(body, receive), send)

    async def join(self, request: Request, address: str, body: bytes, receive: Receive, send: Send) -> None:
        """Let an event into the queue when there is a place for it."""
        try:
            # Python would accept NaN and the infinities, which are not JSON.
            session = json.loads(body, parse_constant=int).get("session_hash")
        except (ValueError, AttributeError, RecursionError):
            await refuse(request, receive, send, 400, "no_json")
            return
        queue, clients = queue_of(request.scope), [f"address {address}", *([f"session {session}"] if session else [])]
        if not await self.wait_for_place(queue, address, session, receive):
            await refuse(request, receive, send, 429, "busy")
            return
        self.entering.update(clients)
        response = bytearray()

        async def record_and_send(message: Message) -> None:
            response.extend(message.get("body", b""))
            await send(message)

        try:
            await self.app(request.scope, replay(body, receive), record_and_send)
        finally:
            for name in clients:
                decrement(self.entering, name)
        if session or b"event_id" in response:
            self.check_later(queue, session or json.loads(response)["event_id"])

    async def wait_for_place(self, queue: Queue, address: str, session: str | None, receive: Receive) -> bool:
        """Hold an event until its session and its address have a place; `False` if there is none in time."""
        if self.held[address] >= HELD:
            return False
        self.held[address] += 1
        until = time.monotonic() + PATIENCE
        try:
            while not self.has_place(queue, address, session):
                if time.monotonic() > until or await is_gone(receive):
                    return False
            return True
        finally:
            decrement(self.held, address)

    def has_place(self, queue: Queue, address: str, session: str | None) -> bool:
        events = list(queue.event_ids_to_events.values())  # waiting and running
        of_session = sum(event.session_hash == session for event in events) + self.entering[f"session {session}"]
        here = sum(event.request.client is not None and event.request.client.host == address for event in events)
        return of_session < SESSION_PLACES and here + self.entering[f"address {address}"] < ADDRESS_PLACES

    async def call(self, request: Request, address: str, body: bytes, receive: Receive, send: Send) -> None:
        """Pass a request on to the MCP server. The tool it calls joins the queue with a request of its own."""
        if self.calls[address] >= CALLS:
            await refuse(request, receive, send, 429, "busy")
            return
        self.calls[address] += 1
        try:
            await self.app(request.scope, replay(body, receive), send)
        finally:
            decrement(self.calls, address)

    def check_later(self, queue: Queue, session: str) -> None:
        """Check in a while whether anybody reads the results of a session, and drop them if not."""
        if timer := self.timers.pop(session, None):
            timer.cancel()
        self.timers[session] = asyncio.get_running_loop().call_later(ABSENT, self.check_reader, queue, session)

    def check_reader(self, queue: Queue, session: str) -> None:
        del self.timers[session]
        if self.entering[f"session {session}"]:
            self.check_later(queue, session)
        elif not self.readers[session]:
            task = asyncio.create_task(self.drop(queue, session))
            self.dropping.add(task)
            task.add_done_callback(self.dropping.discard)

    async def drop(self, queue: Queue, session: str) -> None:
        """Remove the events of a session from the queue, stop those that run, and discard its results."""
        await queue.clean_events(session_hash=session)
        if not self.readers[session]:
            queue.pending_messages_per_session.pop(session, None)
            queue.pending_event_ids_session.pop(session, None)


def queue_of(scope: Scope) -> Queue:
    return scope["app"].get_blocks()._queue


def read_session(request: Request) -> str | None:
    """The session whose results a request reads; `None` for a request that reads none."""
    path = request.url.path
    if path.endswith("/queue/data"):
        return request.query_params.get("session_hash")
    if "/call/" not in path:
        return None
    event, queue = path.rstrip("/").rpartition("/")[2], queue_of(request.scope)
    if event in queue.event_ids_to_events:
        return queue.event_ids_to_events[event].session_hash
    return next((session for session, events in queue.pending_event_ids_session.items() if event in events), event)


def decrement(counter: Counter[str], name: str) -> None:
    """Subtract 1, and remove a name at 0, so that the counter does not grow with every visitor."""
    counter[name] -= 1
    if counter[name] <= 0:
        del counter[name]


async def read_body(receive: Receive) -> bytes | None:
    """The body of a request, or `None` if it is too large or the client has disconnected."""
    body, size, more = bytearray(), 0, True
    while more and size <= DISCARDED * LARGEST:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        more, size = message.get("more_body", False), size + len(message.get("body", b""))
        if size <= LARGEST:
            body += message.get("body", b"")
    return bytes(body) if size <= LARGEST else None


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns a body that was already read."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


async def is_gone(receive: Receive) -> bool:
    """Wait up to [`POLL`] seconds, and return whether the client of a request has disconnected."""
    try:
        return (await asyncio.wait_for(receive(), POLL))["type"] == "http.disconnect"
    except TimeoutError:
        return False


async def refuse(request: Request, receive: Receive, send: Send, status: int, key: str, **values) -> None:
    """Answer with a sentence in the browser's preferred language; the page shows it."""
    sentence = say(language_of(request), key, **values)
    await JSONResponse({"detail": sentence}, status)(request.scope, receive, send)
