"""Positions: attention by itself sees a set of tokens without order, and these classes add the order.

Each is called once in a forward pass, with the token embeddings `(batch, length, hidden)` and the positions of the
tokens `(batch, length)`. It returns the embeddings that enter the first block, and the cosines and sines
`(batch, length, head_dim)` by which attention rotates queries and keys, or `None`.
"""

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.modeling_rope_utils import dynamic_rope_update

Rotation = tuple[torch.Tensor, torch.Tensor] | None


class PositionEncoding(nn.Module):
    """No positions: with a causal mask, attention still sees which tokens came before, but not in which order.

    `longest` is the number of positions that exist; `None` means any number.
    """

    longest: int | None = None

    def __init__(self, config):
        super().__init__()

    def forward(self, embeddings: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, Rotation]:
        return embeddings, None


class LearnedPositions(PositionEncoding):
    """`x_t = embedding(token_t) + table_t`: one learned vector for each position, as in GPT-2.

    Source: Gehring et al., "Convolutional Sequence to Sequence Learning", 2017, https://arxiv.org/abs/1705.03122,
    section 3.1. The table has `max_position_embeddings` rows, and a longer text cannot be read.
    """

    def __init__(self, config):
        super().__init__(config)
        self.longest = config.max_position_embeddings
        self.table = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, embeddings: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, Rotation]:
        return embeddings + self.table(position_ids), None  # (batch, length, hidden)


class SinusoidalPositions(PositionEncoding):
    """Add `sin(t / 10000^(2i / hidden))` to dimension `2i` and the cosine of the same to dimension `2i + 1`.

    Source: Vaswani et al., "Attention Is All You Need", 2017, https://arxiv.org/abs/1706.03762, section 3.5. Nothing is
    learned, and there is no longest text; `hidden` must be even.
    """

    def __init__(self, config):
        super().__init__(config)
        self.hidden = config.hidden_size

    def forward(self, embeddings: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, Rotation]:
        even = torch.arange(0, self.hidden, 2, device=embeddings.device, dtype=torch.float)
        angles = position_ids[..., None].float() * 10000 ** (-even / self.hidden)  # (batch, length, hidden / 2)
        waves = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)  # (batch, length, hidden)
        return embeddings + waves.to(embeddings.dtype), None


class RotaryEmbedding(PositionEncoding):
    """Rotate pair `i` of a query or key at position `t` by the angle `t * theta^(-2i / head_dim)`.

    The product of a query at `t` with a key at `s` then depends on `t - s` alone, so there is no table that could end.
    Source: Su et al., "RoFormer", 2021, https://arxiv.org/abs/2104.09864, equations 14 and 34. The pairs are
    dimensions `i` and `i + head_dim / 2`, as in Llama. Other `rope_type`s (linear, dynamic, yarn, llama3 ...) come
    from transformers, which finds the buffers to rebuild by this class's name and by `original_inv_freq`.
    """

    def __init__(self, config):
        super().__init__(config)
        self.config = config
        self.max_seq_len_cached = config.max_position_embeddings
        self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = config.rope_parameters["rope_type"]
        frequencies = ROPE_INIT_FUNCTIONS.get(self.rope_type, self.compute_default_rope_parameters)
        inv_freq, self.attention_scaling = frequencies(config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)  # (head_dim / 2)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config, *args, **kwargs) -> tuple[torch.Tensor, float]:
        """The angles between neighbouring positions, `theta^(-2i / head_dim)`, and a factor on cosine and sine, 1."""
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float) / config.head_dim
        return config.rope_parameters["rope_theta"] ** -exponents, 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, embeddings: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, Rotation]:
        # Always in float32: half precision rounds integers above 256 or 2,048, so neighbours would share an angle.
        angles = position_ids[..., None].float() * self.inv_freq.float()  # (batch, length, head_dim / 2)
        angles = torch.cat((angles, angles), dim=-1)  # (batch, length, head_dim)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return embeddings, (cos.to(embeddings.dtype), sin.to(embeddings.dtype))

    def extra_repr(self) -> str:
        return f"{2 * self.inv_freq.numel()}, {self.config.rope_parameters}"


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate each pair `(a, b)` of the last dimension to `(a cos - b sin, b cos + a sin)`.

    `x` is `(batch, heads, length, head_dim)`, `cos` and `sin` are `(batch, length, head_dim)`.
    """
    first, second = x.chunk(2, dim=-1)
    quarter_turn = torch.cat((-second, first), dim=-1)
    return x * cos.unsqueeze(1) + quarter_turn * sin.unsqueeze(1)


POSITIONS = {
    "none": PositionEncoding,
    "learned": LearnedPositions,
    "sinusoidal": SinusoidalPositions,
    "rotary": RotaryEmbedding,
}
