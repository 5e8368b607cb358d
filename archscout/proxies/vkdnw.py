"""How evenly the network's weights matter to its output."""

from __future__ import annotations

import torch

from archscout.information import FISHER
from archscout.probe import NotDefined, Probe, Proxy


def vkdnw(probe: Probe) -> float:
    """The entropy of the deciles of the Fisher spectrum: -sum_k q_k log q_k, q_k = d_k / sum_j d_j, k = 1..9.

    d_k: k-th decile of the eigenvalues of the Fisher information of one random weight per convolution and linear layer
    (at most 128; see archscout.information). Weights are drawn anew (normal, variance 2 / fan-in), the images are 16 of
    standard normal noise, and batch normalisation uses their statistics as constants.
    Tybl & Neumann 2025, arXiv 2502.04975, who add the number of layers to make one score of it (see `layers`), and who
    leave batch normalisation at its initial statistics; in deep residual cells that saturates the softmax.
    Data: none. Larger is better. Scale: nats, at most log 9. Cost: one forward, and one backward per class, at most
    ten, all of 16 images.
    Blind to size by design, so use it with a count. Drawing other weights changes ranks (Spearman .81 between two draws
    on 60 cells of NAS-Bench-201). Undefined for fewer than two layers and where no weight matters.
    """
    values = torch.linalg.eigvalsh(probe[FISHER]).clamp_min(0)
    deciles = torch.quantile(values, torch.arange(1, 10, dtype=torch.float64) / 10)
    if not 0 < float(deciles.sum()) < float("inf"):
        raise NotDefined("the logits depend on none of the sampled weights, or the softmax is saturated")
    return float(torch.special.entr(deciles / deciles.sum()).sum())


PROXY = Proxy(
    vkdnw,
    (FISHER,),
    unit="nats",
    paper="Tybl & Neumann 2025, arXiv 2502.04975",
    data="none",
    cost="one forward, a backward per class (at most ten) of 16 images",
)
