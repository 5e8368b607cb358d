"""Bytes of weights at int8."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archscout.costs.cost import Cost
from archscout.costs.trace import Trace

if TYPE_CHECKING:
    from archscout.devices.profile import Profile


def flash_int8(trace: Trace, profile: Profile | None = None) -> float:
    """Bytes of weights at int8: one for each weight, and a 32-bit bias and scale for each output channel.

    Each weight counts once. The code of the runtime and the description of the graph come on top.
    """
    return float(trace.flash_int8_bytes)


COST = Cost(flash_int8, unit="bytes")
