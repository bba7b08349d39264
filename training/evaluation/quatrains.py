"""How many quatrains have the form that was asked for.

python -m training.evaluation.quatrains runs/chinese/best     # of 200 samples
"""

import argparse
import random

from tqdm import tqdm

from training.command import run_command
from training.data.quatrains import FORMS, form_of, request

# What the samples are asked to be about.
SUBJECTS = list("春夏秋冬月雪雨风山江松竹梅柳莲雁酒琴梦别归夜")


def main() -> None:
    from training.evaluation.sampling import stream_text
    from training.loading import choose_device, load_trained

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
