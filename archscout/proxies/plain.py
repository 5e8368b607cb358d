"""The slope of the loss along the weights."""

from __future__ import annotations

from archscout.probe import NotDefined, Probe, Proxy


def plain(probe: Probe) -> float:
    """How fast the loss grows as all weights grow in proportion: sum w * dL/dw, with signs.

    w: weights of convolutions and linear layers; L: mean cross-entropy of one batch, batch normalisation in train mode.
    A layer that batch normalisation follows adds nothing (its scale does not matter), so on networks full of it the
    score is that of the classifier and the shortcuts alone.
    Abdelfattah et al. 2021, arXiv 2101.08134 (the baseline `plain` of its code).
    Data: one batch with labels. Larger is better as published. Scale: loss. Cost: one forward, one backward.
    For comparison only: on NAS-Bench-201 the published scores rank against accuracy (rank correlation -.35).
    """
    pairs = [(weight.value.double(), weight.gradient.double()) for weight in probe["gradients@batch0"]]
    if not any(gradient.any() for _, gradient in pairs):
        raise NotDefined("every gradient is zero: the loss does not depend on the weights")
    return sum(float((value * gradient).sum()) for value, gradient in pairs)


PROXY = Proxy(
    plain,
    ("gradients@batch0",),
    paper="Abdelfattah et al. 2021, arXiv 2101.08134",
    cost="one forward, one backward",
)
