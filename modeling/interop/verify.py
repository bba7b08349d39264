"""A certificate: the equivalences that a checkpoint's numbers depend on, measured on that checkpoint.

    python -m modeling.interop.verify space/checkpoints/poetry-modern        # a folder or a Hub id

Each row compares the logits of the same text computed in two ways, and shows the largest difference.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..cache import CACHE_NAME
from ..loading import load_model
from .conversion import to_transformers

TOLERANCE = 1e-4  # in float32, where another order of summation changes a logit by about 1e-6 of the largest
TEXTS = ("The moon upon the water", "Oz", "And then, as the wind rose")


def logits_of(model: PreTrainedModel, ids: torch.Tensor, left: int = 0, right: int = 0) -> torch.Tensor:
    """The logits of a text `(1, length)` and padding around it. An encoder-decoder has it as source and as target."""
    mask = nn.functional.pad(torch.ones_like(ids), (left, right))
    padded = nn.functional.pad(ids, (left, right))
    position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
    inputs = {"input_ids": padded, "position_ids": position_ids}
    if left or right:
        inputs["attention_mask"] = mask
    if model.config.is_encoder_decoder:
        return model(**inputs, decoder_input_ids=ids).logits
    return model(**inputs).logits[:, left : left + ids.shape[1]]


def cached_logits_of(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """The same logits, computed one token at a time with a cache."""
    inputs, name = {}, "input_ids"
    if model.config.is_encoder_decoder:
        inputs, name = {"encoder_outputs": model.encoder(ids)}, "decoder_input_ids"
    steps = []
    for token in ids.split(1, dim=1):
        outputs = model(**inputs, **{name: token}, use_cache=True)
        inputs[CACHE_NAME] = outputs[CACHE_NAME]
        steps.append(outputs.logits)
    return torch.cat(steps, dim=1)


@torch.no_grad()
def verify(model: PreTrainedModel, texts: list[torch.Tensor]) -> list[tuple[str, float | str]]:
    """Measure every equivalence on a model.

    Args:
        model: an Ozymandias model in float32; its attention implementation is set to sdpa.
        texts: token ids `(1, length)` of several lengths, each at least 2 and within the context.

    Returns:
        Rows of a name and the largest absolute difference of logits, or the reason why it cannot be measured.
    """
    model.eval()

    def largest(compute: Callable[[torch.Tensor], torch.Tensor]) -> float:
        return max(float((compute(ids) - e).abs().max()) for ids, e in zip(texts, expected, strict=True))

    model.set_attn_implementation("eager")
    expected = [logits_of(model, ids) for ids in texts]  # (1, length, vocab) each
    model.set_attn_implementation("sdpa")
    rows: list[tuple[str, float | str]] = [("eager and sdpa attention", largest(lambda ids: logits_of(model, ids)))]
    expected = [logits_of(model, ids) for ids in texts]
    if model.config.is_causal:
        rows.append(("cached and uncached", largest(lambda ids: cached_logits_of(model, ids))))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = type(model).from_pretrained(folder).eval()
    rows += [
        ("padded on the left and not", largest(lambda ids: logits_of(model, ids, left=3))),
        ("padded on the right and not", largest(lambda ids: logits_of(model, ids, right=3))),
        ("in a batch and single", largest(lambda ids: logits_of(model, ids.repeat(3, 1))[1:2])),
        ("saved and loaded", largest(lambda ids: logits_of(loaded, ids))),
    ]
    try:
        native = to_transformers(model)
        if isinstance(native, nn.Transformer):
            raise ValueError("torch.nn.Transformer takes vectors, not tokens")
        rows.append((f"exported as {type(native).__name__} and ours", largest(lambda ids: logits_of(native, ids))))
    except ValueError as reason:
        rows.append(("exported as a native class and ours", f"not possible: {reason}"))
    return rows


def certify(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, float | str]]:
    """[`verify`] on a few lines of text."""
    return verify(model, [tokenizer(text, return_tensors="pt")["input_ids"] for text in TEXTS])


def as_table(rows: list[tuple[str, float | str]]) -> str:
    """The certificate in Markdown."""
    lines = ["| computed in two ways | largest difference of logits |", "|---|---|"]
    for name, value in rows:
        lines.append(f"| {name} | {value if isinstance(value, str) else f'{value:.1e}'} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a folder or Hub id")
    checkpoint = parser.parse_args().checkpoint
    try:
        model = load_model(checkpoint, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {checkpoint} cannot be loaded: {' '.join(str(error).split())}")
    rows = certify(model, tokenizer)
    print(as_table(rows))
    if wrong := [name for name, value in rows if not isinstance(value, str) and value > TOLERANCE]:
        sys.exit(f"error: these differ by more than {TOLERANCE}: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
