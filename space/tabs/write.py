"""The tab for writing: a chat, and under every answer why the model wrote it so."""

import threading
from collections.abc import Iterator

import gradio as gr

from space import writer
from space.guard import EXPLAINING
from space.inside import load_eager, score_tokens
from space.language import VisitorError, Words, explain, say
from space.loading import keep_recent, local_folder
from space.originality import Originality, Passage, copied_passages
from space.tabs import figures
from space.tabs.components import custom, token_value
from space.token_scores import ScoredToken
from space.verse import LineRemark, verse_remarks
from training.checkpoints import RECORD
from training.command import UserError

EXAMPLES = [
    "Write me a poem",
    "Tell me a story of Oz",
    "The moon upon the water",
    "Dorothy looked at the Scarecrow and",
    "写一首七言绝句，题目：月",
]
SIMULTANEOUS = 32  # answers written in turns: each visitor sees words at once, and all get slower together
LONGEST_CONVERSATION = 100_000  # characters that are kept; every update of an answer sends them again
STOPS: dict[str, threading.Event] = {}  # of the answers that are being written, by the visitor's session
# Tags that fetch something as soon as they are in the page. Gradio leaves "allowed" tags as text, the others as HTML
# until `static/chat.js` shows the text.
LOADING_TAGS = ["audio", "embed", "iframe", "image", "img", "input", "object", "picture", "source", "svg", "video"]
STORED = "ozymandias"  # what the browser keeps the conversation under

Messages = list[dict]


class WriteTab:
    """The components of the tab and what they do; the other tabs are wired to it in `app.py`."""

    def __init__(self, words: Words, language: gr.Radio):
        self.language = language
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=300):
                self.build_chat(words)
                self.build_explanation(words)
            with gr.Column(scale=2, min_width=300):
                self.build_settings(words)
        self.saved = gr.BrowserState([], storage_key=STORED, secret=STORED)
        # What is written goes through one queue, however it was asked for.
        self.limits = {
            "concurrency_limit": SIMULTANEOUS,
            "concurrency_id": "writing",
            "show_progress": "minimal",  # the full one can lie over the chat's buttons, and stay after a stop
            "api_visibility": "private",
            # Gradio answers an empty number, or one out of range, with "Error"; `check_settings` says what to do.
            "preprocess": False,
        }
        self.connect()

    def build_chat(self, words: Words) -> None:
        self.chat = words(
            gr.Chatbot,
            "chat",
            elem_id="chat",
            show_label=False,
            height=460,
            render_markdown=False,
            latex_delimiters=[],
            allow_tags=LOADING_TAGS,
            editable="user",
            buttons=["copy", "copy_all"],
        )
        with gr.Row():
            self.prompt = words(
                gr.Textbox, "prompt", show_label=False, elem_id="prompt", max_lines=5, autofocus=True, scale=8
            )
            self.send = words(gr.Button, "send", variant="primary", elem_id="send", min_width=90)
            self.stop = words(gr.Button, "stop", variant="stop", elem_id="stop", min_width=90)
        models = writer.served_models()
        examples = [text for text in EXAMPLES if "chinese" in models or not writer.is_chinese([text])]
        self.examples = words(gr.Dataset, "examples", components=[self.prompt], samples=[[text] for text in examples])

    def build_settings(self, words: Words) -> None:
        models = writer.served_models()
        self.model = words(
            gr.Radio,
            "model",
            lambda language: {"choices": writer.choices(models, language)},
            value=writer.default_model(),
            elem_id="model",
        )
        self.settings = [
            self.model,
            words(gr.Slider, "temperature", minimum=0, maximum=2, value=0.8, step=0.05),
            words(gr.Slider, "top_p", minimum=0.05, maximum=1, value=0.95, step=0.05),
            words(gr.Slider, "length", minimum=50, maximum=writer.LONGEST_TEXT, value=300, step=50),
            words(gr.Number, "seed", value=0, precision=0),
        ]

    def build_explanation(self, words: Words) -> None:
        with gr.Row():
            self.explain = words(gr.Checkbox, "explain", elem_id="explain")
            self.answer = words(gr.Dropdown, "answer", choices=[], visible=False, elem_id="answer")
        with gr.Column(visible=False, elem_id="explanation") as self.explanation:
            self.tokens = words(gr.HTML, "answer_tokens", elem_id="answer-tokens", **custom("tokens"))
            self.originality = gr.Markdown(elem_id="originality")
            self.surprise = words(gr.Plot, "surprise")
        self.explained = [self.answer, self.explanation, self.tokens, self.originality, self.surprise]

    def connect(self) -> None:
        asked, conversation = {self.prompt, self.chat, *self.settings, self.language}, [self.chat, self.prompt]
        written = [
            gr.on([self.prompt.submit, self.send.click], self.respond, asked, conversation, **self.limits),
            self.chat.retry(self.retry, asked, conversation, **self.limits),
            self.chat.edit(self.edit, asked, conversation, **self.limits),
            self.chat.undo(self.undo, asked, conversation, api_visibility="private"),
            self.chat.clear(lambda: [], None, self.chat, api_visibility="private"),
        ]
        # `gr.Examples` would put the box's first words back with the example.
        self.examples.click(lambda example: example[0], self.examples, self.prompt, api_visibility="private")
        self.stop.click(stop_writing, queue=False, api_visibility="private")
        for event in written:
            self.after_writing(event)
        self.wanted = {self.explain, self.answer, self.chat, self.language}
        changes = [self.explain.input, self.answer.input]
        gr.on(changes, self.describe, self.wanted, self.explained, **EXPLAINING)
        self.chat.select(self.pick_answer, self.wanted, self.explained, **EXPLAINING)

    def after_writing(self, event) -> None:
        """When an answer is there: keep the conversation in the browser, and look at its last answer."""
        quietly = {"show_progress": "hidden", "api_visibility": "private"}
        kept = event.then(lambda history: history, self.chat, self.saved, **quietly)
        asked = {self.explain, self.chat, self.language}
        kept.then(self.describe, asked, self.explained, show_progress="hidden", **EXPLAINING)

    def respond(self, given: dict, request: gr.Request) -> Iterator[dict]:
        """Yield the conversation while the answer to the prompt grows; a prompt that cannot be used stays there."""
        prompt, history = given[self.prompt], given[self.chat]
        try:
            writer.check_prompt(prompt)
        except UserError as error:
            gr.Warning(explain(error, given[self.language]))
            # A lone surrogate cannot be sent back; it would end the page's stream of events.
            yield {self.chat: history, self.prompt: (prompt or "").encode(errors="replace").decode()}
            return
        asked = recent([*history, message("user", prompt)])
        yield {self.chat: asked, self.prompt: ""}
        for conversation in self.stream(asked, prompt, given, request):
            # The next message may be typed by now.
            yield {self.chat: conversation} if conversation else {self.chat: history, self.prompt: prompt}

    def retry(self, given: dict, request: gr.Request) -> Iterator[dict]:
        """Answer the last message again."""
        yield from self.respond({**given, **self.undo(given)}, request)

    def edit(self, given: dict, changed: gr.EditData, request: gr.Request) -> Iterator[dict]:
        """Answer a message that was changed; what came after it goes."""
        earlier = given[self.chat][: changed.index]
        yield from self.respond({**given, self.chat: earlier, self.prompt: changed.value}, request)

    def undo(self, given: dict) -> dict:
        """Take the last message and its answer back, and put the message into the prompt box."""
        history = given[self.chat]
        last = max((i for i, entry in enumerate(history) if entry["role"] == "user"), default=None)
        if last is None:
            return {self.chat: [], self.prompt: ""}
        return {self.chat: history[:last], self.prompt: plain(history[last]["content"])}

    def go_on(self, given: dict, index: int, kept: str, request: gr.Request) -> Iterator[dict]:
        """Let the model write on from the beginning of one of its answers; what came after it goes."""
        history = given[self.chat]
        prompt, given = question(history, index), {**given, self.model: key_of(history, index)}
        for conversation in self.stream(recent(history[:index]), prompt, given, request, kept):
            yield {self.chat: conversation or history}

    def stream(
        self, history: Messages, prompt: str, given: dict, request: gr.Request, kept: str | None = None
    ) -> Iterator[Messages | None]:
        """Yield the conversation with an answer that grows until it ends or is stopped; `None` if none can be had."""
        stop_writing(request)  # a visitor has one answer at a time, however often the button was pressed
        stopped = STOPS[request.session_hash] = threading.Event()
        try:
            for text in writer.answer(prompt, *(given[setting] for setting in self.settings), kept):
                if stopped.is_set():
                    return
                yield [*history, message("assistant", text, given[self.model])]
        except UserError as error:
            gr.Warning(explain(error, given[self.language]))
            yield None
        finally:
            if STOPS.get(request.session_hash) is stopped:
                del STOPS[request.session_hash]

    def describe(self, given: dict) -> Iterator[dict]:
        """Show, of an answer, each token's probability and how its verse goes, and then what of it is copied."""
        history, language = given[self.chat], given[self.language]
        if not given[self.explain]:
            yield {self.answer: gr.update(visible=False), self.explanation: gr.update(visible=False)}
            return
        answers = [index for index, entry in enumerate(history) if entry["role"] == "assistant"]
        chosen = given.get(self.answer)
        index = chosen if chosen in answers else answers[-1] if answers else None
        nothing = {self.tokens: None, self.surprise: gr.update(visible=False)}
        shown = {
            self.answer: gr.update(
                choices=[
                    (f"{number}. {plain(history[place]['content']).strip()[:30]}", place)
                    for number, place in enumerate(answers, start=1)
                ],
                value=index,
                visible=len(answers) > 1,
            ),
            self.explanation: gr.update(visible=True),
        }
        if index is None:
            yield {**shown, **nothing, self.originality: say(language, "nothing_yet")}
            return
        try:
            opening, text, scored = examine(history, index)
        except UserError as error:
            yield {**shown, **nothing, self.originality: explain(error, language)}
            return
        begun = len(opening.shown)
        yield {
            **shown,
            self.tokens: {"lines": describe_lines(text, begun, scored, (), language)},
            self.originality: say(language, "comparing"),
            self.surprise: gr.update(value=figures.surprise(scored, language), visible=True),
        }
        served = writer.served_models()[opening.model]
        try:
            original = copied_passages(text, local_folder(served.source, served.revision), text[:begun])
        except UserError as error:
            yield {self.originality: explain(error, language)}
            return
        yield {
            self.tokens: {"lines": describe_lines(text, begun, scored, original.passages, language)},
            self.originality: describe_originality(original, language),
        }

    def pick_answer(self, given: dict, picked: gr.SelectData) -> Iterator[dict]:
        """Look at the answer that was clicked, if answers are looked at."""
        yield from self.describe({**given, self.answer: picked.index})


def stop_writing(request: gr.Request) -> None:
    """End the answer that is being written.

    It ends as if it were finished. Gradio's own `cancels` would leave a page that is behind with showing pieces in the
    belief that more will come, with Retry switched off for good.
    """
    if stopped := STOPS.get(request.session_hash):
        stopped.set()


def examine(history: Messages, index: int | None) -> tuple[writer.Opening, str, list[ScoredToken]]:
    """How an answer began, the answer, and the tokens that its model wrote.

    Raises:
        UserError: there is no such answer any more, its model cannot be had, or it has written nothing yet.
    """
    if index is None or index >= len(history):
        raise VisitorError("changed_text")
    served, opening = writer.begin(question(history, index), key_of(history, index))
    text = plain(history[index]["content"])
    writer.check_text(text)
    return opening, text, score_answer(served, opening.start, text[len(opening.shown) :])


@keep_recent(8_000_000)
def score_answer(served: writer.Served, start: str, written: str) -> list[ScoredToken]:
    """The tokens that a model wrote after a start; what is done with one of them later needs no other pass."""
    return score_tokens(*load_eager(served.source, served.revision), start, written)


def describe_lines(
    text: str, begun: int, scored: list[ScoredToken], passages: tuple[Passage, ...], language: str
) -> list[dict]:
    """An answer as `tokens.js` draws it: a row for each of its lines, with the remarks on its verse."""
    remarks = verse_remarks(text)
    lines = [{"before": text[:begun], "tokens": [], "remark": ""}]
    for index, token in enumerate(scored):
        begin, end = begun + token.begin, begun + token.end
        copied = next((p for p in passages if p.begin < end and begin < p.end), None)
        own = text[begin:end]
        changed = {"text": own} if own and "\n" not in own else {}
        if copied:
            changed["copied"] = say(language, "copied", work=name_source(copied))
        lines[-1]["tokens"].append(token_value(index, token, language, **changed))
        lines[-1]["remark"] = describe_verse(remarks[text.count("\n", 0, begin)], language)
        if "\n" in own:
            lines.append({"before": "", "tokens": [], "remark": ""})
    return lines


def describe_verse(remark: LineRemark, language: str) -> str:
    """Syllables and rhyme of a line of English, tones, clause by clause, and rhymes of one of Chinese."""
    parts = []
    if remark.syllables:
        count = f"{'≈' if remark.estimated else ''}{remark.syllables}"
        parts.append(say(language, "syllable" if remark.syllables == 1 else "syllables", count=count))
    if remark.tones:
        parts.append(" + ".join(str(len(tones)) for tones in remark.tones))
        parts.append(" ".join(remark.tones))
    rhymes = [letter for letter in remark.rhymes if letter]
    return " · ".join([*parts, *(say(language, "rhyme", letter=letter) for letter in rhymes)])


def describe_originality(original: Originality, language: str) -> str:
    """What of an answer is copied, what it was compared with, and what it could not be compared with."""
    compared = ", ".join(original.compared)
    if original.passages:
        works = ", ".join(dict.fromkeys(name_source(passage) for passage in original.passages))
        told = say(language, "partly", share=f"{original.share:.0%}", works=works)
    elif not compared:
        told = say(language, "nothing_compared")
    else:
        told = say(language, "original_so_far" if original.missing else "original", compared=compared)
    missing = [name for name in original.missing if name != RECORD]
    if RECORD in original.missing:
        told += " " + say(language, "no_record")
    return f"{told} {say(language, 'not_compared', names=', '.join(missing))}" if missing else told


def name_source(passage: Passage) -> str:
    return f"{passage.work}, {passage.part}" if passage.part else passage.work


def message(role: str, text: str, model: str | None = None) -> dict:
    """An entry of the conversation; an answer knows its model."""
    # Of a plain string Gradio would strip the indentation.
    content = [{"type": "text", "text": text}]
    return {"role": role, "content": content} | ({"metadata": {"id": model}} if model else {})


def restore(saved: Messages) -> Messages:
    """The conversation that the browser has kept; what is none is dropped."""
    try:
        return recent(
            [
                message(entry["role"], plain(entry["content"]), model_of(entry))
                for entry in saved
                if entry["role"] in ("user", "assistant")
            ]
        )
    except (TypeError, KeyError, AttributeError):
        return []


def recent(history: Messages) -> Messages:
    """The end of a conversation, as much of it as is kept; it begins with a question."""
    size, begin = 0, len(history)
    for index in range(len(history) - 1, -1, -1):
        size += len(plain(history[index]["content"]))
        if size > LONGEST_CONVERSATION:
            break
        if history[index]["role"] == "user":
            begin = index
    return history[begin:]


def plain(content: list[dict]) -> str:
    """The text of a message of the chat, which Gradio keeps in parts."""
    return "".join(part.get("text", "") for part in content)


def question(history: Messages, index: int) -> str:
    """The message that an answer is to."""
    return plain(history[index - 1]["content"])


def key_of(history: Messages, index: int) -> str:
    """The key of the model that was picked when an answer was written."""
    return model_of(history[index]) or writer.default_model()


def model_of(entry: dict) -> str | None:
    return (entry.get("metadata") or {}).get("id")
