"""One stack of blocks, from token ids to hidden states: a decoder or an encoder, as the config says.

Shapes: `batch` texts, `length` tokens of this call, `keys` those of the cache and of this call together, `hidden` the
residual stream. Each part has a file of its own: read `attention.py` first, then `blocks.py`.
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.cache_utils import DynamicCache
from transformers.cache_utils import EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask
from transformers.masking_utils import create_causal_mask
from transformers.masking_utils import create_sliding_window_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder
from transformers.utils.output_capturing import capture_outputs

from .attention import OzymandiasAttention
from .attention import OzymandiasCrossAttention
from .blocks import OzymandiasBlock
from .cache import CACHE_NAME
from .cache import accept_any_cache
from .configuration_ozymandias import OzymandiasConfig
from .feed_forward import Router
from .normalization import NORMS
from .normalization import Norm
from .positions import POSITIONS
from .positions import Rotation


class EmbeddingOutput(nn.Module):
    """The last step before the first block: normalise the sum of the embeddings if the config says so, and dropout."""

    def __init__(self, config: OzymandiasConfig):
        super().__init__()
        norm = NORMS[config.norm_type if config.use_embedding_norm else "none"]
        self.norm = norm(config.hidden_size, config.norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.norm(embeddings))


class OzymandiasPreTrainedModel(PreTrainedModel):
    """What transformers needs to know about every Ozymandias model: config, abilities, initial weights."""

    config: OzymandiasConfig
    config_class = OzymandiasConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["OzymandiasBlock"]
    _skip_keys_device_placement = ["past_key_values", CACHE_NAME]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    # Hidden states are what enters the first block and what leaves each. A bigram has no block, hence the first line.
    _can_record_outputs = {
        "hidden_states": [
            OutputRecorder(EmbeddingOutput, index=0, capture_initial_hidden_state=False),
            OutputRecorder(OzymandiasBlock, index=0, capture_initial_hidden_state=False),
        ],
        "attentions": OutputRecorder(OzymandiasAttention, index=1, layer_name="attention"),
        "cross_attentions": OutputRecorder(OzymandiasCrossAttention, index=1),
        "router_logits": OutputRecorder(Router),
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Normal weights of `initializer_range`; the matrices that write into the residual stream begin smaller.

        Every sublayer has one, and in the stream their variances add up. So theirs is divided by the number of
        sublayers, `2 * num_hidden_layers` in GPT-2 (Radford et al., 2019, section 2.3). transformers calls this for
        every module that has weights of its own.
        """
        super()._init_weights(module)
        if isinstance(module, Norm):
            module.reset_parameters()
        elif getattr(module, "writes_residual", False):
            sublayers = (3 if self.config.add_cross_attention else 2) * self.config.num_hidden_layers
            std = self.config.initializer_range / sublayers**0.5
            init.normal_(module.weight, mean=0.0, std=std)

    def save_pretrained(self, save_directory, **kwargs):
        """Save with the code and with an `auto_map` that names every class which can load the weights.

        transformers alone would name only the class that is saved.
        """
        self.config.auto_map = {"AutoConfig": "configuration_ozymandias.OzymandiasConfig"}
        if self.config.is_encoder_decoder:
            self.config.auto_map["AutoModelForSeq2SeqLM"] = "modeling_ozymandias.OzymandiasForConditionalGeneration"
        else:
            self.config.auto_map["AutoModel"] = "backbone.OzymandiasModel"
            head = "CausalLM" if self.config.is_causal else "MaskedLM"
            self.config.auto_map[f"AutoModelFor{head}"] = f"modeling_ozymandias.OzymandiasFor{head}"
        super().save_pretrained(save_directory, **kwargs)


class OzymandiasModel(OzymandiasPreTrainedModel):
    """Token ids to the last hidden states: embed, add the positions, run the blocks, normalise.

    With `is_causal` it is a decoder, without it an encoder. The mean of an encoder's output over a text's positions is
    a vector that represents the text.

    Raises:
        ValueError: the config describes two stacks. `OzymandiasForConditionalGeneration` has them as `encoder` and
            `decoder`.
    """

    def __init__(self, config: OzymandiasConfig):
        super().__init__(config)
        if config.is_encoder_decoder:
            raise ValueError(
                "This config has two stacks and OzymandiasModel is one: load it with AutoModelForSeq2SeqLM, "
                "and take its .encoder or its .decoder."
            )
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.embed_token_types = None
        if config.type_vocab_size:
            self.embed_token_types = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.positions = POSITIONS[config.position_type](config)
        self.embedding_output = EmbeddingOutput(config)
        self.layers = nn.ModuleList(OzymandiasBlock(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = NORMS[config.norm_type if config.use_final_norm else "none"](config.hidden_size, config.norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @accept_any_cache
    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        encoder_hidden_states: torch.FloatTensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Run the blocks.

        Args:
            input_ids: `(batch, length)`, or give `inputs_embeds` `(batch, length, hidden)` in its place.
            attention_mask: `(batch, keys)` with 0 on padding, or a finished mask as `make_causal_masks` returns it.
            position_ids: `(batch, length)`; if missing, they continue after the cache.
            past_key_values: keys and values of earlier calls, extended in place. Without it `use_cache` makes a new
                one. It may come under any name, see `cache.py`.
            token_type_ids: `(batch, length)`, the segment of each token; 0 if missing.
            encoder_hidden_states: `(batch, keys, hidden)`, what cross-attention sees; `encoder_attention_mask`
                `(batch, keys)` has 0 on its padding.

        Raises:
            ValueError: neither or both of the inputs, more tokens than learned positions, no output of an encoder for
                cross-attention, or a cache for an encoder, whose keys and values all change with every new token.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)  # (batch, length, hidden)
        past_key_values = self.check_cache(past_key_values, use_cache)
        past_length = 0 if past_key_values is None else past_key_values.get_seq_length()
        # Before positions are filled in: compiled code cannot tell that those hold one text each, and would make a mask
        # where causal attention needs none.
        causal_masks = self.make_causal_masks(inputs_embeds, attention_mask, past_key_values, position_ids)
        if position_ids is None:
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + past_length
            position_ids = position_ids.unsqueeze(0)  # (1, length), the same for the whole batch
        self.check_context(past_length + inputs_embeds.shape[1], position_ids)

        source_mask = self.make_source_mask(inputs_embeds, encoder_attention_mask, encoder_hidden_states)
        hidden_states, rotation = self.embed(inputs_embeds, token_type_ids, position_ids)
        for block, layer_type in zip(self.layers, self.config.layer_types, strict=True):
            hidden_states = block(
                hidden_states,
                causal_masks[layer_type],
                rotation,
                encoder_hidden_states,
                source_mask,
                past_key_values=past_key_values,
                position_ids=position_ids,
                **kwargs,
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.norm(hidden_states),
            **{CACHE_NAME: past_key_values if use_cache else None},
        )

    def embed(self, inputs_embeds, token_type_ids, position_ids) -> tuple[torch.Tensor, Rotation]:
        """What enters the first block, `(batch, length, hidden)`, and how attention rotates queries and keys."""
        if self.embed_token_types is not None:
            segments = torch.zeros_like(position_ids) if token_type_ids is None else token_type_ids
            inputs_embeds = inputs_embeds + self.embed_token_types(segments)  # (batch, length, hidden)
        embeddings, rotation = self.positions(inputs_embeds, position_ids)
        return self.embedding_output(embeddings), rotation

    def check_cache(self, cache: Cache | None, use_cache: bool) -> Cache | None:
        """The caller's cache, or with `use_cache` a new one, which has room for cross-attention if there is any."""
        if not self.config.is_causal:
            if cache is not None:
                raise ValueError(
                    "An encoder cannot use a cache: each new token changes the keys of all. Leave the cache out."
                )
            return None
        if cache is not None or not use_cache:
            return cache
        cache = DynamicCache(config=self.config)
        return EncoderDecoderCache(cache, DynamicCache()) if self.config.add_cross_attention else cache

    def make_causal_masks(self, inputs_embeds, attention_mask, past_key_values, position_ids) -> dict:
        """Return one mask for each type of layer: causal for decoders, bidirectional for encoders.

        transformers makes them from the padding mask `attention_mask` and from `is_causal` of the config, in the form
        that the chosen implementation of attention reads:

        eager: `(batch, 1, length, keys)`, 0 where a key is seen and hugely negative where not.
        sdpa: the same with True and False. Without padding it is `None` for a whole text, to which the kernel applies
            the triangle itself, and for one new token, which sees all keys. A chunk that continues a cache has a mask.
        flash attention: only the padding mask, or `None`; its kernel applies the triangle and the window itself.
        flex attention: a `BlockMask`, from which its kernel is compiled.

        A finished mask, of four dimensions, is used as it is. `generate` brings a dictionary of finished masks for a
        cache of fixed size. An eager attention that gets `None`, outside a model, builds the triangle itself.
        """
        if isinstance(attention_mask, dict):
            return attention_mask
        makers = {"full_attention": create_causal_mask, "sliding_attention": create_sliding_window_causal_mask}
        return {
            layer_type: makers[layer_type](
                config=self.config,
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                position_ids=position_ids,
                **{CACHE_NAME: getattr(past_key_values, "self_attention_cache", past_key_values)},
            )
            for layer_type in set(self.config.layer_types)
        }

    def make_source_mask(self, inputs_embeds, encoder_attention_mask, encoder_hidden_states) -> torch.Tensor | None:
        """The mask of cross-attention, which hides only the source's padding."""
        if not self.config.add_cross_attention:
            return None
        if encoder_hidden_states is None:
            raise ValueError("This decoder has cross-attention; give encoder_hidden_states, the output of an encoder.")
        return create_bidirectional_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=encoder_attention_mask,
            encoder_hidden_states=encoder_hidden_states,
        )

    def check_context(self, seen: int | torch.Tensor, position_ids: torch.Tensor):
        """Refuse positions past the end of a learned table, whose own error would name neither text nor table.

        `seen` counts the tokens of the cache and of this call. Padding on the left takes no position, so too many
        tokens can still fit. Only then are the positions read, because reading them waits for the device.
        """
        longest = self.positions.longest
        if longest is None or torch.compiler.is_compiling():
            return
        if seen > longest and (last := int(position_ids.max())) >= longest:
            raise ValueError(
                f"{last + 1} tokens do not fit the {longest} learned positions of this model "
                "(max_position_embeddings). Give a shorter text or ask for fewer new tokens."
            )


OzymandiasModel.register_for_auto_class("AutoModel")

__all__ = ["OzymandiasModel", "OzymandiasPreTrainedModel"]
