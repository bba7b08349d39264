"""The chat, and what is shown under an answer, in a real browser."""

import threading
import time

import pytest

from space import writer
from space.tabs.write import STORED
from tests.space.conftest import PHONE, bot, wait_for_answer, wait_until, write

pytestmark = pytest.mark.browser


def test_a_visitor_chats_stops_and_changes_the_model(page, monkeypatch):
    ended = threading.Event()

    def slowly(*asked, write=writer.stream_text, **how):
        """A long text, slowly, so that there is time to watch it grow on a busy machine too."""
        try:
            for piece in write(*asked, **how):
                time.sleep(0.005)
                yield piece
        finally:
            ended.set()

    monkeypatch.setattr(writer, "stream_text", slowly)
    page.locator("#model").get_by_text("modern", exact=False).first.click()
    page.get_by_label("number input for Length").fill("1000")
    write(page, "The moon upon the water")
    wait_until(lambda: bot(page).startswith("The moon upon the water"))
    first = bot(page)
    wait_until(lambda: len(bot(page)) > len(first))  # it streams
    page.click("#stop")
    wait_for_answer(page, first)
    assert ended.wait(60)
    assert len(bot(page)) < 900

    page.locator("#model").get_by_text("bigram", exact=False).click()
    page.get_by_label("number input for Length").fill("100")
    write(page, "The sea")
    wait_until(lambda: bot(page).startswith("The sea") and len(bot(page)) > 60)


def test_a_request_an_example_retry_and_undo(page):
    page.get_by_role("button", name="Write me a poem").click()
    wait_until(lambda: page.input_value("#prompt textarea") == "Write me a poem")
    page.get_by_label("number input for Length").fill("60")
    page.keyboard.press("Tab")
    page.locator("#prompt textarea").press("Enter")
    wait_for_answer(page, "")
    first = bot(page)
    assert len(first) > 30
    assert "poem" not in first[:20]
    page.get_by_role("button", name="Retry").click()
    wait_until(lambda: len(bot(page)) > 30 and bot(page) != first)  # seed 0 draws anew
    wait_for_answer(page, "")
    page.get_by_role("button", name="Undo").click()
    wait_until(lambda: page.input_value("#prompt textarea") == "Write me a poem")
    assert page.locator("#chat .message").count() == 0


def test_an_edited_line_is_answered_anew_and_what_came_after_it_goes(page):
    for line in ("The moon", "The sea"):
        write(page, line, 50)
        wait_for_answer(page, line)
    page.get_by_role("button", name="Edit").first.click()
    page.locator("#chat textarea").fill("The stars")
    page.get_by_role("button", name="Submit").click()
    wait_until(lambda: bot(page).startswith("The stars"))
    assert page.locator("#chat .bot.message").count() == 1


def test_a_conversation_and_a_language_are_kept_by_the_browser(page):
    write(page, "The moon", 50)
    wait_for_answer(page, "The moon")
    told = bot(page)
    page.wait_for_function("key => localStorage.getItem(key)", arg=STORED)
    page.locator("#model").get_by_text("Poetry 1: bigram").click()
    page.locator("#language").get_by_text("中文").click()
    page.get_by_role("tab", name="写作").wait_for()
    page.locator("#model").get_by_text("英文诗 1：bigram").wait_for()
    assert page.locator("#model input:checked").input_value() == "poetry-bigram"
    page.wait_for_function("localStorage.getItem('ozymandias-language')")
    again = page.context.new_page()
    again.goto(page.url)
    again.get_by_role("tab", name="写作").wait_for()
    wait_until(lambda: bot(again) == told)
    write(again, " ")
    again.get_by_text("没有可接着写的").wait_for()


def test_a_browser_that_asks_for_chinese_gets_it(visit):
    page = visit(locale="zh-CN")
    page.get_by_role("tab", name="写作").wait_for()
    page.get_by_role("button", name="写一首七言绝句").click()
    wait_until(lambda: page.input_value("#prompt textarea").startswith("写一首"))
    assert page.get_attribute("#prompt textarea", "placeholder").startswith("起一句")
    page.locator("#explain input").check()
    page.click("#send")
    page.locator("#answer-tokens .remark").get_by_text("7 + 7").first.wait_for()
    page.locator("#answer-tokens .token").nth(3).click()
    page.locator("#heat .js-plotly-plot").wait_for()
    assert page.input_value("#inside-model input").startswith("中文")
    assert "七言绝句：月" in page.input_value("#inside-text textarea")  # what the model was given is shown too


def test_why_an_answer_was_written_so_and_another_way_to_go_on(page):
    """Shading and alternatives, from a token to the look inside, and with another token back to the chat."""
    page.locator("#explain input").check()
    page.get_by_text("no answer to look at yet").wait_for()
    write(page, "The moon upon the water", 50)
    tokens = page.locator("#answer-tokens .token")
    wait_until(lambda: tokens.count() > 20)
    tokens.nth(6).hover()
    card = page.locator("#answer-tokens .card")
    assert "bits" in card.inner_text()
    assert card.locator("tr").count() == 5
    assert page.locator("#answer-tokens .remark").first.inner_text().endswith("syllables")
    page.get_by_text("Originality", exact=False).wait_for()
    before = bot(page)
    tokens.nth(6).click()
    page.locator("#alternative").wait_for()
    wait_until(lambda: page.locator("#heads button").count() > 3)  # attention of this very text is there
    page.locator("#heat .js-plotly-plot").wait_for()  # from here on nothing on the page moves
    assert before.startswith(page.input_value("#inside-text textarea"))
    choice = page.locator("#alternative label").first
    taken = choice.inner_text().rsplit("  ", 1)[0].rsplit(" ", 1)[0]
    choice.locator("input").check()
    page.click("#go-on")
    # Of a tab that is not shown, the browser tells the text without its line ends.
    wait_until(lambda: page.get_by_role("tab", name="Write").get_attribute("aria-selected") == "true")
    wait_until(lambda: bot(page) and bot(page) != before)
    assert page.locator("#chat .bot.message").count() == 1
    assert taken.strip("⏎␣ ") in bot(page)


def test_an_answer_is_explained_by_finger_and_by_keyboard(visit):
    page = visit(PHONE, touch=True)
    page.locator("#explain input").check()
    write(page, "The moon upon the water", 50)
    tokens = page.locator("#answer-tokens .token")
    wait_until(lambda: tokens.count() > 20)
    told = page.locator("#originality")
    wait_until(lambda: "Originality" in told.inner_text() and "Comparing" not in told.inner_text())  # drawn for good
    tokens.nth(3).tap()
    assert page.locator("#answer-tokens .card tr").count() == 5
    assert page.get_by_role("tab", name="Write").get_attribute("aria-selected") == "true"  # the first tap only shows
    tokens.nth(0).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.token.index") == 2
    page.keyboard.press("Enter")
    page.locator("#alternative").wait_for()


def test_an_earlier_answer_can_be_looked_at(page):
    for line in ("The moon", "The sea"):
        write(page, line, 50)
        wait_for_answer(page, line)
    page.locator("#explain input").check()
    wait_until(lambda: page.locator("#answer-tokens").inner_text().startswith("The sea"))
    page.locator("#chat .bot.message").first.click()
    wait_until(lambda: page.locator("#answer-tokens").inner_text().startswith("The moon"))
    assert page.locator("#answer input").input_value().startswith("1. The moon")


def test_what_a_model_writes_is_never_taken_for_html(page, monkeypatch):
    monkeypatch.setattr(writer, "stream_text", lambda *_, **__: iter(["<img src=x onerror=alert(1)>", "<b>x</b>"]))
    page.locator("#explain input").check()
    write(page, "The moon")
    wait_until(lambda: bot(page).endswith("<b>x</b>"))
    wait_until(lambda: page.locator("#answer-tokens .token").count() > 5)
    assert page.locator("#chat .message, #answer-tokens").locator("img, b").count() == 0


def test_two_hundred_clicks_a_second_do_no_harm(page, visit, monkeypatch):
    """One who hammers at the button gets one answer, and meanwhile everybody else gets theirs."""
    asked, go_on = [], threading.Event()

    def write_when_told(model, tokenizer, prompt, **how):
        asked.append(prompt)
        assert prompt != "The moon" or go_on.wait(60)
        yield from (" is", " there")

    monkeypatch.setattr(writer, "stream_text", write_when_told)
    page.fill("#prompt textarea", "The moon")
    page.evaluate(
        "new Promise(end => { let left = 200; const timer = setInterval(() => {"
        "document.querySelector('#send').click(); if (!--left) { clearInterval(timer); end(); } }, 5) })"
    )
    other = visit()
    write(other, "The sea")
    wait_for_answer(other, "The sea is there")
    assert bot(page) == ""
    go_on.set()
    wait_for_answer(page, "The moon is there")
    assert page.locator("#chat .message-content").all_inner_texts() == ["The moon", "The moon is there"]
    assert sorted(asked) == ["The moon", "The sea"]


ODD_TEXTS = (
    "<img src=x onerror=alert(1)><script>alert(2)</script><b>bold</b> <i",
    "R&D, &amp; and &lt; and &copy, I </3 you <!-- a remark --> <a<b>",
    "<|begin|> <think>no</think> <poem>",
    "# Title\n\n  two spaces, **stars**, `code`, [here](https://example.org)\n- item\n$$x^2$$ and \\(y\\)",
)


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_a_text_is_shown_edited_and_copied_as_it_was_typed(page, text, monkeypatch):
    """Gradio makes HTML of a chat's messages, also without Markdown."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    monkeypatch.setattr(writer, "stream_text", lambda *_, **__: iter([" ", *text]))

    def copied(button) -> str:
        page.evaluate("navigator.clipboard.writeText('')")
        button.click()
        page.wait_for_function("navigator.clipboard.readText()")
        return page.evaluate("navigator.clipboard.readText()")

    answer, messages = f"{text} {text}", page.locator("#chat .message-content")
    write(page, text)
    wait_until(lambda: messages.all_text_contents() == [text, answer])
    wait_for_answer(page, text[:5])
    assert messages.locator("img, script, b, strong, i, a, code, h1, li, .katex, poem").count() == 0
    buttons = page.get_by_role("button", name="Copy message")
    assert [copied(buttons.nth(n)) for n in range(2)] == [text, answer]
    assert copied(page.get_by_role("button", name="Copy conversation")) == f"user: {text}\n\nassistant: {answer}"

    page.get_by_role("button", name="Edit").click()
    assert page.locator("#chat textarea").input_value() == text
    page.get_by_role("button", name="Submit").click()
    page.get_by_role("button", name="Retry").wait_for()
    wait_until(lambda: messages.all_text_contents() == [text, answer])
    page.get_by_role("button", name="Undo").click()
    wait_until(lambda: page.input_value("#prompt textarea") == text)


def test_half_a_character_does_not_end_the_visit(page):
    """A lone surrogate cannot be sent back: the stream of answers would end, and nothing came any more."""
    box = page.locator("#prompt textarea")
    box.evaluate("box => { box.value = 'The moon \\ud83d'; box.dispatchEvent(new Event('input')) }")
    page.click("#send")
    page.get_by_text("half a character").wait_for()
    write(page, "The moon", 50)
    wait_until(lambda: len(bot(page)) > len("The moon"))
    page.get_by_role("button", name="Edit").click()
    box = page.locator("#chat textarea")
    box.evaluate("box => { box.value = 'The sun \\ud83d'; box.dispatchEvent(new Event('input')) }")
    page.get_by_role("button", name="Submit").click()
    wait_until(lambda: page.input_value("#prompt textarea") == "The sun ?")
    assert page.locator("#chat .message").count() == 0


def test_a_token_of_an_answer_that_is_written_anew_is_told(page, monkeypatch):
    """The tokens that are shown are those of the answer before, until the new one is there."""
    go_on, answers = threading.Event(), iter([["on", "ce upon a time there was"], ["ne", "ver"]])

    def write_slowly(*_, **__):
        first, rest = next(answers)
        yield first
        assert first == "on" or go_on.wait(60)
        yield rest

    monkeypatch.setattr(writer, "stream_text", write_slowly)
    monkeypatch.setattr(writer, "TURN", 0)
    page.locator("#explain input").check()
    write(page, "The moon ")
    tokens = page.locator("#answer-tokens .token")
    wait_until(lambda: tokens.count() > 4)
    page.get_by_role("button", name="Retry").click()
    wait_until(lambda: bot(page) == "The moon ne")
    tokens.last.click()
    page.get_by_text("This text has changed").wait_for()
    go_on.set()
    wait_until(lambda: page.locator("#answer-tokens").inner_text().startswith("The moon never"))
    assert page.get_by_role("tab", name="Write").get_attribute("aria-selected") == "true"


@pytest.mark.parametrize(("text", "words"), [("x" * 100_000, "100,000 characters"), ("   ", "nothing to continue")])
def test_prompt_that_cannot_be_used_is_told_and_kept(page, text, words):
    write(page, text)
    page.get_by_text(words, exact=False).wait_for(timeout=30_000)
    assert page.input_value("#prompt textarea") == text
    write(page, "The moon")
    wait_until(lambda: bot(page).startswith("The moon"))


def test_an_emptied_seed_is_told_and_the_prompt_kept(page):
    page.get_by_label("Seed").fill("")
    write(page, "The moon")
    page.get_by_text("The seed must be a whole number").wait_for()
    wait_until(lambda: page.input_value("#prompt textarea") == "The moon")
    page.locator("#language").get_by_text("中文").click()
    page.get_by_role("tab", name="写作").wait_for()
    page.click("#send")
    page.get_by_text("种子必须是").wait_for()
    page.get_by_label("种子").fill("7")
    page.get_by_label("长度").last.fill("50")
    page.click("#send")
    wait_until(lambda: bot(page).startswith("The moon"))


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


@pytest.mark.parametrize("way", ["stop", "retry", "leave"])
def test_nothing_goes_on_after_it_was_stopped(page, monkeypatch, way):
    """Neither a thread nor the text itself (gradio#13047, gradio#9449)."""
    state = {"begun": 0, "open": 0}

    def endless(*args, **kwargs):
        state["begun"] += 1
        state["open"] += 1
        try:
            while True:
                time.sleep(0.02)
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
        wait_until(lambda: state["begun"] == 2 and "la la la" in bot(page))
        page.click("#stop")
    wait_until(lambda: state["open"] == 0)
    if way != "leave":
        wait_for_answer(page, "Sing")
    assert state["begun"] == (2 if way == "retry" else 1)
    # Gradio's own pool of workers may have grown by those that served the requests, and by no more.
    assert threading.active_count() <= before + 4
