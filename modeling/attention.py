"""Attention: each position gathers what it needs from the positions that it may see.

Shapes: `heads` query heads, `kv_heads` key and value heads (each serves `heads / kv_heads` query heads), `queries` the
positions of this call, `keys` those of the cache and of this call together.
"""

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.cache_utils import EncoderDecoderCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .normalization import NORMS
from .positions import Rotation
from .positions import rotate


def repeat_kv(x: torch.Tensor, times: int) -> torch.Tensor:
    """Give every query head its own copy of the keys or values that it shares: `kv_heads` becomes `heads`.

    `(batch, kv_heads, keys, head_dim)` to `(batch, heads, keys, head_dim)`. The name is the one that transformers uses.
    """
    return x if times == 1 else x.repeat_interleave(times, dim=1)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`softmax(Q K^T * scaling + mask) V`, written out. Tests prove the other implementations equal to this one.

    Source: Vaswani et al., "Attention Is All You Need", 2017, https://arxiv.org/abs/1706.03762, equation 1; key and
    value heads shared as in Ainslie et al., "GQA", 2023, https://arxiv.org/abs/2305.13245.

    Args:
        module: the attention layer; its `num_key_value_groups`, `is_causal` and `training` are read.
        query: `(batch, heads, queries, head_dim)`.
        key, value: `(batch, kv_heads, keys, head_dim)`.
        attention_mask: `(batch, 1, queries, keys)`, 0 where a key may be seen and hugely negative where not. `None`
            is the causal triangle in a decoder and no mask elsewhere.
        scaling: `head_dim ** -0.5`, which keeps the variance of the scores at 1.
        dropout: the probability that a weight is dropped in training.
        is_causal: overrides the layer's own `is_causal`.

    Returns:
        The output `(batch, queries, heads, head_dim)` and the weights `(batch, heads, queries, keys)`.
    """
    key = repeat_kv(key, module.num_key_value_groups)  # (batch, heads, keys, head_dim)
    value = repeat_kv(value, module.num_key_value_groups)  # (batch, heads, keys, head_dim)
    scores = query @ key.transpose(2, 3) * scaling  # (batch, heads, queries, keys)
    if attention_mask is not None:
        scores = scores + attention_mask
    elif module.is_causal if is_causal is None else is_causal:
        # The queries are the last of the keys: each sees its own position and those before it.
        queries, keys = scores.shape[-2:]
        later = torch.ones(queries, keys, dtype=torch.bool, device=scores.device).triu(keys - queries + 1)
        scores = scores.masked_fill(later, torch.finfo(scores.dtype).min)
    # In half precision the sum over many keys would lose digits, so the softmax runs in float32 or better.
    weights = scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(dim=-1).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    output = weights @ value  # (batch, heads, queries, head_dim)
    return output.transpose(1, 2).contiguous(), weights


class OzymandiasAttention(nn.Module):
    """Self-attention with `heads` query heads and `kv_heads` key and value heads, causal or not as the config says.

    Multi-head if the two are equal, grouped-query if there are fewer key and value heads, multi-query if there is only
    one. `use_qk_norm` normalises queries and keys before their product, which bounds the scores (Henry et al.,
    "Query-Key Normalization", 2020, https://arxiv.org/abs/2010.04245; here with a learned norm, as in Qwen3).
    Input and output: `(batch, length, hidden)`. The second output is the weights, or `None` if the implementation does
    not return them.
    """

    def __init__(self, config, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.head_dim**-0.5
        self.is_causal = config.is_causal  # read by transformers' sdpa and flash implementations
        slides = config.layer_types[layer_idx] == "sliding_attention"
        self.sliding_window = config.sliding_window if slides else None
        query_width = config.num_attention_heads * config.head_dim
        kv_width = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_width, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=config.attention_bias)
        self.o_proj = nn.Linear(query_width, config.hidden_size, bias=config.attention_bias)
        norm = NORMS[config.norm_type if config.use_qk_norm else "none"]
        self.q_norm = norm(config.head_dim, config.norm_eps)
        self.k_norm = norm(config.head_dim, config.norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        rotation: Rotation = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query = self.split_heads(self.q_proj(hidden_states), self.q_norm)  # (batch, heads, length, head_dim)
        key, value = self.make_keys_and_values(hidden_states)  # (batch, kv_heads, length, head_dim)
        if rotation is not None:
            query, key = rotate(query, *rotation), rotate(key, *rotation)
        if past_key_values is not None:  # not `if past_key_values:`, because an empty cache is falsy
            # A paged cache returns the keys unchanged and adds its kernel's arguments to `kwargs`; others ignore them.
            key, value = past_key_values.update(key, value, self.layer_idx, kwargs=kwargs)
            # (batch, kv_heads, keys, head_dim) each
        return self.attend(query, key, value, attention_mask, **kwargs)

    def make_keys_and_values(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.split_heads(self.k_proj(x), self.k_norm), self.split_heads(self.v_proj(x))

    def split_heads(self, x: torch.Tensor, norm: nn.Module | None = None) -> torch.Tensor:
        """`(batch, length, heads * head_dim)` to `(batch, heads, length, head_dim)`, normalised in each head."""
        x = x.unflatten(-1, (-1, self.head_dim))  # (batch, length, heads, head_dim)
        return (x if norm is None else norm(x)).transpose(1, 2)

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run the implementation that the config names and join the heads."""
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.scaling,
            dropout=self.config.attention_dropout if self.training else 0.0,
            sliding_window=self.sliding_window,  # for flash attention, which gets no mask
            **kwargs,
        )
        return self.o_proj(output.flatten(-2)), weights  # (batch, length, hidden)

    def extra_repr(self) -> str:
        heads, kv_heads = self.config.num_attention_heads, self.config.num_key_value_heads
        return f"heads={heads}, kv_heads={kv_heads}, head_dim={self.head_dim}, is_causal={self.is_causal}"


class OzymandiasCrossAttention(OzymandiasAttention):
    """Attention from a decoder to an encoder: queries from the decoder, keys and values from the encoder's output.

    Source: Vaswani et al., 2017, https://arxiv.org/abs/1706.03762, section 3.2.3. Every query sees the whole source.
    There is no rotary embedding here: the encoder's outputs already carry positions. Input and output:
    `(batch, length, hidden)`; `source` is `(batch, keys, hidden)`.
    """

    def __init__(self, config, layer_idx: int):
        super().__init__(config, layer_idx)
        self.is_causal = False

    def forward(
        self,
        hidden_states: torch.Tensor,
        source: torch.Tensor,
        source_mask: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query = self.split_heads(self.q_proj(hidden_states), self.q_norm)  # (batch, heads, length, head_dim)
        if past_key_values is not None and past_key_values.is_updated.get(self.layer_idx):
            # A later token: the source has not changed, so its keys and values come from the cache.
            cached = past_key_values.cross_attention_cache.layers[self.layer_idx]
            key, value = cached.keys, cached.values  # (batch, kv_heads, keys, head_dim)
        else:
            # The first tokens, or no cache.
            key, value = self.make_keys_and_values(source)  # (batch, kv_heads, keys, head_dim)
            if past_key_values is not None:
                key, value = past_key_values.cross_attention_cache.update(key, value, self.layer_idx)
                past_key_values.is_updated[self.layer_idx] = True
        # An `is_causal` among the arguments is meant for the stack's self-attention.
        return self.attend(query, key, value, source_mask, **{**kwargs, "is_causal": False})
