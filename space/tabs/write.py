"""The tab for writing: a chat, and below it an explanation of an answer."""

import threading
from collections.abc import Iterator

import gradio as gr

from space import writer
from space.inside import load_traceable, score_tokens
from space.language import VisitorError, explain, say
from space.loading import keep_recent, local_folder
from space.originality import Originality, Passage, copied_passages
from space.tabs import figures
from space.tabs.components import EXPLANATION_LIMITS, Translated, scripted, token_value
from space.token_scores import ScoredToken
from training.command import UserError
from training.engine.checkpoints import RECORD
from training.evaluation.verse import LineVerse, analyse_verse

EXAMPLES = [
    "Write me a poem",
    "Tell me a story of Oz",
    "The moon upon the water",
    "Dorothy looked at the Scarecrow and",
    "写一首七言绝句，题目：月",
]
SIMULTANEOUS = 32  # answers written in turns: every visitor sees text at once, and all slow down together
LONGEST_CONVERSATION = 100_000  # characters; every update of an answer sends them again
STOPS: dict[str, threading.Event] = {}  # set to stop the answer that is written for a session
# Tags that fetch something as soon as they are in the page. Gradio shows "allowed" tags as text, and others as HTML
# until `static/chat.js` replaces them by their text.
LOADING_TAGS = ["audio", "embed", "iframe", "image", "img", "input", "object", "picture", "source", "svg", "video"]
STORED = "ozymandias"  # the key of the conversation in the browser's storage

Messages = list[dict]


class WriteTab:
    """The components of the tab and their events. `app.py` connects it with the other tabs."""

    def __init__(self, translated: Translated, language: gr.Radio):
        self.language = language
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=300):
                self.build_chat(translated)
                self.build_explanation(translated)
            with gr.Column(scale=2, min_width=300):
                self.build_settings(translated)
        self.saved = gr.BrowserState([], storage_key=STORED, secret=STORED)
        # All answers share one limit, whichever event asked for them.
        self.limits = {
            "concurrency_limit": SIMULTANEOUS,
            "concurrency_id": "writing",
            "show_progress": "minimal",  # the full one can cover the chat's buttons, and remain after a stop
            "api_visibility": "private",
            # Gradio would refuse a number out of range in English; `check_settings` does in the page's language.
            "preprocess": False,
        }
        self.connect()

    def build_chat(self, translated: Translated) -> None:
        self.chat = translated(
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
            self.prompt = translated(
                gr.Textbox, "prompt", show_label=False, elem_id="prompt", max_lines=5, autofocus=True, scale=8
            )
            self.send = translated(gr.Button, "send", variant="primary", elem_id="send", min_width=90)
            self.stop = translated(gr.Button, "stop", variant="stop", elem_id="stop", min_width=90)
        models = writer.served_models()
        examples = [text for text in EXAMPLES if "chinese" in models or not writer.is_chinese([text])]
        self.examples = translated(
            gr.Dataset, "examples", components=[self.prompt], samples=[[text] for text in examples]
        )

    def build_settings(self, translated: Translated) -> None:
        models = writer.served_models()
        self.model = translated(
            gr.Radio,
            "model",
            lambda language: {"choices": writer.choices(models, language)},
            value=writer.default_model(),
            elem_id="model",
        )
        self.settings = [
            self.model,
            translated(gr.Slider, "temperature", minimum=0, maximum=2, value=0.8, step=0.05),
            translated(gr.Slider, "top_p", minimum=0.05, maximum=1, value=0.95, step=0.05),
            translated(gr.Slider, "length", minimum=50, maximum=writer.LONGEST_ANSWER, value=300, step=50),
            translated(gr.Number, "seed", value=0, precision=0),
        ]

    def build_explanation(self, translated: Translated) -> None:
        with gr.Row():
            self.explain = translated(gr.Checkbox, "explain", elem_id="explain")
            self.answer = translated(gr.Dropdown, "answer", choices=[], visible=False, elem_id="answer")
        with gr.Column(visible=False, elem_id="explanation") as self.explanation:
            self.tokens = translated(gr.HTML, "answer_tokens", elem_id="answer-tokens", **scripted("tokens"))
            self.originality = gr.Markdown(elem_id="originality")
            self.surprisal = translated(gr.Plot, "surprisal")
        self.explain_outputs = [self.answer, self.explanation, self.tokens, self.originality, self.surprisal]

    def connect(self) -> None:
        inputs, conversation = {self.prompt, self.chat, *self.settings, self.language}, [self.chat, self.prompt]
        events = [
            gr.on([self.prompt.submit, self.send.click], self.respond, inputs, conversation, **self.limits),
            self.chat.retry(self.retry, inputs, conversation, **self.limits),
            self.chat.edit(self.edit, inputs, conversation, **self.limits),
            self.chat.undo(self.undo, {self.chat}, conversation, api_visibility="private"),
            self.chat.clear(lambda: [], None, self.chat, api_visibility="private"),
        ]
        # `gr.Examples` would reset the placeholder of the box to the language it was built in.
        self.examples.click(lambda example: example[0], self.examples, self.prompt, api_visibility="private")
        self.stop.click(stop_writing, queue=False, api_visibility="private")
        for event in events:
            self.after_writing(event)
        self.explain_inputs = {self.explain, self.answer, self.chat, self.language}
        triggers = [self.explain.input, self.answer.input]
        gr.on(triggers, self.describe, self.explain_inputs, self.explain_outputs, **EXPLANATION_LIMITS)
        self.chat.select(self.pick_answer, self.explain_inputs, self.explain_outputs, **EXPLANATION_LIMITS)

    def after_writing(self, event) -> None:
        """When an answer is finished, save the conversation in the browser and explain the answer."""
        quietly = {"show_progress": "hidden", "api_visibility": "private"}
        saved = event.then(lambda history: history, self.chat, self.saved, **quietly)
        inputs = {
            self.explain,
            self.chat,
            self.language,
        }  # without the chosen `answer`, so that the last one is explained
        saved.then(self.describe, inputs, self.explain_outputs, show_progress="hidden", **EXPLANATION_LIMITS)

    def respond(self, values: dict, request: gr.Request) -> Iterator[dict]:
        """Yield the conversation while the answer to the prompt grows. A prompt that is refused stays in its box."""
        prompt, history = values[self.prompt], values[self.chat]
        try:
            writer.check_prompt(prompt)
        except UserError as error:
            gr.Warning(explain(error, values[self.language]))
            # A lone surrogate cannot be sent back: it would end the page's stream of events.
            yield {self.chat: history, self.prompt: (prompt or "").encode(errors="replace").decode()}
            return
        question = recent([*history, message("user", prompt)])
        yield {self.chat: question, self.prompt: ""}
        for conversation in self.stream(question, prompt, values, request):
            # The prompt box is left alone: the visitor may be typing the next message.
            yield {self.chat: conversation} if conversation else {self.chat: history, self.prompt: prompt}

    def retry(self, values: dict, request: gr.Request) -> Iterator[dict]:
        """Answer the last message again."""
        yield from self.respond({**values, **self.undo(values)}, request)

    def edit(self, values: dict, edited: gr.EditData, request: gr.Request) -> Iterator[dict]:
        """Answer an edited message, and remove what came after it."""
        earlier = values[self.chat][: edited.index]
        yield from self.respond({**values, self.chat: earlier, self.prompt: edited.value}, request)

    def undo(self, values: dict) -> dict:
        """Remove the last message and its answer, and put the message into the prompt box."""
        history = values[self.chat]
        last = max((i for i, entry in enumerate(history) if entry["role"] == "user"), default=None)
        if last is None:
            return {self.chat: [], self.prompt: ""}
        return {self.chat: history[:last], self.prompt: plain(history[last]["content"])}

    def go_on(self, values: dict, index: int, beginning: str, request: gr.Request) -> Iterator[dict]:
        """Let the model continue the beginning of one of its answers, and remove what came after it."""
        history = values[self.chat]
        prompt, values = prompt_of(history, index), {**values, self.model: key_of(history, index)}
        for conversation in self.stream(recent(history[:index]), prompt, values, request, beginning):
            yield {self.chat: conversation or history}

    def stream(
        self, history: Messages, prompt: str, values: dict, request: gr.Request, beginning: str | None = None
    ) -> Iterator[Messages | None]:
        """Yield the conversation with an answer that grows until it ends or is stopped; `None` after an error."""
        stop_writing(request)  # one answer at a time for each visitor, however often the button was pressed
        stopped = STOPS[request.session_hash] = threading.Event()
        try:
            for text in writer.answer(prompt, *(values[setting] for setting in self.settings), beginning):
                if stopped.is_set():
                    return
                yield [*history, message("assistant", text, values[self.model])]
        except UserError as error:
            gr.Warning(explain(error, values[self.language]))
            yield None
        finally:
            if STOPS.get(request.session_hash) is stopped:
                del STOPS[request.session_hash]

    def describe(self, values: dict) -> Iterator[dict]:
        """Explain an answer: first the probabilities of its tokens and its verse, then which passages are copied."""
        history, language = values[self.chat], values[self.language]
        if not values[self.explain]:
            yield {self.answer: gr.update(visible=False), self.explanation: gr.update(visible=False)}
            return
        answers = [index for index, entry in enumerate(history) if entry["role"] == "assistant"]
        chosen = values.get(self.answer)
        index = chosen if chosen in answers else answers[-1] if answers else None
        nothing = {self.tokens: None, self.surprisal: gr.update(visible=False)}
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
            self.surprisal: gr.update(value=figures.surprisal(scored, language), visible=True),
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

    def pick_answer(self, values: dict, event: gr.SelectData) -> Iterator[dict]:
        """Explain the answer that was clicked, if explanations are shown."""
        yield from self.describe({**values, self.answer: event.index})


def stop_writing(request: gr.Request) -> None:
    """Stop the answer that is being written for a visitor.

    The event ends as if the answer were finished. With Gradio's own `cancels`, a page that has not shown all pieces yet
    would wait for more, with Retry disabled for good.
    """
    if stopped := STOPS.get(request.session_hash):
        stopped.set()


def examine(history: Messages, index: int | None) -> tuple[writer.Opening, str, list[ScoredToken]]:
    """The opening of an answer, its text, and the scored tokens that its model wrote.

    Raises:
        UserError: the answer is gone, its model cannot be loaded, or nothing has been written yet.
    """
    if index is None or index >= len(history):
        raise VisitorError("changed_text")
    served, opening = writer.begin(prompt_of(history, index), key_of(history, index))
    text = plain(history[index]["content"])
    writer.check_text(text)
    return opening, text, score_answer(served, opening.start, text[len(opening.shown) :])


@keep_recent(8_000_000)
def score_answer(served: writer.Served, start: str, written: str) -> list[ScoredToken]:
    """The scored tokens that a model wrote after `start`, cached because every click on one needs them again."""
    return score_tokens(*load_traceable(served.source, served.revision), start, written)


def describe_lines(
    text: str, begun: int, scored: list[ScoredToken], passages: tuple[Passage, ...], language: str
) -> list[dict]:
    """An answer as `tokens.js` draws it: a row for each line, with a note on its verse."""
    verse = analyse_verse(text)
    lines = [{"before": text[:begun], "tokens": [], "remark": ""}]
    for index, token in enumerate(scored):
        begin, end = begun + token.begin, begun + token.end
        copied = next((p for p in passages if p.begin < end and begin < p.end), None)
        characters = text[begin:end]
        changed = {"text": characters} if characters and "\n" not in characters else {}
        if copied:
            changed["copied"] = say(language, "copied", work=name_source(copied))
        lines[-1]["tokens"].append(token_value(index, token, language, **changed))
        lines[-1]["remark"] = describe_verse(verse[text.count("\n", 0, begin)], language)
        if "\n" in characters:
            lines.append({"before": "", "tokens": [], "remark": ""})
    return lines


def describe_verse(line: LineVerse, language: str) -> str:
    """The syllables and the rhyme of an English line, or the tones of each clause and the rhymes of a Chinese one."""
    parts = []
    if line.syllables:
        count = f"{'≈' if line.estimated else ''}{line.syllables}"
        parts.append(say(language, "syllable" if line.syllables == 1 else "syllables", count=count))
    if line.tones:
        parts.append(" + ".join(str(len(tones)) for tones in line.tones))
        parts.append(" ".join(line.tones))
    rhymes = [letter for letter in line.rhymes if letter]
    return " · ".join([*parts, *(say(language, "rhyme", letter=letter) for letter in rhymes)])


def describe_originality(original: Originality, language: str) -> str:
    """How much of an answer is copied, what it was compared with, and what it could not be compared with."""
    compared = ", ".join(original.compared)
    if original.passages:
        works = ", ".join(dict.fromkeys(name_source(passage) for passage in original.passages))
        sentence = say(language, "partly", share=f"{original.share:.0%}", works=works)
    elif not compared:
        sentence = say(language, "nothing_compared")
    else:
        sentence = say(language, "original_so_far" if original.missing else "original", compared=compared)
    missing = [name for name in original.missing if name != RECORD]
    if RECORD in original.missing:
        sentence += " " + say(language, "no_record")
    return f"{sentence} {say(language, 'not_compared', names=', '.join(missing))}" if missing else sentence


def name_source(passage: Passage) -> str:
    return f"{passage.work}, {passage.part}" if passage.part else passage.work


def message(role: str, text: str, model: str | None = None) -> dict:
    """An entry of the conversation; that of an answer also has the key of its model."""
    # Gradio would strip the indentation of a plain string.
    content = [{"type": "text", "text": text}]
    return {"role": role, "content": content} | ({"metadata": {"id": model}} if model else {})


def restore(saved: Messages) -> Messages:
    """The conversation saved in the browser; anything else found there is ignored."""
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
    """The last messages of a conversation that fit `LONGEST_CONVERSATION`, beginning with one of the visitor's."""
    size, begin = 0, len(history)
    for index in range(len(history) - 1, -1, -1):
        size += len(plain(history[index]["content"]))
        if size > LONGEST_CONVERSATION:
            break
        if history[index]["role"] == "user":
            begin = index
    return history[begin:]


def plain(content: list[dict]) -> str:
    """The text of a message, which Gradio splits into parts."""
    return "".join(part.get("text", "") for part in content)


def prompt_of(history: Messages, index: int) -> str:
    """The message that an answer replies to."""
    return plain(history[index - 1]["content"])


def key_of(history: Messages, index: int) -> str:
    """The key of the model that was chosen when an answer was written."""
    return model_of(history[index]) or writer.default_model()


def model_of(entry: dict) -> str | None:
    return (entry.get("metadata") or {}).get("id")
