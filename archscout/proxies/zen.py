"""How much the features move when Gaussian noise moves a little."""

from __future__ import annotations

import math

from archscout.probe import NotDefined, Probe, Proxy


def zen(probe: Probe) -> float:
    """The Zen-score: log mean_n ||f(x_n) - f(x_n + 0.01 e_n)||_1 + sum over batch norms of log sqrt(mean_c var_c).

    f: features before global pooling (map or tokens) under N(0, 1) weights; x, e: 16 standard normal images;
    var_c: variance of channel c at the input of a batch normalisation, which gives back the scale that it removes.
    Without batch normalisation the second sum is empty and the first term is the whole score.
    Lin et al. 2021, arXiv 2102.01063. The variance is that of the batch itself, where the released code reads the
    running average. Data: none. Larger is better. Scale: logarithm. Cost: two forwards of
    16 images (on NAS-Bench-201 cells 16 and 32 images rank alike, Spearman .995).
    Made for chains of convolutions: compare it within one family of depths and widths. Fails between cells of
    different wiring (rank correlation with accuracy .1 to .4 on NAS-Bench-201), and grows with depth.
    """
    moved = probe["features@noise"] - probe["features@noise1"]
    distance = float(moved.double().flatten(1).abs().sum(1).mean())
    if not math.isfinite(distance) or distance <= 0:
        raise NotDefined(f"the features move by {distance}: they overflow, or do not depend on the input")
    scales = [float(variance.double().mean()) for variance in probe["norm_variances@noise"]]
    if not all(math.isfinite(scale) for scale in scales):
        raise NotDefined("the input of a batch normalisation overflows")
    # A norm whose input is constant (a zeroed branch) removes no scale, so it has none to give back.
    return math.log(distance) + sum(0.5 * math.log(scale) for scale in scales if scale > 0)


PROXY = Proxy(
    zen,
    ("features@noise", "features@noise1", "norm_variances@noise"),
    unit="log",
    paper="Lin et al. 2021, arXiv 2102.01063",
    data="none",
    cost="two forwards of 16 images",
)
