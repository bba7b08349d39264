"""What the page says, in English and in Chinese: one file in `texts/` for each language."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import yaml

from training.command import UserError

FOLDER = Path(__file__).with_name("texts")
LANGUAGES = {"en": "English", "zh": "中文"}
TEXTS = {name: yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")) for name in LANGUAGES}


def say(language: str, key: str, **values) -> str:
    """The sentence with this key, with `values` in place of its fields in braces."""
    return TEXTS[language]["sentences"][key].format(**values)


def language_of(request: gr.Request) -> str:
    """The language that a visitor's browser prefers."""
    return "zh" if request.headers.get("accept-language", "").lower().startswith("zh") else "en"


class VisitorError(UserError):
    """An error the visitor can fix, shown in the page's language."""

    def __init__(self, key: str, **values):
        super().__init__(say("en", key, **values))
        self.key, self.values = key, values


def explain(error: UserError, language: str) -> str:
    """The message of an error, in `language` if it has been translated."""
    return say(language, error.key, **error.values) if isinstance(error, VisitorError) else str(error)


def check_encodable(text: str) -> None:
    """Raise a [`VisitorError`] for a lone surrogate: no tokenizer can encode it, and no answer with it can be sent."""
    if re.search("[\ud800-\udfff]", text):
        raise VisitorError("half_character")


@contextmanager
def errors_shown(language: str = "en") -> Iterator[None]:
    """Turn a [`UserError`] into Gradio's own error, which the page or a calling program shows."""
    try:
        yield
    except UserError as error:
        raise gr.Error(explain(error, language), print_exception=False) from None
