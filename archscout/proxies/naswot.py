"""How differently the network's rectifiers switch on different images."""

from __future__ import annotations

import torch

from archscout.probe import NotDefined, Probe, Proxy


def naswot(probe: Probe) -> float:
    """The log-determinant of the kernel of activation patterns: log |K|, K_ij = units with the same sign on i and j.

    K = sum over rectifiers of X X' + (1 - X)(1 - X)', X = (input > 0) as (N, units). For ReLU and its relatives
    (ReLU6, LeakyReLU, PReLU, ELU, and GELU, SiLU, Mish, Hardswish with the same threshold).
    Mellor et al. 2021, arXiv 2006.04647. Data: one batch, no labels. Larger is better; grows with the number of units
    and with N, so compare only under one batch size. Scale: logarithm. Cost: one forward.
    Fails for networks without such modules, within groups of equally deep networks (where it can be negatively
    correlated with accuracy), and under a limit when used alone.
    """
    kernel = probe["relu_kernel@batch0"]
    if len(kernel) < 2:
        raise NotDefined("needs at least two images")
    sign, value = torch.linalg.slogdet(kernel)
    if float(sign) <= 0 or not torch.isfinite(value):
        raise NotDefined("the kernel is singular: some images switch every unit alike")
    return float(value)


PROXY = Proxy(
    naswot,
    ("relu_kernel@batch0",),
    unit="log",
    paper="Mellor et al. 2021, arXiv 2006.04647",
    data="images",
    cost="one forward",
)
