"""Bytes of weights and of live activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archscout.costs.cost import Cost
from archscout.costs.trace import Trace

if TYPE_CHECKING:
    from archscout.devices.profile import Profile


def memory(trace: Trace, profile: Profile | None = None) -> float:
    """Bytes of fp32 weights (parameters and buffers) plus the largest sum of live activations, for one image.

    What a network itself needs at inference; the runtime and its scratch memory come on top.
    """
    return float(trace.weight_bytes + trace.peak_activation_bytes)


COST = Cost(memory, unit="bytes")
