"""The contenders of the speedrun: this project, nanoGPT's own code, and transformers' models in this project's loop.

Each is trained in a process of its own, so that no memory and no torch setting of another is left over. A contender
returns a [`Course`]: its cost, and its loss after so many seconds. One function scores all, over the whole validation
split in windows of `CONTEXT` characters that do not overlap; scoring time does not count.
"""

import contextlib
import dataclasses
import importlib
import io
import pickle
import re
import resource
import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy
import torch
from torch import nn
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from training.command import UserError
from training.data.corpora import Corpus, load_corpus
from training.data.windows import encode
from training.engine.loop import Run
from training.engine.recipe import Recipe, load_recipe

# The configuration for small runs on a CPU of nanoGPT's README.
CONTEXT, BATCH, STEPS, LAYERS, HEADS, HIDDEN = 64, 12, 2000, 4, 4, 128
NANOGPT_OPTIONS = (
    f"--device=cpu --compile=False --log_interval=1 --block_size={CONTEXT} --batch_size={BATCH} --n_layer={LAYERS} "
    f"--n_head={HEADS} --n_embd={HIDDEN} --max_iters={STEPS} --lr_decay_iters={STEPS} --dropout=0.0"
).split()


@dataclasses.dataclass
class Course:
    """How a training went: `scores` are `(step, seconds of training, validation loss in nats per character)`."""

    contender: str
    corpus: str
    seed: int
    parameters: int
    flops_per_token: int
    step_seconds: float
    tokens_per_second: float
    peak_memory_mb: float
    scores: list[tuple[int, float, float]]

    def seconds_to(self, loss: float) -> float | None:
        """The seconds of training at the first score that is no worse than `loss`, or `None` if there is none."""
        return next((seconds for _, seconds, reached in self.scores if reached <= loss), None)


def flops_per_token(parameters: int, layers: int, hidden: int, context: int) -> int:
    """`6 N + 12 layers hidden context`: a forward and a backward pass, 2 and 4 operations a weight.

    Source: Chowdhery et al., "PaLM", 2022, https://arxiv.org/abs/2204.02311, appendix B. The second term is attention
    without a causal mask. What an optimizer computes is not counted.
    """
    return 6 * parameters + 12 * layers * hidden * context


def peak_memory_mb() -> float:
    """The largest resident memory of this process so far, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


@torch.no_grad()
def score(logits_of: Callable[[torch.Tensor], torch.Tensor], tokens: torch.Tensor, characters: int) -> float:
    """Nats per character of a split, in windows of `CONTEXT` that do not overlap.

    Args:
        logits_of: from ids `(batch, CONTEXT)` to logits `(batch, CONTEXT, vocab)`.
        tokens: the ids of the split, `(length,)`.
        characters: how many the split has; fewer than tokens if some characters take several.
    """
    windows = (len(tokens) - 1) // CONTEXT
    inputs = tokens[: windows * CONTEXT].view(-1, CONTEXT).split(64)
    targets = tokens[1 : windows * CONTEXT + 1].view(-1, CONTEXT).split(64)
    total = 0.0
    for x, y in zip(inputs, targets, strict=True):
        total += float(nn.functional.cross_entropy(logits_of(x).flatten(0, 1).float(), y.flatten(), reduction="sum"))
    return total / (windows * CONTEXT * characters / len(tokens))


def run_ours(corpus: str, seed: int, recipe: str = "speedrun") -> Course:
    """Train a recipe in this project's loop."""
    resolved = load_recipe(recipe, [("corpus", corpus), ("seed", str(seed))])
    return train_in_loop(f"ours ({recipe})", resolved, every=5)


def run_transformers(corpus: str, seed: int, kind: str) -> Course:
    """Train transformers' Llama or GPT-2, of nanoGPT's size and for its tokens, in this project's loop."""
    changes = [("corpus", corpus), ("seed", str(seed))]

    def build(vocab: int) -> nn.Module:
        return transformers_model(kind, LAYERS, HIDDEN, HEADS, vocab, CONTEXT)

    return train_in_loop(kind, load_recipe("poetry-gpt", changes), every=250, build=build)


def transformers_model(kind: str, layers: int, hidden: int, heads: int, vocab: int, context: int) -> nn.Module:
    """transformers' own Llama or GPT-2 of a size, without dropout."""
    if kind == "llama":
        widths = {"hidden_size": hidden, "intermediate_size": hidden * 8 // 3, "num_hidden_layers": layers}
        more = {"num_attention_heads": heads, "max_position_embeddings": context, "tie_word_embeddings": True}
        return LlamaForCausalLM(LlamaConfig(vocab_size=vocab, **widths, **more))
    dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    sizes = {"n_layer": layers, "n_head": heads, "n_embd": hidden, "n_positions": context}
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocab, **sizes, **dropouts))


def train_in_loop(
    name: str,
    recipe: Recipe,
    every: int,
    build: Callable[[int], nn.Module] | None = None,
    patch: Callable[[Run], None] | None = None,
) -> Course:
    """Train with `training.engine.loop.Run`; score every `every` steps in the second half, less often before.

    Args:
        build: makes the model in place of the recipe's, given the size of the vocabulary.
        patch: changes the run before it starts.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = Run(recipe, Path(folder))
        if build is not None:
            torch.manual_seed(recipe.seed)
            run.model = build(len(run.tokenizer))
        if patch is not None:
            patch(run)
        run.start()
        tokens, characters = encode(run.tokenizer, run.corpus.validation), len(run.corpus.validation)
        model = run.accelerator.unwrap_model(run.model)

        def logits_of(x: torch.Tensor) -> torch.Tensor:
            return model(input_ids=x.to(model.device), use_cache=False).logits.cpu()

        scores, times = [], []
        steps = run.recipe.steps  # a patch may have changed them
        for step in tqdm(range(1, steps + 1), desc=f"{name} {recipe.corpus} {recipe.seed}", leave=False):
            begin = time.perf_counter()
            float(run.step())  # waits for the device
            times.append(time.perf_counter() - begin)
            if step == steps or (step % every == 0 and step >= steps // 2) or step % (10 * every) == 0:
                model.eval()
                scores.append((step, sum(times), score(logits_of, tokens, characters)))
                model.train()
        parameters, config = model.num_parameters(), model.config
        return Course(
            name,
            recipe.corpus,
            recipe.seed,
            parameters,
            flops_per_token(parameters, config.num_hidden_layers, config.hidden_size, recipe.context),
            statistics.median(times),
            recipe.batch_size * recipe.context / statistics.median(times),
            peak_memory_mb(),
            scores,
        )


def run_nanogpt(corpus: str, seed: int, checkout: Path) -> Course:
    """Run nanoGPT's own train.py with its settings for small runs on a CPU.

    Its seconds are those that it prints for each step. A step that also evaluates counts as the median step. Two of
    torch's functions are wrapped from outside: `manual_seed`, since nanoGPT has no option for the seed, and `save`, to
    score each checkpoint.
    """
    text = load_corpus(corpus)
    steps: dict[int, float] = {}
    losses: list[tuple[int, float]] = []
    bar = tqdm(total=STEPS, desc=f"nanoGPT {corpus} {seed}", leave=False)

    class Clock(io.TextIOBase):
        """Its standard output, from which the milliseconds of every step are read."""

        def write(self, printed: str) -> int:
            for step, milliseconds in re.findall(r"iter (\d+): loss \S+, time ([\d.]+)ms", printed):
                steps[int(step)] = float(milliseconds) / 1000
                bar.update()
            return len(printed)

    set_seed, save = torch.manual_seed, torch.save
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(checkout):
        validation = write_for_nanogpt(text, Path(folder))

        def score_saved(checkpoint: dict, path: str) -> None:
            model = GPT(GPTConfig(**checkpoint["model_args"])).eval()
            model.load_state_dict(checkpoint["model"])
            # With targets it gives the logits of all positions.
            loss = score(lambda x: model(x, x)[0], validation, len(text.validation))
            losses.append((checkpoint["iter_num"], loss))
            parameters.append(sum(p.numel() for p in model.parameters()) - model.transformer.wpe.weight.numel())

        parameters: list[int] = []
        torch.manual_seed, torch.save = lambda value: set_seed(value + seed), score_saved
        arguments = sys.argv
        sys.argv = ["train.py", "config/train_shakespeare_char.py", *NANOGPT_OPTIONS]
        sys.argv += [f"--dataset={folder}", f"--out_dir={folder}", "--always_save_checkpoint=True", "--eval_iters=1"]
        GPT, GPTConfig = nanogpt_classes(checkout)
        try:
            with contextlib.redirect_stdout(Clock()):
                runpy.run_path("train.py", run_name="__main__")
        finally:
            sys.argv, torch.manual_seed, torch.save = arguments, set_seed, save
            bar.close()
    median = statistics.median(steps.values())
    evaluated = {step for step, _ in losses} | {0}
    seconds = [median if step in evaluated else steps[step] for step in range(STEPS)]
    return Course(
        "nanoGPT",
        corpus,
        seed,
        parameters[0],
        flops_per_token(parameters[0], LAYERS, HIDDEN, CONTEXT),
        median,
        BATCH * CONTEXT / median,
        peak_memory_mb(),
        [(step, sum(seconds[:step]), loss) for step, loss in losses],
    )


def nanogpt_classes(checkout: Path) -> tuple[type, type]:
    """nanoGPT's model and config classes, imported from a checkout; train.py finds them too from then on."""
    sys.path.insert(0, str(checkout))
    module = importlib.import_module("model")
    return module.GPT, module.GPTConfig


def write_for_nanogpt(corpus: Corpus, folder: Path) -> torch.Tensor:
    """Write the splits as nanoGPT's prepare.py for characters does; returns the ids of the validation split."""
    characters = sorted(set(corpus.text))
    ids = {character: number for number, character in enumerate(characters)}
    for name, text in (("train", corpus.train), ("val", corpus.validation)):
        numpy.array([ids[c] for c in text], dtype=numpy.uint16).tofile(folder / f"{name}.bin")
    (folder / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": len(characters), "itos": characters, "stoi": ids}))
    return torch.tensor([ids[c] for c in corpus.validation])


def find_nanogpt(checkout: Path) -> Path:
    """The checkout's absolute path.

    Raises:
        UserError: it is not a checkout of nanoGPT.
    """
    if not all((checkout / name).is_file() for name in ("train.py", "model.py", "configurator.py")):
        raise UserError(
            f"{checkout} is not a checkout of nanoGPT; clone https://github.com/karpathy/nanoGPT and give its folder."
        )
    return checkout.resolve()
