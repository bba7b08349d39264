"""The Space: chat with the transformer, look inside it, and watch it grow.

python -m space.app                                        # http://127.0.0.1:7860
OZYMANDIAS_MODEL=runs/mine/best python -m space.app        # with a checkpoint of your own, or user/name on the Hub
python -m space.app --share                                # with a public link that works for a day
"""

import argparse
import os
from collections.abc import Iterator

import gradio as gr
import torch
from starlette.middleware import Middleware

from space import api
from space.guard import Guard
from space.language import LANGUAGES, errors_shown, language_of
from space.tabs.components import EXPLANATION_LIMITS, STATIC, Translated, clicked_token
from space.tabs.evolution import EvolutionTab
from space.tabs.inside import InsideTab
from space.tabs.write import SIMULTANEOUS, WriteTab, examine, restore
from space.training_texts import corpora_of, keep_fetching
from space.writer import LONGEST_READ, check_named, default_model, load, served_models
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
# No font is fetched from another host, and the contrast of every text is at least 4.5 to 1.
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
# Gradio keeps the last 10,000 events and rebuilds a table of them after each, for a page that is never shown here.
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000000")  # events between two rebuilds
# The addresses of a Space's proxies. Each appends the address of its client to X-Forwarded-For.
PRIVATE = "127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,::1,fc00::/7"
QUIETLY = {"show_progress": "hidden", "api_visibility": "private"}
WAITING = 256  # events of all visitors that may wait in the queue; more are refused with a message


def build_page() -> gr.Blocks:
    """The page, with the models that are served now."""
    translated = Translated()
    with gr.Blocks(title="Ozymandias", analytics_enabled=False) as page:
        choices = [(name, key) for key, name in LANGUAGES.items()]
        language = gr.Radio(choices, value="en", show_label=False, container=False, elem_id="language")
        translated(gr.Markdown, "introduction")
        with gr.Tabs(selected="write") as tabs:
            with translated(gr.Tab, "write_tab", id="write"):
                write = WriteTab(translated, language)
            with translated(gr.Tab, "inside_tab", id="inside") as inside_tab:
                inside = InsideTab(translated, language)
            with translated(gr.Tab, "evolution_tab", id="evolution") as evolution_tab:
                evolution = EvolutionTab(translated, language)
        for tab, selected in ((inside, inside_tab), (evolution, evolution_tab)):
            selected.select(tab.draw_first, tab.inputs, tab.outputs, show_progress="hidden", **tab.limits)
        connect(tabs, write, inside)
        page.load(js=(STATIC / "chat.js").read_text(encoding="utf-8"), api_visibility="private")
        remember(page, translated, language, (write, inside, evolution))
        # Programs have a limit of their own, so that they take no places from visitors.
        api.add_endpoints(page, concurrency_limit=SIMULTANEOUS, concurrency_id="programs")
    return page.queue(max_size=WAITING, default_concurrency_limit=SIMULTANEOUS, api_open=False)


def launch(page: gr.Blocks, **options) -> tuple:
    """Serve the page behind a [`Guard`]; `options` and the result are those of Gradio's `launch`."""
    return page.launch(
        css=CSS,
        theme=THEME,
        ssr_mode=False,
        mcp_server=True,
        max_threads=100,  # an answer keeps a thread while it waits for its turn
        max_file_size="1b",  # no component takes a file, and the guard refuses uploads
        state_session_capacity=200,  # the most recent sessions: Gradio keeps 0.6 MB for each, open or not
        app_kwargs={"middleware": [Middleware(Guard)]},
        **options,
    )


def remember(
    page: gr.Blocks, translated: Translated, language: gr.Radio, tabs: tuple[WriteTab, InsideTab, EvolutionTab]
) -> None:
    """Restore the language and the conversation of a visitor who returns, and translate what is shown."""
    write, *others = tabs
    saved_language = gr.BrowserState("", storage_key="ozymandias-language", secret="ozymandias")

    def begin(saved_language: str, saved: list, request: gr.Request) -> tuple:
        chosen = saved_language if saved_language in LANGUAGES else language_of(request)
        # With nothing to restore the chat is left alone: a first message may have been sent already.
        return chosen, restore(saved) or gr.skip(), *translated.updates(chosen)

    def change(chosen: str) -> tuple:
        return chosen, *translated.updates(chosen)

    page.load(begin, [saved_language, write.saved], [language, write.chat, *translated.components], **QUIETLY)
    changed = language.input(change, language, [saved_language, *translated.components], **QUIETLY)
    changed.then(
        write.describe, write.explain_inputs, write.explain_outputs, show_progress="hidden", **EXPLANATION_LIMITS
    )
    for tab in others:
        changed.then(tab.draw_again, tab.inputs, tab.outputs, show_progress="hidden", **tab.limits)


def connect(tabs: gr.Tabs, write: WriteTab, inside: InsideTab) -> None:
    """Lead from a token of an answer to the view inside the model, and back to the chat with another token."""

    def open_token(values: dict, event: gr.EventData) -> dict:
        history, index = values[write.chat], values[write.answer]
        with errors_shown(values[write.language]):
            opening, text, scored = examine(history, index)
            token = clicked_token(event, scored)
        begun = len(opening.shown)
        read = (opening.start + text[begun : begun + token.end])[-LONGEST_READ:]
        return {
            tabs: gr.Tabs(selected="inside"),
            inside.drawn: True,
            inside.text: read,
            inside.model: opening.model,
            **inside.offer(token.alternatives, {"answer": index, "before": text[: begun + token.begin]}),
        }

    def go_on(values: dict, request: gr.Request) -> Iterator[dict]:
        position, alternative = values[inside.position], values[inside.alternative]
        if alternative is None:
            return
        yield {tabs: gr.Tabs(selected="write")}
        beginning = position["before"] + alternative
        if "answer" in position:
            yield from write.go_on(values, position["answer"], beginning, request)
        else:
            yield from write.respond({**values, write.prompt: beginning, write.model: values[inside.model]}, request)

    write.tokens.select(
        open_token,
        {write.chat, write.answer, write.language},
        [tabs, inside.drawn, inside.text, inside.model, *inside.offer_outputs],
        **EXPLANATION_LIMITS,
    ).then(inside.draw, inside.inputs, inside.outputs, **inside.limits)
    inputs = {write.prompt, write.chat, *write.settings, write.language, *inside.inputs, inside.alternative}
    continued = inside.go_on.click(go_on, inputs, [tabs, write.chat, write.prompt], **write.limits)
    write.after_writing(continued)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", help="address to listen on (default GRADIO_SERVER_NAME, or 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default GRADIO_SERVER_PORT, or 7860)")
    parser.add_argument("--share", action="store_true", help="make a public link to this machine that works for a day")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # models this small gain nothing from more, and visitors share the cores
    check_named()
    load(served_models()[default_model()])  # a wrong name fails here, and the first visitor need not wait
    keep_fetching(corpora_of(served_models().values()))
    if "SPACE_ID" in os.environ:
        os.environ.setdefault("FORWARDED_ALLOW_IPS", PRIVATE)
    launch(build_page(), server_name=arguments.host, server_port=arguments.port, share=arguments.share)


if __name__ == "__main__":
    run_command(main)
