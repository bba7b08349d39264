"""What the page says, in English and in Chinese: one file for each language in `texts/`."""

import re
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


class VisitorError(UserError):
    """What a visitor can mend, told by a sentence of the files."""

    def __init__(self, key: str, **values):
        super().__init__(say("en", key, **values))
        self.key, self.values = key, values


def explain(error: UserError, language: str) -> str:
    """What an error says, in a language if it has it."""
    return say(language, error.key, **error.values) if isinstance(error, VisitorError) else str(error)


def check_encodable(text: str) -> None:
    """Refuse, with a [`VisitorError`], a lone surrogate: no tokenizer reads it, and no answer with it can be sent."""
    if re.search("[\ud800-\udfff]", text):
        raise VisitorError("half_character")


@contextmanager
def errors_shown(language: str = "en") -> Iterator[None]:
    """Let the page, or a program that asked, show what a visitor can mend."""
    try:
        yield
    except UserError as error:
        raise gr.Error(explain(error, language), print_exception=False) from None


class Words:
    """Makes the components of a page, and puts their words into another language.

    A component's words are those of its properties that stand under its name in the files, and those that are made.
    """

    def __init__(self):
        self.words: dict[Component, Callable[[str], dict]] = {}

    def __call__(
        self, kind: Callable[..., Component], name: str, made: Callable[[str], dict] = lambda _: {}, **options
    ) -> Component:
        """A component of a kind, with its words.

        Args:
            name: under which they stand in the files.
            made: other properties that depend on the language, which it is given.
            options: the properties that do not.
        """

        def words(language: str) -> dict:
            return {**TEXTS[language]["components"][name], **made(language)}

        component = kind(**words("en"), **options)
        self.words[component] = words
        return component

    @property
    def components(self) -> list[Component]:
        return list(self.words)

    def translate(self, language: str) -> list[dict]:
        """The updates that put all components into a language."""
        return [gr.update(**words(language)) for words in self.words.values()]
