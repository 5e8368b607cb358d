"""How well each block keeps the length of a gradient."""

from __future__ import annotations

from archscout.blocks import JACOBIANS
from archscout.probe import Probe, Proxy


def trainability(probe: Probe) -> float:
    """How close the blocks' Jacobians are to keeping lengths: mean_l (2 - s_l - 1 / s_l).

    s_l: largest singular value of the mean Jacobian of block l, estimated from the gradient that random signs at its
    output send to its input (see archscout.blocks.block_jacobians); blocks: archscout.blocks.blocks_of, without the
    stem. Weights are drawn anew (normal, variance 2 / fan-in), the images are 32 of standard normal noise, batch
    normalisation is in train mode. Lee & Ham 2024, arXiv 2403.19232.
    Data: none. Larger is better. Scale: at most 0, which is s = 1 everywhere.
    Cost: one forward, one backward, block by block.
    The estimate errs by about sqrt(C / (N H W)) of the gradient's size, which raises s where few images give small
    maps. Undefined where a block passes no gradient, and where one passes its input on unchanged (as in the paper,
    where such a network comes last).
    """
    norms = probe[JACOBIANS]
    return sum(2 - s - 1 / s for s in norms) / len(norms)


PROXY = Proxy(
    trainability,
    (JACOBIANS,),
    paper="Lee & Ham 2024, arXiv 2403.19232",
    data="none",
    cost="one forward, one backward of 32 images",
)
