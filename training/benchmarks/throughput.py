"""Tokens per second of training at equal size and batch, and the share of the machine's matrix peak that this uses.

    python -m training.benchmarks.throughput --nanogpt ../nanoGPT                 # 0.8M and 10.7M parameters
    python -m training.benchmarks.throughput --sizes 0.8M --no-compile            # without compiling ours
    python -m training.benchmarks.throughput --sizes 124M --context 1024 --precision bf16 --nanogpt ../nanoGPT  # a GPU

Every contender has a process of its own, and they are timed in turns, a few steps each, so that other work on the
machine slows all of them alike. All take the same steps: AdamW, gradients clipped at 1, random batches.
nanoGPT and transformers run as their documentation shows; ours runs as `training.pretrain` does with `--compile true`.
The time to compile is reported and not counted.
"""

import argparse
import contextlib
import json
import multiprocessing
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from tqdm import tqdm

from training.benchmarks.contenders import (
    find_nanogpt,
    flops_per_token,
    nanogpt_classes,
    peak_memory_mb,
    transformers_model,
)
from training.benchmarks.machine import describe_machine, matrix_peak, wait
from training.command import run_command
from training.files import write_text
from training.tables import write_table

SIZES = {"0.8M": (4, 128, 4), "10.7M": (6, 384, 6), "124M": (12, 768, 12)}  # layers, hidden, heads
OURS = {"ours (gpt)": "gpt", "ours (modern)": "modern"}
PRECISIONS = {"no": torch.float32, "bf16": torch.bfloat16}


def build_step(name: str, arguments: argparse.Namespace, size: str):
    """A contender's training step, a function without arguments, and its parameters without position embeddings."""
    if name in OURS:
        return our_step(OURS[name], arguments, size)
    layers, hidden, heads = SIZES[size]
    device, vocab = arguments.device, arguments.vocabulary
    if name == "nanoGPT":
        GPT, GPTConfig = nanogpt_classes(arguments.nanogpt)
        sizes = {"n_layer": layers, "n_head": heads, "n_embd": hidden, "block_size": arguments.context}
        model = GPT(GPTConfig(**sizes, vocab_size=vocab, bias=False, dropout=0.0)).to(device)
        optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), device)
        positions = model.transformer.wpe.weight.numel()
    else:
        model = transformers_model(name, layers, hidden, heads, vocab, arguments.context).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, fused=True)
        positions = model.transformer.wpe.weight.numel() if name == "gpt2" else 0
    if device == "cuda":
        model.compile()  # nanoGPT's default there
    autocast = torch.autocast(device, PRECISIONS[arguments.precision]) if arguments.precision != "no" else None

    def step() -> None:
        x, y = torch.randint(vocab, (2, arguments.batch, arguments.context), device=device)
        with autocast or contextlib.nullcontext():
            loss = model(x, y)[1] if name == "nanoGPT" else model(input_ids=x, labels=y, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, sum(p.numel() for p in model.parameters()) - positions


def our_step(preset: str, arguments: argparse.Namespace, size: str):
    """A step of this project's own loop."""
    from training.engine.loop import Run
    from training.engine.recipe import Recipe

    layers, hidden, heads = SIZES[size]
    model = {"num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads}
    if preset == "modern":
        model["num_key_value_heads"] = heads  # as many weights as the others have
        model["intermediate_size"] = -(-hidden * 8 // 3 // 32) * 32  # whole vectors of any processor
    recipe = Recipe(
        preset=preset,
        model=model,
        context=arguments.context,
        batch_size=arguments.batch,
        compile=arguments.compile,
        mixed_precision=arguments.precision,
    )
    run = Run(recipe, Path(tempfile.gettempdir()) / "unused")
    vocab, rows = len(run.tokenizer), (arguments.batch, arguments.context)

    class Random:
        """Random batches, like those of the others."""

        def at(self, step: int) -> dict[str, torch.Tensor]:
            x, y = torch.randint(vocab, (2, *rows))
            return {"input_ids": x, "labels": y, "shift_labels": y}

    run.batches = Random()
    parameters = run.model.num_parameters()
    if preset == "gpt":
        parameters -= run.model.model.positions.table.weight.numel()
    run.start()
    return run.step, parameters


def contender(connection: Connection, name: str, arguments: argparse.Namespace, size: str) -> None:
    """Run in a process: build the contender, then receive numbers of steps and send back the seconds they took."""
    begin = time.perf_counter()
    step, parameters = build_step(name, arguments, size)
    for _ in range(3):
        step()
    wait(arguments.device)
    connection.send((parameters, time.perf_counter() - begin))
    while steps := connection.recv():
        begin = time.perf_counter()
        for _ in range(steps):
            step()
        wait(arguments.device)
        connection.send((time.perf_counter() - begin, peak_memory_mb()))


def compare(size: str, arguments: argparse.Namespace) -> list[dict]:
    """Time all contenders of a size in turns."""
    names = [*(["nanoGPT"] if arguments.nanogpt else []), "llama", "gpt2", *OURS]
    context = multiprocessing.get_context("spawn")
    processes, ends, rows = [], {}, {}
    for name in tqdm(names, desc=f"{size}: building", leave=False):
        ends[name], other = context.Pipe()
        processes.append(context.Process(target=contender, args=(other, name, arguments, size), daemon=True))
        processes[-1].start()
        other.close()
        parameters, seconds = ends[name].recv()
        rows[name] = {"size": size, "contender": name, "parameters": parameters, "seconds_to_start": seconds}
    times, peaks = {name: [] for name in names}, []
    for _ in tqdm(range(arguments.rounds), desc=f"{size}: timing", leave=False):
        peaks.append(matrix_peak(arguments.device, dtype=PRECISIONS[arguments.precision]))
        for name in names:
            ends[name].send(arguments.steps)
            seconds, rows[name]["peak_memory_mb"] = ends[name].recv()
            times[name].append(seconds / arguments.steps)
    for name in names:
        ends[name].send(0)
    for process in processes:
        process.join()
    layers, hidden, _ = SIZES[size]
    peak = statistics.median(peaks)
    for name, row in rows.items():
        speed = arguments.batch * arguments.context / statistics.median(times[name])
        flops = flops_per_token(row["parameters"], layers, hidden, arguments.context)
        row |= {"tokens_per_second": speed, "matrix_peak_gflops": peak, "step_seconds": times[name]}
        row["model_flops_utilisation"] = speed * flops / 1e9 / peak
    return list(rows.values())


def table(rows: list[dict]) -> str:
    """The rows in Markdown, with the ratios of their speeds to nanoGPT's and Llama's."""
    lines = [
        "| size | contender | parameters | tokens a second | share of the peak | against nanoGPT | against Llama |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    speeds = {(row["size"], row["contender"]): row["tokens_per_second"] for row in rows}
    for row in rows:
        ratios = [
            f"{row['tokens_per_second'] / speeds[row['size'], other]:.2f}" if (row["size"], other) in speeds else ""
            for other in ("nanoGPT", "llama")
        ]
        lines.append(
            f"| {row['size']} | {row['contender']} | {row['parameters']:,} | {row['tokens_per_second']:,.0f} "
            f"| {row['model_flops_utilisation']:.0%} | {' | '.join(ratios)} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT; left out without one")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["0.8M", "10.7M"], help="(default 0.8M 10.7M)")
    parser.add_argument("--batch", type=int, default=12, help="windows in a step (default 12)")
    parser.add_argument("--context", type=int, default=128, help="tokens in a window (default 128)")
    parser.add_argument("--vocabulary", type=int, default=96, help="size of the others' vocabulary (default 96)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender (default 7)")
    parser.add_argument("--steps", type=int, default=5, help="steps in a turn (default 5)")
    parser.add_argument("--precision", choices=PRECISIONS, default="no", help="mixed precision (default no)")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="do not compile ours")
    parser.add_argument(
        "--output", type=Path, default=Path("artifacts/throughput.json"), help="(default artifacts/throughput.json)"
    )
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    arguments = parser.parse_args()
    arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.nanogpt:
        arguments.nanogpt = find_nanogpt(arguments.nanogpt)
    rows = [row for size in arguments.sizes for row in compare(size, arguments)]
    write_text(arguments.output, json.dumps({"machine": describe_machine(), "rows": rows}, indent=1) + "\n")
    text = f"{table(rows)}\n\nMatrix peak {rows[0]['matrix_peak_gflops']:,.0f} GFLOP/s."
    print(f"{text}\n\n{arguments.output}")
    if arguments.write:
        write_table("throughput", text)


if __name__ == "__main__":
    run_command(main)
