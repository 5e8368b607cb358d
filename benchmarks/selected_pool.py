"""Evolution and reinforcement learning on chosen images: what a search saves when its short trainings see fewer.

    python benchmarks/selected_pool.py --data FOLDER [--minutes 60] [--quick]

FOLDER holds images/cifar10_lossless.zip and nas/nb201_accuracy.parquet, nb201_cifar_split.npz. A pool of 200 random
cells of NAS-Bench-201 (8 channels, one cell per stage), fixed by a seed, trains once per arm on the official training
half of CIFAR-10 and is judged on images of the validation half: `full` for EPOCHS passes; `dds` and `redrawn` (a
random subset drawn anew each round) backpropagate a REDUCTION-th as many images, in rounds of SHARE of the half, with
learning rates that fall to zero over their own length. All trainings of a cell start from the same weights. Trainings
that the results hold are skipped, so that it runs in pieces; cells come one after another with all arms, so that every
piece is a fair comparison. Seconds are of the processor, of one thread, with the making of the network and every choice
of images, without the judging; the mean and the deviation of the pixels are of the data and are computed once. In
float32: processors without bfloat16 are many times slower with it, and smaller networks gain nothing.

Then evolution, reinforce and, as control, random order search the pool, 20 seeds each. A mutation is a step to a
neighbour in the pool (see `neighbourhoods`), a drawn architecture stands for the nearest cell, ties broken by chance;
the reward is the arm's accuracy, the price the arm's seconds; a cell that was trained before is told as skipped. What a
search has is the mean true accuracy (published, 200 epochs, CIFAR-10 test) of its SHORTLIST best by reward.
A saving is the training seconds until the mean of the seeds first has what full data has after n trainings, over the
seconds of these n trainings: the median over n of LEVELS. An arm that never gets there counts as infinite, and stands
as null with `not_reached`; over a rival that never gets there it counts as 0. Full data itself need not come out at 1
by that rule: `zero_point` is full data by the rule, and `price` a training's seconds over one on full data. A gain is
the difference of what two arms have at equal seconds, the mean over the seconds of LEVELS; it is always finite.
Intervals are over cells, their trainings and the seeds, see `spread`. The plan, written before:
docs/plans/selected_pool.md.
"""

from __future__ import annotations

import argparse
import bisect
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import results_file
from cells import Images, keep, stored
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
EPOCHS, REDUCTION, SHARE = 2.0, 16, 0.025
BATCH = {"full": 64}  # images per step; 32 in the arms that see fewer
JUDGES = 4000
ARMS = {"full": None, "dds": "dds", "redrawn": "random"}  # arm -> selector
TRAINING: dict[str, Any] = {  # what a cell depends on; cells of other settings are not mixed with these
    "epochs": EPOCHS, "reduction": REDUCTION, "share": SHARE, "batch": BATCH, "arms": ARMS, "judges": JUDGES,
    "pool": POOL, "channels": 8, "cells": 1, "precision": "32-true", "threads": 1,
}  # fmt: skip
SEARCHES = ("evolution", "reinforce", "random")
SEEDS = 20
POPULATION = 10  # of evolution; half of them are its tournament
SHORTLIST = 10  # best by reward, whose mean true accuracy is what a search has
LEVELS = (20, 25, 30, 35, 40, 45, 50)  # trainings on full data whose result is to be reached
IDLE = 20  # proposals in a row that bring nothing new, after which a search ends
NEAR = 8  # a cell's neighbours are the NEAR nearest, and those of whose nearest it is one
HALVES, HALF_SEEDS = 50, 6  # of the pool, and seeds of the searches in each, for the intervals

Curve = tuple[np.ndarray, np.ndarray]  # (k,) seconds, rising, and (k,) what there is from then on
Trained = Mapping[str, Mapping[str, Mapping[str, float]]]  # text -> arm -> training, complete cells only


@dataclass(frozen=True, eq=False)
class PoolSpace(SearchSpace):
    """Some cells of a space, in which a mutation leads to a neighbour of the cell.

    near: cell -> its neighbours.
    """

    near: Mapping[Arch, Sequence[Arch]] = field(default_factory=dict)

    def mutate(self, arch: Arch, rng: np.random.Generator) -> Arch:
        near = self.near[self.canonical(arch)]
        return near[int(rng.integers(len(near)))]


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


def moments(part: Images) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the pixels per channel, on the 0..255 scale, from the counts of the 256 values."""
    channels = range(part.pixels.shape[3])
    shares = np.stack([np.bincount(part.pixels[..., c].ravel(), minlength=256) for c in channels]).astype(float)
    shares /= shares.sum(1, keepdims=True)
    values = np.arange(256.0)
    mean = shares @ values
    return mean, np.maximum(np.sqrt(shares @ values**2 - mean**2), 1.0)


def train(
    text: str, arm: str, part: Images, judge: Images, epochs: float, reduction: float,
    scale: tuple[np.ndarray, np.ndarray],
) -> dict[str, float]:  # fmt: skip
    """One training of a cell of the pool: accuracy in percent, and the seconds of training and of judging.

    scale: mean and deviation per channel, see `moments`.
    """
    classes, shape = int(part.labels.max()) + 1, (part.pixels.shape[3], *part.pixels.shape[1:3])
    space = nasbench201(shape, classes, channels=8, cells=1)
    arch = space.parse(text)
    began = time.process_time()
    model = initialise(space, arch, 0)
    epochs = epochs if arm == "full" else epochs / reduction
    batch = BATCH.get(arm, 32)
    recipe = recipe_for(part, shape, classes, mirrors=True, balanced=False, epochs=epochs)
    recipe = replace(recipe, batch_size=batch, lr=0.2 * math.sqrt(batch / 128))
    make = ARMS[arm]
    selector = None if make is None else SELECTORS[make](part, seed=0, share=SHARE)
    mean, std = scale
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


# --- the pool as a space ---


def neighbourhoods(cells: np.ndarray, count: int, draw: np.random.Generator) -> np.ndarray:
    """Bool (n, n), symmetric: whether a cell is one of the `count` nearest of another, or the other way round.

    cells: (n, edges), the options. Distance is the number of edges that differ; equal distances are ordered by a number
    drawn for each pair, so that no cell is nearer for its place. Every cell has `count` neighbours at least.
    """
    n = len(cells)
    chance = np.triu(draw.random((n, n)), 1)
    apart = (cells[:, None] != cells[None]).sum(2) + chance + chance.T
    np.fill_diagonal(apart, np.inf)
    near = np.zeros((n, n), dtype=bool)
    near[np.arange(n)[:, None], np.argsort(apart, axis=1)[:, : min(count, n - 1)]] = True
    return near | near.T


def nearest(cells: np.ndarray, others: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """The place (k,) in `cells` (n, edges) of the nearest to each of `others` (k, edges); chance decides among ties."""
    apart = draw.random((len(others), len(cells)), dtype=np.float32)
    for edge in range(cells.shape[1]):
        apart += others[:, edge, None] != cells[None, :, edge]
    return apart.argmin(1)


def pool_space(texts: Sequence[str], seed: int = 0) -> PoolSpace:
    """The cells as a space: mutations lead to neighbours, and every architecture stands for the nearest cell.

    A random architecture is each cell with the same probability. The seed decides among equal distances.
    """
    space, draw = nasbench201((3, 32, 32), 10), np.random.default_rng(seed)
    archs = [space.parse(text) for text in texts]
    cells, every = np.array(archs), list(space)
    near = neighbourhoods(cells, NEAR, draw)
    stands = nearest(cells, np.array(every), draw)
    given = {each.name: getattr(space, each.name) for each in fields(SearchSpace)}
    given |= {
        "canonical_of": {arch: archs[place] for arch, place in zip(every, stands, strict=True)}.__getitem__,
        "sample_of": lambda rng: archs[int(rng.integers(len(archs)))],
    }
    reach = {arch: [archs[place] for place in np.flatnonzero(row)] for arch, row in zip(archs, near, strict=True)}
    return PoolSpace(**given, near=reach)


def searched(
    space: SearchSpace, name: str, seed: int, rewards: Mapping[Arch, float], population: int = POPULATION
) -> list[Arch]:
    """The cells in the order in which a search trains them, until it has trained all or finds nothing new."""
    if name == "random":
        archs = list(rewards)
        return [archs[place] for place in np.random.default_rng(seed).permutation(len(archs))]
    settings = {"population": population, "tournament": (population + 1) // 2} if name == "evolution" else {}
    strategy = STRATEGIES[name](space, seed=seed, goal=Goal(scores={"accuracy": "max"}), **settings)
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


# --- what a search has, and when ---


def curve(
    order: Sequence[Arch],
    rewards: Mapping[Arch, float],
    prices: Mapping[Arch, float],
    truth: Mapping[Arch, float],
    shortlist: int,
) -> Curve:
    """Seconds spent after each training of a search, and the mean true accuracy of its best by reward so far.

    shortlist: how many are its best; of equal rewards those trained first.
    """
    best: list[tuple[float, int]] = []  # (-reward, place), ascending
    has = np.empty(len(order))
    for place, arch in enumerate(order):
        bisect.insort(best, (-rewards[arch], place))
        del best[shortlist:]
        has[place] = math.fsum(truth[order[each]] for _, each in best) / len(best)
    return np.cumsum([prices[arch] for arch in order]), has


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean of some curves, with a step wherever one of them has one, from where each has something."""
    seconds = np.concatenate([times for times, _ in curves])
    steps = np.concatenate([np.diff(has, prepend=0.0) for _, has in curves]) / len(curves)
    order = np.argsort(seconds, kind="stable")
    seconds, has = seconds[order], np.cumsum(steps[order])
    kept = np.append(seconds[1:] > seconds[:-1], True) & (seconds >= max(times[0] for times, _ in curves))
    return seconds[kept], has[kept]


def first(mean: Curve, level: float) -> float:
    """Seconds at which a mean curve first has `level`; infinite where it never has."""
    there = np.flatnonzero(mean[1] >= level - 1e-9)
    return float(mean[0][there[0]]) if len(there) else math.inf


def to_stay(mean: Curve, level: float) -> float:
    """Seconds from which a mean curve is at `level` or above to its end; infinite where it ends below."""
    under = np.flatnonzero(mean[1] < level - 1e-9)
    place = int(under[-1]) + 1 if len(under) else 0
    return float(mean[0][place]) if place < len(mean[0]) else math.inf


def at(mean: Curve, seconds: float) -> float:
    """What a mean curve has after so many seconds; not a number before its beginning."""
    place = int(np.searchsorted(mean[0], seconds + 1e-9, side="right")) - 1
    return float(mean[1][place]) if place >= 0 else math.nan


def ratio(mine: float, theirs: float) -> float:
    """Seconds over seconds: infinite where the first never come, 0 where only the others never come."""
    if math.isinf(theirs):
        return math.nan if math.isinf(mine) else 0.0
    return mine / theirs


def middle(values: Sequence[float]) -> float:
    """The median of ratios, of which some may be infinite or not a number; not a number where it hangs on those."""
    least, most = (float(np.median([end if math.isnan(v) else v for v in values])) for end in (0.0, math.inf))
    return least if least == most else math.nan


def standing(trained: Trained, truth: Mapping[str, float], seeds: Iterable[int]) -> dict[str, float]:
    """What the searches give on a pool of trained cells, by name; may be infinite or not a number.

    Where the pool is smaller than POOL, the population, the shortlist and the LEVELS shrink in proportion.

    SEARCH/saving/ARM     the median over LEVELS of the seconds to what full data has, over the seconds that it took
    SEARCH/saving/ARM/n   the same for the level n alone
    SEARCH/over_redrawn   the median over LEVELS of dds's seconds over redrawn's
    SEARCH/gain/ARM       points more than full data at equal seconds, the mean over LEVELS; gain_over_redrawn likewise
    SEARCH/over_random/ARM   points more than random order after the same number of trainings, the mean over LEVELS
    SEARCH/alone/ARM      as saving at the last of LEVELS, but of the one best by reward, and from where it stays
    SEARCH/level/n, SEARCH/end/ARM, SEARCH/trainings/ARM   accuracies that are to be reached; at the end; trainings
    """
    texts, seeds = list(trained), list(seeds)
    share = len(texts) / POOL
    population, shortlist = max(2, round(share * POPULATION)), max(1, round(share * SHORTLIST))
    space = pool_space(texts)
    archs = {text: space.parse(text) for text in texts}
    true = {archs[text]: truth[text] for text in texts}
    counts = {n: max(1, round(share * n)) for n in LEVELS}
    found: dict[str, float] = {}
    after: dict[tuple[str, str, int], float] = {}  # (search, arm, n): accuracy after n trainings
    for name in reversed(SEARCHES):  # random order first, which the others are compared with
        means: dict[str, Curve] = {}
        alone: dict[str, Curve] = {}
        spent: dict[int, float] = {}
        alone_after = 0.0
        for arm in ARMS:
            rewards = {archs[text]: trained[text][arm]["accuracy"] for text in texts}
            prices = {archs[text]: trained[text][arm]["seconds"] for text in texts}
            orders = [searched(space, name, seed, rewards, population) for seed in seeds]
            curves = [curve(order, rewards, prices, true, shortlist) for order in orders]
            ones = [curve(order, rewards, prices, true, 1) for order in orders]
            means[arm], alone[arm] = mean_curve(curves), mean_curve(ones)
            for n, count in counts.items():
                after[name, arm, n] = float(np.mean([has[min(count, len(has)) - 1] for _, has in curves]))
                if arm == "full":
                    spent[n] = float(np.mean([times[min(count, len(times)) - 1] for times, _ in curves]))
            if arm == "full":
                alone_after = float(np.mean([has[min(counts[LEVELS[-1]], len(has)) - 1] for _, has in ones]))
            found[f"{name}/end/{arm}"] = float(means[arm][1][-1])
            found[f"{name}/trainings/{arm}"] = float(np.mean([len(order) for order in orders]))
            others = [after[name, arm, n] - after["random", arm, n] for n in LEVELS]
            found[f"{name}/over_random/{arm}"] = float(np.mean(others))
        level = {n: after[name, "full", n] for n in LEVELS}
        found |= {f"{name}/level/{n}": value for n, value in level.items()}
        to = {arm: {n: first(means[arm], level[n]) for n in LEVELS} for arm in ARMS}
        has_at = {arm: {n: at(means[arm], spent[n]) for n in LEVELS} for arm in ARMS}
        for arm in ARMS:
            shares = {n: ratio(to[arm][n], spent[n]) for n in LEVELS}
            found[f"{name}/saving/{arm}"] = middle(list(shares.values()))
            found |= {f"{name}/saving/{arm}/{n}": value for n, value in shares.items()}
            found[f"{name}/gain/{arm}"] = float(np.mean([has_at[arm][n] - level[n] for n in LEVELS]))
            found[f"{name}/alone/{arm}"] = ratio(to_stay(alone[arm], alone_after), spent[LEVELS[-1]])
        found[f"{name}/over_redrawn"] = middle([ratio(to["dds"][n], to["redrawn"][n]) for n in LEVELS])
        found[f"{name}/gain_over_redrawn"] = found[f"{name}/gain/dds"] - found[f"{name}/gain/redrawn"]
    return found


def prices_of(trained: Trained) -> dict[str, float]:
    """price/ARM and price_judged/ARM: the seconds of a training over one on full data, without and with the judging."""
    found: dict[str, float] = {}
    for name, keys in (("price", ("seconds",)), ("price_judged", ("seconds", "judge_seconds"))):
        spent = {arm: sum(arms[arm].get(key, 0.0) for arms in trained.values() for key in keys) for arm in ARMS}
        found |= {f"{name}/{arm}": spent[arm] / spent["full"] for arm in ARMS}
    return found


# --- figures ---


def spread(trained: Trained, truth: Mapping[str, float], count: int, seeds: int) -> list[dict[str, float]]:
    """The standings of so many random halves of the cells, each searched with seeds of its own.

    A half drawn without replacement varies about the whole as the whole does about all cells that there are, since the
    variance of a mean of n/2 of n is s^2/(n/2) (1 - 1/2) = s^2/n. No cell comes twice, so that a search can train it
    once. The noise of a training goes with its cell; so these halves vary by the choice of the cells, by the noise of
    their trainings, and by the seeds, more than with SEEDS of them.
    """
    draw, texts = np.random.default_rng(0), list(trained)
    found = []
    for number in range(count):
        chosen = np.sort(draw.permutation(len(texts))[: len(texts) // 2])
        some = {texts[place]: trained[texts[place]] for place in chosen}
        first_seed = 1000 + number * seeds
        found.append({**standing(some, truth, range(first_seed, first_seed + seeds)), **prices_of(some)})
    return found


def ends(value: float, samples: Sequence[float], *, is_ratio: bool) -> dict[str, Any]:
    """A value with the ends of its 95 % interval, which the samples give after they are moved to have it as median.

    A ratio is moved by a factor, anything else by a difference; where value or median is not finite, or a ratio of 0,
    the interval is not moved but widened to the value. A sample that is not a number counts as the least at the low end
    and as infinite at the high end. What is infinite or undefined stands as None, with `not_reached` where the value is
    infinite and `undefined` where it is not a number.
    """
    least = 0.0 if is_ratio else -math.inf
    low, high = (
        float(np.sort([end if math.isnan(sample) else sample for sample in samples])[round(place * (len(samples) - 1))])
        for end, place in ((least, 0.025), (math.inf, 0.975))
    )
    median = middle(samples) if is_ratio else float(np.median(samples))
    if math.isfinite(value) and math.isfinite(median):
        if not is_ratio:
            low, high = low + value - median, high + value - median
        elif median > 0 and value > 0:
            low, high = low * value / median, high * value / median
    if not math.isnan(value):
        low, high = min(low, value), max(high, value)
    found: dict[str, Any] = {
        key: number if math.isfinite(number) else None
        for key, number in (("value", value), ("low", low), ("high", high))
    }
    if math.isinf(value):
        found["not_reached"] = True
    if math.isnan(value):
        found["undefined"] = True
    return found


def correlations(trained: Trained, truth: Mapping[str, float]) -> dict[str, Any]:
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

        varied = {
            arm: np.array([measure(column[rows], true[rows]) for rows in resampled]) for arm, column in columns.items()
        }
        whole = {arm: measure(column, true) for arm, column in columns.items()}
        limits = {arm: [float(q) for q in np.percentile(values, [2.5, 97.5])] for arm, values in varied.items()}
        found[name] = {arm: {"value": whole[arm], "low": limits[arm][0], "high": limits[arm][1]} for arm in ARMS}
        for other in ("full", "redrawn"):
            low, high = (float(q) for q in np.percentile(varied["dds"] - varied[other], [2.5, 97.5]))
            found[name][f"dds - {other}"] = {"value": whole["dds"] - whole[other], "low": low, "high": high}
    return found


RATIOS = ("saving", "over_redrawn", "alone", "price", "price_judged")  # words of the names of standings that are ratios


def figures(
    trained: Trained, truth: Mapping[str, float], seeds: int, count: int = HALVES, half_seeds: int = HALF_SEEDS
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The figures of the cells that all arms have trained, and what they come from.

    count, half_seeds: the halves of the intervals and the seeds of the searches in each.
    """
    whole = {**standing(trained, truth, range(seeds)), **prices_of(trained)}
    samples = spread(trained, truth, count, half_seeds)
    found = {
        name: ends(value, [sample[name] for sample in samples], is_ratio=bool(set(name.split("/")) & set(RATIOS)))
        for name, value in whole.items()
    }
    related = correlations(trained, truth)
    about = {
        "n": len(trained), "known": None, "seeds": seeds,
        "interval": f"95 %, {count} random halves of the cells with {half_seeds} seeds each, moved to the value",
    }  # fmt: skip
    levels = f"{LEVELS[0]} to {LEVELS[-1]} trainings of {POOL}, the best {SHORTLIST} by reward"
    rows: list[dict[str, Any]] = []
    for name in SEARCHES:
        rows.append(
            {
                "name": f"saving_{name}", "unit": "training seconds with dds / with full data, to what full data has",
                **found[f"{name}/saving/dds"], **about, "reach": 0.1, "levels": levels,
                "zero_point": found[f"{name}/saving/full"], "price": found["price/dds"],
                "price_judged": found["price_judged/dds"], "redrawn": found[f"{name}/saving/redrawn"],
                "dds_over_redrawn": found[f"{name}/over_redrawn"],
                "last_level": found[f"{name}/saving/dds/{LEVELS[-1]}"], "one_best": found[f"{name}/alone/dds"],
            }
        )  # fmt: skip
    for name in SEARCHES:
        rows.append(
            {
                "name": f"gain_{name}", "unit": "points of true accuracy at equal training seconds, dds - full data",
                **found[f"{name}/gain/dds"], **about, "reach": 0.0, "levels": levels,
                "redrawn": found[f"{name}/gain/redrawn"], "dds_over_redrawn": found[f"{name}/gain_over_redrawn"],
                "over_random_order": {arm: found[f"{name}/over_random/{arm}"] for arm in ARMS},
            }
        )  # fmt: skip
    rows.append(
        {
            "name": "rank_corr_dds", "unit": "Kendall's tau-b with the published accuracy", **related["kendall"]["dds"],
            "n": len(trained), "known": None, "reach": None, "full": related["kendall"]["full"],
            "redrawn": related["kendall"]["redrawn"], "interval": "95 %, bootstrap over the cells",
        }
    )  # fmt: skip
    return rows, {"standings": found, "correlations": related}


def complete(cells: Mapping[str, Mapping[str, float]], texts: Sequence[str]) -> Trained:
    """text -> arm -> training, of the cells that every arm has trained."""
    found = {text: {arm: cells.get(f"{arm}/{text}") for arm in ARMS} for text in texts}
    return {text: arms for text, arms in found.items() if all(arms.values())}  # type: ignore[misc]


# --- files and the command ---


def save(
    out: Path,
    cells: dict[str, Any],
    texts: Sequence[str],
    truth: Callable[[str], float],
    seeds: int,
    count: int = HALVES,
) -> None:
    trained = complete(cells, texts)
    if len(trained) < 10:
        return
    finished = len(trained) == len(texts)
    rows, more = figures(trained, {text: truth(text) for text in trained}, seeds, count if finished else count // 4)
    searches = {
        "population": POPULATION, "shortlist": SHORTLIST, "levels": LEVELS, "idle": IDLE, "near": NEAR, "seeds": seeds,
    }  # fmt: skip
    results_file.write(
        out, rows, command="python benchmarks/selected_pool.py --data FOLDER", settings={**TRAINING, **searches},
        finished=finished, means=means(trained), **more, cells=cells,
    )  # fmt: skip


def means(trained: Trained) -> dict[str, Any]:
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
    if not args.data or not (Path(args.data) / "images").exists():
        raise SystemExit("the images are absent: give --data FOLDER, which holds images/ and nas/")
    data = Path(args.data)
    args.work.mkdir(parents=True, exist_ok=True)
    partial = args.work / "selected_pool.json"  # beside the results file, which has no figures of fewer than ten cells
    cells = {**stored(args.out, TRAINING), **stored(partial, TRAINING)}
    if not (args.work / "cifar10.npz").exists():
        cifar10(args.work, data)
    torch.set_num_threads(1)
    part, judge = halves(str(args.work / "cifar10.npz"), str(data / "nas" / "nb201_cifar_split.npz"))
    truth = truth_of(data / "nas" / "nb201_accuracy.parquet")
    scale, code = moments(part), results_file.code_of_program()
    texts, until = pool_of(POOL), time.monotonic() + 60 * args.minutes
    for text in texts:
        for arm in ARMS:
            key = f"{arm}/{text}"
            if key not in cells and time.monotonic() < until:
                cells[key] = {**train(text, arm, part, judge, EPOCHS, REDUCTION, scale), "code": code}
                print(key, json.dumps(cells[key]), flush=True)
                keep(partial, cells, TRAINING)
    save(args.out, cells, texts, truth, args.seeds)


def quick(out: Path) -> None:
    """Twelve cells for a moment on noise, with their convolutions for the truth: that it runs and has its form."""
    draw = np.random.default_rng(0)
    images = Images(draw.integers(0, 255, (1400, 8, 8, 3), dtype=np.uint8), np.arange(1400) % 2)
    texts, scale = pool_of(12), moments(images)
    cells = {f"{arm}/{text}": train(text, arm, images, images, 0.3, 2, scale) for text in texts for arm in ARMS}
    save(out, cells, texts, lambda text: float(text.count("conv")), 3, count=8)


if __name__ == "__main__":
    main()
