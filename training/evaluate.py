"""Measure a model's loss in nats per character, over the whole validation split (or the test split).

python -m training.evaluate runs/oz-modern/best --corpus oz
python -m training.evaluate runs/oz-modern/best --corpus oz --samples 20   # also the quality of its samples
"""

import argparse
import math

from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.command import UserError, run_command
from training.data.corpora import NAMES, Corpus, load_corpus
from training.data.library import SHELVES
from training.engine.kernels import choose_kernels
from training.engine.provenance import trained_on
from training.evaluation.quality import is_chinese, measure_quality
from training.evaluation.reading import Reading, measure_reading
from training.evaluation.sampling import stream_text
from training.evaluation.scores import expert_load, score_text
from training.loading import choose_device, load_trained

SAMPLE_TOKENS = 300
MEMORISED = 0.1  # a model recites if more than this fraction of its eight-word sequences are in its training text


def write_samples(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, count: int, length: int, seed: int = 1
) -> list[str]:
    """A decoder's continuations of a prompt at temperature 0.8, without the prompt: up to `length` tokens each."""
    model.eval()
    return [
        "".join(stream_text(model, tokenizer, prompt, length, temperature=0.8, seed=seed + number))
        for number in tqdm(range(count), desc="samples", unit="sample", delay=2, leave=False)
    ]


def report_samples(samples: list[str], checkpoint: str, corpus: Corpus, split: str) -> None:
    """Print the quality of a model's samples next to that of text from a split that it was not trained on."""
    stages = trained_on(checkpoint)
    seen = [load_corpus(stage["name"]).train for stage in stages if stage["name"]] or [corpus.train]
    if any(stage["name"] is None for stage in stages):
        print(f"not all training texts of {checkpoint} are known: it may have copied more than is found here")
    size = max(1, sum(map(len, samples)) // len(samples))
    text = getattr(corpus, split)
    held_out = [text[begin : begin + size] for begin in range(0, min(len(samples) * size, len(text)), size)]
    chinese = is_chinese(samples)
    print(f"{'':42} {'samples':>10} {split:>10}")
    ours, theirs = measure_quality(samples, seen), measure_quality(held_out, seen)
    for name, of in (
        ("characters of the training text" if chinese else "real words", lambda q: f"{q.real_words:.1%}"),
        ("distinct three-word sequences", lambda q: f"{q.distinct:.1%}"),
        ("copied eight-word sequences", lambda q: f"{q.copied_grams:.1%}"),
        ("longest copied passage, characters", lambda q: f"{len(q.longest_copy)}"),
    ):
        print(f"{name:42} {of(ours):>10} {of(theirs):>10}")
    if not chinese:
        for row in reading_rows(measure_reading(samples), measure_reading(held_out)):
            print("{:42} {:>10} {:>10}".format(*row))
    print(f"the longest passage: {ours.longest_copy!r}")
    if ours.copied_grams > MEMORISED:
        print("this model recites: much of what it writes is in its training text word for word")


def reading_rows(ours: Reading, theirs: Reading) -> list[tuple[str, str, str]]:
    """The figures of stories and verse, each with its name; "-" where there is nothing to measure."""

    def cell(value: float | None, unit: str) -> str:
        return "-" if value is None else f"{value:{unit}}"

    figures = (
        ("texts that are verse", "verse", "d"),
        ("texts that repeat a line or phrase 3 times", "loops", ".1%"),
        ("distinct lines of verse", "distinct_lines", ".1%"),
        ("lines of verse that rhyme", "rhymes", ".1%"),
        ("syllables from a line to the next", "uneven", ".1f"),
        ("stories whose quotes close", "closed_quotes", ".1%"),
        ("names of a second half known from the first", "steady_names", ".1%"),
    )
    return [(name, *(cell(getattr(of, field), unit) for of in (ours, theirs))) for name, field, unit in figures]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="the folder or Hub id of a checkpoint")
    parser.add_argument("--corpus", required=True, help=f"{', '.join(NAMES)}, or your own")
    parser.add_argument(
        "--split",
        choices=("validation", "test"),
        default="validation",
        help="the split to score (default %(default)s); only the library's shelves have a test split",
    )
    parser.add_argument("--context", type=int, help="tokens in a window (default: the model's context)")
    parser.add_argument("--device", help="cpu, cuda, mps ... (default: the accelerator if there is one)")
    parser.add_argument("--samples", type=int, default=0, help="samples to write and measure (default %(default)s)")
    parser.add_argument("--prompt", default="\n", help="the beginning of every sample (default: a new line)")
    parser.add_argument("--show", type=int, default=0, help="samples to print (default %(default)s)")
    arguments = parser.parse_args()
    device, corpus = choose_device(arguments.device), load_corpus(arguments.corpus)
    text = getattr(corpus, arguments.split)
    if text is None:
        raise UserError(f"corpus '{corpus.name}' has no test split (only {', '.join(SHELVES)} do); leave --split out.")
    tokenizer, model = load_trained(arguments.checkpoint)
    model.to(device)
    context = arguments.context or model.config.max_position_embeddings
    choose_kernels(model, model.device, context)
    loss, accuracy = score_text(model, tokenizer, text, context)
    decoder = model.config.is_causal and not model.config.is_encoder_decoder
    windows = f"windows of {context} tokens, " + (
        f"stride {max(1, context // 2)}" if decoder else "one after the other"
    )
    print(
        f"{corpus.name}: {loss:.4f} nats per character ({loss / math.log(2):.4f} bits), top-1 accuracy "
        f"{accuracy:.1%}, over {len(text):,} characters in {windows}"
    )
    if model.config.feed_forward_type == "moe":
        for layer, shares in enumerate(expert_load(model, tokenizer, text), start=1):
            print(f"load of the experts in layer {layer}: {' '.join(f'{share:.1%}' for share in shares.tolist())}")
    if arguments.samples:
        if not decoder:
            raise UserError("only a decoder writes samples; leave --samples out.")
        samples = write_samples(model, tokenizer, arguments.prompt, arguments.samples, SAMPLE_TOKENS)
        report_samples(samples, arguments.checkpoint, corpus, arguments.split)
        for number, sample in enumerate(samples[: arguments.show], start=1):
            print(f"\n--- sample {number}\n{arguments.prompt}{sample}")


if __name__ == "__main__":
    run_command(main)
