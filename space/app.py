"""The Space: chat with the transformer, look inside it, and watch it grow.

python -m space.app                                        # http://127.0.0.1:7860
OZYMANDIAS_MODEL=runs/mine/best python -m space.app        # with a checkpoint of your own, or user/name of the Hub
python -m space.app --share                                # and a public link, for a day
"""

import argparse
import os
from collections.abc import Iterator

import gradio as gr
import torch
from starlette.middleware import Middleware

from space import api
from space.guard import EXPLAINING, LOOKING, Guard
from space.language import LANGUAGES, Words, errors_shown, language_of
from space.tabs.components import STATIC, token_at
from space.tabs.evolution import EvolutionTab
from space.tabs.inside import InsideTab
from space.tabs.write import SIMULTANEOUS, WriteTab, examine, restore
from space.training_texts import keep_fetching, texts_of
from space.writer import LONGEST_READ, default_model, load, served_models
from training.command import run_command

CSS = """
.gradio-container {width: 100% !important; max-width: 1280px !important; margin: 0 auto !important}
#chat .bubble-wrap {padding-top: 36px}
#chat .message-content {font-family: Georgia, 'Noto Serif', serif; white-space: pre-wrap}
#language {position: absolute; top: 12px; right: 12px; width: auto; min-width: 0; z-index: 5}
#model label {width: 100%}
.dark [role=tab][aria-selected=true] {color: var(--primary-300) !important}
@media (max-width: 640px) {
  #chat {height: 420px !important} #prompt {min-width: 100% !important} #language {position: static}
  .tab-container {flex-wrap: wrap; height: auto !important}
}
"""
# No font from another host, and colours that can be told from their background by everybody (4.5 to 1 and more).
THEME = gr.themes.Soft(
    primary_hue="amber", neutral_hue="stone", font=["system-ui", "sans-serif"], font_mono=["monospace"]
).set(
    color_accent="*primary_700",
    color_accent_soft="*primary_100",
    color_accent_soft_dark="*neutral_700",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_300",
    block_label_text_color="*primary_800",
    block_label_text_color_dark="*primary_200",
    block_title_text_color="*primary_800",
    block_title_text_color_dark="*primary_200",
    block_label_background_fill_dark="*neutral_700",
    block_title_background_fill_dark="*neutral_700",
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_800",
    checkbox_label_background_fill_selected="*primary_700",
    checkbox_label_background_fill_selected_dark="*primary_700",
    checkbox_background_color_selected="*primary_700",
    checkbox_background_color_selected_dark="*primary_700",
    input_placeholder_color="*neutral_500",
    input_placeholder_color_dark="*neutral_300",
    slider_color="*primary_700",
    slider_color_dark="*primary_600",
)
# Gradio keeps the last 10,000 events and makes a table of them after each, for a page of its own that nobody sees here.
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000000")  # the table once in so many events
# Where a Space's proxies are. Each puts the address that it serves at the end of X-Forwarded-For.
PRIVATE = "127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,::1,fc00::/7"
QUIETLY = {"show_progress": "hidden", "api_visibility": "private"}
WAITING = 256  # events of all visitors that may wait; more are refused with a message


def build_page() -> gr.Blocks:
    """The page, with the models that are there now."""
    words = Words()
    with gr.Blocks(title="Ozymandias", analytics_enabled=False) as page:
        choices = [(name, key) for key, name in LANGUAGES.items()]
        language = gr.Radio(choices, value="en", show_label=False, container=False, elem_id="language")
        words(gr.Markdown, "introduction")
        with gr.Tabs(selected="write") as tabs:
            with words(gr.Tab, "write_tab", id="write"):
                write = WriteTab(words, language)
            with words(gr.Tab, "inside_tab", id="inside") as inside_tab:
                inside = InsideTab(words, language)
            with words(gr.Tab, "evolution_tab", id="evolution") as evolution_tab:
                evolution = EvolutionTab(words, language)
        inside_tab.select(inside.draw_first, inside.asked, inside.views, show_progress="hidden", **LOOKING)
        evolution_tab.select(evolution.draw_first, evolution.asked, evolution.views, show_progress="hidden", **LOOKING)
        connect(tabs, write, inside)
        page.load(js=(STATIC / "chat.js").read_text(encoding="utf-8"), api_visibility="private")
        remember(page, words, language, (write, inside, evolution))
        # Programs have places of their own, so that they leave the visitors' alone.
        api.add_endpoints(page, concurrency_limit=SIMULTANEOUS, concurrency_id="programs")
    return page.queue(max_size=WAITING, default_concurrency_limit=SIMULTANEOUS, api_open=False)


def launch(page: gr.Blocks, **options) -> tuple:
    """Serve the page behind its [`Guard`], with any further options of Gradio's `launch`, whose result this returns."""
    return page.launch(
        css=CSS,
        theme=THEME,
        ssr_mode=False,
        mcp_server=True,
        max_threads=100,  # an answer that waits for its turn keeps one
        max_file_size="1b",  # no component takes a file, and the guard refuses uploads
        state_session_capacity=200,  # Gradio keeps 0.6 MB for each session, open or not: for the last so many
        app_kwargs={"middleware": [Middleware(Guard)]},
        **options,
    )


def remember(page: gr.Blocks, words: Words, language: gr.Radio, tabs: tuple[WriteTab, InsideTab, EvolutionTab]) -> None:
    """Give a visitor who comes back the same language and conversation."""
    write, inside, evolution = tabs
    kept = gr.BrowserState("", storage_key="ozymandias-language", secret="ozymandias")

    def begin(kept: str, saved: list, request: gr.Request) -> tuple:
        chosen = kept if kept in LANGUAGES else language_of(request)
        return chosen, restore(saved), *words.translate(chosen)

    def change(chosen: str) -> tuple:
        return chosen, *words.translate(chosen)

    page.load(begin, [kept, write.saved], [language, write.chat, *words.components], **QUIETLY)
    changed = language.input(change, language, [kept, *words.components], **QUIETLY)
    changed.then(write.describe, write.wanted, write.explained, show_progress="hidden", **EXPLAINING)
    changed.then(inside.draw_again, inside.asked, inside.views, show_progress="hidden", **LOOKING)
    changed.then(evolution.draw_again, evolution.asked, evolution.views, show_progress="hidden", **LOOKING)


def connect(tabs: gr.Tabs, write: WriteTab, inside: InsideTab) -> None:
    """From a token of an answer to all that was behind it, and with another token in its place back to the chat."""

    def open_token(given: dict, picked: gr.EventData) -> dict:
        history, index = given[write.chat], given[write.answer]
        with errors_shown(given[write.language]):
            opening, text, scored = examine(history, index)
            token = token_at(picked, scored)
        begun = len(opening.shown)
        kept = text[: begun + token.begin]
        read = (opening.start + text[begun : begun + token.end])[-LONGEST_READ:]
        return {
            tabs: gr.Tabs(selected="inside"),
            inside.drawn: True,
            inside.text: read,
            inside.model: opening.model,
            **inside.offer(token.alternatives, {"answer": index, "kept": kept}),
        }

    def go_on(given: dict, request: gr.Request) -> Iterator[dict]:
        here, alternative = given[inside.here], given[inside.alternative]
        if alternative is None:
            return
        yield {tabs: gr.Tabs(selected="write")}
        kept = here["kept"] + alternative
        if "answer" in here:
            yield from write.go_on(given, here["answer"], kept, request)
        else:
            yield from write.respond({**given, write.prompt: kept, write.model: given[inside.model]}, request)

    write.tokens.select(
        open_token,
        {write.chat, write.answer, write.language},
        [tabs, inside.drawn, inside.text, inside.model, *inside.place],
        **EXPLAINING,
    ).then(inside.draw, inside.asked, inside.views, **LOOKING)
    asked = {write.prompt, write.chat, *write.settings, write.language, *inside.asked, inside.alternative}
    going = inside.go_on.click(go_on, asked, [tabs, write.chat, write.prompt], **write.limits)
    write.after_writing(going)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", help="address to listen on (default GRADIO_SERVER_NAME, or 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default GRADIO_SERVER_PORT, or 7860)")
    parser.add_argument("--share", action="store_true", help="make a public link to this machine, for a day")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # models this small gain nothing from more, and visitors have the cores for themselves
    load(served_models()[default_model()])  # a wrong name ends the command here, and nobody waits for the first load
    keep_fetching(texts_of(served_models().values()))
    if "SPACE_ID" in os.environ:
        os.environ.setdefault("FORWARDED_ALLOW_IPS", PRIVATE)
    launch(build_page(), server_name=arguments.host, server_port=arguments.port, share=arguments.share)


if __name__ == "__main__":
    run_command(main)
