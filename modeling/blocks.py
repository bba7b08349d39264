"""A block: attention between positions, then a feed-forward at each of them, around one residual stream.

    norm_placement="pre"                  norm_placement="post"

      x ─────────┐                          x ─────────┐
      │        norm                         │      attention
      │      attention                      + ─────────┘
      + ─────────┘                         norm
      │ ─────────┐                          │ ─────────┐
      │        norm                         │     feed-forward
      │     feed-forward                    + ─────────┘
      + ─────────┘                         norm
      │                                     │
      x                                     x

A decoder that reads an encoder's output has a third such step, cross-attention, between the two.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import OzymandiasAttention
from .attention import OzymandiasCrossAttention
from .feed_forward import FEED_FORWARDS
from .normalization import NORMS
from .positions import Rotation


class OzymandiasBlock(GradientCheckpointingLayer):
    """Attention, then a feed-forward, each as `x = x + sublayer(norm(x))` or as `x = norm(x + sublayer(x))`.

    The first is `norm_placement="pre"`, which never normalises the residual stream itself (Xiong et al., "On Layer
    Normalization in the Transformer Architecture", 2020, https://arxiv.org/abs/2002.04745); the second is `"post"`, the
    placement of 2017 (Vaswani et al., https://arxiv.org/abs/1706.03762, section 3.1). The first steps of the evolution
    have no `x +` (`use_residual=False`) and no feed-forward (`feed_forward_type="none"`). Input and output:
    `(batch, length, hidden)`; `source` is the encoder's output, `(batch, keys, hidden)`.
    """

    def __init__(self, config, layer_idx: int):
        super().__init__()
        norm = NORMS[config.norm_type]
        self.attention_norm = norm(config.hidden_size, config.norm_eps)
        self.attention = OzymandiasAttention(config, layer_idx)
        self.attention.o_proj.writes_residual = config.use_residual  # begins with smaller weights, see `backbone.py`
        self.cross_attention = None
        if config.add_cross_attention:
            self.cross_attention_norm = norm(config.hidden_size, config.norm_eps)
            self.cross_attention = OzymandiasCrossAttention(config, layer_idx)
            self.cross_attention.o_proj.writes_residual = config.use_residual
        self.feed_forward = None
        if config.feed_forward_type != "none":
            self.feed_forward_norm = norm(config.hidden_size, config.norm_eps)
            self.feed_forward = FEED_FORWARDS[config.feed_forward_type](config)
            for name, module in self.feed_forward.named_modules():
                if name.endswith("down_proj"):
                    module.writes_residual = config.use_residual
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.use_residual = config.use_residual
        self.norm_after = config.norm_placement == "post"

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        rotation: Rotation = None,
        source: torch.Tensor | None = None,
        source_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> torch.Tensor:
        own_cache = getattr(past_key_values, "self_attention_cache", past_key_values)

        def attend(x: torch.Tensor) -> torch.Tensor:
            return self.attention(x, attention_mask, rotation, own_cache, **kwargs)[0]

        def attend_to_source(x: torch.Tensor) -> torch.Tensor:
            return self.cross_attention(x, source, source_mask, past_key_values, **kwargs)[0]

        hidden_states = self.around(attend, self.attention_norm, hidden_states)
        if self.cross_attention is not None:
            hidden_states = self.around(attend_to_source, self.cross_attention_norm, hidden_states)
        if self.feed_forward is not None:
            hidden_states = self.around(self.feed_forward, self.feed_forward_norm, hidden_states)
        return hidden_states

    def around(self, sublayer: Callable, norm: nn.Module, stream: torch.Tensor) -> torch.Tensor:
        """Add a sublayer's output to the residual stream, with the norm in its place."""
        update = self.dropout(sublayer(stream if self.norm_after else norm(stream)))
        stream = stream + update if self.use_residual else update
        return norm(stream) if self.norm_after else stream
