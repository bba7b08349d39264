"""Weights from and to the models that transformers ships, so that trust can come from numbers.

    python -m modeling.conversion gpt2 runs/gpt2                     # a Hub id or folder, as an Ozymandias checkpoint
    python -m modeling.conversion runs/mine/best runs/mine/llama     # and back, as its native class

`families.py` says what is the same as what.
"""

import argparse
import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from .configuration_ozymandias import OzymandiasConfig
from .families import FAMILIES
from .families import Family
from .families import Weights
from .modeling_ozymandias import OzymandiasForCausalLM


def from_transformers(model: PreTrainedModel) -> OzymandiasForCausalLM:
    """An Ozymandias model with the architecture and weights of a GPT-2, Llama, Mixtral or Qwen3 of transformers.

    Raises:
        ValueError: a model of another family, or one with an option that Ozymandias does not have.
    """
    family = FAMILIES.get(model.config.model_type)
    if family is None or not isinstance(model, family.native):
        known = ", ".join(f.native.__name__ for f in FAMILIES.values())
        raise ValueError(f"{type(model).__name__} cannot be converted; give one of {known}.")
    config = family.from_config(model.config)
    return with_weights(OzymandiasForCausalLM, config, family.from_weights(model.state_dict(), config), model)


def to_transformers(model: OzymandiasForCausalLM) -> PreTrainedModel:
    """The same model as the native class of transformers that can express its config, which needs no remote code.

    Raises:
        ValueError: no native class can; the message says which option stands in the way of each.
    """
    reasons = []
    for name, family in FAMILIES.items():
        obstacles = list_obstacles(family, model.config)
        if not obstacles:
            config = family.to_config(model.config)
            return with_weights(family.native, config, family.to_weights(model.state_dict(), model.config), model)
        reasons.append(f"{name} by {', '.join(obstacles)}")
    raise ValueError(f"No native class can express this config: {'; '.join(reasons)}.")


def list_obstacles(family: Family, config: OzymandiasConfig) -> list[str]:
    """The fields of a config that a family's native class cannot express, with their values."""
    wanted = {name: value(config) if callable(value) else value for name, value in family.shape.items()}
    return [f"{name}={getattr(config, name)!r}" for name, value in wanted.items() if getattr(config, name) != value]


def with_weights(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, weights: Weights, source: PreTrainedModel
) -> PreTrainedModel:
    """A model of a class with exactly these weights, in the type, on the device and in the mode of `source`."""
    model = model_class._from_config(config, dtype=source.dtype)
    if config.tie_word_embeddings:
        weights = {name: w for name, w in weights.items() if name != "lm_head.weight"}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    missing = [name for name in missing if not (config.tie_word_embeddings and name == "lm_head.weight")]
    wrong = missing + unexpected
    assert not wrong, f"the conversion left these weights out, or made them up: {wrong}"
    model.generation_config = source.generation_config
    return model.to(source.device).train(source.training)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a folder or Hub id")
    parser.add_argument("target", type=Path, help="the folder to write; it must be empty or not there")
    arguments = parser.parse_args()
    if arguments.target.exists() and any(arguments.target.iterdir()):
        sys.exit(f"error: {arguments.target} is not empty; give another folder.")
    try:
        model = AutoModelForCausalLM.from_pretrained(arguments.source)
        convert = to_transformers if isinstance(model, OzymandiasForCausalLM) else from_transformers
        converted = convert(model)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {arguments.source} cannot be converted: {' '.join(str(error).split())}")
    converted.save_pretrained(arguments.target)
    AutoTokenizer.from_pretrained(arguments.source).save_pretrained(arguments.target)
    print(f"{type(model).__name__} to {type(converted).__name__}: {arguments.target}")


if __name__ == "__main__":
    main()
