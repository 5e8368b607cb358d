"""What a cost is: a number read from a trace, and for some from the profile of a device. Smaller is better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from archscout.costs.trace import Trace

if TYPE_CHECKING:
    from archscout.devices.profile import Profile


@dataclass(frozen=True)
class Cost:
    """A cost: how it is computed, its unit, and where it comes from.

    compute:   (trace, profile or None) -> value in `unit`.
    needs_profile: whether `compute` needs the profile of a device.
    """

    compute: Callable[[Trace, Profile | None], float]
    unit: str
    direction: str = "min"
    paper: str = ""
    needs_profile: bool = False
