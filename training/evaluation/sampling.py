"""Stream text from a model, also beyond its context.

`model.generate` is limited to the context. [`stream_text`] is a plain Python generator: when the caller stops
iterating, the work stops and no thread is left. A seed gives the same text whatever else runs.
"""

import codecs
from collections.abc import Iterator

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation import TopPLogitsWarper

from tokenizer import token_bytes


def stream_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[str]:
    """Yield the continuation of `prompt` in pieces of whole characters.

    Args:
        prompt: at least one character; if it is longer than the context, only its end is used.
        temperature: divides the logits; 0 takes the most likely token.
        top_p: sample only from the most likely tokens whose probabilities add up to this (Holtzman et al., 2019,
            https://arxiv.org/abs/1904.09751).
        seed: the same seed gives the same text.

    Raises:
        ValueError: an empty prompt.
    """
    prompt_ids = tokenizer(prompt, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    if not prompt_ids:
        raise ValueError("The prompt is empty; give at least one character to continue from.")
    # The bytes of a character can be spread over several tokens: only whole characters are yielded.
    characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in stream_tokens(model, prompt_ids, max_new_tokens, temperature, top_p, seed):
        if piece := characters.decode(token_bytes(tokenizer, token)):
            yield piece
    if rest := characters.decode(b"", final=True):
        yield rest


def stream_tokens(
    model: PreTrainedModel, prompt_ids: list[int], max_new_tokens: int, temperature: float, top_p: float, seed: int
) -> Iterator[int]:
    """Yield new tokens, up to an end token or `max_new_tokens`.

    When the context is full, a new one starts from its last half: one prefill per half context, and the cache in
    between.
    """
    context = model.config.max_position_embeddings
    end = model.config.eos_token_id
    ends = set(end) if isinstance(end, list) else {end}
    # A converted GPT-2 has the same token for beginning and end, so it must stay possible.
    special = {model.config.bos_token_id, model.config.pad_token_id} - ends - {None}
    never = torch.tensor(sorted(special), dtype=torch.long)
    generator = torch.Generator().manual_seed(seed)
    window = list(prompt_ids)
    unread = None  # tokens that are not in the cache yet; None starts a new cache
    for _ in range(max_new_tokens):
        if unread is None or len(window) > context:
            window = window if len(window) < context else window[-max(1, context // 2) :]
            cache, unread = DynamicCache(config=model.config), window
        with torch.no_grad():
            inputs = torch.tensor([unread], device=model.device)  # (1, length)
            outputs = model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits = outputs.logits[0, -1:].float().cpu()  # (1, vocab)
        logits[:, never] = -torch.inf
        token = choose(logits, temperature, top_p, generator)
        if token in ends:
            return
        yield token
        window.append(token)
        unread = [token]


def choose(logits: torch.Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """Sample a token from `logits` `(1, vocab)`."""
    if temperature == 0:
        return int(logits.argmax())
    logits = logits / temperature
    if top_p < 1:
        logits = TopPLogitsWarper(top_p)(None, logits)
    return int(torch.multinomial(logits.softmax(-1), 1, generator=generator))


def write_passage(
    model: PreTrainedModel,
    source: torch.Tensor,
    written: torch.Tensor,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> torch.Tensor:
    """Let an encoder-decoder continue what its decoder has written.

    Args:
        source: the token ids that the encoder reads, `(source length,)`.
        written: the token ids that the decoder has written so far, `(length,)`; may be empty.
        max_new_tokens: add at most this many tokens; below 1, none.
        temperature, top_p, seed: as for [`stream_text`].

    Returns:
        The decoder's start token, `written` and the new tokens, `(1 + length + new,)`.
    """
    begun = torch.cat((written.new_tensor([model.config.decoder_start_token_id]), written))
    if max_new_tokens < 1:
        return begun
    settings = {"do_sample": False}
    if temperature:
        torch.manual_seed(seed)
        settings = {"do_sample": True, "temperature": temperature, "top_p": top_p}
    return model.generate(
        source[None],
        attention_mask=torch.ones_like(source[None]),
        decoder_input_ids=begun[None],
        max_new_tokens=max_new_tokens,
        **settings,
    )[0]
