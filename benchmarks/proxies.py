"""The time of eight published measures: shared passes against one textbook pass for each, in the same run.

    python benchmarks/proxies.py [--repeats 5] [--quick]

Networks are NAS-Bench-201 cells of three sizes (16 channels, 5 cells a stage) on batches of 64 random images of
3 x 32 x 32, on all cores. Per repeat and cell, one after the other: `archscout.score` with grad_norm, snip, grasp,
fisher, jacob_cov, plain, synflow and synflow_bn; the same without grasp; and the eight measures each for itself as
their formulas read: a fresh deep copy in plain layout, a forward, a backward (two for grasp), nothing shared.
`eight_measures_seconds` and `seven_measures_seconds` are means over the three cells.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent))
import results_file

from archscout.scoring import score
from archscout.spaces.nasbench201 import nasbench201

HERE = Path(__file__).resolve().parent
EIGHT = ("grad_norm", "snip", "grasp", "fisher", "jacob_cov", "plain", "synflow", "synflow_bn")
CELLS = {
    "small": "|skip_connect~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_1x1~2|",
    "middle": "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|none~0|nor_conv_3x3~1|avg_pool_3x3~2|",
    "large": "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|",
}


def layers(model: nn.Module) -> list[nn.Parameter]:
    return [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def backward(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(F.cross_entropy(model(x), y), layers(model)))


def grad_norm(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    return sum(float(g.norm()) for g in backward(model, x, y))


def snip(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    return sum(float((g * w).abs().sum()) for g, w in zip(backward(model, x, y), layers(model), strict=True))


def plain(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    return sum(float((g * w).sum()) for g, w in zip(backward(model, x, y), layers(model), strict=True))


def grasp(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    weights = layers(model)
    first = torch.autograd.grad(F.cross_entropy(model(x), y), weights)
    again = torch.autograd.grad(F.cross_entropy(model(x), y), weights, create_graph=True)
    second = torch.autograd.grad(sum((a * g).sum() for a, g in zip(again, first, strict=True)), weights)
    return -sum(float((w * h).sum()) for w, h in zip(weights, second, strict=True))


def fisher(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    outputs: list[torch.Tensor] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda m, i, o: outputs.append(o))
    gradients = torch.autograd.grad(F.cross_entropy(model(x), y), outputs)
    found = [(a * g).flatten(2).sum(2) if a.ndim == 4 else a * g for a, g in zip(outputs, gradients, strict=True)]
    return sum(float(each.square().mean(0).sum()) / 2 for each in found)


def jacob_cov(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    x = x.clone().requires_grad_(True)
    (jacobian,) = torch.autograd.grad(model(x).sum(), [x])
    values = np.linalg.eigvalsh(np.corrcoef(jacobian.flatten(1).numpy())) + 1e-5
    return -float((np.log(values) + 1 / values).sum())


def flow(model: nn.Module, x: torch.Tensor, normalised: bool) -> float:
    model = model.double()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and not normalised:
                setattr(parent, name, nn.Identity())
    with torch.no_grad():
        for p in model.parameters():
            p.abs_()
    weights = layers(model)
    ones = torch.ones(1, *x.shape[1:], dtype=torch.float64)
    gradients = torch.autograd.grad(model(ones).sum(), weights)
    return float(sum((g * w).abs().sum() for g, w in zip(gradients, weights, strict=True)))


def synflow(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    return flow(model, x, False)


def synflow_bn(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    return flow(model, x, True)


TEXTBOOK: dict[str, Callable[[nn.Module, torch.Tensor, torch.Tensor], float]] = {
    "grad_norm": grad_norm, "snip": snip, "grasp": grasp, "fisher": fisher, "jacob_cov": jacob_cov, "plain": plain,
    "synflow": synflow, "synflow_bn": synflow_bn,
}  # fmt: skip


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=1e9, help="start no new repeat after this many minutes")
    parser.add_argument("--quick", action="store_true", help="one repeat of the small cell; a test of the script")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "proxies.json")
    args = parser.parse_args()
    ends = time.monotonic() + 60 * args.minutes
    cells = {"small": CELLS["small"]} if args.quick else CELLS
    space = nasbench201((3, 32, 32), 10)
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 3, 32, 32, generator=draw), torch.randint(10, (64,), generator=draw)
    spent: dict[str, list[float]] = {}
    for repeat in range(1 if args.quick else args.repeats + 1):
        if repeat and time.monotonic() > ends:
            break
        for name, text in cells.items():
            torch.manual_seed(repeat)
            model = space.build(space.parse(text)).train()
            taken = {
                "forward_backward": seconds(lambda m=model: backward(m, x, y)),
                "eight": seconds(lambda m=model: score(m, x, y, proxies=EIGHT)),
                "seven": seconds(lambda m=model: score(m, x, y, proxies=[p for p in EIGHT if p != "grasp"])),
                "separate": sum(
                    seconds(lambda m=model, f=measure: f(copy.deepcopy(m), x, y)) for measure in TEXTBOOK.values()
                ),
            }
            if repeat or args.quick:  # the first one warms up
                for kind, value in taken.items():
                    spent.setdefault(f"{kind} {name}", []).append(value)
    per = {
        kind: np.mean([spent[f"{kind} {name}"] for name in cells], axis=0) for kind in ("eight", "seven", "separate")
    }
    known = "4.8 to 7.9 s a cell in the reference code, each measure run for itself"
    figures = [
        results_file.figure("eight_measures_seconds", per["eight"], "s, mean of three cells", known=known, reach=0.63),
        results_file.figure("seven_measures_seconds", per["seven"], "s, mean of three cells"),
        results_file.figure("separate_over_shared", per["separate"] / per["eight"], "ratio"),
        *(
            results_file.figure(f"{kind}_seconds_{name}", spent[f"{kind} {name}"], "s")
            for kind in ("eight", "seven", "separate", "forward_backward")
            for name in cells
        ),
    ]
    results_file.write(args.out, figures, threads=torch.get_num_threads(), cells=cells)
    for each in figures:
        print(f"{each['name']:32s} {each['value']:.3f} ({each['low']:.3f} to {each['high']:.3f}), n = {each['n']}")


if __name__ == "__main__":
    main()
