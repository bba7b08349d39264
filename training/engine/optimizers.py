"""AdamW, and Muon for matrices."""

import torch
from torch import nn

from training.engine.recipe import Recipe
from training.engine.sharded import shard_like, whole


def orthogonalise(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Push all singular values of a matrix to about 1, by a Newton-Schulz iteration that only multiplies matrices.

    `X <- a X + (b A + c A^2) X` with `A = X X^T`, and the coefficients of Jordan, "Muon", 2024,
    https://kellerjordan.github.io/posts/muon/. The iteration does not converge: in five steps it brings every
    singular value to between about 0.7 and 1.2, which is all that the optimizer needs.

    Args:
        matrices: `(batch, rows, columns)`, in the dtype to compute in: float32 on hardware without bf16 units.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT  # the smaller Gram matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # singular values are now at most 1
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates: every direction of a matrix learns at the same speed.

    Source: Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024; Nesterov momentum, and decoupled
    weight decay as in Liu et al., "Muon is Scalable for LLM Training", 2025, https://arxiv.org/abs/2502.16982. torch's
    own Muon computes in bf16, which processors without bf16 units emulate slowly. Matrices of the same shape are
    orthogonalised in one batch.

    Args:
        params: matrices only.
        lr: the learning rate; an update has a root mean square of about `lr * sqrt(max(1, rows / columns) / columns)`.
    """

    def __init__(self, params, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(p.shape, []).append(p)
            for (rows, columns), params in by_shape.items():
                updates = [whole(self.momentum_update(p, group["momentum"])) for p in params]
                updates = orthogonalise(torch.stack(updates))
                scale = group["lr"] * max(1.0, rows / columns) ** 0.5
                for p, update in zip(params, updates, strict=True):
                    update = shard_like(p, update)
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-scale)
        return loss

    def momentum_update(self, p: nn.Parameter, momentum: float) -> torch.Tensor:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(state["momentum"], momentum)  # Nesterov: look one step ahead


def build_optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW for all parameters, or, with `optimizer: muon`, Muon for the blocks' matrices and AdamW for the rest.

    Weight decay applies to matrices only: norm weights and biases should not be pulled towards 0. Every group keeps
    its peak learning rate as `peak_lr`; the schedule sets `lr` from it.
    """
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizers: list[torch.optim.Optimizer] = []
    if recipe.optimizer == "muon":
        blocks = {id(p) for name, p in model.named_parameters() if ".layers." in name}
        hidden = [p for p in matrices if id(p) in blocks]
        matrices = [p for p in matrices if id(p) not in blocks]
        if hidden:
            rates = {"lr": recipe.matrix_learning_rate, "momentum": recipe.matrix_momentum}
            optimizers.append(Muon(hidden, **rates, weight_decay=recipe.weight_decay))
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    betas = (recipe.beta1, recipe.beta2)
    optimizers.append(torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=betas, fused=True))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def lr_scale(step: int, recipe: Recipe) -> float:
    """The factor on the peak learning rate at a step, counted from 0: linear warmup, constant, linear cooldown to 0."""
    warmup = (step + 1) / recipe.warmup_steps if recipe.warmup_steps else 1.0
    cooldown = (recipe.steps - step) / (recipe.decay_share * recipe.steps)
    return min(1.0, warmup, cooldown)
