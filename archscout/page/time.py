"""The section on where the time and the energy went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archscout.costs.limits import format_cost
from archscout.page.colours import PALETTE
from archscout.page.shape import Figures
from archscout.page.words import count, digits, is_number


def section(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any] | str:
    rows = [row for row in facts.get("time") or () if is_number(row.get("seconds")) and row["seconds"] >= 0]
    total = sum(row["seconds"] for row in rows)
    if not total:
        return "Left out: no times were recorded."
    greys = ("#7f8790", "#b3bac2")
    colours = [*PALETTE, *greys]
    spent = facts.get("spent") or {}
    every, full = spent.get("every_candidate") or {}, spent.get("full_data") or {}
    return {
        "total": total,
        "energy": _joules(spent.get("energy")),
        "source": spent.get("source"),
        "metered": spent.get("metered"),
        "every": every
        and {
            "candidates": count(every.get("candidates")),
            "of": every.get("of", "scored"),
            "rate": every.get("rate", "scored"),
            "seconds": every.get("seconds"),
            "energy": _joules(every.get("energy")),
            "times": digits(every["seconds"] / total, 2) if is_number(every.get("seconds")) else None,
        },
        "full": full
        and {
            "seconds": full.get("seconds"),
            "energy": _joules(full.get("energy")),
            "times": digits(full.get("times"), 3),
            "more": is_number(full.get("times")) and full["times"] > 1,
            "selector": full.get("selector"),
            "share": full.get("share"),
            "at_most": full.get("at_most"),
        },
        "rows": [
            {
                "stage": row.get("stage"),
                "energy": _joules(row.get("energy")),
                "seconds": row["seconds"],
                "share": row["seconds"] / total,
                "colour": colours[k % len(colours)],
            }
            for k, row in enumerate(rows)
        ],
    }


def _joules(energy: Any) -> str:
    return format_cost("energy", energy).replace(" ", "\u00a0") if is_number(energy) else ""
