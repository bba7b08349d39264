"""Convert models from and to the classes that transformers ships, so that their numbers can be compared.

    python -m modeling.interop.conversion gpt2 runs/gpt2                  # a Hub id or folder to Ozymandias
    python -m modeling.interop.conversion runs/mine/best runs/mine/llama  # and back, as its native class

`families.py` says which config fields and weights correspond.
"""

import argparse
import sys
from pathlib import Path

from torch import nn
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel

from ..backbone import OzymandiasPreTrainedModel
from ..loading import load_model
from ..modeling_ozymandias import model_class
from .families import FAMILIES
from .family import Weights, list_obstacles
from .sentencepiece_model import is_character_level, save_sentencepiece_model
from .torch_transformer import from_torch, to_torch


def from_transformers(model: PreTrainedModel | nn.Transformer) -> OzymandiasPreTrainedModel:
    """An Ozymandias model with the architecture and weights of a native one. Both give the same logits.

    Args:
        model: transformers' BERT (for masked LM), GPT-2, Llama, Mixtral or Qwen3, or a `torch.nn.Transformer`.

    Raises:
        ValueError: the model is of another family, or uses an option that Ozymandias lacks.
    """
    if isinstance(model, nn.Transformer):
        return from_torch(model)
    family = FAMILIES.get(model.config.model_type)
    if family is None or not isinstance(model, family.native):
        known = ", ".join(f.native.__name__ for f in FAMILIES.values())
        raise ValueError(f"{type(model).__name__} cannot be converted; give one of {known}, or a torch.nn.Transformer.")
    config = family.from_config(model.config)
    return with_weights(model_class(config), config, family.from_weights(model.state_dict(), config), model)


def to_transformers(model: OzymandiasPreTrainedModel) -> PreTrainedModel | nn.Transformer:
    """The same model as an instance of a native class, which loads without remote code.

    Raises:
        ValueError: no native class can express its config. The message names the options that prevent each.
    """
    if model.config.is_encoder_decoder:
        return to_torch(model)
    reasons = []
    for name, family in FAMILIES.items():
        obstacles = list_obstacles(family.shape, model.config)
        if not obstacles:
            config = family.to_config(model.config)
            return with_weights(family.native, config, family.to_weights(model.state_dict(), model.config), model)
        reasons.append(f"{name} by {', '.join(obstacles)}")
    raise ValueError(f"No native class can express this config: {'; '.join(reasons)}.")


def with_weights(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, weights: Weights, source: PreTrainedModel
) -> PreTrainedModel:
    """A `model_class` with exactly these weights, and with the dtype, device and mode of `source`."""
    model = model_class._from_config(config, dtype=source.dtype)
    model.load_state_dict(weights)
    if source.can_generate():
        model.generation_config = source.generation_config
    return model.to(source.device).train(source.training)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a folder or Hub id")
    parser.add_argument("target", type=Path, help="the folder to write; it must be empty or new")
    arguments = parser.parse_args()
    if arguments.target.exists() and any(arguments.target.iterdir()):
        sys.exit(f"error: {arguments.target} is not empty; give another folder.")
    try:
        model = load_model(arguments.source)
        converted = (to_transformers if isinstance(model, OzymandiasPreTrainedModel) else from_transformers)(model)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {arguments.source} cannot be converted: {' '.join(str(error).split())}")
    converted.save_pretrained(arguments.target)
    tokenizer = AutoTokenizer.from_pretrained(arguments.source, trust_remote_code=False)
    tokenizer.save_pretrained(arguments.target)
    print(f"{type(model).__name__} to {type(converted).__name__}: {arguments.target}")
    if is_character_level(tokenizer) and not isinstance(converted, OzymandiasPreTrainedModel):
        try:
            save_sentencepiece_model(tokenizer, arguments.target)
        except ImportError:
            print("tokenizer.model, which llama.cpp needs, is missing: pip install protobuf, and convert again")


if __name__ == "__main__":
    main()
