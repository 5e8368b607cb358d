"""What choosing the training images is worth: dynamic data selection against full data and every control.

    python benchmarks/selection.py --data FOLDER [--minutes 60] [--only cifar10] [--nets resnet8] [--grid] [--quick]

FOLDER holds images/cifar10_lossless.zip and images/magnetic_tile_64.npz. A cell is one training: a task, a network,
an arm, a reduction and a seed. Full data trains for EPOCHS passes; an arm at a reduction of r backpropagates 1/r as
many images, by the recipe that fit.recipe_for has for its length (at 10 epochs batches of 128 and shifts by two
pixels, at 2 epochs batches of 64 and none) with a learning rate of 0.2 in batches of 128, the same for all arms of
a reduction, falling to zero at its end. Every arm of a seed starts from the same weights, in mixed precision where
the processor has bfloat16, else in float32; only cells of one precision are paired. The arm dds_audited is dds with
the audits that the main job makes, on the way and at the end, which the others leave out; where classes are uneven,
random_balanced is the random subset that has as many of each class as dds has. A cell of another recipe or other
settings is measured again. Cells that the results hold are skipped, so that it runs in pieces; seeds come one after
another, so that every piece is a fair comparison. Seconds count everything: the embedding, the index and every
choice and, where there are any, audits; they are of the processor, of the one thread that a cell has, so that what
else runs disturbs them little.

Tasks: cifar10 (test accuracy); noisy10 and noisy20, where that share of the training labels is replaced by another
class; longtail, CIFAR-10 cut to a geometric series from 100 to 1 (balanced accuracy on the balanced test part); tiles,
magnetic tiles in 5 stratified folds x 3 seeds (balanced accuracy). `--grid` compares settings of dds on a validation
part that is cut from the training images, and writes them beside the results; the test part decides no setting.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import math
import os
import sys
import tempfile
import time
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import results_file
from cells import Images, run_cells
from main_job import cifar10

from archscout.fit import Recipe, evaluate, fit, recipe_for
from archscout.selection import SELECTORS
from archscout.selection.drift import audit_selection, behind, by_class_and_cluster, compare
from archscout.selection.embedding import CLUSTERS, clusters, embed
from archscout.selection.selector import Selector
from archscout.spaces.plain import plain
from archscout.verify import initialise

HERE = Path(__file__).resolve().parent
EPOCHS = {"cifar10": 10, "noisy10": 10, "noisy20": 10, "longtail": 30, "tiles": 40}
EPOCHS_RESNET20 = 5
#: on a processor with bfloat16 mixed precision takes two thirds of the time, on one without it twenty times as long
PRECISION = "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() else "32-true"
NETS = {"resnet8": "resnet8-w16", "resnet20": "resnet20-w16"}
SUBSETS = ("fixed", "random", "redrawn", "hard_random", "entropy", "proportional", "kcentre", "dds")
EMBEDDED = ("kcentre", "dds")
#: arms that are a selector with other settings; dds_audited is dds with the audits of the main job, counted
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "dds_furthest": ("dds", {"among": None}),
    "dds_untrained": ("dds", {"among": None, "embedding": "untrained"}),
    "dds_audited": ("dds", {}),
    "random_balanced": ("random", {"balanced": True}),
}
IMAGES = {"longtail": 12_406, "tiles": 1_075}  # to train on; all tasks else have 50,000
#: task -> reduction -> arms; "short" is full data with a schedule that is shorter by the reduction
PLAN: dict[str, dict[float, tuple[str, ...]]] = {
    "cifar10": {
        1: ("full",),
        2: ("short", "random", "infobatch", "dds", "dds_furthest"),
        5: ("short", "fixed", "random", "infobatch", "entropy", "proportional", "kcentre", "dds", "dds_furthest",
            "dds_untrained", "dds_audited"),
    },
    "noisy10": {5: ("short", "random", "dds", "dds_furthest")},
    "noisy20": {5: ("short", "random", "dds", "dds_furthest")},
    "longtail": {1: ("full",), 3: ("short", "random", "random_balanced", "dds")},
    "tiles": {1: ("full",), 3: ("short", "random", "random_balanced", "dds")},
}  # fmt: skip
LARGE = ("full", "short", "random", "infobatch", "dds")  # arms of the larger network
GRID: list[dict[str, Any]] = [
    *({"keep": keep, "among": among, "staying": "hardest"} for keep in (0.0, 0.3, 0.6) for among in (1, 2, None)),
    {"keep": 0.6, "among": 1},
    {"mastery": 0.3, "top": 0.6, "keep": None, "among": None, "lately": 1, "patience": 0},  # as published
]
#: with `--grid --first 2`: what stays, how much of it, and how often is chosen, on seeds that the grid above has not
GRID_OF_STAYING: list[dict[str, Any]] = [
    *({"keep": keep, "staying": staying} for keep in (0.6, 0.9) for staying in ("random", "hardest")),
    *({"keep": 0.6, "staying": "random", "hardness": hardness} for hardness in (0.7, 0.85)),
    *({"keep": 0.6, "staying": staying, "share": 0.05} for staying in ("random", "hardest")),
    {"keep": 0.3, "staying": "random", "share": 0.05},
]


@lru_cache(maxsize=2)
def stored(path: str) -> tuple[np.ndarray, ...]:
    with np.load(path, allow_pickle=False) as found:
        return tuple(found[name] for name in ("X", "y", "X_test", "y_test") if name in found)


def parts(task: str, seed: int, folder: Path, tuning: bool = False) -> tuple[Images, Images]:
    """The images to train on and to judge by."""
    if task == "noise":
        draw = np.random.default_rng(seed)
        labels = np.repeat(np.arange(3), 20)
        images = Images(draw.integers(0, 255, (60, 8, 8, 3), dtype=np.uint8), labels)
        return images, images
    if task == "tiles":
        from sklearn.model_selection import StratifiedKFold

        pixels, labels = stored(str(folder / "tiles.npz"))[:2]
        pixels = pixels.reshape(len(pixels), 64, 64, -1)
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        rows, held = list(folds.split(labels, labels))[seed % 5]
        return Images(pixels[rows], labels[rows]), Images(pixels[held], labels[held])
    pixels, labels, test_pixels, test_labels = stored(str(folder / "cifar10.npz"))
    labels, test_labels = labels.astype(np.int64), test_labels.astype(np.int64)
    if tuning:
        order = np.random.default_rng(0).permutation(len(labels))
        keep, held = order[5000:], order[:5000]
        return Images(pixels[keep], labels[keep]), Images(pixels[held], labels[held])
    draw = np.random.default_rng([seed, 7])
    if task.startswith("noisy"):
        wrong = draw.random(len(labels)) < int(task[5:]) / 100
        labels = np.where(wrong, (labels + draw.integers(1, 10, len(labels))) % 10, labels)
    if task == "longtail":
        counts = np.round(5000 * 0.01 ** (np.arange(10) / 9)).astype(int)
        order = draw.permutation(len(labels))
        keep = np.sort(np.concatenate([order[labels[order] == c][:n] for c, n in enumerate(counts)]))
        pixels, labels = pixels[keep], labels[keep]
    return Images(pixels, labels), Images(test_pixels, test_labels)


def make(arm: str, part: Images, share: float, seed: int, options: dict[str, Any]) -> Selector | None:
    """The selector of an arm; None for all images. Each pays for an embedding of its own."""
    if arm in ("full", "short"):
        return None
    settings: dict[str, Any] = {"seed": seed, "share": share, **options}
    if arm == "infobatch":
        settings.pop("share")
    word, more = VARIANTS.get(arm, (arm, {}))
    return SELECTORS[word](part, **settings | more)


def epochs_of(task: str, net: str, reduction: float) -> float:
    return (EPOCHS_RESNET20 if net == "resnet20" else EPOCHS.get(task, 4)) / reduction


def recipe_of(task: str, images: int, shape: tuple[int, ...], classes: int, epochs: float) -> Recipe:
    """The recipe of all arms of a task that train for so many epochs.

    It is that of the main job but for the learning rate, which is the one of the first cells (see the plan).
    """
    part: Any = range(images)  # a recipe reads the number alone
    balanced = task in ("tiles", "longtail")
    recipe = recipe_for(part, shape, classes, mirrors=task != "tiles", balanced=balanced, epochs=epochs)
    return replace(recipe, lr=0.2 * math.sqrt(recipe.batch_size / 128), precision=PRECISION)


def made_with(task: str, net: str, arm: str, reduction: float) -> str:
    """A hash of what a cell depends on besides its seed: recipe, epochs, and the defaults of the selector.

    A cell of another hash is measured again, and no figure reads it.
    """
    epochs = epochs_of(task, net, reduction)
    shape, classes = ((1, 64, 64), 6) if task == "tiles" else ((3, 32, 32), 10)
    recipe = asdict(recipe_of(task, IMAGES.get(task, 50_000), shape, classes, epochs))
    recipe.pop("precision")  # told in the cell, and compared there
    word, more = VARIANTS.get(arm, (arm, {}))
    settings: dict[str, Any] = {}
    if word in SELECTORS:
        parameters = inspect.signature(SELECTORS[word].__init__).parameters.values()
        settings = {p.name: p.default for p in parameters if p.default is not p.empty} | more
    told = json.dumps([recipe, epochs, NETS[net], settings], sort_keys=True, default=repr)
    return hashlib.blake2b(told.encode(), digest_size=6).hexdigest()


class Timed:
    """A function that counts the seconds of the processor that it takes."""

    def __init__(self, inner: Any) -> None:
        self.seconds, self.inner = 0.0, inner

    def __call__(self, *args: Any, **settings: Any) -> Any:
        began = time.process_time()
        found = self.inner(*args, **settings)
        self.seconds += time.process_time() - began
        return found


def last_audit(model: torch.nn.Module, part: Images, selector: Selector, mean: Any, std: Any) -> None:
    """What the main job looks at when a training on chosen images is over: all images, by class and cluster."""
    answers = evaluate(model, part, mean=mean, std=std, threads=1)
    right = torch.from_numpy(answers.labels == answers.predictions)
    compare(selector.record, torch.arange(len(part)), right)
    rows = by_class_and_cluster(selector.record, right, clusters(embed(part, "pixels"), None, CLUSTERS))
    behind(rows["cluster"])


def train(
    task: str, net: str, arm: str, reduction: float, seed: int, folder: Path, options: dict[str, Any], tuning: bool
) -> dict[str, Any]:
    """One cell: the metric in percent on what judges, and where the seconds went."""
    torch.set_num_threads(1)
    part, judge = parts(task, seed, folder, tuning)
    balanced = task in ("tiles", "longtail")
    shape = (part.pixels.shape[3], *part.pixels.shape[1:3])
    classes = int(part.labels.max()) + 1
    space = plain(shape, classes)
    model = initialise(space, space.parse(NETS[net]), seed)
    epochs = epochs_of(task, net, reduction)
    mean = part.pixels.mean(axis=(0, 1, 2))
    std = np.maximum(part.pixels[:: max(1, len(part) // 5000)].std(axis=(0, 1, 2)), 1.0)
    recipe = recipe_of(task, len(part), shape, classes, epochs)
    began = time.process_time()
    selector = make(arm, part, 1 / max(reduction, 2), seed, options)
    choosing = Timed(selector.next_round if selector is not None else None)
    if selector is not None:
        selector.next_round = choosing  # type: ignore[method-assign]
    built = time.process_time() - began
    auditing, ending, audited = Timed(audit_selection), Timed(last_audit), arm == "dds_audited"
    with mock.patch("archscout.fit.audit_selection", auditing):
        fitted = fit(
            model, part, recipe=recipe, epochs=epochs, seed=seed, mean=mean, std=std, selector=selector, threads=1,
            audit_every=max(1.0, epochs / 5) if audited else None,
        )  # fmt: skip
    if audited:
        ending(model, part, selector, mean, std)
    seconds = time.process_time() - began
    found = evaluate(model, judge, mean=mean, std=std, threads=1)
    return {
        "value": 100 * found.metric("balanced_accuracy" if balanced else "accuracy"),
        "seconds": seconds,
        "selection_seconds": built + choosing.seconds,
        "audit_seconds": auditing.seconds + ending.seconds,
        "images": int(fitted.epochs * len(part)),
        "updates": None if selector is None else len(selector.record.changes) - 1,
        "ever": None if selector is None else int((selector.record.times > 0).sum()),
        "precision": PRECISION,
        "made_with": None if task == "noise" else made_with(task, net, arm, reduction),
    }


def cells_of(tasks: list[str], nets: list[str], seeds: int) -> list[tuple[str, str, str, float, int]]:
    """All cells, seed by seed."""
    found = []
    for seed in range(max(seeds, 15)):
        for task in tasks:
            if seed >= (15 if task == "tiles" else seeds):
                continue
            for net in nets:
                if net == "resnet20" and task != "cifar10":
                    continue
                for reduction, arms in PLAN[task].items():
                    for arm in arms:
                        if net == "resnet8" or arm in LARGE:
                            found.append((task, net, arm, reduction, seed))
    return found


def paired(cells: dict[str, Any], one: tuple[str, str, float], other: tuple[str, str, float], net: str) -> list[float]:
    """Differences in points of two (task, arm, reduction) over the seeds that both have, in one precision."""
    differences = []
    for seed in range(15):
        keys = [f"{task}/{net}/{arm}/{reduction:g}/{seed}" for task, arm, reduction in (one, other)]
        if all(key in cells for key in keys) and len({cells[key]["precision"] for key in keys}) == 1:
            differences.append(cells[keys[0]]["value"] - cells[keys[1]]["value"])
    return differences


def best_control(cells: dict[str, Any], task: str, net: str, reduction: float) -> str | None:
    """The control without knowledge of hardness that does best in the mean."""
    mean = {}
    for arm in ("short", "fixed", "random"):
        values = [c["value"] for k, c in cells.items() if k.startswith(f"{task}/{net}/{arm}/{reduction:g}/")]
        if values:
            mean[arm] = float(np.mean(values))
    return max(mean, key=lambda arm: mean[arm]) if mean else None


def figures(cells: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures that follow from the cells, of those that are made with what this script says now."""
    cells = {key: cell for key, cell in cells.items() if cell.get("made_with") in (None, made_now(key))}
    found = []

    def add(name: str, samples: list[float], unit: str, **more: Any) -> None:
        if samples:
            found.append(results_file.figure(name, samples, unit, **more))

    points = "points of accuracy on the test part, paired by seed"
    for net, end in (("resnet8", ""), ("resnet20", "_resnet20")):
        for reduction, reach, known in ((2, -0.3, "InfoBatch: 40 % saved at no loss"), (5, -1.0, None)):
            add(
                f"change_at_{reduction}x{end}",
                paired(cells, ("cifar10", "dds", reduction), ("cifar10", "full", 1), net),
                points, known=known, reach=reach,
            )  # fmt: skip
        control = best_control(cells, "cifar10", net, 5)
        if control:
            add(
                f"gain_over_random_5x{end}", paired(cells, ("cifar10", "dds", 5), ("cifar10", control, 5), net), points,
                reach=0.0, control=control,
            )  # fmt: skip
    for task in ("noisy10", "noisy20"):
        add(f"{task}_gain", paired(cells, (task, "dds", 5), (task, "random", 5), "resnet8"), points, reach=0.0)
    for task in ("tiles", "longtail"):
        add(
            f"imbalanced_change_{task}", paired(cells, (task, "dds", 3), (task, "full", 1), "resnet8"),
            "points of balanced accuracy, paired by fold and seed", reach=-2.0,
        )  # fmt: skip
        for random, word in (("random_balanced", "balanced_random"), ("random", "random")):
            add(
                f"gain_over_{word}_{task}", paired(cells, (task, "dds", 3), (task, random, 3), "resnet8"),
                "points of balanced accuracy, paired by fold and seed",
            )  # fmt: skip
    both = [f for f in found if f["name"].startswith("imbalanced_change_")]
    if both:
        worse = min(both, key=lambda f: f["low"])
        found.append({**worse, "name": "imbalanced_change", "task": worse["name"].rpartition("_")[2]})
    for name, arm in (("overhead_share", "dds"), ("overhead_share_audited", "dds_audited")):
        shares = []
        for seed in range(15):
            full, dds = (cells.get(f"cifar10/resnet8/{one}/{seed}") for one in ("full/1", f"{arm}/5"))
            if full and dds:
                saved = max(full["seconds"] - dds["seconds"], 1e-3)  # nothing saved is a share without end
                shares.append(100 * (dds["selection_seconds"] + dds["audit_seconds"]) / saved)
        words = "choices and audits" if arm == "dds_audited" else "choices"
        add(name, shares, f"% of the seconds that dds at 5x saves on ResNet-8, for {words}", reach=2.0)
    return found


def made_now(key: str) -> str | None:
    """What `made_with` says today of the cell of a key."""
    task, net, arm, reduction, _ = key.split("/")
    return made_with(task, net, arm, float(reduction)) if task in PLAN else None


def arms_table(cells: dict[str, Any]) -> list[dict[str, Any]]:
    """Every arm: mean of the metric, seconds and selection seconds over its seeds."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for key, cell in cells.items():
        rows.setdefault(key.rpartition("/")[0], []).append(cell)
    table = []
    for name, members in sorted(rows.items()):
        mean, low, high = results_file.interval([m["value"] for m in members])
        table.append(
            {
                "arm": name, "value": mean, "low": low, "high": high, "n": len(members),
                "seconds": float(np.mean([m["seconds"] for m in members])),
                "selection_seconds": float(np.mean([m["selection_seconds"] for m in members])),
            }
        )  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ARCHSCOUT_DATA"), help="folder of real data")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no new cell after this many minutes")
    parser.add_argument("--only", action="append", choices=list(PLAN), help="only these tasks")
    parser.add_argument("--nets", action="append", choices=list(NETS), help="only these networks")
    parser.add_argument("--arms", action="append", help="only these arms")
    parser.add_argument("--reductions", type=float, action="append", help="only these reductions, as 1 and 5")
    parser.add_argument("--seeds", type=int, default=5, help="up to this one")
    parser.add_argument("--first", type=int, default=0, help="from this one on")
    parser.add_argument("--workers", type=int, default=2, help="cells at a time, one thread each")
    parser.add_argument("--grid", action="store_true", help="settings of dds on a validation part instead")
    parser.add_argument("--work", type=Path, default=HERE / "pieces" / "selection")
    parser.add_argument("--quick", action="store_true", help="all arms on a little noise; a test of the script")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "selection.json")
    args = parser.parse_args()
    if args.quick:
        quick(args.out)
        return
    if not args.data or not (args.data / "images").exists():
        raise SystemExit("the images are absent: give --data FOLDER, which holds images/")
    args.work.mkdir(parents=True, exist_ok=True)
    if not (args.work / "cifar10.npz").exists():
        cifar10(args.work, args.data)
    if not (args.work / "tiles.npz").exists():
        (args.work / "tiles.npz").write_bytes((args.data / "images" / "magnetic_tile_64.npz").read_bytes())
    kept = json.loads(args.out.read_text()) if args.out.exists() else {}
    cells, grid = kept.get("cells", {}), kept.get("grid", {})
    jobs = []
    if args.grid:
        settings = GRID_OF_STAYING if args.first else GRID
        for seed in range(args.first, args.seeds):
            for arm, options in [("random", {}), ("short", {}), *(("dds", options) for options in settings)]:
                key = f"{arm} {json.dumps(options)}/{seed}" if options else f"{arm}/{seed}"
                if key not in grid:
                    jobs.append((key, ("cifar10", "resnet8", arm, 5, seed, args.work, options, True)))
    else:
        for task, net, arm, reduction, seed in cells_of(args.only or list(PLAN), args.nets or list(NETS), args.seeds):
            key = f"{task}/{net}/{arm}/{reduction:g}/{seed}"
            asked = (not args.arms or arm in args.arms) and (not args.reductions or reduction in args.reductions)
            if wanted(cells, key) and asked and (arm in SELECTORS or arm in KNOWN_ARMS):
                jobs.append((key, (task, net, arm, reduction, seed, args.work, {}, False)))
    target = grid if args.grid else cells

    def save() -> None:
        results_file.write(
            args.out, figures(cells), command="python benchmarks/selection.py --data FOLDER",
            settings={
                "epochs": EPOCHS, "epochs_resnet20": EPOCHS_RESNET20, "precision": PRECISION, "threads": 1,
                "cells_at_a_time": args.workers,
            },
            arms=arms_table(cells), cells=cells, grid=grid,
        )  # fmt: skip

    def done(key: str, cell: dict[str, Any]) -> None:
        target[key] = cell
        print(key, json.dumps(cell), flush=True)
        save()

    run_cells(jobs, train, done, workers=args.workers, minutes=args.minutes)
    save()


KNOWN_ARMS = ("full", "short", *VARIANTS)


def wanted(cells: dict[str, Any], key: str) -> bool:
    """Whether a cell is still to be measured: it is not there, or was made with something else."""
    return key not in cells or cells[key].get("made_with") != made_now(key)


def quick(out: Path) -> None:
    """Every arm for a moment on noise: that the cells run and the figures have their form."""
    cells = {}
    with tempfile.TemporaryDirectory() as work:
        for arm in (
            "full", "short", "infobatch", *(arm for arm in SUBSETS if arm in SELECTORS), "dds_audited",
            "random_balanced",
        ):  # fmt: skip
            options = {"embedding": "pixels"} if arm in EMBEDDED else {}
            reduction = 1 if arm == "full" else 5
            cells[f"cifar10/resnet8/{arm}/{reduction}/0"] = train(
                "noise", "resnet8", arm, reduction, 0, Path(work), options, False
            )
    results_file.write(out, figures(cells), cells=cells, arms=arms_table(cells))


if __name__ == "__main__":
    main()
