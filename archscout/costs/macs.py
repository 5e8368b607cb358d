"""Multiply-adds for one image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archscout.costs.cost import Cost
from archscout.costs.trace import Trace

if TYPE_CHECKING:
    from archscout.devices.profile import Profile


def macs(trace: Trace, profile: Profile | None = None) -> float:
    """Multiply-adds of convolutions, linear layers and matrix products for one image; biases are not counted.

    A convolution has output height x output width x kernel height x kernel width x inputs x outputs / groups. Twice
    this is what torch.utils.flop_counter reports. It says little about time: depthwise convolutions are slow.
    """
    return float(trace.macs)


COST = Cost(macs, unit="")
