"""Connection sensitivity."""

from __future__ import annotations

from archscout.probe import NotDefined, Probe, Proxy


def snip(probe: Probe) -> float:
    """How much the loss would change without single weights, to first order: sum |w * dL/dw|.

    w: weights of convolutions and linear layers; L: mean cross-entropy of one batch, batch normalisation in train mode.
    Lee et al. 2019, arXiv 1810.02340; summed over the network by Abdelfattah et al. 2021, arXiv 2101.08134.
    Data: one batch with labels. Larger is better. Scale: positive. Cost: one forward, one backward.
    Fails at the top as `grad_norm` does: under a limit its first choice is worse than a random network.
    """
    value = sum(float((weight.value * weight.gradient).double().abs().sum()) for weight in probe["gradients@batch0"])
    if value == 0:
        raise NotDefined("every gradient is zero: the loss does not depend on the weights")
    return value


PROXY = Proxy(
    snip,
    ("gradients@batch0",),
    paper="Lee et al. 2019, arXiv 1810.02340; Abdelfattah et al. 2021, arXiv 2101.08134",
    cost="one forward, one backward",
)
