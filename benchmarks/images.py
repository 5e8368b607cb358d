"""Whether it matters which images the proxies see: random, class-balanced, diverse or hard ones.

    python benchmarks/images.py --data FOLDER [--cells 300] [--seeds 2] [--minutes 60] [--quick]

The proxies that read images score random cells of NAS-Bench-201 on batches of 64 CIFAR-10 images of each kind. Per
proxy and kind: Kendall's tau-b with the CIFAR-10 accuracy, averaged over `--seeds` batches, and the difference to
balanced images with a 95 % interval from 1,000 bootstrap samples of the cells, drawn alike for both.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

sys.path.insert(0, str(Path(__file__).resolve().parent))
import results_file
from main_job import cifar10
from ranking import canonical_texts

from archscout.batches import KINDS
from archscout.bench import load_table
from archscout.ranking import rank

HERE = Path(__file__).resolve().parent
READERS = ("jacob_cov", "naswot", "grad_norm", "snip")
SAMPLES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ARCHSCOUT_DATA"), help="folder of real data")
    parser.add_argument("--cells", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=1e9, help="start no new scoring after this many minutes")
    parser.add_argument("--work", type=Path, default=HERE / "pieces" / "images", help="where scores are kept")
    parser.add_argument("--quick", action="store_true", help="the digits and made-up accuracies; a test of the script")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "images.json")
    args = parser.parse_args()
    ends = time.monotonic() + 60 * args.minutes
    if args.quick:
        texts, images, size = canonical_texts("nasbench201")[:12], "digits", 16
        truth, keep = np.arange(12.0), None
    else:
        if not args.data or not (args.data / "nas" / "nb201_accuracy.parquet").exists():
            raise SystemExit("the tables are absent: give --data FOLDER, which holds nas/ and images/")
        args.work.mkdir(parents=True, exist_ok=True)
        images, size, keep = args.work / "cifar10.npz", 64, args.work
        if not images.exists():
            cifar10(args.work, args.data)
        table = load_table(args.data / "nas" / "nb201_accuracy.parquet")
        place = {text: row for row, text in enumerate(table.archs)}
        texts = [text for text in canonical_texts("nasbench201") if table.connected[place[text]]][: args.cells]
        truth = np.array([table.accuracies["cifar10"][place[text]] for text in texts])
    scores: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    for seed in range(1 if args.quick else args.seeds):
        for kind in KINDS:
            if time.monotonic() > ends:
                continue
            out = None if keep is None else keep / f"{kind}-{seed}.csv"
            frame = rank(
                "nasbench201", texts, proxies=list(READERS), data=images, images=kind, batch_size=size, seed=seed,
                workers=0 if args.quick else args.workers, out=out,
            )  # fmt: skip
            scores[kind].append(frame[list(READERS)].to_numpy(float))
    if not scores["balanced"]:
        raise SystemExit("no scoring was done in the time given")
    results_file.write(
        args.out,
        figures(scores, truth),
        command=f"python benchmarks/images.py --data FOLDER --cells {args.cells} --seeds {args.seeds}",
        settings={"cells": len(texts), "batch_size": size, "seeds": {kind: len(v) for kind, v in scores.items()}},
    )


def tau(columns: list[np.ndarray], truth: np.ndarray, proxy: int, rows: np.ndarray) -> float:
    """Kendall's tau-b of one proxy, mean over batches; a missing score counts as the worst."""
    filled = [np.nan_to_num(column[rows, proxy], nan=-np.inf) for column in columns]
    return float(np.mean([kendalltau(np.nan_to_num(each, neginf=-1e300), truth[rows]).statistic for each in filled]))


def figures(scores: dict[str, list[np.ndarray]], truth: np.ndarray) -> list[dict]:
    """tau_PROXY_KIND, and the change against balanced images, gain_PROXY_KIND."""
    rng = np.random.default_rng(0)
    samples = [rng.integers(len(truth), size=len(truth)) for _ in range(SAMPLES)]
    whole, found = np.arange(len(truth)), []

    def add(name: str, value: float, drawn: list[float]) -> None:
        low, high = np.nanpercentile(drawn, [2.5, 97.5])
        found.append(
            {
                "name": name, "value": value, "unit": "Kendall's tau-b", "low": float(low), "high": float(high),
                "n": len(truth), "known": None, "reach": None,
            }
        )  # fmt: skip

    for proxy, name in enumerate(READERS):
        base = [tau(scores["balanced"], truth, proxy, rows) for rows in samples]
        for kind, columns in scores.items():
            if not columns:
                continue
            drawn = [tau(columns, truth, proxy, rows) for rows in samples] if kind != "balanced" else base
            value = tau(columns, truth, proxy, whole)
            add(f"tau_{name}_{kind}", value, drawn)
            if kind != "balanced":
                change = value - tau(scores["balanced"], truth, proxy, whole)
                add(f"gain_{name}_{kind}", change, [one - other for one, other in zip(drawn, base, strict=True)])
    return found


if __name__ == "__main__":
    main()
