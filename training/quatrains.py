"""Quatrains: four lines of five or of seven Chinese characters, asked for by name.

    python -m training.quatrains runs/chinese/best     # how many of 200 samples have the form

A model learns what it is asked for from poems that carry the name of their form before their title: the corpus
`quatrains` has those of `chinese-poems`, each in the split that it is in there.
"""

import argparse
import random
import re

from tqdm import tqdm

from training.command import run_command
from training.quality import HAN

FORMS = {"五言绝句": 5, "七言绝句": 7}
# What the samples are asked to be about.
SUBJECTS = list("春夏秋冬月雪雨风山江松竹梅柳莲雁酒琴梦别归夜")


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


def main() -> None:
    from training.checkpoints import load_trained
    from training.generate import stream_text
    from training.kernels import choose_device

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a checkpoint's folder or Hub id")
    parser.add_argument("--samples", type=int, default=200, help="quatrains to write (default %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default %(default)s")
    parser.add_argument("--device", help="cpu, cuda, mps ... (default: the accelerator, where there is one)")
    parser.add_argument("--show", action="store_true", help="print those that have not the form")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    tokenizer, model = load_trained(arguments.checkpoint)
    model.to(device)
    # Each sample may go on for three times as long as it should, so that a poem with more lines is seen as one.
    draw, kept = random.Random(arguments.seed), {name: 0 for name in FORMS}
    asked = [(list(FORMS)[number % len(FORMS)], draw.choice(SUBJECTS)) for number in range(arguments.samples)]
    for number, (form, subject) in enumerate(tqdm(asked, unit="quatrain", delay=2, leave=False)):
        seed = arguments.seed * 1_000_003 + number
        prompt, length = f"\n\n{request(form, subject)}", 3 * (4 * FORMS[form] + 8)
        written = "".join(stream_text(model, tokenizer, prompt, length, arguments.temperature, seed=seed))
        poem = written.partition("\n\n")[0]  # a new poem begins after an empty line
        kept[form] += form_of(poem) == form
        if arguments.show and form_of(poem) != form:
            tqdm.write(f"{form}：{subject}\n{poem}\n")
    total = sum(kept.values())
    parts = ", ".join(f"{name} {kept[name]} of {sum(form == name for form, _ in asked)}" for name in FORMS)
    print(f"{total} of {len(asked)} quatrains ({total / len(asked):.1%}) have the form that was asked for: {parts}")


if __name__ == "__main__":
    run_command(main)
