"""Diversity of the attention weights and saliency of all others, for transformers."""

from __future__ import annotations

import math

import torch
from torch import nn

from archscout.probe import NotDefined, Probe, Proxy


def dss(probe: Probe) -> float:
    """The DSS indicator: sum over attention projections of ||dR/dW||_* ||W||_*, plus sum |W * dR/dW| over the others.

    R: sum of the outputs for one image of ones, with the absolute values of all parameters; normalisation layers stay.
    Attention projections are the linear layers in modules whose class is named ...Attention... and that count heads, a
    packed query-key-value layer being one; the others are convolutions and linear layers: patch embedding, MLPs, head.
    ||.||_* is the sum of the singular values. Low values mean that attention has collapsed to few directions.
    Zhou et al. 2022, "Training-free Transformer Architecture Search", arXiv 2203.12217.
    Data: none. Larger is better. Scale: positive; grows with depth and width, so it is also a soft parameter count.
    Cost: one forward, one backward of one image in float64, and two singular value decompositions per projection.
    Fails for networks without attention (no score), and between networks that pack their projections differently.
    """
    inside = projections(probe.model)
    if not inside:
        raise NotDefined("the network has no attention (no module named ...Attention... that counts heads)")
    value = 0.0
    for weight in probe["gradients@positive"]:
        if weight.name in inside:
            value += nuclear(weight.gradient) * nuclear(weight.value)
        else:
            value += float((weight.value * weight.gradient).abs().sum())
    if value == 0 or not math.isfinite(value):
        raise NotDefined(f"the indicator is {value}: the gradients vanish (is the last layer zero?) or overflow")
    return value


def projections(model: nn.Module) -> set[str]:
    """The names of the weights of all linear layers, packed ones too, in the attention modules of a network."""
    found = set()
    for name, module in model.named_modules():
        counts_heads = any("heads" in attribute for part in module.modules() for attribute in vars(part))
        if "attention" in type(module).__name__.lower() and counts_heads:
            for path, part in module.named_modules(prefix=name):
                if isinstance(part, nn.Linear):
                    found.add(f"{path}.weight")
                elif isinstance(part, nn.MultiheadAttention):
                    found.add(f"{path}.in_proj_weight")
    return found


def nuclear(matrix: torch.Tensor) -> float:
    """The sum of the singular values."""
    return float(torch.linalg.svdvals(matrix).sum())


PROXY = Proxy(
    dss,
    ("gradients@positive",),
    paper="Zhou et al. 2022, arXiv 2203.12217",
    data="none",
    cost="one forward, one backward of one image in float64, two SVDs per attention projection",
)
