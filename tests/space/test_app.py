"""The page in a real browser, and its API."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from pathlib import Path

import gradio as gr
import pytest
from gradio_client import Client

from space import app, writer
from tests.conftest import PROJECT, run

ARTIFACTS = PROJECT / "artifacts"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run"
)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def url():
    """The page, served by this process, so that tests can watch its threads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=DeprecationWarning, module="gradio")
        page = app.build_page()
        _, address, _ = page.launch(
            prevent_thread_lock=True, quiet=True, server_port=free_port(), css=app.CSS, theme=app.THEME, ssr_mode=False
        )
    yield address
    page.close()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        assert not os.environ.get("CI"), "Chromium is missing; install it: apt-get install chromium"
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, url):
    """The page as a visitor sees it, which must not complain nor ask any other host for anything."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    visit = context.new_page()
    complaints = []
    visit.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    visit.on("pageerror", lambda error: complaints.append(str(error)))
    visit.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    visit.on(
        "request",
        lambda r: complaints.append(r.url) if r.url.startswith("http") and not r.url.startswith(url) else None,
    )
    visit.goto(url)
    visit.wait_for_selector("#prompt textarea")
    yield visit
    context.close()
    assert not complaints


def bot(page) -> str:
    """The last answer on the page."""
    answers = page.locator("#chat .bot.message")
    return answers.last.inner_text() if answers.count() else ""


def wait_until(condition, seconds: float = 30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def write(page, text: str) -> None:
    page.fill("#prompt textarea", text)
    page.click("#send")


@pytest.mark.browser
def test_a_visitor_chats_stops_and_changes_the_model(page):
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / "space-start.png")
    page.locator("#model").get_by_text("modern", exact=False).first.click()
    # A long text, so that there is time to watch it grow.
    page.get_by_label("number input for Length").fill("1000")
    write(page, "The moon upon the water")
    wait_until(lambda: bot(page).startswith("The moon upon the water"))
    first = bot(page)
    wait_until(lambda: len(bot(page)) > len(first))  # it streams
    page.click("#stop")
    time.sleep(1)
    stopped = bot(page)
    time.sleep(1)
    assert bot(page) == stopped
    assert len(stopped) < 900

    page.locator("#model").get_by_text("bigram", exact=False).click()
    page.get_by_label("number input for Length").fill("100")
    write(page, "The sea")
    wait_until(lambda: bot(page).startswith("The sea") and len(bot(page)) > 60)
    page.wait_for_timeout(500)
    page.screenshot(path=ARTIFACTS / "space-chat.png")
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")  # no scrolling sideways
    page.screenshot(path=ARTIFACTS / "space-phone.png")


@pytest.mark.browser
def test_a_request_an_example_retry_and_undo(page):
    page.get_by_role("button", name="Write me a poem").click()
    wait_until(lambda: page.input_value("#prompt textarea") == "Write me a poem")
    page.get_by_label("number input for Length").fill("60")
    page.keyboard.press("Tab")
    page.locator("#prompt textarea").press("Enter")
    wait_until(lambda: len(bot(page)) > 30 and "poem" not in bot(page)[:20])
    page.wait_for_timeout(1000)
    first = bot(page)
    page.get_by_role("button", name="Retry").click()
    wait_until(lambda: len(bot(page)) > 30 and bot(page) != first)  # seed 0 draws anew
    page.wait_for_timeout(1000)
    page.get_by_role("button", name="Undo").click()
    wait_until(lambda: page.input_value("#prompt textarea") == "Write me a poem")
    assert page.locator("#chat .message").count() == 0


@pytest.mark.browser
def test_text_is_never_taken_for_html(page):
    attack = "<img src=x onerror=alert(1)><script>alert(2)</script><b>bold</b> **stars** &lt; & <i"
    page.get_by_label("number input for Length").fill("50")
    write(page, attack)
    wait_until(lambda: bot(page).startswith(attack) and len(bot(page)) > len(attack))
    page.wait_for_timeout(1000)
    assert page.locator("#chat .message").locator("img, script, b, strong, i").count() == 0
    page.get_by_role("button", name="Undo").click()
    wait_until(lambda: page.input_value("#prompt textarea") == attack)


@pytest.mark.browser
@pytest.mark.parametrize(
    ("text", "words"), [("x" * 100_000, "100,000 characters"), ("   ", "nothing to write on from")]
)
def test_prompt_that_cannot_be_used_is_told_and_kept(page, text, words):
    write(page, text)
    page.get_by_text(words, exact=False).wait_for(timeout=30_000)
    assert page.input_value("#prompt textarea") == text
    write(page, "The moon")
    wait_until(lambda: bot(page).startswith("The moon"))


@pytest.mark.browser
def test_model_that_cannot_be_loaded_is_told_and_the_page_goes_on(page, monkeypatch):
    def broken(served):
        raise writer.UserError("the model X cannot be loaded (truncated); pick another one.")

    with monkeypatch.context() as patch:
        patch.setattr(writer, "load", broken)
        write(page, "The moon")
        page.get_by_text("cannot be loaded (truncated)", exact=False).wait_for(timeout=30_000)
    wait_until(lambda: page.input_value("#prompt textarea") == "The moon")
    page.click("#send")
    wait_until(lambda: bot(page).startswith("The moon"))


@pytest.mark.browser
@pytest.mark.parametrize("way", ["stop", "retry", "leave"])
def test_nothing_goes_on_after_it_was_stopped(page, monkeypatch, way):
    """Neither a thread nor the text itself (gradio#13047, gradio#9449)."""
    state = {"drawn": 0, "open": 0}

    def endless(*args, **kwargs):
        state["open"] += 1
        try:
            while True:
                time.sleep(0.02)
                state["drawn"] += 1
                yield "la "
        finally:
            state["open"] -= 1

    monkeypatch.setattr(writer, "stream_text", endless)
    before = threading.active_count()
    write(page, "Sing")
    wait_until(lambda: "la la la" in bot(page))
    if way == "leave":
        page.close()
    else:
        page.click("#stop")
    if way == "retry":
        page.get_by_role("button", name="Retry").click()
        wait_until(lambda: "la la la" in bot(page))
        page.click("#stop")
    wait_until(lambda: state["open"] == 0)
    drawn = state["drawn"]
    time.sleep(0.5)
    assert state["drawn"] == drawn
    # Gradio's own pool of workers may have grown by those that served the requests, and by no more.
    assert threading.active_count() <= before + 4


def test_api_generates_and_streams(url):
    client = Client(url, verbose=False)
    text = client.predict("The moon", "poetry-gpt", 0.8, 0.95, 60, 7, api_name="/generate")
    assert text.startswith("The moon")
    assert text == client.predict("The moon", "poetry-gpt", 0.8, 0.95, 60, 7, api_name="/generate")
    pieces = list(client.submit("The moon", "poetry-modern", 0.8, 0.95, 600, 7, api_name="/generate"))
    assert len(pieces) > 2
    with pytest.raises(Exception, match="at most 2,000"):
        client.predict("x" * 3000, api_name="/generate")
    with pytest.raises(Exception, match="no model 'gpt-5'"):
        client.predict("The moon", "gpt-5", api_name="/generate")
    assert [name for name in client.view_api(return_format="dict")["named_endpoints"]] == ["/generate"]


def test_waiting_is_bounded():
    queue = app.build_page()._queue
    assert queue.max_size == app.WAITING
    limits = {fn.concurrency_limit for fn in app.build_page().fns.values() if fn.concurrency_id == "writing"}
    assert limits == {app.SIMULTANEOUS}


@pytest.mark.slow
def test_command_serves_within_20_seconds():
    port = free_port()
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "space.app", "--port", str(port)], cwd=PROJECT)
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1) as response:
                    assert b"Ozymandias" in response.read()
                    break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() - started < 20
                time.sleep(0.1)
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize("name", ["nothing/there", "/no/such/folder"])
def test_wrong_name_ends_the_command(name):
    done = run("-m", "space.app", check=False, OZYMANDIAS_MODEL=name)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: the model {name} cannot be loaded")
    assert "Traceback" not in done.stderr


def test_pins_are_what_is_installed_in_the_test_environment():
    """The Space's requirements were tried together: in the environment that ran these tests when they were written."""
    from importlib.metadata import version

    pins = (PROJECT / "space" / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in pins if "==" in line)
    front = (PROJECT / "space" / "README.md").read_text(encoding="utf-8")
    assert f"sdk_version: {pins['gradio']}" in front
    assert set(pins) >= {"torch", "transformers", "gradio", "tokenizers", "safetensors", "huggingface_hub"}
    assert version("gradio").split(".")[0] == pins["gradio"].split(".")[0] == str(gr.__version__).split(".")[0]


def test_the_space_folder_holds_no_secrets_of_this_machine():
    for path in (PROJECT / "space").rglob("*"):
        if path.suffix in (".json", ".md", ".py", ".txt"):
            text = path.read_text(encoding="utf-8")
            assert str(Path.home()) + "/" not in text
            assert str(PROJECT.parent) + "/" not in text
