"""The loss of a text, in nats per character.

Decoder: windows of the model's context slide by half their length, and each character is scored once, with at least
half a context before it (the first window scores all its characters). The first character has nothing before it and
is not scored. Encoder-decoder: the text is cut into passages of the context's length, and each but the first is scored
with the one before it as the source. Encoder: a fixed pattern of tokens is masked in every window, and the masked
tokens are scored. A character that the vocabulary lacks is scored as the bytes that encode it, so that losses of
different vocabularies can be compared.
"""

import torch
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenizer import encode_text
from training.command import UserError
from training.data.windows import IGNORED, Copy, encode, mask_spans

LOGITS = 1 << 25  # how many to compute at once: 128 MiB in float32


def count_windows(length: int, context: int) -> int:
    """How many windows [`sliding_windows`] cuts from `length` tokens."""
    stride = max(1, context // 2)
    return len(range(0, max(1, length - 1 - context + stride), stride))


def sliding_windows(
    tokens: torch.Tensor, context: int, numbers: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets, `(windows, context)` each, of the windows with these `numbers` `(windows,)`, or of all.

    Over all windows of a text, every token but the first is a target exactly once.
    """
    stride = max(1, context // 2)
    if numbers is None:
        numbers = torch.arange(count_windows(len(tokens), context))
    places = numbers[:, None] * stride + torch.arange(context + 1)  # (windows, context + 1)
    windows, beyond = tokens[places.clamp(max=len(tokens) - 1)].long(), places >= len(tokens)
    # Padding is on the right, where no scored position of a causal model can see it.
    inputs, targets = windows[:, :-1].masked_fill(beyond[:, :-1], 0), windows[:, 1:].masked_fill(beyond[:, 1:], IGNORED)
    targets[numbers > 0, : context - stride] = IGNORED
    return inputs, targets


def passages(tokens: torch.Tensor, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sources and targets, `(passages, context)` each: every passage is the source of the next one."""
    missing = -len(tokens) % context
    rows = nn.functional.pad(tokens, (0, missing), value=IGNORED).view(-1, context)
    return rows[:-1], rows[1:]


def whole_windows(tokens: torch.Tensor, context: int) -> torch.Tensor:
    """A text cut into windows, `(windows, context)`, without the remainder; a shorter text is one shorter window."""
    length = min(len(tokens), context)
    return tokens[: len(tokens) // length * length].view(-1, length)


@torch.no_grad()
def score_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    context: int | None = None,
    process: int = 0,
    processes: int = 1,
) -> tuple[float, float]:
    """This process's share of the loss of `text` in nats per character, and of the top-1 accuracy over tokens.

    Windows are cut when they are scored, so a long text takes no more memory than its ids.

    Args:
        context: the length of a window; the model's own by default.
        process, processes: score the windows `process`, `process + processes`, ...

    Raises:
        UserError: the text is too short to score anything.
    """
    tokens = torch.from_numpy(encode_text(tokenizer, text)).int()
    context = context or model.config.max_position_embeddings
    both = model.config.is_encoder_decoder
    # Characters that are not scored: those of a decoder's first token, or of an encoder-decoder's first source.
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
    # A sharded model needs equally many forward passes in every process, so some score an empty window.
    own = torch.arange(process, count + -count % processes, processes).split(rows)
    for numbers in tqdm(own, "scoring", unit="batch", delay=2, leave=False, mininterval=0.5, disable=process > 0):
        x, y = cut(numbers.clamp(max=count - 1))
        y[numbers >= count] = IGNORED
        nats, ranked_first = score_batch(model, {"input_ids": x, "labels": y} if both else {"input_ids": x}, y)
        total, correct = total + nats, correct + ranked_first
    return total / scored, correct / ranked


@torch.no_grad()
def score_batch(model: PreTrainedModel, batch: dict[str, torch.Tensor], targets: torch.Tensor) -> tuple[float, int]:
    """The sum of the losses of all targets `(batch, length)` in nats, and how many targets are the top prediction.

    The model runs in evaluation mode and returns to its mode after that.
    """
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
    """The share of a text's tokens that are routed to each expert, `(layers, experts)`.

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
    """The loss in nats per character and the share of exact copies, on strings that training never sees."""
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


def describe_scores(scores: dict[str, float]) -> str:
    """Further scores to print after the loss: losses in nats, all others as percentages."""
    return "".join(
        f", {name.replace('_', ' ')} {f'{value:.4f}' if name.startswith('validation_loss') else f'{value:.1%}'}"
        for name, value in scores.items()
    )
