"""Feed-forward: each position transforms what attention brought it, by itself and with the same weights everywhere.

Shapes: `hidden` the residual stream, `inner` the wider layer (`intermediate_size`).

To add a feed-forward, derive it from `MLP` or `GatedMLP` and name it in `FEED_FORWARDS` at the end of this file. It is
built from the config. The matrix that writes into the residual stream is called `down_proj`: it begins with smaller
weights than the others (`backbone.py`).
"""

import torch
from torch import nn


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """`x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`, as in GPT-2.

    Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016, https://arxiv.org/abs/1606.08415, section 2.
    """
    return nn.functional.gelu(x, approximate="tanh")


def squared_relu(x: torch.Tensor) -> torch.Tensor:
    """`max(x, 0)^2`. Source: So et al., "Primer", 2021, https://arxiv.org/abs/2109.08668, section 4.1."""
    return nn.functional.relu(x).square()


ACTIVATIONS = {
    "relu": nn.functional.relu,
    "gelu": nn.functional.gelu,
    "gelu_pytorch_tanh": gelu_tanh,
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

    @staticmethod
    def default_width(hidden: int) -> int:
        """The `intermediate_size` of a config that names none."""
        return 4 * hidden

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

    @staticmethod
    def default_width(hidden: int) -> int:
        """Two thirds of an MLP's, rounded up to a multiple of 8: three matrices then have as many weights as two."""
        return -(-hidden // 3) * 8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.act(self.gate_proj(x)) * self.up_proj(x)  # (batch, length, inner)
        return self.down_proj(inner)  # (batch, length, hidden)


class Router(nn.Linear):
    """The logits of the experts, `(tokens, experts)`. It has a class of its own so that they can be recorded."""


class MixtureOfExperts(nn.Module):
    """`sum over the best k experts e of p_e expert_e(x)`, with `p` the router's softmax, scaled to sum to 1 over them.

    Each token passes through `num_experts_per_tok` of `num_local_experts` gated feed-forwards: the model has the
    weights of all of them and computes only a few. Source: Jiang et al., "Mixtral of Experts", 2024,
    https://arxiv.org/abs/2401.04088, section 2.1. Input and output: `(batch, length, hidden)`.
    """

    default_width = GatedMLP.default_width  # of each expert

    def __init__(self, config):
        super().__init__()
        self.experts_per_token = config.num_experts_per_tok
        self.router = Router(config.hidden_size, config.num_local_experts, bias=False)
        self.experts = nn.ModuleList(GatedMLP(config) for _ in range(config.num_local_experts))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(0, 1)  # (tokens, hidden)
        probabilities = self.router(tokens).float().softmax(-1)  # (tokens, experts)
        probabilities, chosen = probabilities.topk(self.experts_per_token)  # (tokens, k)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
        output = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            # An expert that no token chose runs on zero rows, so its gradients are zero and not missing.
            row, rank = (chosen == number).nonzero(as_tuple=True)
            output.index_add_(0, row, expert(tokens[row]) * probabilities[row, rank, None].to(x.dtype))
        return output.view_as(x)


def load_balancing_loss(
    router_logits: tuple[torch.Tensor, ...], experts_per_token: int, attention_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """`experts * sum over e of f_e P_e`: smallest, `experts_per_token`, when all experts are chosen equally often.

    `f_e` is how many times a token chose expert `e` on average, `P_e` the mean probability that the router gave it.
    Source: Fedus et al., "Switch Transformers", 2021, https://arxiv.org/abs/2101.03961, equations 4 to 6, averaged over
    the layers. transformers' Mixtral pools the experts of all layers, so that one layer can make up for another.

    Args:
        router_logits: `(tokens, experts)` of each layer.
        attention_mask: `(batch, length)` with 0 on padding, which does not count; with a cache, `(batch, keys)`.
    """
    logits = torch.stack(router_logits).float()  # (layers, tokens, experts)
    probabilities = logits.softmax(-1)
    chosen = nn.functional.one_hot(probabilities.topk(experts_per_token).indices, logits.shape[-1]).sum(-2).float()
    if attention_mask is None:
        counts = torch.ones_like(probabilities[0, :, :1])
    else:
        length = logits.shape[1] // attention_mask.shape[0]
        counts = attention_mask[:, -length:].reshape(-1, 1).float()  # (tokens, 1)
    frequency = (chosen * counts).sum(1) / counts.sum()  # (layers, experts)
    probability = (probabilities * counts).sum(1) / counts.sum()  # (layers, experts)
    return logits.shape[-1] * (frequency * probability).sum(-1).mean()


FEED_FORWARDS: dict[str, type[nn.Module]] = {"mlp": MLP, "gated": GatedMLP, "moe": MixtureOfExperts}
