"""How much the blocks' outputs gain from one block to the next."""

from __future__ import annotations

from itertools import pairwise

from archscout.blocks import ENTROPIES
from archscout.probe import Probe, Proxy


def progressivity(probe: Probe) -> float:
    """The smallest gain in isotropy from one block to the next: min_l (s_l - s_(l-1)).

    s_l: entropy of the spectrum of block l's output, as in `expressivity`; s_0 is that of the map that enters the first
    block. Weights are drawn anew (normal, variance 2 / fan-in), the images are 32 of standard normal noise, batch
    normalisation is in train mode. Lee & Ham 2024, arXiv 2403.19232.
    Data: none. Larger is better. Scale: nats, usually negative.
    Cost: one forward, shared with `expressivity`.
    Reads one block, the worst, so it is the noisiest of its family. Undefined where a block's output is constant.
    """
    return min(after - before for before, after in pairwise(probe[ENTROPIES]))


PROXY = Proxy(
    progressivity,
    (ENTROPIES,),
    unit="nats",
    paper="Lee & Ham 2024, arXiv 2403.19232",
    data="none",
    cost="one forward of 32 images",
)
