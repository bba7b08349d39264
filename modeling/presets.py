"""The evolution that the project tells, in five steps. Each is the same class with another config.

The first four share a context of 64 tokens, 128 dimensions and no tricks, so that each step shows one idea at work.
"""

from .configuration_ozymandias import OzymandiasConfig

PRESETS = {
    # The next token from the last one alone: the product of two matrices is the table of all pairs.
    "bigram": {
        "num_hidden_layers": 0,
        "position_type": "none",
        "norm_type": "none",
        "tie_word_embeddings": False,
    },
    # One head that looks back over the context. Its output replaces the token; there is nothing else yet.
    "single-head": {
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "feed_forward_type": "none",
        "norm_type": "none",
        "use_residual": False,
        "tie_word_embeddings": False,
    },
    # The same width in four heads, which can look at four things at once.
    "multi-head": {
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "feed_forward_type": "none",
        "norm_type": "none",
        "use_residual": False,
        "tie_word_embeddings": False,
    },
    # Four blocks with feed-forward, residual stream and LayerNorm: GPT-2 in small.
    "gpt": {
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "feed_forward_type": "mlp",
        "hidden_act": "gelu",
        "norm_type": "layer_norm",
    },
    # What has proved itself since.
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
        ValueError: an unknown preset, or what [`OzymandiasConfig`] refuses.
    """
    if preset not in PRESETS:
        raise ValueError(f"There is no preset {preset!r}; choose one of {', '.join(PRESETS)}.")
    return OzymandiasConfig(**{**PRESETS[preset], **overrides})
