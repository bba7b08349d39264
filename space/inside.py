"""What a forward pass shows: attention, the residual stream, the guess after every layer, the cache.

All of it comes from the weights of a checkpoint; the page draws it. Layers and heads are counted from 0.

Shapes: `length` tokens of a text, `hidden` the residual stream, `vocab` the tokens to choose from, `heads` query heads,
`queries` and `keys` positions that look and are looked at.
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
from space.token_scores import Chances, ScoredToken, judge_all, keep_chances, show_token
from tokenizer import token_bytes
from tokenizer.character import is_byte
from training.data import IGNORED, encode, encode_with_gaps
from training.evaluate import sliding_windows
from training.generate import stream_text

LONGEST_SCORED = 1200  # tokens: a whole answer, and what a page can wait for
LIMIT = 96  # tokens that are traced: as many rows and columns as can still be told apart

Heads = Sequence[tuple[int, int]]  # of each its layer, and its number there


@dataclass(frozen=True, eq=False)
class Trace:
    """What one forward pass over a text showed. Of an encoder-decoder `attention` and `hidden` are the decoder's.

    Attributes:
        ids, shown: the `length` tokens that were read, and how they are shown; beside an encoder, a start token first.
        left_out: tokens of the text before these, which were not read.
        attention: of each layer, `(heads, queries, keys)`; a row sums to 1.
        hidden: what enters the first block and what leaves each, before the final norm, `(layers + 1, length, hidden)`.
        logits: `(length, vocab)`, of the next token, or of an encoder's own.
        source_ids, source_shown, source_left_out, source_attention: the same of what the encoder beside a decoder read.
        cross_attention: of each layer of the decoder to the source, `(heads, length, source length)`.
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
    """Token embeddings in two dimensions: `points` is `(tokens, 2)`, `shares` what of the variance each one has."""

    ids: list[int]
    shown: list[str]
    points: torch.Tensor
    shares: tuple[float, float]


@dataclass(frozen=True)
class CacheStep:
    """One token written: the tokens read for it, the cache's bytes after it, and milliseconds with and without it."""

    tokens: int
    bytes: int
    cached_ms: float
    uncached_ms: float


@load_once
def load_eager(source: str, revision: str | None = None) -> tuple[PreTrainedModel, Tokenizer]:
    """Load a checkpoint to look into, once; its errors are those of [`load_checkpoint`].

    It is not the copy that writes for the readers, which is faster and records nothing.
    """
    model, tokenizer = load_checkpoint(source, revision)
    return open_up(model), tokenizer


def open_up(model: PreTrainedModel) -> PreTrainedModel:
    """Let a model record all that [`trace`] shows; it is changed in place.

    Only eager attention makes weights that can be kept. By itself transformers puts the state after the final norm in
    place of what leaves the last block. The hooks are installed at once, and not by the first of several threads: a
    copy that another made meanwhile would have some of them twice. What they collect is each thread's own.
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
    """Record one forward pass over the last tokens of a text, `LIMIT` at most and no more than the context.

    Args:
        model: as [`load_eager`] or [`open_up`] gives it.
        text: for an encoder-decoder, what the decoder has written; what it writes greedily, where this is empty.
        source: what the encoder beside a decoder reads.
        causal: `False` lets a decoder see what comes after each position too. It was never trained so: this shows what
            the mask is for, and not a better model. An encoder sees all in any case.
        muted: heads whose output is taken away, those of the decoder's self-attention in an encoder-decoder.

    Raises:
        UserError: an empty text, a head that does not exist, or a source that is missing or that nothing reads.
    """
    assert not getattr(main_stack(model).config, "tie_last_hidden_states", True), "give the model to open_up first"
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
        # A mask of four dimensions is used as it is, and 0 hides nothing.
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
    """The last `count` of some ids, and how many were before them."""
    left_out = max(0, len(ids) - count)
    return ids[left_out:], left_out


def check_texts(model: PreTrainedModel, text: str, source: str) -> None:
    """Refuse, with a [`UserError`], texts that this architecture cannot read."""
    check_encodable(text + source)
    both = model.config.is_encoder_decoder
    if source and not both:
        raise VisitorError("no_encoder")
    if not (source if both else text):
        raise VisitorError("no_source" if both else "no_text")


def check_decoder(model: PreTrainedModel, text: str) -> None:
    """Refuse any other architecture, and an empty text."""
    if model.config.is_encoder_decoder or not model.config.is_causal:
        raise VisitorError("no_decoder_alone")
    check_texts(model, text, "")


def main_stack(model: PreTrainedModel) -> OzymandiasModel:
    """The stack that ends in the output matrix."""
    return model.decoder if model.config.is_encoder_decoder else model.model


def mute(model: PreTrainedModel, heads: Heads) -> PreTrainedModel:
    """A copy of the model whose self-attention has nothing of these heads in its output; without any, the model.

    The output matrix adds up what each head gives, so a head is silent where its columns are 0.

    Raises:
        UserError: there is no such head.
    """
    if not heads:
        return model
    layers, count = len(main_stack(model).layers), model.config.num_attention_heads
    for layer, head in heads:
        if not (0 <= layer < layers and 0 <= head < count):
            which = "no_head" if layers else "no_attention"
            raise VisitorError(which, head=head + 1, layer=layer + 1, layers=layers, heads=count)
    model = copy.deepcopy(model)
    for layer, head in heads:
        attention = main_stack(model).layers[layer].attention
        attention.o_proj.weight.data.unflatten(1, (count, -1))[:, head] = 0  # (hidden, heads, head_dim)
    return model


def write_passage(model: PreTrainedModel, source: torch.Tensor, ids: torch.Tensor, length: int) -> torch.Tensor:
    """What the decoder beside an encoder has read when it has written `ids` and up to `length` tokens more, greedily.

    That begins with the token that starts it: `(1 + tokens,)`.
    """
    begun = torch.cat((ids.new_tensor([model.config.decoder_start_token_id]), ids))
    if length < 1:
        return begun
    return model.generate(source[None], decoder_input_ids=begun[None], max_new_tokens=length, do_sample=False)[0]


@torch.no_grad()
def logit_lens(model: PreTrainedModel, trace: Trace, top: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model would say, if it ended after each layer: the final norm and the output put behind each state.

    The last layer's is the model's own output. Source: nostalgebraist, "interpreting GPT: the logit lens", 2020,
    https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens.

    Returns:
        The probabilities of the `top` likeliest tokens and their ids, `(layers + 1, length, top)` each; the first is
        of the embeddings.
    """
    states = main_stack(model).norm(trace.hidden)
    if not model.config.is_causal:
        states = model.head(states)
    logits = soft_cap(model.lm_head(states), model.config.final_logit_softcapping)  # (layers + 1, length, vocab)
    return tuple(logits.softmax(-1).topk(top))


def residual_norms(trace: Trace) -> torch.Tensor:
    """The Euclidean length of each position's state at the start and after each block, `(layers + 1, length)`."""
    return trace.hidden.norm(dim=-1)


@torch.no_grad()
def embedding_map(model: PreTrainedModel, tokenizer: Tokenizer, size: int = 400) -> EmbeddingMap:
    """Token embeddings along the two directions in which they differ most: their first principal components.

    All tokens that are text decide the directions: bytes that are no character by themselves and special tokens, which
    training hardly touches, do not. The first `size` of the vocabulary are returned: of byte pairs, the commonest. The
    sign of a direction is arbitrary, and here makes its largest entry positive.
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
    """How likely a decoder holds each token of an answer, at temperature 1, after the prompt and those before it.

    The two are encoded each by itself, as the prompt was when the model wrote the answer: no token lies across their
    border. Past the context a window slides, and each token has at least half a context before it.

    Raises:
        UserError: an answer that is empty or has more than `LONGEST_SCORED` tokens, or a model that is not a decoder
            alone.
    """
    check_decoder(model, answer)
    context = model.config.max_position_embeddings
    given, written = encode(tokenizer, prompt)[-context:], encode(tokenizer, answer)
    if len(written) > LONGEST_SCORED:
        raise VisitorError("many_tokens", given=len(written), most=LONGEST_SCORED)
    inputs, targets = sliding_windows(torch.cat((given, written)), min(context, max(1, len(given) + len(written) - 1)))
    # The logits of a window, `(context, vocab)`, are large: only what is shown of them is kept.
    windows = [
        keep_chances(model(input_ids=x[None]).logits[0, y != IGNORED], y[y != IGNORED], top)
        for x, y in zip(inputs, targets, strict=True)
    ]
    chances = Chances(*(torch.cat(parts)[max(0, len(given) - 1) :] for parts in zip(*windows, strict=True)))
    return judge_all(tokenizer, chances, written.tolist())


def score_trace(model: PreTrainedModel, tokenizer: Tokenizer, trace: Trace, top: int = 5) -> list[ScoredToken]:
    """How likely the model held each token that it has read; an encoder, which sees them all, guesses none of them."""
    scored = trace.ids[1:] if model.config.is_causal else []
    chances = keep_chances(trace.logits[: len(scored)], torch.tensor(scored, dtype=torch.long), top)
    return judge_all(tokenizer, chances, trace.ids)


def cache_growth(model: PreTrainedModel, tokenizer: Tokenizer, text: str, steps: int) -> Iterator[CacheStep]:
    """Write on from a text greedily, each token once with the cache of keys and values and once without.

    The text's end is read, so much that all steps fit the context, of which there are no more than it has tokens. The
    first step reads all of it either way.

    Raises:
        UserError: an empty text, or a model that is no decoder alone.
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
    """The likeliest token `(1,)` after `ids` `(length,)` and what the cache holds, and the milliseconds it took."""
    begin = time.perf_counter()
    logits = model(input_ids=ids[None], past_key_values=cache, use_cache=cache is not None, logits_to_keep=1).logits
    token = logits[0].argmax(-1)
    return token, (time.perf_counter() - begin) * 1000


def written_with_and_without(
    model: PreTrainedModel, tokenizer: Tokenizer, text: str, muted: Heads, length: int, source: str = ""
) -> tuple[str, str]:
    """What the model writes greedily after a text, `length` tokens at most, as it is, and with heads muted.

    An encoder-decoder writes to the end of its context, and may begin without a text.

    Raises:
        UserError: an empty text, a head that does not exist, a source that is missing or that nothing reads, or an
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
