"""A block: attention between the positions, then a feed-forward in each, around one residual stream."""

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import OzymandiasAttention
from .feed_forward import FEED_FORWARDS
from .normalization import NORMS
from .positions import Rotation


class OzymandiasBlock(GradientCheckpointingLayer):
    """`x = x + attention(norm(x))`, then `x = x + feed_forward(norm(x))`.

    The norm stands before each sublayer, which leaves the residual stream untouched from the first block to the last
    (Xiong et al., "On Layer Normalization in the Transformer Architecture", 2020, https://arxiv.org/abs/2002.04745).
    Without `use_residual` the `x +` is left out, and with `feed_forward_type="none"` the second half: the first
    steps of the evolution. Input and output: `(batch, length, hidden)`.
    """

    def __init__(self, config, layer_idx: int):
        super().__init__()
        norm = NORMS[config.norm_type]
        self.attention_norm = norm(config.hidden_size, config.norm_eps)
        self.attention = OzymandiasAttention(config, layer_idx)
        self.attention.o_proj.writes_residual = config.use_residual  # read where the weights are initialised
        self.feed_forward = None
        if config.feed_forward_type != "none":
            self.feed_forward_norm = norm(config.hidden_size, config.norm_eps)
            self.feed_forward = FEED_FORWARDS[config.feed_forward_type](config)
            self.feed_forward.down_proj.writes_residual = config.use_residual
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.use_residual = config.use_residual

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        rotation: Rotation = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> torch.Tensor:
        attended, _ = self.attention(
            self.attention_norm(hidden_states),
            attention_mask=attention_mask,
            rotation=rotation,
            past_key_values=past_key_values,
            **kwargs,
        )
        hidden_states = self.add(hidden_states, attended)
        if self.feed_forward is not None:
            hidden_states = self.add(hidden_states, self.feed_forward(self.feed_forward_norm(hidden_states)))
        return hidden_states

    def add(self, stream: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
        """Put a sublayer's output into the residual stream, or in its place where there is none."""
        update = self.dropout(update)
        return stream + update if self.use_residual else update
