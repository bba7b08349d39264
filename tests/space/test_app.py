"""The page as a whole: its API, its limits, its command, whether everybody can use it."""

import json
import os
import string
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import gradio as gr
import pytest
from gradio_client import Client

from space import app, write_tab
from space.words import TEXTS
from tests.conftest import PROJECT, run
from tests.space import visitors
from tests.space.conftest import DESKTOP, PHONE, bot, free_port, open_tab, picture, wait_until, write


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("name", "size"), [("desktop", DESKTOP), ("phone", PHONE)])
def test_everybody_can_use_every_tab(visit, name, size, dark):
    """No serious violation by axe-core, nothing beyond the edge of a phone; and a picture of each tab."""
    from axe_playwright_python.sync_playwright import Axe

    page = visit(size, dark)

    def look(tab: str) -> None:
        found = Axe().run(page).response["violations"]
        assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        picture(page, f"{tab}-{name}-{'dark' if dark else 'light'}")

    page.locator("#explain input").check()
    write(page, "The moon upon the water", 100)
    page.locator("#originality").get_by_text("Originality").wait_for()
    page.locator("#explanation .js-plotly-plot").wait_for()
    page.mouse.move(0, 0)
    look("write")
    open_tab(page, "Look inside")
    page.locator("#heat .js-plotly-plot").wait_for()
    look("inside")
    open_tab(page, "Evolution")
    page.click("#five-run")
    page.click("#lab-run")
    wait_until(lambda: len(page.locator("[id^=box-poetry] textarea").last.input_value()) > 100)
    page.locator("#lab-bytes .token").first.wait_for()
    look("evolution")


@pytest.mark.browser
def test_every_control_is_reached_by_the_keyboard(page):
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("(document.activeElement.closest('[id]:not([id^=component])') || {}).id"))
    assert {"prompt", "send", "stop", "model", "explain", "language"} <= reached
    page.get_by_role("tab", name="Look inside").focus()
    page.keyboard.press("Enter")
    page.locator("#inside-text textarea").wait_for()


@pytest.mark.browser
@pytest.mark.slow
def test_the_first_text_comes_at_once(page):
    """Within half a second on an idle machine; here others compute too."""
    write(page, "The sea", 50)  # loads what is loaded once
    wait_until(lambda: bot(page).startswith("The sea"))
    page.wait_for_timeout(2000)
    page.fill("#prompt textarea", "The moon")
    seconds = page.evaluate(
        """() => new Promise(resolve => {
            const begun = performance.now();
            const timer = setInterval(() => {
                const answers = [...document.querySelectorAll("#chat .bot.message")];
                if (answers.some(answer => answer.innerText.startsWith("The moon"))) {
                    clearInterval(timer);
                    resolve((performance.now() - begun) / 1000);
                }
            }, 5);
            document.querySelector("#send").click();
        })"""
    )
    print(f"first text after {seconds:.2f} s")
    assert seconds < 2


def test_the_page_can_stand_in_another_page(page, url):
    page.set_content(f'<iframe src="{url}" width="900" height="600" title="Ozymandias"></iframe>')
    page.frame_locator("iframe").locator("#prompt textarea").wait_for()


def test_both_languages_say_the_same_things():
    def places(text) -> list:
        return sorted(field for _, field, _, _ in string.Formatter().parse(text) if field)

    english, chinese = TEXTS["en"], TEXTS["zh"]
    assert {name: set(words) for name, words in english["components"].items()} == {
        name: set(words) for name, words in chinese["components"].items()
    }
    assert {key: places(text) for key, text in english["sentences"].items()} == {
        key: places(text) for key, text in chinese["sentences"].items()
    }


def test_api_generates_and_looks_inside(url):
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

    scored = client.predict("The moon", "poetry-gpt", api_name="/tokens")
    assert "".join(token["text"] for token in scored).replace("␣", " ") == "The moon"
    assert scored[0]["probability"] is None
    assert all(2 ** -token["bits"] == pytest.approx(token["probability"]) for token in scored[1:])
    seen = client.predict("The moon", "poetry-gpt", 2, 3, api_name="/attention")
    assert [sum(row) for row in seen["weights"]] == pytest.approx([1] * len(seen["tokens"]))
    with pytest.raises(Exception, match="4 layers of attention with 4 heads each"):
        client.predict("The moon", "poetry-gpt", 5, 1, api_name="/attention")
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {"/generate", "/tokens", "/attention"}


def test_the_same_functions_are_tools_of_an_mcp_server(url):
    with urllib.request.urlopen(f"{url}gradio_api/mcp/schema") as response:
        tools = {tool["name"]: tool for tool in json.load(response)}
    assert set(tools) == {"generate", "tokens", "attention"}
    for tool in tools.values():
        assert len(tool["description"]) > 40
        assert all(field.get("description") for field in tool["inputSchema"]["properties"].values())


@pytest.mark.slow
def test_many_visitors_in_all_tabs_with_hostile_clients_among_them(served, url):
    found = visitors.measure(url, served, os.getpid(), visitors=16, seconds=10, length=30)
    print(visitors.report(found))
    assert found["errors"] == []
    assert all(len(found[tab]) >= 4 for tab in ("chat", "explain", "inside", "evolution"))
    assert len(found["unread"]) > 10
    assert max(found["first"]) < 10  # and under 5 on an idle machine, by `python -m tests.space.visitors`


def test_waiting_is_bounded():
    queue = app.build_page()._queue
    assert queue.max_size == app.WAITING
    assert queue.ANALYTICS_MAX_EVENTS <= 100
    limits = {fn.concurrency_limit for fn in app.build_page().fns.values() if fn.concurrency_id == "writing"}
    assert limits == {write_tab.SIMULTANEOUS}


@pytest.mark.slow
def test_command_serves_within_20_seconds(tmp_path):
    port = free_port()
    environment = {**os.environ, "OZYMANDIAS_CORPORA": str(tmp_path)}  # so that it fetches no texts
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "space.app", "--port", str(port)], cwd=PROJECT, env=environment)
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
    pins = dict(line.replace("[mcp]", "").split("==") for line in pins if "==" in line)
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
