"""The transformer. Importing this package makes its classes known to transformers' Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from .configuration_ozymandias import OzymandiasConfig
from .modeling_ozymandias import OzymandiasForCausalLM, OzymandiasModel, OzymandiasPreTrainedModel
from .presets import PRESETS, preset_config

AutoConfig.register(OzymandiasConfig.model_type, OzymandiasConfig)
AutoModel.register(OzymandiasConfig, OzymandiasModel)
AutoModelForCausalLM.register(OzymandiasConfig, OzymandiasForCausalLM)

__all__ = [
    "PRESETS",
    "OzymandiasConfig",
    "OzymandiasForCausalLM",
    "OzymandiasModel",
    "OzymandiasPreTrainedModel",
    "preset_config",
]
