"""Limits: the largest allowed values of costs, as the person writes them, and how far a network is over them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from archscout.errors import UserError, unknown

COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
BYTES = {"": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
IN_BYTES = ("memory", "ram_int8", "flash_int8", "training_memory")
COUNTED = ("params", "macs", "flops")
# Units in base units: milliseconds, millijoules, watts, bytes, counts. Looked up by `unit_of`.
UNITS: dict[str, dict[str, float]] = {
    "latency": {"ms": 1.0, "": 1.0, "s": 1e3, "us": 1e-3, "µs": 1e-3, "μs": 1e-3},
    "energy": {"mj": 1.0, "": 1.0, "j": 1e3, "kj": 1e6, "uj": 1e-3, "µj": 1e-3, "μj": 1e-3},
    "power": {"w": 1.0, "": 1.0, "mw": 1e-3, "kw": 1e3},
    **dict.fromkeys(IN_BYTES, BYTES),
    **dict.fromkeys(COUNTED, COUNTS),
}
SHOWN = {
    "latency": "us, ms or s",
    "energy": "uJ, mJ, J or kJ",
    "power": "mW, W or kW",
    **dict.fromkeys(IN_BYTES, "B, kB, MB, GB, KiB, MiB or GiB"),
    **dict.fromkeys(COUNTED, "k, M or G"),
}
EXAMPLES = {
    "latency": "5ms", "energy": "5mJ", "power": "2W", "memory": "2MB", "ram_int8": "256kB", "flash_int8": "1MB",
    "training_memory": "500MB", "params": "300k", "macs": "30M", "flops": "30M",
}  # fmt: skip
# Names of the steps in which a value is shown, each with its size in the base unit.
STEPS: dict[str, tuple[tuple[str, float], ...]] = {
    "latency": (("us", 1e-3), ("ms", 1.0), ("s", 1e3)),
    "energy": (("uJ", 1e-3), ("mJ", 1.0), ("J", 1e3), ("kJ", 1e6), ("MJ", 1e9)),
    "power": (("mW", 1e-3), ("W", 1.0), ("kW", 1e3)),
    **dict.fromkeys(IN_BYTES, (("B", 1.0), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12))),
    **dict.fromkeys(COUNTED, (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12))),
}
_NUMBER = re.compile(r"([0-9]+\.?[0-9]*(?:e[+-]?[0-9]+)?|\.[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-zµμ]*)", re.IGNORECASE)


def parse_limits(limits: Iterable[str] | Mapping[str, str | float] | None) -> dict[str, float]:
    """Limits in base units (ms, mJ, W, bytes, counts) from what a person writes.

    limits: texts like "latency=5ms", "ram_int8=256kB", "params=300k", or a mapping of cost -> text or number in base
    units. Units may be in small or capital letters, but for the M of MJ and MW, which is not the m of mJ and mW; kB, MB
    and GB are powers of 1000, KiB, MiB and GiB of 1024. A number without a unit is in the base unit. Raises UserError
    for anything that is not a positive limit on a known cost, and for a cost named twice.
    """
    if limits is None:
        return {}
    if isinstance(limits, str):
        limits = [limits]
    parsed: dict[str, float] = {}
    if isinstance(limits, Mapping):
        return {name: parse_value(name, value) for name, value in limits.items()}
    for text in limits:
        if not isinstance(text, str) or "=" not in text:
            raise UserError(f"'{text}' is no limit: wanted COST=VALUE, type for example latency=5ms")
        name, _, value = (part.strip() for part in text.partition("="))
        if name in parsed:
            raise UserError(f"the limit on {name} was given twice: type it once, like {name}={value}")
        parsed[name] = parse_value(name, value)
    return parsed


def parse_value(name: str, value: str | float, what: str = "limit") -> float:
    """One limit, or another value that `what` names, in the base unit of the cost `name`."""
    if name not in UNITS:
        raise unknown("cost", str(name), UNITS, "type a limit like latency=5ms")
    given = f"{name}=" if what == "limit" else ""
    wrong = (
        f"'{given}{value}' is no {what}: wanted a positive number with {SHOWN[name]}, "
        f"type for example {given}{EXAMPLES[name]}"
    )
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value.strip())
        unit = None if match is None else unit_of(name, match[2])
        if match is None or unit is None:
            raise UserError(wrong)
        number = float(match[1]) * unit
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(wrong)
    else:
        number = float(value) if abs(value) < 1e300 else math.inf
    if not (math.isfinite(number) and number > 0):
        raise UserError(wrong)
    return number


def unit_of(name: str, text: str) -> float | None:
    """The unit `text` of the cost `name` in its base unit, None if it is none.

    Small or capital letters do not matter where they cannot be mistaken: MJ and MW are a billion times mJ and mW, so
    they are no unit here.
    """
    if name in ("latency", "energy", "power") and text.startswith("M"):
        return None
    return UNITS[name].get(text.lower())


def violation(costs: Mapping[str, float], limits: Mapping[str, float]) -> float:
    """How far a network is over its limits: the sum of max(0, cost / limit - 1). Zero exactly if it is feasible.

    Raises KeyError when the cost of a limit was not computed.
    """
    return sum(max(0.0, costs[name] / limit - 1.0) for name, limit in limits.items())


def format_cost(name: str, value: float) -> str:
    """A cost for people, with three digits: "4.21 ms", "1.3 MB", "273 k". Any other cost is a plain number."""
    steps = STEPS.get(name, (("", 1.0),))
    unit, size = next(((u, s) for u, s in steps if value < (999.5 if s >= 1 else 99.5) * s), steps[-1])
    return f"{digits(value / size)} {unit}".rstrip()


def digits(value: float) -> str:
    """A number with three digits, without an exponent and without zeros that say nothing."""
    places = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:.{min(places, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
