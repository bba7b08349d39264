"""What users of transformers expect from a decoder, for every preset."""

import copy
import math

import pytest
import torch
import transformers
from packaging.version import Version
from torch import nn
from transformers import AutoModelForCausalLM, DynamicCache

from modeling import PRESETS, OzymandiasConfig, OzymandiasForCausalLM, preset_config
from modeling.feed_forward import FEED_FORWARDS, GatedMLP
from modeling.normalization import NORMS, Norm
from tests.conftest import VOCAB, ids, random_model

presets = pytest.mark.parametrize("preset", PRESETS)
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def build(preset: str, implementation: str = "sdpa", **fields) -> OzymandiasForCausalLM:
    """A model whose weights are all random and large enough to tell right from wrong."""
    config = preset_config(preset, vocab_size=VOCAB, bos_token_id=0, eos_token_id=1, pad_token_id=2, **fields)
    return random_model(config, implementation)


@presets
def test_loss_starts_near_the_logarithm_of_the_vocabulary(preset):
    torch.manual_seed(0)
    model = OzymandiasForCausalLM(preset_config(preset, vocab_size=VOCAB))
    loss = model(ids(8, 64), labels=ids(8, 64)).loss.detach()
    assert abs(float(loss) - math.log(VOCAB)) < 0.15


@presets
def test_every_parameter_learns(preset):
    model = build(preset).train()
    model(ids(2, 20), labels=ids(2, 20)).loss.backward()
    # A key bias would get no gradient, because a softmax ignores what is added to all scores; the presets have none.
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@presets
def test_eager_equals_sdpa_also_with_padding(preset):
    eager, sdpa = build(preset, "eager"), build(preset, "sdpa")
    x, mask = ids(2, 12), torch.ones(2, 12, dtype=torch.long)
    mask[1, :5] = 0
    for attention_mask in (None, mask):
        one, other = eager(x, attention_mask=attention_mask), sdpa(x, attention_mask=attention_mask)
        seen = mask.bool() if attention_mask is not None else torch.ones(2, 12, dtype=torch.bool)
        torch.testing.assert_close(one.logits[seen], other.logits[seen], **CLOSE)


@presets
def test_no_position_sees_what_comes_after_it(preset):
    model = build(preset)
    x = ids(1, 20)
    changed = x.clone()
    changed[0, 12:] = ids(8, seed=9)
    torch.testing.assert_close(model(x).logits[:, :12], model(changed).logits[:, :12], **CLOSE)


@presets
def test_cached_equals_uncached(preset):
    """Token by token with a cache that begins empty. An empty cache is falsy, and was once mistaken for no cache."""
    model = build(preset)
    x = ids(2, 15)
    cache = DynamicCache(config=model.config)
    steps = [model(x[:, t : t + 1], past_key_values=cache, use_cache=True).logits for t in range(15)]
    torch.testing.assert_close(torch.cat(steps, 1), model(x, use_cache=False).logits, **CLOSE)


@presets
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"cache_implementation": "static"}])
def test_generation_is_the_same_with_and_without_cache(preset, options):
    model = build(preset)
    settings = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None}
    uncached = model.generate(
        ids(2, 6), use_cache=False, **settings, **{k: options[k] for k in options if "beams" in k}
    )
    cached = model.generate(ids(2, 6), **settings, **options)
    assert cached.shape == (2, 26)
    assert torch.equal(cached, uncached)


@presets
def test_left_padding_changes_nothing(preset):
    model = build(preset)
    long, short = ids(1, 12), ids(1, 7, seed=5)
    padded = torch.cat((long, torch.cat((torch.full((1, 5), 2), short), 1)))
    mask = (padded != 2).long()
    settings = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None}
    together = model.generate(padded, attention_mask=mask, **settings)
    assert torch.equal(together[:1], model.generate(long, **settings))
    assert torch.equal(together[1:, 5:], model.generate(short, **settings))


@presets
def test_recorded_outputs(preset):
    model = build(preset, "eager")
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads
    outputs = model(ids(2, 9), output_hidden_states=True, output_attentions=True)
    assert [tuple(h.shape) for h in outputs.hidden_states] == [(2, 9, 128)] * (layers + 1)
    assert [tuple(a.shape) for a in outputs.attentions] == [(2, heads, 9, 9)] * layers
    for weights in outputs.attentions:
        assert weights.triu(1).abs().max() == 0
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, heads, 9))
    torch.testing.assert_close(model.lm_head(outputs.hidden_states[-1]), outputs.logits)


@presets
def test_tuple_output(preset):
    model = build(preset)
    x = ids(1, 5)
    as_tuple, as_dict = model(x, labels=x, return_dict=False), model(x, labels=x)
    torch.testing.assert_close(as_tuple[0], as_dict.loss)
    torch.testing.assert_close(as_tuple[1], as_dict.logits)


@presets
def test_inputs_embeds_and_logits_to_keep(preset):
    model = build(preset)
    x = ids(2, 9)
    logits = model(x).logits
    torch.testing.assert_close(model(inputs_embeds=model.get_input_embeddings()(x)).logits, logits, **CLOSE)
    torch.testing.assert_close(model(x, logits_to_keep=3).logits, logits[:, -3:], **CLOSE)
    torch.testing.assert_close(model(x, logits_to_keep=torch.tensor([0, 4])).logits, logits[:, [0, 4]], **CLOSE)
    with pytest.raises(ValueError, match="exactly one"):
        model()


@presets
def test_saved_and_loaded(preset, tmp_path):
    model = build(preset)
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(loaded.eval()(ids(1, 8)).logits, model(ids(1, 8)).logits)
    tied = loaded.lm_head.weight.data_ptr() == loaded.model.embed_tokens.weight.data_ptr()
    assert tied == model.config.tie_word_embeddings


@presets
def test_gradient_checkpointing_gives_the_same_gradients(preset):
    plain, checkpointed = build(preset).train(), build(preset).train()
    checkpointed.gradient_checkpointing_enable()
    for model in (plain, checkpointed):
        model(ids(2, 10), labels=ids(2, 10)).loss.backward()
    for one, other in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_loss_is_weighted_by_token_not_by_part():
    """With `num_items_in_batch`, unequal micro-batches give the gradients of one batch (transformers#37766)."""
    whole, parts = build("modern").train(), build("modern").train()
    x = ids(4, 20)
    labels = x.clone()
    labels[0, :15] = -100
    labels[2, :8] = -100
    targets = int((labels[:, 1:] != -100).sum())
    whole(x, labels=labels).loss.backward()
    for row in range(4):
        parts(x[row : row + 1], labels=labels[row : row + 1], num_items_in_batch=targets).loss.backward()
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4)


def test_bigram_knows_the_last_token_alone():
    model = build("bigram")
    one, other = ids(1, 9), ids(1, 9, seed=8)
    other[0, -1] = one[0, -1]
    assert torch.equal(model(one).logits[0, -1], model(other).logits[0, -1])


@pytest.mark.parametrize("use_cache", [True, False])
def test_past_learned_positions_is_a_clear_error(use_cache):
    model = build("gpt")
    with pytest.raises(ValueError, match=r"65 tokens.*64 learned positions.*max_position_embeddings"):
        model.generate(ids(1, 60), max_new_tokens=10, do_sample=False, use_cache=use_cache, eos_token_id=None)
    # Padding takes no position, so a padded row can be longer than the table.
    mask = torch.ones(1, 70, dtype=torch.long)
    mask[0, :10] = 0
    position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
    assert model(ids(1, 70), attention_mask=mask, position_ids=position_ids).logits.shape == (1, 70, VOCAB)


def test_past_the_context_rotary_goes_on():
    model = build("modern")
    output = model.generate(ids(1, 60), max_new_tokens=20, do_sample=False, eos_token_id=None)
    assert output.shape == (1, 80)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_fewer_key_value_heads_are_the_same_heads_repeated(kv_heads):
    shared = build("modern", num_key_value_heads=kv_heads)
    full = build("modern", num_key_value_heads=4)
    full.load_state_dict(
        shared.state_dict() | {n: p for n, p in full.state_dict().items() if ".k_proj" in n or ".v_proj" in n}
    )
    for one, other in zip(shared.model.layers, full.model.layers, strict=True):
        for name in ("k_proj", "v_proj"):
            weight = getattr(one.attention, name).weight.view(kv_heads, -1, 128)
            repeated = weight.repeat_interleave(4 // kv_heads, 0).reshape(-1, 128)
            getattr(other.attention, name).weight.data.copy_(repeated)
    torch.testing.assert_close(shared(ids(1, 9)).logits, full(ids(1, 9)).logits, **CLOSE)


@pytest.mark.parametrize("preset", ["bigram", "gpt", "modern"])
def test_resized_embeddings(preset):
    model = build(preset)
    before = model(ids(1, 5)).logits
    model.resize_token_embeddings(VOCAB + 7)
    after = model(ids(1, 5)).logits
    assert after.shape[-1] == VOCAB + 7
    torch.testing.assert_close(after[..., :VOCAB], before, **CLOSE)


def test_dropout_is_off_in_evaluation_and_on_in_training():
    model = build("modern", hidden_dropout=0.3, attention_dropout=0.3)
    assert torch.equal(model(ids(1, 9)).logits, model(ids(1, 9)).logits)
    model.train()
    assert not torch.equal(model(ids(1, 9)).logits, model(ids(1, 9)).logits)


def test_matrices_into_the_residual_stream_begin_small():
    gpt = OzymandiasForCausalLM(preset_config("gpt", vocab_size=VOCAB, hidden_size=256)).requires_grad_(False)
    block = gpt.model.layers[0]
    assert abs(float(block.attention.q_proj.weight.std()) - 0.02) < 1e-3
    assert abs(float(block.feed_forward.down_proj.weight.std()) - 0.02 / 8**0.5) < 1e-3
    assert abs(float(block.attention.o_proj.weight.std()) - 0.02 / 8**0.5) < 1e-3


@pytest.mark.slow
def test_compiles_into_one_graph():
    model = build("modern")
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(ids(1, 16)).logits, model(ids(1, 16)).logits, **CLOSE)


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.24"), reason="older versions make a mask, at least 5.17"
)
def test_compiled_training_leaves_the_causal_mask_to_the_kernel():
    """A mask made in the graph cost sdpa its causal kernel, which computes half as much."""
    calls = []

    def look(graph, inputs):
        calls.extend(n for n in graph.graph.nodes if n.target is torch.nn.functional.scaled_dot_product_attention)
        return graph.forward

    torch.compile(build("modern"), fullgraph=True, backend=look)(ids(2, 16), labels=ids(2, 16), use_cache=False)
    assert [(call.kwargs["attn_mask"], call.kwargs["is_causal"]) for call in calls] == [(None, True)] * 4


OPTIONS = {
    "sinusoidal": {"position_type": "sinusoidal"},
    "post-norm": {"position_type": "learned", "norm_placement": "post", "norm_type": "layer_norm"},
    "sliding": {"sliding_window": 4},
    "sliding-and-full": {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "soft-capped": {"final_logit_softcapping": 3.0},
    "mixture": {"feed_forward_type": "moe", "num_local_experts": 4, "intermediate_size": 64},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_keeps_the_contract(option, tmp_path):
    """Eager equals sdpa, cached equals uncached, padded equals unpadded, saved equals loaded."""
    eager, model = build("modern", "eager", **OPTIONS[option]), build("modern", **OPTIONS[option])
    x = ids(2, 14)
    torch.testing.assert_close(eager(x).logits, model(x).logits, **CLOSE)
    cache = DynamicCache(config=model.config)
    steps = [model(x[:, t : t + 1], past_key_values=cache, use_cache=True).logits for t in range(14)]
    torch.testing.assert_close(torch.cat(steps, 1), model(x, use_cache=False).logits, **CLOSE)
    settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    plain = model.generate(x[:1], use_cache=False, **settings)
    assert torch.equal(model.generate(x[:1], **settings), plain)
    assert torch.equal(model.generate(x[:1], cache_implementation="static", **settings), plain)
    padded = torch.cat((torch.full((1, 3), 2), x[:1]), 1)
    assert torch.equal(model.generate(padded, attention_mask=(padded != 2).long(), **settings)[:, 3:], plain)
    model.save_pretrained(tmp_path)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path).eval()(x).logits, model(x).logits)
    model.train()
    model(x, labels=x).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


class HalfNorm(Norm):
    """`y = x / (1 + |x|) * weight + shift`: a norm as a reader would add it, with a parameter of its own."""

    def __init__(self, size: int, eps: float):
        super().__init__(size, eps)
        self.shift = nn.Parameter(torch.full((size,), 0.5))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.constant_(self.shift, 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x / (1 + x.abs()) + self.shift


class BilinearMLP(GatedMLP):
    """`down(gate(x) * up(x))`, the README's example of a new feed-forward."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.gate_proj(x) * self.up_proj(x))


@pytest.fixture
def additions(monkeypatch) -> dict:
    """The one line for each new part, and the fields that choose them."""
    monkeypatch.setitem(NORMS, "half", HalfNorm)
    monkeypatch.setitem(FEED_FORWARDS, "bilinear", BilinearMLP)
    return {"norm_type": "half", "feed_forward_type": "bilinear"}


def test_a_part_is_added_by_one_line(additions, tmp_path):
    model = build("modern", **additions)
    assert model.config.intermediate_size == 344  # three matrices, as many weights as an MLP's two
    torch.manual_seed(0)
    fresh = OzymandiasForCausalLM(model.config)
    block = fresh.model.layers[0]
    assert abs(float(block.feed_forward.down_proj.weight.std()) - 0.02 / 8**0.5) < 1e-3
    assert block.attention_norm.shift.unique().tolist() == [0.5]
    assert "HalfNorm(128, eps=1e-05)" in str(fresh)
    cached, plain = (model.generate(ids(1, 8), max_new_tokens=9, use_cache=use) for use in (True, False))
    assert torch.equal(cached, plain)
    model.save_pretrained(tmp_path)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path).eval()(ids(1, 8)).logits, model(ids(1, 8)).logits)
    model.train()(ids(2, 12), labels=ids(2, 12)).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_what_a_file_lacks_of_a_new_norm_is_initialised(additions, tmp_path):
    model = build("modern", **additions)
    weights = {name: weight for name, weight in model.state_dict().items() if "shift" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    norm = AutoModelForCausalLM.from_pretrained(tmp_path).model.norm
    assert norm.shift.unique().tolist() == [0.5]
    assert torch.equal(norm.weight, model.model.norm.weight)


def test_a_window_sees_as_far_as_it_says():
    model = build("modern", num_hidden_layers=1, sliding_window=4)
    one, other = ids(1, 12), ids(1, 12)
    other[0, 5] = one[0, 5] % 50 + 4
    differs = (model(one).logits - model(other).logits).abs().amax(-1)[0] > 1e-6
    assert differs.tolist() == [5 <= t < 9 for t in range(12)]


@pytest.mark.parametrize("options", [{}, {"num_items_in_batch": 100}], ids=["mean", "sum over a given number"])
def test_the_loss_without_logits_is_the_same_with_the_same_gradients(options):
    model = random_model(preset_config("modern", vocab_size=VOCAB, hidden_size=32, num_hidden_layers=1))
    batch = ids(3, 20)
    labels = batch.masked_fill(batch % 5 == 0, -100)

    def loss_and_gradients(**more):
        model.zero_grad()
        output = model(input_ids=batch, labels=labels, use_cache=False, **options, **more)
        output.loss.backward()
        return output, {name: p.grad.clone() for name, p in model.named_parameters()}

    full, expected = loss_and_gradients()
    skipped, gradients = loss_and_gradients(skip_logits=True)
    assert skipped.logits is None
    assert abs(skipped.loss - full.loss) < 1e-6 * full.loss.abs()
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).abs().max() < 1e-6, name


def test_a_loss_without_logits_needs_labels_and_no_soft_cap():
    config = preset_config("modern", vocab_size=VOCAB, hidden_size=32, final_logit_softcapping=20.0)
    for more in ({}, {"labels": ids(1, 4)}):
        with pytest.raises(ValueError, match="skip_logits needs labels"):
            random_model(config)(input_ids=ids(1, 4), skip_logits=True, **more)


def test_soft_cap_bounds_the_logits_and_keeps_their_order():
    capped, plain = build("modern", final_logit_softcapping=3.0), build("modern")
    x = ids(1, 9)
    assert capped(x).logits.abs().max() < 3
    torch.testing.assert_close(capped(x).logits, 3 * torch.tanh(plain(x).logits / 3))


def test_config_of_a_model_is_any_combination():
    """Each part is chosen by its own field, so a combination that no preset has works too."""
    config = OzymandiasConfig(
        vocab_size=VOCAB,
        position_type="rotary",
        norm_type="layer_norm",
        feed_forward_type="gated",
        hidden_act="silu",
        attention_bias=True,
        mlp_bias=True,
        num_key_value_heads=1,
        head_dim=16,
        tie_word_embeddings=False,
    )
    model = OzymandiasForCausalLM(config).eval()
    x = ids(2, 30)
    generated = model.generate(x, max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert torch.equal(
        generated, model.generate(x, max_new_tokens=5, do_sample=False, use_cache=False, eos_token_id=None)
    )
