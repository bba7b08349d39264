"""The Ozymandias model: embeddings, positions, blocks, a last norm and the output matrix.

Shapes: `batch` texts, `length` tokens of this call, `hidden` the residual stream, `vocab` the tokens to choose from.
The parts stand in files of their own: read `attention.py` first, then `blocks.py`.
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.cache_utils import DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.masking_utils import create_sliding_window_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_outputs import MoeCausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder
from transformers.utils.output_capturing import capture_outputs

from .attention import OzymandiasAttention
from .blocks import OzymandiasBlock
from .configuration_ozymandias import OzymandiasConfig
from .feed_forward import Router
from .feed_forward import load_balancing_loss
from .normalization import NORMS
from .normalization import LayerNorm
from .normalization import RMSNorm
from .positions import POSITIONS
from .positions import PositionEncoding


class OzymandiasPreTrainedModel(PreTrainedModel):
    """What transformers needs to know of any Ozymandias model: its config, its abilities, how its weights begin."""

    config: OzymandiasConfig
    config_class = OzymandiasConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["OzymandiasBlock"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    # The positions come first, so that the hidden states are embeddings and then one a block, also with no block.
    _can_record_outputs = {
        "hidden_states": [
            OutputRecorder(PositionEncoding, index=0, capture_initial_hidden_state=False),
            OutputRecorder(OzymandiasBlock, index=0, capture_initial_hidden_state=False),
        ],
        "attentions": OzymandiasAttention,
        "router_logits": OutputRecorder(Router),
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Normal weights of `initializer_range`; the matrices that write into the residual stream begin smaller.

        There are two of them in each block and their variances add up, so that theirs is divided by
        `2 * num_hidden_layers` (GPT-2: Radford et al., 2019, section 2.3). Called for modules with weights of their
        own only: transformers passes over the others where the code is not its own.
        """
        super()._init_weights(module)
        if isinstance(module, LayerNorm | RMSNorm):
            init.ones_(module.weight)
            if isinstance(module, LayerNorm):
                init.zeros_(module.bias)
        elif getattr(module, "writes_residual", False):
            std = self.config.initializer_range / (2 * self.config.num_hidden_layers) ** 0.5
            init.normal_(module.weight, mean=0.0, std=std)

    def save_pretrained(self, save_directory, **kwargs):
        """Save with code and an `auto_map` that names every class; by itself transformers names the saved one alone."""
        self.config.auto_map = {
            "AutoConfig": "configuration_ozymandias.OzymandiasConfig",
            "AutoModel": "modeling_ozymandias.OzymandiasModel",
            "AutoModelForCausalLM": "modeling_ozymandias.OzymandiasForCausalLM",
        }
        super().save_pretrained(save_directory, **kwargs)


class OzymandiasModel(OzymandiasPreTrainedModel):
    """Token ids to the last hidden states: embed, tell the positions, run the blocks, normalise."""

    def __init__(self, config: OzymandiasConfig):
        super().__init__(config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.positions = POSITIONS[config.position_type](config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(OzymandiasBlock(config, layer) for layer in range(config.num_hidden_layers))
        # With the norm after each sublayer, the last block has normalised its output itself.
        self.norm = NORMS[config.norm_type if config.norm_placement == "pre" else "none"](
            config.hidden_size, config.norm_eps
        )
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """Run the blocks.

        Args:
            input_ids: `(batch, length)`, or give `inputs_embeds` `(batch, length, hidden)` in its place.
            attention_mask: `(batch, keys)` with 0 on padding, or a mask `(batch, 1, length, keys)` used as it is.
            position_ids: `(batch, length)`; counted from the end of the cache where missing.
            past_key_values: keys and values of earlier calls; extended in place.
            use_cache: make and return a cache. Also `output_attentions` and `output_hidden_states`.

        Raises:
            ValueError: neither or both of the inputs, or more tokens than learned positions.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)  # (batch, length, hidden)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        past_length = 0 if past_key_values is None else past_key_values.get_seq_length()
        if position_ids is None:
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + past_length
            position_ids = position_ids.unsqueeze(0)  # (1, length), the same for the whole batch
        self.check_context(past_length + inputs_embeds.shape[1], position_ids)

        hidden_states, rotation = self.positions(inputs_embeds, position_ids)  # (batch, length, hidden)
        hidden_states = self.dropout(hidden_states)
        masks = self.make_masks(inputs_embeds, attention_mask, past_key_values, position_ids)
        for block, layer_type in zip(self.layers, self.config.layer_types, strict=True):
            hidden_states = block(
                hidden_states,
                attention_mask=masks[layer_type],
                rotation=rotation,
                past_key_values=past_key_values,
                position_ids=position_ids,
                **kwargs,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden_states),
            past_key_values=past_key_values if use_cache else None,
        )

    def make_masks(self, inputs_embeds, attention_mask, past_key_values, position_ids) -> dict:
        """The mask of each type of layer; `generate` brings them ready made for a cache of fixed size."""
        if isinstance(attention_mask, dict):
            return attention_mask
        makers = {"full_attention": create_causal_mask, "sliding_attention": create_sliding_window_causal_mask}
        return {
            layer_type: makers[layer_type](
                config=self.config,
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                position_ids=position_ids,
            )
            for layer_type in set(self.config.layer_types)
        }

    def check_context(self, seen: int | torch.Tensor, position_ids: torch.Tensor):
        """Refuse positions past the end of a learned table, whose own error would name neither text nor table.

        `seen` counts the tokens of the cache and of this call. Only where they are too many are the positions read,
        which waits for the device: padding on the left can make them fewer.
        """
        longest = self.positions.longest
        if longest is None or torch.compiler.is_compiling():
            return
        if seen > longest and (last := int(position_ids.max())) >= longest:
            raise ValueError(
                f"{last + 1} tokens do not fit the {longest} learned positions of this model "
                "(max_position_embeddings). Give a shorter text or ask for fewer new tokens."
            )


class OzymandiasForCausalLM(OzymandiasPreTrainedModel, GenerationMixin):
    """The decoder: the logits of the next token at every position, and `generate`.

    Example:

    ```python
    >>> from transformers import AutoModelForCausalLM, AutoTokenizer
    >>> folder = "space/checkpoints/poetry-modern"
    >>> tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    >>> model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    >>> inputs = tokenizer("The desert", return_tensors="pt")
    >>> print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))
    ```
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: OzymandiasConfig):
        super().__init__(config)
        self.model = OzymandiasModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast | MoeCausalLMOutputWithPast:
        """Run the model and score the next tokens.

        Args:
            labels: `(batch, length)`, the input ids themselves (they are shifted here), -100 where nothing is to be
                learned. The loss is in nats, the mean over the labels, or their sum divided by `num_items_in_batch`.
            logits_to_keep: make the logits of that many last positions only, 0 for all, or of these positions.

        The other arguments are those of [`OzymandiasModel`].
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept, :])  # (batch, kept, vocab)
        if (cap := self.config.final_logit_softcapping) is not None:
            # Source: Gemma Team, "Gemma 2", 2024, https://arxiv.org/abs/2408.00118, section 2.
            logits = cap * torch.tanh(logits / cap)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        result = {
            "loss": loss,
            "logits": logits,
            "past_key_values": outputs.past_key_values,
            "hidden_states": outputs.hidden_states,
            "attentions": outputs.attentions,
        }
        if self.config.feed_forward_type != "moe":
            return CausalLMOutputWithPast(**result)
        if router_logits := outputs.get("router_logits"):
            aux_loss = load_balancing_loss(router_logits, self.config.num_experts_per_tok, attention_mask)
            if labels is not None:
                result["loss"] = loss + self.config.router_aux_loss_coef * aux_loss
            result.update(aux_loss=aux_loss, router_logits=router_logits)
        return MoeCausalLMOutputWithPast(**result)


OzymandiasModel.register_for_auto_class("AutoModel")
OzymandiasForCausalLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["OzymandiasForCausalLM", "OzymandiasModel", "OzymandiasPreTrainedModel"]
