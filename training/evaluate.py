"""The validation loss: nats per character over the whole validation split.

    python -m training.evaluate runs/oz-modern/best --corpus oz

Windows of the model's context slide by half their length and each character is scored once, with at least half a
context before it (the first window scores all of its own). The first character has nothing before it and is not scored.
A character that the vocabulary lacks is scored as the bytes that encode it, so that losses of different vocabularies
compare.
"""

import argparse
import math

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import modeling  # noqa: F401  makes Ozymandias known to the Auto classes
from training.command import UserError, run_command
from training.corpora import NAMES, load_corpus
from training.data import encode

IGNORED = -100  # the label that cross entropy leaves out


def sliding_windows(tokens: torch.Tensor, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets, `(windows, context)` each, in which every token but the first is a target exactly once."""
    stride = max(1, context // 2)
    starts = range(0, max(1, len(tokens) - 1 - context + stride), stride)
    # Padding stands on the right, where a causal model cannot see it from any position that is scored.
    padded = torch.cat((tokens, tokens.new_zeros(starts[-1] + context + 1 - len(tokens)))).clone()
    targets = padded.clone()
    targets[len(tokens) :] = IGNORED
    inputs = torch.stack([padded[s : s + context] for s in starts])
    targets = torch.stack([targets[s + 1 : s + context + 1] for s in starts])
    targets[1:, : context - stride] = IGNORED
    return inputs, targets


@torch.no_grad()
def validation_loss(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    context: int | None = None,
    batch_size: int = 64,
    process: int = 0,
    processes: int = 1,
) -> float:
    """This process's share of the loss of `text` in nats per character; add the shares of all processes up.

    Args:
        context: the length of a window; the model's own by default.
        process, processes: score the windows `process`, `process + processes`, ...

    Raises:
        UserError: a text of fewer than two characters, in which nothing can be scored.
    """
    if len(text) < 2:
        raise UserError("a text of fewer than 2 characters has nothing to score; give a longer one.")
    inputs, targets = sliding_windows(encode(tokenizer, text), context or model.config.max_position_embeddings)
    inputs, targets = inputs[process::processes], targets[process::processes]
    training = model.training
    model.eval()
    total = 0.0
    for x, y in zip(inputs.split(batch_size), targets.split(batch_size), strict=True):
        logits = model(input_ids=x.to(model.device), use_cache=False).logits.float()  # (batch, context, vocab)
        y = y.to(model.device)
        total += float(nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum"))
    model.train(training)
    return total / (len(text) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a checkpoint's folder or Hub id")
    parser.add_argument("--corpus", required=True, help=f"{', '.join(NAMES)}, or a path to a UTF-8 text")
    parser.add_argument("--context", type=int, help="length of a window (default: the model's context)")
    arguments = parser.parse_args()
    corpus = load_corpus(arguments.corpus)
    try:
        tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint)
        model = AutoModelForCausalLM.from_pretrained(arguments.checkpoint)
    except (OSError, ValueError) as error:
        raise UserError(f"{arguments.checkpoint} is not a checkpoint that can be loaded: {error}") from None
    loss = validation_loss(model, tokenizer, corpus.validation, arguments.context)
    print(
        f"{corpus.name}: {loss:.4f} nats per character ({loss / math.log(2):.4f} bits) "
        f"over {len(corpus.validation):,} characters"
    )


if __name__ == "__main__":
    run_command(main)
