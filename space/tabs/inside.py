"""The tab for looking inside: one text, one model, and everything that happens on the way to the next token."""

import base64
import io
from collections.abc import Iterator

import gradio as gr
import torch
from PIL import Image
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from space import inside, writer
from space.inside import Heads, Trace
from space.language import errors_shown, say
from space.loading import keep_recent, load_once
from space.tabs import figures
from space.tabs.components import VIEW_LIMITS, Translated, clicked_token, scripted, token_value
from space.token_scores import Alternative, ScoredToken
from tokenizer import token_bytes

TEXT, SOURCE = "The moon upon the water", "Dorothy lived in the midst of the great Kansas prairies"
BLUE = (37, 99, 235)
LINES, FAINT = 6, 0.04  # the most lines from each token, and the weight below which none is drawn
WRITTEN, MEASURED = 80, 48  # tokens: written with and without muted heads, timed with and without the cache


class InsideTab:
    """The components of the tab and their events. `app.py` connects it with the other tabs."""

    limits = VIEW_LIMITS

    def __init__(self, translated: Translated, language: gr.Radio):
        self.language = language
        translated(gr.Markdown, "inside_help")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                self.build_question(translated)
            with gr.Column(scale=3, min_width=300):
                self.build_tokens(translated)
        with gr.Tabs():
            with translated(gr.Tab, "attention_part"):
                self.build_attention(translated)
            with translated(gr.Tab, "layers_part"):
                self.lens, self.norms = translated(gr.Plot, "lens"), translated(gr.Plot, "norms")
            with translated(gr.Tab, "muting_part"):
                self.build_muting(translated)
            with translated(gr.Tab, "embeddings_part"):
                self.embeddings = translated(gr.Plot, "embeddings")
            with translated(gr.Tab, "cache_part"):
                self.cache_run = translated(gr.Button, "cache_run")
                self.cache = translated(gr.Plot, "cache", visible=False)
        self.head = gr.State((0, 0))
        self.drawn = gr.State(False)
        # Where another token can be chosen: the text before it, and the index of its answer if it is in one.
        self.position = gr.State({})
        self.connect()

    def build_question(self, translated: Translated) -> None:
        models = writer.inspectable_models()
        self.model = translated(
            gr.Dropdown,
            "inside_model",
            lambda language: {"choices": writer.choices(models, language)},
            value=writer.default_model(),
            elem_id="inside-model",
        )
        self.source = translated(gr.Textbox, "source", value=SOURCE, visible=False, max_lines=4, elem_id="source")
        self.text = translated(gr.Textbox, "inside_text", value=TEXT, max_lines=6, elem_id="inside-text")
        self.causal = translated(gr.Checkbox, "causal", value=True, elem_id="causal")
        self.look = translated(gr.Button, "look", variant="primary", elem_id="look")

    def build_tokens(self, translated: Translated) -> None:
        self.read = gr.Markdown(elem_id="read")
        self.tokens = translated(gr.HTML, "inside_tokens", elem_id="inside-tokens", **scripted("tokens"))
        self.alternative = translated(gr.Radio, "alternative", choices=[], visible=False, elem_id="alternative")
        self.go_on = translated(gr.Button, "go_on", visible=False, elem_id="go-on")

    def build_attention(self, translated: Translated) -> None:
        self.kind = translated(gr.Radio, "kind", choices=[], visible=False, elem_id="kind")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                self.heads = translated(gr.HTML, "heads", elem_id="heads", **scripted("heads"))
            with gr.Column(scale=3, min_width=300):
                self.head_name = gr.Markdown(elem_id="head-name")
                self.heat = translated(gr.Plot, "heat", elem_id="heat")
        self.lines = translated(gr.HTML, "lines", elem_id="lines", **scripted("lines"))

    def build_muting(self, translated: Translated) -> None:
        self.muted = translated(gr.Dropdown, "muted", choices=[], multiselect=True, elem_id="muted")
        self.compare = translated(gr.Button, "compare", elem_id="compare")
        with gr.Row():
            self.written = translated(gr.Textbox, "written", lines=6, interactive=False, elem_id="written")
            self.written_muted = translated(
                gr.Textbox, "written_muted", lines=6, interactive=False, elem_id="written-muted"
            )

    def connect(self) -> None:
        inputs = {
            *(self.language, self.model, self.source, self.text, self.causal, self.muted),
            *(self.kind, self.head, self.position, self.drawn),
        }
        one_head = [self.head, self.heads, self.head_name, self.heat, self.lines]
        outputs = [
            self.drawn,
            self.source,
            self.muted,
            self.read,
            self.tokens,
            self.kind,
            self.lens,
            self.norms,
            self.embeddings,
            *one_head,
        ]
        offer_outputs = [self.position, self.alternative, self.go_on]
        redraws = [self.look.click, self.text.submit, self.source.submit, self.causal.input, self.muted.input]
        gr.on([*redraws, self.model.input], self.draw, inputs, outputs, **VIEW_LIMITS)
        self.kind.input(self.draw_head, inputs, one_head, **VIEW_LIMITS)
        self.heads.select(self.pick_head, inputs, one_head, **VIEW_LIMITS)
        self.tokens.select(self.pick_token, inputs, [*offer_outputs, self.tokens], **VIEW_LIMITS)
        self.compare.click(self.write_both, inputs, [self.written, self.written_muted], **VIEW_LIMITS)
        self.cache_run.click(self.measure_cache, inputs, self.cache, **VIEW_LIMITS)
        self.inputs, self.outputs, self.offer_outputs = inputs, outputs, offer_outputs

    def trace(self, values: dict) -> Trace:
        """The forward pass over the text in the tab.

        Raises:
            gr.Error: the model cannot read these texts; the message says why.
        """
        with errors_shown(values[self.language]):
            check_texts(values[self.text], values[self.source])
            model, _ = open_model(values[self.model])
            source = values[self.source] if model.config.is_encoder_decoder else ""
            heads = tuple(parse_heads(values[self.muted], model))
            return cached_trace(values[self.model], values[self.text], source, values[self.causal], heads)

    def draw(self, values: dict) -> dict:
        """Draw all views except for those that have a button of their own."""
        trace, language = self.trace(values), values[self.language]
        model, tokenizer = open_model(values[self.model])
        kinds = list(attentions(trace))
        chosen = values[self.kind] if values[self.kind] in kinds else next(iter(kinds), None)
        probabilities, predicted = inside.logit_lens(model, trace, top=1)
        guesses = [[inside.show_token(tokenizer, token) for token in row] for row in predicted[..., 0].tolist()]
        return {
            self.drawn: True,
            self.source: gr.update(visible=model.config.is_encoder_decoder),
            self.muted: gr.update(
                choices=[(say(language, "head", layer=x + 1, head=y + 1), f"{x}.{y}") for x, y in heads_of(model)],
                value=[f"{layer}.{head}" for layer, head in parse_heads(values[self.muted], model)],
            ),
            self.read: describe_reading(trace, language),
            self.tokens: describe_tokens(model, inside.score_trace(model, tokenizer, trace), language),
            self.kind: gr.update(
                choices=[(say(language, kind), kind) for kind in kinds], value=chosen, visible=len(kinds) > 1
            ),
            self.lens: figures.lens(trace, probabilities[..., 0], guesses, language),
            self.norms: figures.norms(trace, inside.residual_norms(trace), language),
            self.embeddings: figures.embeddings(map_embeddings(values[self.model]), trace.ids, language),
            **self.draw_head({**values, self.kind: chosen}),
        }

    def draw_first(self, values: dict) -> dict:
        """Draw all views when a visitor opens the tab for the first time."""
        return {self.drawn: True} if values[self.drawn] else self.draw(values)

    def draw_again(self, values: dict) -> dict:
        """Draw the views again, if there are any yet, after the language has changed."""
        return self.draw(values) if values[self.drawn] else {self.drawn: False}

    def draw_head(self, values: dict) -> dict:
        """Draw the thumbnails of all heads, and one head in detail."""
        trace, language, kind = self.trace(values), values[self.language], values[self.kind]
        layers = attentions(trace).get(kind)
        if layers is None:
            nothing = {self.heads: None, self.heat: gr.update(visible=False), self.lines: None}
            return {self.head_name: say(language, "no_attention"), **nothing}
        layer, head = values[self.head]
        if layer >= len(layers) or head >= len(layers[0]):
            layer, head = 0, 0
        queries = list(trace.source_shown if kind == "source_self" else trace.shown)
        keys = list(trace.shown if kind == "self" else trace.source_shown)
        weights = layers[layer][head]  # (queries, keys)
        model, _ = open_model(values[self.model])
        muted = parse_heads(values[self.muted], model) if kind == "self" else []
        name = say(language, "head", layer=layer + 1, head=head + 1)
        thumbnails = draw_heads(layers, model.config.num_key_value_heads, muted, language)
        return {
            self.head: (layer, head),
            self.heads: {"layers": thumbnails, "layer": layer, "head": head},
            self.head_name: f"**{thumbnails[layer][head]['name']}**",
            self.heat: gr.update(value=figures.heat(weights, queries, keys, language), visible=True),
            self.lines: {"queries": queries, "keys": keys, "lines": strongest(weights), "name": name},
        }

    def pick_head(self, values: dict, event: gr.EventData) -> dict:
        """Show the head that was clicked."""
        return self.draw_head({**values, self.head: (event._data["layer"], event._data["head"])})

    def pick_token(self, values: dict, event: gr.EventData) -> dict:
        """Offer the alternatives to the token that was clicked."""
        trace, language, index = self.trace(values), values[self.language], event._data["index"]
        model, tokenizer = open_model(values[self.model])
        scored = inside.score_trace(model, tokenizer, trace)
        with errors_shown(language):
            token = clicked_token(event, scored)
        value = {**describe_tokens(model, scored, language), "selected": index}
        if values[self.model] not in writer.served_models():
            return {self.tokens: value, **self.offer((), {})}
        rest = b"".join(token_bytes(tokenizer, token) for token in trace.ids[index:])
        before = values[self.text].removesuffix(rest.decode(errors="replace"))
        return {self.tokens: value, **self.offer(token.alternatives, {"before": before})}

    def offer(self, alternatives: tuple[Alternative, ...], position: dict) -> dict:
        """Let the visitor choose another token at a position, except for parts of characters, which end no text."""
        whole = [other for other in alternatives if "\ufffd" not in other.text]
        choices = [(f"{other.shown}  {other.probability:.1%}", other.text) for other in whole]
        return {
            self.position: position,
            self.alternative: gr.update(choices=choices, value=None, visible=bool(choices)),
            self.go_on: gr.update(visible=bool(choices)),
        }

    def write_both(self, values: dict) -> tuple[str, str]:
        """Let the model write with all heads and with the muted ones."""
        with errors_shown(values[self.language]):
            check_texts(values[self.text], values[self.source])
            model, tokenizer = open_model(values[self.model])
            source = values[self.source] if model.config.is_encoder_decoder else ""
            heads = parse_heads(values[self.muted], model)
            return inside.write_with_and_without(model, tokenizer, values[self.text], heads, WRITTEN, source)

    def measure_cache(self, values: dict) -> Iterator:
        """Yield the plot of the cache while it grows, after every few tokens."""
        steps = []
        with errors_shown(values[self.language]):
            check_texts(values[self.text])
            for step in inside.cache_growth(*open_model(values[self.model]), values[self.text], MEASURED):
                steps.append(step)
                if len(steps) % 8 == 0:
                    yield gr.update(value=figures.cache(steps, values[self.language]), visible=True)


def open_model(key: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The traceable copy of a served model. Its errors are those of [`load_checkpoint`]."""
    served = writer.inspectable_models()[key]
    return inside.load_traceable(served.source, served.revision)


@load_once
def map_embeddings(key: str) -> inside.EmbeddingMap:
    """The map of a model's token embeddings, which does not depend on the text."""
    return inside.embedding_map(*open_model(key))


def check_texts(*texts: str) -> None:
    """Raise a [`UserError`] for a text that is longer than any that this page shows."""
    for text in texts:
        writer.check_text(text)


@keep_recent(30_000_000)
def cached_trace(key: str, text: str, source: str, causal: bool, muted: Heads) -> Trace:
    """One forward pass, cached because several views need it."""
    return inside.trace(*open_model(key), text, source, causal, muted)


def heads_of(model: PreTrainedModel) -> list[tuple[int, int]]:
    """The heads of a model that can be muted, as `(layer, head)`."""
    layers = len(inside.main_stack(model).layers)
    return [(layer, head) for layer in range(layers) for head in range(model.config.num_attention_heads)]


def parse_heads(names: list[str], model: PreTrainedModel) -> list[tuple[int, int]]:
    """The names of heads, such as `"1.2"`, as `(layer, head)`. Heads that only another model has are left out."""
    return [head for name in names or () if (head := tuple(map(int, name.split(".")))) in heads_of(model)]


def attentions(trace: Trace) -> dict[str, tuple[torch.Tensor, ...]]:
    """The kinds of attention in a trace, each with one `(heads, queries, keys)` for each layer."""
    kinds = {"self": trace.attention, "cross": trace.cross_attention, "source_self": trace.source_attention}
    return {name: layers for name, layers in kinds.items() if layers}


def describe_reading(trace: Trace, language: str) -> str:
    read, left = len(trace.ids), trace.left_out + trace.source_left_out
    if left:
        return say(language, "left_out", read=read, left=left)
    return say(language, "read", read=read, limit=inside.LIMIT)


def describe_tokens(model: PreTrainedModel, scored: list[ScoredToken], language: str) -> dict:
    """The tokens as `tokens.js` draws them, with their probabilities if the model is a decoder."""
    changed = {} if model.config.is_causal else {"description": ""}
    tokens = [token_value(index, token, language, **changed) for index, token in enumerate(scored)]
    return {"lines": [{"tokens": tokens}], "ids": True}


def draw_heads(
    layers: tuple[torch.Tensor, ...], kv_heads: int, muted: list[tuple[int, int]], language: str
) -> list[list[dict]]:
    """A thumbnail of every head of every layer, as `heads.js` draws it, grouped by shared keys and values."""
    shared = len(layers[0]) // kv_heads
    rows = []
    for layer, heads in enumerate(layers):
        row = []
        for head, weights in enumerate(heads):
            name = say(language, "head", layer=layer + 1, head=head + 1)
            if shared > 1:
                name += ": " + say(language, "shares", group=head // shared + 1, heads=shared)
            flags = {"muted": (layer, head) in muted, "first": shared > 1 and head % shared == 0}
            row.append({"index": head, "name": name, "picture": picture(weights), **flags})
        rows.append(row)
    return rows


def picture(weights: torch.Tensor) -> str:
    """Weights `(queries, keys)` as the data URL of an image with one pixel for each, bluer if larger."""
    opacity = (weights.sqrt() * 255).round().to(torch.uint8).numpy()  # the root makes small weights visible
    image = Image.new("RGB", opacity.shape[::-1], BLUE)
    image.putalpha(Image.fromarray(opacity))
    data = io.BytesIO()
    image.save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def strongest(weights: torch.Tensor) -> list[tuple[int, int, float]]:
    """The largest weights of each row, as `(query, key, weight)`."""
    values, keys = weights.topk(min(LINES, weights.shape[1]))
    return [
        (query, key, round(value, 3))
        for query, row in enumerate(zip(values.tolist(), keys.tolist(), strict=True))
        for value, key in zip(*row, strict=True)
        if value > FAINT
    ]
