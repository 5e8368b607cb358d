"""Count of trainable numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archscout.costs.cost import Cost
from archscout.costs.trace import Trace

if TYPE_CHECKING:
    from archscout.devices.profile import Profile


def params(trace: Trace, profile: Profile | None = None) -> float:
    """How many parameters a network has, each counted once; the size on disk is four bytes for each."""
    return float(trace.params)


COST = Cost(params, unit="")
