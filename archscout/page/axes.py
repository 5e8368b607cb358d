"""Axes of ranks and of costs, and the line of a limit, which several figures share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from archscout.costs.limits import IN_BYTES
from archscout.page.colours import RED
from archscout.page.words import BASE_UNITS, is_number, label_text, quantity


def axis_of_ranks(top: float, log: bool) -> dict[str, Any]:
    """The axis of ranks 1..top, best on top, with room for the markers at both ends."""
    if log:
        pad = max(0.08, 0.04 * math.log10(max(top, 2)))
        ticks = [step * 10**power for power in range(10) for step in (1, 2, 5) if step * 10**power <= top]
        ends = [math.log10(max(top, 2)) + pad, -pad]
        return {"type": "log", "range": ends, "tickvals": ticks, "ticktext": [f"{tick:,}" for tick in ticks]}
    pad = max(0.6, 0.05 * top)
    step = next(s * 10**power for power in range(10) for s in (1, 2, 5) if s * 10**power * 8 >= top)
    ticks = sorted({1, *range(step, int(top) + 1, step)} - ({step} if 1 < step <= 2 else set()))
    return {"type": "linear", "range": [top + pad, 1 - pad], "tickvals": ticks, "ticktext": [f"{t:,}" for t in ticks]}


def axis_of_cost(axis: str, values: np.ndarray, limit: Any) -> dict[str, Any]:
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    names = {"latency": "predicted latency for one image", "memory": "memory for one image", "params": "parameters"}
    names |= {"macs": "multiply-adds for one image", "flops": "flops for one image"}
    names |= {"energy": "predicted energy for one image", "power": "predicted power"}
    names |= {"ram_int8": "activations at int8", "flash_int8": "weights at int8", "training_memory": "a training step"}
    log = low > 0 and high > 20 * low
    if is_number(limit) and limit > 0 and limit < 4 * high:
        high = max(high, float(limit))
    if log:
        pad = 0.04 * (math.log10(high) - math.log10(low))
        ends = [math.log10(low) - pad, math.log10(high) + pad]
    else:
        pad = 0.04 * (high - low) or 0.1 * abs(high) or 1.0
        ends = [low - pad, high + pad]
    units = {**{name: f" {unit}" for name, unit in BASE_UNITS.items()}, **dict.fromkeys(IN_BYTES, "B")}
    return {
        "title": {"text": label_text(names.get(axis, axis)), "standoff": 8},
        "type": "log" if log else "linear",
        "range": ends,
        "ticksuffix": units.get(axis, ""),
        "tickformat": "~g" if axis in BASE_UNITS else "~s",
        "nticks": 8,
        "automargin": True,
    } | ({"dtick": "D2" if ends[1] - ends[0] < 3.2 else 1} if log else {})


def shapes_of_limit(axis: str, limit: Any) -> list[dict[str, Any]]:
    if not is_number(limit):
        return []
    line = {"color": RED, "width": 2, "dash": "dash"}
    ends = {"x0": limit, "x1": limit, "yref": "paper", "y0": 0, "y1": 1}
    return [
        {"type": "line", "showlegend": True, "name": label_text(f"limit {quantity(limit, axis)}"), "line": line, **ends}
    ]
