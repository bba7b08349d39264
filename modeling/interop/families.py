"""The native architectures that Ozymandias can express, each with its config fields and weight names.

A family is two functions that convert configs and two that convert weights. To add one, add an entry to `FAMILIES`.
"""

import re

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ..configuration_ozymandias import OzymandiasConfig
from .family import DECODER, SHARED, Family, Weights, pick, refuse, rename

# Fields that Llama and Qwen3 share with Ozymandias.
LLAMA_SHARED = (
    *SHARED,
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "attention_bias",
    "attention_dropout",
)
LLAMA_NAMES = (
    ("attention_norm", "input_layernorm"),
    ("feed_forward_norm", "post_attention_layernorm"),
    (".attention.", ".self_attn."),
    (".feed_forward.", ".mlp."),
)


def llama_from_config(config: LlamaConfig) -> OzymandiasConfig:
    return OzymandiasConfig(
        **pick(config, LLAMA_SHARED),
        rope_parameters=dict(config.rope_parameters),
        mlp_bias=getattr(config, "mlp_bias", False),
        norm_eps=config.rms_norm_eps,
        norm_type="rms_norm",
        position_type="rotary",
        feed_forward_type="gated",
        use_qk_norm=config.model_type == "qwen3",
    )


def qwen3_from_config(config: Qwen3Config) -> OzymandiasConfig:
    refuse(config, use_sliding_window=False)
    return llama_from_config(config)


def llama_to_config(config: OzymandiasConfig) -> LlamaConfig:
    return LlamaConfig(
        **pick(config, LLAMA_SHARED),
        rope_parameters=dict(config.rope_parameters),
        mlp_bias=config.mlp_bias,
        rms_norm_eps=config.norm_eps,
    )


def qwen3_to_config(config: OzymandiasConfig) -> Qwen3Config:
    return Qwen3Config(
        **pick(config, LLAMA_SHARED), rope_parameters=dict(config.rope_parameters), rms_norm_eps=config.norm_eps
    )


def llama_from_weights(weights: Weights, config: OzymandiasConfig) -> Weights:
    return rename(weights, [(theirs, ours) for ours, theirs in LLAMA_NAMES])


def llama_to_weights(weights: Weights, config: OzymandiasConfig) -> Weights:
    return rename(weights, LLAMA_NAMES)


MIXTRAL_SHARED = (
    *(name for name in LLAMA_SHARED if name != "attention_bias"),
    "num_local_experts",
    "num_experts_per_tok",
    "router_aux_loss_coef",
    "output_router_logits",
)


def mixtral_from_config(config: MixtralConfig) -> OzymandiasConfig:
    refuse(config, sliding_window=None, router_jitter_noise=0.0)
    return OzymandiasConfig(
        **pick(config, MIXTRAL_SHARED),
        rope_parameters=dict(config.rope_parameters),
        norm_eps=config.rms_norm_eps,
        norm_type="rms_norm",
        position_type="rotary",
        feed_forward_type="moe",
    )


def mixtral_to_config(config: OzymandiasConfig) -> MixtralConfig:
    return MixtralConfig(
        **pick(config, MIXTRAL_SHARED), rope_parameters=dict(config.rope_parameters), rms_norm_eps=config.norm_eps
    )


def mixtral_from_weights(weights: Weights, config: OzymandiasConfig) -> Weights:
    """Split the experts, which Mixtral stores in one tensor, with the gate's rows above those of up."""
    split = {}
    for name, weight in weights.items():
        if ".experts." not in name:
            split[name] = weight
            continue
        layer = name.rsplit(".", 1)[0]
        for number, matrix in enumerate(weight):
            if name.endswith("down_proj"):
                split[f"{layer}.{number}.down_proj.weight"] = matrix.contiguous()
            else:
                gate, up = matrix.chunk(2)
                split[f"{layer}.{number}.gate_proj.weight"] = gate.contiguous()
                split[f"{layer}.{number}.up_proj.weight"] = up.contiguous()
    return rename(split, [(".mlp.gate.", ".mlp.router."), *((theirs, ours) for ours, theirs in LLAMA_NAMES)])


def mixtral_to_weights(weights: Weights, config: OzymandiasConfig) -> Weights:
    """Join the experts of each layer in one tensor."""
    weights = rename(weights, [*LLAMA_NAMES, (".mlp.router.", ".mlp.gate.")])
    joined = {name: weight for name, weight in weights.items() if ".experts." not in name}
    for layer in range(config.num_hidden_layers):
        experts = f"model.layers.{layer}.mlp.experts"
        gate, up, down = (
            torch.stack([weights[f"{experts}.{n}.{part}_proj.weight"] for n in range(config.num_local_experts)])
            for part in ("gate", "up", "down")
        )
        joined[f"{experts}.gate_up_proj"] = torch.cat((gate, up), dim=1)
        joined[f"{experts}.down_proj"] = down
    return joined


OUR_NAMES = {"gelu_new": "gelu_pytorch_tanh"}


def gpt2_from_config(config: GPT2Config) -> OzymandiasConfig:
    refuse(
        config,
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
        resid_pdrop=config.embd_pdrop,
    )
    return OzymandiasConfig(
        **pick(config, SHARED),
        hidden_size=config.n_embd,
        num_hidden_layers=config.n_layer,
        num_attention_heads=config.n_head,
        intermediate_size=config.n_inner,
        max_position_embeddings=config.n_positions,
        hidden_act=OUR_NAMES.get(config.activation_function, config.activation_function),
        hidden_dropout=config.resid_pdrop,
        attention_dropout=config.attn_pdrop,
        norm_eps=config.layer_norm_epsilon,
        norm_type="layer_norm",
        position_type="learned",
        feed_forward_type="mlp",
        attention_bias=True,
        mlp_bias=True,
    )


def gpt2_to_config(config: OzymandiasConfig) -> GPT2Config:
    return GPT2Config(
        **pick(config, SHARED),
        n_embd=config.hidden_size,
        n_layer=config.num_hidden_layers,
        n_head=config.num_attention_heads,
        n_inner=config.intermediate_size,
        n_positions=config.max_position_embeddings,
        activation_function=config.hidden_act,
        resid_pdrop=config.hidden_dropout,
        embd_pdrop=config.hidden_dropout,
        attn_pdrop=config.attention_dropout,
        layer_norm_epsilon=config.norm_eps,
    )


GPT2_NAMES = (
    ("model.embed_tokens.", "transformer.wte."),
    ("model.positions.table.", "transformer.wpe."),
    ("model.layers.", "transformer.h."),
    ("model.norm.", "transformer.ln_f."),
    (".attention_norm.", ".ln_1."),
    (".feed_forward_norm.", ".ln_2."),
    (".attention.o_proj.", ".attn.c_proj."),
    (".feed_forward.up_proj.", ".mlp.c_fc."),
    (".feed_forward.down_proj.", ".mlp.c_proj."),
)
# GPT-2 stores these matrices as (inputs, outputs), and torch's linear layer as (outputs, inputs).
GPT2_TRANSPOSED = re.compile(r"(c_attn|c_proj|c_fc)\.weight$")


def transpose(weights: Weights) -> Weights:
    return {name: w.T.contiguous() if GPT2_TRANSPOSED.search(name) else w for name, w in weights.items()}


def gpt2_from_weights(weights: Weights, config: OzymandiasConfig) -> Weights:
    split = {}
    for name, weight in transpose(weights).items():
        if ".attn.c_attn." in name:  # queries, keys and values in one matrix
            for part, projection in zip(weight.chunk(3), ("q_proj", "k_proj", "v_proj"), strict=True):
                split[name.replace(".attn.c_attn.", f".attention.{projection}.")] = part.contiguous()
        else:
            split[name] = weight
    return rename(split, [(theirs, ours) for ours, theirs in GPT2_NAMES])


def gpt2_to_weights(weights: Weights, config: OzymandiasConfig) -> Weights:
    joined = {}
    for name, weight in weights.items():
        if ".q_proj." in name:
            parts = [weights[name.replace(".q_proj.", f".{p}_proj.")] for p in "qkv"]
            joined[name.replace(".attention.q_proj.", ".attn.c_attn.")] = torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            joined[name] = weight
    return transpose(rename(joined, GPT2_NAMES))


BERT_SHARED = (
    *SHARED,
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)
# Attention comes before feed-forward, because `.output.dense.` also ends the name of attention's output matrix.
BERT_NAMES = (
    ("model.embed_tokens.", "bert.embeddings.word_embeddings."),
    ("model.positions.table.", "bert.embeddings.position_embeddings."),
    ("model.embed_token_types.", "bert.embeddings.token_type_embeddings."),
    ("model.embedding_output.norm.", "bert.embeddings.LayerNorm."),
    ("model.layers.", "bert.encoder.layer."),
    (".attention.q_proj.", ".attention.self.query."),
    (".attention.k_proj.", ".attention.self.key."),
    (".attention.v_proj.", ".attention.self.value."),
    (".attention.o_proj.", ".attention.output.dense."),
    (".attention_norm.", ".attention.output.LayerNorm."),
    (".feed_forward.up_proj.", ".intermediate.dense."),
    (".feed_forward.down_proj.", ".output.dense."),
    (".feed_forward_norm.", ".output.LayerNorm."),
    ("lm_head.", "cls.predictions.decoder."),
    ("head.dense.", "cls.predictions.transform.dense."),
    ("head.norm.", "cls.predictions.transform.LayerNorm."),
)


def bert_from_config(config: BertConfig) -> OzymandiasConfig:
    refuse(config, is_decoder=False, add_cross_attention=False)
    return OzymandiasConfig(
        **pick(config, BERT_SHARED),
        hidden_act=OUR_NAMES.get(config.hidden_act, config.hidden_act),
        hidden_dropout=config.hidden_dropout_prob,
        attention_dropout=config.attention_probs_dropout_prob,
        norm_eps=config.layer_norm_eps,
        norm_type="layer_norm",
        norm_placement="post",
        use_embedding_norm=True,
        position_type="learned",
        feed_forward_type="mlp",
        attention_bias=True,
        mlp_bias=True,
        is_causal=False,
    )


def bert_to_config(config: OzymandiasConfig) -> BertConfig:
    return BertConfig(
        **pick(config, BERT_SHARED),
        hidden_act=config.hidden_act,
        hidden_dropout_prob=config.hidden_dropout,
        attention_probs_dropout_prob=config.attention_dropout,
        layer_norm_eps=config.norm_eps,
    )


def bert_from_weights(weights: Weights, config: OzymandiasConfig) -> Weights:
    # BERT stores the output bias twice, under the name of the matrix and under that of the head.
    weights = {name: weight for name, weight in weights.items() if name != "cls.predictions.bias"}
    return rename(weights, [(theirs, ours) for ours, theirs in BERT_NAMES])


def bert_to_weights(weights: Weights, config: OzymandiasConfig) -> Weights:
    return rename(weights, BERT_NAMES) | {"cls.predictions.bias": weights["lm_head.bias"]}


LLAMA_SHAPE = {
    "position_type": "rotary",
    "norm_type": "rms_norm",
    "feed_forward_type": "gated",
    "use_residual": True,
    "use_qk_norm": False,
    "hidden_dropout": 0,
    "norm_placement": "pre",
    "sliding_window": None,
    "final_logit_softcapping": None,
    **DECODER,
}
GPT2_SHAPE = {
    "position_type": "learned",
    "norm_type": "layer_norm",
    "feed_forward_type": "mlp",
    "use_residual": True,
    "use_qk_norm": False,
    "attention_bias": True,
    "mlp_bias": True,
    "norm_placement": "pre",
    "sliding_window": None,
    "final_logit_softcapping": None,
    "num_key_value_heads": lambda config: config.num_attention_heads,
    "head_dim": lambda config: config.hidden_size // config.num_attention_heads,
    **DECODER,
}
BERT_SHAPE = {
    **GPT2_SHAPE,
    "is_causal": False,
    "norm_placement": "post",
    "use_final_norm": False,
    "use_embedding_norm": True,
    "type_vocab_size": lambda config: max(1, config.type_vocab_size),
}
FAMILIES = {
    "bert": Family(BertForMaskedLM, BERT_SHAPE, bert_from_config, bert_to_config, bert_from_weights, bert_to_weights),
    "gpt2": Family(GPT2LMHeadModel, GPT2_SHAPE, gpt2_from_config, gpt2_to_config, gpt2_from_weights, gpt2_to_weights),
    "llama": Family(
        LlamaForCausalLM, LLAMA_SHAPE, llama_from_config, llama_to_config, llama_from_weights, llama_to_weights
    ),
    "mixtral": Family(
        MixtralForCausalLM,
        {**LLAMA_SHAPE, "feed_forward_type": "moe", "attention_bias": False, "mlp_bias": False},
        mixtral_from_config,
        mixtral_to_config,
        mixtral_from_weights,
        mixtral_to_weights,
    ),
    "qwen3": Family(
        Qwen3ForCausalLM,
        {**LLAMA_SHAPE, "use_qk_norm": True, "mlp_bias": False},
        qwen3_from_config,
        qwen3_to_config,
        llama_from_weights,
        llama_to_weights,
    ),
}
