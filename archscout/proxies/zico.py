"""How stable the gradient is from batch to batch."""

from __future__ import annotations

import math

import torch

from archscout.probe import NotDefined, Probe, Proxy


def zico(probe: Probe) -> float:
    """The inverse coefficient of variation of gradients: sum_l log sum_w mean_i |g_w,i| / std_i g_w,i.

    g_w,i: gradient of the mean cross-entropy of batch i by weight w of layer l (convolutions and linear layers, batch
    normalisation in train mode), two batches, std with divisor 2. Weights with std 0 and layers without others are
    left out. Li et al. 2023, arXiv 2301.11300.
    Data: two batches with labels. Larger is better. Scale: sum of logarithms, so it grows with the number of layers.
    Cost: two forwards, two backwards; more batches were not better in the paper.
    Fails with one batch (undefined) and with two equal ones (no variation).
    """
    value, counted = 0.0, 0
    for first, second in zip(probe["gradients@batch0"], probe["gradients@batch1"], strict=True):
        spread = (first.gradient - second.gradient).abs().double() / 2
        level = (first.gradient.abs() + second.gradient.abs()).double() / 2
        ratio = float(torch.where(spread > 0, level / spread, 0).sum())
        if ratio > 0:
            value, counted = value + math.log(ratio), counted + 1
    if not counted:
        raise NotDefined("no gradient differs between the two batches")
    return value


PROXY = Proxy(
    zico,
    ("gradients@batch0", "gradients@batch1"),
    paper="Li et al. 2023, arXiv 2301.11300",
    cost="two forwards, two backwards",
)
