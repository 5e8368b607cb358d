"""Which network teaches the winner: a pretrained one that verification trained, or that of a finished run."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from archscout.asked import Methods
from archscout.config import Config
from archscout.data import Data
from archscout.deploy import load_weights
from archscout.distill import Teacher
from archscout.errors import UserError
from archscout.fit import Recipe
from archscout.full_training import best_rate
from archscout.result import Result
from archscout.run import Run
from archscout.shortlist import known_space
from archscout.verify import Entrant, checkpoint_name

TAUGHT = 0.5  # of the loss is the teacher's answers


def choose_teacher(config: Config, records: Sequence[dict[str, Any]], best: Mapping[str, Any]) -> dict[str, Any] | None:
    """Which pretrained network teaches the winner, if one does; {arch, key, round, validation}.

    The best of those that verification trained. With teach=auto it must be better than the winner beyond both
    intervals, and its forward pass (a third of its training step) must take no longer than the winner's training step,
    so that the winner still sees at least half of the images.
    """
    able = [
        r for r in records
        if r["space"] == "pretrained" and r["key"] != best["key"] and r["rounds"] and not r["failure"]
    ]  # fmt: skip
    if not able or config.teach == "no":
        return None
    record = max(able, key=lambda r: r["validation"])
    if config.teach == "auto":
        ahead = record["rounds"][-1]["interval"][0] > best["rounds"][-1]["interval"][1]
        costs = [r["costs"].get("training", 0.0) for r in (record, best)]
        if not ahead or costs[0] / 3 > costs[1]:
            return None
    fields = {name: record[name] for name in ("arch", "key", "validation")}
    return {**fields, "round": len(record["rounds"]) - 1, "forward_ms": record["costs"].get("training", 0.0) / 3}


def given_teacher(run: Run, config: Config, methods: Methods, data: Data) -> Teacher | None:
    """The network of the finished run `config.teacher`, or None; with the share and temperature of TAS, see Teacher.

    Raises UserError for a run without trained weights or for other images or classes, for one that trained on test
    images of this run, and if the weights changed since this run first read them.
    """
    if config.teacher is None or ("trained" in run and (run.folder / "weights.safetensors").exists()):
        return None
    taught = Result(config.teacher, trust=methods.trust)
    about = taught.about
    for name, own in (("input_shape", list(data.shape)), ("classes", list(data.classes))):
        if about[name] != own:
            raise UserError(f"the teacher {config.teacher} has {name} {about[name]}, the data {own}; take another one")
    if seen := seen_before(run, taught):
        raise UserError(
            f"the teacher {config.teacher} was trained on {seen} of the test images of this run, whose test would say "
            f"too much; train it with this split, --seed {config.seed}, or take another one"
        )
    network = taught.model()
    mark = hashlib.sha256((taught.folder / "weights.safetensors").read_bytes()).hexdigest()
    known = run.once(
        "teacher",
        lambda: {
            "arch": about["arch"], "run": config.teacher, "weights": mark,
            "forward_ms": best_rate(network, data, Recipe(batch_size=64), config)["ms"] / 3,
        },
    )  # fmt: skip
    if known["weights"] != mark:
        raise UserError(f"the weights of the teacher {config.teacher} changed since this run began; put them back")
    return Teacher(network, mean=about["mean"], std=about["std"])


def seen_before(run: Run, taught: Result) -> int:
    """How many test images of a run another one did not hold back, told by name and class in their tables of the split.

    Tables in which an image of one name has another class are of other images, whose names say nothing.
    """
    tables = []
    for path in (run.folder / "split.csv", taught.folder / "split.csv"):
        if not path.exists():
            return 0
        with open(path, encoding="utf-8", newline="") as file:
            tables.append({row["image"]: (row["class"], row["part"]) for row in csv.DictReader(file)})
    own, theirs = tables
    shared = own.keys() & theirs.keys()
    if any(own[name][0] != theirs[name][0] for name in shared):
        return 0
    return sum(own[name][1] == "test" and theirs[name][1] != "test" for name in shared)


def teacher_of(run: Run, config: Config, data: Data) -> Teacher | None:
    """The teacher that the run chose, with the weights that verification left."""
    found = run.recall("teacher")
    if not found or config.teacher is not None:
        return None
    space = known_space(config, data)
    arch = space.parse(found["arch"])
    network = space.build(arch)
    load_weights(network, run.folder / "checkpoints" / checkpoint_name(Entrant(space, arch, "teacher"), found["round"]))
    return Teacher(network, share=TAUGHT)
