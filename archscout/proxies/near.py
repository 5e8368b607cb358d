"""How many directions the layers' activations really use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from archscout.probe import CONVOLUTIONS, RECTIFIERS, NotDefined, Pass, Probe, Proxy, Quantity

SIDE = 256


def activation_ranks(run: Pass) -> Callable[[], float]:
    """The sum of the effective ranks of square matrices of activations, one per convolution, linear layer, rectifier.

    Such a matrix has as many rows, places drawn at random over all images, as columns, the channels (256 of them drawn
    at random where there are more). Its effective rank is exp(-sum_i s_i log s_i), s its singular values over their
    sum.
    """
    found: dict[torch.Size, list[Tensor]] = {}
    draw = torch.Generator().manual_seed(torch.initial_seed())

    def add(module: nn.Module, inputs: Any, output: Tensor) -> None:
        axis = -1 if isinstance(module, nn.Linear) or output.ndim < 4 else 1
        rows = output.detach().movedim(axis, -1).flatten(0, -2)
        side = min(SIDE, rows.shape[1])
        if rows.shape[1] > side:
            rows = rows[:, torch.randperm(rows.shape[1], generator=draw)[:side].to(rows.device)]
        if len(rows) > side:
            rows = rows[torch.randint(len(rows), (side,), generator=draw).to(rows.device)]
        matrix = rows.double()
        found.setdefault(matrix.shape, []).append(matrix @ matrix.T if len(rows) < side else matrix.T @ matrix)

    run.after(add, *CONVOLUTIONS, nn.Linear, *RECTIFIERS)

    def finish() -> float:
        total = 0.0
        for group in found.values():
            values = torch.linalg.eigvalsh(torch.stack(group)).clamp_min(0).sqrt()
            sums = values.sum(1, keepdim=True)
            ranks = torch.special.entr(values / sums.clamp_min(1e-300)).sum(1).exp()
            total += float(ranks[sums[:, 0] > 0].sum())
        if not total > 0:
            raise NotDefined("no layer has an activation that is not zero")
        return total

    return finish


RANKS = (Quantity(activation_ranks), "batch0")


def near(probe: Probe) -> float:
    """The sum of effective ranks of the activations: sum_l erank(Z_l) + erank(H_l), erank = exp(entropy of s / sum s).

    Z_l, H_l: what layer l (convolution or linear) and each rectifier (the modules of `naswot`) put out, as matrices of
    places by channels, of which a square part is drawn; s: singular values.
    Husistein et al. 2024, arXiv 2408.08776, who average 32 draws; this is one, over all layers.
    Data: one batch, no labels. Larger is better. Scale: 0 to the number of channels of all layers, so it grows with
    depth and width. Cost: one forward.
    The network's own weights count: with another initialisation it is another score. Layers with one place per image
    (linear ones) have at most as many rows as there are images.
    """
    if len(probe.batches[0][0]) < 2:
        raise NotDefined("needs at least two images")
    return float(probe[RANKS])


PROXY = Proxy(near, (RANKS,), paper="Husistein et al. 2024, arXiv 2408.08776", data="images", cost="one forward")
