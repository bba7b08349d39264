"""What the page says, in English and in Chinese: one file for each language in `texts/`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import yaml
from gradio.components import Component

from training.command import UserError

FOLDER = Path(__file__).with_name("texts")
LANGUAGES = {"en": "English", "zh": "中文"}
TEXTS = {name: yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")) for name in LANGUAGES}


def say(language: str, key: str, **values) -> str:
    """A sentence in a language, with the values that stand in it in braces."""
    return TEXTS[language]["sentences"][key].format(**values)


def language_of(request: gr.Request) -> str:
    """The language that a visitor's browser asks for first."""
    return "zh" if request.headers.get("accept-language", "").lower().startswith("zh") else "en"


@contextmanager
def errors_shown() -> Iterator[None]:
    """Let the page show what a visitor can mend, in the words of the error."""
    try:
        yield
    except UserError as error:
        raise gr.Error(str(error), print_exception=False) from None


class Words:
    """Makes the components of a page, and puts their words into another language.

    A component's words are those of its properties that stand under its name in the files.
    """

    def __init__(self):
        self.named: list[tuple[str, Component]] = []

    def __call__(self, kind: Callable[..., Component], name: str, **options) -> Component:
        """A component of a kind, with its words."""
        component = kind(**TEXTS["en"]["components"][name], **options)
        self.named.append((name, component))
        return component

    @property
    def components(self) -> list[Component]:
        return [component for _, component in self.named]

    def translate(self, language: str) -> list[dict]:
        """The updates that put all components into a language."""
        return [gr.update(**TEXTS[language]["components"][name]) for name, _ in self.named]
