"""How much the norm of the gradient would change with the weights."""

from __future__ import annotations

from collections.abc import Callable

from archscout.probe import NotDefined, Pass, Probe, Proxy, Quantity


def curvature(run: Pass) -> Callable[[], tuple[float, float]]:
    """(g' H w, g' g), g the gradient and H the second derivative of the objective by the weights w of all layers."""

    def finish() -> tuple[float, float]:
        pairs = [(w.gradient.double(), rate.gradient.double()) for w, rate in zip(run.gradients, run.rates, strict=True)]
        return sum(float((g * r).sum()) for g, r in pairs), sum(float((g * g).sum()) for g, _ in pairs)

    return finish


CURVATURE = (Quantity(curvature, derivative=True, reads=("gradients",), along=True), "batch0")


def grasp(probe: Probe) -> float:
    """Gradient signal preservation: -w' H g, the sum over all weights of -w (H g).

    w: weights of convolutions and linear layers; g, H: gradient and second derivative of the mean cross-entropy of one
    batch, batch normalisation in train mode. Computed exactly, as the change of g where all weights grow at the rate w.
    -w' H g is half the rate at which |g|^2 falls as all weights grow in proportion. A layer that batch normalisation
    follows counts with its own |g|^2, so the score is nearly the squared gradient norm, less what the layers without
    one (shortcuts, the classifier) take away. The paper removes weights of large -w (H g); the sign here is that of
    Abdelfattah et al., who find it to fit accuracy better. Either sign may come out.
    Wang et al. 2020, arXiv 2002.07376; summed over the network by Abdelfattah et al. 2021, arXiv 2101.08134.
    Data: one batch with labels. Larger is better. Scale: squared gradient. Cost: about two forwards and two backwards,
    and twice the memory of one. Fails at the top as `grad_norm` does, and in deep networks by its own noise: the last
    digits of float32 move it by .1 to 1 %, more where the gradient explodes.
    """
    value, square = probe[CURVATURE]
    if square == 0:
        raise NotDefined("every gradient is zero: the loss does not depend on the weights")
    return -value


PROXY = Proxy(
    grasp,
    (CURVATURE,),
    paper="Wang et al. 2020, arXiv 2002.07376; Abdelfattah et al. 2021, arXiv 2101.08134",
    cost="about two forwards, two backwards",
)
