"""What each change to the speedrun is worth: its recipe with one thing changed, several seeds each.

    python -m training.benchmarks.levers learning                  # the loss after the same tokens, three seeds
    python -m training.benchmarks.levers speed                     # seconds of a step
    python -m training.benchmarks.levers memory                    # the loss of a large vocabulary
    python -m training.benchmarks.levers learning --only "value residuals" --seeds 1 2 3 4 5

A change that the recipe or the config allows is a list of fields. One that was tried and not kept has no field: here it
is a function that changes the run from outside, so that anyone can measure it again.
"""

import argparse
import dataclasses
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch
from torch import nn
from tqdm import tqdm

from training.benchmarks.contenders import peak_memory_mb, train_in_loop
from training.benchmarks.speedrun import in_new_process
from training.command import UserError, run_command
from training.engine import kernels, loop, optimizers
from training.engine.loop import Run
from training.engine.recipe import load_recipe
from training.tables import write_table

RECIPE = "speedrun"


@dataclasses.dataclass(frozen=True)
class Lever:
    """One change: `fields` of the recipe, or `patch`, which changes a run before it starts."""

    name: str
    fields: tuple[tuple[str, str], ...] = ()
    patch: Callable[[Run], None] | None = None


def value_residuals(run: Run) -> None:
    """`v = a v + b v_first`, a and b learned from 1/2 on: Zhou et al., 2024, https://arxiv.org/abs/2410.17897."""
    first = {}
    for layer, block in enumerate(run.model.model.layers):
        attention, make = block.attention, block.attention.make_keys_and_values
        if layer:
            attention.shares = nn.Parameter(torch.full((2,), 0.5))

        def mixed(x, layer=layer, attention=attention, make=make):
            key, value = make(x)
            if layer == 0:
                first["value"] = value
                return key, value
            return key, attention.shares[0] * value + attention.shares[1] * first["value"]

        attention.make_keys_and_values = mixed


def zero_outputs(run: Run) -> None:
    """The matrices that write into the residual stream start at 0, so each block starts as the identity."""
    for module in run.model.modules():
        if getattr(module, "writes_residual", False):
            nn.init.zeros_(module.weight)


def plain_outputs(run: Run) -> None:
    """The matrices that write into the residual stream start like all others."""
    for module in run.model.modules():
        if getattr(module, "writes_residual", False):
            nn.init.normal_(module.weight, std=run.model.config.initializer_range)


def token_smear(run: Run) -> None:
    """Add to each embedding a learned share of the two before it, one share per dimension, starting at 0."""
    layer = run.model.model.embedding_output
    layer.taps = nn.Parameter(torch.zeros(2, 1, run.model.config.hidden_size))

    def smear(module, inputs):
        x = inputs[0]
        before = [nn.functional.pad(x, (0, 0, back, 0))[:, : x.shape[1]] for back in (1, 2)]
        return (x + module.taps[0] * before[0] + module.taps[1] * before[1],)

    layer.register_forward_pre_hook(smear)


def growing_batch(run: Run) -> None:
    """Half the batch size in the first third of the tokens, with twice as many steps."""
    at, until = run.batches.at, run.recipe.steps // 3
    run.recipe = dataclasses.replace(run.recipe, steps=run.recipe.steps + until)

    def halves(step: int) -> dict[str, torch.Tensor]:
        if step >= 2 * until:
            return at(step - until)
        return {name: rows.chunk(2)[step % 2] for name, rows in at(step // 2).items()}

    run.batches.at = halves


def growing_length(run: Run) -> None:
    """Twice as many windows of half the length in the first third of the steps."""
    at, until = run.batches.at, run.recipe.steps // 3

    def shorter(step: int) -> dict[str, torch.Tensor]:
        batch = at(step)
        if step >= until:
            return batch
        return {name: rows.reshape(-1, rows.shape[1] // 2) for name, rows in batch.items()}

    run.batches.at = shorter


def fields(**changes) -> tuple[tuple[str, str], ...]:
    """Pairs of a recipe's field and its value as text; `model__x` is the field `x` of the model."""
    return tuple((name.replace("__", "."), str(value)) for name, value in changes.items())


LEARNING = (
    Lever("the recipe as it is"),
    Lever("AdamW for the matrices too, at a third of the rate", fields(optimizer="adamw", learning_rate=3e-3)),
    Lever("Muon's momentum 0.95", fields(matrix_momentum=0.95)),
    Lever("learning rate decays from the first step", fields(decay_share=1.0)),
    Lever("warm-up over 10 steps", fields(warmup_steps=10)),
    Lever("weight decay 0.1", fields(weight_decay=0.1)),
    Lever("gradients not clipped", fields(gradient_clip=0)),
    Lever("no query-key norm", fields(model__use_qk_norm="false")),
    Lever("logits capped at 15", fields(model__final_logit_softcapping=15.0)),
    Lever("two key and value heads", fields(model__num_key_value_heads=2)),
    Lever("LayerNorm", fields(model__norm_type="layer_norm")),
    Lever("squared ReLU in place of SwiGLU", fields(model__feed_forward_type="mlp", model__hidden_act="relu2")),
    Lever("learned positions", fields(model__position_type="learned")),
    Lever("untied output matrix", fields(model__tie_word_embeddings="false")),
    Lever("initial weights twice as large", fields(model__initializer_range=0.04)),
    Lever("output projections start at 0", patch=zero_outputs),
    Lever("output projections start like all other weights", patch=plain_outputs),
    Lever("value residuals", patch=value_residuals),
    Lever("embeddings smeared over two tokens", patch=token_smear),
    Lever("growing batch", patch=growing_batch),
    Lever("growing length", patch=growing_length),
)


def muon_in_bf16(run: Run) -> None:
    """The iteration in bf16, as in torch's own Muon."""
    exact = optimizers.orthogonalise
    optimizers.orthogonalise = lambda matrices, steps=5: exact(matrices.bfloat16(), steps).to(matrices.dtype)


def muon_one_by_one(run: Run) -> None:
    """One iteration for each matrix."""
    grouped = optimizers.orthogonalise
    optimizers.orthogonalise = lambda matrices, steps=5: torch.cat([grouped(m[None], steps) for m in matrices])


def adamw_by_loop(run: Run) -> None:
    """torch's AdamW without its fused kernel."""

    def loop(parameters, fused, **options):
        return original(parameters, fused=False, foreach=False, **options)

    original = torch.optim.AdamW
    optimizers.torch.optim.AdamW = loop


def default_kernels(run: Run) -> None:
    """torch's own choice of kernels: sdpa, and MKL for products in float32."""
    kernels.other_than_intel_with_avx512 = lambda: False
    sdpa(run)


def memory_given_back(run: Run) -> None:
    """The C library returns freed memory to the system, its default."""
    kernels.keep_freed_memory = lambda: None


def sdpa(run: Run) -> None:
    """sdpa in place of attention in chunks of queries; matrix products stay with oneDNN."""
    choose = loop.choose_kernels

    def then_sdpa(model, *arguments):
        choose(model, *arguments)
        model.set_attn_implementation("sdpa")

    loop.choose_kernels = then_sdpa


def fused_projections(run: Run) -> None:
    """Queries, keys and values from one product, whose three matrices are concatenated in each step."""
    for block in run.model.model.layers:
        attention = block.attention
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        widths, made = [p.out_features for p in projections], {}

        def query(x, projections=projections, widths=widths, made=made):
            together = nn.functional.linear(x, torch.cat([p.weight for p in projections]))
            q, made["key"], made["value"] = together.split(widths, dim=-1)
            return q

        attention.q_proj.forward = query
        attention.k_proj.forward = lambda x, made=made: made["key"]
        attention.v_proj.forward = lambda x, made=made: made["value"]


def read_every_loss(run: Run) -> None:
    """Read the loss after each step, which makes the CPU wait for a GPU."""
    step = run.step
    run.step = lambda: torch.tensor(float(step()))


SPEED = (
    Lever("the recipe as it is"),
    Lever("torch's own kernels: MKL and sdpa", patch=default_kernels),
    Lever("sdpa in place of chunks of queries", patch=sdpa),
    Lever("freed memory returned to the system", patch=memory_given_back),
    Lever("the model compiled", fields(compile="true")),
    Lever("one product for queries, keys and values", patch=fused_projections),
    Lever("Muon in bf16", patch=muon_in_bf16),
    Lever("Muon one matrix at a time", patch=muon_one_by_one),
    Lever("AdamW not fused", patch=adamw_by_loop),
    Lever("no Muon", fields(optimizer="adamw")),
    Lever("the loss read at every step", patch=read_every_loss),
)


def train(lever: Lever, corpus: str, seed: int, steps: int | None = None, threads: int | None = None):
    """Train the recipe with a lever's change; returns its course."""
    if threads:
        torch.set_num_threads(threads)
    changes = [*lever.fields, ("corpus", corpus), ("seed", str(seed))]
    recipe = load_recipe(RECIPE, changes)
    if steps:
        recipe = dataclasses.replace(recipe, steps=steps)
    return train_in_loop(lever.name, recipe, every=recipe.steps, patch=lever.patch)


def learning(arguments: argparse.Namespace) -> str:
    """A table of the final loss after the same tokens, compared with the unchanged recipe seed by seed."""
    levers = chosen(LEARNING, arguments.only)
    losses: dict[str, list[float]] = {}
    runs = [(lever, seed) for lever in levers for seed in arguments.seeds]
    threads = max(1, torch.get_num_threads() // arguments.workers)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.workers, mp_context=context) as pool:
        courses = [pool.submit(train, lever, arguments.corpus, seed, threads=threads) for lever, seed in runs]
        for (lever, _), course in tqdm(zip(runs, courses, strict=True), total=len(runs), unit="run"):
            losses.setdefault(lever.name, []).append(course.result().scores[-1][2])
    base = losses[levers[0].name]
    lines = ["| change | loss, mean | seeds | against the recipe, mean | seed by seed |", "|---|--:|---|--:|---|"]
    for name, values in losses.items():
        apart = [value - other for value, other in zip(values, base, strict=True)]
        lines.append(
            f"| {name} | {statistics.mean(values):.4f} | {', '.join(f'{v:.4f}' for v in values)} "
            f"| {statistics.mean(apart):+.4f} | {', '.join(f'{v:+.4f}' for v in apart)} |"
        )
    return "\n".join(lines)


def speed(arguments: argparse.Namespace) -> str:
    """A table of the time of a step, measured in turns and compared with the unchanged recipe."""
    levers = chosen(SPEED, arguments.only)
    times: dict[str, list[float]] = {}
    with tqdm(total=len(levers) * len(arguments.seeds), unit="run") as bar:
        for seed in arguments.seeds:
            for lever in levers:
                course = in_new_process(train, lever, arguments.corpus, seed, steps=40)
                times.setdefault(lever.name, []).append(course.step_seconds * 1000)
                bar.update()
    base = times[levers[0].name]
    lines = ["| change | milliseconds a step, median | turns | against the recipe |", "|---|--:|---|--:|"]
    for name, values in times.items():
        ratio = statistics.median(value / other for value, other in zip(values, base, strict=True))
        turns = ", ".join(f"{v:.0f}" for v in values)
        lines.append(f"| {name} | {statistics.median(values):.0f} | {turns} | {ratio:.2f} |")
    return "\n".join(lines)


def large_vocabulary(skip_logits: bool, vocabulary: int = 50_000) -> tuple[float, float]:
    """Seconds of a step of a small model with a large vocabulary, and the peak of memory in MB."""
    from modeling import OzymandiasForCausalLM, preset_config

    torch.manual_seed(0)
    model = OzymandiasForCausalLM(preset_config("modern", vocab_size=vocabulary, num_hidden_layers=2))
    batch = torch.randint(vocabulary, (8, 256))
    times = []
    for _ in tqdm(range(3), leave=False):
        begin = time.perf_counter()
        model(input_ids=batch, labels=batch, skip_logits=skip_logits, use_cache=False).loss.backward()
        times.append(time.perf_counter() - begin)
    return statistics.median(times), peak_memory_mb()


def memory(arguments: argparse.Namespace) -> str:
    """A table of the cross entropy over 50,000 tokens, with and without all logits at once."""
    lines = ["| cross entropy | seconds a step | peak memory, MB |", "|---|--:|--:|"]
    for name, skip in (("of all logits", False), ("of a few rows at a time (`skip_logits`)", True)):
        seconds, peak = in_new_process(large_vocabulary, skip)
        lines.append(f"| {name} | {seconds:.2f} | {peak:,.0f} |")
    return "\n".join(lines)


def chosen(levers: tuple[Lever, ...], only: list[str] | None) -> list[Lever]:
    """The first lever, which is the unchanged recipe, and those named in `only`, or all.

    Raises:
        UserError: `only` has an unknown name.
    """
    names = [lever.name for lever in levers]
    if unknown := [name for name in only or [] if name not in names]:
        raise UserError(f"there is no lever '{unknown[0]}'; there are {', '.join(names)}.")
    return [lever for lever in levers if not only or lever.name in (names[0], *only)]


KINDS = {"learning": learning, "speed": speed, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--corpus", default="oz", help="(default oz)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="(default 1 2 3)")
    parser.add_argument("--workers", type=int, default=2, help="runs at the same time, for learning (default 2)")
    parser.add_argument("--only", nargs="+", metavar="CHANGE", help="only these changes (default all)")
    parser.add_argument("--write", action="store_true", help="put the table into its page of docs/")
    arguments = parser.parse_args()
    text = KINDS[arguments.kind](arguments)
    print(text)
    if arguments.write:
        write_table(f"levers, {arguments.kind}", text)


if __name__ == "__main__":
    run_command(main)
