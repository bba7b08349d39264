"""The page, served by this process, and a browser that looks at it."""

import os
import shutil
import socket
import threading
import time
import warnings
from collections import defaultdict

import pytest

from space import app
from tests.conftest import PROJECT

ARTIFACTS = PROJECT / "artifacts"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run"
)
DESKTOP, PHONE = (1440, 900), (390, 844)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_until(condition, seconds: float = 60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def at_once(call) -> list:
    """What two threads get that call at the same time."""
    found, barrier = [], threading.Barrier(2)

    def wait_and_call():
        barrier.wait()
        found.append(call())

    threads = [threading.Thread(target=wait_and_call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.fixture(scope="session")
def served():
    """The page, served; tests can watch its queue and its threads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=DeprecationWarning, module="gradio")
        page = app.build_page()
        app.launch(page, prevent_thread_lock=True, quiet=True, server_port=free_port())
    yield page
    page.close()


@pytest.fixture(scope="session")
def url(served):
    return served.local_url


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        assert not os.environ.get("CI"), "Chromium is missing; install it: apt-get install chromium"
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def tabs() -> dict[tuple, list]:
    """Tabs of the browser that no test uses now, by their options: one that had the page before loads it faster."""
    return defaultdict(list)


@pytest.fixture
def visit(browser, tabs, url):
    """Open the page as a visitor would; it must not complain, fail at a request nor ask any other host for anything."""
    used, complaints = [], []
    listeners = {
        "console": lambda m: complaints.append(m.text) if m.type == "error" else None,
        "pageerror": lambda error: complaints.append(str(error)),
        "dialog": lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()),
        "request": lambda r: complaints.append(r.url) if is_foreign(r.url, url) else None,
        # A stream that has ended is aborted by the page itself.
        "requestfailed": lambda r: complaints.append(r.url) if r.failure != "net::ERR_ABORTED" else None,
        "response": lambda r: complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None,
    }

    def open_page(size=DESKTOP, dark=False, touch=False, locale="en-US"):
        width, height = size
        options = (size, touch, locale)
        if tabs[options]:
            page = tabs[options].pop()
        else:
            viewport = {"width": width, "height": height}
            page = browser.new_context(viewport=viewport, has_touch=touch, locale=locale).new_page()
        used.append((options, page))
        for event, listener in listeners.items():
            page.on(event, listener)
        page.goto(f"{url}?__theme={'dark' if dark else 'light'}")
        page.wait_for_selector("#prompt textarea")
        return page

    yield open_page
    for options, page in used:
        for event, listener in listeners.items():
            page.remove_listener(event, listener)
        leave(page, url)
        if not page.is_closed():
            tabs[options].append(page)
    assert not complaints


def leave(page, url: str) -> None:
    """End a visit, and clear what the browser has stored of it."""
    for other in page.context.pages:
        if other is not page:
            other.close()
    if page.is_closed():
        page.context.close()
        return
    page.goto(f"{url}robots.txt")  # of the same origin, and without the page's scripts
    page.evaluate("localStorage.clear()")
    page.context.clear_cookies()
    page.context.clear_permissions()


def is_foreign(address: str, url: str) -> bool:
    return address.startswith("http") and not address.startswith(url)


@pytest.fixture
def page(visit):
    return visit()


def bot(page) -> str:
    """The last answer on the page."""
    answers = page.locator("#chat .bot.message")
    return answers.last.inner_text() if answers.count() else ""


def write(page, text: str, length: int | None = None) -> None:
    if length:
        page.get_by_label("number input for Length").fill(str(length))
    page.fill("#prompt textarea", text)
    page.click("#send")


def wait_for_answer(page, beginning: str) -> None:
    """Wait until an answer that begins so is there and whole: only then the page lets it be written anew."""
    retry = page.get_by_role("button", name="Retry")
    wait_until(lambda: bot(page).startswith(beginning) and retry.count() and retry.is_enabled())


def open_tab(page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def picture(page, name: str) -> None:
    """Keep what the page looks like, for people to look at."""
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"space-{name}.png", full_page=True, animations="disabled")
