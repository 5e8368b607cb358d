"""Evolution and reinforcement learning on chosen images: what a search saves when its short trainings see fewer.

    python benchmarks/selected_pool.py --data FOLDER [--minutes 60] [--quick]

FOLDER holds images/cifar10_lossless.zip and nas/nb201_accuracy.parquet, nb201_cifar_split.npz. A pool of 200 random
cells of NAS-Bench-201 (8 channels, one cell per stage), fixed by a seed, trains once per arm on the official training
half of CIFAR-10 and is judged on images of the validation half: `full` for EPOCHS passes; `dds` and `redrawn` (a
random subset drawn anew each round) backpropagate a REDUCTION-th as many images, in rounds of SHARE of the half, with
learning rates that fall to zero over their own length. All trainings of a cell start from the same weights. Trainings
that the results hold are skipped, so that it runs in pieces; cells come one after another with all arms, so that every
piece is a fair comparison. Seconds are of the processor, of one thread, with every choice of images, without the
judging. In float32: processors without bfloat16 are many times slower with it, and smaller networks gain nothing.

Then evolution and reinforce, 20 seeds each, search the pool: a proposal stands for the nearest cell of the pool, its
reward is the arm's accuracy, its price the arm's seconds; a cell that was trained before is told as skipped. What a
search has is the true accuracy (published, 200 epochs, CIFAR-10 test) of its best by reward. The saving is the training
seconds until the mean of the seeds has what full data has after LEVEL trainings, and keeps it, over those of full data.
Full data itself need not come out at 1 by that rule, since the mean may have the level sooner, or fall below it later:
`zero_point` is full data by the rule, `over_full` the arm over full data, both by the rule, and `price` a training's
seconds over one on full data. The plan, written before: docs/plans/selected_pool.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import results_file
from cells import Images
from main_job import cifar10

from archscout.fit import evaluate, fit, recipe_for
from archscout.selection import SELECTORS
from archscout.space import Arch, SearchSpace
from archscout.spaces.nasbench201 import nasbench201
from archscout.strategies import STRATEGIES
from archscout.strategies.strategy import Goal
from archscout.verify import initialise

HERE = Path(__file__).resolve().parent
POOL = 200
EPOCHS, REDUCTION, SHARE = 2.0, 10, 0.05
BATCH = {"full": 64}  # images per step; 32 in the arms that see fewer
JUDGES = 4000
ARMS = {"full": None, "dds": "dds", "redrawn": "random"}  # arm -> selector
SEARCHES = ("evolution", "reinforce")
SEEDS = 20
LEVEL, LEVELS = 50, (25, 50, 100)  # trainings on full data whose result is to be reached; the first is the figure's
IDLE = 500  # proposals in a row that bring nothing new, after which a search ends
SETTINGS: dict[str, dict[str, Any]] = {"evolution": {"population": 20, "tournament": 5}, "reinforce": {}}


def pool_of(count: int, seed: int = 0) -> list[str]:
    """The texts of `count` distinct random cells, in the order of drawing: any first part is a random pool itself."""
    space, rng = nasbench201((3, 32, 32), 10, channels=8, cells=1), np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found.setdefault(space.format(space.sample(rng)))
    return list(found)


@lru_cache(maxsize=1)
def halves(path: str, split: str) -> tuple[Images, Images]:
    """The official training half of CIFAR-10's training part, and JUDGES images of the other, drawn with seed 0."""
    with np.load(path, allow_pickle=False) as found:
        pixels, labels = found["X"], found["y"].astype(np.int64)
    with np.load(split, allow_pickle=False) as found:
        rows, held = found["train"], found["valid"]
    held = np.random.default_rng(0).permutation(held)[:JUDGES]
    return Images(pixels[rows], labels[rows]), Images(pixels[held], labels[held])


def train(text: str, arm: str, part: Images, judge: Images, epochs: float, reduction: float) -> dict[str, float]:
    """One training of a cell of the pool: accuracy in percent, and the seconds of training and of judging."""
    classes, shape = int(part.labels.max()) + 1, (part.pixels.shape[3], *part.pixels.shape[1:3])
    space = nasbench201(shape, classes, channels=8, cells=1)
    began = time.process_time()
    model = initialise(space, space.parse(text), 0)
    epochs = epochs if arm == "full" else epochs / reduction
    mean = part.pixels.mean(axis=(0, 1, 2))
    std = np.maximum(part.pixels[:: max(1, len(part) // 5000)].std(axis=(0, 1, 2)), 1.0)
    batch = BATCH.get(arm, 32)
    recipe = recipe_for(part, shape, classes, mirrors=True, balanced=False, epochs=epochs)
    recipe = replace(recipe, batch_size=batch, lr=0.2 * math.sqrt(batch / 128))
    make = ARMS[arm]
    selector = None if make is None else SELECTORS[make](part, seed=0, share=SHARE)
    fitted = fit(model, part, recipe=recipe, epochs=epochs, seed=0, mean=mean, std=std, selector=selector, threads=1)
    trained = time.process_time()
    found = evaluate(model, judge, mean=mean, std=std, threads=1)
    return {
        "accuracy": 100 * found.accuracy,
        "seconds": trained - began,
        "judge_seconds": time.process_time() - trained,
        "images": int(fitted.epochs * len(part)),
        "batch": recipe.batch_size,
    }


def pool_space(texts: list[str]) -> SearchSpace:
    """The cells as a space in which every architecture stands for the nearest cell of the pool."""
    space = nasbench201((3, 32, 32), 10)
    cells = np.array([space.parse(text) for text in texts])

    def nearest(arch: Arch) -> Arch:
        return tuple(int(index) for index in cells[int((cells != np.array(arch)).sum(1).argmin())])

    return replace(space, canonical_of=lru_cache(maxsize=None)(nearest))


def searched(space: SearchSpace, name: str, seed: int, rewards: dict[Arch, float]) -> list[Arch]:
    """The cells in the order in which a search trains them, until it has trained all or finds nothing new."""
    strategy = STRATEGIES[name](space, seed=seed, goal=Goal(scores={"accuracy": "max"}), **SETTINGS[name])
    met: dict[Arch, None] = {}
    idle = 0
    while len(met) < len(rewards) and idle < IDLE:
        (arch,) = strategy.ask(1)
        if arch in met:  # told again, its copies would fill a population
            idle += 1
            strategy.tell([arch], [{"violation": 0.0, "skipped": 1.0}])
        else:
            idle = 0
            met[arch] = None
            strategy.tell([arch], [{"violation": 0.0, "accuracy": rewards[arch]}])
    return list(met)


def curve(
    order: list[Arch], rewards: dict[Arch, float], prices: dict[Arch, float], truth: dict[Arch, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds spent after each training of a search, and the true accuracy of its best by reward so far."""
    values = np.array([rewards[arch] for arch in order])
    best = [int(np.argmax(values[: n + 1])) for n in range(len(order))]
    return np.cumsum([prices[arch] for arch in order]), np.array([truth[order[k]] for k in best])


def at(curves: list[tuple[np.ndarray, np.ndarray]], grid: np.ndarray) -> np.ndarray:
    """(seeds, grid) what each search has after so many seconds; less than anything before its first training."""
    rows = []
    for seconds, accuracy in curves:
        place = np.searchsorted(seconds, grid, side="right") - 1
        rows.append(np.where(place >= 0, accuracy[np.maximum(place, 0)], -np.inf))
    return np.array(rows)


def reached(table: np.ndarray, grid: np.ndarray, level: float) -> float:
    """Seconds from which the mean over the seeds stays at `level` or above; infinite where it does not.

    The best by reward can be replaced by a truly worse one, so that a curve may fall again; a lucky moment is no end.
    """
    under = np.flatnonzero(table.mean(0) < level - 1e-9)
    first = under[-1] + 1 if len(under) else 0
    return float(grid[first]) if first < len(grid) else math.inf


def savings(trained: dict[str, dict[str, dict[str, float]]], truth: dict[str, float], seeds: int) -> dict[str, Any]:
    """strategy -> arm -> the share of full data's seconds, at each of LEVELS, with paired intervals over the seeds.

    `share` is over the plain seconds of that many trainings on full data (of the arm `full`, it is the zero point);
    `over_full` is over the seconds that full data takes by the rule that holds for the arm. Searches that end with
    fewer trainings than a level asks for count with their last: `trainings` are those really made.
    trained: text -> arm -> cell, complete cells only.  truth: text -> true accuracy.
    """
    texts = list(trained)
    space = pool_space(texts)
    archs = {text: space.parse(text) for text in texts}
    true = {archs[text]: truth[text] for text in texts}
    found: dict[str, Any] = {}
    for name in SEARCHES:
        curves = {}
        for arm in ARMS:
            rewards = {archs[text]: trained[text][arm]["accuracy"] for text in texts}
            prices = {archs[text]: trained[text][arm]["seconds"] for text in texts}
            orders = [searched(space, name, seed, rewards) for seed in range(seeds)]
            curves[arm] = [curve(order, rewards, prices, true) for order in orders]
        ends = {arm: max(seconds[-1] for seconds, _ in some) for arm, some in curves.items()}
        grids = {arm: np.linspace(0, ends[arm], 1500) for arm in ARMS}
        tables = {arm: at(curves[arm], grids[arm]) for arm in ARMS}
        ends_at = {n: [min(n, len(accuracy)) - 1 for _, accuracy in curves["full"]] for n in LEVELS}
        after = {n: np.array([c[1][k] for c, k in zip(curves["full"], at_, strict=True)]) for n, at_ in ends_at.items()}
        spent = {n: np.array([c[0][k] for c, k in zip(curves["full"], at_, strict=True)]) for n, at_ in ends_at.items()}
        found[name] = {
            "final": {arm: float(np.mean([accuracy[-1] for _, accuracy in curves[arm]])) for arm in ARMS},
            "seconds": {arm: float(ends[arm]) for arm in ARMS},
            "trainings": {arm: least_and_mean([len(accuracy) for _, accuracy in curves[arm]]) for arm in ARMS},
            "levels": {
                n: {"accuracy": float(after[n].mean()), "trainings": least_and_mean([k + 1 for k in ends_at[n]])}
                for n in LEVELS
            },
            "price": {arm: price(trained, arm) for arm in ARMS},
            "share": {arm: {n: shares(tables, grids, after[n], arm, spent=spent[n]) for n in LEVELS} for arm in ARMS},
            "over_full": {
                arm: {n: shares(tables, grids, after[n], arm, other="full") for n in LEVELS}
                for arm in ARMS if arm != "full"
            },
            "dds_over_redrawn": shares(tables, grids, after[LEVEL], "dds", other="redrawn"),
            "curves": {arm: thinned(grids[arm], tables[arm].mean(0)) for arm in ARMS},
        }  # fmt: skip
    return found


def least_and_mean(counts: list[int]) -> dict[str, float]:
    return {"least": min(counts), "mean": float(np.mean(counts))}


def price(trained: dict[str, dict[str, dict[str, float]]], arm: str) -> float:
    """Seconds of a training in an arm over one on full data, from the means of the cells."""
    seconds = {name: sum(arms[name]["seconds"] for arms in trained.values()) for name in (arm, "full")}
    return seconds[arm] / seconds["full"]


def thinned(grid: np.ndarray, accuracy: np.ndarray) -> list[list[float]]:
    """Some points (seconds, accuracy) of a curve, from where every seed has something."""
    return [[round(float(grid[k]), 1), round(float(accuracy[k]), 3)] for k in range(0, 1500, 30) if accuracy[k] > 0]


def shares(
    tables: dict[str, np.ndarray], grids: dict[str, np.ndarray], after: np.ndarray, arm: str,
    *, spent: np.ndarray | None = None, other: str = "",
) -> dict[str, float | None]:  # fmt: skip
    """The seconds of `arm` to the mean of `after` over those `spent` to it; 95 % bootstrap over seeds, paired.

    spent: of each seed; default those of `other`. None stands for an end that is infinite or undefined, as an arm that
    never gets there has.
    """
    draw, seeds = np.random.default_rng(0), len(after)

    def ratio(rows: np.ndarray) -> float:
        level = float(after[rows].mean())
        mine = reached(tables[arm][rows], grids[arm], level)
        theirs = reached(tables[other][rows], grids[other], level) if spent is None else float(spent[rows].mean())
        return mine / theirs if math.isfinite(theirs) and theirs > 0 else math.nan

    value = ratio(np.arange(seeds))
    spread = np.sort([ratio(draw.integers(0, seeds, seeds)) for _ in range(500)])
    low, high = (float(spread[round(place * 499)]) for place in (0.025, 0.975))
    clean = [number if math.isfinite(number) else None for number in (value, low, high)]
    return dict(zip(("value", "low", "high"), clean, strict=True))


def correlations(trained: dict[str, dict[str, dict[str, float]]], truth: dict[str, float]) -> dict[str, Any]:
    """arm -> Kendall's tau-b and Spearman's rho of its accuracies with the truth, with bootstrap ends over cells.

    Also the differences of dds to the others, paired by cell.
    """
    from scipy.stats import kendalltau, spearmanr

    texts = list(trained)
    columns = {arm: np.array([trained[text][arm]["accuracy"] for text in texts]) for arm in ARMS}
    true, draw = np.array([truth[text] for text in texts]), np.random.default_rng(0)
    resampled = [draw.integers(0, len(texts), len(texts)) for _ in range(500)]
    found: dict[str, Any] = {}
    for name, statistic in (("kendall", kendalltau), ("spearman", spearmanr)):

        def measure(one: np.ndarray, other: np.ndarray, statistic: Any = statistic) -> float:
            return float(statistic(one, other).statistic) if np.ptp(one) > 0 and np.ptp(other) > 0 else 0.0

        spread = {
            arm: np.array([measure(column[rows], true[rows]) for rows in resampled]) for arm, column in columns.items()
        }
        whole = {arm: measure(column, true) for arm, column in columns.items()}
        ends = {arm: [float(q) for q in np.percentile(values, [2.5, 97.5])] for arm, values in spread.items()}
        found[name] = {arm: {"value": whole[arm], "low": ends[arm][0], "high": ends[arm][1]} for arm in ARMS}
        for other in ("full", "redrawn"):
            low, high = (float(q) for q in np.percentile(spread["dds"] - spread[other], [2.5, 97.5]))
            found[name][f"dds - {other}"] = {"value": whole["dds"] - whole[other], "low": low, "high": high}
    return found


def figures(
    trained: dict[str, Any], truth: dict[str, float], seeds: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The figures of the cells that all arms have trained, and what they come from."""
    found = savings(trained, truth, seeds)
    related = correlations(trained, truth)
    share = f"training seconds with dds / with full data, to what full data has after {LEVEL} trainings"
    rows: list[dict[str, Any]] = []
    for name in SEARCHES:
        some = found[name]
        dds = some["share"]["dds"][LEVEL]
        if dds["value"] is None:  # not there, or not to stay, with all that these searches trained
            dds = {**dds, "not_reached": True}
        rows.append(
            {
                "name": f"saving_{name}", "unit": share, **dds, "n": seeds, "known": None, "reach": 0.1,
                "zero_point": some["share"]["full"][LEVEL], "over_full": some["over_full"]["dds"][LEVEL],
                "price": some["price"]["dds"], "trainings": some["levels"][LEVEL]["trainings"],
                "redrawn": some["share"]["redrawn"][LEVEL], "redrawn_over_full": some["over_full"]["redrawn"][LEVEL],
                "redrawn_price": some["price"]["redrawn"], "dds_over_redrawn": some["dds_over_redrawn"],
                "cells": len(trained),
                "interval": "95 %, paired bootstrap over the seeds of the search",
            }
        )  # fmt: skip
    rows.append(
        {
            "name": "rank_corr_dds", "unit": "Kendall's tau-b with the published accuracy", **related["kendall"]["dds"],
            "n": len(trained), "known": None, "reach": None, "full": related["kendall"]["full"],
            "redrawn": related["kendall"]["redrawn"], "interval": "95 %, bootstrap over the cells",
        }
    )  # fmt: skip
    return rows, {"searches": found, "correlations": related}


def complete(cells: dict[str, dict[str, float]], texts: list[str]) -> dict[str, dict[str, dict[str, float]]]:
    """text -> arm -> training, of the cells that every arm has trained."""
    found = {text: {arm: cells.get(f"{arm}/{text}") for arm in ARMS} for text in texts}
    return {text: arms for text, arms in found.items() if all(arms.values())}  # type: ignore[misc]


def save(out: Path, cells: dict[str, Any], texts: list[str], truth: Callable[[str], float], seeds: int) -> None:
    trained = complete(cells, texts)
    rows, more = figures(trained, {text: truth(text) for text in trained}, seeds) if len(trained) >= 10 else ([], {})
    if rows:
        results_file.write(
            out, rows, command="python benchmarks/selected_pool.py --data FOLDER",
            settings={
                "epochs": EPOCHS, "reduction": REDUCTION, "share": SHARE, "judges": JUDGES, "pool": POOL,
                "searches": SETTINGS, "levels": LEVELS, "idle": IDLE, "precision": "32-true", "threads": 1,
            },
            finished=len(trained) == len(texts), means=means(trained), **more, cells=cells,
        )  # fmt: skip


def means(trained: dict[str, Any]) -> dict[str, Any]:
    """arm -> mean accuracy, seconds of training and of judging."""
    keys = ("accuracy", "seconds", "judge_seconds")
    return {arm: {key: float(np.mean([t[arm][key] for t in trained.values()])) for key in keys} for arm in ARMS}


def truth_of(path: Path) -> Callable[[str], float]:
    """The published mean accuracy on the test part after 200 epochs, by the text of a cell."""
    import pandas as pd

    table = pd.read_parquet(path, columns=["arch_str", "cifar10_test_200ep"])
    known = dict(zip(table["arch_str"], table["cifar10_test_200ep"].astype(float), strict=True))
    return known.__getitem__


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ARCHSCOUT_DATA"), help="folder of real data")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no new training after this many minutes")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of each search")
    parser.add_argument("--work", type=Path, default=HERE / "pieces" / "selection")
    parser.add_argument("--quick", action="store_true", help="a few cells on noise; a test of the script")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "selected_pool.json")
    args = parser.parse_args()
    if args.quick:
        quick(args.out)
        return
    if not args.data or not (args.data / "images").exists():
        raise SystemExit("the images are absent: give --data FOLDER, which holds images/ and nas/")
    args.work.mkdir(parents=True, exist_ok=True)
    if not (args.work / "cifar10.npz").exists():
        cifar10(args.work, args.data)
    torch.set_num_threads(1)
    part, judge = halves(str(args.work / "cifar10.npz"), str(args.data / "nas" / "nb201_cifar_split.npz"))
    truth = truth_of(args.data / "nas" / "nb201_accuracy.parquet")
    partial = args.work / "selected_pool.json"  # of too few cells for figures
    cells: dict[str, Any] = json.loads(args.out.read_text())["cells"] if args.out.exists() else {}
    cells |= json.loads(partial.read_text()) if partial.exists() else {}
    texts, ends = pool_of(POOL), time.monotonic() + 60 * args.minutes
    for text in texts:
        for arm in ARMS:
            key = f"{arm}/{text}"
            if key not in cells and time.monotonic() < ends:
                cells[key] = train(text, arm, part, judge, EPOCHS, REDUCTION)
                print(key, json.dumps(cells[key]), flush=True)
                partial.write_text(json.dumps(cells))
    save(args.out, cells, texts, truth, args.seeds)


def quick(out: Path) -> None:
    """Twelve cells for a moment on noise, with their multiply-adds for the truth: that it runs and has its form."""
    draw = np.random.default_rng(0)
    images = Images(draw.integers(0, 255, (80, 8, 8, 3), dtype=np.uint8), np.arange(80) % 2)
    texts = pool_of(12)
    cells = {f"{arm}/{text}": train(text, arm, images, images, 1, 2) for text in texts for arm in ARMS}
    save(out, cells, texts, lambda text: float(text.count("conv")), 3)


if __name__ == "__main__":
    main()
