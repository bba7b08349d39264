"""Causal attention for training on a CPU: a few large matrix products that skip most of the masked scores.

Shapes: `heads` query heads, `kv_heads` key and value heads, `length` positions in a window.
"""

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from modeling.attention import repeat_kv

CAUSAL_CHUNKS = "causal_chunks"  # its name for `set_attn_implementation`
CHUNK = 128  # queries; smaller products are slow, and larger ones compute too many masked scores


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
    """Attention in which each chunk of queries is multiplied only with the keys up to the chunk's end.

    For a window of four chunks this is five eighths of all scores. sdpa's kernel skips more of them, but in blocks too
    small to be fast; eager attention skips none. Inputs with a mask or a cache are passed to sdpa.

    Args:
        query: `(batch, heads, length, head_dim)`.
        key, value: `(batch, kv_heads, length, head_dim)`.
        dropout: probability of dropping an attention weight.

    Returns:
        The output `(batch, length, heads, head_dim)`, and `None` in place of the attention weights.
    """
    length = query.shape[2]
    causal = module.is_causal if is_causal is None else is_causal
    if attention_mask is not None or not causal or length == 1 or length != key.shape[2]:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal=is_causal, **kwargs
        )
    batch, heads = query.shape[:2]
    # Flattened and contiguous, so that every chunk is a view that the products read without a copy.
    query = (query * scaling).flatten(0, 1)  # (batch * heads, length, head_dim)
    key = repeat_kv(key, module.num_key_value_groups).flatten(0, 1)  # (batch * heads, length, head_dim)
    value = repeat_kv(value, module.num_key_value_groups).flatten(0, 1)  # (batch * heads, length, head_dim)
    positions = torch.arange(length, device=query.device)
    outputs = []
    for start in range(0, length, CHUNK):
        end = min(start + CHUNK, length)
        scores = query[:, start:end] @ key[:, :end].mT  # (batch * heads, chunk, end)
        future = positions[:end] > positions[start:end, None]  # (chunk, end)
        weights = scores.masked_fill(future, float("-inf")).softmax(-1, dtype=torch.float32).to(query.dtype)
        outputs.append(nn.functional.dropout(weights, dropout) @ value[:, :end])  # (batch * heads, chunk, head_dim)
    output = torch.cat(outputs, dim=1).unflatten(0, (batch, heads))  # (batch, heads, length, head_dim)
    return output.transpose(1, 2), None  # (batch, length, heads, head_dim)


AttentionInterface.register(CAUSAL_CHUNKS, causal_chunks)
AttentionMaskInterface.register(CAUSAL_CHUNKS, sdpa_mask)
