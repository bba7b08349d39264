"""The tab for growth: five models side by side, one run from step to step, and three tokenizers."""

from collections.abc import Iterator
from pathlib import Path

import gradio as gr

from space import evolution, inside, writer
from space.language import VisitorError, errors_shown, explain, say
from space.loading import keep_recent
from space.tabs import figures
from space.tabs.components import VIEW_LIMITS, Translated, scripted, token_value
from training.command import UserError
from training.evaluation.sampling import stream_text

LINE = "The moon upon the water"
SAMPLES = ["The moon upon the water", "明月松间照，清泉石上流。", "Dorothy 与 Toto"]
LENGTH, SEED = 160, 7  # tokens that each of the five models writes; with one seed only the models differ
SNAPSHOT_LENGTH = 120  # tokens that a snapshot writes


class EvolutionTab:
    """The components of the tab and their events."""

    # Gradio would refuse a slider's value out of range in English; `grow` does in the page's language.
    limits = {**VIEW_LIMITS, "preprocess": False}

    def __init__(self, translated: Translated, language: gr.Radio):
        self.language = language
        self.run = evolution.growing_run()
        self.build_five(translated)
        self.drawn = gr.State(False)
        self.inputs, self.outputs = {self.language, self.drawn}, [self.curves, self.drawn]
        if self.run:
            self.build_growth(translated)
        self.build_laboratory(translated)

    def draw(self, values: dict) -> Iterator[dict]:
        """Draw the curves of the five models, and the run at one of its steps."""
        runs = {key: evolution.read_curve(writer.CHECKPOINTS / key) for key in self.boxes}
        yield {self.drawn: True, self.curves: figures.curves(runs, values[self.language])}
        if self.run:
            yield self.grow(values)

    def draw_first(self, values: dict) -> Iterator[dict]:
        """Draw when a visitor opens the tab for the first time."""
        yield from [{self.drawn: True}] if values[self.drawn] else self.draw(values)

    def draw_again(self, values: dict) -> Iterator[dict]:
        """Draw again what is there already, after the language has changed."""
        if values[self.drawn]:
            yield from self.draw(values)
        if values[self.compared]:
            yield self.compare(values)

    def build_five(self, translated: Translated) -> None:
        translated(gr.Markdown, "five_help")
        with gr.Row():
            self.line = translated(gr.Textbox, "five_prompt", value=LINE, scale=6, elem_id="five-prompt")
            run = translated(gr.Button, "five_run", variant="primary", min_width=120, elem_id="five-run")
            stop = translated(gr.Button, "five_stop", variant="stop", min_width=90)
        with gr.Row():
            self.boxes = {
                key: translated(
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
        self.curves = translated(gr.Plot, "curves")
        writing = gr.on(
            [run.click, self.line.submit],
            self.write_five,
            {self.line, self.language},
            list(self.boxes.values()),
            concurrency_limit=4,
            show_progress="hidden",
            api_visibility="private",
        )
        stop.click(None, cancels=writing)

    def write_five(self, values: dict) -> Iterator[dict]:
        """Yield the five texts while they grow."""
        with errors_shown(values[self.language]):
            for texts in evolution.write_together(values[self.line], list(self.boxes), LENGTH, SEED):
                yield {self.boxes[key]: text for key, text in texts.items()}

    def build_growth(self, translated: Translated) -> None:
        self.steps = list(evolution.list_snapshots(self.run))
        model, _ = inside.load_traceable(str(evolution.best_of(self.run)))
        heads = [
            f"{layer + 1}.{head + 1}"
            for layer in range(model.config.num_hidden_layers)
            for head in range(model.config.num_attention_heads)
        ]
        translated(gr.Markdown, "growth_help")
        with gr.Row():
            self.grown_line = translated(gr.Textbox, "growth_prompt", value=LINE, scale=4, elem_id="growth-prompt")
            self.grown_head = translated(gr.Dropdown, "growth_head", choices=heads, value=heads[-1], scale=1)
        self.step = translated(
            gr.Slider, "growth_step", minimum=0, maximum=len(self.steps) - 1, value=0, step=1, elem_id="growth-step"
        )
        self.grown_loss = gr.Markdown(elem_id="growth-loss")
        with gr.Row(equal_height=False):
            with gr.Column(min_width=300):
                self.grown_text = translated(
                    gr.Textbox, "growth_text", lines=7, interactive=False, elem_id="growth-text"
                )
                self.grown_curve = gr.Plot(show_label=False)
            with gr.Column(min_width=300):
                self.grown_heat = translated(gr.Plot, "growth_heat")
        inputs = {self.language, self.grown_line, self.grown_head, self.step}
        outputs = [self.grown_loss, self.grown_text, self.grown_curve, self.grown_heat]
        self.inputs |= inputs
        self.outputs += outputs
        gr.on(
            [self.step.change, self.grown_line.submit, self.grown_head.input],
            self.grow,
            inputs,
            outputs,
            show_progress="minimal",
            trigger_mode="always_last",
            **self.limits,
        )

    def grow(self, values: dict) -> dict:
        """Show what the run's model wrote after a training step, and what one of its heads attended to."""
        language = values[self.language]
        layer, head = (int(number) - 1 for number in values[self.grown_head].split("."))
        with errors_shown(language):
            place = values[self.step]
            if not writer.is_number(place, 0, len(self.steps) - 1):
                raise VisitorError("bad_step")
            step = self.steps[int(place)]
            writer.check_prompt(values[self.grown_line])
            trace, written = run_snapshot(self.run, step, values[self.grown_line])
        curve = dict(evolution.read_curve(self.run))
        points = {say(language, "loss"): list(curve.items())}
        sentence = say(language, "growth_loss", step=step, loss=curve[step], start=curve[self.steps[0]])
        return {
            self.grown_loss: sentence,
            self.grown_text: values[self.grown_line] + written,
            self.grown_curve: figures.curves(points, language, (step, curve[step])),
            self.grown_heat: figures.heat(trace.attention[layer][head], trace.shown, trace.shown, language),
        }

    def build_laboratory(self, translated: Translated) -> None:
        translated(gr.Markdown, "lab_help")
        with gr.Row():
            self.sample = translated(gr.Textbox, "lab_text", value=SAMPLES[0], max_lines=4, scale=6, elem_id="lab-text")
            run = translated(gr.Button, "lab_run", variant="primary", min_width=120, elem_id="lab-run")
        examples = translated(
            gr.Dataset, "lab_examples", components=[self.sample], samples=[[text] for text in SAMPLES]
        )
        examples.click(lambda example: example[0], examples, self.sample, api_visibility="private")
        self.pieces = {}
        for kind in evolution.LABORATORY:
            summary = gr.Markdown(elem_id=f"lab-summary-{kind}")
            self.pieces[kind] = (
                summary,
                translated(gr.HTML, "lab_result", elem_id=f"lab-{kind}", **scripted("tokens")),
            )
        self.compared = gr.State(False)
        outputs = [self.compared, *(component for pair in self.pieces.values() for component in pair)]
        inputs = {self.sample, self.language}
        self.inputs |= {*inputs, self.compared}
        self.outputs += outputs
        gr.on([run.click, self.sample.submit], self.compare, inputs, outputs, **self.limits)

    def compare(self, values: dict) -> dict:
        """Show the text in the tokens of each tokenizer, and its bits per character."""
        text, language, shown = values[self.sample], values[self.language], {self.compared: True}
        if len(text) > evolution.LONGEST_SAMPLE:
            raise gr.Error(
                say(language, "long_prompt", value=len(text), most=evolution.LONGEST_SAMPLE), print_exception=False
            )
        for kind, (summary, pieces) in self.pieces.items():
            name = say(language, f"lab_{kind}")
            try:
                model, scored = evolution.score_by(kind, text)
            except UserError as error:
                shown[summary], shown[pieces] = f"**{name}**: {explain(error, language)}", None
                continue
            shown[summary] = say(
                language,
                "lab_row",
                name=name,
                tokens=len(scored),
                ratio=f"{len(text) / len(scored):.2f}",
                bits=f"{sum(token.surprisal for token in scored) / len(text):.2f}",
                parameters=f"{model.num_parameters() / 1e6:.2f}",
            )
            tokens = [token_value(index, token, language) for index, token in enumerate(scored)]
            shown[pieces] = {"lines": [{"tokens": tokens}]}
        return shown


@keep_recent(20_000_000)
def run_snapshot(run: Path, step: int, line: str) -> tuple[inside.Trace, str]:
    """How the model of a run read a line after a training step, and how it continued it."""
    model, tokenizer = evolution.load_snapshot_of(run, step)
    written = stream_text(model, tokenizer, line, SNAPSHOT_LENGTH, temperature=0.8, seed=SEED)
    return inside.trace(model, tokenizer, line), "".join(written)
