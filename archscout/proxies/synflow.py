"""Synaptic flow: how much all paths through the network carry."""

from __future__ import annotations

import math

from archscout.probe import NotDefined, Probe, Proxy


def synflow(probe: Probe) -> float:
    """The logarithm of the synaptic flow: log sum |w * dR/dw|, R the sum of outputs for an image of ones.

    All parameters are replaced by their absolute values and normalisation layers are removed, so that R is the sum
    over all paths of the products of their weights; w: weights of convolutions and linear layers. The published score
    is the sum itself; its logarithm ranks the same and stays small (the sum reaches 1e20 and more).
    Tanaka et al. 2020, arXiv 2006.05467; as a proxy Abdelfattah et al. 2021, arXiv 2101.08134.
    Data: none. Larger is better. Scale: logarithm. Cost: one forward, one backward of one image in float64.
    Among single proxies the safest choice under a limit. Fails as a measure of anything but paths: it grows with width
    and depth like a soft parameter count, and says nothing about the data.
    """
    value = sum(float((weight.value * weight.gradient).abs().sum()) for weight in probe["gradients@ones"])
    if value == 0:
        raise NotDefined("no path leads from the input to the output")
    return math.log(value)


PROXY = Proxy(
    synflow,
    ("gradients@ones",),
    unit="log",
    paper="Tanaka et al. 2020, arXiv 2006.05467; Abdelfattah et al. 2021, arXiv 2101.08134",
    data="none",
    cost="one forward, one backward of one image in float64",
)
