"""What choosing the images of a differentiable search is worth, judged by NAS-Bench-201's trained accuracies.

    python benchmarks/dds_search.py --data FOLDER [--minutes 60] [--seeds 10] [--arms dds,random] [--step] [--quick]

FOLDER holds images/cifar10_lossless.zip, nas/nb201_accuracy.parquet and nas/nb201_cifar_split.npz. A cell is one
search: an arm and a seed. Each trains the narrow supernet (8 channels, one cell per stage; with --device cuda 16 and
five) by first-order DARTS on the official halves of CIFAR-10's training part, 25,000 images for the weights and as many
for the architecture, and logs the derived cell over time; its trained accuracy is looked up afterwards and decides
nothing. The test part of CIFAR-10 is never read. Cells that the results hold are skipped; seeds come one after another.

Arms: full; dds; and its controls of the same size and length: fixed, random (redrawn each round, which are also the
update times of dds), dds_furthest and dds_untrained (dds with the furthest images of all as successors, in a trained
and an untrained embedding; dds itself draws them at random), entropy (of a small network that trains on all images
for an epoch first, charged to it), infobatch; a random cell; and P-DARTS on all images (stages of 3, 2 and 1 epochs,
charged to the shortest within .1 of the best), dds and random. Seconds count the embedding, the index and every
choice (there are no audits); on a CPU they are of the processor, of the one thread that a search has. A search on
selected images ends by a rule that reads no accuracy: the derived cell has been the same for PATIENCE rounds, or
ROUNDS are over. Full data is charged to its earliest epoch whose mean accuracy over seeds is within .1 of its best;
`--arms full_long` gives it three times as long. `--step` measures instead one forward, backward and update of 64
images on the full supernet (16 channels, five cells per stage) with two threads, on a machine that does nothing else,
beside those of a textbook version. `--memory` measures the peak of the memory by beginnings of searches of full and
dds: `memory_ratio` is of the whole process, with the images and what is imported, `memory_ratio_search` of what a
search adds to it. `--tiles` runs the whole main job with darts on the magnetic tiles (imbalanced, six classes), each
arm with the same budget: all images, dds and random ones.

Remedies against collapse (`--arms remedies --first 20 --seeds 25`): searches on random images, redrawn each round, for
all ROUNDS, by the largest weights and with each remedy of the literature that the method offers; `zero_shot` is the
last word of the proxies on the plain ones. Accuracies with each less those without, paired by seed.

Seeds from FRESH on are for `decide=zero-shot` alone, which was thought of when the others had been seen: of the cells
that the second half of a search derived, the one that the aggregate of the proxies ranks first, by the committed scores
of results/ranking_scores.parquet. `--seeds 15 --first 10 --arms dds,random` runs them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
import results_file
from cells import Images, run_cells
from main_job import cifar10, tiles

import archscout
from archscout.aggregate import INPUTS, aggregate
from archscout.bench import load_table
from archscout.costs import COSTS
from archscout.costs.trace import trace
from archscout.differentiable.bilevel import Settings, Story
from archscout.differentiable.choice import relax, softmax
from archscout.differentiable.darts import darts
from archscout.differentiable.pdarts import pdarts
from archscout.differentiable.zero_shot import settled_among
from archscout.fit import fit, normaliser, recipe_for
from archscout.selection import SELECTORS
from archscout.selection.selector import Selector
from archscout.space import SearchSpace
from archscout.spaces.nasbench201 import EDGES, OPS, nasbench201, skeleton
from archscout.spaces.plain import plain
from archscout.verify import initialise

HERE = Path(__file__).resolve().parent
ARMS = (
    "full", "dds", "random", "fixed", "dds_furthest", "dds_untrained", "entropy", "infobatch", "random_cell",
    "pdarts_full", "pdarts_full_1", "pdarts_full_2", "pdarts_dds", "pdarts_random",
)  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "dds_furthest": {"among": None},
    "dds_untrained": {"among": None, "embedding": "untrained"},
}
#: what each remedy against collapse changes of a search; Ye et al. 2022, Dong and Yang 2019, Liang et al. 2019, Wang et
#: al. 2021, see differentiable.darts
REMEDIES: dict[str, dict[str, Any]] = {
    "plain": {}, "beta": {"beta": 0.3}, "gumbel": {"sample": "gumbel"}, "skips": {"stop_skips": 3},
    "perturbation": {"decide": "perturbation"},
}  # fmt: skip
FRESH = 10  # seeds from here on are for the last word of the proxies
SUBSET = 1000  # images of a round, for the weights and for the architecture
ROUNDS = 25
PATIENCE = 6
FULL_EPOCHS, LONG_EPOCHS = 4, 12
BEGINNING = 0.12  # of a search is enough for its peak of memory
TILES: dict[str, Any] = {"budget": "6m", "share": 0.2, "limits": {"latency": "10ms"}}
STAGE_EPOCHS, STAGE_ROUNDS, STAGE_SEEDS = 3, 7, 5  # of each stage of P-DARTS, and its seeds
SETTINGS = Settings(batch_size=64, lr=0.1, arch_lr=1e-2, flip=True, shift=2)
WHOLE = (3, 32, 32)


@lru_cache(maxsize=1)
def halves(work: str, data: str) -> tuple[Images, Images, np.ndarray, np.ndarray]:
    """The official halves of the training part, and the mean and deviation of its channels."""
    with np.load(Path(work) / "cifar10.npz", allow_pickle=False) as stored:
        pixels, labels = stored["X"], stored["y"].astype(np.int64)
    with np.load(Path(data) / "nas" / "nb201_cifar_split.npz", allow_pickle=False) as stored:
        names = sorted(stored.files, key=lambda name: ("valid" in name, name))
        one, other = (stored[name].astype(np.int64) for name in names[:2])
    mean, std = pixels.mean((0, 1, 2)), pixels[::10].std((0, 1, 2))
    return Images(pixels[one], labels[one]), Images(pixels[other], labels[other]), mean, std


def entropies(part: Images, seed: int, epochs: float = 1.0) -> np.ndarray:
    """The entropies in nats of the answers to all images of a ResNet-8 of 8 channels that trained on them shortly."""
    space = plain(WHOLE, 10)
    network = initialise(space, space.parse("resnet8-w8"), seed)
    mean, std = part.pixels.mean((0, 1, 2)), part.pixels[::10].std((0, 1, 2))
    recipe = replace(recipe_for(part, WHOLE, 10, mirrors=True, balanced=False, epochs=epochs), precision="32-true")
    fit(network, part, recipe=recipe, epochs=epochs, seed=seed, mean=mean, std=std, threads=1)
    normalise, found = normaliser(mean, std), []
    with torch.no_grad():
        network.eval()
        for rows in np.array_split(np.arange(len(part)), max(1, len(part) // 250)):
            chances = network(normalise(part.batch(rows)[1])).double().softmax(1)
            found.append(torch.special.entr(chances).sum(1).numpy())
    return np.concatenate(found)


def make(arm: str, part: Images, seed: int, cache: Path) -> Selector | None:
    """The selector of an arm for one half; None for all images."""
    if arm in ("full", "full_long"):
        return None
    options: dict[str, Any] = {"seed": seed, "size": SUBSET}
    if arm == "infobatch":
        options.pop("size")
    if arm == "entropy":
        options["scores"] = entropies(part, seed)
    if arm in VARIANTS:
        options |= VARIANTS[arm] | {"cache": cache}
        arm = "dds"
    return SELECTORS[arm](part, **options)


def resident_mb() -> float:
    """The memory of this process that is in use now; on Linux, else nothing."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20 if path.exists() else float("nan")


def search(arm: str, seed: int, work: str, data: str, device: str, length: float = 1.0) -> dict[str, Any]:
    """One cell: the derived architecture over time, and what it cost. length: the part of the search that is made."""
    torch.set_num_threads(1)
    weight_part, arch_part, mean, std = halves(work, data)
    before = resident_mb()
    wide = device != "cpu"
    space = nasbench201(WHOLE, 10) if wide else nasbench201(WHOLE, 10, channels=8, cells=1)
    if arm == "random_cell":
        picked = space.sample(np.random.default_rng(seed))
        return {"curve": [{"seconds": 0.0, "arch": space.format(picked)}], "seconds": 0.0, "memory_mb": None}
    clock = time.perf_counter if wide else time.process_time
    began = clock()
    times: list[float] = []
    round_ = SUBSET / len(weight_part)
    common: dict[str, Any] = {
        "seed": seed, "mean": mean, "std": std, "settings": SETTINGS, "device": device,
        "on_progress": lambda entry: times.append(clock() - began),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as cache:
        data_arm = arm.removeprefix("pdarts_")
        whole = data_arm in ("full", "full_1", "full_2", "full_long", "infobatch")
        long = length * (LONG_EPOCHS if arm == "full_long" else FULL_EPOCHS)

        def made(part: Images, number: int) -> Selector | None:
            return make(data_arm, part, seed + number, Path(cache))

        if arm.startswith("remedy_"):
            found = darts(
                space, weight_part, arch_part, epochs=ROUNDS * round_, report=round_,
                selector=make("random", weight_part, seed, Path(cache)),
                arch_selector=make("random", arch_part, seed + 1, Path(cache)),
                **common, **REMEDIES[arm.removeprefix("remedy_")],
            )  # fmt: skip
        elif arm != data_arm:
            data_arm, _, epochs = data_arm.partition("_")
            found = pdarts(
                space, weight_part, arch_part,
                epochs=float(epochs or STAGE_EPOCHS) if whole else STAGE_ROUNDS * round_,
                report=0.25 if whole else round_, make_selector=lambda part, stage: made(part, 2 * stage),
                make_arch_selector=lambda part, stage: made(part, 2 * stage + 1), **common,
            )  # fmt: skip
        else:
            found = darts(
                space, weight_part, arch_part, epochs=long if whole else length * ROUNDS * round_,
                report=0.25 if whole else round_, patience=None if whole else PATIENCE * round_,
                selector=made(weight_part, 0), arch_selector=made(arch_part, 1), **common,
            )  # fmt: skip
    curve = [
        {
            "epoch": entry["epoch"], "seconds": seconds, "skips": entry["skips"],
            "arch": space.format(tuple(entry["arch"])), "entropy": entry["entropy"],
        }
        for entry, seconds in zip(found.story.history, times, strict=True)
    ]  # fmt: skip
    curve[-1]["arch"] = space.format(found.arch)
    return {
        "curve": curve, "seconds": clock() - began, "stopped": found.story.stopped,
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "memory_before_mb": before,
    }  # fmt: skip


class PlainCell(nn.Module):
    """A mixed cell as a textbook has it: every operation of every edge by itself. What ours is timed against."""

    def __init__(self, channels: int) -> None:
        super().__init__()

        def convolution(kernel: int) -> nn.Module:
            conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
            return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(channels, affine=False))

        def pool() -> nn.Module:
            return nn.AvgPool2d(3, 1, 1, count_include_pad=False)

        self.edges = nn.ModuleList(
            nn.ModuleList([nn.Identity(), convolution(1), convolution(3), pool()]) for _ in EDGES
        )  # fmt: skip

    def forward(self, x: torch.Tensor, choice: torch.Tensor) -> torch.Tensor:
        nodes = [x]
        for target in (1, 2, 3):
            total: Any = 0.0
            for e, (source, end) in enumerate(EDGES):
                if end == target:
                    operations: Any = self.edges[e]
                    total = total + sum(choice[e, o + 1] * op(nodes[source]) for o, op in enumerate(operations))
            nodes.append(total)
        return nodes[3]


class PlainNetwork(nn.Module):
    """The supernet of nasbench201 out of textbook cells."""

    def __init__(self, channels: int, cells: int) -> None:
        super().__init__()
        self.stem, body, channels = skeleton(WHOLE, channels, cells, PlainCell)
        self.body = nn.ModuleList(body)
        self.last = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.classifier = nn.Linear(channels, 10)
        self.alphas = nn.Parameter(1e-3 * torch.randn(len(EDGES), len(OPS)))

    def logits(self) -> torch.Tensor:
        return self.alphas

    def forward(self, images: torch.Tensor, choice: torch.Tensor) -> torch.Tensor:
        x = self.stem(images)
        for module in self.body:
            x = module(x, choice) if isinstance(module, PlainCell) else module(x)
        return self.classifier(self.last(x).mean((2, 3)))


def step_samples(repeats: int = 12) -> dict[str, list[float]]:
    """Seconds of one forward, backward and update of 64 images, full supernet, two threads: ours, and the textbook's in
    plain layout and channels-last, one after another in every repeat, so that what disturbs one disturbs all.
    """
    torch.set_num_threads(2)
    torch.manual_seed(0)
    last, plain = torch.channels_last, torch.contiguous_format
    ours = relax(nasbench201(WHOLE, 10), "darts")
    kinds = {
        "ours": (ours, last),
        "textbook": (PlainNetwork(16, 5), plain),
        "textbook_last": (PlainNetwork(16, 5), last),
    }
    labels = torch.arange(64) % 10
    times: dict[str, list[float]] = {name: [] for name in kinds}
    ready = {}
    for name, (net, layout) in kinds.items():
        net.to(memory_format=layout)
        optimizer = torch.optim.SGD(net.parameters(), 0.025, 0.9, weight_decay=3e-4)
        ready[name] = net, torch.randn(64, *WHOLE).to(memory_format=layout), optimizer
    for _ in range(repeats + 2):
        for name, (net, images, optimizer) in ready.items():
            began = time.perf_counter()
            loss = torch.nn.functional.cross_entropy(net(images, softmax(net.logits())), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            times[name].append(time.perf_counter() - began)
    return {name: each[2:] for name, each in times.items()}


@lru_cache(maxsize=256)
def cost_of(text: str, cost: str) -> float:
    """Parameters or FLOPs of a cell in the network of the table."""
    space = nasbench201(WHOLE, 10)
    return float(COSTS[cost].compute(trace(space.build(space.parse(text)), WHOLE), None))


def bootstrap(samples: list[float], draws: int = 10_000) -> list[float]:
    """The ends of the 95 % percentile bootstrap of the mean over seeds; of differences it is the paired one."""
    values = np.array(samples)
    picked = np.random.default_rng(0).integers(0, len(values), (draws, len(values)))
    return [float(end) for end in np.percentile(values[picked].mean(1), (2.5, 97.5))]


def narrow(input_shape: tuple[int, int, int], classes: int) -> SearchSpace:
    return nasbench201(input_shape, classes, channels=8, cells=1)


def tiles_cell(arm: str, seed: int, data: Path) -> dict[str, Any]:
    """The main job on the magnetic tiles: balanced accuracy on the test part, opened once, and what the search took."""
    with tempfile.TemporaryDirectory() as work:
        began = time.perf_counter()
        result = archscout.search(
            tiles(Path(work), data), space=narrow, strategy="darts", select=arm, share=TILES["share"], seed=seed,
            limits=TILES["limits"], budget=TILES["budget"], out=Path(work) / "run", workers=0,
        )  # fmt: skip
        found, test = result.events["supernet"], result.best["test"]
        story, shares = found["story"], dict.fromkeys(("value", "low", "high"))
        shares["value"] = 100 * test["balanced_accuracy"]
        shares["low"], shares["high"] = (100 * end for end in test["balanced_accuracy_interval"])
        return {
            **shares, "n": test["n"], "winner": result.best["arch"], "role": result.best["role"], "arch": found["arch"],
            "search_seconds": story["seconds"], "epochs": story["history"][-1]["epoch"], "planned": found["epochs"],
            "stopped": story["stopped"], "audits": len(story["audits"]),
            "validation": {r["role"]: r["validation"] for r in result.events["verified"]},
            "seconds": time.perf_counter() - began, **TILES,
        }  # fmt: skip


def truth(data: Path) -> dict[str, tuple[float, float]]:
    """Cell -> accuracy after 200 epochs on CIFAR-10 and CIFAR-100."""
    table = load_table(data / "nas" / "nb201_accuracy.parquet")
    return dict(
        zip(table.archs, zip(table.accuracies["cifar10"], table.accuracies["cifar100"], strict=True), strict=True)
    )


@lru_cache(maxsize=1)
def scores() -> dict[Any, dict[str, float]]:
    """Canonical cell -> its zero-shot scores, as committed."""
    import pandas as pd

    space = nasbench201(WHOLE, 10)
    rows = pd.read_parquet(HERE / "results" / "ranking_scores.parquet", columns=["arch", *INPUTS]).to_dict("records")
    return {
        space.canonical(space.parse(row.pop("arch"))): {k: float(v) for k, v in row.items() if np.isfinite(v)}
        for row in rows
    }


@lru_cache(maxsize=256)
def last_word(archs: tuple[str, ...]) -> str:
    """Of what a search derived, one entry a report, the cell that the proxies take of its second half."""
    space = nasbench201(WHOLE, 10)
    story = Story(history=[{"arch": list(space.parse(arch))} for arch in archs])
    among = settled_among(space, story, space.parse(archs[-1]))
    ranks = aggregate([scores()[space.canonical(arch)] for arch in among]).tolist()
    return space.format(among[ranks.index(min(ranks))])


def figures(
    cells: dict[str, Any], known: dict[str, tuple[float, float]], steps: dict[str, list[float]] | None = None
) -> list[dict[str, Any]]:
    """The figures that follow from the cells, and from the seconds of steps."""
    found: list[dict[str, Any]] = []
    if steps:
        told = "2.58 in plain layout, 1.43 channels-last, for a textbook version on another machine"
        unit = "s, full supernet, 64 images, two threads"
        found.append(results_file.figure("step_seconds", steps["ours"], unit, reach=1.0, known=told))
        for kind in ("textbook", "textbook_last"):
            found.append(results_file.figure(f"step_seconds_{kind}", steps[kind], unit))
            ratio = [theirs / ours for theirs, ours in zip(steps[kind], steps["ours"], strict=True)]
            found.append(results_file.figure(f"step_ratio_{kind}", ratio, "times, paired by repeat"))

    def of(arm: str, fresh: bool = False) -> dict[int, dict[str, Any]]:
        seeds = {int(key.rpartition("/")[2]): cell for key, cell in cells.items() if key.rpartition("/")[0] == arm}
        return {seed: cell for seed, cell in seeds.items() if (seed >= FRESH) == fresh}

    def last(cell: dict[str, Any], which: int = 0) -> float:
        return known[cell["curve"][-1]["arch"]][which]

    def add(name: str, samples: list[float], unit: str, **more: Any) -> None:
        if samples:
            found.append(results_file.figure(name, samples, unit, **more, bootstrap=bootstrap(samples)))

    dds, full, redrawn = of("dds"), of("full"), of("random")
    add("true_c10", [last(c) for c in dds.values()], "% accuracy", known="beta-DARTS 94.36, full data", reach=94.0)
    add("true_c100", [last(c, 1) for c in dds.values()], "% accuracy", known="beta-DARTS 73.51, full data", reach=72.5)
    add(
        "gain_over_redrawn", [last(dds[s]) - last(redrawn[s]) for s in dds if s in redrawn],
        "points, paired by seed", reach=0.0,
    )  # fmt: skip
    both = sorted(set(dds) & set(full))
    if both:
        epochs = [entry["epoch"] for entry in full[both[0]]["curve"]]
        mean = [float(np.mean([known[full[s]["curve"][i]["arch"]][0] for s in both])) for i in range(len(epochs))]
        charged = next(i for i, value in enumerate(mean) if value >= max(mean) - 0.1)
        add(
            "accuracy_difference", [last(dds[s]) - known[full[s]["curve"][charged]["arch"]][0] for s in both],
            "points of dds over full data, paired by seed", reach=-0.2,
        )  # fmt: skip
        add(
            "speedup", [full[s]["curve"][charged]["seconds"] / dds[s]["seconds"] for s in both],
            f"times, full data charged to epoch {epochs[charged]:g}", known="up to 27 (paper)", reach=27.0,
        )  # fmt: skip
        ends, begins = [dds[s]["curve"][-1] for s in both], [full[s]["curve"][charged] for s in both]
        add("memory_ratio", [dds[s]["memory_mb"] / full[s]["memory_mb"] for s in both], "times", reach=1.1)
        for cost in ("params", "flops"):
            ratios = [cost_of(e["arch"], cost) / cost_of(b["arch"], cost) for e, b in zip(ends, begins, strict=True)]
            add(f"{cost}_ratio", ratios, "times, of the networks found")
    begun = {arm: of(f"memory/{arm}") for arm in ("full", "dds")}
    added = {arm: {s: c["memory_mb"] - c["memory_before_mb"] for s, c in rows.items()} for arm, rows in begun.items()}
    add(
        "memory_ratio_search", [mb / added["full"][s] for s, mb in added["dds"].items() if s in added["full"]],
        "times, of what a search adds", reach=1.1, mb={arm: list(each.values()) for arm, each in added.items()},
    )  # fmt: skip
    for arm in ("full", "dds", "random"):
        rows = of(f"tiles/{arm}")
        add(f"tiles_{arm}", [row["value"] for row in rows.values()], "% balanced accuracy on the test part")
        add(f"tiles_search_seconds_{arm}", [row["search_seconds"] for row in rows.values()], "s of training a supernet")
    fast = of("pdarts_dds")
    lengths = {epochs: of(f"pdarts_full{end}") for epochs, end in ((1, "_1"), (2, "_2"), (STAGE_EPOCHS, ""))}
    means = {epochs: float(np.mean([last(c) for c in rows.values()])) for epochs, rows in lengths.items() if rows}
    epochs = min((e for e, mean in means.items() if mean >= max(means.values()) - 0.1), default=STAGE_EPOCHS)
    slow = lengths[epochs]
    common = sorted(set(slow) & set(fast))
    add(
        "pdarts_speedup", [slow[s]["seconds"] / fast[s]["seconds"] for s in common],
        f"times, all images charged to {epochs} epochs a stage, of {', '.join(map(str, means))} measured", reach=10.0,
    )  # fmt: skip
    add(
        "pdarts_difference", [last(fast[s]) - last(slow[s]) for s in common],
        "points of dds over all images, paired by seed", reach=-0.3,
    )  # fmt: skip
    for arm in ("dds", "random"):
        some = list(of(arm, fresh=True).values())
        picked = [known[last_word(tuple(e["arch"] for e in cell["curve"]))] for cell in some]
        add(f"true_c10_{arm}_fresh", [last(cell) for cell in some], "% accuracy of the cell at the end, fresh seeds")
        for place, name in enumerate(("true_c10", "true_c100")):
            add(f"{name}_{arm}_zero_shot", [pair[place] for pair in picked], "% with decide=zero-shot, fresh seeds")
        gains = [pair[0] - last(cell) for pair, cell in zip(picked, some, strict=True)]
        add(f"zero_shot_gain_{arm}", gains, "points on CIFAR-10 over decide=largest, paired, fresh seeds", reach=0.0)
    plain = of("remedy_plain", fresh=True)
    ends_of = {name: {s: last(c) for s, c in of(f"remedy_{name}", fresh=True).items()} for name in REMEDIES}
    ends_of["zero_shot"] = {s: known[last_word(tuple(e["arch"] for e in c["curve"]))][0] for s, c in plain.items()}
    for name, accuracies in ends_of.items():
        add(f"true_c10_remedy_{name}", list(accuracies.values()), "% accuracy of the cell at the end, random images")
        if name != "plain":
            paired = [value - last(plain[s]) for s, value in accuracies.items() if s in plain]
            add(f"remedy_gain_{name}", paired, "points on CIFAR-10 over the plain search, paired by seed")
    for arm in (*ARMS, "full_long"):
        cellsof = of(arm)
        add(f"true_c10_{arm}", [last(c) for c in cellsof.values()], "% accuracy of the cell at the end")
        add(f"seconds_{arm}", [c["seconds"] for c in cellsof.values()], "s")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ARCHSCOUT_DATA"), help="folder of real data")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no new cell after this many minutes")
    parser.add_argument("--arms", default=",".join(ARMS), help="only these arms")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="begin at this seed")
    parser.add_argument("--workers", type=int, default=2, help="searches at a time, one thread each")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path, default=HERE / "pieces" / "dds_search")
    parser.add_argument("--step", action="store_true", help="measure the seconds of a step of the full supernet")
    parser.add_argument("--memory", action="store_true", help="measure the peak memory of beginnings of searches")
    parser.add_argument(
        "--tiles", action="store_true", help="the main job on the magnetic tiles, arms full, dds, random"
    )
    parser.add_argument("--quick", action="store_true", help="a step of two arms on noise; a test of the script")
    parser.add_argument("--out", type=Path, help="default: results/dds_search.json, with cuda dds_search_cuda.json")
    args = parser.parse_args()
    where = "" if args.device == "cpu" else f" --device {args.device}"
    args.out = args.out or HERE / "results" / f"dds_search{'' if args.device == 'cpu' else '_cuda'}.json"
    if args.quick:
        quick(args.out)
        return
    if not args.data or not (args.data / "nas" / "nb201_accuracy.parquet").exists():
        raise SystemExit("the tables are absent: give --data FOLDER, which holds nas/ and images/")
    args.work.mkdir(parents=True, exist_ok=True)
    if not (args.work / "cifar10.npz").exists():
        cifar10(args.work, args.data)
    known = truth(args.data)
    before = json.loads(args.out.read_text()) if args.out.exists() else {}
    cells, steps = before.get("cells", {}), before.get("steps")
    remedies = ",".join(f"remedy_{name}" for name in REMEDIES)
    jobs = [
        (f"{arm}/{seed}", (arm, seed, str(args.work), str(args.data), args.device))
        for seed in range(args.first, args.seeds)
        for arm in args.arms.replace("remedies", remedies).split(",")
        if f"{arm}/{seed}" not in cells and (seed < STAGE_SEEDS or not arm.startswith("pdarts_"))
    ]

    def save() -> None:
        results_file.write(
            args.out, figures(cells, known, steps), command=f"python benchmarks/dds_search.py --data FOLDER{where}",
            settings={
                "supernet": "8 channels, one cell per stage" if args.device == "cpu" else "16 channels, five cells",
                "subset": SUBSET, "rounds": ROUNDS, "patience": PATIENCE, "full_epochs": FULL_EPOCHS,
                "search": repr(SETTINGS), "threads": 1, "searches_at_a_time": args.workers,
            },
            cells=cells, steps=steps, tuning=before.get("tuning", {}),
        )  # fmt: skip

    def done(key: str, cell: dict[str, Any]) -> None:
        cells[key] = cell
        end = cell["curve"][-1]
        print(key, f"{cell['seconds']:.0f} s", end["arch"], *known[end["arch"]], flush=True)
        save()

    if args.tiles:
        ends = time.monotonic() + 60 * args.minutes
        chosen = [arm for arm in ("dds", "full", "random") if arm in args.arms.split(",")]
        for key, arm, seed in ((f"tiles/{arm}/{seed}", arm, seed) for seed in range(args.seeds) for arm in chosen):
            if key not in cells and time.monotonic() < ends:
                cells[key] = tiles_cell(arm, seed, args.data)
                print(key, json.dumps(cells[key]), flush=True)
                save()
        return
    if args.memory:  # one at a time in a process of its own: the peak of a process never falls
        jobs = [
            (f"memory/{arm}/{seed}", (arm, seed, str(args.work), str(args.data), args.device, BEGINNING))
            for seed in range(args.seeds)
            for arm in ("full", "dds")
            if f"memory/{arm}/{seed}" not in cells
        ]
    if args.step:
        steps = step_samples()
        save()
        return
    run_cells(jobs, search, done, workers=args.workers, minutes=args.minutes)
    save()


def quick(out: Path) -> None:
    """A few steps on noise with and without a selector: that a search runs and the figures have their form."""
    draw = np.random.default_rng(0)
    part = Images(draw.integers(0, 255, (64, 32, 32, 3), dtype=np.uint8), np.arange(64) % 10)
    space = nasbench201(WHOLE, 10, channels=4, cells=1)
    cells, mean = {}, np.full(3, 120.0)
    for arm in ("full", "dds", "random"):
        make_one = None if arm == "full" else SELECTORS["random"]
        selector = make_one(part, size=32) if make_one else None
        found = darts(space, part, part, mean=mean, std=mean / 2, epochs=1, batch_size=16, selector=selector)
        curve = [{"epoch": e["epoch"], "seconds": e["seconds"], "arch": "cell"} for e in found.story.history]
        cells[f"{arm}/0"] = {"curve": curve, "seconds": found.story.seconds, "memory_mb": 1.0}
    results_file.write(out, figures_of_quick(cells), cells=cells)


def figures_of_quick(cells: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        results_file.figure(f"seconds_{key.partition('/')[0]}", [cell["seconds"]], "s") for key, cell in cells.items()
    ]


if __name__ == "__main__":
    main()
