"""What a searched shape is worth: TAS against uniform and random widths with the same multiply-adds.

    python benchmarks/tas.py --data FOLDER [--minutes 60] [--nets resnet20] [--seeds 3] [--arms tas,uniform] [--quick]

FOLDER holds images/cifar10_lossless.zip and models/, the trained ResNet-20 and ResNet-56 that teach. A cell is a
network, an arm and a seed: a shape is found on IMAGES of the training images, then trained on them for TRAIN epochs
from its own first weights, taught by the unpruned network (all arms alike), and tested once. What the teacher answers
to each image and its mirror image is computed once for all cells: seconds of training are without it. The budget of
every arm is the multiply-adds of the uniform network, the share of all widths for which they come nearest to 40 % of
the full ones; no arm has more.

Arms: uniform; random, the first random widths of all blocks whose multiply-adds are within 3 % below the budget;
tas, searched for SEARCH passes over two halves of the training images; tas_dds and tas_random, the same on a fifth of
the images per pass, chosen by dds or redrawn at random, with as many passes over what was chosen, so at a fifth of the
cost. Seconds of the search count everything; they are of the processor, of the one thread that a cell has.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
import results_file
from cells import Images, run_cells, stored
from main_job import cifar10

from archscout.differentiable.bilevel import Settings
from archscout.differentiable.choice import relax
from archscout.differentiable.tas import full_macs, tas
from archscout.distill import Teacher, resnet_cifar
from archscout.fit import evaluate, fit, normaliser, recipe_for
from archscout.selection import SELECTORS
from archscout.space import Arch, SearchSpace
from archscout.spaces.resnet_shape import SHARES, macs_of, resnet_shape
from archscout.verify import initialise

HERE = Path(__file__).resolve().parent
ARMS = ("uniform", "random", "tas", "tas_dds", "tas_random")
DEPTHS = {"resnet20": 3, "resnet56": 9}
FILES = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}
SEEDS = 3
TARGET = 0.4
BELOW = 0.03  # how far below the budget an arm may stay
IMAGES = 25_000
SEARCH = {"resnet20": 2, "resnet56": 1}
TRAIN = {"resnet20": 4, "resnet56": 2}  # short enough that images are mirrored and not shifted, see recipe_for
SHARE = 0.2
SETTINGS = Settings(lr=0.1, weight_decay=5e-4, arch_lr=0.1, batch_size=64, flip=True, shift=2)
IMAGENET = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])  # what the teachers want


def macs(space: SearchSpace, arch: Arch, depth: int) -> int:
    return macs_of(space.decode(arch), space.input_shape, space.classes, 16)


def uniform(space: SearchSpace, depth: int) -> Arch:
    """All blocks, and of the shares of the width the one whose multiply-adds are nearest to the target."""
    archs = [(depth - 1,) * 3 + (option,) * (len(space.choices) - 3) for option in range(len(SHARES))]
    whole = macs(space, archs[-1], depth)
    return min(archs, key=lambda arch: abs(macs(space, arch, depth) / whole - TARGET))


def within(space: SearchSpace, depth: int, budget: int, seed: int) -> Arch:
    """The first random widths, of all blocks, within the band below the budget."""
    draw = np.random.default_rng([seed, 11])
    while True:
        arch = (depth - 1,) * 3 + tuple(draw.integers(len(SHARES), size=len(space.choices) - 3).tolist())
        if (1 - BELOW) * budget <= macs(space, arch, depth) <= budget:
            return arch


def searched(
    space: SearchSpace, depth: int, budget: int, train: Images, arm: str, seed: int, passes: float
) -> tuple[Arch, float]:
    """What tas finds, and the seconds."""
    order = np.random.default_rng([seed, 12]).permutation(len(train))
    parts = [Images(train.pixels[rows], train.labels[rows]) for rows in np.array_split(order, 2)]
    began = time.process_time()
    selectors: dict[str, Any] = {}
    if arm != "tas":
        make: Any = SELECTORS[arm.removeprefix("tas_")]
        names = ("selector", "arch_selector")
        selectors = {
            name: make(part, seed=seed + i, share=SHARE)
            for i, (name, part) in enumerate(zip(names, parts, strict=True))
        }
        passes *= SHARE
    whole = full_macs(relax(space, "tas"))
    centre = budget / whole / (1 + BELOW / 2)
    mean, std = train.pixels.mean((0, 1, 2)), train.pixels[::10].std((0, 1, 2))
    found = tas(
        space, *parts, target=centre, tolerance=BELOW / 2, seed=seed, mean=mean, std=std, settings=SETTINGS,
        epochs=passes, report=passes / 4, **selectors,
    )  # fmt: skip
    assert macs(space, found.arch, depth) <= budget, "over the budget"
    return found.arch, time.process_time() - began


class Remembered(nn.Module):
    """A teacher that looks up its answers: images as they are, 0..255, to logits; what it does not know it computes."""

    def __init__(self, network: nn.Module, known: dict[bytes, np.ndarray]) -> None:
        super().__init__()
        self.network, self.known, self.normalise = network, known, normaliser(*IMAGENET)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.to(torch.uint8).contiguous()
        found = [self.known.get(key) for key in keys_of(pixels)]
        missing = [row for row, one in enumerate(found) if one is None]
        if missing:
            for row, one in zip(missing, self.network(self.normalise(pixels[missing])).numpy(), strict=True):
                found[row] = one
        return torch.from_numpy(np.stack(found))  # type: ignore[arg-type]

    def teacher(self) -> Teacher:
        return Teacher(self, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def keys_of(pixels: Tensor) -> list[bytes]:
    """A hash of each image of uint8 (n, C, H, W)."""
    return [hashlib.blake2b(one.tobytes(), digest_size=12).digest() for one in pixels.contiguous().numpy()]


@torch.no_grad()
def remembered(network: nn.Module, part: Images) -> dict[bytes, np.ndarray]:
    """The answers of a network to images and their mirror images."""
    normalise, known = normaliser(*IMAGENET), {}
    network.eval()
    for rows in np.array_split(np.arange(len(part)), max(1, len(part) // 250)):
        _, images, _ = part.batch(rows)
        for pixels in (images, images.flip(3)):
            known |= zip(keys_of(pixels), network(normalise(pixels)).numpy(), strict=True)
    return known


def halved(stored: Any) -> Images:
    """The training images of all arms: IMAGES of them, the same for all seeds."""
    rows = np.sort(np.random.default_rng(0).permutation(len(stored["y"]))[:IMAGES])
    return Images(stored["X"][rows], stored["y"][rows].astype(np.int64))


def answers_of(net: str, work: Path, data: Path) -> Path:
    """The file of the answers of a network's teacher; computed where it is absent."""
    path = work / f"{net}_answers.npz"
    if not path.exists():
        with np.load(work / "cifar10.npz", allow_pickle=False) as stored:
            part = halved(stored)
        known = remembered(resnet_cifar(data / "models" / FILES[net], 6 * DEPTHS[net] + 2), part)
        keys = np.frombuffer(b"".join(known), np.uint8).reshape(len(known), -1)
        np.savez(path, keys=keys, answers=np.stack(list(known.values())))
    return path


def cell(net: str, arm: str, seed: int, work: str, data: str) -> dict[str, Any]:
    """One cell: the shape, its accuracy on the test part in percent, and where the seconds went."""
    torch.set_num_threads(1)
    with np.load(Path(work) / "cifar10.npz", allow_pickle=False) as stored:
        train, test = halved(stored), Images(stored["X_test"], stored["y_test"].astype(np.int64))
    with np.load(answers_of(net, Path(work), Path(data)), allow_pickle=False) as stored:
        known = {key.tobytes(): answer for key, answer in zip(stored["keys"], stored["answers"], strict=True)}
    network = resnet_cifar(Path(data) / "models" / FILES[net], 6 * DEPTHS[net] + 2)
    teacher = Remembered(network, known).teacher()
    return measured(net, arm, seed, train, test, teacher, SEARCH[net], TRAIN[net])


def measured(
    net: str, arm: str, seed: int, train: Images, test: Images, teacher: Teacher, passes: float, epochs: float
) -> dict[str, Any]:
    depth = DEPTHS[net]
    shape = (3, *train.pixels.shape[1:3])
    space = resnet_shape(shape, 10, depth=depth)
    even = uniform(space, depth)
    budget, seconds = macs(space, even, depth), 0.0
    if arm == "uniform":
        arch = even
    elif arm == "random":
        arch = within(space, depth, budget, seed)
    else:
        arch, seconds = searched(space, depth, budget, train, arm, seed, passes)
    mean, std = IMAGENET
    recipe = recipe_for(train, shape, 10, mirrors=True, balanced=False, epochs=epochs)
    began = time.process_time()
    model = initialise(space, arch, seed)
    fit(model, train, recipe=recipe, epochs=epochs, seed=seed, mean=mean, std=std, threads=1, teacher=teacher)
    found = evaluate(model, test, mean=mean, std=std, threads=1)
    return {
        "value": 100 * found.accuracy, "arch": space.format(arch), "macs": macs(space, arch, depth),
        "share": macs(space, arch, depth) / full_macs(relax(space, "tas")), "search_seconds": seconds,
        "train_seconds": time.process_time() - began,
    }  # fmt: skip


def figures(cells: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures that follow from the cells, paired by seed; marked while cells of the plan are missing."""
    found = []
    for net in DEPTHS:
        by = {arm: {int(k.split("/")[2]): c for k, c in cells.items() if k.startswith(f"{net}/{arm}/")} for arm in ARMS}
        for arm in ARMS:
            if by[arm]:
                values = [c["value"] for c in by[arm].values()]
                found.append(results_file.figure(f"accuracy_{net}_{arm}", values, "% on the test part"))
        gains = {}
        for arm in ("tas", "tas_dds", "tas_random"):
            for rival in ("uniform", "random"):
                pairs = [by[arm][s]["value"] - by[rival][s]["value"] for s in by[arm] if s in by[rival]]
                if pairs:
                    gains[arm, rival] = pairs
                    found.append(results_file.figure(f"gain_{net}_{arm}_over_{rival}", pairs, "points, paired by seed"))
        of_tas = [gains[key] for key in gains if key[0] in ("tas", "tas_dds")]
        if of_tas:
            least = min(of_tas, key=lambda pairs: float(np.mean(pairs)))
            found.append(
                results_file.figure(
                    f"tas_gain_{net}", least, "points: the least of tas and tas_dds over uniform and random", reach=0.0
                )
            )
    both = [f for f in found if f["name"].startswith("tas_gain_")]
    if both:
        worst = min(both, key=lambda f: f["value"])
        found.append({**worst, "name": "tas_gain", "net": worst["name"].rpartition("_")[2]})
    planned = {f"{net}/{arm}/{seed}" for net in DEPTHS for arm in ARMS for seed in range(SEEDS)}
    return [{**one, "unfinished": True} for one in found] if planned - set(cells) else found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ARCHSCOUT_DATA"), help="folder of real data")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no new cell after this many minutes")
    parser.add_argument("--nets", default="resnet20,resnet56", help="only these networks")
    parser.add_argument("--arms", default=",".join(ARMS), help="only these arms")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--workers", type=int, default=2, help="cells at a time, one thread each")
    parser.add_argument("--work", type=Path, default=HERE / "pieces" / "tas")
    parser.add_argument("--quick", action="store_true", help="all arms for a moment on noise; a test of the script")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "tas.json")
    args = parser.parse_args()
    if args.quick:
        quick(args.out)
        return
    if not args.data or not (args.data / "models").exists():
        raise SystemExit("the images and teachers are absent: give --data FOLDER, which holds images/ and models/")
    args.work.mkdir(parents=True, exist_ok=True)
    if not (args.work / "cifar10.npz").exists():
        cifar10(args.work, args.data)
    made_with = {
        "target": TARGET, "below": BELOW, "images": IMAGES, "search": SEARCH, "train": TRAIN, "share": SHARE,
        "settings": repr(SETTINGS), "threads": 1,
    }  # fmt: skip
    cells = stored(args.out, made_with)
    for net in args.nets.split(","):
        answers_of(net, args.work, args.data)
    jobs = [
        (f"{net}/{arm}/{seed}", (net, arm, seed, str(args.work), str(args.data)))
        for net in args.nets.split(",")
        for seed in range(args.seeds)
        for arm in args.arms.split(",")
        if f"{net}/{arm}/{seed}" not in cells
    ]

    def done(key: str, one: dict[str, Any]) -> None:
        cells[key] = one
        print(key, json.dumps(one), flush=True)
        results_file.write(
            args.out, figures(cells), command="python benchmarks/tas.py --data FOLDER",
            settings={**made_with, "cells_at_a_time": args.workers}, cells=cells,
        )  # fmt: skip

    run_cells(jobs, cell, done, workers=args.workers, minutes=args.minutes)


def quick(out: Path) -> None:
    """Every arm on a little noise: that the cells run and the figures have their form."""
    draw = np.random.default_rng(0)
    part = Images(draw.integers(0, 255, (160, 8, 8, 3), dtype=np.uint8), np.arange(160) % 10)
    space = resnet_shape((3, 8, 8), 10)
    network = initialise(space, (2, 2, 2, *(7,) * (len(space.choices) - 3)), 0)
    knows = Remembered(network, remembered(network, Images(part.pixels[:100], part.labels[:100])))
    _, images, _ = part.batch(range(160))
    for pixels in (images, images.flip(3)):
        with torch.no_grad():
            torch.testing.assert_close(knows(pixels.float()), network(normaliser(*IMAGENET)(pixels)))
    assert len(knows.known) == 200
    teacher = knows.teacher()
    cells = {}
    for arm in ARMS:
        cells[f"resnet20/{arm}/0"] = measured("resnet20", arm, 0, part, part, teacher, 4, 1)
    results_file.write(out, figures(cells), cells=cells)


if __name__ == "__main__":
    main()
