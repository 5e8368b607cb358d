"""Costs: numbers that a limit can hold down. One file each; add your own by passing a `Cost`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from archscout.costs import energy, flash_int8, flops, latency, macs, memory, params, power, ram_int8, training_memory
from archscout.costs.cost import Cost
from archscout.costs.limits import format_cost, parse_limits, violation
from archscout.costs.trace import Op, Trace, trace
from archscout.naming import find, word
from archscout.space import Shape

if TYPE_CHECKING:
    from archscout.devices.profile import Profile

COSTS: dict[str, Cost] = {
    "latency": latency.COST,
    "energy": energy.COST,
    "power": power.COST,
    "memory": memory.COST,
    "ram_int8": ram_int8.COST,
    "flash_int8": flash_int8.COST,
    "training_memory": training_memory.COST,
    "params": params.COST,
    "macs": macs.COST,
    "flops": flops.COST,
}


def measure(
    model: nn.Module, input_shape: Shape, names: Sequence[Any] | None = None, profile: Profile | None = None
) -> dict[str, float]:
    """The costs of a network for one image of `input_shape` (channels, height, width), from a single trace.

    names: registry names, "module:attribute" or Cost objects; None is every cost, but those of a device only with a
    profile (energy and power if it knows a power).
    Costs about 10 ms. Raises UserError for an unknown name, and for latency without a profile.
    """
    wanted = available(profile) if names is None else names
    found: Mapping[str, Cost] = {word(name): find("cost", name, COSTS) for name in wanted}
    traced = trace(model, input_shape)
    return {name: cost.compute(traced, profile) for name, cost in found.items()}


def available(profile: Any) -> tuple[str, ...]:
    """The costs that can be computed: all counted ones, latency with a profile, energy and power if it knows one."""
    known = () if profile is None else ("latency", "energy", "power") if getattr(profile, "power", 0) else ("latency",)
    return tuple(name for name, cost in COSTS.items() if not cost.needs_profile or name in known)


__all__ = ["COSTS", "Cost", "Op", "Trace", "available", "format_cost", "measure", "parse_limits", "trace", "violation"]
