"""The tab for growing: five models beside each other, one run from step to step, and three tokenizers."""

from collections.abc import Iterator
from pathlib import Path

import gradio as gr

from space import evolution, inside, writer
from space.guard import LOOKING
from space.language import VisitorError, Words, errors_shown, explain, say
from space.loading import keep_recent
from space.tabs import figures
from space.tabs.components import custom, token_value
from training.command import UserError
from training.generate import stream_text

LINE = "The moon upon the water"
SAMPLES = ["The moon upon the water", "明月松间照，清泉石上流。", "Dorothy 与 Toto"]
LENGTH, SEED = 160, 7  # tokens that each of the five writes, with one seed, so that only the model differs
GROWN = 120  # tokens that a snapshot writes


class EvolutionTab:
    """The components of the tab and what they do."""

    def __init__(self, words: Words, language: gr.Radio):
        self.language = language
        self.run = evolution.growing_run()
        self.build_five(words)
        self.drawn = gr.State(False)
        self.asked, self.views = {self.language, self.drawn}, [self.curves, self.drawn]
        if self.run:
            self.build_growth(words)
        self.build_laboratory(words)

    def draw(self, given: dict) -> Iterator[dict]:
        """Show the curves of the five, and the run at one of its steps."""
        runs = {key: evolution.read_curve(writer.CHECKPOINTS / key) for key in self.boxes}
        yield {self.drawn: True, self.curves: figures.curves(runs, given[self.language])}
        if self.run:
            yield self.grow(given)

    def draw_first(self, given: dict) -> Iterator[dict]:
        """The same for a visitor who opens the tab for the first time; later nothing is drawn anew."""
        yield from [{self.drawn: True}] if given[self.drawn] else self.draw(given)

    def draw_again(self, given: dict) -> Iterator[dict]:
        """The same of what there is already: its words are in another language now."""
        if given[self.drawn]:
            yield from self.draw(given)
        if given[self.compared]:
            yield self.compare(given)

    def build_five(self, words: Words) -> None:
        words(gr.Markdown, "five_help")
        with gr.Row():
            self.line = words(gr.Textbox, "five_prompt", value=LINE, scale=6, elem_id="five-prompt")
            run = words(gr.Button, "five_run", variant="primary", min_width=120, elem_id="five-run")
            stop = words(gr.Button, "five_stop", variant="stop", min_width=90)
        with gr.Row():
            self.boxes = {
                key: words(
                    gr.Textbox,
                    "five_text",
                    lambda language, key=key: {"label": writer.label(key, language)},
                    lines=9,
                    max_lines=9,
                    interactive=False,
                    min_width=200,
                    elem_id=f"box-{key}",
                )
                for key in evolution.five_models()
            }
        self.curves = words(gr.Plot, "curves")
        asked = {self.line, self.language}
        writing = gr.on(
            [run.click, self.line.submit],
            self.write_five,
            asked,
            list(self.boxes.values()),
            concurrency_limit=4,
            show_progress="hidden",
            api_visibility="private",
        )
        stop.click(None, cancels=writing)

    def write_five(self, given: dict) -> Iterator[dict]:
        """The five texts, growing together."""
        with errors_shown(given[self.language]):
            for texts in evolution.write_together(given[self.line], list(self.boxes), LENGTH, SEED):
                yield {self.boxes[key]: text for key, text in texts.items()}

    def build_growth(self, words: Words) -> None:
        self.steps = list(evolution.list_snapshots(self.run))
        model, _ = inside.load_eager(str(evolution.best_of(self.run)))
        heads = [
            f"{layer + 1}.{head + 1}"
            for layer in range(model.config.num_hidden_layers)
            for head in range(model.config.num_attention_heads)
        ]
        words(gr.Markdown, "growth_help")
        with gr.Row():
            self.grown_line = words(gr.Textbox, "growth_prompt", value=LINE, scale=4, elem_id="growth-prompt")
            self.grown_head = words(gr.Dropdown, "growth_head", choices=heads, value=heads[-1], scale=1)
        self.step = words(
            gr.Slider, "growth_step", minimum=0, maximum=len(self.steps) - 1, value=0, step=1, elem_id="growth-step"
        )
        self.grown_loss = gr.Markdown(elem_id="growth-loss")
        with gr.Row(equal_height=False):
            with gr.Column(min_width=300):
                self.grown_text = words(gr.Textbox, "growth_text", lines=7, interactive=False, elem_id="growth-text")
                self.grown_curve = gr.Plot(show_label=False)
            with gr.Column(min_width=300):
                self.grown_heat = words(gr.Plot, "growth_heat")
        asked = {self.language, self.grown_line, self.grown_head, self.step}
        grown = [self.grown_loss, self.grown_text, self.grown_curve, self.grown_heat]
        self.asked |= asked
        self.views += grown
        gr.on(
            [self.step.change, self.grown_line.submit, self.grown_head.input],
            self.grow,
            asked,
            grown,
            show_progress="minimal",
            trigger_mode="always_last",
            preprocess=False,  # Gradio answers an empty number with "Error"
            **LOOKING,
        )

    def grow(self, given: dict) -> dict:
        """What the run's model wrote after a step of its training, and where one of its heads looked."""
        language = given[self.language]
        layer, head = (int(number) - 1 for number in given[self.grown_head].split("."))
        with errors_shown(language):
            place = given[self.step]
            if not writer.is_number(place, 0, len(self.steps) - 1):
                raise VisitorError("bad_step")
            step = self.steps[int(place)]
            writer.check_prompt(given[self.grown_line])
            trace, written = grow(self.run, step, given[self.grown_line])
        curve = dict(evolution.read_curve(self.run))
        points = {say(language, "loss"): list(curve.items())}
        told = say(language, "growth_loss", step=step, loss=curve[step], start=curve[self.steps[0]])
        return {
            self.grown_loss: told,
            self.grown_text: given[self.grown_line] + written,
            self.grown_curve: figures.curves(points, language, (step, curve[step])),
            self.grown_heat: figures.heat(trace.attention[layer][head], trace.shown, trace.shown, language),
        }

    def build_laboratory(self, words: Words) -> None:
        words(gr.Markdown, "lab_help")
        with gr.Row():
            self.sample = words(gr.Textbox, "lab_text", value=SAMPLES[0], max_lines=4, scale=6, elem_id="lab-text")
            run = words(gr.Button, "lab_run", variant="primary", min_width=120, elem_id="lab-run")
        examples = words(gr.Dataset, "lab_examples", components=[self.sample], samples=[[text] for text in SAMPLES])
        examples.click(lambda example: example[0], examples, self.sample, api_visibility="private")
        self.pieces = {}
        for kind in evolution.LABORATORY:
            told = gr.Markdown(elem_id=f"lab-told-{kind}")
            self.pieces[kind] = (told, words(gr.HTML, "lab_result", elem_id=f"lab-{kind}", **custom("tokens")))
        self.compared = gr.State(False)
        shown = [self.compared, *(component for pair in self.pieces.values() for component in pair)]
        asked = {self.sample, self.language}
        self.asked |= {*asked, self.compared}
        self.views += shown
        gr.on([run.click, self.sample.submit], self.compare, asked, shown, **LOOKING)

    def compare(self, given: dict) -> dict:
        """The text in the tokens of each tokenizer, and what it costs in bits per character."""
        text, language, shown = given[self.sample], given[self.language], {self.compared: True}
        if len(text) > evolution.LONGEST_SAMPLE:
            raise gr.Error(
                say(language, "long_prompt", given=len(text), most=evolution.LONGEST_SAMPLE), print_exception=False
            )
        for kind, (told, pieces) in self.pieces.items():
            name = say(language, f"lab_{kind}")
            try:
                model, scored = evolution.score_by(kind, text)
            except UserError as error:
                shown[told], shown[pieces] = f"**{name}**: {explain(error, language)}", None
                continue
            shown[told] = say(
                language,
                "lab_row",
                name=name,
                tokens=len(scored),
                ratio=f"{len(text) / len(scored):.2f}",
                bits=f"{sum(token.surprise for token in scored) / len(text):.2f}",
                parameters=f"{model.num_parameters() / 1e6:.2f}",
            )
            tokens = [token_value(index, token, language) for index, token in enumerate(scored)]
            shown[pieces] = {"lines": [{"tokens": tokens}]}
        return shown


@keep_recent(20_000_000)
def grow(run: Path, step: int, line: str) -> tuple[inside.Trace, str]:
    """How the model of a run read a line after a step of its training, and what it wrote after it."""
    model, tokenizer = evolution.load_grown(run, step)
    written = stream_text(model, tokenizer, line, GROWN, temperature=0.8, seed=SEED)
    return inside.trace(model, tokenizer, line), "".join(written)
