"""Updating a training subset: for each of its images the furthest one of the same class that is outside of it.

    python benchmarks/furthest.py --data FOLDER [--repeats 5] [--quick]

FOLDER holds images/cifar10_lossless.zip. Its 50,000 training images become points by the main components of their
pixels (32 or 8) and are drawn with replacement up to 1.28 million; Gaussian noise of a tenth of each component's
spread makes them distinct. Beside them Gaussian points. A subset is drawn anew for each repeat, equally many of each
class; all of it are queries and all of it is excluded, so that every image is replaced and none is given twice.

- `update_seconds_1280000`: 10,000 queries among 1.28 million points of 32 dimensions in ten classes, mode "auto".
  `_one_class`: the same points as one class. `_later`: the second to fifth of five updates in a row, whose queries are
  what the one before gave and where all that was ever in the subset is excluded. Building the index is not in it: see
  `build_seconds_1280000`.
- `distance_ratio`: mode "approximate" in the same setting. The distance of an answer over the largest distance to any
  point that was free at that moment, found by a full scan; mean over queries. `_p01` is the first percentile.
- `growth_exponent`: slope of log(seconds of an update) against log(n) for n from 10,000 to 1.28 million in steps of
  two, 1,000 queries, ten classes, 32 dimensions, mode "auto", one slope a repeat.
- `..._500000`: 1,000 queries among 500,000 points of one class, every mode; others report 5 s for brute force and 15 s
  for the kd-tree of a library on two cores, without the rule that no answer repeats.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import results_file
from main_job import cifar10

from archscout.selection.furthest import MODES, Furthest

HERE = Path(__file__).resolve().parent
FULL, SUBSET, FEW = 1_280_000, 10_000, 1_000
KNOWN = {"brute": "5 s, brute force", "tree": "15 s, kd-tree of a library"}


class Points:
    """Draws of points (n, d) float32 and their classes (n,) int64, from an embedding of real images or Gaussian."""

    def __init__(self, images: np.ndarray | None, labels: np.ndarray | None) -> None:
        self.labels, self.embedding = labels, None
        if images is not None:
            flat = images.reshape(len(images), -1).astype(np.float32) / 255
            flat -= flat.mean(0)
            axes = np.linalg.eigh(flat.T @ flat)[1][:, ::-1]
            self.embedding = flat @ axes[:, :32]

    def draw(self, n: int, d: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([seed, n, d])
        noise = rng.standard_normal((n, d), dtype=np.float32)
        if self.embedding is None or self.labels is None:
            return noise, np.arange(n) % classes
        real = self.embedding[:, :d]
        drawn = rng.integers(len(real), size=n)
        return real[drawn] + noise * (0.1 * real.std(0)), self.labels[drawn].astype(np.int64) % classes


def subset(groups: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (size,) in random order, equally many of each group, and the mask (n,) that excludes them."""
    rng = np.random.default_rng(seed)
    names = np.unique(groups)
    chosen = [rng.choice(np.flatnonzero(groups == name), size // len(names), replace=False) for name in names]
    queries = rng.permutation(np.concatenate(chosen))
    excluded = np.zeros(len(groups), bool)
    excluded[queries] = True
    return queries, excluded


def updates(index: Furthest, size: int, repeats: int) -> tuple[list[float], float]:
    """Seconds of an update for each repeat, after one that warms up, and the share of updates that were exact."""
    taken, exact = [], []
    for repeat in range(repeats + 1):
        queries, excluded = subset(index.groups, size, repeat)
        start = time.perf_counter()
        index.replace(queries, excluded)
        taken.append(time.perf_counter() - start)
        exact.append(bool(index.exact))
    return taken[1:], float(np.mean(exact[1:]))


def later(index: Furthest, size: int, rounds: int) -> list[float]:
    """Seconds of the second and later updates in a row."""
    queries, excluded = subset(index.groups, size, 0)
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        queries = index.replace(queries, excluded)
        taken.append(time.perf_counter() - start)
        excluded[queries] = True
    return taken[1:]


def ratios(index: Furthest, size: int, checked: int) -> np.ndarray:
    """Distance of an answer over the largest one possible when it was given, for `checked` of the queries.

    A full scan, independent of the index: points outside the subset that were never given are free for all, those
    given are free for the queries up to the one that got them.
    """
    queries, excluded = subset(index.groups, size, 0)
    given = index.replace(queries, excluded)
    out = []
    which = np.sort(np.random.default_rng(1).permutation(size)[:checked])
    for name in np.unique(index.groups):
        mine = which[index.groups[queries[which]] == name]
        free = (index.groups == name) & ~excluded
        taken = given[index.groups[given] == name]
        turn = np.flatnonzero(index.groups[given] == name)
        free[taken] = False
        points = torch.from_numpy(index.points[free])
        centre = points.mean(0)
        points = points - centre
        norms = points.square().sum(1)
        late = torch.from_numpy(index.points[taken]) - centre
        for rows in np.array_split(mine, max(1, len(mine) // 64)):
            q = torch.from_numpy(index.points[queries[rows]]) - centre
            base = q.square().sum(1)
            best = torch.full((len(q),), -torch.inf)
            for first in range(0, len(points), 2**15):
                part = slice(first, first + 2**15)
                best = torch.maximum(best, torch.addmm(norms[part], q, points[part].T, alpha=-2).amax(1) + base)
            own = torch.cdist(q, late, compute_mode="donot_use_mm_for_euclid_dist").square()
            own[torch.from_numpy(turn[None] < rows[:, None])] = 0
            best = torch.maximum(best, own.amax(1)).double().sqrt()
            a, b = index.points[queries[rows]].astype(np.float64), index.points[given[rows]].astype(np.float64)
            out.append(np.minimum(np.linalg.norm(a - b, axis=1) / best.numpy(), 1))  # above one by rounding only
    return np.concatenate(out)


def percentile(name: str, samples: np.ndarray, **more: Any) -> dict[str, Any]:
    """The first percentile as a figure, its interval from 1,000 bootstrap draws."""
    rng = np.random.default_rng(0)
    drawn = [np.quantile(samples[rng.integers(len(samples), size=len(samples))], 0.01) for _ in range(1000)]
    return {
        "name": name,
        "value": float(np.quantile(samples, 0.01)),
        "unit": "ratio",
        "low": float(np.quantile(drawn, 0.025)),
        "high": float(np.quantile(drawn, 0.975)),
        "n": len(samples),
        "known": None,
        "reach": None,
        **more,
    }


def timed(points: np.ndarray, groups: np.ndarray, mode: str) -> tuple[Furthest, float]:
    start = time.perf_counter()
    index = Furthest(points, groups, mode)
    return index, time.perf_counter() - start


def slope_of_large(means: dict[str, float], least: int = 160_000) -> float | None:
    """The slope over the sizes from `least` on: with few points what every update costs besides hides the growth."""
    large = [(int(n), seconds) for n, seconds in means.items() if int(n) >= least]
    return round(float(np.polyfit(*np.log(np.array(large)).T, 1)[0]), 3) if len(large) > 1 else None


def report(figures: list[dict[str, Any]], new: dict[str, Any]) -> None:
    figures.append(new)
    print(f"{new['name']:50s} {new['value']:.4f} ({new['low']:.4f} to {new['high']:.4f}), n = {new['n']}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ARCHSCOUT_DATA"), help="folder of real images")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few Gaussian points; a test of the script")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "furthest.json")
    args = parser.parse_args()
    full, size, few, repeats = (6_000, 300, 60, 2) if args.quick else (FULL, SUBSET, FEW, args.repeats)
    sources = {"_gaussian": Points(None, None)}
    if not args.quick:
        if args.data is None:
            raise SystemExit("give --data FOLDER, which holds images/cifar10_lossless.zip, or --quick")
        with tempfile.TemporaryDirectory() as work, np.load(cifar10(Path(work), args.data)) as held:
            sources = {"": Points(held["X"], held["y"]), **sources}
    figures: list[dict[str, Any]] = []
    for tail, source in sources.items():
        for classes, kind in ((10, ""), (1, "_one_class")):
            end = f"_{full}{kind}{tail}"
            points, groups = source.draw(full, 32, classes, 0)
            for mode in ("auto", "approximate", "radius", "tree"):
                index, build = timed(points, groups, mode)
                taken, exact = updates(index, size, repeats if mode == "auto" else max(2, repeats - 2))
                word = "" if mode == "auto" else f"_{mode}"
                aim = 1.0 if mode == "auto" and classes == 10 else None
                report(figures, results_file.figure(f"update_seconds{end}{word}", taken, "s", reach=aim, exact=exact))
                report(figures, results_file.figure(f"build_seconds{end}{word}", [build], "s"))
                if mode == "auto":
                    new = results_file.figure(f"update_seconds{end}_later", later(index, size, 5), "s", reach=aim)
                    report(figures, new)
                if mode == "approximate":
                    found = ratios(index, size, size if classes == 10 else min(size, 1000))
                    word = f"distance_ratio{kind}{tail}"
                    report(figures, results_file.figure(word, found, "ratio, mean over queries", reach=0.99))
                    report(figures, percentile(f"distance_ratio_p01{kind}{tail}", found))
        sizes = [min(10_000, full // 4) * 2**power for power in range(8)]
        sizes = [n for n in sizes if n <= full]
        seconds: dict[str, list[list[float]]] = {"": [], "_approximate": [], "_brute": []}
        for n in sizes:
            points, groups = source.draw(n, 32, 10, 0)
            for word, each in seconds.items():
                each.append(updates(Furthest(points, groups, word[1:] or "auto"), few, repeats)[0])
        for word, each in seconds.items():
            logs = np.log(np.array(each))
            slopes = [float(np.polyfit(np.log(sizes), logs[:, repeat], 1)[0]) for repeat in range(repeats)]
            means = dict(zip(map(str, sizes), np.mean(each, axis=1).round(5).tolist(), strict=True))
            unit = f"slope, {few} queries"
            new = results_file.figure(
                f"growth_exponent{word}{tail}", slopes, unit, reach=0.5, seconds=means, large=slope_of_large(means)
            )
            report(figures, new)
        for d in (8, 32):
            for n in (min(full, 20_000) // 2, min(full, 500_000)):
                points, groups = source.draw(n, d, 1, 0)
                for mode in MODES:
                    index, _ = timed(points, groups, mode)
                    taken, exact = updates(index, few, repeats)
                    known = KNOWN.get(mode) if n == 500_000 else None
                    name = f"seconds_{mode}_{n}_{d}d{tail}"
                    report(figures, results_file.figure(name, taken, "s, one class", known=known, exact=exact))
    results_file.write(args.out, figures, threads=torch.get_num_threads(), queries=size, queries_few=few)


if __name__ == "__main__":
    main()
