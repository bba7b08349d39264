import pytest

from modeling import PRESETS, OzymandiasConfig, preset_config
from modeling.configuration_ozymandias import MIXTURE_FIELDS


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hiden_size": 64}, ["hiden_size"]),
        ({"num_attention_heads": 3}, ["128", "3", "num_attention_heads"]),
        ({"num_attention_heads": 0}, ["num_attention_heads", "0"]),
        ({"num_key_value_heads": 3}, ["4", "3", "num_key_value_heads"]),
        ({"num_key_value_heads": 0}, ["num_key_value_heads"]),
        ({"norm_type": "batch_norm"}, ["batch_norm", "rms_norm"]),
        ({"position_type": "alibi"}, ["alibi", "rotary"]),
        ({"feed_forward_type": "maxout"}, ["maxout", "gated"]),
        ({"feed_forward_type": "moe", "num_experts_per_tok": 9}, ["9", "8"]),
        ({"output_router_logits": True}, ["output_router_logits", "mlp"]),
        ({"hidden_act": "tanh"}, ["tanh", "relu2"]),
        ({"position_type": "rotary", "head_dim": 31}, ["31", "even"]),
        ({"rope_parameters": {"rope_theta": 1e4}}, ["rope_parameters", "learned"]),
        ({"norm_type": "none", "use_qk_norm": True}, ["use_qk_norm"]),
        ({"norm_type": "none", "norm_placement": "post"}, ["norm_placement"]),
        ({"norm_placement": "middle"}, ["middle", "post"]),
        ({"position_type": "sinusoidal", "hidden_size": 5, "num_attention_heads": 1}, ["5", "even"]),
        ({"sliding_window": 0}, ["sliding_window", "0"]),
        ({"layer_types": ["full_attention"]}, ["full_attention", "4 layers"]),
        ({"layer_types": ["sliding_attention"] * 4}, ["sliding_attention", "None"]),
        ({"layer_types": ["full_attention"] * 4, "sliding_window": 3}, ["full_attention", "3"]),
        ({"final_logit_softcapping": 0}, ["final_logit_softcapping", "0"]),
        ({"hidden_dropout": 1.0}, ["hidden_dropout", "1.0"]),
        ({"is_causal": False, "is_encoder_decoder": True, "bos_token_id": 0}, ["is_causal"]),
        ({"is_causal": False, "add_cross_attention": True}, ["is_causal", "cross-attention"]),
        ({"num_encoder_layers": 2}, ["num_encoder_layers", "2", "is_encoder_decoder"]),
        ({"is_encoder_decoder": True, "tie_word_embeddings": False}, ["tie_word_embeddings"]),
        ({"is_encoder_decoder": True, "sliding_window": 4}, ["sliding_window", "4"]),
        ({"is_encoder_decoder": True, "type_vocab_size": 2}, ["type_vocab_size", "2"]),
        ({"is_encoder_decoder": True, "feed_forward_type": "moe"}, ["moe"]),
        ({"is_causal": False, "feed_forward_type": "moe"}, ["moe"]),
        ({"norm_type": "none", "use_embedding_norm": True}, ["use_embedding_norm"]),
        ({"type_vocab_size": -1}, ["type_vocab_size", "-1"]),
        ({"vocab_size": 0}, ["vocab_size", "0"]),
        ({"num_hidden_layers": -1}, ["num_hidden_layers", "-1"]),
        ({"max_position_embeddings": 0}, ["max_position_embeddings", "0"]),
    ],
)
def test_impossible_config_is_refused_by_field_and_value(fields, words):
    with pytest.raises(ValueError, match=words[0]) as refusal:
        OzymandiasConfig(**fields)
    assert all(word in str(refusal.value) for word in words), str(refusal.value)


def test_wrong_type_is_refused():
    with pytest.raises(Exception, match="hidden_size"):
        OzymandiasConfig(hidden_size="wide")


@pytest.mark.parametrize("preset", PRESETS)
def test_config_survives_save_and_load(preset, tmp_path):
    config = preset_config(preset, vocab_size=50)
    config.save_pretrained(tmp_path)
    loaded = OzymandiasConfig.from_pretrained(tmp_path)
    assert {**loaded.to_dict(), "auto_map": None} == {**config.to_dict(), "auto_map": None}


def test_changed_config_is_checked_again_when_saved(tmp_path):
    config = OzymandiasConfig()
    config.num_key_value_heads = 3
    with pytest.raises(Exception, match="num_key_value_heads"):
        config.save_pretrained(tmp_path)


def test_feed_forwards_have_the_same_number_of_weights():
    assert OzymandiasConfig(hidden_size=128).intermediate_size == 512
    assert OzymandiasConfig(hidden_size=128, feed_forward_type="gated").intermediate_size == 344
    assert OzymandiasConfig(hidden_size=96, feed_forward_type="gated").intermediate_size == 256


def test_unknown_preset_names_the_known():
    with pytest.raises(ValueError, match="single-head"):
        preset_config("quad-head")


def test_only_a_mixture_has_the_fields_of_a_mixture():
    """Tools such as TRL call `hasattr`, and treat every model whose config has these fields as a mixture."""
    dense, mixture = OzymandiasConfig(), OzymandiasConfig(feed_forward_type="moe", num_local_experts=4)
    for name, default in {**MIXTURE_FIELDS, "num_local_experts": 4}.items():
        assert not hasattr(dense, name)
        assert name not in dense.to_dict()
        assert getattr(mixture, name) == default
        assert OzymandiasConfig(**mixture.to_dict()).to_dict() == mixture.to_dict()
    # Configs of dense models that were published earlier have the defaults.
    assert OzymandiasConfig(**MIXTURE_FIELDS).to_dict() == dense.to_dict()
    with pytest.raises(ValueError, match=r"num_local_experts.*moe"):
        OzymandiasConfig(num_local_experts=4)
