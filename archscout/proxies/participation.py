"""How many directions the channels of each layer vary in."""

from __future__ import annotations

import math

from archscout.probe import NotDefined, Probe, Proxy
from archscout.proxies.meco import SPREAD


def participation(probe: Probe) -> float:
    """The logarithms of the participation ratios of the layers, summed: sum_l log((tr C_l)^2 / tr C_l^2).

    C_l: (channels, channels) covariance of the output of convolution l over the places of 8 standard normal images;
    its ratio is 1 where the channels vary along one line and the number of channels where all are alike and unrelated.
    Layers of constant output are left out. Weights are drawn anew (normal, variance 2 / fan-in).
    It is the geometric half of the score of Zhou et al. 2026, arXiv 2606.18676 (InTrain).
    Data: none. Larger is better. Scale: logarithm, at most log C per layer, so it grows with depth and width.
    Cost: one forward of 32 images, which `expressivity` and `meco` share.
    Reads what `expressivity` reads, layer by layer, with more weight on the largest direction, and counts layers more.
    """
    ratios = [ratio for _, ratio in probe[SPREAD]]
    if not all(map(math.isfinite, ratios)) or not any(ratios):
        raise NotDefined("the output of every convolution is constant, or one is NaN or infinite")
    return sum(math.log(ratio) for ratio in ratios if ratio > 0)


PROXY = Proxy(
    participation,
    (SPREAD,),
    unit="log",
    paper="Zhou et al. 2026, arXiv 2606.18676",
    data="none",
    cost="one forward of 32 images",
)
