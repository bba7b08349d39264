"""Quatrains: four lines of five or seven Chinese characters, requested by the name of the form.

A model learns to follow such a request from poems that have the name of their form before their title. The corpus
`quatrains` holds the quatrains of `chinese-poems` in this format, each in the same split as there.
"""

import re

# Without the compatibility ideographs that a tokenizer also takes for Chinese: a few poems have some, and with these
# the corpus would differ from the one that the published models learned from.
HAN = r"[\u3400-\u9fff\U00020000-\U0003ffff]"
FORMS = {"五言绝句": 5, "七言绝句": 7}


def form_of(poem: str) -> str | None:
    """The name of a poem's form, if it is a quatrain: two lines, each of two halves with a comma and a full stop."""
    for name, length in FORMS.items():
        line = f"{HAN}{{{length}}}，{HAN}{{{length}}}。"
        if re.fullmatch(f"{line}\n{line}", poem.strip()):
            return name
    return None


def label_quatrains(text: str) -> str:
    """The quatrains of a text, each after its request. Poems are a title and lines, with a blank line between them."""
    labelled = []
    for poem in text.split("\n\n"):
        title, _, lines = poem.partition("\n")
        if form := form_of(lines):
            labelled.append(f"{request(form, title)}{lines.strip()}")
    return "\n\n".join(labelled)


def request(form: str, subject: str) -> str:
    """The line that requests a quatrain: its form and its title."""
    return f"{form}：{subject}\n"
