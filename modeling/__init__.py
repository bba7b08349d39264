"""The transformer. Importing this package registers its classes with transformers' Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from .backbone import OzymandiasModel, OzymandiasPreTrainedModel
from .configuration_ozymandias import OzymandiasConfig
from .modeling_ozymandias import OzymandiasForCausalLM, OzymandiasForConditionalGeneration, OzymandiasForMaskedLM
from .presets import PRESETS, preset_config

AutoConfig.register(OzymandiasConfig.model_type, OzymandiasConfig)
AutoModel.register(OzymandiasConfig, OzymandiasModel)
AutoModelForCausalLM.register(OzymandiasConfig, OzymandiasForCausalLM)
AutoModelForMaskedLM.register(OzymandiasConfig, OzymandiasForMaskedLM)
AutoModelForSeq2SeqLM.register(OzymandiasConfig, OzymandiasForConditionalGeneration)

__all__ = [
    "PRESETS",
    "OzymandiasConfig",
    "OzymandiasForCausalLM",
    "OzymandiasForConditionalGeneration",
    "OzymandiasForMaskedLM",
    "OzymandiasModel",
    "OzymandiasPreTrainedModel",
    "preset_config",
]
