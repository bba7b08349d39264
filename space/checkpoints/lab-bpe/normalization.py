"""Normalisation: keep the size of a vector in hand, so that depth does not make it grow or vanish.

Shapes: `...` any leading dimensions, `size` the normalised one (`hidden`, or `head_dim` for queries and keys).
"""

import torch
from torch import nn


class LayerNorm(nn.Module):
    """`y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias` over the last dimension.

    Source: Ba, Kiros and Hinton, "Layer Normalization", 2016, https://arxiv.org/abs/1607.06450, equation 4.
    Input and output: `(..., size)`. The statistics are taken in float32 whatever the input's type.
    """

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x.float() - x.float().mean(-1, keepdim=True)
        variance = centred.pow(2).mean(-1, keepdim=True)
        normalised = centred * torch.rsqrt(variance + self.eps)
        return (self.weight * normalised + self.bias).to(x.dtype)


class RMSNorm(nn.Module):
    """`y = x / sqrt(mean(x^2) + eps) * weight` over the last dimension: a LayerNorm without mean and bias.

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, https://arxiv.org/abs/1910.07467,
    equation 4. Input and output: `(..., size)`. The mean square is taken in float32 whatever the input's type.
    """

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean_square = x.float().pow(2).mean(-1, keepdim=True)
        normalised = x.float() * torch.rsqrt(mean_square + self.eps)
        return self.weight * normalised.to(x.dtype)


class NoNorm(nn.Identity):
    """The first steps of the evolution have no norm. Takes and ignores what the others are built with."""


NORMS = {"none": NoNorm, "layer_norm": LayerNorm, "rms_norm": RMSNorm}
