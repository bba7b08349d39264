"""Find the passages of a text that are most similar to a few words, by the vectors of an encoder.

    python -m training.evaluation.search "the tin woodman weeps"
    python -m training.evaluation.search "a storm at sea" --corpus my.txt --checkpoint runs/mine/best --top 3

A passage has one vector for each of its words, which depends on the words around it. The first search in a text
computes the vectors of all its passages and caches them as safetensors. Each line of output is a score, at most
1, the position of the passage in the text, and the passage.
"""

import argparse
import hashlib
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.command import UserError, in_one_line, run_command
from training.data.corpora import NAMES, cache_folder, load_corpus
from training.files import whole_file
from training.loading import choose_device, load_trained

CHECKPOINT = Path(__file__).parents[2] / "space" / "checkpoints" / "oz-encoder"
WORD = re.compile(r"\w+")
SENTENCE = re.compile(r"[^.!?…]*[.!?…]*[”’\"')\]]*\s*", re.DOTALL)


def cut_passages(text: str, longest: int) -> list[tuple[int, int]]:
    """The `(begin, end)` of passages of at most `longest` characters, each as many whole sentences as fit, in order.

    No passage goes beyond a paragraph. A sentence that is too long is cut between words, and a word that is too long
    is cut too.
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
def embed(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str], progress: bool
) -> list[torch.Tensor]:
    """One vector for each word of each text, `(words, hidden)`: the mean of the encoder's states over its tokens.

    A text without words has one vector, the mean over all its tokens.
    """
    encoder = model.encoder if model.config.is_encoder_decoder else model.base_model
    tokenizer.padding_side = "right"
    longest = model.config.max_position_embeddings
    vectors = []
    for start in tqdm(range(0, len(texts), 64), unit="batch", disable=not progress):
        some = texts[start : start + 64]
        options = {"padding": True, "truncation": True, "max_length": longest, "split_special_tokens": True}
        batch = tokenizer(some, return_tensors="pt", **options)
        inputs = (batch[name].to(model.device) for name in ("input_ids", "attention_mask"))
        states = encoder(*inputs)[0].cpu()  # (batch, length, hidden)
        for row, text in enumerate(some):
            ends = [(word.start(), word.end() - 1) for word in WORD.finditer(text)]
            words = [tuple(batch.char_to_token(row, place) for place in end) for end in ends]
            words = [(first, last) for first, last in words if None not in (first, last)]  # truncation can drop some
            words = words or [(0, int(batch["attention_mask"][row].sum()) - 1)]
            vectors.append(torch.stack([states[row, first : last + 1].mean(0) for first, last in words]))
    return vectors


def compare(query: torch.Tensor, vectors: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
    """The score of each passage, `(passages,)`: for each query word the cosine with its nearest word there, averaged.

    Source: Khattab and Zaharia, "ColBERT", 2020, https://arxiv.org/abs/2004.12832, equation 3. The mean vector is
    subtracted first; otherwise all words look alike (Mu and Viswanath, 2018, https://arxiv.org/abs/1702.01417).

    Args:
        query: `(query words, hidden)`.
        vectors: those of all words of all passages, `(words, hidden)`.
        passages: the number of each word's passage, `(words,)`, from 0.
    """
    mean = vectors.mean(0)
    words = nn.functional.normalize(vectors - mean, dim=-1)
    cosines = nn.functional.normalize(query - mean, dim=-1) @ words.T  # (query words, words)
    best = torch.full((len(query), int(passages.max()) + 1), -1.0)
    return best.scatter_reduce(1, passages.expand_as(cosines), cosines, "amax").mean(0)  # (passages,)


def passage_vectors(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str], path: Path | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The vectors of all words of some passages and the passage of each word, as [`compare`] takes them.

    They are read from the file at `path` if it is of this model and these texts; otherwise computed and written there.

    Raises:
        UserError: the file cannot be written.
    """
    weights = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        weights.update(name.encode() + weight.float().cpu().numpy().tobytes())
    of = {"model": weights.hexdigest(), "texts": hashlib.sha256("\0".join(texts).encode()).hexdigest()}
    path = path or cache_folder() / "vectors" / f"{of['model'][:16]}-{of['texts'][:16]}.safetensors"
    try:
        with safe_open(path, "pt") as file:
            if file.metadata() == of:
                return file.get_tensor("vectors").float(), file.get_tensor("passages")
    except (OSError, SafetensorError):
        pass  # missing or damaged: compute them
    words = embed(model, tokenizer, texts, progress=True)
    vectors = torch.cat(words).half()  # half as large; the scores change by less than a thousandth
    passages = torch.arange(len(words)).repeat_interleave(torch.tensor([len(w) for w in words]))
    try:
        with whole_file(path) as unfinished:
            save_file({"vectors": vectors, "passages": passages}, unfinished, metadata=of)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} could not be written ({in_one_line(error)}); give another --vectors.") from error
    return vectors.float(), passages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("query", help="a few words, or a sentence")
    parser.add_argument("--corpus", default="oz", help=f"{', '.join(NAMES)}, or a path (default %(default)s)")
    parser.add_argument(
        "--checkpoint", default=str(CHECKPOINT), help="an encoder or encoder-decoder (default %(default)s)"
    )
    parser.add_argument("--vectors", type=Path, help="file to store the vectors in (default: one in the cache)")
    parser.add_argument("--device", help="cpu, cuda, mps ... (default: the accelerator, if there is one)")
    parser.add_argument("--top", type=int, default=5, help="passages to print (default %(default)s)")
    arguments = parser.parse_args()
    if not arguments.query.strip():
        raise UserError("the query is empty; give a few words.")
    device, text = choose_device(arguments.device), load_corpus(arguments.corpus).text
    tokenizer, model = load_trained(arguments.checkpoint)
    model.to(device)
    if not model.config.is_encoder_decoder and model.config.is_causal:
        raise UserError(
            f"{arguments.checkpoint} is a decoder, whose vectors do not depend on later words; give an encoder or "
            "an encoder-decoder."
        )
    places = cut_passages(text, model.config.max_position_embeddings)
    if not places:
        raise UserError("the text has no passages to search; give a longer one.")
    found = passage_vectors(model, tokenizer, [text[begin:end] for begin, end in places], arguments.vectors)
    scores = compare(embed(model, tokenizer, [arguments.query], progress=False)[0], *found)
    best = scores.topk(min(max(arguments.top, 1), len(places)))
    for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        begin, end = places[index]
        print(f"{score:.3f}  {begin:>8,}  {' '.join(text[begin:end].split())}")


if __name__ == "__main__":
    run_command(main)
