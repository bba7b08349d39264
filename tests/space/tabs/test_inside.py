"""The look inside, in a real browser."""

import pytest

from tests.space.conftest import open_tab, wait_until

pytestmark = pytest.mark.browser


@pytest.fixture
def inside(page):
    """The tab, with its views of the default model and text drawn."""
    open_tab(page, "Look inside")
    wait_until(lambda: page.locator("#heads button").count() > 3)
    page.locator("#heat .js-plotly-plot").wait_for()
    return page


def pick(page, model: str) -> None:
    page.locator("#inside-model input").click()
    page.get_by_role("option", name=model).click()


def look(page, text: str) -> None:
    page.fill("#inside-text textarea", text)
    page.click("#look")


def test_a_head_is_shown_large_and_muted(inside):
    assert int(inside.locator("#inside-tokens .token").first.get_attribute("data-id")) > 0
    inside.locator("#heads button").nth(5).click()
    inside.get_by_text("Layer 2, head 2").first.wait_for()
    assert inside.locator("#heads button").nth(5).get_attribute("aria-pressed") == "true"
    assert inside.locator("#lines line").count() > 3
    open_tab(inside, "Mute heads")
    inside.locator("#muted input").click()
    inside.get_by_role("option", name="Layer 1, head 1").click()
    inside.keyboard.press("Escape")
    inside.click("#compare")
    plain, muted = inside.locator("#written textarea"), inside.locator("#written-muted textarea")
    wait_until(lambda: plain.input_value() and muted.input_value())
    assert plain.input_value() != muted.input_value()
    open_tab(inside, "Attention")
    inside.locator("#heads button.muted").wait_for()


def test_layers_embeddings_and_the_cache_are_drawn(inside):
    for part in ("Layer by layer", "Embeddings"):
        open_tab(inside, part)
        inside.locator(".js-plotly-plot:visible").first.wait_for()
    open_tab(inside, "Cache")
    inside.get_by_role("button", name="Write 48 tokens").click()
    inside.locator(".js-plotly-plot:visible").get_by_text("without").wait_for()


def test_shared_keys_and_no_attention_are_told(inside):
    pick(inside, "Poetry 5")
    wait_until(lambda: inside.locator("#heads button").first.get_attribute("aria-label").endswith("among 2 heads"))
    pick(inside, "Poetry 1")
    inside.get_by_text("This model has no attention").wait_for()


def test_an_encoder_decoder_shows_cross_attention(inside):
    pick(inside, "Oz-next-passage")
    inside.locator("#source textarea").wait_for()
    inside.locator("#kind").get_by_text("The text to its source").click()
    wait_until(lambda: inside.locator("#lines text").count() > 40)


def test_the_causal_mask_can_be_taken_off(inside):
    lit = "[...document.querySelectorAll('#lines line')].some(l => +l.y2.baseVal.value > +l.y1.baseVal.value)"
    assert not inside.evaluate(lit)
    inside.locator("#causal input").uncheck()
    inside.wait_for_function(lit)  # a line to a token that comes later


def test_a_long_text_is_cut_and_this_is_told(inside):
    look(inside, "the moon upon the water and " * 100)
    inside.get_by_text("are left out, to keep the views quick").wait_for()
    look(inside, "")
    inside.get_by_text("there is no text to read").wait_for()
    inside.locator("#language").get_by_text("中文").click()
    inside.get_by_role("tab", name="看内部").wait_for()
    inside.click("#look")
    inside.get_by_text("没有可读的文字").first.wait_for()


def test_a_token_of_any_text_leads_back_to_the_chat(inside):
    look(inside, "<b>Dorothy</b> went to the")
    wait_until(lambda: "Dorothy" in inside.locator("#inside-tokens").inner_text())
    assert inside.locator("#inside-tokens b").count() == 0
    inside.locator("#inside-tokens .token").last.click()
    inside.locator("#alternative label").first.click()
    inside.click("#go-on")
    wait_until(lambda: inside.locator("#chat .bot.message").count() == 1)
    assert inside.locator("#chat .bot.message").inner_text().startswith("<b>Dorothy</b> went to")
