"""How differently the network reacts to different images."""

from __future__ import annotations

import torch

from archscout.probe import NotDefined, Probe, Proxy

EPSILON = 1e-5


def input_correlations(probe: Probe) -> torch.Tensor:
    """(N, N) float64: how the derivatives of the sum of all outputs by each image correlate between images."""
    rows = probe["input_gradient@batch0"].flatten(1).double()
    if len(rows) < 2:
        raise NotDefined("needs at least two images")
    rows = rows - rows.mean(1, keepdim=True)
    norms = rows.norm(dim=1, keepdim=True)
    if not (torch.isfinite(norms).all() and (norms > 0).all()):
        raise NotDefined("the input gradient of an image is constant, NaN or infinite, so it correlates with nothing")
    rows = rows / norms
    return rows @ rows.T


def jacob_cov(probe: Probe) -> float:
    """How uncorrelated the input gradients of different images are: -sum_i [log(v_i + k) + 1 / (v_i + k)], k = 1e-5.

    v: eigenvalues of the (N, N) correlation matrix of the rows of J, J_n = derivative of the sum of all outputs by
    image n, batch normalisation in train mode. At most -N, which it reaches where the gradients are uncorrelated.
    Mellor et al. 2020, arXiv 2006.04647v1; Abdelfattah et al. 2021, arXiv 2101.08134.
    Data: one batch, no labels. Larger is better. Scale: negative, down to about -1e5 N; compare only under one batch
    size. Cost: one forward, one backward to the input.
    Says something else than the counts do and so combines well with them. Alone it can prefer networks that are too
    small; undefined where an image has a constant gradient.
    """
    correlations = input_correlations(probe)
    values = torch.linalg.eigvalsh(correlations).clamp_min(0) + EPSILON
    return -float((values.log() + 1 / values).sum())


PROXY = Proxy(
    jacob_cov,
    ("input_gradient@batch0",),
    paper="Mellor et al. 2020, arXiv 2006.04647v1; Abdelfattah et al. 2021, arXiv 2101.08134",
    data="images",
    cost="one forward, one backward to the input",
)
