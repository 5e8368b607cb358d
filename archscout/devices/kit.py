"""A folder to carry to another device: small networks as ONNX files, and the script that times them there."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from archscout.costs.trace import Trace
from archscout.devices import bench
from archscout.devices.measured import WINNER, input_shape_of
from archscout.devices.profile import features, trace_of
from archscout.errors import UserError
from archscout.space import Arch, SearchSpace, Shape

FORMAT = "archscout-kit/1"
USUAL, LEAST = 32, 24  # networks in a kit of several spaces
FEW, FEWEST = 10, 6  # networks in a kit of one space
CHECKS = 3 / 8  # of them drawn at random, to see how far predictions err; the others are chosen
# Families of networks and shapes of images from which the networks of a kit are chosen, and how many are drawn of each.
SOURCES: tuple[tuple[str, Shape, int], ...] = (
    ("mobilenet", (3, 32, 32), 40),
    ("mobilenet", (3, 64, 64), 40),
    ("nasbench201", (3, 32, 32), 16),
    ("plain", (3, 32, 32), 12),
    ("resnet_shape", (3, 32, 32), 16),
    ("vit", (3, 32, 32), 12),
)
CLASSES = 10
MOST_PARAMS, MOST_MACS = 600_000, 120e6  # of a network in a kit
# Milliseconds of each sort of term on an imaginary device, which only weighs networks against each other.
NOMINAL = {"network": 0.02, "count": 0.005, "macs": 1e-7, "moved": 1e-6}


def bench_kit(
    out: str | Path,
    *,
    networks: int | None = None,
    run: str | Path | None = None,
    space: str | None = None,
    input_shape: str | Shape | None = None,
    classes: int = CLASSES,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write a folder with a set of small ONNX networks and one script, to measure another device with.

    Carry it to the device and run `python bench.py` there (Python 3.8, numpy and onnxruntime are all it needs), bring
    measured.json back, and add it: `archscout device add NAME measured.json`. Most of the networks are chosen so that
    the cost of every kind of operation can be told from their times; the others are random, and tell how far
    predictions err. `run` adds the winner of a run, so that its own time on the device is measured too. Takes one to
    three seconds a network. Returns folder, networks, bytes.

    space: where you will search in one space only; then ten networks of it do, for images of `input_shape` (default
    3x32x32) in `classes` classes, chosen by `few_shot.choose` with the help of the devices that were added before.
    """
    if space is None and (input_shape is not None or classes != CLASSES):
        raise UserError("images and classes of a kit are those of a --space; name one, or leave them out")
    networks = networks if networks is not None else USUAL if space is None else FEW
    least = LEAST if space is None else FEWEST
    if networks < least:
        raise UserError(f"a kit of {networks} networks cannot tell the operations apart; wanted {least} or more")
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"'{folder}' exists and is not empty; give a new folder with --out")
    from archscout.deploy import bare_onnx

    winner = None if run is None else _winner(Path(run))
    if space is None:
        checks = math.ceil(CHECKS * networks)
        chosen = mixed(networks, checks)
    else:
        checks = 0
        chosen = of_space(space, input_shape, classes, networks)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (family, arch, seen) in enumerate(chosen):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = family.build(arch)
        name = f"net{number:02}.onnx"
        (folder / name).write_bytes(bare_onnx(model, family.input_shape))
        rows.append(
            {
                "file": name,
                "space": family.name if space is None else space,
                "input_shape": list(family.input_shape),
                "classes": family.classes,
                "arch": family.format(arch),
                "macs": seen.macs,
                "params": seen.params,
                "check": number >= networks - checks,
            }
        )
        on_progress(number + 1, networks)
    if run is not None and winner is not None:
        shutil.copyfile(Path(run) / "model.onnx", folder / WINNER)
        rows.append(winner)
    (folder / "kit.json").write_text(json.dumps({"format": FORMAT, "networks": rows}, indent=1), encoding="utf-8")
    shutil.copyfile(bench.__file__, folder / "bench.py")
    size = sum(path.stat().st_size for path in folder.iterdir())
    return {"folder": str(folder), "networks": len(rows), "bytes": size}


def mixed(networks: int, checks: int) -> list[tuple[SearchSpace, Arch, Trace]]:
    """Networks of several spaces that tell the cost of each kind of operation, the last `checks` drawn at random."""
    pool = candidates()
    chosen = choose(pool, networks - checks)
    rest = [one for one in pool if all(one[:2] != other[:2] for other in chosen)]
    drawn = np.random.default_rng(1).permutation(len(rest))[:checks]
    return chosen + [rest[place] for place in sorted(drawn)]


def of_space(
    name: str, input_shape: str | Shape | None, classes: int, networks: int
) -> list[tuple[SearchSpace, Arch, Trace]]:
    """The networks of one space from which `few_shot` predicts all others best, given the devices added before."""
    from archscout.devices.few_shot import choose as choose_few
    from archscout.devices.shelf import sources_of
    from archscout.ranking import ready_space

    shape = input_shape_of(input_shape) if isinstance(input_shape, str) else input_shape or SOURCES[0][1]
    space = ready_space(name, shape, classes)
    sources = {
        device: {space.canonical(space.parse(text)): value for text, value in known.items()}
        for device, known in sources_of(space).items()
    }
    chosen = choose_few(space, sources or None, count=networks)
    return [(space, arch, trace_of(space, arch)) for arch in chosen]


def candidates(seed: int = 0) -> list[tuple[SearchSpace, Arch, Trace]]:
    """Random networks of several spaces that are small enough for a kit, with their traces; about 5 seconds."""
    from archscout.spaces import SPACES

    found = []
    rng = np.random.default_rng(seed)
    for name, shape, count in SOURCES:
        space = SPACES[name](shape, CLASSES)
        for arch in dict.fromkeys(space.sample(rng) for _ in range(count)):
            seen = trace_of(space, arch)
            if seen.params <= MOST_PARAMS and seen.macs <= MOST_MACS:
                found.append((space, arch, seen))
    return found


def choose(drawn: Sequence[tuple[SearchSpace, Arch, Trace]], count: int) -> list[tuple[SearchSpace, Arch, Trace]]:
    """`count` of some networks whose times tell the cost of each kind of operation best; a greedy D-optimal design.

    Rows are the features of a network (see `profile.features`) relative to its nominal time, as errors are relative.
    Networks are added one by one so that det(XᵀX + 10⁻⁶ I) grows most (Fedorov 1972, "Theory of Optimal Experiments").
    """
    matrix = design([seen for _, _, seen in drawn])
    inverse = np.eye(matrix.shape[1]) / 1e-6
    left, picked = list(range(len(drawn))), []
    for _ in range(min(count, len(drawn))):
        gains = np.einsum("ij,jk,ik->i", matrix[left], inverse, matrix[left])
        best = left.pop(int(gains.argmax()))
        picked.append(best)
        step = inverse @ matrix[best]
        inverse = inverse - np.outer(step, step) / (1 + matrix[best] @ step)
    return [drawn[place] for place in sorted(picked, key=lambda p: drawn[p][2].macs)]


def design(traces: Sequence[Trace]) -> np.ndarray:
    """The matrix (networks, features) of what each kind of term takes of a network's nominal time."""
    rows = [features(seen, "onnxruntime") for seen in traces]
    names = sorted({name for row in rows for name in row})
    rates = np.array([NOMINAL[name.partition("/")[0]] for name in names])
    matrix = np.array([[row.get(name, 0.0) for name in names] for row in rows]) * rates
    return matrix / matrix.sum(1, keepdims=True)


def _winner(run: Path) -> dict[str, Any]:
    """The row of a run's exported winner in a kit. UserError where the run has none yet."""
    from archscout.result import Result

    result = Result(run)
    about, costs = result.about, result.best["costs"]
    if not (run / "model.onnx").is_file():
        raise UserError(f"run {run} has no model.onnx yet; type: archscout resume {run}")
    return {
        "file": WINNER,
        "space": about["factory"],
        "input_shape": about["input_shape"],
        "classes": len(about["classes"]),
        "arch": about["arch"],
        "macs": costs.get("macs"),
        "params": costs.get("params"),
    }
