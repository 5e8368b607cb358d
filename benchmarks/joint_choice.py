"""Choosing images and networks together: do images on which candidates disagree order them better than others?

    python benchmarks/joint_choice.py --data FOLDER [--minutes 40] [--quick]

FOLDER holds images/cifar10_lossless.zip and nas/nb201_accuracy.parquet. GROUPS shortlists of NETWORKS cells of
NAS-Bench-201 each, no cell twice, drawn from the better half by the aggregate as a shortlist would be (8 channels, one
cell per stage), train first on WARM random images, each group with images and weights of its own seed. Then they train
on rounds of ROUND images chosen by an arm: `random` (drawn anew each round), `dds` (what the network itself finds
hard), `disagreement` (what the networks of the group answered differently after the first stage). Every arm costs the
same: `disagreement` trains on REST images and answers ASKED of them before, at a third of the price of training; the
others train on REST + ASKED / 3. The figure is Kendall's tau of a group's accuracies on JUDGES held-out images with
the published accuracies after 200 epochs, and its difference to `random`, paired by group. Groups are independent of
each other in networks, weights and images, so that Student's t over them covers all three; `bootstrap` draws groups.
Beside it the networks of `random` judged on a quarter of the held-out images alone: those they disagreed on most after
the first stage, or random ones. A job is a group and an arm; what the results hold is skipped. Seconds are of the
processor, one thread. The plan, written before: docs/plans/joint_choice.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from cells import Images, run_cells, stored
from main_job import cifar10

from archscout.aggregate import INPUTS, rank_pool
from archscout.fit import evaluate, fit, recipe_for
from archscout.proxies import PROXIES
from archscout.selection import make_selector
from archscout.selection.disagreement import disagreements
from archscout.spaces.nasbench201 import nasbench201
from archscout.verify import initialise

HERE = Path(__file__).resolve().parent
GROUPS, NETWORKS = 16, 20
POOL, JUDGES = 20_000, 8_000
WARM, REST, ROUND, ASKED = 4_000, 4_000, 1_000, 3_000
BATCH, LR = 32, 0.1
ARMS = ("random", "dds", "disagreement")  # selectors
SIZES = {"warm": WARM, "rest": REST, "round": ROUND, "asked": ASKED}
QUICK = {"warm": 64, "rest": 96, "round": 32, "asked": 40}
SETTINGS: dict[str, Any] = {  # what a cell depends on; cells of other settings are not mixed with these
    **SIZES, "groups": GROUPS, "networks": NETWORKS, "pool": POOL, "judges": JUDGES, "batch": BATCH, "lr": LR,
    "channels": 8, "cells": 1,
}  # fmt: skip
MEAN, STD = np.array([125.3, 123.0, 113.9]), np.array([63.0, 62.1, 66.7])  # of CIFAR-10
TAU = "Kendall's tau with the published accuracies"


def shortlist(count: int) -> list[str]:
    """`count` random cells of the better half of all by the aggregate."""
    scores = pd.read_parquet(HERE / "results" / "ranking_scores.parquet")
    ranks = rank_pool(scores[list(INPUTS)].to_dict("records"), {name: PROXIES[name].direction for name in INPUTS})
    better = np.flatnonzero(ranks <= len(ranks) / 2)
    return [scores["arch"][i] for i in np.random.default_rng(0).permutation(better)[:count]]


def truths(folder: Path, texts: Sequence[str]) -> list[float]:
    """The published accuracy on CIFAR-10 after 200 epochs of each cell, the mean over the cells of one network."""
    table = pd.read_parquet(folder / "nas" / "nb201_accuracy.parquet")
    space = nasbench201((3, 32, 32), 10)
    canonical = table["arch_str"].map(lambda text: space.format(space.canonical(space.parse(text))))
    mean = table["cifar10_test_200ep"].groupby(canonical).mean()
    return [float(mean[text]) for text in texts]


def in_groups(values: Sequence[Any], size: int) -> list[list[Any]]:
    """The values in groups of so many, in their order."""
    return [list(values[start : start + size]) for start in range(0, len(values), size)]


@lru_cache(maxsize=1)
def parts(path: str) -> tuple[Images, Images]:
    """POOL training images of CIFAR-10 and JUDGES others, drawn with seed 0."""
    if path == "quick":
        return quick_parts()
    with np.load(path, allow_pickle=False) as found:
        pixels, labels = found["X"], found["y"].astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))[: POOL + JUDGES]
    train, held = order[:POOL], order[POOL:]
    return Images(pixels[train], labels[train]), Images(pixels[held], labels[held])


def images_of(arm: str, sizes: Mapping[str, int]) -> int:
    """How many images an arm trains on in its second stage: what the answers cost, the arms without them train on."""
    return sizes["rest"] + (0 if arm == "disagreement" else sizes["asked"] // 3)


def asked_of(part: Images, group: int, sizes: Mapping[str, int]) -> np.ndarray:
    """The positions of the images that a group answers, drawn with its seed."""
    return np.random.default_rng([group, 1]).permutation(len(part))[: sizes["asked"]]


def stage(model: Any, part: Images, seed: int, images: int, selector: Any) -> None:
    """Trains a network on so many images of a part."""
    classes, shape = int(part.labels.max()) + 1, (part.pixels.shape[3], *part.pixels.shape[1:3])
    epochs = images / len(part)
    recipe = recipe_for(part, shape, classes, mirrors=True, balanced=False, epochs=epochs)
    recipe = replace(recipe, batch_size=min(BATCH, selector.record.size), lr=LR)
    fit(model, part, recipe=recipe, epochs=epochs, seed=seed, mean=MEAN, std=STD, selector=selector, threads=1)


def warm(texts: Sequence[str], path: str, group: int, work: Path, sizes: dict[str, int]) -> dict[str, Any]:
    """The first stage of the networks of a group; weights and answers stay in the folder `work`."""
    part, judge = parts(path)
    rows = asked_of(part, group, sizes)
    asked = Images(part.pixels[rows], part.labels[rows])
    answers, judged, accuracy = [], [], []
    training = asking = 0.0
    for number, text in enumerate(texts):
        space = nasbench201((3, *part.pixels.shape[1:3]), int(part.labels.max()) + 1, channels=8, cells=1)
        began = time.process_time()
        model = initialise(space, space.parse(text), group)
        selector = make_selector("random", part, seed=group, share=sizes["warm"] / len(part))
        stage(model, part, group, sizes["warm"], selector)
        training += time.process_time() - began
        began = time.process_time()
        answers.append(evaluate(model, asked, mean=MEAN, std=STD).predictions)
        asking += time.process_time() - began
        found = evaluate(model, judge, mean=MEAN, std=STD)
        judged.append(found.predictions)
        accuracy.append(100 * found.accuracy)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, work / f"{group}-{number}.safetensors")
    np.savez(work / f"{group}.npz", answers=np.stack(answers), judged=np.stack(judged))
    return {
        "accuracy": accuracy,
        "seconds": training,
        "asking_seconds": asking,
        "disputed": float(disagreements(np.stack(answers)).mean()),
    }


def second(
    texts: Sequence[str], path: str, group: int, arm: str, work: Path, sizes: dict[str, int]
) -> dict[str, Any]:  # fmt: skip
    """The second stage of the networks of a group on the images of an arm, and how they are judged."""
    part, judge = parts(path)
    with np.load(work / f"{group}.npz", allow_pickle=False) as stored_answers:
        answers, judged = stored_answers["answers"], stored_answers["judged"]
    quarter = len(judge) // 4
    disputed = np.argsort(-disagreements(judged), kind="stable")[:quarter]
    some = np.random.default_rng(group).permutation(len(judge))[:quarter]
    given = {"answers": answers, "asked": asked_of(part, group, sizes)}
    out: dict[str, Any] = {"accuracy": [], "disputed": [], "sampled": [], "seconds": 0.0}
    for number, text in enumerate(texts):
        space = nasbench201((3, *part.pixels.shape[1:3]), int(part.labels.max()) + 1, channels=8, cells=1)
        began = time.process_time()
        model = initialise(space, space.parse(text), group)
        model.load_state_dict(load_file(work / f"{group}-{number}.safetensors"))
        selector = make_selector(arm, part, seed=1000 + group, share=sizes["round"] / len(part), answers=given)
        stage(model, part, 1000 + group, images_of(arm, sizes), selector)
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


def tau_of(values: Sequence[float], truth: Sequence[float]) -> float:
    """Kendall's tau-b; 0 where all are alike, which says nothing of the order."""
    found = float(kendalltau(values, truth)[0])
    return found if np.isfinite(found) else 0.0


def bootstrap(gains: Sequence[float], times: int = 10_000) -> list[float]:
    """The 2.5th and 97.5th percentile of the mean of gains that are drawn with replacement."""
    values = np.asarray(gains, dtype=float)
    rows = np.random.default_rng(0).integers(0, len(values), (times, len(values)))
    return [float(q) for q in np.percentile(values[rows].mean(1), [2.5, 97.5])]


def figures(cells: Mapping[str, Mapping[str, Any]], truth: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """The figures that follow from the cells: the mean tau of each arm over its groups, and gains paired by group.

    cells: "arm/group" -> what `warm` and `second` return.  truth: of each group, the truths of its networks. A gain
    has the groups that both of its arms have.
    """
    taus: dict[str, dict[int, float]] = {}
    for key, cell in cells.items():
        arm, group = key.split("/")
        known = truth[int(group)]
        taus.setdefault(arm, {})[int(group)] = tau_of(cell["accuracy"], known)
        for how in ("disputed", "sampled") if arm == "random" else ():
            taus.setdefault(f"random_judged_{how}", {})[int(group)] = tau_of(cell[how], known)
    found: list[dict[str, Any]] = []
    about: dict[str, Any]
    pairs = [("disagreement", "random"), ("dds", "random"), ("disagreement", "dds"), ("random", "warm"),
             ("random_judged_disputed", "random_judged_sampled")]  # fmt: skip
    for one, other in pairs:
        groups = sorted(set(taus.get(one, {})) & set(taus.get(other, {})))
        if groups:
            gains = [taus[one][group] - taus[other][group] for group in groups]
            about = {"networks": sum(len(truth[group]) for group in groups), "bootstrap": bootstrap(gains)}
            unit = f"{TAU}, the difference, paired by group"
            found.append(results_file.figure(f"gain_{one}_over_{other}", gains, unit, reach=0.0, **about))
    for arm, by_group in taus.items():
        about = {"networks": sum(len(truth[group]) for group in by_group)}
        for name in ("seconds", "asking_seconds"):
            spent = [cell[name] for key, cell in cells.items() if key.split("/")[0] == arm and name in cell]
            if spent:  # of one network
                about[name] = float(sum(spent)) / about["networks"]
        found.append(results_file.figure(f"tau_{arm}", list(by_group.values()), TAU, **about))
    return found


def jobs_left(cells: Mapping[str, Any], group: int, there: bool) -> list[str]:
    """The jobs of a group that are to be done, the first stage before the others, which read its weights.

    there: whether weights and answers of the first stage are. Without them it is done again where an arm is missing.
    """
    arms = [arm for arm in ARMS if f"{arm}/{group}" not in cells]
    first = f"warm/{group}" not in cells or (bool(arms) and not there)
    return (["warm"] if first else []) + arms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ARCHSCOUT_DATA"), help="folder of real data")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no new job after this many minutes")
    parser.add_argument("--workers", type=int, default=1, help="jobs at a time, one thread each")
    parser.add_argument("--work", type=Path, default=HERE / "pieces" / "joint_choice")
    parser.add_argument("--quick", action="store_true", help="three cells on noise; a test of the script")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "joint_choice.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.quick and not (args.data and (Path(args.data) / "images").exists()):
        raise SystemExit("the images are absent: give --data FOLDER, which holds images/ and nas/")
    sizes, settings = (QUICK, {**QUICK, "quick": True}) if args.quick else (SIZES, SETTINGS)
    cells = {} if args.quick else stored(args.out, settings)
    folder = args.out.parent / "joint_choice_quick" if args.quick else args.work
    word = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    work = folder / word  # of these settings alone
    work.mkdir(parents=True, exist_ok=True)
    path = "quick" if args.quick else str(folder / "cifar10.npz")
    if not args.quick and not Path(path).exists():
        cifar10(folder, Path(args.data))
    count, size = (2, 3) if args.quick else (GROUPS, NETWORKS)
    chosen = shortlist(count * size)
    known = [1.0, 2.0, 3.0] * 2 if args.quick else truths(Path(args.data), chosen)
    texts, truth = in_groups(chosen, size), in_groups(known, size)
    code = results_file.code_of_program()

    def save(key: str, cell: dict[str, Any]) -> None:
        cells[key] = {**cell, "code": code}
        print(key, json.dumps(cell)[:300], flush=True)
        results_file.write(
            args.out, figures(cells, truth), command="python benchmarks/joint_choice.py --data FOLDER",
            settings=settings, finished=all(not jobs_left(cells, group, True) for group in range(len(texts))),
            archs=texts, truth=truth, cells=cells,
        )  # fmt: skip

    if args.quick:
        for group, some in enumerate(texts):
            save(f"warm/{group}", warm(some, path, group, work, sizes))
            for arm in ARMS:
                save(f"{arm}/{group}", second(some, path, group, arm, work, sizes))
        return
    ends = time.monotonic() + 60 * args.minutes
    for group, some in enumerate(texts):
        left = jobs_left(cells, group, (work / f"{group}.npz").exists())
        if "warm" in left:
            first: list[tuple[str, tuple[Any, ...]]] = [(f"warm/{group}", (some, path, group, work, sizes))]
            cells.pop(f"warm/{group}", None)
            run_cells(first, warm, save, workers=1, minutes=(ends - time.monotonic()) / 60)
        if f"warm/{group}" in cells:
            jobs: list[tuple[str, tuple[Any, ...]]] = [
                (f"{arm}/{group}", (some, path, group, arm, work, sizes)) for arm in left if arm != "warm"
            ]
            run_cells(jobs, second, save, workers=args.workers, minutes=(ends - time.monotonic()) / 60)


if __name__ == "__main__":
    main()
