"""Bytes of live activations at int8."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archscout.costs.cost import Cost
from archscout.costs.trace import Trace

if TYPE_CHECKING:
    from archscout.devices.profile import Profile


def ram_int8(trace: Trace, profile: Profile | None = None) -> float:
    """Bytes of activations that are alive at once when a network runs in int8: the RAM of a microcontroller.

    Liveness over the whole graph, a byte a number, normalisations and activations folded; see
    `archscout.costs.trace.trace`. The runtime with its buffers comes on top (tens of kilobytes for a microcontroller).
    """
    return float(trace.ram_int8_bytes)


COST = Cost(ram_int8, unit="bytes")
