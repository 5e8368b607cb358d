"""Predicted watts while a network runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archscout.costs.cost import Cost
from archscout.costs.trace import Trace
from archscout.errors import UserError

if TYPE_CHECKING:
    from archscout.devices.profile import Profile


def power(trace: Trace, profile: Profile | None = None) -> float:
    """Mean watts of the device of `profile` while it runs the network again and again: energy / latency.

    All networks have the same where no energies were measured. Raises UserError without a profile, and for a profile
    that knows no power.
    """
    if profile is None:
        raise UserError("the cost power needs the profile of a device: give profile=measure_profile(space)")
    if profile.power and not getattr(profile, "energy_terms", None):  # exactly, as a limit may be the same number
        return float(profile.power)
    return float(profile.energy(trace) / max(profile.latency(trace), 1e-9))


COST = Cost(power, unit="W", needs_profile=True)
