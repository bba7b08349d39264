"""The tab for looking inside: one text, one model, and all that happens on the way to the next token."""

import base64
import io
from collections.abc import Iterator

import gradio as gr
import torch
from PIL import Image
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from space import inside, writer
from space.guard import LOOKING
from space.inside import Heads, Trace
from space.language import Words, errors_shown, say
from space.loading import keep_recent, load_once
from space.tabs import figures
from space.tabs.components import custom, token_at, token_value
from space.token_scores import Alternative, ScoredToken
from tokenizer import token_bytes

TEXT, SOURCE = "The moon upon the water", "Dorothy lived in the midst of the great Kansas prairies"
BLUE = (37, 99, 235)
LINES, FAINT = 6, 0.04  # lines from each token, and the weight below which there is none
WRITTEN, MEASURED = 80, 48  # tokens, with and without muted heads, and with and without the cache


class InsideTab:
    """The components of the tab and what they do; how others lead here is wired in `app.py`."""

    def __init__(self, words: Words, language: gr.Radio):
        self.language = language
        words(gr.Markdown, "inside_help")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                self.build_question(words)
            with gr.Column(scale=3, min_width=300):
                self.build_tokens(words)
        with gr.Tabs():
            with words(gr.Tab, "attention_part"):
                self.build_attention(words)
            with words(gr.Tab, "layers_part"):
                self.lens, self.norms = words(gr.Plot, "lens"), words(gr.Plot, "norms")
            with words(gr.Tab, "muting_part"):
                self.build_muting(words)
            with words(gr.Tab, "embeddings_part"):
                self.embeddings = words(gr.Plot, "embeddings")
            with words(gr.Tab, "cache_part"):
                self.cache_run, self.cache = words(gr.Button, "cache_run"), words(gr.Plot, "cache", visible=False)
        self.head = gr.State((0, 0))
        self.drawn = gr.State(False)
        self.here = gr.State({})  # where another token can be taken: in which answer, and after which of its characters
        self.connect()

    def build_question(self, words: Words) -> None:
        models = writer.seen_models()
        self.model = words(
            gr.Dropdown,
            "inside_model",
            lambda language: {"choices": writer.choices(models, language)},
            value=writer.default_model(),
            elem_id="inside-model",
        )
        self.source = words(gr.Textbox, "source", value=SOURCE, visible=False, max_lines=4, elem_id="source")
        self.text = words(gr.Textbox, "inside_text", value=TEXT, max_lines=6, elem_id="inside-text")
        self.causal = words(gr.Checkbox, "causal", value=True, elem_id="causal")
        self.look = words(gr.Button, "look", variant="primary", elem_id="look")

    def build_tokens(self, words: Words) -> None:
        self.read = gr.Markdown(elem_id="read")
        self.tokens = words(gr.HTML, "inside_tokens", elem_id="inside-tokens", **custom("tokens"))
        self.alternative = words(gr.Radio, "alternative", choices=[], visible=False, elem_id="alternative")
        self.go_on = words(gr.Button, "go_on", visible=False, elem_id="go-on")

    def build_attention(self, words: Words) -> None:
        self.kind = words(gr.Radio, "kind", choices=[], visible=False, elem_id="kind")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                self.heads = words(gr.HTML, "heads", elem_id="heads", **custom("heads"))
            with gr.Column(scale=3, min_width=300):
                self.head_name = gr.Markdown(elem_id="head-name")
                self.heat = words(gr.Plot, "heat", elem_id="heat")
        self.lines = words(gr.HTML, "lines", elem_id="lines", **custom("lines"))

    def build_muting(self, words: Words) -> None:
        self.muted = words(gr.Dropdown, "muted", choices=[], multiselect=True, elem_id="muted")
        self.compare = words(gr.Button, "compare", elem_id="compare")
        with gr.Row():
            self.written = words(gr.Textbox, "written", lines=6, interactive=False, elem_id="written")
            self.written_muted = words(gr.Textbox, "written_muted", lines=6, interactive=False, elem_id="written-muted")

    def connect(self) -> None:
        asked = {
            *(self.language, self.model, self.source, self.text, self.causal, self.muted),
            *(self.kind, self.head, self.here, self.drawn),
        }
        one_head = [self.head, self.heads, self.head_name, self.heat, self.lines]
        views = [
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
        place = [self.here, self.alternative, self.go_on]
        redraws = [self.look.click, self.text.submit, self.source.submit, self.causal.input, self.muted.input]
        gr.on([*redraws, self.model.input], self.draw, asked, views, **LOOKING)
        self.kind.input(self.draw_head, asked, one_head, **LOOKING)
        self.heads.select(self.pick_head, asked, one_head, **LOOKING)
        self.tokens.select(self.pick_token, asked, [*place, self.tokens], **LOOKING)
        self.compare.click(self.write_both, asked, [self.written, self.written_muted], **LOOKING)
        self.cache_run.click(self.measure_cache, asked, self.cache, **LOOKING)
        self.views, self.asked, self.place = views, asked, place

    def trace(self, given: dict) -> Trace:
        """The forward pass that is asked for.

        Raises:
            gr.Error: this model cannot read these texts, with the reason.
        """
        with errors_shown(given[self.language]):
            check_texts(given[self.text], given[self.source])
            model, _ = open_model(given[self.model])
            source = given[self.source] if model.config.is_encoder_decoder else ""
            heads = tuple(parse_heads(given[self.muted], model))
            return look(given[self.model], given[self.text], source, given[self.causal], heads)

    def draw(self, given: dict) -> dict:
        """All views but those that take their time."""
        trace, language = self.trace(given), given[self.language]
        model, tokenizer = open_model(given[self.model])
        kinds = list(attentions(trace))
        chosen = given[self.kind] if given[self.kind] in kinds else next(iter(kinds), None)
        probabilities, guessed = inside.logit_lens(model, trace, top=1)
        guesses = [[inside.show_token(tokenizer, token) for token in row] for row in guessed[..., 0].tolist()]
        return {
            self.drawn: True,
            self.source: gr.update(visible=model.config.is_encoder_decoder),
            self.muted: gr.update(
                choices=[(say(language, "head", layer=x + 1, head=y + 1), f"{x}.{y}") for x, y in heads_of(model)],
                value=[f"{layer}.{head}" for layer, head in parse_heads(given[self.muted], model)],
            ),
            self.read: describe_reading(trace, language),
            self.tokens: describe_tokens(model, inside.score_trace(model, tokenizer, trace), language),
            self.kind: gr.update(
                choices=[(say(language, kind), kind) for kind in kinds], value=chosen, visible=len(kinds) > 1
            ),
            self.lens: figures.lens(trace, probabilities[..., 0], guesses, language),
            self.norms: figures.norms(trace, inside.residual_norms(trace), language),
            self.embeddings: figures.embeddings(map_embeddings(given[self.model]), trace.ids, language),
            **self.draw_head({**given, self.kind: chosen}),
        }

    def draw_first(self, given: dict) -> dict:
        """All views, for a visitor who opens the tab for the first time."""
        return {self.drawn: True} if given[self.drawn] else self.draw(given)

    def draw_again(self, given: dict) -> dict:
        """All views, if there are any yet: their words are in another language now."""
        return self.draw(given) if given[self.drawn] else {self.drawn: False}

    def draw_head(self, given: dict) -> dict:
        """The small pictures of all heads, and one of them large."""
        trace, language, kind = self.trace(given), given[self.language], given[self.kind]
        layers = attentions(trace).get(kind)
        if layers is None:
            nothing = {self.heads: None, self.heat: gr.update(visible=False), self.lines: None}
            return {self.head_name: say(language, "no_attention"), **nothing}
        layer, head = given[self.head]
        if layer >= len(layers) or head >= len(layers[0]):
            layer, head = 0, 0
        queries = list(trace.source_shown if kind == "source_self" else trace.shown)
        keys = list(trace.shown if kind == "self" else trace.source_shown)
        weights = layers[layer][head]  # (queries, keys)
        model, _ = open_model(given[self.model])
        silent = parse_heads(given[self.muted], model) if kind == "self" else []
        name = say(language, "head", layer=layer + 1, head=head + 1)
        pictures = draw_heads(layers, model.config.num_key_value_heads, silent, language)
        return {
            self.head: (layer, head),
            self.heads: {"layers": pictures, "layer": layer, "head": head},
            self.head_name: f"**{pictures[layer][head]['name']}**",
            self.heat: gr.update(value=figures.heat(weights, queries, keys, language), visible=True),
            self.lines: {"queries": queries, "keys": keys, "lines": strongest(weights), "name": name},
        }

    def pick_head(self, given: dict, picked: gr.EventData) -> dict:
        """Show the head that was clicked."""
        return self.draw_head({**given, self.head: (picked._data["layer"], picked._data["head"])})

    def pick_token(self, given: dict, picked: gr.EventData) -> dict:
        """Offer what else could stand where the token is that was clicked."""
        trace, language, index = self.trace(given), given[self.language], picked._data["index"]
        model, tokenizer = open_model(given[self.model])
        scored = inside.score_trace(model, tokenizer, trace)
        with errors_shown(language):
            token = token_at(picked, scored)
        value = {**describe_tokens(model, scored, language), "selected": index}
        if given[self.model] not in writer.served_models():
            return {self.tokens: value, **self.offer((), {})}
        rest = b"".join(token_bytes(tokenizer, token) for token in trace.ids[index:])
        kept = given[self.text].removesuffix(rest.decode(errors="replace"))
        return {self.tokens: value, **self.offer(token.alternatives, {"kept": kept})}

    def offer(self, alternatives: tuple[Alternative, ...], here: dict) -> dict:
        """Let the reader take another token in a place of a text; a part of a character cannot be written on from."""
        whole = [other for other in alternatives if "\ufffd" not in other.text]
        choices = [(f"{other.shown}  {other.probability:.1%}", other.text) for other in whole]
        return {
            self.here: here,
            self.alternative: gr.update(choices=choices, value=None, visible=bool(choices)),
            self.go_on: gr.update(visible=bool(choices)),
        }

    def write_both(self, given: dict) -> tuple[str, str]:
        """What the model writes as it is, and with the muted heads."""
        with errors_shown(given[self.language]):
            check_texts(given[self.text], given[self.source])
            model, tokenizer = open_model(given[self.model])
            source = given[self.source] if model.config.is_encoder_decoder else ""
            heads = parse_heads(given[self.muted], model)
            return inside.written_with_and_without(model, tokenizer, given[self.text], heads, WRITTEN, source)

    def measure_cache(self, given: dict) -> Iterator:
        """The cache as it grows, drawn again after every few tokens."""
        steps = []
        with errors_shown(given[self.language]):
            check_texts(given[self.text])
            for step in inside.cache_growth(*open_model(given[self.model]), given[self.text], MEASURED):
                steps.append(step)
                if len(steps) % 8 == 0:
                    yield gr.update(value=figures.cache(steps, given[self.language]), visible=True)


def open_model(key: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The copy of a served model that records what happens in it; its errors are those of [`load_checkpoint`]."""
    served = writer.seen_models()[key]
    return inside.load_eager(served.source, served.revision)


@load_once
def map_embeddings(key: str) -> inside.EmbeddingMap:
    """Where a model has its tokens, which does not depend on any text."""
    return inside.embedding_map(*open_model(key))


def check_texts(*texts: str) -> None:
    """Refuse, with a [`UserError`], a text that is longer than what a visitor can have from here."""
    for text in texts:
        writer.check_text(text)


@keep_recent(30_000_000)
def look(key: str, text: str, source: str, causal: bool, muted: Heads) -> Trace:
    """One forward pass; another view of it needs no other."""
    return inside.trace(*open_model(key), text, source, causal, muted)


def heads_of(model: PreTrainedModel) -> list[tuple[int, int]]:
    """The heads of a model that can be muted, each with its layer, counted from 0."""
    layers = len(inside.main_stack(model).layers)
    return [(layer, head) for layer in range(layers) for head in range(model.config.num_attention_heads)]


def parse_heads(names: list[str], model: PreTrainedModel) -> list[tuple[int, int]]:
    """`"1.2"` as layer 1 and head 2; what another model had and this one has not is left out."""
    return [head for name in names or () if (head := tuple(map(int, name.split(".")))) in heads_of(model)]


def attentions(trace: Trace) -> dict[str, tuple[torch.Tensor, ...]]:
    """The kinds of attention that the model has, `(heads, queries, keys)` of each layer."""
    kinds = {"self": trace.attention, "cross": trace.cross_attention, "source_self": trace.source_attention}
    return {name: layers for name, layers in kinds.items() if layers}


def describe_reading(trace: Trace, language: str) -> str:
    read, left = len(trace.ids), trace.left_out + trace.source_left_out
    if left:
        return say(language, "left_out", read=read, left=left)
    return say(language, "read", read=read, limit=inside.LIMIT)


def describe_tokens(model: PreTrainedModel, scored: list[ScoredToken], language: str) -> dict:
    """The tokens as `tokens.js` draws them: a decoder's with the probability that it gave each of them."""
    changed = {} if model.config.is_causal else {"told": ""}
    tokens = [token_value(index, token, language, **changed) for index, token in enumerate(scored)]
    return {"lines": [{"tokens": tokens}], "ids": True}


def draw_heads(
    layers: tuple[torch.Tensor, ...], kv_heads: int, silent: list[tuple[int, int]], language: str
) -> list[list[dict]]:
    """A small picture of every head of every layer, those together that share their keys and values."""
    shared = len(layers[0]) // kv_heads
    drawn = []
    for layer, heads in enumerate(layers):
        row = []
        for head, weights in enumerate(heads):
            name = say(language, "head", layer=layer + 1, head=head + 1)
            if shared > 1:
                name += ": " + say(language, "shares", group=head // shared + 1, heads=shared)
            muted, first = (layer, head) in silent, shared > 1 and head % shared == 0
            row.append({"index": head, "name": name, "picture": picture(weights), "muted": muted, "first": first})
        drawn.append(row)
    return drawn


def picture(weights: torch.Tensor) -> str:
    """Weights `(queries, keys)` as the address of a picture, a pixel each: bluer where they are larger."""
    opacity = (weights.sqrt() * 255).round().to(torch.uint8).numpy()  # the root, so that small weights are seen too
    image = Image.new("RGB", opacity.shape[::-1], BLUE)
    image.putalpha(Image.fromarray(opacity))
    data = io.BytesIO()
    image.save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def strongest(weights: torch.Tensor) -> list[tuple[int, int, float]]:
    """The largest weights of each row, with where they are."""
    values, keys = weights.topk(min(LINES, weights.shape[1]))
    return [
        (query, key, round(value, 3))
        for query, row in enumerate(zip(values.tolist(), keys.tolist(), strict=True))
        for value, key in zip(*row, strict=True)
        if value > FAINT
    ]
