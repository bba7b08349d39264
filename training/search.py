"""Find the passages of a text that are nearest to a few words, by the vectors of an encoder.

    python -m training.search "the tin woodman weeps"
    python -m training.search "a storm at sea" --corpus my.txt --checkpoint runs/mine/best --top 3

The first search in a text makes the vectors of all its passages and keeps them as safetensors; later ones read them.
"""

import argparse
import hashlib
import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from modeling.conversion import load_model
from training.command import UserError, in_one_line, run_command
from training.corpora import NAMES, cache_folder, load_corpus

CHECKPOINT = Path(__file__).parent.parent / "space" / "checkpoints" / "oz-next-passage"
SENTENCE = re.compile(r"[^.!?…]*[.!?…]*[”’\"')\]]*\s*", re.DOTALL)


def cut_passages(text: str, longest: int) -> list[tuple[int, int]]:
    """Beginnings and ends of passages of at most `longest` characters: as many whole sentences as fit, in order.

    A paragraph ends a passage, and a sentence that is too long by itself is cut between words, or within one that is
    longer still.
    """
    passages: list[tuple[int, int]] = []
    for paragraph in re.finditer(r"\S(?:.*?\S)?(?=\s*\n\s*\n|\s*\Z)", text, re.DOTALL):
        begin = end = paragraph.start()
        for sentence in SENTENCE.finditer(text, paragraph.start(), paragraph.end()):
            if sentence.end() - begin > longest and end > begin:
                passages.append((begin, end))
                begin = end
            end = sentence.end()
            while end - begin > longest:
                space = max(text.rfind(mark, begin + 1, begin + longest) for mark in " \n")
                cut = begin + longest if space < 0 else space + 1
                passages.append((begin, cut))
                begin = cut
        if end > begin:
            passages.append((begin, end))
    return passages


@torch.no_grad()
def embed(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str], progress: bool) -> torch.Tensor:
    """The mean of an encoder's last hidden states over each text, `(texts, hidden)`."""
    encoder = model.encoder if model.config.is_encoder_decoder else model.base_model
    tokenizer.padding_side = "right"
    longest = model.config.max_position_embeddings
    vectors = []
    for start in tqdm(range(0, len(texts), 64), unit="batch", disable=not progress):
        batch = tokenizer(
            texts[start : start + 64], padding=True, truncation=True, max_length=longest, return_tensors="pt"
        )
        inside = batch["attention_mask"][..., None]  # (batch, length, 1)
        states = encoder(batch["input_ids"], batch["attention_mask"])[0]  # (batch, length, hidden)
        vectors.append((states * inside).sum(1) / inside.sum(1))
    return torch.cat(vectors)


def compare(vectors: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """The cosine of `query` `(hidden)` with each of `vectors` `(texts, hidden)`, after what all share is taken off.

    Vectors of one encoder lie in a narrow cone, in which all texts seem alike; their mean is its axis. Source: Mu and
    Viswanath, "All-but-the-Top", 2018, https://arxiv.org/abs/1702.01417.
    """
    mean = vectors.mean(0)
    return nn.functional.cosine_similarity(vectors - mean, (query - mean)[None])


def passage_vectors(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, path: Path | None = None
) -> tuple[list[tuple[int, int]], torch.Tensor]:
    """The passages of a text and their vectors, from the file at `path` where it has those of this model and text.

    Raises:
        UserError: a text without a passage, or a file that cannot be written.
    """
    passages = cut_passages(text, model.config.max_position_embeddings)
    if not passages:
        raise UserError("the text has no passage to search; give a longer one.")
    weights = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        weights.update(name.encode() + weight.float().cpu().numpy().tobytes())
    of = {"model": weights.hexdigest(), "text": hashlib.sha256(text.encode()).hexdigest()}
    path = path or cache_folder() / "vectors" / f"{of['model'][:16]}-{of['text'][:16]}.safetensors"
    try:
        with safe_open(path, "pt") as file:
            if file.metadata() == of:
                return passages, file.get_tensor("vectors")
    except (OSError, SafetensorError):
        pass  # none yet, or not whole: they are made anew
    vectors = embed(model, tokenizer, [text[begin:end] for begin, end in passages], progress=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.part")
        save_file({"vectors": vectors}, unfinished, metadata=of)
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} could not be written ({in_one_line(error)}); give another --vectors.") from error
    return passages, vectors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("query", help="a few words, or a sentence")
    parser.add_argument("--corpus", default="oz", help=f"{', '.join(NAMES)}, or a path (default %(default)s)")
    parser.add_argument(
        "--checkpoint", default=str(CHECKPOINT), help="an encoder or encoder-decoder (default %(default)s)"
    )
    parser.add_argument("--vectors", type=Path, help="the file of the vectors (default: one in the cache)")
    parser.add_argument("--top", type=int, default=5, help="passages to print (default %(default)s)")
    arguments = parser.parse_args()
    if not arguments.query.strip():
        raise UserError("there is nothing to look for; give a few words.")
    text = load_corpus(arguments.corpus).text
    try:
        tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint)
        model = load_model(arguments.checkpoint).eval()
    except (OSError, ValueError) as error:
        raise UserError(f"{arguments.checkpoint} cannot be loaded: {in_one_line(error)}") from None
    if not model.config.is_encoder_decoder and model.config.is_causal:
        raise UserError(f"{arguments.checkpoint} is a decoder, which sees no text whole; give an encoder.")
    passages, vectors = passage_vectors(model, tokenizer, text, arguments.vectors)
    scores = compare(vectors, embed(model, tokenizer, [arguments.query], progress=False)[0])
    for score, index in zip(
        *(best.tolist() for best in scores.topk(min(max(arguments.top, 1), len(passages)))), strict=True
    ):
        begin, end = passages[index]
        print(f"{score:.3f}  {begin:>8,}  {' '.join(text[begin:end].split())}")


if __name__ == "__main__":
    run_command(main)
