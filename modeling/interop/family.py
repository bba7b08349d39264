"""What describes a family of native models, and the helpers that every family uses."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ..configuration_ozymandias import OzymandiasConfig

Weights = dict[str, torch.Tensor]

# Fields with the same name and meaning in every family.
TOKENS = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")
SHARED = (*TOKENS, "initializer_range", "tie_word_embeddings", "use_cache")
# The part of the shape that every native decoder has in common.
DECODER = {
    "is_causal": True,
    "is_encoder_decoder": False,
    "use_final_norm": True,
    "use_embedding_norm": False,
    "type_vocab_size": 0,
}


@dataclass(frozen=True)
class Family:
    """How one native architecture maps to Ozymandias and back.

    `shape` holds the values that an Ozymandias config needs for the native class to express it, or functions of the
    config that compute them. `from_weights` and `to_weights` take a state dictionary and the Ozymandias config.
    """

    native: type[PreTrainedModel]
    shape: dict
    from_config: Callable[[PreTrainedConfig], OzymandiasConfig]
    to_config: Callable[[OzymandiasConfig], PreTrainedConfig]
    from_weights: Callable[[Weights, OzymandiasConfig], Weights]
    to_weights: Callable[[Weights, OzymandiasConfig], Weights]


def pick(config: PreTrainedConfig, names: tuple[str, ...]) -> dict:
    return {name: getattr(config, name) for name in names}


def refuse(config: PreTrainedConfig, **expected) -> None:
    """Refuse a native config that uses an option which Ozymandias lacks."""
    for name, value in expected.items():
        if getattr(config, name) != value:
            raise ValueError(
                f"{name}={getattr(config, name)!r} of {config.model_type} cannot be converted, only {value!r} can."
            )


def list_obstacles(shape: dict, config: OzymandiasConfig) -> list[str]:
    """The fields of a config that differ from a native class's shape, with their values."""
    required = {name: value(config) if callable(value) else value for name, value in shape.items()}
    return [f"{name}={getattr(config, name)!r}" for name, value in required.items() if getattr(config, name) != value]


def rename(weights: Weights, pairs) -> Weights:
    renamed = {}
    for name, weight in weights.items():
        for old, new in pairs:
            name = name.replace(old, new)
        renamed[name] = weight
    return renamed
