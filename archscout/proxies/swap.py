"""How many different ways the network's rectifiers switch over a few images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn

from archscout.probe import RECTIFIERS, NotDefined, Pass, Probe, Proxy, Quantity

IMAGES = 32


def switch_patterns(run: Pass) -> Callable[[], int]:
    """The number of distinct columns of X, X (N, units): whether a unit is on for each of the first 32 images.

    A column is one 32-bit number, of which one per unit is kept.
    """
    found: list[np.ndarray] = []

    def add(module: nn.Module, inputs: Any, output: Tensor) -> None:
        on = output.detach()[:IMAGES].gt(0).movedim(1, -1).flatten(1).cpu().numpy()
        packed = np.zeros((4, on.shape[1]), dtype=np.uint8)
        packed[: -(-len(on) // 8)] = np.packbits(on, axis=0)
        found.append(packed.T.copy().view(np.uint32).ravel())

    run.after(add, *RECTIFIERS)

    def finish() -> int:
        if not found:
            raise NotDefined("no ReLU module ran (a functional relu is not seen: use nn.ReLU)")
        codes = np.sort(np.concatenate(found))
        return 1 + int(np.count_nonzero(codes[1:] != codes[:-1]))

    return finish


PATTERNS = (Quantity(switch_patterns), "batch0")


def swap(probe: Probe) -> float:
    """The number of distinct sample-wise activation patterns: of the columns of X, X_nu = whether unit u is on for n.

    u: every value of every rectifier's output (the modules that `naswot` reads); n: the first 32 images of the batch.
    Peng et al. 2024, arXiv 2403.04161. Data: one batch, no labels. Larger is better. Scale: counts, at most the number
    of units and 2^N. Cost: one forward, and a sort of the units.
    Says nothing with fewer than about 16 images, where all 2^N patterns occur, and with very many, where no two units
    are alike and it counts them. Fails within groups of equally deep networks as `naswot` does. The paper's
    regularised form is `reg_swap(target, width)` of this file.
    """
    if min(IMAGES, len(probe.batches[0][0])) < 2:
        raise NotDefined("needs at least two images")
    return float(probe[PATTERNS])


def reg_swap(target: float, width: float) -> Proxy:
    """A proxy: `swap` times exp(-(params - target)^2 / width), which prefers networks of a size that you choose.

    target: parameters; width: parameters squared. Peng et al. 2024, arXiv 2403.04161, choose both for each search space
    knowing which sizes do well there: with their numbers it is no longer zero-shot, so it has none of its own.
    """

    def reg_swap(probe: Probe) -> float:
        return swap(probe) * math.exp(-((probe.trace.params - target) ** 2) / width)

    return Proxy(reg_swap, (PATTERNS,), paper="Peng et al. 2024, arXiv 2403.04161", data="images", cost="one forward")


PROXY = Proxy(swap, (PATTERNS,), "max", "patterns", "Peng et al. 2024, arXiv 2403.04161", "images", "one forward")
