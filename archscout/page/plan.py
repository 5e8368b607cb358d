"""The section on the plan and its changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archscout.page.shape import Figures
from archscout.page.words import duration, is_number, plain_words


def section(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any] | str:
    plan, changes = dict(facts.get("plan") or {}), list(facts.get("plan_changes") or ())
    if not plan and not changes:
        return "Left out: no plan was recorded."
    rows = []
    for key, value in plan.items():
        timed = key.endswith("seconds") and is_number(value)
        name = key.removesuffix("_seconds") if timed else key
        rows.append((name.replace("_", " "), duration(value) if timed else plain_words(value)))
    return {
        "rows": rows,
        "changes": [
            {**change, "time": duration(change.get("time")) if is_number(change.get("time")) else change.get("time")}
            for change in changes
        ],
    }
