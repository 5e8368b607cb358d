"""Predicted milliseconds for one image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archscout.costs.cost import Cost
from archscout.costs.trace import Trace
from archscout.errors import UserError

if TYPE_CHECKING:
    from archscout.devices.profile import Profile


def latency(trace: Trace, profile: Profile | None = None) -> float:
    """Milliseconds for one image on the device of `profile`, predicted without running the network.

    It costs microseconds, against about a second for a measurement; the profile states how far predictions are off
    (`half_width`). Raises UserError without a profile.
    """
    if profile is None:
        raise UserError(
            "the cost latency needs the profile of a device: give profile=measure_profile(space), "
            "or choose among the costs params, macs, flops, memory, ram_int8, flash_int8 and training_memory"
        )
    return float(profile.latency(trace))


COST = Cost(latency, unit="ms", needs_profile=True)
