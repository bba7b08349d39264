"""Each part against its formula: computed in another way, or by a property that the paper states."""

import math

import pytest
import torch
from torch import nn
from transformers import DynamicCache
from transformers.masking_utils import create_causal_mask

from modeling import OzymandiasConfig, OzymandiasForCausalLM, preset_config
from modeling.attention import OzymandiasAttention, OzymandiasCrossAttention, eager_attention_forward
from modeling.blocks import OzymandiasBlock
from modeling.cache import CACHE_NAME
from modeling.feed_forward import MLP, GatedMLP, MixtureOfExperts, load_balancing_loss, squared_relu
from modeling.normalization import LayerNorm, RMSNorm
from modeling.positions import LearnedPositions, RotaryEmbedding, SinusoidalPositions, rotate


def test_layer_norm_is_torchs():
    x = torch.randn(3, 5, 16) * 7 + 2
    ours = LayerNorm(16, 1e-5)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    theirs = nn.functional.layer_norm(x, (16,), ours.weight, ours.bias, 1e-5)
    torch.testing.assert_close(ours(x), theirs, atol=1e-5, rtol=1e-5)


def test_rms_norm_is_torchs():
    x = torch.randn(3, 5, 16) * 7 + 2
    ours = RMSNorm(16, 1e-6)
    nn.init.normal_(ours.weight)
    torch.testing.assert_close(ours(x), nn.functional.rms_norm(x, (16,), ours.weight, 1e-6), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm])
def test_norm_keeps_half_precision_in_and_out(norm):
    """The square of 300 overflows float16, so the statistics must not be computed in it."""
    x = torch.full((1, 8), 300.0, dtype=torch.float16)
    x[0, 0] = -300
    y = norm(8, 1e-5).half()(x)
    assert y.dtype == torch.float16
    assert y.isfinite().all()
    assert 0.5 < y.abs().mean() < 2


def test_rotary_scores_depend_on_distance_alone():
    config = OzymandiasConfig(position_type="rotary", num_attention_heads=4)
    rotary = RotaryEmbedding(config)
    query, key = torch.randn(2, 1, 1, 1, config.head_dim)

    def score(query_position: int, key_position: int) -> torch.Tensor:
        positions = torch.tensor([[query_position, key_position]])
        _, (cos, sin) = rotary(torch.zeros(1, 2, config.hidden_size), positions)
        turned_query = rotate(query, cos[:, :1], sin[:, :1])
        turned_key = rotate(key, cos[:, 1:], sin[:, 1:])
        return (turned_query * turned_key).sum()

    torch.testing.assert_close(score(9, 4), score(105, 100), atol=1e-4, rtol=1e-4)
    assert not torch.isclose(score(9, 4), score(9, 5))


def test_rotary_turns_each_pair_by_its_angle():
    config = OzymandiasConfig(position_type="rotary", hidden_size=4, num_attention_heads=1)
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)
    _, (cos, sin) = RotaryEmbedding(config)(torch.zeros(1, 1, 4), torch.tensor([[3]]))
    pairs = torch.complex(x[..., :2], x[..., 2:])  # dimensions i and i + head_dim / 2
    angles = 3 * torch.tensor([1.0, 10000**-0.5])
    expected = pairs * torch.polar(torch.ones(2), angles)
    torch.testing.assert_close(rotate(x, cos, sin), torch.cat((expected.real, expected.imag), -1))


def test_learned_positions_add_their_row():
    config = OzymandiasConfig()
    positions = LearnedPositions(config)
    embeddings = torch.randn(1, 3, config.hidden_size)
    added, rotation = positions(embeddings, torch.tensor([[5, 6, 7]]))
    assert rotation is None
    torch.testing.assert_close(added - embeddings, positions.table.weight[5:8].unsqueeze(0), atol=1e-6, rtol=1e-5)


def test_squared_relu():
    assert squared_relu(torch.tensor([-2.0, 0.0, 3.0])).tolist() == [0, 0, 9]


def test_feed_forwards_are_their_formulas():
    x = torch.randn(2, 3, 128)
    mlp = MLP(OzymandiasConfig(hidden_act="gelu", mlp_bias=True))
    inner = nn.functional.gelu(x @ mlp.up_proj.weight.T + mlp.up_proj.bias)
    torch.testing.assert_close(mlp(x), inner @ mlp.down_proj.weight.T + mlp.down_proj.bias)
    gated = GatedMLP(OzymandiasConfig(hidden_act="silu"))
    gate, up = x @ gated.gate_proj.weight.T, x @ gated.up_proj.weight.T
    torch.testing.assert_close(gated(x), (gate * torch.sigmoid(gate) * up) @ gated.down_proj.weight.T)


def test_eager_attention_is_the_formula_position_by_position():
    """Query head h reads key head h // 2; position t sees positions up to t."""
    heads, kv_heads, length, head_dim = 4, 2, 5, 8
    query, key, value = (torch.randn(1, n, length, head_dim) for n in (heads, kv_heads, kv_heads))
    mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
    layer = nn.Module()
    layer.num_key_value_groups = heads // kv_heads
    output, weights = eager_attention_forward(layer.eval(), query, key, value, mask, scaling=head_dim**-0.5)
    assert weights.triu(1).abs().max() == 0  # exactly
    for head in range(heads):
        for t in range(length):
            scores = [query[0, head, t] @ key[0, head // 2, s] / head_dim**0.5 for s in range(t + 1)]
            share = torch.stack(scores).softmax(0)
            expected = share @ value[0, head // 2, : t + 1]
            torch.testing.assert_close(output[0, t, head], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("past", "queries"), [(0, 7), (6, 1), (4, 3)], ids=["a text", "one new token", "a chunk"])
def test_the_causal_triangle_of_eager_attention_is_the_one_transformers_makes(past, queries):
    config = OzymandiasConfig(num_hidden_layers=1, num_key_value_heads=2)
    config._attn_implementation = "eager"
    layer = OzymandiasAttention(config, 0).eval()
    cache = DynamicCache(config=config)
    cache.update(*torch.randn(2, 1, 2, past, config.head_dim), 0)
    embeddings = torch.zeros(1, queries, config.hidden_size)
    mask = create_causal_mask(config=config, inputs_embeds=embeddings, attention_mask=None, **{CACHE_NAME: cache})
    query, key, value = (torch.randn(1, n, m, config.head_dim) for n, m in ((4, queries), *[(2, past + queries)] * 2))
    made, by_transformers = (eager_attention_forward(layer, query, key, value, m, 0.2) for m in (None, mask))
    for ours, theirs in zip(made, by_transformers, strict=True):
        assert torch.equal(ours, theirs)
    everything = eager_attention_forward(layer, query, key, value, None, 0.2, is_causal=False)[1]
    assert everything.min() > 0
    assert OzymandiasCrossAttention(config, 0).is_causal is False


def test_a_printed_model_shows_widths_and_epsilons():
    shown = str(OzymandiasForCausalLM(preset_config("modern", norm_eps=1e-6)))
    assert "(attention_norm): RMSNorm(128, eps=1e-06)" in shown
    assert "(q_norm): RMSNorm(32, eps=1e-06)" in shown
    assert "heads=4, kv_heads=2, head_dim=32, is_causal=True" in shown
    assert "in_features=128, out_features=344" in shown


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_eager_attention_gradients(kv_heads):
    layer = nn.Module()
    layer.num_key_value_groups = 4 // kv_heads
    shapes = [(1, n, 3, 4) for n in (4, kv_heads, kv_heads)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    mask = torch.full((3, 3), torch.finfo(torch.float64).min, dtype=torch.float64).triu(1)[None, None]
    assert torch.autograd.gradcheck(
        lambda q, k, v: eager_attention_forward(layer.eval(), q, k, v, mask, scaling=0.5)[0], inputs
    )


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_gradients_of_cross_attention_are_right(kv_heads):
    """The whole layer with projections and shared heads, and with a source of another length."""
    config = OzymandiasConfig(
        hidden_size=8, num_attention_heads=4, num_key_value_heads=kv_heads, add_cross_attention=True
    )
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    layer = OzymandiasCrossAttention(config, 0).double().eval()
    target, source = (torch.randn(1, n, 8, dtype=torch.float64, requires_grad=True) for n in (3, 5))
    mask = torch.zeros(1, 1, 1, 5, dtype=torch.float64)
    mask[..., 4] = torch.finfo(torch.float64).min
    assert torch.autograd.gradcheck(lambda *states: layer(*states, mask)[0], (target, source))


def test_query_key_norm_bounds_the_scores():
    """A query and a key then have norm sqrt(head_dim), so that a scaled score is at most sqrt(head_dim)."""
    config = OzymandiasConfig(use_qk_norm=True, norm_type="rms_norm", position_type="rotary")
    config._attn_implementation = "eager"
    attention = OzymandiasAttention(config, 0)
    x = 1000 * torch.randn(1, 6, config.hidden_size)
    query = attention.q_norm(attention.q_proj(x).view(1, 6, -1, config.head_dim))
    key = attention.k_norm(attention.k_proj(x).view(1, 6, -1, config.head_dim))
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * attention.scaling
    assert scores.abs().max() <= config.head_dim**0.5 + 1e-3


def mixture(**fields) -> MixtureOfExperts:
    torch.manual_seed(0)
    return MixtureOfExperts(OzymandiasConfig(feed_forward_type="moe", hidden_act="silu", hidden_size=16, **fields))


def test_mixture_is_its_formula_token_by_token():
    moe = mixture(num_local_experts=4, num_experts_per_tok=2)
    x = torch.randn(2, 5, 16)
    for row, expected_row in zip(moe(x).flatten(0, 1), x.flatten(0, 1), strict=True):
        shares = moe.router(expected_row).softmax(-1)
        best = shares.topk(2).indices
        expected = sum(shares[e] / shares[best].sum() * moe.experts[e](expected_row) for e in best.tolist())
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-4)


def test_expert_without_a_token_causes_no_nan():
    moe = mixture(num_local_experts=4, num_experts_per_tok=1)
    with torch.no_grad():
        moe.router.weight[:] = 0
        moe.router.weight[2] = 10.0
    x = torch.rand(1, 6, 16)
    moe(x).sum().backward()
    gradients = [moe.experts[e].down_proj.weight.grad for e in range(4)]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    assert [bool(g.abs().sum() > 0) for g in gradients] == [False, False, True, False]


def test_load_balancing_loss_is_least_when_experts_share_evenly():
    even = torch.eye(4).repeat(8, 1) * 50  # 32 tokens, 8 for each of 4 experts
    assert load_balancing_loss((even, even), 1) == pytest.approx(1.0)
    crowded = torch.eye(4)[0].repeat(32, 1) * 50
    assert load_balancing_loss((crowded,), 1) == pytest.approx(4.0)
    each_another = tuple(torch.eye(4)[layer].repeat(32, 1) * 50 for layer in range(4))
    assert load_balancing_loss(each_another, 1) == pytest.approx(4.0)  # one layer does not make up for another
    mask = torch.ones(1, 32)
    mask[0, 16:] = 0
    half = torch.cat((even[:16], crowded[16:]))
    assert load_balancing_loss((half,), 1, mask) == pytest.approx(1.0)


def test_sinusoidal_positions_are_the_papers():
    config = OzymandiasConfig(position_type="sinusoidal", hidden_size=6, num_attention_heads=2)
    waves, rotation = SinusoidalPositions(config)(torch.zeros(1, 3, 6), torch.arange(3).unsqueeze(0))
    assert rotation is None
    for t in range(3):
        for i in range(3):
            angle = t / 10000 ** (2 * i / 6)
            assert waves[0, t, 2 * i] == pytest.approx(math.sin(angle), abs=1e-6)
            assert waves[0, t, 2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-6)


def test_a_norm_stands_before_or_after_its_sublayer():
    x = torch.randn(1, 4, 128)
    for placement in ("pre", "post"):
        torch.manual_seed(0)
        config = OzymandiasConfig(norm_placement=placement)
        config._attn_implementation = "eager"
        block = OzymandiasBlock(config, 0)
        attend, feed = lambda h, block=block: block.attention(h)[0], block.feed_forward
        if placement == "pre":
            h = x + attend(block.attention_norm(x))
            expected = h + feed(block.feed_forward_norm(h))
        else:
            h = block.attention_norm(x + attend(x))
            expected = block.feed_forward_norm(h + feed(h))
        torch.testing.assert_close(block(x), expected)
