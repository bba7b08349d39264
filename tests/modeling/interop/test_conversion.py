"""Numerical parity with the models of transformers and torch, in both directions."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BertConfig, GPT2Config, LlamaConfig, MixtralConfig, Qwen3Config

from modeling import OzymandiasForCausalLM, OzymandiasForConditionalGeneration, preset_config
from modeling.interop.conversion import from_transformers, to_transformers
from modeling.interop.families import FAMILIES
from tests.forks import run_forked
from tokenizer import build_character_tokenizer

SMALL = {"vocab_size": 61, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = {**SMALL, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 6}
BERT = {**SMALL, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 6}
MIXTRAL = {**LLAMA, "num_key_value_heads": 2, "head_dim": 8, "num_local_experts": 4, "max_position_embeddings": 64}
NATIVE = {
    "bert": BertConfig(**BERT, max_position_embeddings=64),
    "bert-untied-relu": BertConfig(**BERT, type_vocab_size=3, hidden_act="relu", tie_word_embeddings=False),
    "gpt2": GPT2Config(**SMALL, n_embd=48, n_layer=3, n_head=6, n_positions=64),
    "gpt2-untied-relu": GPT2Config(
        **SMALL, n_embd=48, n_layer=2, n_head=4, n_inner=100, activation_function="relu", tie_word_embeddings=False
    ),
    "llama": LlamaConfig(**LLAMA, num_key_value_heads=2, max_position_embeddings=64),
    "llama-biased-tied-llama3-rope": LlamaConfig(
        **LLAMA,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
    "llama-yarn": LlamaConfig(
        **LLAMA,
        max_position_embeddings=128,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
    "mixtral": MixtralConfig(**MIXTRAL),
    "qwen3": Qwen3Config(
        **LLAMA, num_key_value_heads=1, head_dim=16, rope_parameters={"rope_type": "default", "rope_theta": 1e6}
    ),
}
families = pytest.mark.parametrize("name", NATIVE)
decoders = pytest.mark.parametrize("name", [name for name in NATIVE if "bert" not in name])


def native(name: str):
    """A model with weights large enough that every part of it affects the logits."""
    config = NATIVE[name]
    torch.manual_seed(0)
    model = FAMILIES[config.model_type].native(config).eval()
    with torch.no_grad():
        for parameter, weight in model.named_parameters():
            centre = 1.0 if weight.ndim == 1 and "weight" in parameter else 0.0
            weight.normal_(centre, 0.2)
    return model


def padded_batch() -> dict:
    ids = torch.randint(3, 61, (3, 20), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :7] = 0
    mask[2, :13] = 0
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}


def difference(one, other, batch: dict) -> float:
    seen = batch["attention_mask"].bool()
    with torch.no_grad():
        return float((one(**batch).logits[seen] - other(**batch).logits[seen]).abs().max())


@families
def test_logits_are_the_natives(name):
    theirs = native(name)
    largest = difference(theirs, from_transformers(theirs), padded_batch())
    print(f"{name}: largest difference {largest:.2e}")
    assert largest < 1e-5


@pytest.mark.parametrize("name", ["bert", "bert-untied-relu"])
def test_segments_and_masked_loss_are_berts(name):
    theirs = native(name)
    ours = from_transformers(theirs)
    batch = {name: value.flip(1) for name, value in padded_batch().items() if name != "position_ids"}
    batch["token_type_ids"] = torch.arange(20).expand(3, 20) // 10
    assert difference(theirs, ours, batch) < 1e-5
    labels = batch["input_ids"].masked_fill(torch.arange(20) % 3 > 0, -100)
    torch.testing.assert_close(theirs(**batch, labels=labels).loss, ours(**batch, labels=labels).loss)


@decoders
def test_greedy_text_is_the_natives(name):
    theirs = native(name)
    ours = from_transformers(theirs)
    batch = padded_batch()
    del batch["position_ids"]
    settings = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None}
    assert torch.equal(theirs.generate(**batch, **settings), ours.generate(**batch, **settings))


@families
def test_round_trip_keeps_weights_and_logits(name):
    theirs = native(name)
    ours = from_transformers(theirs)
    back = to_transformers(ours)
    assert type(back) is type(theirs)
    one, other = theirs.state_dict(), back.state_dict()
    assert one.keys() == other.keys()
    # An untied BERT has a second output bias, which nothing reads.
    assert all(torch.equal(one[key], other[key]) for key in one.keys() - {"cls.predictions.bias"})
    again = from_transformers(back)
    assert {**again.config.to_dict(), "dtype": None} == {**ours.config.to_dict(), "dtype": None}
    assert difference(again, ours, padded_batch()) == 0


TORCH = {
    "2017": {},
    "pre-norm": {"norm_first": True},
    "gelu-one-encoder-layer": {"activation": "gelu", "num_encoder_layers": 1, "layer_norm_eps": 1e-6},
}


def torch_transformer(name: str) -> nn.Transformer:
    torch.manual_seed(0)
    sizes = {"d_model": 48, "nhead": 6, "num_encoder_layers": 3, "num_decoder_layers": 2, "dim_feedforward": 80}
    module = nn.Transformer(**{**sizes, **TORCH[name]}, batch_first=True).eval()
    with torch.no_grad():
        for parameter, weight in module.named_parameters():
            weight.normal_(1.0 if "norm" in parameter and "weight" in parameter else 0.0, 0.2)
    return module


@pytest.mark.parametrize("name", TORCH)
def test_vectors_and_greedy_tokens_are_those_of_torch(name):
    theirs = torch_transformer(name)
    ours = from_transformers(theirs)
    torch.manual_seed(1)
    source, target = torch.randn(3, 20, 48), torch.randn(3, 12, 48)
    hidden, later = padded_batch()["attention_mask"].flip(1) == 0, torch.ones(12, 12, dtype=torch.bool).triu(1)
    masks = {"src_key_padding_mask": hidden, "memory_key_padding_mask": hidden, "tgt_mask": later}
    with torch.no_grad():
        expected = theirs(source, target, **masks)
        got = ours(inputs_embeds=source, attention_mask=(~hidden).long(), decoder_inputs_embeds=target).logits
    largest = float((expected - got).abs().max())
    print(f"torch.nn.Transformer, {name}: largest difference {largest:.2e}")
    assert largest < 1e-5

    # Tokens are unit vectors; the likeliest next one is the largest of the output.
    tokens = torch.randint(48, (3, 20))
    written = torch.zeros(3, 1, dtype=torch.long)
    vectors = torch.eye(48)
    with torch.no_grad():
        for _ in range(15):
            later = torch.ones(written.shape[1], written.shape[1], dtype=torch.bool).triu(1)
            output = theirs(vectors[tokens], vectors[written], **{**masks, "tgt_mask": later})
            written = torch.cat((written, output[:, -1:].argmax(-1)), 1)
    settings = {"max_new_tokens": 15, "do_sample": False, "decoder_start_token_id": 0, "eos_token_id": None}
    assert torch.equal(ours.generate(tokens, attention_mask=(~hidden).long(), **settings), written)


@pytest.mark.parametrize("name", TORCH)
def test_round_trip_through_torch_keeps_weights(name):
    theirs = torch_transformer(name)
    ours = from_transformers(theirs)
    back = to_transformers(ours)
    assert all(torch.equal(w, back.state_dict()[key]) for key, w in theirs.state_dict().items())
    again = from_transformers(back)
    assert all(torch.equal(w, again.state_dict()[key]) for key, w in ours.state_dict().items())
    assert {**again.config.to_dict(), "dtype": None} == {**ours.config.to_dict(), "dtype": None}


def test_what_torch_cannot_express_or_we_cannot_take_is_said():
    with pytest.raises(ValueError, match="bias=False"):
        from_transformers(nn.Transformer(8, 2, 1, 1, 16, bias=False, batch_first=True))
    with pytest.raises(ValueError, match="silu"):
        from_transformers(nn.Transformer(8, 2, 1, 1, 16, activation=nn.functional.silu, batch_first=True))
    fields = {"vocab_size": 20, "bos_token_id": 0, "is_encoder_decoder": True}
    with pytest.raises(ValueError, match=r"torch\.nn\.Transformer by position_type='rotary'"):
        to_transformers(OzymandiasForConditionalGeneration(preset_config("modern", **fields)))
    ours = from_transformers(torch_transformer("2017"))
    ours.get_input_embeddings().weight.data[0, 0] = 2
    with pytest.raises(ValueError, match="not the identity"):
        to_transformers(ours)


def test_trained_architectures_of_ours_run_without_our_code(tmp_path):
    """A checkpoint exported as Llama or Qwen3 gives the same logits in transformers alone."""
    tokenizer = build_character_tokenizer("the moon upon the water")
    fields = {"feed_forward_type": "gated", "hidden_act": "silu", "vocab_size": len(tokenizer), "pad_token_id": 2}
    for qk_norm, name in ((False, "LlamaForCausalLM"), (True, "Qwen3ForCausalLM")):
        torch.manual_seed(0)
        model = OzymandiasForCausalLM(preset_config("modern", use_qk_norm=qk_norm, **fields)).eval()
        model.save_pretrained(tmp_path / "ours")
        tokenizer.save_pretrained(tmp_path / "ours")
        said = run_forked("-m", "modeling.interop.conversion", tmp_path / "ours", tmp_path / name).stdout
        assert name in said
        torch.save(model(**tokenizer("the moon", return_tensors="pt")).logits, tmp_path / "logits.pt")
        run_forked(
            "-c",
            f"""
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = {str(tmp_path / name)!r}
model = AutoModelForCausalLM.from_pretrained(folder)
assert type(model).__name__ == {name!r}
inputs = AutoTokenizer.from_pretrained(folder)("the moon", return_tensors="pt")
expected = torch.load({str(tmp_path / "logits.pt")!r})
assert (model(**inputs).logits - expected).abs().max() < 1e-5
assert "modeling" not in sys.modules
""",
        )
        back = run_forked("-m", "modeling.interop.conversion", tmp_path / name, tmp_path / f"{name}-back").stdout
        assert "OzymandiasForCausalLM" in back
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / f"{name}-back").eval()
        logits = loaded(**tokenizer("the moon", return_tensors="pt")).logits
        assert torch.equal(logits, model(**tokenizer("the moon", return_tensors="pt")).logits)


@pytest.mark.parametrize("preset", ["bigram", "single-head", "gpt"])
def test_what_no_native_class_expresses_is_told_by_option(preset):
    model = OzymandiasForCausalLM(preset_config(preset, vocab_size=20))
    with pytest.raises(ValueError, match=r"gpt2 by .*attention_bias=False.*llama by .*position_type"):
        to_transformers(model)


def test_options_that_we_do_not_have_are_refused_by_name():
    config = Qwen3Config(**LLAMA, head_dim=8, use_sliding_window=True, sliding_window=4, max_window_layers=0)
    sliding = FAMILIES["qwen3"].native(config)
    with pytest.raises(ValueError, match="use_sliding_window=True of qwen3"):
        from_transformers(sliding)
    config = GPT2Config(**SMALL, n_embd=8, n_layer=1, n_head=1, scale_attn_by_inverse_layer_idx=True)
    scaled = FAMILIES["gpt2"].native(config)
    with pytest.raises(ValueError, match="scale_attn_by_inverse_layer_idx"):
        from_transformers(scaled)
    with pytest.raises(ValueError, match="OzymandiasForCausalLM cannot be converted"):
        from_transformers(OzymandiasForCausalLM(preset_config("gpt", vocab_size=20)))


def test_mixtures_balance_their_load_as_mixtral_does(monkeypatch):
    """With one layer: Mixtral pools the experts of several layers before it measures their balance."""
    monkeypatch.setitem(NATIVE, "mixtral", MixtralConfig(**{**MIXTRAL, "num_hidden_layers": 1}))
    theirs = native("mixtral")
    ours = from_transformers(theirs)
    batch = padded_batch()
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    one, other = (model(**batch, labels=labels, output_router_logits=True) for model in (theirs, ours))
    torch.testing.assert_close(one.aux_loss, other.aux_loss)
    torch.testing.assert_close(one.loss, other.loss)
    for a, b in zip(one.router_logits, other.router_logits, strict=True):
        torch.testing.assert_close(a, b)
