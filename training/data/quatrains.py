"""Quatrains: four lines of five or of seven Chinese characters, asked for by name.

A model learns what it is asked for from poems that carry the name of their form before their title: the corpus
`quatrains` has those of `chinese-poems`, each in the split that it is in there.
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
    """The quatrains among poems (a title and lines each, with an empty line between), each as it is to be asked for."""
    labelled = []
    for poem in text.split("\n\n"):
        title, _, lines = poem.partition("\n")
        if form := form_of(lines):
            labelled.append(f"{request(form, title)}{lines.strip()}")
    return "\n\n".join(labelled)


def request(form: str, subject: str) -> str:
    """How a quatrain is asked for: its form and title, on a line of their own."""
    return f"{form}：{subject}\n"
