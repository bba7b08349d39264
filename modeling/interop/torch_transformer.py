"""Weights from and to `torch.nn.Transformer`, torch's own encoder and decoder of 2017.

It maps vectors to vectors, without vocabulary, positions or output matrix. In the Ozymandias model the token embeddings
are therefore the identity and `vocab_size` is `hidden_size`, so that its logits are torch's output.
"""

import torch
from torch import nn

from ..configuration_ozymandias import OzymandiasConfig
from ..modeling_ozymandias import OzymandiasForConditionalGeneration
from .family import Weights, list_obstacles, rename

ACTS = {nn.functional.relu: "relu", nn.functional.gelu: "gelu"}
SHAPE = {
    "position_type": "none",
    "norm_type": "layer_norm",
    "feed_forward_type": "mlp",
    "use_residual": True,
    "use_qk_norm": False,
    "use_final_norm": True,
    "use_embedding_norm": False,
    "add_cross_attention": True,
    "attention_bias": True,
    "mlp_bias": True,
    "sliding_window": None,
    "final_logit_softcapping": None,
    "vocab_size": lambda config: config.hidden_size,
    "num_key_value_heads": lambda config: config.num_attention_heads,
    "head_dim": lambda config: config.hidden_size // config.num_attention_heads,
}
SHARED_NAMES = [
    (".attention.o_proj.", ".self_attn.out_proj."),
    (".cross_attention.o_proj.", ".multihead_attn.out_proj."),
    (".feed_forward.up_proj.", ".linear1."),
    (".feed_forward.down_proj.", ".linear2."),
    (".attention_norm.", ".norm1."),
]
NAMES = {
    "encoder.": [*SHARED_NAMES, (".feed_forward_norm.", ".norm2.")],
    "decoder.": [*SHARED_NAMES, (".cross_attention_norm.", ".norm2."), (".feed_forward_norm.", ".norm3.")],
}
PACKED = {".self_attn.in_proj_": ".attention.", ".multihead_attn.in_proj_": ".cross_attention."}


def from_torch(module: nn.Transformer) -> OzymandiasForConditionalGeneration:
    """An Ozymandias encoder-decoder with the architecture and weights of a `torch.nn.Transformer`.

    Raises:
        ValueError: a custom encoder or decoder, an activation other than ReLU and GELU, or norms without bias.
    """
    if type(module.encoder) is not nn.TransformerEncoder or type(module.decoder) is not nn.TransformerDecoder:
        raise ValueError("An nn.Transformer with a custom encoder or decoder cannot be converted.")
    layer = module.decoder.layers[0]
    if layer.activation not in ACTS:
        raise ValueError(f"The activation {layer.activation} of nn.Transformer cannot be converted, only relu or gelu.")
    if layer.norm1.bias is None:
        raise ValueError(
            "bias=False of nn.Transformer cannot be converted: its norms then have no bias, and ours have one."
        )
    config = OzymandiasConfig(
        **{name: value for name, value in SHAPE.items() if not callable(value)},
        is_encoder_decoder=True,
        vocab_size=module.d_model,
        hidden_size=module.d_model,
        num_attention_heads=module.nhead,
        num_hidden_layers=len(module.decoder.layers),
        num_encoder_layers=len(module.encoder.layers),
        intermediate_size=layer.linear1.out_features,
        hidden_act=ACTS[layer.activation],
        norm_placement="pre" if layer.norm_first else "post",
        norm_eps=layer.norm1.eps,
        hidden_dropout=layer.dropout1.p,
        attention_dropout=layer.self_attn.dropout,
    )
    model = OzymandiasForConditionalGeneration(config)
    embeddings = dict.fromkeys(
        ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"), torch.eye(module.d_model)
    )
    model.load_state_dict(unpack(module.state_dict()) | embeddings)
    weight = next(module.parameters())
    return model.to(weight.device, weight.dtype).train(module.training)


def to_torch(model: OzymandiasForConditionalGeneration) -> nn.Transformer:
    """The same two stacks as a `torch.nn.Transformer` with `batch_first`.

    Raises:
        ValueError: an option that torch's class lacks, or token embeddings, which it cannot hold.
    """
    config = model.config
    obstacles = list_obstacles(SHAPE, config)
    if obstacles:
        raise ValueError(f"No native class can express this config: torch.nn.Transformer by {', '.join(obstacles)}.")
    if not torch.equal(model.lm_head.weight, torch.eye(config.hidden_size).to(model.lm_head.weight)):
        raise ValueError("torch.nn.Transformer cannot hold token embeddings, and these are not the identity.")
    module = nn.Transformer(
        d_model=config.hidden_size,
        nhead=config.num_attention_heads,
        num_encoder_layers=config.num_encoder_layers,
        num_decoder_layers=config.num_hidden_layers,
        dim_feedforward=config.intermediate_size,
        dropout=config.hidden_dropout,
        activation=config.hidden_act,
        layer_norm_eps=config.norm_eps,
        batch_first=True,
        norm_first=config.norm_placement == "pre",
    )
    module.load_state_dict(pack(model.state_dict()))
    return module.to(model.device, model.dtype).train(model.training)


def unpack(weights: Weights) -> Weights:
    """torch's weights under our names. torch packs the query, key and value projections into one matrix."""
    split = {}
    for name, weight in weights.items():
        for packed, attention in PACKED.items():
            if packed in name:
                layer, kind = name.split(packed)  # kind is "weight" or "bias"
                for part, projection in zip(weight.chunk(3), ("q_proj", "k_proj", "v_proj"), strict=True):
                    split[f"{layer}{attention}{projection}.{kind}"] = part.clone()
                break
        else:
            split[name] = weight
    return by_stack(split, theirs_to_ours=True)


def pack(weights: Weights) -> Weights:
    """Our weights under torch's names."""
    joined = {}
    for name, weight in weights.items():
        for packed, attention in PACKED.items():
            if f"{attention}q_proj." in name:
                parts = [weights[name.replace(".q_proj.", f".{p}_proj.")] for p in "qkv"]
                joined[name.replace(f"{attention}q_proj.", packed)] = torch.cat(parts)
        if not any(part in name for part in (".q_proj.", ".k_proj.", ".v_proj.", "embed_tokens", "lm_head")):
            joined[name] = weight
    return by_stack(joined, theirs_to_ours=False)


def by_stack(weights: Weights, theirs_to_ours: bool) -> Weights:
    """Rename the weights of each stack: the norm of the feed-forward is norm2 in an encoder and norm3 in a decoder."""
    renamed: Weights = {}
    for stack, pairs in NAMES.items():
        pairs = [(theirs, ours) for ours, theirs in pairs] if theirs_to_ours else pairs
        renamed |= rename({name: w for name, w in weights.items() if name.startswith(stack)}, pairs)
    return renamed
