"""How far the channels of each layer are from depending on each other linearly."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from archscout.probe import CONVOLUTIONS, NotDefined, Pass, Probe, Proxy, Quantity

IMAGES = 8
ROUNDING = 1e-9  # an eigenvalue of a correlation matrix below this is 0


def channel_spread(run: Pass) -> Callable[[], list[tuple[float, float]]]:
    """Per convolution, from its output for 8 images: two numbers of how its channels vary together over all places.

    The smallest eigenvalue of their correlation matrix (a constant channel correlates with nothing, itself included,
    so that it is 0), and the participation ratio (tr C)^2 / tr C^2 of their covariance matrix C, 0 if C is 0.
    """
    found: list[tuple[float, float]] = []

    def add(module: nn.Module, inputs: Any, output: Tensor) -> None:
        rows = output.detach()[:IMAGES].movedim(1, -1).flatten(0, -2).double()
        rows = rows - rows.mean(0)
        covariance = rows.T @ rows
        size = covariance.square().sum()
        if not torch.isfinite(size):
            found.append((math.nan, math.nan))
            return
        scale = torch.where(covariance.diagonal() > 0, covariance.diagonal(), math.inf).rsqrt()
        smallest = float(torch.linalg.eigvalsh(covariance * scale * scale[:, None])[0])
        ratio = float(covariance.trace().square() / size) if size > 0 else 0.0
        found.append((smallest if smallest > ROUNDING else 0.0, ratio))

    run.after(add, *CONVOLUTIONS)

    def finish() -> list[tuple[float, float]]:
        if not found:
            raise NotDefined("no convolution ran")
        return found

    return finish


SPREAD = (Quantity(channel_spread), "kaiming")


def meco(probe: Probe) -> float:
    """The sum over layers of the smallest eigenvalue of the correlation matrix of the layer's channels.

    Channels correlate over the places of 8 standard normal images; layers: convolutions (a batch normalisation behind
    one changes no correlation). Weights are drawn anew (normal, variance 2 / fan-in).
    Jiang et al. 2023, "MeCo", NeurIPS 2023, who read one random image of 64 x 64; 8 images of 32 x 32 have as many
    places twice over. Data: none. Larger is better. Scale: 0 to the number of layers. Cost: one forward of 32 images,
    which `expressivity` shares.
    Falls with width: more channels can only lower a smallest eigenvalue, and it is 0 where the channels outnumber the
    places or the inputs of a layer. So it ranks networks of one width, and wrongly across widths.
    """
    spread = [smallest for smallest, _ in probe[SPREAD]]
    if not all(map(math.isfinite, spread)):
        raise NotDefined("the output of a convolution is NaN or infinite")
    return sum(spread)


PROXY = Proxy(
    meco,
    (SPREAD,),
    paper="Jiang et al. 2023, MeCo (NeurIPS 2023)",
    data="none",
    cost="one forward of 32 images",
)
