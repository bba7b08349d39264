"""The configuration of Ozymandias: every choice that makes one transformer differ from another.

A field has the name that transformers uses, or a plain one if transformers has none. The parts that a field chooses
between are listed in a table at the end of the file that defines them (`positions.py`, `feed_forward.py`,
`normalization.py`), so a new part is one line there.
"""

import copy

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

from .feed_forward import ACTIVATIONS
from .feed_forward import FEED_FORWARDS
from .feed_forward import MLP
from .normalization import NORMS
from .positions import POSITIONS

NORM_PLACEMENTS = ("pre", "post")
LAYER_TYPES = ("full_attention", "sliding_attention")
# Fields that only a mixture of experts has, with their defaults. A dense model must not have them: other tools take
# every model whose config does for a mixture, and TRL then expects router logits.
MIXTURE_FIELDS = {
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "router_aux_loss_coef": 0.01,
    "output_router_logits": False,
}

# Keys that transformers writes into a config.json or passes to a config, and that are not fields here.
KEYS_OF_TRANSFORMERS = {
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation_internal",
    "_name_or_path",
    "attn_implementation",
    "auto_map",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "quantization_config",
    "tie_last_hidden_states",
    "torch_dtype",
}


@strict
class OzymandiasConfig(PreTrainedConfig):
    r"""Everything that is needed to build an [`OzymandiasModel`].

    Args:
        vocab_size: number of tokens.
        hidden_size: width of the residual stream (`hidden`).
        num_hidden_layers: number of blocks. With 0 blocks the model is a table from one token to the next: a bigram.
        is_causal: `True` is a decoder, in which a position sees itself and those before it; `False` an encoder, in
            which it sees all.
        is_encoder_decoder: two stacks of blocks. The other fields describe the decoder; the encoder differs in what it
            sees and in `num_encoder_layers`.
        num_encoder_layers: blocks of the encoder of an encoder-decoder; `None` means `num_hidden_layers`.
        add_cross_attention: let each block of a decoder see the encoder's output; `None` means `is_encoder_decoder`.
            `False` beside an encoder is the ablation that measures what the source is worth.
        num_attention_heads: query heads in each block (`heads`).
        num_key_value_heads: key and value heads (`kv_heads`); `None` means as many as query heads, fewer is
            grouped-query attention, 1 is multi-query attention.
        head_dim: width of one head; `None` means `hidden_size / num_attention_heads`.
        intermediate_size: width of the feed-forward's inner layer. `None` means `4 * hidden_size` for two matrices and
            about `8 / 3 * hidden_size` for three, which are then as many weights.
        feed_forward_type: `"none"`, `"mlp"` (two matrices), `"gated"` (three, GLU), `"moe"` (a mixture of gated
            experts) or any other name in `FEED_FORWARDS`.
        num_local_experts: experts of a mixture, 8 by default. This field and the next three exist only if
            `feed_forward_type` is `"moe"`.
        num_experts_per_tok: experts that each token passes through, 2 by default.
        router_aux_loss_coef: weight of the load-balancing loss, which is added to the loss if router logits are
            recorded; 0.01 by default.
        output_router_logits: record the routers' logits, which balances their load. Set it to train a mixture.
        hidden_act: the activation of the feed-forward, by transformers' name: `"relu"`, `"gelu"`,
            `"gelu_pytorch_tanh"` (GPT-2's), `"relu2"` (squared) or `"silu"`.
        position_type: `"none"`, `"learned"` (a table, added), `"sinusoidal"` (waves, added) or `"rotary"` (queries and
            keys are rotated).
        max_position_embeddings: the context, in tokens, that the model is trained for. A learned table ends there.
        rope_parameters: for rotary positions, in transformers' form: `{"rope_type": "default", "rope_theta": 10000.0}`.
        norm_type: `"none"`, `"layer_norm"`, `"rms_norm"` or any other name in `NORMS`.
        norm_placement: `"pre"`, before each sublayer, or `"post"`, after each sublayer.
        use_final_norm: normalise after the last block; `None` means `True` if `norm_placement` is `"pre"`.
        use_embedding_norm: normalise the sum of the embeddings, as BERT does.
        type_vocab_size: how many kinds of segment `token_type_ids` can distinguish, such as BERT's two sentences; 0 is
            none.
        norm_eps: added to the variance before its root.
        use_qk_norm: normalise queries and keys over `head_dim` before their product (needs a norm).
        use_residual: add each sublayer's input to its output.
        sliding_window: how many positions back a query sees, itself included; `None` means all of them.
        layer_types: `"full_attention"` or `"sliding_attention"` for each block; `None` means that all slide if there is
            a `sliding_window`, and none otherwise.
        final_logit_softcapping: squash the logits into the range from minus this number to it; `None` leaves them.
        attention_bias: biases in the query, key, value and output projections.
        mlp_bias: biases in the feed-forward.
        tie_word_embeddings: use the token embeddings as the output matrix. An encoder-decoder shares one matrix between
            both stacks and the output.
        decoder_start_token_id: the first token of an encoder-decoder's target; `None` means `bos_token_id`.
        initializer_range: standard deviation of the initial weights.
        attention_dropout: dropout on the attention weights.
        hidden_dropout: dropout on the embeddings and on each sublayer's output.
        use_cache: return the key-value cache unless a call says otherwise.

    Raises:
        ValueError: an unknown field, or a combination that cannot be built. The message names the field and its value.

    Example:

    ```python
    >>> from modeling import OzymandiasConfig, OzymandiasForCausalLM
    >>> model = OzymandiasForCausalLM(OzymandiasConfig(vocab_size=96, num_hidden_layers=2))
    ```
    """

    model_type = "ozymandias"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]
    # Tensor parallelism splits attention by head and the feed-forward by inner unit, and sums the parts after each.
    base_model_tp_plan = {
        "layers.*.attention.q_proj": "colwise",
        "layers.*.attention.k_proj": "colwise",
        "layers.*.attention.v_proj": "colwise",
        "layers.*.attention.q_norm": "replicated_with_grad_allreduce",
        "layers.*.attention.k_norm": "replicated_with_grad_allreduce",
        "layers.*.attention.o_proj": "rowwise",
        "layers.*.feed_forward.gate_proj": "colwise",
        "layers.*.feed_forward.up_proj": "colwise",
        "layers.*.feed_forward.down_proj": "rowwise",
    }
    base_model_pp_plan = {
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }

    vocab_size: int = 384
    hidden_size: int = 128
    num_hidden_layers: int = 4
    is_causal: bool = True
    is_encoder_decoder: bool = False
    num_encoder_layers: int | None = None
    add_cross_attention: bool | None = None
    num_attention_heads: int = 4
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    intermediate_size: int | None = None
    feed_forward_type: str = "mlp"
    hidden_act: str = "gelu"
    position_type: str = "learned"
    max_position_embeddings: int = 64
    rope_parameters: dict | None = None
    norm_type: str = "layer_norm"
    norm_placement: str = "pre"
    norm_eps: float = 1e-5
    use_final_norm: bool | None = None
    use_embedding_norm: bool = False
    type_vocab_size: int = 0
    use_qk_norm: bool = False
    use_residual: bool = True
    sliding_window: int | None = None
    layer_types: list[str] | None = None
    final_logit_softcapping: float | int | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02
    attention_dropout: float | int = 0.0
    hidden_dropout: float | int = 0.0
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    decoder_start_token_id: int | None = None

    def __post_init__(self, **kwargs):
        self.fill_mixture({name: kwargs.pop(name) for name in MIXTURE_FIELDS if name in kwargs})
        rope_keys = {"rope_theta", "rope_scaling"} if self.position_type == "rotary" else set()
        if unknown := sorted(kwargs.keys() - KEYS_OF_TRANSFORMERS - rope_keys):
            raise ValueError(
                f"OzymandiasConfig has no field {', '.join(map(repr, unknown))}. "
                "Check the spelling against the fields in `help(OzymandiasConfig)`."
            )
        self.fill_sizes()
        self.fill_stacks()
        # transformers fills in `rope_parameters` of every config that has the field; only rotary positions read it.
        rotary = self.position_type == "rotary"
        if self.rope_parameters and not rotary:
            raise ValueError(f"rope_parameters need position_type 'rotary', and it is {self.position_type!r}.")
        super().__post_init__(**kwargs)
        if not rotary:
            self.rope_parameters = None
        # `validate()` calls this too, but would wrap the ValueError in another type.
        self.validate_architecture()

    def fill_mixture(self, values: dict):
        """Set the fields of a mixture. Configs of version 0.1 have the defaults in every model."""
        if self.feed_forward_type == "moe":
            self.__dict__.update({**MIXTURE_FIELDS, **values})
        elif changed := [name for name, value in values.items() if value not in (None, MIXTURE_FIELDS[name])]:
            raise ValueError(
                f"{', '.join(changed)} needs feed_forward_type 'moe', and it is {self.feed_forward_type!r}."
            )

    def fill_sizes(self):
        """Work out the sizes that are not set from those that are."""
        if self.num_attention_heads < 1:
            raise ValueError(f"num_attention_heads is {self.num_attention_heads}; give at least 1.")
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            if self.hidden_size % self.num_attention_heads:
                raise ValueError(
                    f"hidden_size ({self.hidden_size}) is not a multiple of num_attention_heads "
                    f"({self.num_attention_heads}); change one of them, or give head_dim."
                )
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.intermediate_size is None:
            # Without a feed-forward nothing reads it, and an unknown one is refused by name in `check_choices`.
            feed_forward = FEED_FORWARDS.get(self.feed_forward_type, MLP)
            self.intermediate_size = feed_forward.default_width(self.hidden_size)

    def fill_stacks(self):
        """Set what is not set about the stacks and their layers."""
        if self.use_final_norm is None:
            self.use_final_norm = self.norm_placement == "pre"  # with "post" the last block has normalised its output
        if self.add_cross_attention is None:
            self.add_cross_attention = self.is_encoder_decoder
        if self.is_encoder_decoder:
            if self.num_encoder_layers is None:
                self.num_encoder_layers = self.num_hidden_layers
            if self.decoder_start_token_id is None:
                self.decoder_start_token_id = self.bos_token_id
        if not self.is_causal:
            self.use_cache = False  # every key has seen every token, so a new token changes them all
        if self.layer_types is None:
            layer_type = "full_attention" if self.sliding_window is None else "sliding_attention"
            self.layer_types = [layer_type] * self.num_hidden_layers

    def of_encoder(self) -> "OzymandiasConfig":
        """The config of an encoder-decoder's encoder, which has no causal mask, cache or cross-attention."""
        return self.with_fields(
            is_encoder_decoder=False,
            is_causal=False,
            use_cache=False,
            add_cross_attention=False,
            num_hidden_layers=self.num_encoder_layers,
            layer_types=["full_attention"] * self.num_encoder_layers,
            num_encoder_layers=None,
        )

    def of_decoder(self) -> "OzymandiasConfig":
        """The config of an encoder-decoder's decoder."""
        return self.with_fields(is_encoder_decoder=False, num_encoder_layers=None)

    def with_fields(self, **fields) -> "OzymandiasConfig":
        config = copy.deepcopy(self)
        for field, value in fields.items():
            setattr(config, field, value)
        return config

    def validate_architecture(self):
        """Refuse what cannot be built. This runs when a config is created and again when it is saved."""
        self.check_choices()
        self.check_sizes()
        self.check_combinations()
        self.check_stacks()
        self.check_windows()

    def check_choices(self):
        for field, allowed in {
            "position_type": POSITIONS,
            "norm_type": NORMS,
            "norm_placement": NORM_PLACEMENTS,
            "feed_forward_type": ("none", *FEED_FORWARDS),
            "hidden_act": ACTIVATIONS,
        }.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} is {getattr(self, field)!r}; choose one of {', '.join(allowed)}.")

    def check_sizes(self):
        for field, least in {
            "vocab_size": 1,
            "hidden_size": 1,
            "num_hidden_layers": 0,
            "num_key_value_heads": 1,
            "head_dim": 1,
            "intermediate_size": 1,
            "max_position_embeddings": 1,
            "type_vocab_size": 0,
            "num_encoder_layers": 0,
        }.items():
            if getattr(self, field) is not None and getattr(self, field) < least:
                raise ValueError(f"{field} is {getattr(self, field)}; give at least {least}.")
        for field in ("attention_dropout", "hidden_dropout"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}; give at least 0 and less than 1.")
        if self.final_logit_softcapping is not None and self.final_logit_softcapping <= 0:
            raise ValueError(
                f"final_logit_softcapping is {self.final_logit_softcapping}; give a number above 0, or None."
            )

    def check_combinations(self):
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) is not a multiple of num_key_value_heads "
                f"({self.num_key_value_heads}), so query heads cannot share keys and values evenly."
            )
        if self.feed_forward_type == "moe" and not 1 <= self.num_experts_per_tok <= self.num_local_experts:
            raise ValueError(
                f"num_experts_per_tok is {self.num_experts_per_tok}; give at least 1 and at most num_local_experts "
                f"({self.num_local_experts}): a token cannot pass through more experts than there are."
            )
        if self.position_type == "rotary" and self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even: rotary positions rotate pairs of dimensions.")
        if self.position_type == "sinusoidal" and self.hidden_size % 2:
            raise ValueError(f"hidden_size ({self.hidden_size}) must be even: each wave fills a pair of dimensions.")
        for field, needs_norm in {
            "use_qk_norm": self.use_qk_norm,
            "norm_placement": self.norm_placement == "post",
            "use_embedding_norm": self.use_embedding_norm,
        }.items():
            if needs_norm and self.norm_type == "none":
                raise ValueError(
                    f"{field}={getattr(self, field)!r} needs a norm, and norm_type is 'none'; "
                    f"choose one of {', '.join(name for name in NORMS if name != 'none')}."
                )

    def check_stacks(self):
        """Refuse fields that belong to another kind of stack."""
        if not self.is_causal and (self.is_encoder_decoder or self.add_cross_attention):
            raise ValueError(
                "is_causal=False is an encoder alone, without decoder and cross-attention. Leave is_causal out: the "
                "encoder of is_encoder_decoder=True sees all positions anyway."
            )
        if self.num_encoder_layers is not None and not self.is_encoder_decoder:
            raise ValueError(f"num_encoder_layers ({self.num_encoder_layers}) needs is_encoder_decoder=True.")
        if self.feed_forward_type == "moe" and (self.is_encoder_decoder or not self.is_causal):
            raise ValueError(
                "feed_forward_type 'moe' needs a decoder without encoder: nothing would balance an encoder's experts."
            )
        if self.is_encoder_decoder and not self.tie_word_embeddings:
            raise ValueError(
                "tie_word_embeddings=False: an encoder-decoder shares one matrix between encoder, decoder and output; "
                "leave it True."
            )
        if self.sliding_window is not None and (self.is_encoder_decoder or self.add_cross_attention):
            raise ValueError(
                f"sliding_window ({self.sliding_window}): `generate` would also cut the cached source of "
                "cross-attention to the window; leave it None in an encoder-decoder."
            )
        if self.type_vocab_size and self.is_encoder_decoder:
            raise ValueError(
                f"type_vocab_size ({self.type_vocab_size}) distinguishes segments within one input, and an "
                "encoder-decoder has an input for each segment; make it 0."
            )

    def check_windows(self):
        if self.sliding_window is not None and self.sliding_window < 1:
            raise ValueError(f"sliding_window is {self.sliding_window}; a query sees at least itself: give at least 1.")
        if len(self.layer_types) != self.num_hidden_layers or not set(self.layer_types) <= set(LAYER_TYPES):
            raise ValueError(
                f"layer_types is {self.layer_types}; give one of {', '.join(LAYER_TYPES)} for each of the "
                f"{self.num_hidden_layers} layers."
            )
        if ("sliding_attention" in self.layer_types) != (self.sliding_window is not None):
            raise ValueError(
                f"layer_types {self.layer_types} and sliding_window {self.sliding_window} contradict each other: "
                "sliding layers need a window, and a window needs sliding layers."
            )


OzymandiasConfig.register_for_auto_class()

__all__ = ["OzymandiasConfig"]
