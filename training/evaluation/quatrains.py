"""Count the quatrains that have the requested form.

python -m training.evaluation.quatrains runs/chinese/best     # of 200 samples
"""

import argparse
import random

from tqdm import tqdm

from training.command import run_command
from training.data.quatrains import FORMS, form_of, request

# One of these is the title in each request.
SUBJECTS = list("春夏秋冬月雪雨风山江松竹梅柳莲雁酒琴梦别归夜")


def main() -> None:
    from training.evaluation.sampling import stream_text
    from training.loading import choose_device, load_trained

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a checkpoint's folder or Hub id")
    parser.add_argument("--samples", type=int, default=200, help="quatrains to write (default %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default %(default)s")
    parser.add_argument("--device", help="cpu, cuda, mps ... (default: the accelerator, if there is one)")
    parser.add_argument("--show", action="store_true", help="print the samples that do not have the form")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    tokenizer, model = load_trained(arguments.checkpoint)
    model.to(device)
    # A sample may be three times as long as it should be, so that a poem with too many lines shows as one.
    draw, correct = random.Random(arguments.seed), {name: 0 for name in FORMS}
    requests = [(list(FORMS)[number % len(FORMS)], draw.choice(SUBJECTS)) for number in range(arguments.samples)]
    for number, (form, subject) in enumerate(tqdm(requests, unit="quatrain", delay=2, leave=False)):
        seed = arguments.seed * 1_000_003 + number
        prompt, length = f"\n\n{request(form, subject)}", 3 * (4 * FORMS[form] + 8)
        written = "".join(stream_text(model, tokenizer, prompt, length, arguments.temperature, seed=seed))
        poem = written.partition("\n\n")[0]  # a new poem begins after a blank line
        correct[form] += form_of(poem) == form
        if arguments.show and form_of(poem) != form:
            tqdm.write(f"{form}：{subject}\n{poem}\n")
    total = sum(correct.values())
    parts = ", ".join(f"{name} {correct[name]} of {sum(form == name for form, _ in requests)}" for name in FORMS)
    print(f"{total} of {len(requests)} quatrains ({total / len(requests):.1%}) have the requested form: {parts}")


if __name__ == "__main__":
    run_command(main)
