"""How much the norm of the gradient would change with the weights."""

from __future__ import annotations

from collections.abc import Callable

from archscout.probe import NotDefined, Pass, Probe, Proxy, Quantity


def curvature(run: Pass) -> Callable[[], tuple[float, float]]:
    """(g' H w, g' g), g the gradient and H the second derivative of the objective by the weights w of all layers."""

    def finish() -> tuple[float, float]:
        both = zip(run.gradients, run.rates, strict=True)
        pairs = [(weight.gradient.double(), rate.gradient.double()) for weight, rate in both]
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
    Data: one batch with labels. Larger is better. Scale: squared gradient. Cost: 2.7 times a forward and backward, one
    of which the proxies of the same batch share, and 2.5 times their memory.
    Fails at the top as `grad_norm` does, and in deep networks by noise. In float32 a rectifier or two switch otherwise
    than in float64, which moves the score of a NAS-Bench-201 network by .1 to 1 %, and by half where the gradient
    explodes; other weights move it far more (rank correlation between two draws of the weights .5).
    """
    value, square = probe[CURVATURE]
    if square == 0:
        raise NotDefined("every gradient is zero: the loss does not depend on the weights")
    return -value


PROXY = Proxy(
    grasp,
    (CURVATURE,),
    paper="Wang et al. 2020, arXiv 2002.07376; Abdelfattah et al. 2021, arXiv 2101.08134",
    cost="as much as 2.7 forwards and backwards",
)
