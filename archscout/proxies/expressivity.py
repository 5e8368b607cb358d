"""How evenly each block's output uses its channels."""

from __future__ import annotations

from archscout.blocks import ENTROPIES
from archscout.probe import Probe, Proxy


def expressivity(probe: Probe) -> float:
    """The isotropy of the blocks' outputs: sum_l -sum_c p_lc log p_lc.

    p_l: eigenvalues of the (C, C) covariance of the channels of block l's output, over all images and places, divided
    by their sum; blocks: see archscout.blocks.blocks_of, without the stem. Weights are drawn anew (normal, variance
    2 / fan-in), the images are 32 of standard normal noise, batch normalisation is in train mode.
    Lee & Ham 2024, arXiv 2403.19232, where it is one of four terms; see `progressivity`, `trainability` and, for the
    complexity, `flops`. Data: none. Larger is better. Scale: nats, at most log
    C per block, so it grows with the number of blocks and with width. Cost: one forward.
    Undefined where a block's output is constant. Small maps of few images bound it by the logarithm of their number.
    """
    return sum(probe[ENTROPIES][1:])


PROXY = Proxy(
    expressivity,
    (ENTROPIES,),
    unit="nats",
    paper="Lee & Ham 2024, arXiv 2403.19232",
    data="none",
    cost="one forward of 32 images",
)
