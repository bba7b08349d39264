"""The three architectures: one stack of blocks or two, and an output matrix that scores the vocabulary.

Shapes: `batch` texts, `length` tokens of this call, `hidden` the residual stream, `vocab` the tokens to choose from.
"""

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_outputs import MaskedLMOutput
from transformers.modeling_outputs import MoeCausalLMOutputWithPast
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.utils import can_return_tuple

from .backbone import OzymandiasModel
from .backbone import OzymandiasPreTrainedModel
from .cache import CACHE_NAME
from .cache import accept_any_cache
from .configuration_ozymandias import OzymandiasConfig
from .feed_forward import ACTIVATIONS
from .feed_forward import load_balancing_loss
from .normalization import NORMS

LOGITS_AT_A_TIME = 2**24  # 64 MB in float32


def soft_cap(logits: torch.Tensor, cap: float | None) -> torch.Tensor:
    """`cap * tanh(logits / cap)`: between `-cap` and `cap`, in the same order. `None` leaves them as they are.

    Source: Gemma Team, "Gemma 2", 2024, https://arxiv.org/abs/2408.00118, section 2.
    """
    return logits if cap is None else cap * torch.tanh(logits / cap)


class OzymandiasForCausalLM(OzymandiasPreTrainedModel, GenerationMixin):
    """The decoder: logits of the next token at every position, and `generate`.

    Example:

    ```python
    >>> import modeling  # registers the classes; a model from the Hub brings them with trust_remote_code=True
    >>> from transformers import AutoModelForCausalLM, AutoTokenizer
    >>> folder = "space/checkpoints/poetry-modern"
    >>> tokenizer = AutoTokenizer.from_pretrained(folder)
    >>> model = AutoModelForCausalLM.from_pretrained(folder)
    >>> inputs = tokenizer("The desert", return_tensors="pt")
    >>> print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))
    ```
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}

    def __init__(self, config: OzymandiasConfig):
        super().__init__(config)
        if not config.is_causal or config.add_cross_attention:
            raise ValueError(
                "OzymandiasForCausalLM is a decoder without encoder, and this config describes an encoder "
                "(is_causal=False) or has one: load it with AutoModelForMaskedLM or AutoModelForSeq2SeqLM."
            )
        self.model = OzymandiasModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @accept_any_cache
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
        skip_logits: bool = False,
        **kwargs,
    ) -> CausalLMOutputWithPast | MoeCausalLMOutputWithPast:
        """Run the model and score the next tokens.

        Args:
            labels: `(batch, length)`, the input ids themselves (they are shifted here), -100 where nothing is to be
                learned. The loss is in nats: the mean over the labels, or their sum divided by `num_items_in_batch`.
            logits_to_keep: compute the logits of this many last positions (0 is all), or of these positions.
            skip_logits: return only the loss. With a large vocabulary the `(batch, length, vocab)` logits and their
                gradient take most of the memory of training; here they exist for a few tokens at a time.

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
        logits = loss = None
        if skip_logits:
            loss = self.loss_without_logits(outputs.last_hidden_state, labels, **kwargs)
        else:
            scored = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(outputs.last_hidden_state[:, scored, :])  # (batch, scored, vocab)
            logits = soft_cap(logits, self.config.final_logit_softcapping)
            if labels is not None:
                loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        result = {
            "loss": loss,
            "logits": logits,
            CACHE_NAME: outputs.get(CACHE_NAME),
            "hidden_states": outputs.hidden_states,
            "attentions": outputs.attentions,
        }
        if self.config.feed_forward_type != "moe":
            return CausalLMOutputWithPast(**result)
        if router_logits := outputs.get("router_logits"):
            result["router_logits"] = router_logits
            if labels is not None:
                aux_loss = load_balancing_loss(router_logits, self.config.num_experts_per_tok, attention_mask)
                result.update(aux_loss=aux_loss, loss=loss + self.config.router_aux_loss_coef * aux_loss)
        return MoeCausalLMOutputWithPast(**result)

    def loss_without_logits(
        self,
        hidden_states: torch.Tensor,
        labels: torch.LongTensor | None,
        shift_labels: torch.LongTensor | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """The loss of `(batch, length, hidden)`, computed from a few rows of logits at a time.

        Raises:
            ValueError: no labels, a soft cap, which torch's function cannot apply, or a torch without that function.
        """
        if labels is None or self.config.final_logit_softcapping or not hasattr(nn, "LinearCrossEntropyOptions"):
            raise ValueError("skip_logits needs labels, no final_logit_softcapping, and torch 2.13 or newer.")
        if shift_labels is None:
            shift_labels = nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]
        # By default torch makes logits as large as their input: a few rows for a narrow model, which is very slow.
        rows = max(1, LOGITS_AT_A_TIME // self.config.vocab_size)
        loss = nn.functional.linear_cross_entropy(
            hidden_states.flatten(0, 1),
            self.lm_head.weight.to(hidden_states.dtype),
            shift_labels.flatten(),
            reduction="mean" if num_items_in_batch is None else "sum",
            options=nn.LinearCrossEntropyOptions(batch_chunk_size=rows, chunking_method=None),
        )
        return loss if num_items_in_batch is None else loss / num_items_in_batch


class PredictionHead(nn.Module):
    """`norm(act(W x + b))`: what BERT does before its output matrix. Input and output: `(batch, length, hidden)`.

    Source: the code of Devlin et al., "BERT", 2018, https://arxiv.org/abs/1810.04805; the paper does not mention it.
    """

    def __init__(self, config: OzymandiasConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=config.mlp_bias)
        self.act = ACTIVATIONS[config.hidden_act]
        self.norm = NORMS[config.norm_type](config.hidden_size, config.norm_eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.act(self.dense(x)))


class OzymandiasForMaskedLM(OzymandiasPreTrainedModel):
    """The encoder: logits of the token at each position, learned from texts in which some tokens are masked.

    Source: Devlin et al., "BERT", 2018, https://arxiv.org/abs/1810.04805, section 3.1. `mlp_bias` gives the head biases
    as it does the feed-forward.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: OzymandiasConfig):
        super().__init__(config)
        if config.is_causal:
            raise ValueError("OzymandiasForMaskedLM is an encoder; give its config is_causal=False.")
        self.model = OzymandiasModel(config)
        self.head = PredictionHead(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.mlp_bias)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs,
    ) -> MaskedLMOutput:
        """Run the model and score the token at each position.

        Args:
            labels: `(batch, length)`, the tokens that are masked, and -100 everywhere else. The loss is in nats.

        The other arguments are those of [`OzymandiasModel`].
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        logits = self.lm_head(self.head(outputs.last_hidden_state))  # (batch, length, vocab)
        logits = soft_cap(logits, self.config.final_logit_softcapping)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class OzymandiasForConditionalGeneration(OzymandiasPreTrainedModel, GenerationMixin):
    """The encoder-decoder: the encoder reads a source, and the decoder, which sees it, writes the target.

    Source: Vaswani et al., "Attention Is All You Need", 2017, https://arxiv.org/abs/1706.03762, section 3. Both
    stacks and the output share one matrix, as there (section 3.4).
    """

    _tied_weights_keys = {
        "encoder.embed_tokens.weight": "decoder.embed_tokens.weight",
        "lm_head.weight": "decoder.embed_tokens.weight",
    }

    def __init__(self, config: OzymandiasConfig):
        super().__init__(config)
        if not config.is_encoder_decoder:
            raise ValueError(
                "OzymandiasForConditionalGeneration has two stacks; give its config is_encoder_decoder=True."
            )
        self.encoder = OzymandiasModel(config.of_encoder())
        self.decoder = OzymandiasModel(config.of_decoder())
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.embed_tokens

    def set_input_embeddings(self, value: nn.Module):
        self.decoder.embed_tokens = value
        self.encoder.embed_tokens = value

    @accept_any_cache
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        decoder_position_ids: torch.LongTensor | None = None,
        encoder_outputs: BaseModelOutput | tuple | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        decoder_inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> Seq2SeqLMOutput:
        """Read the source, unless the caller brings its `encoder_outputs`, and score the next tokens of the target.

        Args:
            input_ids: the source, `(batch, keys)`.
            decoder_input_ids: the target so far, `(batch, length)`; by default `labels`, shifted.
            labels: the target, `(batch, length)`, -100 where nothing is to be learned; the loss is in nats.

        The other arguments are those of [`OzymandiasModel`].
        """
        if decoder_input_ids is None and decoder_inputs_embeds is None and labels is not None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        if encoder_outputs is None:
            source = self.encoder(
                input_ids, attention_mask, position_ids, inputs_embeds=inputs_embeds, use_cache=False, **kwargs
            )
        else:
            source = BaseModelOutput(*encoder_outputs) if isinstance(encoder_outputs, tuple) else encoder_outputs
        outputs = self.decoder(
            decoder_input_ids,
            decoder_attention_mask,
            decoder_position_ids,
            past_key_values,
            inputs_embeds=decoder_inputs_embeds,
            encoder_hidden_states=source[0],
            encoder_attention_mask=attention_mask,
            use_cache=use_cache,
            **kwargs,
        )
        logits = self.lm_head(outputs.last_hidden_state)  # (batch, length, vocab)
        logits = soft_cap(logits, self.config.final_logit_softcapping)
        loss = None
        if labels is not None:  # not shifted, because the decoder's input is
            loss = self.loss_function(logits, labels, self.config.vocab_size, shift_labels=labels, **kwargs)
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=source[0],
            encoder_hidden_states=source.hidden_states,
            encoder_attentions=source.attentions,
        )

    def prepare_decoder_input_ids_from_labels(self, labels: torch.LongTensor) -> torch.LongTensor:
        """The decoder's input `(batch, length)`: `decoder_start_token_id`, then `labels` without the last.

        Raises:
            ValueError: the config names no `decoder_start_token_id`.
        """
        start, padding = self.config.decoder_start_token_id, self.config.pad_token_id
        if start is None:
            raise ValueError("The decoder has no first token; set decoder_start_token_id in the config.")
        shifted = labels.roll(1, dims=-1)
        shifted[:, 0] = start
        return shifted.masked_fill(shifted == -100, 0 if padding is None else padding)


def model_class(config: OzymandiasConfig) -> type[OzymandiasPreTrainedModel]:
    """The class of the architecture that a config describes."""
    if config.is_encoder_decoder:
        return OzymandiasForConditionalGeneration
    return OzymandiasForCausalLM if config.is_causal else OzymandiasForMaskedLM


OzymandiasForCausalLM.register_for_auto_class("AutoModelForCausalLM")
OzymandiasForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
OzymandiasForConditionalGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")

__all__ = ["OzymandiasForCausalLM", "OzymandiasForConditionalGeneration", "OzymandiasForMaskedLM", "OzymandiasModel"]
