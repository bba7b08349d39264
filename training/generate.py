"""Writing on from a prompt, a piece of text at a time.

    python -m training.generate runs/mine/best "The moon"
    python -m training.generate space/checkpoints/english "The moon" --temperature 0.7 --number 3 --length 400
    cat beginning.txt | python -m training.generate runs/mine/best - > text.txt

An encoder-decoder reads the prompt and writes the passage after it.

`model.generate` writes within the context; `stream_text` also writes past it, as a plain Python generator: whoever
stops asking has stopped the work, no thread goes on, and a text with its own seed is repeatable beside other users.
"""

import argparse
import codecs
import sys
from collections.abc import Iterator

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation import TopPLogitsWarper
from transformers.utils.logging import disable_progress_bar

from tokenizer import token_bytes
from training.command import UserError, printable, run_command


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
        prompt: at least one character; of a prompt past the context the end is used.
        temperature: divides the logits; 0 takes the likeliest token.
        top_p: draw from the likeliest tokens that have this probability together (Holtzman et al., 2019,
            https://arxiv.org/abs/1904.09751).
        seed: the same seed gives the same text.

    Raises:
        ValueError: an empty prompt.
    """
    prompt_ids = tokenizer(prompt, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    if not prompt_ids:
        raise ValueError("The prompt is empty; give at least one character to write on from.")
    # Bytes of one character can come as several tokens: only whole characters are handed out.
    characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in stream_tokens(model, prompt_ids, max_new_tokens, temperature, top_p, seed):
        if piece := characters.decode(token_bytes(tokenizer, token)):
            yield piece
    if rest := characters.decode(b"", final=True):
        yield rest


def stream_tokens(
    model: PreTrainedModel, prompt_ids: list[int], max_new_tokens: int, temperature: float, top_p: float, seed: int
) -> Iterator[int]:
    """Yield new tokens until one of the end tokens or `max_new_tokens`.

    When the context is full, the last half of it starts a new one: one prefill for every half context, and the cache
    in between.
    """
    context = model.config.max_position_embeddings
    end = model.config.eos_token_id
    ends = set(end) if isinstance(end, list) else {end}
    # The end token of a converted GPT-2 is its first token too, and has to be drawn.
    special = {model.config.bos_token_id, model.config.pad_token_id} - ends - {None}
    never = torch.tensor(sorted(special), dtype=torch.long)
    generator = torch.Generator().manual_seed(seed)
    window = list(prompt_ids)
    unread = None  # what the cache has not seen; None starts a new cache
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
    """Draw one token from `logits` `(1, vocab)`."""
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
        max_new_tokens: the most tokens to add; below 1 nothing is added.
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


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse values that no text can be written with.

    Raises:
        UserError: all that is wrong with them.
    """
    rules = {
        "--temperature": (0 <= arguments.temperature < float("inf"), "must be 0 or more"),
        "--top-p": (0 < arguments.top_p <= 1, "must be above 0 and at most 1"),
        "--length": (arguments.length >= 1, "must be at least 1"),
        "--number": (arguments.number >= 1, "must be at least 1"),
        "the prompt": (bool(arguments.prompt), "must have at least one character"),
    }
    if wrong := [f"{name} {rule}" for name, (kept, rule) in rules.items() if not kept]:
        raise UserError("; ".join(wrong) + ".")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a checkpoint's folder or Hub id")
    parser.add_argument("prompt", help="what the text begins with; - reads it from the standard input")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest (default %(default)s)")
    parser.add_argument("--top-p", type=float, default=0.95, help="share of the likeliest (default %(default)s)")
    parser.add_argument("--length", type=int, default=256, help="tokens, at most, of a text (default %(default)s)")
    parser.add_argument("--number", type=int, default=1, help="texts to write (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the first text; others count on (default %(default)s)")
    parser.add_argument("--device", help="cpu, cuda, mps ... (default: the accelerator, where there is one)")
    arguments = parser.parse_args()
    if arguments.prompt == "-":
        arguments.prompt = sys.stdin.read().removesuffix("\n")
    check_arguments(arguments)

    from training.checkpoints import load_trained
    from training.kernels import choose_device

    disable_progress_bar()
    tokenizer, model = load_trained(arguments.checkpoint)
    if not (model.config.is_causal or model.config.is_encoder_decoder):
        raise UserError(f"{arguments.checkpoint} is an encoder, which fills gaps and writes no text; give a decoder.")
    model = model.to(choose_device(arguments.device)).eval()
    show = printable if sys.stdout.isatty() else str
    for number in range(arguments.number):
        settings = (arguments.temperature, arguments.top_p, arguments.seed + number)
        if number:
            print("\n---\n")
        if model.config.is_encoder_decoder:
            context = model.config.max_position_embeddings
            source = tokenizer(arguments.prompt, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
            source = source[-context:].to(model.device)
            ids = write_passage(model, source, source[:0], min(arguments.length, context - 1), *settings)
            print(show(tokenizer.decode(ids, skip_special_tokens=True)))
            continue
        print(show(arguments.prompt), end="", flush=True)
        for piece in stream_text(model, tokenizer, arguments.prompt, arguments.length, *settings):
            print(show(piece), end="", flush=True)
        print()


if __name__ == "__main__":
    run_command(main)
