"""Choosing images and networks together: do images on which candidates disagree order them better than others?

    python benchmarks/joint_choice.py --data FOLDER [--minutes 40] [--seeds 3] [--quick]

FOLDER holds images/cifar10_lossless.zip and nas/nb201_accuracy.parquet. Twenty cells of NAS-Bench-201, drawn from the
better half by the aggregate as a shortlist would be (8 channels, one cell per stage), train first on WARM random
images, then on rounds of ROUND images chosen by an arm, REST images in all: `random` (drawn anew each round), `dds`
(what the network itself finds hard), `disagreement` (what the twenty answered differently after the first stage; ASKED
images are answered), and `random_longer`, which may train on as many images more as asking costs. The figure is
Kendall's tau of the twenty accuracies on JUDGES held-out images with the published accuracies after 200 epochs, mean
over seeds (weights and images), and the difference to `random`, paired by seed. Beside it the same twenty networks
judged on a quarter of the held-out images alone: those they disagreed on most after the first stage, or random ones. A
job is a seed and an arm; what the results hold is skipped. Seconds are of the processor, one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import kendalltau

sys.path.insert(0, str(Path(__file__).resolve().parent))
import results_file
from cells import Images, run_cells
from main_job import cifar10

from archscout.aggregate import INPUTS, rank_pool
from archscout.fit import evaluate, fit, recipe_for
from archscout.proxies import PROXIES
from archscout.selection import make_selector
from archscout.selection.disagreement import disagreements
from archscout.spaces.nasbench201 import nasbench201
from archscout.verify import initialise

HERE = Path(__file__).resolve().parent
NETWORKS = 20
POOL, JUDGES = 20_000, 2_000
WARM, REST, ROUND, ASKED = 3_000, 6_000, 2_000, 4_000
ARMS = {"random": "random", "dds": "dds", "disagreement": "disagreement", "random_longer": "random"}
SIZES = {"warm": WARM, "rest": REST, "round": ROUND, "asked": ASKED}
QUICK = {"warm": 64, "rest": 96, "round": 32, "asked": 40}


def shortlist(count: int) -> list[str]:
    """`count` random cells of the better half of all by the aggregate."""
    scores = pd.read_parquet(HERE / "results" / "ranking_scores.parquet")
    ranks = rank_pool(scores[list(INPUTS)].to_dict("records"), {name: PROXIES[name].direction for name in INPUTS})
    better = np.flatnonzero(ranks <= len(ranks) / 2)
    return [scores["arch"][i] for i in np.random.default_rng(0).permutation(better)[:count]]


def truths(folder: Path, texts: list[str]) -> list[float]:
    """The published accuracy on CIFAR-10 after 200 epochs of each cell, the mean over the cells of one network."""
    table = pd.read_parquet(folder / "nas" / "nb201_accuracy.parquet")
    space = nasbench201((3, 32, 32), 10)
    canonical = table["arch_str"].map(lambda text: space.format(space.canonical(space.parse(text))))
    mean = table["cifar10_test_200ep"].groupby(canonical).mean()
    return [float(mean[text]) for text in texts]


@lru_cache(maxsize=1)
def parts(path: str) -> tuple[Images, Images]:
    """POOL training images of CIFAR-10 and JUDGES others, drawn with seed 0."""
    with np.load(path, allow_pickle=False) as found:
        pixels, labels = found["X"], found["y"].astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))[: POOL + JUDGES]
    train, held = order[:POOL], order[POOL:]
    return Images(pixels[train], labels[train]), Images(pixels[held], labels[held])


def stage(model: Any, part: Images, seed: int, images: int, selector: Any) -> None:
    """Trains a network on so many images of a part."""
    classes, shape = int(part.labels.max()) + 1, (part.pixels.shape[3], *part.pixels.shape[1:3])
    epochs = images / len(part)
    recipe = recipe_for(part, shape, classes, mirrors=True, balanced=False, epochs=epochs)
    fit(model, part, recipe=recipe, epochs=epochs, seed=seed, mean=MEAN, std=STD, selector=selector, threads=1)


MEAN, STD = np.array([125.3, 123.0, 113.9]), np.array([63.0, 62.1, 66.7])  # of CIFAR-10


def warm(texts: list[str], path: str, seed: int, work: Path, sizes: dict[str, int]) -> dict[str, Any]:
    """The first stage of all networks; weights and answers stay in the folder `work`."""
    part, judge = quick_parts() if path == "quick" else parts(path)
    asked = Images(part.pixels[: sizes["asked"]], part.labels[: sizes["asked"]])
    answers, judged, accuracy = [], [], []
    training = asking = 0.0
    for number, text in enumerate(texts):
        space = nasbench201((3, *part.pixels.shape[1:3]), int(part.labels.max()) + 1, channels=8, cells=1)
        began = time.process_time()
        model = initialise(space, space.parse(text), seed)
        stage(
            model, part, seed, sizes["warm"], make_selector("random", part, seed=seed, share=sizes["warm"] / len(part))
        )
        training += time.process_time() - began
        began = time.process_time()
        answers.append(evaluate(model, asked, mean=MEAN, std=STD).predictions)
        asking += time.process_time() - began
        found = evaluate(model, judge, mean=MEAN, std=STD)
        judged.append(found.predictions)
        accuracy.append(100 * found.accuracy)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, work / f"{seed}-{number}.safetensors")
    np.savez(work / f"{seed}.npz", answers=np.stack(answers), judged=np.stack(judged))
    return {
        "accuracy": accuracy,
        "seconds": training,
        "asking_seconds": asking,
        "disputed": float(disagreements(np.stack(answers)).mean()),
    }


def second(texts: list[str], path: str, seed: int, arm: str, work: Path, sizes: dict[str, int]) -> dict[str, Any]:
    """The second stage of all networks on the images of an arm, and how they are judged."""
    part, judge = quick_parts() if path == "quick" else parts(path)
    with np.load(work / f"{seed}.npz", allow_pickle=False) as stored:
        answers, judged = stored["answers"], stored["judged"]
    quarter = len(judge) // 4
    disputed = np.argsort(-disagreements(judged), kind="stable")[:quarter]
    some = np.random.default_rng(seed).permutation(len(judge))[:quarter]
    images = sizes["rest"] + (sizes["asked"] // 3 if arm == "random_longer" else 0)
    given = {"answers": answers, "asked": np.arange(sizes["asked"])}
    out: dict[str, Any] = {"accuracy": [], "disputed": [], "sampled": [], "seconds": 0.0}
    for number, text in enumerate(texts):
        space = nasbench201((3, *part.pixels.shape[1:3]), int(part.labels.max()) + 1, channels=8, cells=1)
        began = time.process_time()
        model = initialise(space, space.parse(text), seed)
        model.load_state_dict(load_file(work / f"{seed}-{number}.safetensors"))
        selector = make_selector(ARMS[arm], part, seed=seed + 1, share=sizes["round"] / len(part), answers=given)
        stage(model, part, seed + 1, images, selector)
        out["seconds"] += time.process_time() - began
        right = 100.0 * (evaluate(model, judge, mean=MEAN, std=STD).predictions == judge.labels)
        for name, rows in (("accuracy", slice(None)), ("disputed", disputed), ("sampled", some)):
            out[name].append(float(right[rows].mean()))
    return out


def quick_parts() -> tuple[Images, Images]:
    """A little noise, for a test of the script."""
    rng = np.random.default_rng(0)
    made = [Images(rng.integers(0, 256, (n, 8, 8, 3)).astype(np.uint8), np.arange(n) % 3) for n in (96, 48)]
    return made[0], made[1]


def figures(cells: dict[str, Any], truth: list[float]) -> list[dict[str, Any]]:
    """The figures that follow from the cells."""
    taus: dict[str, dict[int, float]] = {}

    def tau_of(values: list[float]) -> float:
        found = float(kendalltau(values, truth)[0])
        return found if np.isfinite(found) else 0.0  # all alike say nothing of the order

    for key, cell in cells.items():
        arm, seed = key.split("/")
        taus.setdefault(arm, {})[int(seed)] = tau_of(cell["accuracy"])
        for how in ("disputed", "sampled") if arm == "random" else ():
            taus.setdefault(f"random_judged_{how}", {})[int(seed)] = tau_of(cell[how])
    found = []
    tau = "Kendall's tau with the published accuracies"
    for arm, by_seed in taus.items():
        seconds = [c["seconds"] for k, c in cells.items() if k.split("/")[0] == arm]
        more = {"seconds": float(np.mean(seconds))} if seconds else {}
        found.append(results_file.figure(f"tau_{arm}", list(by_seed.values()), tau, **more))
    pairs = [("dds", "random"), ("disagreement", "random"), ("disagreement", "dds"), ("disagreement", "random_longer"),
             ("random_judged_disputed", "random_judged_sampled")]  # fmt: skip
    for one, other in pairs:
        seeds = sorted(set(taus.get(one, {})) & set(taus.get(other, {})))
        if seeds:
            gains = [taus[one][seed] - taus[other][seed] for seed in seeds]
            found.append(results_file.figure(f"gain_{one}_over_{other}", gains, f"{tau}, paired by seed", reach=0.0))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ARCHSCOUT_DATA"), help="folder of real data")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no new job after this many minutes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="jobs at a time, one thread each")
    parser.add_argument("--work", type=Path, default=HERE / "pieces" / "joint_choice")
    parser.add_argument("--quick", action="store_true", help="three cells on noise; a test of the script")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "joint_choice.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    work, sizes = (args.out.parent / "joint_choice_quick", QUICK) if args.quick else (args.work, SIZES)
    if not args.quick and not (args.data and (args.data / "images").exists()):
        raise SystemExit("the images are absent: give --data FOLDER, which holds images/ and nas/")
    work.mkdir(parents=True, exist_ok=True)
    if not args.quick and not (work / "cifar10.npz").exists():
        cifar10(work, args.data)
    path = "quick" if args.quick else str(work / "cifar10.npz")
    texts = shortlist(3 if args.quick else NETWORKS)
    truth = [1.0, 2.0, 3.0] if args.quick else truths(args.data, texts)
    cells = {} if args.quick or not args.out.exists() else json.loads(args.out.read_text())["cells"]

    def save(key: str, cell: dict[str, Any]) -> None:
        cells[key] = cell
        print(key, json.dumps(cell)[:300], flush=True)
        results_file.write(
            args.out, figures(cells, truth), command="python benchmarks/joint_choice.py --data FOLDER",
            settings={**sizes, "pool": POOL, "judges": JUDGES, "channels": 8, "cells": 1}, archs=texts, truth=truth,
            cells=cells,
        )  # fmt: skip

    if args.quick:
        save("warm/0", warm(texts, path, 0, work, sizes))
        for arm in ARMS:
            save(f"{arm}/0", second(texts, path, 0, arm, work, sizes))
        return
    ends = time.monotonic() + 60 * args.minutes
    for seed in range(args.seeds):
        if f"warm/{seed}" not in cells or not (work / f"{seed}.npz").exists():
            cells.pop(f"warm/{seed}", None)
            jobs = [(f"warm/{seed}", (texts, path, seed, work, sizes))]
            run_cells(jobs, warm, save, workers=1, minutes=(ends - time.monotonic()) / 60)
        if f"warm/{seed}" in cells:
            jobs = [
                (f"{arm}/{seed}", (texts, path, seed, arm, work, sizes)) for arm in ARMS if f"{arm}/{seed}" not in cells
            ]
            run_cells(jobs, second, save, workers=args.workers, minutes=(ends - time.monotonic()) / 60)


if __name__ == "__main__":
    main()
