"""Sum of the layers' gradient norms."""

from __future__ import annotations

from archscout.probe import NotDefined, Probe, Proxy


def grad_norm(probe: Probe) -> float:
    """The sum over layers of the Euclidean norm of the loss gradient: sum_l ||dL/dw_l||_2.

    w_l: weights of convolutions and linear layers; L: mean cross-entropy of one batch, batch norms in train mode.
    Abdelfattah et al. 2021, arXiv 2101.08134. Data: one batch with labels. Larger is better. Scale: positive.
    Cost: one forward, one backward.
    Fails at the top: the network with the largest norm is often degenerate (on NAS-Bench-201 it reaches 82 %), so use
    it only together with others.
    """
    value = sum(float(weight.gradient.double().norm()) for weight in probe["gradients@batch0"])
    if value == 0:
        raise NotDefined("every gradient is zero: the loss does not depend on the weights")
    return value


PROXY = Proxy(
    grad_norm,
    ("gradients@batch0",),
    paper="Abdelfattah et al. 2021, arXiv 2101.08134",
    cost="one forward, one backward",
)
