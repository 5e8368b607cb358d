"""Predicted millijoules for one image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archscout.costs.cost import Cost
from archscout.costs.trace import Trace
from archscout.errors import UserError

if TYPE_CHECKING:
    from archscout.devices.profile import Profile


def energy(trace: Trace, profile: Profile | None = None) -> float:
    """Millijoules for one image on the device of `profile`, predicted without running the network.

    From measured energies where the device has a meter, otherwise latency x a stated power; `profile.power_source` says
    which. Raises UserError without a profile, and for a profile that knows no power.
    """
    if profile is None:
        raise UserError("the cost energy needs the profile of a device: give profile=measure_profile(space)")
    return float(profile.energy(trace))


COST = Cost(energy, unit="mJ", needs_profile=True)
