"""Causal attention for training on a CPU, in a few large products and without most of the scores that nobody may see.

Shapes: `heads` query heads, `kv_heads` key and value heads, `length` the positions of a window.
"""

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from modeling.attention import repeat_kv

CAUSAL_CHUNKS = "causal_chunks"  # the name for `set_attn_implementation`
CHUNK = 128  # queries: with fewer the products are too small to be fast, with more too many scores are for nothing


def causal_chunks(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Attention where each chunk of queries meets only the keys up to its own end.

    A window of four chunks has five eighths of the scores. sdpa's kernel leaves more out but multiplies blocks too
    small to be fast, and eager attention leaves nothing out. Whatever has a mask or a cache goes to sdpa.

    Args:
        query: `(batch, heads, length, head_dim)`.
        key, value: `(batch, kv_heads, length, head_dim)`.
        dropout: share of the weights that is dropped.

    Returns:
        The output `(batch, length, heads, head_dim)`, and no weights.
    """
    length = query.shape[2]
    causal = module.is_causal if is_causal is None else is_causal
    if attention_mask is not None or not causal or length == 1 or length != key.shape[2]:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal=is_causal, **kwargs
        )
    batch, heads = query.shape[:2]
    # Flat and in order once, so that a chunk is a view that the products read as it is, and not a copy.
    query = (query * scaling).flatten(0, 1)  # (batch * heads, length, head_dim)
    key = repeat_kv(key, module.num_key_value_groups).flatten(0, 1)  # (batch * heads, length, head_dim)
    value = repeat_kv(value, module.num_key_value_groups).flatten(0, 1)  # (batch * heads, length, head_dim)
    positions = torch.arange(length, device=query.device)
    outputs = []
    for start in range(0, length, CHUNK):
        end = min(start + CHUNK, length)
        scores = query[:, start:end] @ key[:, :end].mT  # (batch * heads, chunk, end)
        unseen = positions[:end] > positions[start:end, None]  # (chunk, end)
        weights = scores.masked_fill(unseen, float("-inf")).softmax(-1, dtype=torch.float32).to(query.dtype)
        outputs.append(nn.functional.dropout(weights, dropout) @ value[:, :end])  # (batch * heads, chunk, head_dim)
    output = torch.cat(outputs, dim=1).unflatten(0, (batch, heads))  # (batch, heads, length, head_dim)
    return output.transpose(1, 2), None  # (batch, length, heads, head_dim)


AttentionInterface.register(CAUSAL_CHUNKS, causal_chunks)
AttentionMaskInterface.register(CAUSAL_CHUNKS, sdpa_mask)
