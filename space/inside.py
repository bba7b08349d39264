"""What happens inside a model: attention, the residual stream, the prediction after each layer, the cache.

The tabs draw what is computed here from the weights of a checkpoint. Layers and heads are counted from 0.

Shapes: `length` tokens of a text, `hidden` width of the residual stream, `vocab` size of the vocabulary, `heads` query
heads, `queries` and `keys` positions that attend and are attended to.
"""

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from modeling import OzymandiasModel
from modeling.modeling_ozymandias import soft_cap
from space.language import VisitorError, check_encodable
from space.loading import load_checkpoint, load_once
from space.token_scores import LogProbabilities, ScoredToken, score_all, select_likeliest, show_token
from tokenizer import token_bytes
from tokenizer.character import is_byte
from training.data.windows import IGNORED, encode, encode_with_gaps
from training.evaluation.sampling import stream_text, write_passage
from training.evaluation.scores import sliding_windows

LONGEST_SCORED = 1200  # tokens: more than any answer has, and few enough for a visitor to wait for
LIMIT = 96  # tokens that are traced: the rows and columns of a plot must stay legible

Heads = Sequence[tuple[int, int]]  # (layer, head)


@dataclass(frozen=True, eq=False)
class Trace:
    """A record of one forward pass over a text.

    Of an encoder-decoder, `ids`, `attention`, `hidden` and `logits` are the decoder's.

    Attributes:
        ids, shown: the `length` tokens that were read, and how a page shows them. A decoder's start token comes first.
        left_out: how many tokens of the text before these were not read.
        attention: one `(heads, queries, keys)` for each layer; a row sums to 1.
        hidden: the input of the first block and the output of each, before the final norm, `(layers + 1, length,
            hidden)`.
        logits: `(length, vocab)`; a decoder's predict the next token, an encoder's the token itself.
        source_ids, source_shown, source_left_out, source_attention: the same for the source that the encoder of an
            encoder-decoder read.
        cross_attention: one `(heads, length, source length)` for each layer of the decoder.
    """

    ids: list[int]
    shown: list[str]
    left_out: int
    attention: tuple[torch.Tensor, ...]
    hidden: torch.Tensor
    logits: torch.Tensor
    source_ids: Sequence[int] = ()
    source_shown: Sequence[str] = ()
    source_left_out: int = 0
    source_attention: tuple[torch.Tensor, ...] = ()
    cross_attention: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True, eq=False)
class EmbeddingMap:
    """Token embeddings in two dimensions: `points` is `(tokens, 2)`, `shares` the variance that each explains."""

    ids: list[int]
    shown: list[str]
    points: torch.Tensor
    shares: tuple[float, float]


@dataclass(frozen=True)
class CacheStep:
    """The cost of one token: how many `tokens` precede it, the cache's `bytes`, and the time with and without it."""

    tokens: int
    bytes: int
    cached_ms: float
    uncached_ms: float


@load_once
def load_traceable(source: str, revision: str | None = None) -> tuple[PreTrainedModel, Tokenizer]:
    """Load a checkpoint that can be traced, once. Its errors are those of [`load_checkpoint`].

    Answers are written by another copy, which is faster and records nothing.
    """
    model, tokenizer = load_checkpoint(source, revision)
    return make_traceable(model), tokenizer


def make_traceable(model: PreTrainedModel) -> PreTrainedModel:
    """Prepare a model, in place, to record everything that [`trace`] returns.

    Only eager attention returns its weights. By default transformers returns the state after the final norm instead of
    the last block's output. The hooks are installed here rather than at the first call, which several threads may make
    at once: a copy of the model made meanwhile could have some of them twice. Each thread collects its own outputs.
    """
    model.eval().set_attn_implementation("eager")
    for stack in model.modules():
        if isinstance(stack, OzymandiasModel):
            stack.config.tie_last_hidden_states = False
            maybe_install_capturing_hooks(stack)
    return model


@torch.no_grad()
def trace(
    model: PreTrainedModel, tokenizer: Tokenizer, text: str, source: str = "", causal: bool = True, muted: Heads = ()
) -> Trace:
    """Record one forward pass over the last tokens of a text, at most `LIMIT` and no more than the context.

    Args:
        model: as [`load_traceable`] or [`make_traceable`] returns it.
        text: for an encoder-decoder, what the decoder has written; if empty, it writes greedily first.
        source: what the encoder of an encoder-decoder reads.
        causal: `False` lets a decoder also see the tokens after each position. It was not trained that way, so this
            shows what the mask is for, not a better model. An encoder always sees all tokens.
        muted: heads of the self-attention whose output is set to zero; of an encoder-decoder, the decoder's.

    Raises:
        UserError: an empty text, a head that does not exist, a missing source, or a source that the model cannot read.
    """
    assert not getattr(main_stack(model).config, "tie_last_hidden_states", True), "call make_traceable first"
    check_texts(model, text, source)
    model = mute(model, muted)
    longest = min(LIMIT, model.config.max_position_embeddings)
    read, source_left_out = last(encode(tokenizer, source), longest)
    if model.config.is_encoder_decoder:
        ids, left_out = last(encode(tokenizer, text), longest - 1)
        ids = write_passage(model, read, ids, 0 if text else longest - 1)
        inputs, prefix = {"input_ids": read[None], "decoder_input_ids": ids[None]}, "decoder_"
    else:
        ids = encode(tokenizer, text) if model.config.is_causal else encode_with_gaps(tokenizer, text)
        ids, left_out = last(ids, longest)
        inputs, prefix = {"input_ids": ids[None]}, ""
    if not causal and model.config.is_causal:
        # A mask with four dimensions is added to the scores as it is, and 0 hides nothing.
        inputs[f"{prefix}attention_mask"] = torch.zeros(1, 1, len(ids), len(ids))
    outputs = model(**inputs, output_attentions=True, output_hidden_states=True, output_router_logits=False)
    return Trace(
        ids=ids.tolist(),
        shown=[show_token(tokenizer, token) for token in ids.tolist()],
        left_out=left_out,
        attention=tuple(layer[0] for layer in outputs[f"{prefix}attentions"]),
        hidden=torch.cat(outputs[f"{prefix}hidden_states"]),
        logits=outputs.logits[0],
        source_ids=read.tolist(),
        source_shown=[show_token(tokenizer, token) for token in read.tolist()],
        source_left_out=source_left_out,
        source_attention=tuple(layer[0] for layer in outputs.get("encoder_attentions", ())),
        cross_attention=tuple(layer[0] for layer in outputs.get("cross_attentions", ())),
    )


def last(ids: torch.Tensor, count: int) -> tuple[torch.Tensor, int]:
    """The last `count` ids, and how many come before them."""
    left_out = max(0, len(ids) - count)
    return ids[left_out:], left_out


def check_texts(model: PreTrainedModel, text: str, source: str) -> None:
    """Raise a [`UserError`] for texts that this architecture cannot read."""
    check_encodable(text + source)
    reads_source = model.config.is_encoder_decoder
    if source and not reads_source:
        raise VisitorError("no_encoder")
    if not (source if reads_source else text):
        raise VisitorError("no_source" if reads_source else "no_text")


def check_decoder(model: PreTrainedModel, text: str) -> None:
    """Raise a [`UserError`] unless the model is a decoder and the text is not empty."""
    if model.config.is_encoder_decoder or not model.config.is_causal:
        raise VisitorError("no_decoder_alone")
    check_texts(model, text, "")


def main_stack(model: PreTrainedModel) -> OzymandiasModel:
    """The stack of blocks whose output goes to the language-model head."""
    return model.decoder if model.config.is_encoder_decoder else model.model


def mute(model: PreTrainedModel, heads: Heads) -> PreTrainedModel:
    """A copy of the model without the output of these heads of its self-attention; the model itself if there are none.

    The output projection sums the contributions of all heads, so zeroing a head's columns mutes it.

    Raises:
        UserError: there is no such head.
    """
    if not heads:
        return model
    layers, count = len(main_stack(model).layers), model.config.num_attention_heads
    for layer, head in heads:
        if not (0 <= layer < layers and 0 <= head < count):
            key = "no_head" if layers else "no_attention"
            raise VisitorError(key, head=head + 1, layer=layer + 1, layers=layers, heads=count)
    model = copy.deepcopy(model)
    for layer, head in heads:
        attention = main_stack(model).layers[layer].attention
        attention.o_proj.weight.data.unflatten(1, (count, -1))[:, head] = 0  # (hidden, heads, head_dim)
    return model


@torch.no_grad()
def logit_lens(model: PreTrainedModel, trace: Trace, top: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model would predict if it ended after each layer: final norm and head applied to every state.

    The last layer's prediction is the model's own. Source: nostalgebraist, "interpreting GPT: the logit lens", 2020,
    https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens.

    Returns:
        The probabilities of the `top` most likely tokens and their ids, `(layers + 1, length, top)` each. Index 0 is
        the prediction from the embeddings.
    """
    states = main_stack(model).norm(trace.hidden)
    if not model.config.is_causal:
        states = model.head(states)
    logits = soft_cap(model.lm_head(states), model.config.final_logit_softcapping)  # (layers + 1, length, vocab)
    return tuple(logits.softmax(-1).topk(top))


def residual_norms(trace: Trace) -> torch.Tensor:
    """The Euclidean norm of each position's state, before the first block and after each, `(layers + 1, length)`."""
    return trace.hidden.norm(dim=-1)


@torch.no_grad()
def embedding_map(model: PreTrainedModel, tokenizer: Tokenizer, size: int = 400) -> EmbeddingMap:
    """Project the token embeddings onto their first two principal components.

    The components are those of all tokens that are text. Special tokens and single bytes, which training hardly
    touches, are left out. The first `size` tokens of the vocabulary are returned; of byte pairs these are the most
    common. The sign of a component is arbitrary; its largest entry is made positive.
    """
    pieces, special = tokenizer.convert_ids_to_tokens(range(len(tokenizer))), set(tokenizer.all_special_ids)
    ids = [token for token, piece in enumerate(pieces) if token not in special and not is_byte(piece)]
    texts = (token_bytes(tokenizer, token).decode(errors="surrogateescape") for token in ids)
    ids = [token for token, text in zip(ids, texts, strict=True) if text.strip("\n").isprintable()]
    embeddings = model.get_input_embeddings().weight[ids]  # (tokens, hidden)
    centred = embeddings - embeddings.mean(0)
    _, spread, directions = torch.linalg.svd(centred, full_matrices=False)
    directions = directions[:2]  # (2, hidden)
    directions = directions * directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()
    shares = (spread.square() / spread.square().sum())[:2].tolist()
    points = centred[:size] @ directions.T  # (tokens, 2)
    return EmbeddingMap(ids[:size], [show_token(tokenizer, token) for token in ids[:size]], points, tuple(shares))


@torch.no_grad()
def score_tokens(
    model: PreTrainedModel, tokenizer: Tokenizer, prompt: str, answer: str, top: int = 5
) -> list[ScoredToken]:
    """The probability that a decoder gives to each token of an answer at temperature 1, after all tokens before it.

    Prompt and answer are encoded separately, as they were when the answer was written: no token crosses their border.
    Past the context a window slides, and each token has at least half a context before it.

    Raises:
        UserError: an answer that is empty or has more than `LONGEST_SCORED` tokens, or a model that is not
            decoder-only.
    """
    check_decoder(model, answer)
    context = model.config.max_position_embeddings
    before, written = encode(tokenizer, prompt)[-context:], encode(tokenizer, answer)
    if len(written) > LONGEST_SCORED:
        raise VisitorError("many_tokens", value=len(written), most=LONGEST_SCORED)
    ids = torch.cat((before, written))
    inputs, targets = sliding_windows(ids, min(context, max(1, len(ids) - 1)))
    # The logits of a window, `(context, vocab)`, are large: keep only what is shown.
    windows = [
        select_likeliest(model(input_ids=x[None]).logits[0, y != IGNORED], y[y != IGNORED], top)
        for x, y in zip(inputs, targets, strict=True)
    ]
    scores = LogProbabilities(*(torch.cat(parts)[max(0, len(before) - 1) :] for parts in zip(*windows, strict=True)))
    return score_all(tokenizer, scores, written.tolist())


def score_trace(model: PreTrainedModel, tokenizer: Tokenizer, trace: Trace, top: int = 5) -> list[ScoredToken]:
    """The tokens of a trace with their probabilities; an encoder's have none, since it sees all of them."""
    scored = trace.ids[1:] if model.config.is_causal else []
    scores = select_likeliest(trace.logits[: len(scored)], torch.tensor(scored, dtype=torch.long), top)
    return score_all(tokenizer, scores, trace.ids)


def cache_growth(model: PreTrainedModel, tokenizer: Tokenizer, text: str, steps: int) -> Iterator[CacheStep]:
    """Continue a text greedily, and compute every token both with and without the key-value cache.

    Only the end of the text is read, so that all steps fit the context; there are no more steps than it has positions.
    The first step reads the whole text either way.

    Raises:
        UserError: an empty text, or a model that is not decoder-only.
    """
    check_decoder(model, text)
    steps = min(steps, context := model.config.max_position_embeddings)
    read, _ = last(encode(tokenizer, text), context - steps + 1)
    cache, unread = DynamicCache(config=model.config), read
    for _ in range(steps):
        token, cached_ms = find_likeliest(model, unread, cache)
        _, uncached_ms = find_likeliest(model, read, None)
        size = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        yield CacheStep(len(read), size, cached_ms, uncached_ms)
        unread, read = token, torch.cat((read, token))


@torch.no_grad()
def find_likeliest(model: PreTrainedModel, ids: torch.Tensor, cache: DynamicCache | None) -> tuple[torch.Tensor, float]:
    """The most likely token `(1,)` after the cached tokens and `ids` `(length,)`, and how many milliseconds it took."""
    begin = time.perf_counter()
    logits = model(input_ids=ids[None], past_key_values=cache, use_cache=cache is not None, logits_to_keep=1).logits
    token = logits[0].argmax(-1)
    return token, (time.perf_counter() - begin) * 1000


def write_with_and_without(
    model: PreTrainedModel, tokenizer: Tokenizer, text: str, muted: Heads, length: int, source: str = ""
) -> tuple[str, str]:
    """What the model writes greedily after a text, at most `length` tokens, first with all heads, then with some muted.

    An encoder-decoder stops at the end of its context, and the text may be empty.

    Raises:
        UserError: an empty text, a head that does not exist, a source that is missing or cannot be read, or an
            encoder, which writes nothing.
    """
    if not model.config.is_causal:
        raise VisitorError("writes_nothing")
    check_texts(model, text, source)
    context = model.config.max_position_embeddings
    read, ids = last(encode(tokenizer, source), context)[0], last(encode(tokenizer, text), context - 1)[0]

    def write(model: PreTrainedModel) -> str:
        if not model.config.is_encoder_decoder:
            return "".join(stream_text(model, tokenizer, text, length, temperature=0))
        written = write_passage(model, read, ids, min(length, context - len(ids)))
        return tokenizer.decode(written[1 + len(ids) :], skip_special_tokens=True)

    return write(model), write(mute(model, muted))
