"""The encoder: what users of transformers expect from a masked language model and from vectors of texts."""

import math

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM

from modeling import OzymandiasForCausalLM, OzymandiasForMaskedLM, OzymandiasModel, preset_config
from tests.conftest import VOCAB, ids, random_model

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
BERT = {"norm_placement": "post", "use_embedding_norm": True, "type_vocab_size": 2, "mlp_bias": True}
SHAPES = {
    "bert": ("gpt", BERT),
    "modern": ("modern", {}),
    "sliding": ("modern", {"sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"] * 2}),
}
shapes = pytest.mark.parametrize("shape", SHAPES)


def build(shape: str, implementation: str = "sdpa", **fields) -> OzymandiasForMaskedLM:
    preset, more = SHAPES[shape]
    config = preset_config(preset, vocab_size=VOCAB, pad_token_id=2, is_causal=False, **{**more, **fields})
    return random_model(config, implementation)


@shapes
def test_every_position_sees_what_comes_after_it(shape):
    model = build(shape)
    one, other = ids(1, 12), ids(1, 12)
    other[0, 11] = one[0, 11] % 50 + 4
    changed = (model(one).logits - model(other).logits).abs().amax(-1)[0] > 1e-6
    assert changed.all()


@shapes
def test_eager_equals_sdpa_also_with_padding(shape):
    eager, sdpa = build(shape, "eager"), build(shape)
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[1, 7:] = 0
    one, other = (model(ids(2, 12), attention_mask=mask).logits[mask.bool()] for model in (eager, sdpa))
    torch.testing.assert_close(one, other, **CLOSE)
    torch.testing.assert_close(other[12:], sdpa(ids(2, 12)[1:, :7]).logits[0], **CLOSE)


@shapes
def test_loss_is_of_the_masked_tokens_at_their_own_positions(shape):
    torch.manual_seed(0)
    fresh = OzymandiasForMaskedLM(build(shape).config)
    x = ids(8, 40)
    assert abs(float(fresh(x, labels=x).loss.detach()) - math.log(VOCAB)) < 0.2
    model = build(shape)
    labels = torch.full_like(x, -100)
    labels[:, 5] = x[:, 5]
    expected = torch.nn.functional.cross_entropy(model(x).logits[:, 5], x[:, 5])
    torch.testing.assert_close(model(x, labels=labels).loss, expected)


@shapes
def test_every_parameter_learns(shape):
    model = build(shape).train()
    model(ids(2, 20), labels=ids(2, 20), token_type_ids=ids(2, 20) % 2).loss.backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "k_proj.bias" not in n
    )


@shapes
def test_recorded_outputs(shape):
    outputs = build(shape, "eager")(ids(2, 9), output_hidden_states=True, output_attentions=True)
    assert [tuple(h.shape) for h in outputs.hidden_states] == [(2, 9, 128)] * 5
    assert [tuple(a.shape) for a in outputs.attentions] == [(2, 4, 9, 9)] * 4
    as_tuple = build(shape)(ids(2, 9), labels=ids(2, 9), return_dict=False)
    assert [tuple(part.shape) for part in as_tuple] == [(), (2, 9, VOCAB)]


@shapes
def test_saved_and_loaded(shape, tmp_path):
    model = build(shape)
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(loaded.eval()(ids(1, 8)).logits, model(ids(1, 8)).logits)
    vectors = AutoModel.from_pretrained(tmp_path).eval()
    assert isinstance(vectors, OzymandiasModel)
    expected = model.model(ids(1, 8)).last_hidden_state
    assert torch.equal(vectors(ids(1, 8)).last_hidden_state, expected)


def test_segments_are_told_apart_and_missing_ones_are_the_first():
    model = build("bert")
    x = ids(1, 9)
    assert torch.equal(model(x).logits, model(x, token_type_ids=torch.zeros_like(x)).logits)
    assert not torch.allclose(model(x).logits, model(x, token_type_ids=torch.ones_like(x)).logits)


def test_resized_embeddings():
    model = build("bert")
    before = model(ids(1, 5)).logits
    model.resize_token_embeddings(VOCAB + 7)
    after = model(ids(1, 5)).logits
    assert after.shape[-1] == VOCAB + 7
    torch.testing.assert_close(after[..., :VOCAB], before, **CLOSE)


def test_an_encoder_is_no_decoder_and_the_other_way_round():
    with pytest.raises(ValueError, match="AutoModelForMaskedLM"):
        OzymandiasForCausalLM(build("modern").config)
    with pytest.raises(ValueError, match="is_causal=False"):
        OzymandiasForMaskedLM(preset_config("gpt", vocab_size=20))
