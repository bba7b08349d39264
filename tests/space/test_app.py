"""The page as a whole: its API, its limits, its command, whether everybody can use it."""

import json
import os
import re
import string
import subprocess
import sys
import threading
import time
from inspect import signature
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from space import api, app, writer
from space.language import TEXTS
from space.tabs import write as write_tab
from tests.conftest import PROJECT
from tests.forks import run_forked
from tests.space import visitors
from tests.space.conftest import DESKTOP, PHONE, free_port, open_tab, picture, wait_for_answer, wait_until, write


@pytest.mark.browser
@pytest.mark.parametrize(("name", "size"), [("desktop", DESKTOP), ("phone", PHONE)])
def test_everybody_can_use_every_tab(visit, name, size):
    """No serious violation by axe-core in either theme, nothing beyond a phone's edge; and a picture of each tab."""
    from axe_playwright_python.sync_playwright import Axe

    page = visit(size)

    def look(tab: str) -> None:
        for theme in ("dark", "light"):
            set_theme(page, theme)
            found = Axe().run(page).response["violations"]
            assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            picture(page, f"{tab}-{name}-{theme}")

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


def set_theme(page, theme: str) -> None:
    """Switch as `?__theme=` does, and wait until the colours no longer change."""
    page.evaluate("dark => document.body.classList.toggle('dark', dark)", theme == "dark")
    page.evaluate("Promise.all(document.getAnimations().filter(a => a instanceof CSSTransition).map(a => a.finished))")


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
    wait_for_answer(page, "The sea")
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
    framed = page.frame_locator("iframe").locator("#prompt textarea")
    framed.fill("The moon")
    assert framed.input_value() == "The moon"


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


@pytest.fixture(scope="module")
def client(url):
    return Client(url, verbose=False)


def test_api_generates(client):
    text = client.predict("The moon", "poetry-gpt", 0.8, 0.95, 60, 7, api_name="/generate")
    assert text.startswith("The moon")
    assert text == client.predict("The moon", "poetry-gpt", 0.8, 0.95, 60, 7, api_name="/generate")
    pieces = list(client.submit("The moon", "poetry-modern", 0.8, 0.95, 300, 7, api_name="/generate"))
    assert len(pieces) > 2
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {"/generate", "/tokens", "/attention"}


def test_api_scores_tokens(client):
    scored = client.predict("The moon", "poetry-gpt", api_name="/tokens")
    assert "".join(token["text"] for token in scored).replace("␣", " ") == "The moon"
    assert scored[0]["probability"] is None
    assert all(2 ** -token["bits"] == pytest.approx(token["probability"]) for token in scored[1:])


def test_api_shows_attention(client):
    """Also of an encoder-decoder, which has no text yet and writes one."""
    seen = client.predict("The moon", "poetry-gpt", 2, 3, api_name="/attention")
    assert [sum(row) for row in seen["weights"]] == pytest.approx([1] * len(seen["tokens"]))
    assert len(seen["tokens"]) == len("The moon")
    assert set(seen) == {"tokens", "weights"}
    source = "Dorothy lived in Kansas"
    seen = client.predict("", "oz-next-passage", 1, 1, source, api_name="/attention")
    assert "".join(seen["source_tokens"]).replace("␣", " ") == source
    assert len(seen["source_weights"]) == len(seen["weights"]) == len(seen["tokens"])
    assert [sum(row) for row in seen["source_weights"]] == pytest.approx([1] * len(seen["tokens"]))
    assert {len(row) for row in seen["source_weights"]} == {len(source)}


@pytest.mark.parametrize(
    ("endpoint", "given", "words"),
    [
        ("/generate", {"temperature": "hot"}, "temperature must be 0 or a number from 0.01 to 2, not 'hot'"),
        ("/generate", {"temperature": 1e-40}, "temperature must be"),
        ("/generate", {"top_p": None}, "top_p must be a number from 0.01 to 1, not \"\"|not ''"),
        ("/generate", {"length": 1e9}, "length must be a whole number from 1 to 1,000"),
        ("/generate", {"seed": -1}, "seed must be a whole number from 0"),
        ("/generate", {"prompt": ["The moon"]}, r"text must be a string, not \['The moon'\]"),
        ("/generate", {"prompt": "x" * 3000}, "at most 2,000"),
        ("/generate", {"model": "gpt-5"}, "no model 'gpt-5'"),
        ("/generate", {"model": ["english"]}, r"no model \['english'\]"),
        ("/tokens", {"text": 5}, "text must be a string, not 5"),
        ("/tokens", {"text": " "}, "nothing to continue"),
        ("/tokens", {"model": "oz-encoder"}, r"no model 'oz-encoder'; pick one of english, (?!.*oz)"),
        ("/attention", {"layer": 5}, "no head 1 in layer 5: this model has 4 layers of 4 heads, both counted from 1"),
        ("/attention", {"layer": "last"}, "no head 1 in layer 'last'"),
        ("/attention", {"head": 0}, "no head 0 in layer 1"),
        ("/attention", {"text": ""}, "no text to read"),
        ("/attention", {"source": "Oz"}, "not an encoder-decoder"),
        ("/attention", {"source": 7}, "text must be a string, not 7"),
        ("/attention", {"model": "oz-next-passage"}, "no source to read"),
        ("/attention", {"model": "poetry-bigram"}, "This model has no attention"),
    ],
)
def test_api_tells_in_a_sentence_what_is_wrong(client, capfd, endpoint, given, words):
    text = "prompt" if endpoint == "/generate" else "text"
    with pytest.raises(AppError, match=words):
        client.predict(**{text: "The moon", "model": "poetry-gpt", **given}, api_name=endpoint)
    assert "Traceback" not in capfd.readouterr().err


def ask(url: str, endpoint: str, text: str) -> str:
    """Ask the API as a program without Gradio's client does; returns the id of the event."""
    _, *others = signature(getattr(api, endpoint)).parameters.values()
    data = json.dumps({"data": [text, *(other.default for other in others)]}).encode()
    headers = {"Content-Type": "application/json"}
    with urlopen(Request(f"{url}gradio_api/call/{endpoint}", data, headers), timeout=30) as response:
        return json.load(response)["event_id"]


def hear(url: str, endpoint: str, event: str) -> str:
    """All that the API has to say to an event, until it has ended."""
    with urlopen(f"{url}gradio_api/call/{endpoint}/{event}", timeout=60) as response:
        return response.read().decode()


@pytest.mark.parametrize("endpoint", ["generate", "tokens", "attention"])
def test_half_a_character_is_refused_and_told(url, endpoint):
    """A lone surrogate in an answer cannot be encoded, and the stream of answers would end without a word."""
    assert "half a character" in hear(url, endpoint, ask(url, endpoint, "moon \ud83d"))


def test_the_same_functions_are_tools_of_an_mcp_server(url):
    with urlopen(f"{url}gradio_api/mcp/schema") as response:
        tools = {tool["name"]: tool for tool in json.load(response)}
    assert set(tools) == {"generate", "tokens", "attention"}
    for tool in tools.values():
        assert "Returns: " in tool["description"]
        assert ":," not in tool["description"]
        described = {name: field["description"] for name, field in tool["inputSchema"]["properties"].items()}
        assert all(text.endswith(".") for text in [tool["description"], *described.values()])  # none is cut
        assert not any(word in tool["description"] for word in ("nothing, ", "each, ", "that, ", "which, add"))
        (required,) = tool["inputSchema"]["required"]
        assert required in ("prompt", "text")
        for name, field in tool["inputSchema"]["properties"].items():
            assert (
                name == required or field["default"] == signature(getattr(api, tool["name"])).parameters[name].default
            )


@pytest.mark.slow
def test_many_visitors_in_all_tabs_with_hostile_clients_among_them(served, url):
    found = visitors.measure(url, served, os.getpid(), visitors=16, seconds=10, length=30)
    print(visitors.report(found))
    assert found["errors"] == []
    assert all(len(found[tab]) >= 4 for tab in ("chat", "explain", "inside", "evolution"))
    assert len(found["unread"]) > 10
    assert max(found["first"]) < 10  # and under 5 on an idle machine, by `python -m tests.space.visitors`


def test_waiting_is_bounded(monkeypatch):
    """One writes, two wait, and the next one is refused at once; those who waited get their answers."""
    begun, go_on = threading.Event(), threading.Event()

    def wait(*_, **__):
        begun.set()
        assert go_on.wait(60)
        yield "!"

    monkeypatch.setattr(writer, "stream_text", wait)
    monkeypatch.setattr(app, "SIMULTANEOUS", 1)
    monkeypatch.setattr(app, "WAITING", 2)
    page = app.build_page()
    _, address, _ = app.launch(page, prevent_thread_lock=True, quiet=True, server_port=free_port())
    try:
        events = [ask(address, "generate", "The moon")]
        assert begun.wait(60)
        events += [ask(address, "generate", "The moon") for _ in range(2)]
        with pytest.raises(HTTPError, match="503") as refused:
            ask(address, "generate", "The moon")
        assert "Queue is full" in refused.value.read().decode()
        go_on.set()
        assert all('"The moon!"' in hear(address, "generate", event) for event in events)
    finally:
        go_on.set()
        page.close()


def test_the_page_has_these_limits():
    page, writing = app.build_page(), write_tab.SIMULTANEOUS
    queue = page._queue
    assert (queue.max_size, writing) == (256, 32)
    assert queue.ANALYTICS_MAX_EVENTS <= 100
    limits = {fn.concurrency_limit for fn in page.fns.values() if fn.concurrency_id in ("writing", "programs")}
    assert limits == {writing}


@pytest.mark.slow
def test_command_serves_within_20_seconds(tmp_path):
    port = free_port()
    environment = {**os.environ, "OZYMANDIAS_CORPORA": str(tmp_path)}  # so that it fetches no texts
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "space.app", "--port", str(port)], cwd=PROJECT, env=environment)
    try:
        while True:
            try:
                with urlopen(f"http://127.0.0.1:{port}/", timeout=20) as response:
                    assert b"Ozymandias" in response.read()
                    break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() - started < 20
                time.sleep(0.1)
    finally:
        process.terminate()
        process.wait(10)


def test_wrong_name_ends_the_command():
    done = run_forked("-m", "space.app", check=False, OZYMANDIAS_MODEL="nothing/there")
    assert done.returncode == 1
    assert "\nnothing/there cannot be loaded: " in f"\n{done.stderr}"
    assert done.stderr.strip().splitlines()[-1].startswith("error: The model nothing/there cannot")
    assert "Traceback" not in done.stderr


def test_a_wrong_folder_ends_the_command_with_the_one_that_was_meant(trained):
    done = run_forked("-m", "space.app", check=False, OZYMANDIAS_MODEL=trained)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: {trained} is no checkpoint: it has no config.json")
    assert f"did you mean {trained / 'best'}?" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_pin_of_the_space_is_the_projects():
    """The versions of `constraints.txt` are those that the tests ran with."""
    constraints = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)$", (PROJECT / "constraints.txt").read_text()))
    requirements = (PROJECT / "space" / "requirements.txt").read_text().splitlines()
    pins = dict(line.replace("[mcp]", "").split("==") for line in requirements if not line.startswith("#"))
    assert pins == {name: constraints.get(name) for name in pins}
    assert set(pins) >= {"torch", "transformers", "gradio", "tokenizers", "safetensors", "huggingface_hub"}
    front = (PROJECT / "space" / "README.md").read_text(encoding="utf-8")
    assert f"sdk_version: {pins['gradio']}\n" in front


def test_the_space_folder_holds_no_secrets_of_this_machine():
    for path in (PROJECT / "space").rglob("*"):
        if path.suffix in (".json", ".md", ".py", ".txt"):
            text = path.read_text(encoding="utf-8")
            assert str(Path.home()) + "/" not in text
            assert str(PROJECT.parent) + "/" not in text
