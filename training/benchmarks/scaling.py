"""The runs that the scaling law of training.plan is fitted to, the fit, and a check of its plans.

python -m training.benchmarks.scaling runs                  # train the grid, then fit; goes on where it stopped
python -m training.benchmarks.scaling fit                   # fit again to what has been run
python -m training.benchmarks.scaling check --minutes 0.5 1 2 4 --corpus poetry   # plan, train, compare
"""

import argparse
import dataclasses
import json
import math

import torch
from torch import nn
from tqdm import tqdm

from training.benchmarks.speedrun import in_new_process
from training.command import run_command
from training.data.corpora import load_corpus
from training.files import write_text
from training.plan import BATCH, CONTEXT, SCALING, Law, propose, recipe_of, train_once
from training.tables import write_table

GRID = {  # sizes and the steps that each is trained for
    (2, 64, 2): (100, 300, 1000, 3000),
    (3, 128, 4): (100, 300, 1000, 3000),
    (4, 192, 6): (100, 300, 1000),
    (6, 256, 8): (100, 300, 500),
}


def run_grid(corpus: str, threads: int | None, part: int, parts: int) -> None:
    """Train the runs that `scaling.json` lacks, or those of `part` if `parts` processes share the work."""
    if threads:
        torch.set_num_threads(threads)
    unique = len(load_corpus(corpus).train)
    runs = [(size, steps) for size, all_steps in GRID.items() for steps in all_steps]
    runs.sort(key=lambda run: run[0][0] * run[0][1] ** 2 * run[1])
    for layers_hidden_heads, steps in tqdm(runs[part::parts], unit="run"):
        key = {"corpus": corpus, "size": list(layers_hidden_heads), "steps": steps}
        if any(all(r[k] == v for k, v in key.items()) for r in read()["runs"]):
            continue
        epochs = steps * BATCH * CONTEXT / unique
        result = train_once(recipe_of(corpus, layers_hidden_heads, steps, epochs))
        scaling = read()
        scaling["runs"].append({**key, "unique": unique, **result})
        write_text(SCALING, json.dumps(scaling, indent=1) + "\n")


def read() -> dict:
    return json.loads(SCALING.read_text(encoding="utf-8")) if SCALING.exists() else {"law": {}, "runs": []}


def fit_law(runs: list[dict], iterations: int = 3000) -> Law:
    """Fit the law to the losses of the runs by the Huber loss of their differences.

    The fit starts from several points, since there are many local minima (Hoffmann et al., 2022, appendix D.3).
    """
    parameters, tokens, unique, losses = (
        torch.tensor([run[name] for run in runs], dtype=torch.double)
        for name in ("parameters", "tokens", "unique", "loss")
    )
    best, best_error = None, math.inf
    for begin in ((1.0, 0.3, 0.3, 2.0), (0.5, 0.5, 0.5, 1.0), (1.2, 0.2, 0.4, 3.0)):
        E, alpha, beta, repeats = (torch.tensor(v, dtype=torch.double) for v in begin)
        # All are positive, so their logarithms are fitted. A and B come with losses of about 1 at the medians.
        start = (E, parameters.median() ** alpha * 0.3, alpha, tokens.median() ** beta * 0.5, beta, repeats)
        logs = torch.stack([v.log() for v in start]).requires_grad_()
        optimizer = torch.optim.Adam([logs], lr=0.01)
        for _ in range(iterations):
            E, A, alpha, B, beta, repeats = logs.exp()
            again = (tokens / unique - 1).clamp(min=0)
            worth = torch.minimum(tokens, unique) + unique * repeats * (1 - torch.exp(-again / repeats))
            predicted = E + A / parameters**alpha + B / worth**beta
            error = nn.functional.huber_loss(predicted, losses, delta=0.02, reduction="sum")
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
        if error.item() < best_error:
            best, best_error = Law(*(round(v, 6) for v in logs.exp().tolist())), error.item()
    return best


def fit() -> None:
    """Fit the law, write it, and print its prediction for each run."""
    scaling = read()
    law = fit_law(scaling["runs"])
    scaling["law"] = dataclasses.asdict(law)
    write_text(SCALING, json.dumps(scaling, indent=1) + "\n")
    print(law)
    for run in scaling["runs"]:
        said = law.loss(run["parameters"], run["tokens"], run["unique"])
        print(f"{run['size']!s:14} {run['steps']:>5} steps: {run['loss']:.4f}, the law says {said:.4f}")


def check(corpus: str, budgets: list[float], write: bool) -> None:
    """Plan for each budget, train the plan, and compare."""
    lines = ["| minutes | planned | parameters | steps | predicted loss | reached | apart | minutes it took |"]
    lines.append("|--:|---|--:|--:|--:|--:|--:|--:|")
    for minutes in budgets:
        best = in_new_process(propose, corpus, minutes)[0]
        result = in_new_process(train_once, best.recipe)
        model = best.recipe.model
        lines.append(
            f"| {minutes:g} | {model['num_hidden_layers']} layers, {model['hidden_size']} wide | {best.parameters:,} "
            f"| {best.recipe.steps:,} | {best.loss:.3f} | {result['loss']:.3f} | {result['loss'] - best.loss:+.3f} "
            f"| {result['seconds'] / 60:.2f} |"
        )
        print(lines[-1], flush=True)
    print("\n".join(lines))
    if write:
        write_table(f"plans, {corpus}", "\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("runs", "fit", "check"))
    parser.add_argument("--corpus", default="poetry", help="(default poetry)")
    parser.add_argument("--minutes", nargs="+", type=float, default=[0.5, 1, 2, 4], help="budgets (default 0.5 1 2 4)")
    parser.add_argument("--threads", type=int, help="threads of torch (default its own choice)")
    parser.add_argument("--part", type=int, default=0, help="which share of the grid (default 0)")
    parser.add_argument("--parts", type=int, default=1, help="shares of the grid (default 1)")
    parser.add_argument("--write", action="store_true", help="put the table into its page of docs/")
    arguments = parser.parse_args()
    if arguments.what == "runs":
        run_grid(arguments.corpus, arguments.threads, arguments.part, arguments.parts)
    if arguments.what == "check":
        check(arguments.corpus, arguments.minutes, arguments.write)
    elif arguments.parts == 1:  # else the other shares are not there yet
        fit()


if __name__ == "__main__":
    run_command(main)
