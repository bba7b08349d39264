"""What other programs can call: the functions of the API, which are the tools of the MCP server too."""

from collections.abc import Iterator

from space import inside, writer
from space.words import VisitorError, errors_shown
from training.command import UserError


def generate(
    prompt: str, model: str = "", temperature: float = 0.8, top_p: float = 0.95, length: int = 300, seed: int = 0
) -> Iterator[str]:
    """Write on from an opening line, or answer a request for poetry, for Oz or, in Chinese, for a quatrain.

    Args:
        prompt: an opening line, or a request such as "Write me a poem".
        model: the checkpoint to write with, for example "poetry-bigram"; empty takes the page's default.
        temperature: 0 always takes the likeliest token, higher is bolder.
        top_p: draw only from the likeliest tokens that have this probability together.
        length: tokens to write.
        seed: the same seed gives the same text; 0 draws anew.
    """
    with errors_shown():
        yield from writer.answer(prompt, model or writer.default_model(), temperature, top_p, length, seed)


@errors_shown()
def tokens(text: str, model: str = "") -> list[dict]:
    """Cut a text into the tokens of a model, each with its id, its probability after those before it, and its surprise.

    Args:
        text: the text, at most 2,000 characters.
        model: a checkpoint that writes, for example "poetry-modern"; empty takes the page's default.

    Returns:
        A record for each token: `text`, `id`, `probability` and `bits` (both null for the first, before which nothing
        stands) and `alternatives`, the five likeliest tokens there with their probabilities.
    """
    model, tokenizer = open_model(text, model)
    scored = inside.score_tokens(model, tokenizer, "", text)
    return [
        {
            "text": token.shown,
            "id": token.id,
            "probability": token.probability,
            "bits": token.surprise,
            "alternatives": [{"text": other.shown, "probability": other.probability} for other in token.alternatives],
        }
        for token in scored
    ]


@errors_shown()
def attention(text: str, model: str = "", layer: int = 1, head: int = 1) -> dict:
    """Show where one attention head of a model looks while it reads a text.

    Args:
        text: the text; of a long one the last 96 tokens are read.
        model: a checkpoint, for example "poetry-gpt"; empty takes the page's default.
        layer: counted from 1.
        head: counted from 1.

    Returns:
        `tokens`, and `weights`: for each token that looks, the share of its attention that each token gets, which add
        up to 1.
    """
    model, tokenizer = open_model(text, model)
    trace = inside.trace(model, tokenizer, text)
    if not (0 < layer <= len(trace.attention) and 0 < head <= len(trace.attention[layer - 1])):
        heads = len(trace.attention[0]) if trace.attention else 0
        raise UserError(f"this model has {len(trace.attention)} layers of attention with {heads} heads each.")
    return {"tokens": trace.shown, "weights": trace.attention[layer - 1][head - 1].tolist()}


def open_model(text: str, key: str):
    """The copy of a model that can be looked into, for a text that may be read.

    Raises:
        UserError: the text is empty or too long, or there is no such model.
    """
    writer.check_prompt(text)
    models, key = writer.seen_models(), key or writer.default_model()
    if key not in models:
        raise VisitorError("no_model", name=key, names=", ".join(models))
    return inside.load_eager(models[key].source, models[key].revision)
