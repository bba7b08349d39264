"""The Space: a chat with the transformer.

python -m space.app                                        # http://127.0.0.1:7860
OZYMANDIAS_MODEL=runs/mine/best python -m space.app        # with a checkpoint of your own, or user/name of the Hub
"""

import argparse
import html
import threading
from collections.abc import Iterator

import gradio as gr

from space.writer import LONGEST_TEXT, answer, check_prompt, load, served_models
from training.command import UserError, run_command

INTRODUCTION = """# Ozymandias
A transformer written from scratch. Give it an opening line and it writes on; or ask for *poetry*, or for *Oz*.
It knows a few books and nothing else, and every message starts anew. Send one line to each of the five poetry models to
see what every idea adds, from a table of letter pairs to a modern transformer.
"""
EXAMPLES = [
    "Write me a poem",
    "Tell me a story of Oz",
    "The moon upon the water",
    "Dorothy looked at the Scarecrow and",
]
CSS = """
.gradio-container {max-width: 1200px !important; margin: 0 auto !important}
#chat .message-content {font-family: Georgia, 'Noto Serif', serif; white-space: pre-wrap}
#model label {width: 100%}
@media (max-width: 640px) {#chat {height: 420px !important} #prompt {min-width: 100% !important}}
"""
THEME = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # no font from another host
SIMULTANEOUS = 2  # answers written at the same time, one a core of the free Space
STOPS: dict[str, threading.Event] = {}  # of the answers that are being written, by the visitor's session
WAITING = 32  # requests that may wait for their turn; more are refused with a message

Messages = list[dict]


def respond(
    message: str,
    history: Messages,
    model: str,
    temperature: float,
    top_p: float,
    length: float,
    seed: float,
    request: gr.Request,
) -> Iterator[tuple[Messages, str]]:
    """Yield the conversation and the prompt box while the answer grows; a message that cannot be used stays there."""
    if problem := check_prompt(message):
        gr.Warning(problem)
        yield history, message
        return
    history = [*history, {"role": "user", "content": as_text(message)}]
    yield history, ""
    stopped = STOPS[request.session_hash] = threading.Event()
    try:
        for text in answer(message, model, temperature, top_p, length, seed):
            if stopped.is_set():
                return
            yield (
                [*history, {"role": "assistant", "content": as_text(text)}],
                gr.skip(),
            )  # the next message may be typed by now
    except UserError as error:
        gr.Warning(str(error))
        yield history[:-1], message
    finally:
        STOPS.pop(request.session_hash, None)


def stop_writing(request: gr.Request) -> None:
    """End the answer that is being written.

    It ends as if it were finished. Gradio's own `cancels` would leave a page that is behind with showing pieces in the
    belief that more will come, with Retry switched off for good.
    """
    if stopped := STOPS.get(request.session_hash):
        stopped.set()


def retry(
    history: Messages,
    model: str,
    temperature: float,
    top_p: float,
    length: float,
    seed: float,
    request: gr.Request,
) -> Iterator[tuple[Messages, str]]:
    """Answer the last message again."""
    history, message = undo(history)
    yield from respond(message, history, model, temperature, top_p, length, seed, request)


def undo(history: Messages) -> tuple[Messages, str]:
    """Take the last message and its answer back, and put the message into the prompt box."""
    last = max((i for i, entry in enumerate(history) if entry["role"] == "user"), default=None)
    return ([], "") if last is None else (history[:last], plain(history[last]["content"]))


def as_text(text: str) -> str:
    """A text that the chat shows as it is: also without Markdown Gradio would render the tags that it thinks safe."""
    return html.escape(text, quote=False)


def plain(content: str | list[dict]) -> str:
    """The text of a message of the chat, which Gradio hands back in parts."""
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    return html.unescape(text)


def generate(
    prompt: str, model: str = "", temperature: float = 0.8, top_p: float = 0.95, length: int = 300, seed: int = 0
) -> Iterator[str]:
    """Write on from an opening line, or answer a request for poetry or for Oz.

    Args:
        prompt: an opening line, or a request such as "Write me a poem".
        model: the checkpoint to write with, for example "poetry-bigram"; empty takes the page's default.
        temperature: 0 always takes the likeliest token, higher is bolder.
        top_p: draw only from the likeliest tokens that have this probability together.
        length: tokens to write.
        seed: the same seed gives the same text; 0 draws anew.
    """
    try:
        yield from answer(prompt, model or default_model(), temperature, top_p, length, seed)
    except UserError as error:
        raise gr.Error(str(error), print_exception=False) from None


def default_model() -> str:
    """The key of the model that is picked at first: the one that was named, else the best of English.

    Raises:
        UserError: there is none.
    """
    models = served_models()
    for key in ("named", "english", "poetry-modern", *models):
        if key in models:
            return key
    raise UserError("there is no checkpoint to serve; name one: OZYMANDIAS_MODEL=FOLDER_OR_HUB_ID.")


def build_page() -> gr.Blocks:
    """The page, with the models that are there now."""
    default = default_model()
    choices = [(model.label, key) for key, model in served_models().items()]
    with gr.Blocks(title="Ozymandias") as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=300):
                chat = gr.Chatbot(
                    elem_id="chat",
                    show_label=False,
                    height=520,
                    render_markdown=False,
                    buttons=["copy", "copy_all"],
                    placeholder="An opening line, or: Write me a poem",
                )
                with gr.Row():
                    prompt = gr.Textbox(
                        show_label=False,
                        placeholder="An opening line, or: Write me a poem",
                        elem_id="prompt",
                        max_lines=5,
                        autofocus=True,
                        scale=8,
                    )
                    send = gr.Button("Write", variant="primary", elem_id="send", min_width=90)
                    stop = gr.Button("Stop", variant="stop", elem_id="stop", min_width=90)
                gr.Examples(EXAMPLES, prompt, label="Try")
            with gr.Column(scale=2, min_width=300):
                settings = [
                    gr.Radio(
                        choices,
                        value=default,
                        label="Model",
                        info="Parameters, and the loss on text that it has not seen.",
                        elem_id="model",
                    ),
                    gr.Slider(
                        *(0, 2, 0.8), step=0.05, label="Temperature", info="Lower is safer, 0 takes the likeliest."
                    ),
                    gr.Slider(
                        *(0.05, 1, 0.95), step=0.05, label="Top-p", info="Leave out the tail of unlikely tokens."
                    ),
                    gr.Slider(
                        50,
                        LONGEST_TEXT,
                        300,
                        step=50,
                        label="Length",
                        info="Tokens to write: characters, or pieces of words.",
                    ),
                    gr.Number(0, precision=0, label="Seed", info="The same seed gives the same text; 0 draws anew."),
                ]
        writing = {
            "outputs": [chat, prompt],
            "concurrency_limit": SIMULTANEOUS,
            "concurrency_id": "writing",
            "show_progress": "minimal",  # the full one can lie over the chat's buttons, and stay after a stop
        }
        gr.on([prompt.submit, send.click], respond, [prompt, chat, *settings], api_visibility="private", **writing)
        chat.retry(retry, [chat, *settings], api_visibility="private", **writing)
        stop.click(stop_writing, queue=False, api_visibility="private")
        chat.undo(undo, chat, [chat, prompt], api_visibility="private")
        gr.api(generate, concurrency_limit=SIMULTANEOUS, concurrency_id="writing")
    return page.queue(max_size=WAITING)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", help="address to listen on (default GRADIO_SERVER_NAME, or 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default GRADIO_SERVER_PORT, or 7860)")
    arguments = parser.parse_args()
    page = build_page()
    if "named" in (models := served_models()):
        load(models["named"])  # a wrong name ends the command here, and not a reader's first message
    page.launch(server_name=arguments.host, server_port=arguments.port, css=CSS, theme=THEME, ssr_mode=False)


if __name__ == "__main__":
    run_command(main)
