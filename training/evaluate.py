"""The validation loss: nats per character over the whole validation split.

    python -m training.evaluate runs/oz-modern/best --corpus oz

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
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from modeling.conversion import load_model
from training.command import UserError, run_command
from training.corpora import NAMES, load_corpus
from training.data import IGNORED, Copy, encode, mask_spans


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


def passages(tokens: torch.Tensor, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sources and targets, `(passages, context)` each: every passage but the first is the target after the last."""
    missing = -len(tokens) % context
    rows = nn.functional.pad(tokens, (0, missing), value=IGNORED).view(-1, context)
    return rows[:-1], rows[1:]


def whole_windows(tokens: torch.Tensor, context: int) -> torch.Tensor:
    """A text cut into windows, `(windows, context)`, or shorter where the text is; the last rest is left out."""
    length = min(len(tokens), context)
    return tokens[: len(tokens) // length * length].view(-1, length)


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
        UserError: a text so short that nothing in it can be scored.
    """
    tokens, context = encode(tokenizer, text), context or model.config.max_position_embeddings
    both = model.config.is_encoder_decoder
    # What is not scored: a decoder's first token, or an encoder-decoder's first source.
    given = len(tokenizer.decode(tokens[: context if both else 1]))
    if len(text) <= given:
        raise UserError(
            f"a text of {len(text)} characters has nothing to score after the first {given}; give a longer one."
        )
    if not model.config.is_causal:
        inputs, targets = mask_spans(whole_windows(tokens, context), tokenizer.mask_token_id, seed=0)
        scored = int((targets != IGNORED).sum())
    else:
        inputs, targets = (passages if both else sliding_windows)(tokens, context)
        scored = len(text) - given
    # Every process goes through the model equally often, as a sharded one needs: some score an empty window.
    missing = -len(inputs) % processes
    inputs = torch.cat((inputs, inputs[:1].expand(missing, -1)))
    targets = torch.cat((targets, targets.new_full((missing, targets.shape[1]), IGNORED)))
    total = 0.0
    for x, y in zip(
        inputs[process::processes].split(batch_size), targets[process::processes].split(batch_size), strict=True
    ):
        batch = {"input_ids": x, "labels": y} if both else {"input_ids": x}
        total += float(summed_loss(model, batch, y))
    return total / scored


@torch.no_grad()
def summed_loss(model: PreTrainedModel, batch: dict[str, torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
    """The sum of the nats of all targets, `(batch, length)`, in evaluation mode."""
    training = model.training
    model.eval()
    batch = {name: rows.to(model.device) for name, rows in batch.items()}
    logits = model(**batch, use_cache=False).logits.float()  # (batch, length, vocab)
    model.train(training)
    targets = targets.to(model.device)
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")


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
        total += float(summed_loss(model, batch, targets))
        characters += int((targets != IGNORED).sum())
        source = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
        written = model.generate(**source, max_new_tokens=task.context, do_sample=False)[:, 1:].cpu()
        written = nn.functional.pad(written, (0, task.context - written.shape[1]), value=task.padding)
        exact += int((written == targets.masked_fill(targets == IGNORED, task.padding)).all(dim=1).sum())
        strings += len(targets)
    return total / characters, exact / strings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a checkpoint's folder or Hub id")
    parser.add_argument("--corpus", required=True, help=f"{', '.join(NAMES)}, or a path to a UTF-8 text")
    parser.add_argument("--context", type=int, help="length of a window (default: the model's context)")
    arguments = parser.parse_args()
    corpus = load_corpus(arguments.corpus)
    try:
        tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint)
        model = load_model(arguments.checkpoint)
    except (OSError, ValueError) as error:
        raise UserError(f"{arguments.checkpoint} is not a checkpoint that can be loaded: {error}") from None
    loss = validation_loss(model, tokenizer, corpus.validation, arguments.context)
    print(
        f"{corpus.name}: {loss:.4f} nats per character ({loss / math.log(2):.4f} bits) "
        f"over {len(corpus.validation):,} characters"
    )
    if model.config.feed_forward_type == "moe":
        for layer, shares in enumerate(expert_load(model, tokenizer, corpus.validation), start=1):
            print(f"experts of layer {layer}: {' '.join(f'{share:.1%}' for share in shares.tolist())}")


if __name__ == "__main__":
    run_command(main)
