"""Feed-forward: what each position does with what attention brought it, on its own and the same everywhere.

Shapes: `hidden` the residual stream, `inner` the wider layer (`intermediate_size`).
"""

import torch
from torch import nn


def squared_relu(x: torch.Tensor) -> torch.Tensor:
    """`max(x, 0)^2`. Source: So et al., "Primer", 2021, https://arxiv.org/abs/2109.08668, section 4.1."""
    return nn.functional.relu(x).square()


ACTIVATIONS = {
    "relu": nn.functional.relu,
    "gelu": nn.functional.gelu,
    "relu2": squared_relu,
    "silu": nn.functional.silu,
}


class MLP(nn.Module):
    """`down(act(up(x)))`.

    Source: Vaswani et al., "Attention Is All You Need", 2017, https://arxiv.org/abs/1706.03762, equation 2.
    Input and output: `(batch, length, hidden)`.
    """

    def __init__(self, config):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.act = ACTIVATIONS[config.hidden_act]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.act(self.up_proj(x))  # (batch, length, inner)
        return self.down_proj(inner)  # (batch, length, hidden)


class GatedMLP(nn.Module):
    """`down(act(gate(x)) * up(x))`: one projection decides how much of the other passes. SwiGLU with `silu`.

    Source: Shazeer, "GLU Variants Improve Transformer", 2020, https://arxiv.org/abs/2002.05202, equation 6.
    Input and output: `(batch, length, hidden)`.
    """

    def __init__(self, config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.act = ACTIVATIONS[config.hidden_act]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.act(self.gate_proj(x)) * self.up_proj(x)  # (batch, length, inner)
        return self.down_proj(inner)  # (batch, length, hidden)


FEED_FORWARDS = {"mlp": MLP, "gated": GatedMLP}
