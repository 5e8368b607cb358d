"""The count of the published NAS-Bench-201 proxies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archscout.costs.cost import Cost
from archscout.costs.trace import Trace

if TYPE_CHECKING:
    from archscout.devices.profile import Profile


def flops(trace: Trace, profile: Profile | None = None) -> float:
    """Multiply-adds plus element-wise work for one image: the "FLOPs" published with the NAS-Bench-201 proxies.

    Use it to compare with those tables; the rule is described at `archscout.costs.trace.trace`. It is an accuracy proxy
    that is hard to beat, and no measure of time.

    Source: Krishnakumar et al. 2022, "NAS-Bench-Suite-Zero", arXiv 2210.03230.
    """
    return float(trace.flops)


COST = Cost(flops, unit="", paper="Krishnakumar et al. 2022, arXiv 2210.03230")
