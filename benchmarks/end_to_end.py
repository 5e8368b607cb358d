"""Is a search worth its time? The main job against known networks that train for the same wall-clock time.

    python benchmarks/end_to_end.py --data FOLDER [--minutes 120] [--only cifar10] [--budgets 5,20] [--seeds 3]
    python benchmarks/end_to_end.py --images NAME=FOLDER [--latency 5] ...
    python benchmarks/end_to_end.py --quick

FOLDER is that of benchmarks/main_job.py. Data sets: CIFAR-10, Fashion-MNIST, magnetic tiles, and CIFAR-10 cut to a long
tail of 100:1; `--images` adds folders of images, a sub-folder per class. For each data set and budget:

1. pilot: every known network of known.py whose latency, measured alone, keeps the limit trains for the first share
   PILOT of the budget on the training part and is judged on the validation part; the best FEW of them train anew for
   the second share, since a short training favours small networks, and the best two of these go on. None of this is
   charged to them. Where a data set has no test part of its own, the split differs between seeds, and images that the
   pilot was judged on are test images of other seeds: that too favours the known networks.
2. archscout searches, and each of the two trains (archscout.train, on train and validation images), in the same
   wall-clock time with everything that it does, on the same images, for `--seeds` seeds. The recipe of all is
   fit.recipe_for, whose schedule and augmentation follow the length of the training.
3. D = mean over seeds of archscout less that of the better of the two on the test part, in points of the metric. That
   the better is known after the fact favours the known networks. The interval is 95 % of 2,000 bootstrap samples of
   seeds and of test images, the same for both arms, and the same for all seeds where these share a test part.

Beside each D stand the minutes, epochs and measured latency of both arms. An arm that took over SLACK of its time in
any run, or whose network is over the limit on latency, is flagged; archscout is not ahead where it is flagged itself.
All stop at plan.most_epochs, so that on few images none may use all of its time.

A cell is a data set, a budget, an arm and a seed; cells that the results hold are skipped, and where those that are
compared were run by different versions of the program, or those of a seed on different processors, the figure says so.
A cell that fails is told and left out; the next start tries it again. Nothing else should run beside. The test part is
opened by the audit at the end of each run, and once more here for the answers per image of the same weights. Plan:
docs/plans/end_to_end.md.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import known
import main_job
import results_file

import archscout
from archscout.config import Config, cores
from archscout.data import Data, load
from archscout.devices.latency import fastest_training, measure_latency, precisions
from archscout.errors import UserError
from archscout.fit import Diverged, evaluate, fit, recipe_for
from archscout.pipeline import metric_of
from archscout.plan import most_epochs
from archscout.verify import OVER, initialise, within_seconds

HERE = Path(__file__).resolve().parent
BUDGETS = (5.0, 20.0)  # minutes
PILOT, FEW = (0.075, 0.3), 4  # of the budget, per known network, and how many of them have the second
BEST = 2  # known networks that run in full
LOOKS = 3  # measurements of a known network's latency, of which the least counts: another process can only add to it
TAIL = 100.0  # images of the largest class over those of the smallest
SAMPLES = 2000
SLACK = 1.01  # times its budget that a run may take


def longtail(folder: Path, root: Path) -> str:
    """CIFAR-10 whose classes have from 5,000 down to 50 training images, in equal ratios; the test part stays whole."""
    with np.load(main_job.cifar10(folder, root), allow_pickle=False) as found:
        pixels, labels, test, test_labels = (found[name] for name in ("X", "y", "X_test", "y_test"))
    rng, keep = np.random.default_rng(0), []
    for kind in range(10):
        of_kind = rng.permutation(np.flatnonzero(labels == kind))
        keep.append(of_kind[: round(len(of_kind) * TAIL ** (-kind / 9))])
    rows = np.sort(np.concatenate(keep))
    np.savez(folder / "longtail.npz", X=pixels[rows], y=labels[rows], X_test=test, y_test=test_labels)
    return str(folder / "longtail.npz")


SOURCES = {"cifar10": main_job.cifar10, "fashion": main_job.fashion, "tiles": main_job.tiles, "longtail": longtail}
#: ms, the limit of all arms: ResNet-20 keeps it on the slower of two machines; the tiles have four times the pixels
LATENCY = {"cifar10": 10.0, "fashion": 10.0, "tiles": 40.0, "longtail": 10.0}


@dataclass(frozen=True)
class Task:
    """A data set as all arms get it. counts: settings that replace the budget, for a test of the script."""

    name: str
    source: str
    latency: float
    counts: dict[str, Any] | None = None

    def options(self, minutes: float) -> dict[str, Any]:
        return {"budget": 60 * minutes} if self.counts is None else dict(self.counts)


def pilot(task: Task, data: Data, arch: str, minutes: float, share: float) -> dict[str, Any]:
    """A known network's latency, and within the limit its validation metric after a training of a share of the time."""
    space = known.known(data.shape, len(data.classes))
    model = initialise(space, space.parse(arch), 0)
    latency = min(measure_latency(model, data.shape, threads=1, seconds=0.5).median for _ in range(LOOKS))
    cell: dict[str, Any] = {"latency_ms": latency, "value": None, "machine": results_file.machine()["processor"]}
    if latency > task.latency:
        return cell
    seconds, part = 60 * minutes * share, data.part("train")
    metric = metric_of(Config(data="x", epochs=1.0), data)
    rate, threads, precision = fastest_training(
        model, data.shape, len(data.classes), batch=128, seconds=1.0,
        among=[(threads, one) for one in precisions() for threads in sorted({1, cores()})],
    )  # fmt: skip
    epochs = min(1000 * seconds / (rate * len(part)), most_epochs(len(part)))
    if task.counts is not None:
        epochs, seconds = task.counts["epochs"], 1e9
    recipe = recipe_for(
        part, data.shape, len(data.classes), mirrors=bool(data.mirrors), balanced=metric != "accuracy", epochs=epochs
    )
    recipe = replace(recipe, precision=precision)
    try:
        fitted = fit(
            model, part, recipe=recipe, epochs=epochs, seed=0, mean=data.mean, std=data.std, threads=threads,
            allow=within_seconds(seconds / OVER),
        )  # fmt: skip
    except Diverged as error:
        return {**cell, "failure": str(error)}
    found = evaluate(model, data.part("validation"), mean=data.mean, std=data.std, threads=cores())
    return {**cell, "value": 100 * found.metric(metric), "epochs": fitted.epochs, "seconds": fitted.seconds}


def run_arm(task: Task, arm: str, minutes: float, seed: int, folder: Path) -> tuple[dict[str, Any], np.ndarray]:
    """A run of archscout or of a known network: what is kept of it, and the test labels."""
    options: dict[str, Any] = {**task.options(minutes), "seed": seed, "out": folder}
    start = time.monotonic()
    if arm == "archscout":
        result = archscout.search(task.source, limits={"latency": task.latency}, **options)
    else:
        options = {k: v for k, v in options.items() if k not in ("candidates", "finalists", "workers", "proxies")}
        result = archscout.train(task.source, space="known:known", arch=arm, **options)
    spent = (time.monotonic() - start) / 60
    data, best, about = load(task.source, seed=seed), result.best, result.about
    answers = evaluate(result.model(), data.part("test"), mean=about["mean"], std=about["std"], threads=cores())
    right = answers.labels == answers.predictions
    if abs(right.mean() - best["test"]["accuracy"]) > 2 / len(right):
        raise RuntimeError(f"{arm} answers otherwise than in its audit: {right.mean()}, {best['test']['accuracy']}")
    events = result.events
    plan = events.get("plan") or {}
    return {
        "metric": best["metric"], "value": 100 * best["test"][best["metric"]], "minutes": spent, "arch": best["arch"],
        "space": best["space"], "role": best["role"], "latency_ms": best["latency"]["median"],
        "params": best["costs"].get("params"), "epochs": events["trained"]["epochs"],
        "stages": {key[6:]: value["ended"] for key, value in events.items() if key.startswith("stage/")},
        "plan": {k: plan[k] for k in ("candidates", "finalists", "rounds", "why") if k in plan},
        "right": packed(np.packbits(right)), "n": len(right),
        "tested": hashlib.sha256(data.parts["test"].astype(np.int64).tobytes()).hexdigest()[:16],
        "program": results_file.code_of_program(), "machine": results_file.machine()["processor"],
    }, answers.labels  # fmt: skip


def packed(array: np.ndarray) -> str:
    """Whole numbers from 0 on as text, in the fewest bytes each that the largest needs."""
    kind = "u1" if array.max(initial=0) < 256 else "<u2"
    return f"{kind}:{base64.b64encode(zlib.compress(array.astype(kind).tobytes(), 9)).decode()}"


def unpacked(text: str) -> np.ndarray:
    """The numbers of a text of `packed`; of one without a kind, bytes."""
    kind, _, content = text.rpartition(":")
    return np.frombuffer(zlib.decompress(base64.b64decode(content)), kind or "u1")


def metric_value(right: np.ndarray, labels: np.ndarray, metric: str) -> float:
    """Accuracy or balanced accuracy in percent; right and labels (n,)."""
    if metric == "accuracy":
        return 100 * float(right.mean())
    counts = np.bincount(labels)
    return 100 * float((np.bincount(labels, weights=right)[counts > 0] / counts[counts > 0]).mean())


def bootstrap(
    ours: list[np.ndarray], theirs: list[np.ndarray], labels: list[np.ndarray], metric: str, parts: list[str],
    name: str, samples: int = SAMPLES,
) -> tuple[float, float, float, np.ndarray]:  # fmt: skip
    """Mean over seeds of the difference in points, its 95 % interval, and the bootstrapped differences (samples,).

    ours, theirs, labels: per seed, whether each test image was answered right, and its label. Seeds are drawn with
    replacement, and test images, the same for both arms: once for all seeds of one test part, since these err on the
    same images, else anew for each drawn seed. parts: per seed, what names its test part (equal labels do not: a split
    by class has them in the same order). name: of the data set, which are to be drawn independently of each other.
    """
    rng, n = np.random.default_rng(list(name.encode())), len(ours)
    mean = float(np.mean([metric_value(o, y, metric) - metric_value(t, y, metric)
                          for o, t, y in zip(ours, theirs, labels, strict=True)]))  # fmt: skip
    drawn = np.empty(samples)
    for b in range(samples):
        gaps, once = [], {}
        for seed in rng.integers(0, n, n):
            part, size = parts[seed], len(labels[seed])
            if part not in once or parts.count(part) == 1:
                once[part] = rng.integers(0, size, size)
            rows = once[part]
            y = labels[seed][rows]
            gaps.append(metric_value(ours[seed][rows], y, metric) - metric_value(theirs[seed][rows], y, metric))
        drawn[b] = np.mean(gaps)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return mean, float(low), float(high), drawn


def rights(cells: dict[str, Any], name: str, minutes: float, arm: str) -> dict[int, np.ndarray]:
    """Per seed, whether an arm answered each test image right."""
    found = {}
    for key, cell in cells.items():
        if key.startswith(f"{name}/{minutes:g}/{arm}/") and "right" in cell:
            found[int(key.rpartition("/")[2])] = np.unpackbits(unpacked(cell["right"]))[: cell["n"]].astype(bool)
    return found


def spent(cells: list[dict[str, Any]], minutes: float, limit: float) -> tuple[dict[str, Any], list[str]]:
    """What the runs of an arm took, mean and most, and in words where that is more than all may take."""
    took = {
        word: {"mean": float(np.mean(values)), "most": float(max(values))}
        for word in ("minutes", "latency_ms", "epochs")
        for values in [[cell[word] for cell in cells]]
    }
    flags = []
    if took["minutes"]["most"] > SLACK * minutes:
        flags.append(f"took {took['minutes']['most']:.2f} of {minutes:g} minutes")
    if took["latency_ms"]["most"] > limit:
        flags.append(f"a network takes {took['latency_ms']['most']:.2f} of {limit:g} ms")
    return took, flags


def compare(
    cells: dict[str, Any], labels: dict[str, str], name: str, minutes: float, limit: float
) -> dict[str, Any] | None:
    """archscout against the better known network of a data set and budget, over the seeds that both have; or None."""
    arms = {
        key.split("/")[2] for key, cell in cells.items() if key.startswith(f"{name}/{minutes:g}/") and "right" in cell
    }
    ours = rights(cells, name, minutes, "archscout")
    best: dict[str, Any] | None = None
    for arm in sorted(arms - {"archscout"}):
        theirs = rights(cells, name, minutes, arm)
        seeds = sorted(set(ours) & set(theirs))
        if not seeds:
            continue
        mean = float(np.mean([cells[f"{name}/{minutes:g}/{arm}/{seed}"]["value"] for seed in seeds]))
        if best is None or (len(seeds), mean) > (len(best["seeds"]), best["known_mean"]):
            best = {"arm": arm, "seeds": seeds, "known_mean": mean, "theirs": theirs}
    if best is None:
        return None
    seeds = best["seeds"]
    runs = {arm: [cells[f"{name}/{minutes:g}/{arm}/{s}"] for s in seeds] for arm in ("archscout", best["arm"])}
    mine = runs["archscout"]
    truth = [unpacked(labels[f"{name}/{seed}"]).astype(np.int64) for seed in seeds]
    mean, low, high, drawn = bootstrap(
        [ours[s] for s in seeds], [best["theirs"][s] for s in seeds], truth, mine[0]["metric"],
        [cell["tested"] for cell in mine], name,
    )  # fmt: skip
    took = {arm: spent(some, minutes, limit) for arm, some in runs.items()}
    programs = {cell.get("program") for some in runs.values() for cell in some}
    machines = [{some[i].get("machine") for some in runs.values()} for i in range(len(seeds))]
    return {
        "value": mean, "low": low, "high": high, "n": len(seeds), "known_network": best["arm"], "drawn": drawn,
        "archscout": float(np.mean([cell["value"] for cell in mine])), "known_mean": best["known_mean"],
        "metric": mine[0]["metric"], "took": {arm: one for arm, (one, _) in took.items()}, "limit_ms": limit,
        "flags": {arm: flags for arm, (_, flags) in took.items() if flags}, "programs": len(programs),
        "machines": sorted(str(one) for one in set().union(*machines)),
        "unlike": [seed for seed, some in zip(seeds, machines, strict=True) if len(some) > 1],
    }  # fmt: skip


def figures(
    cells: dict[str, Any], labels: dict[str, str], budgets: list[float], limits: dict[str, float]
) -> list[dict[str, Any]]:
    """gain_D_MINUTES of every data set; on how many archscout is ahead at the longest budget, and how far behind.

    limits: ms, of each data set.
    """
    found: list[dict[str, Any]] = []
    gains: dict[str, np.ndarray] = {}  # of the data sets at the longest budget: D, and behind it the bootstrapped ones
    flagged = []
    longest = max(budgets)
    for name in dict.fromkeys(key.split("/")[0] for key in cells):
        for minutes in budgets:
            one = compare(cells, labels, name, minutes, limits[name])
            if one is None:
                continue
            drawn = one.pop("drawn")
            if minutes == longest:
                gains[name] = np.array([one["value"], *drawn])
                flagged += [name] if "archscout" in one["flags"] else []
            unit = f"points of {one['metric'].replace('_', ' ')} over the best known network, {minutes:g} minutes"
            found.append({"name": f"gain_{name}_{minutes:g}", "unit": unit, **one, "known": None, "reach": 0.0})
    if gains:
        ahead = np.sum([(some > 0) & (name not in flagged) for name, some in gains.items()], axis=0)
        worst = np.min(list(gains.values()), axis=0)
        names = list(gains)
        for name, values, more in (
            ("ahead_count", ahead, {"flagged": flagged, "reach": "3 of 4, never more than 1 point behind"}),
            (f"worst_gain_{longest:g}", worst, {
                "reach": -1.0, "data": min(names, key=lambda one: gains[one][0]),
                "over_a_point_behind": [one for one in names if gains[one][0] < -1],
            }),
        ):  # fmt: skip
            low, high = np.percentile(values[1:], [2.5, 97.5])
            of = f"of {len(gains)} data sets, {longest:g} minutes"
            unit = of if name == "ahead_count" else f"points, the least gain {of}"
            found.insert(
                int(name != "ahead_count"),
                {
                    "name": name, "value": values[0].item(), "low": float(low), "high": float(high), "unit": unit,
                    "n": len(gains), "known": None, **more,
                },
            )  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ARCHSCOUT_DATA"), help="folder of real data")
    parser.add_argument("--images", action="append", default=[], help="NAME=FOLDER, a sub-folder per class; repeatable")
    parser.add_argument("--latency", type=float, help="limit in ms for --images; default: 10 per 32x32 pixels")
    parser.add_argument("--only", action="append", help="only these data sets")
    parser.add_argument("--budgets", default=",".join(f"{b:g}" for b in BUDGETS), help="minutes of each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=1e9, help="start no new cell after this many minutes")
    parser.add_argument("--anew", action="store_true", help="drop the cells of these data sets and budgets first")
    parser.add_argument("--keep", type=Path, help="keep the run folders here")
    parser.add_argument("--quick", action="store_true", help="digits, counts instead of budgets; a test of the script")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "end_to_end.json")
    args = parser.parse_args()
    ends = time.monotonic() + 60 * args.minutes
    budgets = [1.0] if args.quick else [float(b) for b in args.budgets.split(",")]
    kept = json.loads(args.out.read_text()) if args.out.exists() and not args.quick else {}
    cells, labels, conditions = kept.get("cells", {}), kept.get("labels", {}), kept.get("conditions", {})
    more = dict(text.partition("=")[::2] for text in args.images)
    wanted = args.only or (list(more) if more else list(SOURCES))
    names = ["digits"] if args.quick else [name for name in (*SOURCES, *more) if name in wanted]
    if args.anew:
        gone = {f"{name}/{minutes:g}" for name in names for minutes in budgets}
        cells = {key: cell for key, cell in cells.items() if "/".join(key.split("/")[:2]) not in gone}
        conditions = {
            name: some for name, some in conditions.items() if any(key.startswith(f"{name}/") for key in cells)
        }

    def save(key: str, cell: dict[str, Any]) -> None:
        cells[key] = cell
        print(key, json.dumps({k: v for k, v in cell.items() if k != "right"})[:500], flush=True)
        shown = sorted({float(key.split("/")[1]) for key in cells})
        settings = {"pilot": PILOT, "best": BEST, "latency_ms": LATENCY, "threads": cores()}
        limits = {name: condition["latency_ms"] for name, condition in conditions.items()}
        results_file.write(
            args.out, figures(cells, labels, shown, limits), command="python benchmarks/end_to_end.py --data FOLDER",
            settings=settings, conditions=conditions, cells=cells, labels=labels,
        )  # fmt: skip

    if not args.quick:
        warm_up()
    for name in names:
        with tempfile.TemporaryDirectory() as work:
            task = task_of(name, args, more, Path(work))
            if task is None:
                continue
            require_same(task, conditions)
            run_task(task, budgets, 1 if args.quick else args.seeds, ends, Path(work), args.keep, cells, labels, save)
    if not cells:
        raise SystemExit("no cell was run: give --data FOLDER or --images NAME=FOLDER")


def warm_up() -> None:
    """A search of a moment, so that what a process imports and makes once is not charged to its first run."""
    with tempfile.TemporaryDirectory() as work:
        archscout.search("digits", candidates=4, finalists=1, epochs=0.2, workers=0, out=Path(work) / "run")


def require_same(task: Task, conditions: dict[str, Any]) -> None:
    """Notes the limit and the images of a data set; stops if its earlier cells had others."""
    now = {"latency_ms": task.latency, "fingerprint": load(task.source, seed=0).fingerprint}
    if conditions.setdefault(task.name, now) != now:
        raise SystemExit(
            f"the cells of {task.name} are of other conditions ({conditions[task.name]}, now {now}); "
            "give the data another name, or another --out"
        )


def task_of(name: str, args: argparse.Namespace, more: dict[str, str], work: Path) -> Task | None:
    """The data of a name; None, with a word, where they are absent."""
    if args.quick:
        counts = {"candidates": 6, "finalists": 1, "epochs": 0.5, "workers": 0, "proxies": "macs,naswot"}
        return Task("digits", "digits", 3.0, counts)
    if name in more:
        return Task(name, more[name], args.latency or default_latency(load(more[name], seed=0).shape))
    try:
        return Task(name, SOURCES[name](work, Path(args.data or "absent")), LATENCY[name])
    except OSError as error:
        print(f"{name}: skipped, data absent ({error})", file=sys.stderr)
        return None


def run_task(
    task: Task,
    budgets: list[float],
    seeds: int,
    ends: float,
    work: Path,
    keep: Path | None,
    cells: dict[str, Any],
    labels: dict[str, str],
    save: Any,
) -> None:
    """The cells of a data set that are not there yet, until the time is over."""
    for minutes in budgets:

        def measured(arm: str, last: Any, make: Callable[[], dict[str, Any]], minutes: float = minutes) -> None:
            key = f"{task.name}/{minutes:g}/{arm}/{last}"
            if key in cells or time.monotonic() > ends:
                return
            try:
                save(key, make())
            except (UserError, Diverged, RuntimeError) as error:  # the others are still worth their time
                print(f"{key} failed: {error}", file=sys.stderr, flush=True)

        rivals = piloted(task, minutes, cells, measured)
        if rivals is None:
            return
        for seed in range(seeds):
            for arm in ("archscout", *rivals):

                def run(arm: str = arm, seed: int = seed, minutes: float = minutes) -> dict[str, Any]:
                    folder = (keep or work) / f"{task.name}-{minutes:g}-{arm}-{seed}"
                    shutil.rmtree(folder, ignore_errors=True)
                    cell, truth = run_arm(task, arm, minutes, seed, folder)
                    labels[f"{task.name}/{seed}"] = packed(truth)
                    if keep is None:
                        shutil.rmtree(folder, ignore_errors=True)
                    return cell

                measured(arm, seed, run)


def default_latency(shape: tuple[int, int, int]) -> float:
    """Milliseconds for images of a shape (C, H, W): those of LATENCY for as many pixels, 10 at least."""
    return 10.0 * max(1.0, shape[1] * shape[2] / 1024)


def piloted(task: Task, minutes: float, cells: dict[str, Any], measured: Callable[..., None]) -> list[str] | None:
    """The known networks that run in full, best first; None where the time was over before the pilots were done."""
    data, quick = load(task.source, seed=0), task.counts is not None
    left, most = list(known.NAMES[: 2 if quick else None]), (1,) if quick else (FEW, BEST)
    for share, few in zip(PILOT, most, strict=False):
        for arch in left:
            measured(f"pilot-{share:g}", arch, partial(pilot, task, data, arch, minutes, share))
        trials = {arch: cells.get(f"{task.name}/{minutes:g}/pilot-{share:g}/{arch}") for arch in left}
        if None in trials.values():
            return None
        able = {arch: cell["value"] for arch, cell in trials.items() if cell and cell["value"] is not None}
        if not able:
            least = min(cell["latency_ms"] for cell in trials.values())
            told = f"no known network keeps {task.latency:g} ms here and learns; the fastest takes {least:.3g} ms"
            print(f"{task.name}: skipped, {told}", file=sys.stderr)
            return None
        left = sorted(able, key=lambda arch: -able[arch])[:few]
    return left


if __name__ == "__main__":
    torch.set_num_threads(cores())
    main()
