"""The sample of a model's output that every evaluation shows."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.data.windows import IGNORED, Copy, encode, mask_spans
from training.engine.recipe import Recipe
from training.evaluation.sampling import stream_text


def write_sample(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, recipe: Recipe, batches) -> str:
    """Let a model show its task: a decoder continues the recipe's prompt, the others give `input -> output`.

    Args:
        batches: the batches of the run, from which the task `copy` takes a string to copy.
    """
    if recipe.task == "next_token":
        pieces = stream_text(
            model, tokenizer, recipe.sample_prompt, recipe.sample_length, temperature=0.8, seed=recipe.seed
        )
        return recipe.sample_prompt + "".join(pieces)
    prompt_ids = encode(tokenizer, recipe.sample_prompt)[None, -recipe.context :].to(model.device)  # (1, length)
    if recipe.task == "masked":
        return fill_gaps(model, tokenizer, prompt_ids)
    if isinstance(batches, Copy):
        prompt_ids = batches.at(-1)["input_ids"][:1].to(model.device)
    attention_mask = (prompt_ids != tokenizer.pad_token_id).long()
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        output_ids = model.generate(prompt_ids, attention_mask=attention_mask, do_sample=recipe.task != "copy")
    return " -> ".join(tokenizer.decode(ids[0], skip_special_tokens=True) for ids in (prompt_ids, output_ids))


def fill_gaps(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: torch.Tensor) -> str:
    """Mask spans of `ids`, `(1, length)`, and let an encoder fill them with its most likely tokens."""
    masked_ids, labels = mask_spans(ids.cpu(), tokenizer.mask_token_id, seed=0)
    with torch.no_grad():
        predicted_ids = model(masked_ids.to(model.device)).logits.argmax(-1).cpu()
    filled_ids = torch.where(labels == IGNORED, masked_ids, predicted_ids)
    gaps = tokenizer.decode(masked_ids[0]).replace(tokenizer.mask_token, "_")
    return f"{gaps} -> {tokenizer.decode(filled_ids[0])}"
