"""Follow one sentence through a decoder: text, tokens, ids, shapes, logits, and text again.

    python -m modeling.trace "the moon"                              # through the English model
    python -m modeling.trace "the moon" --checkpoint runs/mine/best

Shapes: `length` the tokens of the sentence, `hidden` the residual stream, `vocab` the tokens to choose from.
"""

import argparse
import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from .loading import load_model

ENGLISH = Path(__file__).parent.parent / "space" / "checkpoints" / "english"
CANDIDATES = 5  # of the next token
NEW_TOKENS = 12


@torch.no_grad()
def trace(text: str, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> list[tuple[str, str]]:
    """What happens to a text on its way through a decoder, as rows of a name and what is there.

    Raises:
        ValueError: the text is empty, or the model is not a decoder.
    """
    if not text:
        raise ValueError("there is no text; give at least one character.")
    if not model.config.is_causal or model.config.is_encoder_decoder:
        raise ValueError(f"{type(model).__name__} is not a decoder; give a checkpoint that writes on from a text.")
    model.eval()
    model.set_attn_implementation("eager")  # the only one that returns its weights
    inputs = tokenizer(text, return_tensors="pt")
    ids = inputs["input_ids"]  # (1, length)
    outputs = model(**inputs, output_hidden_states=True, output_attentions=True)
    rows = [
        ("text", repr(text)),
        ("tokens", " ".join(repr(tokenizer.decode(id)) for id in ids[0])),
        ("ids", f"{ids[0].tolist()}, {shape(ids)}"),
        ("embeddings", shape(outputs.hidden_states[0])),
    ]
    for number, hidden_states in enumerate(outputs.hidden_states[1:], start=1):
        weights = outputs.attentions[number - 1]  # (1, heads, length, length)
        rows.append((f"block {number}", f"attention weights {shape(weights)}, hidden states {shape(hidden_states)}"))
    probabilities, best = outputs.logits[0, -1].float().softmax(-1).topk(CANDIDATES)
    candidates = zip(best, probabilities, strict=True)
    written = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    return [
        *rows,
        ("logits", shape(outputs.logits)),
        ("next token", ", ".join(f"{tokenizer.decode(id)!r} {probability:.1%}" for id, probability in candidates)),
        ("text", repr(tokenizer.decode(written[0]))),
    ]


def shape(tensor: torch.Tensor) -> str:
    return str(tuple(tensor.shape))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", help="a sentence")
    parser.add_argument("--checkpoint", default=str(ENGLISH), help="a folder or Hub id (default: the English model)")
    arguments = parser.parse_args()
    disable_progress_bar()
    try:
        model = load_model(arguments.checkpoint, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint, trust_remote_code=False)
        rows = trace(arguments.text, tokenizer, model)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    for name, value in rows:
        print(f"{name:<12}{value}")


if __name__ == "__main__":
    main()
