"""Components that the tabs share: translated ones, and those that neither Gradio nor Plotly has.

The latter draw tokens, thumbnails of heads, and lines of attention. Each is a JavaScript file and a CSS file in
`static/`, used as they are, with no build step.
"""

from collections.abc import Callable
from pathlib import Path

import gradio as gr
from gradio.components import Component

from space.language import TEXTS, VisitorError, say
from space.token_scores import ScoredToken

STATIC = Path(__file__).parents[1] / "static"
TEMPLATES = {
    "tokens": '<div class="tokens"></div><div class="card" role="tooltip" hidden></div>',
    "heads": '<div class="heads"></div>',
    "lines": '<svg class="lines" role="img"></svg>',
}
# How many views and explanations are computed at once. They do not pause to let others continue, as answers do, and on
# two cores more of them would only take more memory.
VIEW_LIMITS = {"concurrency_limit": 4, "concurrency_id": "views", "api_visibility": "private"}
EXPLANATION_LIMITS = {**VIEW_LIMITS, "concurrency_id": "explanations"}


class Translated:
    """Makes components whose texts change with the language.

    The texts of a component are the properties under its name in the files in `texts/`, and those that `computed`
    returns for a language.
    """

    def __init__(self):
        self.texts: dict[Component, Callable[[str], dict]] = {}

    def __call__(
        self, kind: Callable[..., Component], name: str, computed: Callable[[str], dict] = lambda _: {}, **options
    ) -> Component:
        """Make a component, in English at first.

        Args:
            kind: its class.
            name: where the files have its texts.
            computed: takes a language, and returns further properties that depend on it.
            options: properties that do not depend on the language.
        """

        def texts(language: str) -> dict:
            return {**TEXTS[language]["components"][name], **computed(language)}

        component = kind(**texts("en"), **options)
        self.texts[component] = texts
        return component

    @property
    def components(self) -> list[Component]:
        return list(self.texts)

    def updates(self, language: str) -> list[dict]:
        """The updates that translate all `components` into a language."""
        return [gr.update(**texts(language)) for texts in self.texts.values()]


def scripted(name: str) -> dict[str, str]:
    """The options of a `gr.HTML` that draws its value with `static/NAME.js`."""
    return {
        "html_template": TEMPLATES[name],
        "css_template": (STATIC / f"{name}.css").read_text(encoding="utf-8"),
        "js_on_load": (STATIC / f"{name}.js").read_text(encoding="utf-8"),
    }


def token_value(index: int, token: ScoredToken, language: str, **changed) -> dict:
    """A token as `tokens.js` draws it; `changed` replaces some of its fields."""
    description = say(language, "first_token")
    if token.probability is not None:
        description = say(language, "probability", share=f"{token.probability:.1%}", bits=f"{token.surprisal:.1f}")
    return {
        "index": index,
        "id": token.id,
        "text": token.shown,
        "probability": token.probability,
        "description": description,
        "alternatives": [(other.shown, f"{other.probability:.1%}") for other in token.alternatives],
        **changed,
    }


def clicked_token(event: gr.EventData, scored: list[ScoredToken]) -> ScoredToken:
    """The token that was clicked.

    Raises:
        VisitorError: the text has changed since it was shown.
    """
    index = event._data["index"]
    if index >= len(scored) or scored[index].id != event._data["id"]:
        raise VisitorError("changed_text")
    return scored[index]
