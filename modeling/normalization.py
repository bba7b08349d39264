"""Normalisation: bring every vector to the same size, so that values neither grow nor vanish with depth.

Shapes: `...` any leading dimensions, `size` the normalised one (`hidden`, or `head_dim` for queries and keys).

To add a norm, derive it from `Norm` and name it in `NORMS` at the end of this file.
"""

import torch
from torch import nn


class Norm(nn.Module):
    """A norm over the last dimension, with one learned factor for each of its `size` values.

    `eps` is added under the root, so that a vector of zeros does not divide by zero. Input and output: `(..., size)`.
    A norm with other parameters resets them in `reset_parameters`, by the functions of `torch.nn.init`: transformers
    makes those skip whatever it has loaded from a file.
    """

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"


class LayerNorm(Norm):
    """`y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias`.

    Source: Ba, Kiros and Hinton, "Layer Normalization", 2016, https://arxiv.org/abs/1607.06450, equation 4.
    The statistics are computed in float32 whatever the input's type.
    """

    def __init__(self, size: int, eps: float):
        super().__init__(size, eps)
        self.bias = nn.Parameter(torch.zeros(size))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x.float() - x.float().mean(-1, keepdim=True)
        variance = centred.pow(2).mean(-1, keepdim=True)
        normalised = centred * torch.rsqrt(variance + self.eps)
        return (self.weight * normalised + self.bias).to(x.dtype)


class RMSNorm(Norm):
    """`y = x / sqrt(mean(x^2) + eps) * weight`: a LayerNorm without mean and bias.

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, https://arxiv.org/abs/1910.07467,
    equation 4. The mean square is computed in float32 whatever the input's type.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean_square = x.float().pow(2).mean(-1, keepdim=True)
        normalised = x.float() * torch.rsqrt(mean_square + self.eps)
        return self.weight * normalised.to(x.dtype)


class NoNorm(nn.Identity):
    """The first steps of the evolution have no norm. Accepts and ignores the arguments of the others."""


NORMS = {"none": NoNorm, "layer_norm": LayerNorm, "rms_norm": RMSNorm}
