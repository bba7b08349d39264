"""A certificate: the equivalences that a checkpoint's numbers rest on, measured on that very checkpoint.

    python -m modeling.verify space/checkpoints/poetry-modern        # a folder or a Hub id

Each row compares the logits of the same text computed in two ways, and shows the largest difference.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable

import torch
from transformers import AutoModelForCausalLM
from transformers import AutoTokenizer
from transformers import DynamicCache
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase

from .conversion import to_transformers

TOLERANCE = 1e-4  # float32; sums in another order differ by about 1e-6 of the largest logit
TEXTS = ("The moon upon the water", "Oz", "And then, as the wind rose")


@torch.no_grad()
def verify(model: PreTrainedModel, texts: list[torch.Tensor]) -> list[tuple[str, float | str]]:
    """Measure every equivalence on a decoder.

    Args:
        model: an Ozymandias decoder in float32; its attention implementation is set to sdpa.
        texts: token ids `(1, length)` of several lengths, each at least 2 and within the context.

    Returns:
        Rows of a name and the largest absolute difference of logits, or the reason why there is none.
    """
    model.eval()
    model.set_attn_implementation("sdpa")
    expected = [model(ids, use_cache=False).logits for ids in texts]  # (1, length, vocab) each

    def largest(logits: Callable[[torch.Tensor], torch.Tensor]) -> float:
        return max(float((logits(ids) - e).abs().max()) for ids, e in zip(texts, expected, strict=True))

    def cached(ids: torch.Tensor) -> torch.Tensor:
        cache = DynamicCache(config=model.config)
        steps = [model(ids[:, t : t + 1], past_key_values=cache, use_cache=True).logits for t in range(ids.shape[1])]
        return torch.cat(steps, dim=1)

    def padded(left: int, right: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def logits(ids: torch.Tensor) -> torch.Tensor:
            mask = torch.nn.functional.pad(torch.ones_like(ids), (left, right))
            filled = torch.nn.functional.pad(ids, (left, right))
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            return model(filled, attention_mask=mask, position_ids=positions).logits[:, left : left + ids.shape[1]]

        return logits

    def batched(ids: torch.Tensor) -> torch.Tensor:
        return model(ids.repeat(3, 1)).logits[1:2]

    def reloaded(ids: torch.Tensor) -> torch.Tensor:
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            return type(model).from_pretrained(folder).eval()(ids).logits

    rows: list[tuple[str, float | str]] = [
        ("cached and uncached", largest(cached)),
        ("padded on the left and not", largest(padded(3, 0))),
        ("padded on the right and not", largest(padded(0, 3))),
        ("in a batch and single", largest(batched)),
        ("saved and loaded", largest(reloaded)),
    ]
    try:
        native = to_transformers(model)
        rows.append((f"exported as {type(native).__name__} and ours", largest(lambda ids: native(ids).logits)))
    except ValueError as reason:
        rows.append(("exported as a native class and ours", f"not possible: {reason}"))
    model.set_attn_implementation("eager")
    rows.insert(0, ("eager and sdpa attention", largest(lambda ids: model(ids).logits)))
    model.set_attn_implementation("sdpa")
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
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {checkpoint} cannot be loaded: {' '.join(str(error).split())}")
    rows = certify(model, tokenizer)
    print(as_table(rows))
    if wrong := [name for name, value in rows if not isinstance(value, str) and value > TOLERANCE]:
        sys.exit(f"error: these differ by more than {TOLERANCE}: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
