"""How well networks are ordered once some are trained: the learned predictor on NAS-Bench-201.

    python benchmarks/predictor.py --data FOLDER [--draws 12] [--quick]

FOLDER holds the tables nas/*.parquet. Some cells are drawn at random and their published 200-epoch test accuracy is
told; Kendall's tau of the order of all cells that do not share a function with a told one is the figure, mean and 95 %
interval (Student's t) over draws. Beside it: the aggregate, which is told nothing; a forest of 300 trees on the same
scores, told the same; a random order. Tasks: our 13 scores (results/ranking_scores.parquet) with the accuracies of
CIFAR-10 and of CIFAR-100, 6,040 cells; and the 13 published scores of NAS-Bench-Suite-Zero, 9,445 cells, CIFAR-10, with
the log-ranks of params and jacov as the aggregate. The form of the predictor was compared on CIFAR-10 with draws of
these cells; CIFAR-100 decided nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

sys.path.insert(0, str(Path(__file__).resolve().parent))
import results_file

from archscout.aggregate import INPUTS, rank_pool
from archscout.predictor import predict_pool
from archscout.proxies import PROXIES
from archscout.spaces import SPACES

HERE = Path(__file__).resolve().parent
COUNTS = (10, 25, 50, 100, 1000)
KNOWN = {("published", 100): ".765, forest", ("published", 1000): ".830, forest"}
REACH = {("published", 100): 0.765, ("published", 1000): 0.83}


@dataclass(frozen=True)
class Task:
    """Scores and true accuracies of cells; cells of one kind compute the same function."""

    name: str
    scores: list[dict[str, float]]
    names: list[str]
    directions: dict[str, str]
    truth: np.ndarray
    kinds: np.ndarray


def tasks(folder: Path) -> list[Task]:
    """The three tasks."""
    accuracy = pd.read_parquet(folder / "nas" / "nb201_accuracy.parquet")
    space = SPACES["nasbench201"]((3, 32, 32), 10)
    canonical = {text: space.format(space.canonical(space.parse(text))) for text in accuracy["arch_str"]}
    columns = ["cifar10_test_200ep", "cifar100_test_200ep"]
    grouped = accuracy.groupby(accuracy["arch_str"].map(canonical)).agg(
        dict.fromkeys(columns, "mean") | {"unique_str": "first"}
    )
    ours = pd.read_parquet(HERE / "results" / "ranking_scores.parquet")
    ours = ours.join(grouped, on="arch")
    own = [name for name in ours.columns if name in PROXIES]
    rows = ours[own].to_dict("records")
    directions = {name: PROXIES[name].direction for name in INPUTS}
    kinds = ours["unique_str"].to_numpy()
    found = [
        Task("c10", rows, own, directions, ours["cifar10_test_200ep"].to_numpy(), kinds),
        Task("c100", rows, own, directions, ours["cifar100_test_200ep"].to_numpy(), kinds),
    ]
    published = pd.read_parquet(folder / "nas" / "nb201_reference_proxies.parquet")
    published = published.merge(accuracy[["index", "unique_str", "cifar10_test_200ep"]])
    theirs = [n for n in published.columns if n.startswith("cifar10__") and n != "cifar10__val_accs"]
    two = {"cifar10__params": "max", "cifar10__jacov": "max"}
    truth, kinds = published["cifar10_test_200ep"].to_numpy(), published["unique_str"].to_numpy()
    return [*found, Task("published", published[theirs].to_dict("records"), theirs, two, truth, kinds)]


def noise() -> Task:
    """A small made-up task, for a test of the script."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=60)
    scores = [{"params": t + rng.normal(), "naswot": t + rng.normal()} for t in truth]
    return Task("noise", scores, ["params", "naswot"], {"params": "max", "naswot": "max"}, truth, np.arange(60))


def forest(task: Task, told: np.ndarray, seed: int) -> np.ndarray:
    """What 300 trees expect of all cells (n,)."""
    from sklearn.ensemble import RandomForestRegressor

    table = np.array([[row[name] for name in task.names] for row in task.scores], dtype=float)
    table = np.where(np.isfinite(table), table, np.nanmin(np.where(np.isfinite(table), table, np.nan), axis=0))
    return RandomForestRegressor(300, random_state=seed).fit(table[told], task.truth[told]).predict(table)


def draw_cell(task: Task, count: int, seed: int) -> dict[str, float]:
    """Kendall's tau of each arm after `count` random cells were told."""
    rng = np.random.default_rng([seed, count])
    told = rng.permutation(len(task.truth))[:count]
    others = ~np.isin(task.kinds, task.kinds[told])
    evaluated = {int(i): float(task.truth[i]) for i in told}
    orders = {
        "predictor": -predict_pool(task.scores, task.directions, evaluated, features=task.names).ranks,
        "forest": forest(task, told, seed),
        "aggregate": -rank_pool(task.scores, task.directions),
        "random": rng.random(len(task.truth)),
    }
    return {arm: float(kendalltau(order[others], task.truth[others])[0]) for arm, order in orders.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ARCHSCOUT_DATA"), help="folder of real data")
    parser.add_argument("--draws", type=int, default=12)
    parser.add_argument("--quick", action="store_true", help="made-up scores; a test of the script")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "predictor.json")
    args = parser.parse_args()
    if not args.quick and not (args.data and (args.data / "nas" / "nb201_accuracy.parquet").exists()):
        raise SystemExit("the tables are absent: give --data FOLDER, which holds nas/")
    figures, counts = [], (10, 25) if args.quick else COUNTS
    for task in [noise()] if args.quick else tasks(args.data):
        for count in counts:
            drawn = [draw_cell(task, count, seed) for seed in range(2 if args.quick else args.draws)]
            for arm in drawn[0]:
                ours = arm == "predictor"
                figures.append(
                    results_file.figure(
                        f"tau_{task.name}_{count}" + ("" if ours else f"_{arm}"), [d[arm] for d in drawn],
                        "Kendall's tau over cells that were not told",
                        known=KNOWN.get((task.name, count)) if ours else None,
                        reach=REACH.get((task.name, count)) if ours else None,
                    )
                )  # fmt: skip
                print(figures[-1]["name"], round(figures[-1]["value"], 3), flush=True)
            gains = [d["predictor"] - d["aggregate"] for d in drawn]
            figures.append(
                results_file.figure(
                    f"gain_{task.name}_{count}", gains, "tau above the aggregate, paired by draw", reach=0.0
                )
            )
    results_file.write(args.out, figures, command="python benchmarks/predictor.py --data FOLDER")


if __name__ == "__main__":
    main()
