"""Sum of the layers' weight norms."""

from __future__ import annotations

import math

from archscout.probe import NotDefined, Probe, Proxy, layer_weights


def l2_norm(probe: Probe) -> float:
    """The sum over layers of the Euclidean norm of the weights: sum_l ||w_l||_2.

    w_l: weights of convolutions and linear layers, each tensor once; no biases, no normalisation.
    Abdelfattah et al. 2021, arXiv 2101.08134 (a baseline of the code).
    Data: none. Larger is better. Scale: positive. Cost: none (no pass).
    A count in disguise: under PyTorch's initialisation the norm of a layer is about the square root of a third of its
    outputs, whatever its kernel, so the score counts layers weighted by width and the rest is the draw of the weights.
    Fails like `params`; says nothing where all networks are equally deep and wide.
    """
    weights = layer_weights(probe.model).values()
    if not weights:
        raise NotDefined("the network has no convolution or linear layer")
    value = sum(float(weight.detach().double().norm()) for weight in weights)
    if not math.isfinite(value):
        raise NotDefined("a weight is NaN or infinite")
    return value


PROXY = Proxy(l2_norm, (), paper="Abdelfattah et al. 2021, arXiv 2101.08134", data="none", cost="none")
