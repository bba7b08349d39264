"""The validation loss: nats per character over the whole validation split.

    python -m training.evaluate runs/oz-modern/best --corpus oz
    python -m training.evaluate runs/oz-modern/best --corpus oz --samples 20   # and what its samples are worth

For a decoder windows of the model's context slide by half their length and each character is scored once, with at
least half a context before it (the first window scores all of its own). The first character has nothing before it and
is not scored. For an encoder-decoder the text is cut into passages of its context, and each but the first is scored
after the one before it as the source. For an encoder gaps are made in every window of its context, always the same,
and what they hide is scored. A character that the vocabulary lacks is scored as the bytes that encode it, so that
losses of different vocabularies compare.
"""

import argparse
import math

import torch
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenizer import encode_text
from training.checkpoints import load_trained
from training.command import UserError, run_command
from training.corpora import NAMES, Corpus, load_corpus
from training.data import IGNORED, Copy, encode, mask_spans
from training.generate import stream_text
from training.kernels import choose_device, choose_kernels
from training.library import SHELVES
from training.overlap import trained_on
from training.quality import is_chinese, measure_quality

SAMPLE_TOKENS = 300
MEMORISED = 0.1  # share of eight words in a row, from which on a model recites
LOGITS = 1 << 25  # computed at once: 128 MiB in float32


def count_windows(length: int, context: int) -> int:
    """How many windows [`sliding_windows`] cuts from so many tokens."""
    stride = max(1, context // 2)
    return len(range(0, max(1, length - 1 - context + stride), stride))


def sliding_windows(
    tokens: torch.Tensor, context: int, numbers: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets, `(windows, context)` each, of the windows with these numbers, `(windows,)`, or of all.

    In all windows of a text together every token but the first is a target exactly once.
    """
    stride = max(1, context // 2)
    if numbers is None:
        numbers = torch.arange(count_windows(len(tokens), context))
    places = numbers[:, None] * stride + torch.arange(context + 1)  # (windows, context + 1)
    windows, beyond = tokens[places.clamp(max=len(tokens) - 1)].long(), places >= len(tokens)
    # Padding stands on the right, where a causal model cannot see it from any position that is scored.
    inputs, targets = windows[:, :-1].masked_fill(beyond[:, :-1], 0), windows[:, 1:].masked_fill(beyond[:, 1:], IGNORED)
    targets[numbers > 0, : context - stride] = IGNORED
    return inputs, targets


def passages(tokens: torch.Tensor, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sources and targets, `(passages, context)` each: every passage but the first is the target after the last."""
    missing = -len(tokens) % context
    rows = nn.functional.pad(tokens, (0, missing), value=IGNORED).view(-1, context)
    return rows[:-1], rows[1:]


def whole_windows(tokens: torch.Tensor, context: int) -> torch.Tensor:
    """A text cut into windows, `(windows, context)`, or shorter where the text is; the last rest is left out."""
    length = min(len(tokens), context)
    return tokens[: len(tokens) // length * length].view(-1, length)


def validation_loss(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    context: int | None = None,
    process: int = 0,
    processes: int = 1,
) -> float:
    """This process's share of the loss of `text` in nats per character; add the shares of all processes up.

    It takes what [`score_text`] takes.
    """
    return score_text(model, tokenizer, text, context, process, processes)[0]


@torch.no_grad()
def score_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    context: int | None = None,
    process: int = 0,
    processes: int = 1,
) -> tuple[float, float]:
    """This process's share of the loss of `text` in nats per character, and of the tokens that the model ranks first.

    Windows are cut as they are scored, so that a long text takes no more memory than its ids.

    Args:
        context: the length of a window; the model's own by default.
        process, processes: score the windows `process`, `process + processes`, ...

    Raises:
        UserError: a text so short that nothing in it can be scored.
    """
    tokens = torch.from_numpy(encode_text(tokenizer, text)).int()
    context = context or model.config.max_position_embeddings
    both = model.config.is_encoder_decoder
    # What is not scored: a decoder's first token, or an encoder-decoder's first source.
    given = len(tokenizer.decode(tokens[: context if both else 1]))
    if len(text) <= given:
        raise UserError(
            f"a text of {len(text)} characters has nothing to score after the first {given}; give a longer one."
        )
    if model.config.is_causal and not both:
        count, length, scored, ranked = count_windows(len(tokens), context), context, len(text) - given, len(tokens) - 1

        def cut(numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return sliding_windows(tokens, context, numbers)
    else:
        if both:
            inputs, targets = passages(tokens.long(), context)
        else:
            inputs, targets = mask_spans(whole_windows(tokens.long(), context), tokenizer.mask_token_id, seed=0)
        (count, length), ranked = inputs.shape, int((targets != IGNORED).sum())
        scored = len(text) - given if both else ranked * len(text) / len(tokens)

        def cut(numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return inputs[numbers], targets[numbers]

    total, correct, rows = 0.0, 0, max(1, min(64, LOGITS // (length * model.config.vocab_size)))
    # Every process goes through the model equally often, as a sharded one needs: some score an empty window.
    own = torch.arange(process, count + -count % processes, processes).split(rows)
    for numbers in tqdm(own, "scoring", unit="batch", delay=2, leave=False, mininterval=0.5, disable=process > 0):
        x, y = cut(numbers.clamp(max=count - 1))
        y[numbers >= count] = IGNORED
        nats, ranked_first = score_batch(model, {"input_ids": x, "labels": y} if both else {"input_ids": x}, y)
        total, correct = total + nats, correct + ranked_first
    return total / scored, correct / ranked


@torch.no_grad()
def score_batch(model: PreTrainedModel, batch: dict[str, torch.Tensor], targets: torch.Tensor) -> tuple[float, int]:
    """The sum of the nats of all targets, `(batch, length)`, in evaluation mode, and how many are ranked first."""
    training = model.training
    model.eval()
    batch = {name: rows.to(model.device) for name, rows in batch.items()}
    logits = model(**batch, use_cache=False).logits.float()  # (batch, length, vocab)
    model.train(training)
    targets = targets.to(model.device)
    nats = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return float(nats), int((logits.argmax(-1) == targets).sum())


@torch.no_grad()
def expert_load(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> torch.Tensor:
    """The share of a text's tokens that each expert of a mixture works on, `(layers, experts)`.

    A row sums to 1; with a balanced load every expert has `1 / experts`.
    """
    inputs = whole_windows(encode(tokenizer, text), model.config.max_position_embeddings)
    model.eval()
    counts = torch.zeros(model.config.num_hidden_layers, model.config.num_local_experts)
    for x in inputs.split(64):
        router_logits = model(input_ids=x.to(model.device), use_cache=False, output_router_logits=True).router_logits
        for layer, logits in enumerate(router_logits):  # (tokens, experts)
            chosen = logits.topk(model.config.num_experts_per_tok).indices.flatten().cpu()
            counts[layer] += chosen.bincount(minlength=counts.shape[1])
    return counts / counts.sum(1, keepdim=True)


@torch.no_grad()
def score_copies(model: PreTrainedModel, task: Copy, batches: int = 8) -> tuple[float, float]:
    """The loss in nats per character, and the share of strings copied exactly, on strings that training never sees."""
    total, characters, exact, strings = 0.0, 0, 0, 0
    model.eval()
    for number in range(1, batches + 1):
        batch = task.at(-number)
        targets = batch["labels"]
        total += score_batch(model, batch, targets)[0]
        characters += int((targets != IGNORED).sum())
        source = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
        written = model.generate(**source, max_new_tokens=task.context, do_sample=False)[:, 1:].cpu()
        written = nn.functional.pad(written, (0, task.context - written.shape[1]), value=task.padding)
        exact += int((written == targets.masked_fill(targets == IGNORED, task.padding)).all(dim=1).sum())
        strings += len(targets)
    return total / characters, exact / strings


def write_samples(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, count: int, length: int, seed: int = 1
) -> list[str]:
    """What a decoder writes on from a prompt at temperature 0.8, without the prompt: up to `length` tokens each."""
    model.eval()
    return [
        "".join(stream_text(model, tokenizer, prompt, length, temperature=0.8, seed=seed + number))
        for number in tqdm(range(count), desc="samples", unit="sample", delay=2, leave=False)
    ]


def report_samples(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, corpus: Corpus, checkpoint: str, count: int
):
    """Print what a model's samples are worth, beside the same figures of the text that it never saw."""
    samples = write_samples(model, tokenizer, "\n", count, SAMPLE_TOKENS)
    stages = trained_on(checkpoint)
    seen = [load_corpus(stage["name"]).train for stage in stages if stage["name"]] or [corpus.train]
    if any(stage["name"] is None for stage in stages):
        print(f"not all that {checkpoint} was trained on is known, so that more may be copied than is found")
    size = sum(map(len, samples)) // count
    held_out = [
        corpus.validation[begin : begin + size] for begin in range(0, min(count * size, len(corpus.validation)), size)
    ]
    words = "characters of the training text" if is_chinese(samples) else "real words"
    print(f"{'':38} {'samples':>10} {'validation':>10}")
    ours, theirs = measure_quality(samples, seen), measure_quality(held_out, seen)
    for name, of in (
        (words, lambda q: f"{q.real_words:.1%}"),
        ("distinct among three words in a row", lambda q: f"{q.distinct:.1%}"),
        ("copied, of eight words in a row", lambda q: f"{q.copied_grams:.1%}"),
        ("longest copied passage, characters", lambda q: f"{len(q.longest_copy)}"),
    ):
        print(f"{name:38} {of(ours):>10} {of(theirs):>10}")
    print(f"the longest: {ours.longest_copy!r}")
    if ours.copied_grams > MEMORISED:
        print("this model recites: much of what it writes stands in its training text word for word")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a checkpoint's folder or Hub id")
    parser.add_argument("--corpus", required=True, help=f"{', '.join(NAMES)}, or one of your own")
    parser.add_argument(
        "--split",
        choices=("validation", "test"),
        default="validation",
        help="which of the corpus' texts to score (default %(default)s); only shelves of the library have a test split",
    )
    parser.add_argument("--context", type=int, help="length of a window (default: the model's context)")
    parser.add_argument("--device", help="cpu, cuda, mps ... (default: the accelerator, where there is one)")
    parser.add_argument("--samples", type=int, default=0, help="texts to write and measure (default %(default)s)")
    arguments = parser.parse_args()
    device, corpus = choose_device(arguments.device), load_corpus(arguments.corpus)
    text = corpus.test if arguments.split == "test" else corpus.validation
    if text is None:
        raise UserError(f"corpus '{corpus.name}' has no test split, only {', '.join(SHELVES)} have; leave --split out.")
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
        f"{corpus.name}: {loss:.4f} nats per character ({loss / math.log(2):.4f} bits), {accuracy:.1%} of tokens "
        f"ranked first, over {len(text):,} characters in {windows}"
    )
    if model.config.feed_forward_type == "moe":
        for layer, shares in enumerate(expert_load(model, tokenizer, text), start=1):
            print(f"experts of layer {layer}: {' '.join(f'{share:.1%}' for share in shares.tolist())}")
    if arguments.samples:
        if not decoder:
            raise UserError("only a decoder writes samples; leave --samples out.")
        report_samples(model, tokenizer, corpus, arguments.checkpoint, arguments.samples)


if __name__ == "__main__":
    run_command(main)
