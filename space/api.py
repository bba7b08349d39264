"""The functions that other programs can call, through the HTTP API or as tools of the MCP server.

Gradio makes the descriptions of the tools from the docstrings here. It reads one line for each argument, and one for
the result.
"""

from collections.abc import Iterator

import gradio as gr

from space import inside, writer
from space.language import VisitorError, errors_shown


def add_endpoints(page: gr.Blocks, **limits) -> None:
    """Let programs call the functions below; `limits` are options of `gr.api`."""
    for function in (generate, tokens, attention):
        endpoint = gr.api(function, **limits)
        for argument in page.fns[endpoint["id"]].inputs:
            if argument.value is not None:
                # Gradio leaves falsy defaults, 0 and "", out of a tool's schema.
                argument._api_info["default"] = argument.value


def generate(
    prompt: str, model: str = "", temperature: float = 0.8, top_p: float = 0.95, length: int = 300, seed: int = 0
) -> Iterator[str]:
    """Continue an opening line, or answer a request for poetry, for Oz or, in Chinese, for a quatrain.

    Args:
        prompt: an opening line, or a request such as "Write me a poem"; at most 2,000 characters.
        model: the checkpoint to write with, for example "poetry-bigram"; empty for the page's default.
        temperature: 0 always takes the most likely token; higher is more random, up to 2.
        top_p: sample only from the most likely tokens whose probabilities add up to this, from 0.01 to 1.
        length: how many tokens to write, from 1 to 1,000.
        seed: the same seed gives the same text; 0 gives a new text every time.

    Returns:
        The prompt and what the model has written so far, repeated as the text grows.
    """
    with errors_shown():
        yield from writer.answer(prompt, model or writer.default_model(), temperature, top_p, length, seed)


@errors_shown()
def tokens(text: str, model: str = "") -> list[dict]:
    """Split a text into the tokens of a model and score them. The first token has no probability.

    Args:
        text: the text, at most 2,000 characters.
        model: a decoder, for example "poetry-modern"; empty for the page's default.

    Returns:
        The text, id, probability, surprisal in bits and five most likely alternatives of each token.
    """
    writer.check_prompt(text)
    scored = inside.score_tokens(*open_model(model, writer.served_models()), "", text)
    return [
        {
            "text": token.shown,
            "id": token.id,
            "probability": token.probability,
            "bits": token.surprisal,
            "alternatives": [{"text": other.shown, "probability": other.probability} for other in token.alternatives],
        }
        for token in scored
    ]


@errors_shown()
def attention(text: str, model: str = "", layer: int = 1, head: int = 1, source: str = "") -> dict:
    """Show which tokens one attention head of a model attends to while it reads a text.

    Args:
        text: the text, of which the last 96 tokens are read; for an encoder-decoder, what the decoder has written.
        model: a checkpoint, for example "poetry-gpt"; empty for the page's default.
        layer: counted from 1.
        head: counted from 1.
        source: what the encoder of an encoder-decoder such as "oz-next-passage" reads; empty for other models.

    Returns:
        `tokens`, and `weights`, a row for each token: how much of its attention each token gets; with a source also `source_tokens` and `source_weights`, the attention of each token to the source.
    """  # noqa: E501  (Gradio would put a comma after each line of a longer description)
    writer.check_text(text, writer.LONGEST_PROMPT)
    writer.check_text(source, writer.LONGEST_PROMPT)
    trace = inside.trace(*open_model(model, writer.inspectable_models()), text, source)
    if not trace.attention:
        raise VisitorError("no_attention")
    layers, heads = len(trace.attention), len(trace.attention[0])
    if not (writer.is_number(layer, 1, layers, whole=True) and writer.is_number(head, 1, heads, whole=True)):
        layer, head = writer.quote(layer), writer.quote(head)
        raise VisitorError("no_head", layer=layer, head=head, layers=layers, heads=heads)
    layer, head = int(layer) - 1, int(head) - 1
    result = {"tokens": trace.shown, "weights": trace.attention[layer][head].tolist()}
    if source:
        result |= {"source_tokens": trace.source_shown, "source_weights": trace.cross_attention[layer][head].tolist()}
    return result


def open_model(key: str, models: dict[str, writer.Served]):
    """The traceable copy of the model with this key, or of the page's default.

    Raises:
        UserError: there is no such model, or it cannot be loaded.
    """
    served = writer.find_model(key or writer.default_model(), models)
    return inside.load_traceable(served.source, served.revision)
