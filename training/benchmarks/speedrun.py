"""Seconds of training until another project's final loss is reached, side by side on this machine.

    python -m training.benchmarks.speedrun --nanogpt ../nanoGPT        # against nanoGPT's own code, from a checkout
    python -m training.benchmarks.speedrun                             # against transformers' Llama and GPT-2
    python -m training.benchmarks.speedrun --nanogpt ../nanoGPT --corpora oz --seeds 1

Both are trained in turns. The goal is the other one's validation loss after its 2,000 steps; its seconds until then are
compared with ours to the same loss. Measurements are stored in `results.json`, so that the same command resumes where
it stopped, with a plot in `loss.png` beside it.
"""

import argparse
import dataclasses
import json
import multiprocessing
import shutil
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tqdm import tqdm

from training.benchmarks.contenders import Course, find_nanogpt, run_nanogpt, run_ours, run_transformers
from training.benchmarks.machine import describe_machine, matrix_peak
from training.command import UserError, run_command
from training.data.corpora import load_corpus
from training.files import write_text
from training.tables import PROJECT, write_table


def in_new_process(function, *arguments, **options):
    """Call a function in a fresh process, which ends when it returns."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments, **options).result()


def measure(arguments: argparse.Namespace) -> dict:
    """Run the trainings that `results.json` lacks, and return all results."""
    path = arguments.output / "results.json"
    results = {"machine": describe_machine(), "courses": []}
    if path.exists() and not arguments.overwrite:
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["machine"] != describe_machine():
            raise UserError(f"{path} is from another machine or other versions; give another --output, or --overwrite.")
    done = {(c["contender"], c["corpus"], c["seed"]) for c in results["courses"]}
    if arguments.nanogpt:
        others = {"nanoGPT": (run_nanogpt, find_nanogpt(arguments.nanogpt))}
    else:
        others = {kind: (run_transformers, kind) for kind in ("llama", "gpt2")}
    contenders = {**others, f"ours ({arguments.recipe})": (run_ours, arguments.recipe)}
    plan = [(name, corpus, seed) for seed in arguments.seeds for corpus in arguments.corpora for name in contenders]
    for name, corpus, seed in tqdm([run for run in plan if run not in done], desc="runs", unit="run"):
        function, setting = contenders[name]
        peak = in_new_process(matrix_peak)
        course = in_new_process(function, corpus, seed, setting)
        utilisation = course.tokens_per_second * course.flops_per_token / 1e9 / peak
        entry = {**dataclasses.asdict(course), "matrix_peak_gflops": peak, "model_flops_utilisation": utilisation}
        results["courses"].append(entry)
        write_text(path, json.dumps(results, indent=1) + "\n")
    return results


def compare(courses: list[Course]) -> list[dict]:
    """For each other contender, corpus and seed: its final loss, the seconds of both to that loss, and their ratio."""
    ours = {(c.corpus, c.seed): c for c in courses if c.contender.startswith("ours")}
    rows = []
    for other in courses:
        mine = ours.get((other.corpus, other.seed))
        if other is mine or mine is None or not other.scores:
            continue
        _, seconds, goal = other.scores[-1]
        reached = mine.seconds_to(goal)
        ratio = None if reached is None else seconds / reached
        rows.append(
            {
                "against": other.contender,
                "corpus": other.corpus,
                "seed": other.seed,
                "goal": goal,
                "seconds": seconds,
                "our_seconds": reached,
                "times_faster": ratio,
            }
        )
    return rows


def table(courses: list[dict], rows: list[dict]) -> str:
    """The results in Markdown: the median over the seeds, and the seeds in brackets."""
    lines = [
        "| corpus | against | its loss | its seconds | our seconds to that loss | times faster |",
        "|---|---|---|---|---|---|",
    ]
    for against, corpus in dict.fromkeys((row["against"], row["corpus"]) for row in rows):
        same = [row for row in rows if (row["against"], row["corpus"]) == (against, corpus)]
        cells = [spread([row[key] for row in same], digits) for key, digits in FIGURES]
        lines.append(f"| {corpus} | {against} | {' | '.join(cells)} |")
    lines += ["", "| contender | corpus | parameters | tokens a second | share of the matrix peak | memory, MB |"]
    lines.append("|---|---|---|---|---|---|")
    for name, corpus in dict.fromkeys((c["contender"], c["corpus"]) for c in courses):
        same = [c for c in courses if (c["contender"], c["corpus"]) == (name, corpus)]
        middle = {key: statistics.median(c[key] for c in same) for key in COSTS}
        lines.append(
            f"| {name} | {corpus} | {middle['parameters']:,.0f} | {middle['tokens_per_second']:,.0f} "
            f"| {middle['model_flops_utilisation']:.0%} | {middle['peak_memory_mb']:,.0f} |"
        )
    return "\n".join(lines)


FIGURES = (("goal", 4), ("seconds", 1), ("our_seconds", 1), ("times_faster", 1))
COSTS = ("parameters", "tokens_per_second", "model_flops_utilisation", "peak_memory_mb")


def spread(values: list[float | None], digits: int) -> str:
    """The median, with all values in brackets if there are several; or how many seeds did not reach the goal."""
    if None in values:
        return f"not reached by {values.count(None)} of {len(values)}"
    middle = f"{statistics.median(values):.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({', '.join(f'{value:.{digits}f}' for value in values)})"


def draw(courses: list[dict], path: Path) -> None:
    """Draw the loss against the seconds of training, one plot a corpus."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    corpora = list(dict.fromkeys(c["corpus"] for c in courses))
    names = list(dict.fromkeys(c["contender"] for c in courses))
    figure, axes = pyplot.subplots(
        1, len(corpora), figsize=(6 * len(corpora), 4.5), layout="constrained", squeeze=False
    )
    for plot, corpus in zip(axes[0], corpora, strict=True):
        seen = set()
        for course in (c for c in courses if c["corpus"] == corpus):
            name = course["contender"]
            _, seconds, losses = zip(*course["scores"], strict=True)
            plot.plot(seconds, losses, color=f"C{names.index(name)}", label=None if name in seen else name)
            if not name.startswith("ours"):
                plot.axhline(losses[-1], color=f"C{names.index(name)}", linewidth=0.6, linestyle="--")
            seen.add(name)
        plot.set(xlabel="seconds of training", ylabel="validation loss, nats per character", title=corpus, xscale="log")
        plot.grid(alpha=0.3)
        plot.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT; without it transformers' models run")
    parser.add_argument("--corpora", nargs="+", default=["oz", "poetry"], help="(default oz poetry)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="(default 1 2 3)")
    parser.add_argument("--recipe", default="speedrun", help="our recipe (default speedrun)")
    parser.add_argument("--output", type=Path, default=Path("artifacts/speedrun"), help="(default artifacts/speedrun)")
    parser.add_argument("--overwrite", action="store_true", help="measure again what results.json has")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    arguments = parser.parse_args()
    for corpus in arguments.corpora:
        load_corpus(corpus)  # a missing corpus is reported before any training
    results = measure(arguments)
    courses = [Course(**{f.name: c[f.name] for f in dataclasses.fields(Course)}) for c in results["courses"]]
    results["comparison"] = compare(courses)
    write_text(arguments.output / "results.json", json.dumps(results, indent=1) + "\n")
    draw(results["courses"], arguments.output / "loss.png")
    text = table(results["courses"], results["comparison"])
    print(f"{text}\n\n{arguments.output / 'results.json'}, {arguments.output / 'loss.png'}")
    if arguments.write:
        write_table("speedrun", text)
        shutil.copy(arguments.output / "loss.png", PROJECT / "docs" / "speedrun.png")


if __name__ == "__main__":
    run_command(main)
