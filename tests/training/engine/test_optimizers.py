import pytest
import torch

from modeling import OzymandiasForCausalLM, preset_config
from training.engine.optimizers import Muon, build_optimizers, lr_scale, orthogonalise
from training.engine.recipe import Recipe


@pytest.mark.parametrize("shape", [(1, 32, 32), (1, 64, 16), (1, 16, 64), (3, 24, 48)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
    assert values.max() < 1.25
    assert values.min() > 0.3  # a random square matrix has a few near 0, which five steps cannot lift all the way


def test_orthogonalising_keeps_the_singular_vectors():
    matrix = torch.diag(torch.tensor([3.0, 1.0, 0.5, 0.2]))
    (result,) = orthogonalise(matrix[None])
    assert (result - torch.diag(result.diagonal())).abs().max() < 1e-5


def test_muon_treats_matrices_of_one_shape_as_it_would_each_alone():
    torch.manual_seed(0)
    together = [torch.nn.Parameter(torch.randn(8, 4)) for _ in range(3)]
    alone = [torch.nn.Parameter(p.detach().clone()) for p in together]
    optimizers = [Muon(together, lr=0.1), *(Muon([p], lr=0.1) for p in alone)]
    for _ in range(3):
        for one, other in zip(together, alone, strict=True):
            one.grad = torch.randn(8, 4)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("preset", ["bigram", "modern", "gpt"])
def test_every_parameter_has_one_optimizer(name, preset):
    model = OzymandiasForCausalLM(preset_config(preset, vocab_size=20))
    optimizers = build_optimizers(model, Recipe(optimizer=name))
    assigned = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    assert len(assigned) == len({id(p) for p in assigned})
    assert {id(p) for p in assigned} == {id(p) for p in model.parameters()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if any(p.ndim < 2 for p in group["params"]):
                assert group["weight_decay"] == 0
            if isinstance(optimizer, Muon):
                assert all(p.ndim == 2 for p in group["params"])


def test_schedule_rises_stays_and_falls():
    recipe = Recipe(steps=100, warmup_steps=10, decay_share=0.5)
    scales = [lr_scale(step, recipe) for step in range(100)]
    assert scales[0] == pytest.approx(0.1)
    assert scales[9:51] == [1.0] * 42
    assert scales[75] == pytest.approx(0.5)
    assert scales[99] == pytest.approx(0.02)
    assert scales[:10] == sorted(scales[:10])
    assert scales[50:] == sorted(scales[50:], reverse=True)
