"""What neither Gradio nor Plotly has: tokens, small pictures of heads, and lines of attention.

Each is a file of JavaScript and one of CSS in `static/`, as they are, with no build step.
"""

from pathlib import Path

import gradio as gr

from space.language import VisitorError, say
from space.token_scores import ScoredToken

STATIC = Path(__file__).parents[1] / "static"
TEMPLATES = {
    "tokens": '<div class="tokens"></div><div class="card" role="tooltip" hidden></div>',
    "heads": '<div class="heads"></div>',
    "lines": '<svg class="lines" role="img"></svg>',
}


def custom(name: str) -> dict[str, str]:
    """The options of a `gr.HTML` that draws its value by a script of ours."""
    return {
        "html_template": TEMPLATES[name],
        "css_template": (STATIC / f"{name}.css").read_text(encoding="utf-8"),
        "js_on_load": (STATIC / f"{name}.js").read_text(encoding="utf-8"),
    }


def token_value(index: int, token: ScoredToken, language: str, **changed) -> dict:
    """A token as `tokens.js` draws it, with what is to be different in this place."""
    told = say(language, "first_token")
    if token.probability is not None:
        told = say(language, "probability", share=f"{token.probability:.1%}", bits=f"{token.surprise:.1f}")
    return {
        "index": index,
        "id": token.id,
        "text": token.shown,
        "probability": token.probability,
        "told": told,
        "alternatives": [(other.shown, f"{other.probability:.1%}") for other in token.alternatives],
        **changed,
    }


def token_at(picked: gr.EventData, scored: list[ScoredToken]) -> ScoredToken:
    """The token that was clicked.

    Raises:
        VisitorError: the text is another one by now.
    """
    index = picked._data["index"]
    if index >= len(scored) or scored[index].id != picked._data["id"]:
        raise VisitorError("changed_text")
    return scored[index]
