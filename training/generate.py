"""Continue a prompt, and print the text as it is generated.

    python -m training.generate runs/mine/best "The moon"
    python -m training.generate space/checkpoints/english "The moon" --temperature 0.7 --number 3 --length 400
    cat beginning.txt | python -m training.generate runs/mine/best - > text.txt

An encoder-decoder reads the prompt and writes the passage after it.
"""

import argparse
import sys

from training.command import UserError, printable, run_command


def check_arguments(arguments: argparse.Namespace) -> None:
    """Check the values of the options.

    Raises:
        UserError: some are out of range; the message names all of them.
    """
    rules = {
        "--temperature": (0 <= arguments.temperature < float("inf"), "must be 0 or more"),
        "--top-p": (0 < arguments.top_p <= 1, "must be above 0 and at most 1"),
        "--length": (arguments.length >= 1, "must be at least 1"),
        "--number": (arguments.number >= 1, "must be at least 1"),
        "the prompt": (bool(arguments.prompt), "must have at least one character"),
    }
    if wrong := [f"{name} {rule}" for name, (valid, rule) in rules.items() if not valid]:
        raise UserError("; ".join(wrong) + ".")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="the folder or Hub id of a checkpoint")
    parser.add_argument("prompt", help="the beginning of the text; - reads it from standard input")
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="0 always takes the most likely token (default %(default)s)"
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=0.95,
        help="sample only from the most likely tokens whose probabilities add up to this (default %(default)s)",
    )
    parser.add_argument("--length", type=int, default=256, help="most tokens in a text (default %(default)s)")
    parser.add_argument("--number", type=int, default=1, help="number of texts (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the first text; each next adds 1 (default %(default)s)")
    parser.add_argument("--device", help="cpu, cuda, mps ... (default: the accelerator if there is one)")
    arguments = parser.parse_args()
    if arguments.prompt == "-":
        arguments.prompt = sys.stdin.read().removesuffix("\n")
    check_arguments(arguments)

    from transformers.utils.logging import disable_progress_bar

    from training.evaluation.sampling import stream_text, write_passage
    from training.loading import choose_device, load_trained

    disable_progress_bar()
    tokenizer, model = load_trained(arguments.checkpoint)
    if not (model.config.is_causal or model.config.is_encoder_decoder):
        raise UserError(f"{arguments.checkpoint} is an encoder, which cannot continue a text; give a decoder.")
    model = model.to(choose_device(arguments.device)).eval()
    show = printable if sys.stdout.isatty() else str
    for number in range(arguments.number):
        settings = (arguments.temperature, arguments.top_p, arguments.seed + number)
        if number:
            print("\n---\n")
        if model.config.is_encoder_decoder:
            context = model.config.max_position_embeddings
            source = tokenizer(arguments.prompt, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
            source = source[-context:].to(model.device)
            ids = write_passage(model, source, source[:0], min(arguments.length, context - 1), *settings)
            print(show(tokenizer.decode(ids, skip_special_tokens=True)))
            continue
        print(show(arguments.prompt), end="", flush=True)
        for piece in stream_text(model, tokenizer, arguments.prompt, arguments.length, *settings):
            print(show(piece), end="", flush=True)
        print()


if __name__ == "__main__":
    run_command(main)
