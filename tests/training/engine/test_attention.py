"""Attention by chunks of queries equals the written-out one, in outputs and gradients, whatever it is given."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling import OzymandiasForCausalLM, preset_config
from tests.conftest import VOCAB, ids
from training.engine import attention
from training.engine.attention import CAUSAL_CHUNKS


def build(implementation: str, **fields) -> OzymandiasForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = OzymandiasForCausalLM(preset_config("modern", vocab_size=VOCAB, **sizes, **fields))
    model.set_attn_implementation(implementation)
    return model


@pytest.mark.parametrize("length", [1, 7, 8, 21])  # less than a chunk of 8, one, and two with a rest
@pytest.mark.parametrize("fields", [{}, {"sliding_window": 5}], ids=["full", "window"])
def test_chunks_give_the_eager_logits_and_gradients(monkeypatch, length, fields):
    monkeypatch.setattr(attention, "CHUNK", 8)
    batch, results = ids(3, length), []
    for implementation in (CAUSAL_CHUNKS, "eager"):
        model = build(implementation, **fields)
        logits = model(input_ids=batch).logits
        logits.square().sum().backward()
        results.append([logits, *(p.grad for p in model.parameters())])
    for chunked, eager in zip(*results, strict=True):
        torch.testing.assert_close(chunked, eager, rtol=1e-4, atol=1e-5)


def test_scores_after_the_chunk_are_not_computed(monkeypatch):
    monkeypatch.setattr(attention, "CHUNK", 8)
    with FlopCounterMode(display=False) as chunks:
        build(CAUSAL_CHUNKS)(input_ids=ids(1, 32))
    with FlopCounterMode(display=False) as eager:
        build("eager")(input_ids=ids(1, 32))
    operation = torch.ops.aten.bmm
    flops, all_flops = (c.get_flop_counts()["Global"][operation] for c in (chunks, eager))
    assert flops == all_flops * (8 + 16 + 24 + 32) / (4 * 32)


def test_padding_and_a_cache_are_respected(monkeypatch):
    monkeypatch.setattr(attention, "CHUNK", 8)
    batch = ids(2, 12)
    mask = torch.ones_like(batch)
    mask[0, :3] = 0
    chunked, eager = build(CAUSAL_CHUNKS).eval(), build("eager").eval()
    difference = chunked(input_ids=batch, attention_mask=mask).logits - eager(batch, attention_mask=mask).logits
    assert difference[mask.bool()].abs().max() < 1e-5
    written = [m.generate(batch, attention_mask=mask, max_new_tokens=6, do_sample=False) for m in (chunked, eager)]
    assert torch.equal(*written)


def test_dropout_drops_weights_in_training_alone():
    model = build(CAUSAL_CHUNKS, attention_dropout=0.5)
    batch = ids(2, 12)
    assert not torch.equal(model.train()(batch).logits, model(batch).logits)
    assert torch.equal(model.eval()(batch).logits, model(batch).logits)
