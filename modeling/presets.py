"""Five steps from a bigram to a modern transformer. Each is the same class with another config.

All share a context of 64 tokens and a width of 128, so each step shows what one idea adds.
"""

from .configuration_ozymandias import OzymandiasConfig

PRESETS = {
    # The next token depends only on the last one: the product of two matrices is the table of all pairs.
    "bigram": {
        "num_hidden_layers": 0,
        "position_type": "none",
        "norm_type": "none",
        "tie_word_embeddings": False,
    },
    # One attention head looks back over the context. Its output replaces the token: there is no residual stream yet.
    "single-head": {
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "feed_forward_type": "none",
        "norm_type": "none",
        "use_residual": False,
        "tie_word_embeddings": False,
    },
    # The same width in four heads, which can look at four places at once.
    "multi-head": {
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "feed_forward_type": "none",
        "norm_type": "none",
        "use_residual": False,
        "tie_word_embeddings": False,
    },
    # Four blocks with feed-forward, residual stream and LayerNorm: a small GPT-2.
    "gpt": {
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "feed_forward_type": "mlp",
        "hidden_act": "gelu",
        "norm_type": "layer_norm",
    },
    # What later models changed for the better.
    "modern": {
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "feed_forward_type": "gated",
        "hidden_act": "silu",
        "position_type": "rotary",
        "norm_type": "rms_norm",
        "use_qk_norm": True,
    },
}


def preset_config(preset: str, **overrides) -> OzymandiasConfig:
    """The config of a preset, with any field changed: `preset_config("gpt", vocab_size=96, hidden_size=256)`.

    Raises:
        ValueError: the preset is unknown, or [`OzymandiasConfig`] refuses a field.
    """
    if preset not in PRESETS:
        raise ValueError(f"There is no preset {preset!r}; choose one of {', '.join(PRESETS)}.")
    return OzymandiasConfig(**{**PRESETS[preset], **overrides})
