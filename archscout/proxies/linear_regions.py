"""How many linear pieces the network has along a line."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from archscout.probe import RECTIFIERS, NotDefined, Pass, Probe, Proxy, Quantity


def switches(run: Pass) -> Callable[[], int]:
    """How often a rectifier unit switches on or off from one image of the batch to the next."""
    count, seen = 0, False

    def add(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal count, seen
        on = output.detach().gt(0)
        count, seen = count + int((on[1:] != on[:-1]).sum()), True

    run.after(add, *RECTIFIERS)

    def finish() -> int:
        if not seen:
            raise NotDefined("no ReLU module ran (a functional relu is not seen: use nn.ReLU)")
        return count

    return finish


SWITCHES = (Quantity(switches), "arc")


def linear_regions(probe: Probe) -> float:
    """The logarithm of the number of boundaries of linear regions that an arc through the input space crosses.

    Counted as the switches of rectifier units (the modules that `naswot` reads) between 32 neighbouring points on the
    quarter circle from one standard normal image to another; a unit that switches twice in a step is missed. Weights
    are drawn anew (normal, variance 2 / fan-in); batch normalisation has the statistics of other noise, as constants.
    After Hanin & Rolnick 2019, arXiv 1901.09021, who count along lines. Chen et al. 2021, arXiv 2102.11535 (TE-NAS)
    count the distinct patterns of thousands of 3 x 3 crops in a thinned network instead; in a network as it is every
    image has a pattern of its own, and that count says nothing.
    Data: none. Larger is better. Scale: logarithm, so it grows with the number of units. Cost: two forwards, of 16 and
    of 32 images. Undefined without rectifiers, and where none switches.
    """
    count = probe[SWITCHES]
    if not count:
        raise NotDefined("no unit switches")
    return math.log(count)


PROXY = Proxy(
    linear_regions,
    (SWITCHES,),
    unit="log",
    paper="Hanin & Rolnick 2019, arXiv 1901.09021; see Chen et al. 2021, arXiv 2102.11535",
    data="none",
    cost="two forwards, of 16 and 32 images",
)
