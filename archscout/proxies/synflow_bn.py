"""Synaptic flow with batch normalisation left in."""

from __future__ import annotations

import math

from archscout.probe import NotDefined, Probe, Proxy


def synflow_bn(probe: Probe) -> float:
    """The logarithm of the synaptic flow with normalisation left in: log sum |w * dR/dw|, R the sum of all outputs.

    All parameters are replaced by their absolute values; one image of ones; batch normalisation in train mode, with the
    statistics of that image; w: weights of convolutions and linear layers. The published score is the sum itself.
    Abdelfattah et al. 2021, arXiv 2101.08134 (the variant `synflow_bn` of the code), after Tanaka et al. 2020,
    arXiv 2006.05467. Data: none. Larger is better. Scale: logarithm. Cost: one forward, one backward of one image, in
    float64: normalisation keeps the values small, but what it divides by is the little that differs between the places
    of a constant image, and float32 loses digits there.
    Not a flow: with normalisation signs return, R is no sum over paths, and the layers that are normalised cancel but
    for the absolute value. For comparison; `synflow` is the measure. Undefined where a map has one place.
    """
    value = sum(float((weight.value * weight.gradient).abs().sum()) for weight in probe["gradients@ones_bn"])
    if value == 0:
        raise NotDefined("no path leads from the input to the output")
    return math.log(value)


PROXY = Proxy(
    synflow_bn,
    ("gradients@ones_bn",),
    unit="log",
    paper="Abdelfattah et al. 2021, arXiv 2101.08134; Tanaka et al. 2020, arXiv 2006.05467",
    data="none",
    cost="one forward, one backward of one image in float64",
)
