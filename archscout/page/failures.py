"""The section on what failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archscout.page.shape import Figures


def section(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any] | str:
    failures = facts.get("failures")
    if failures is None:
        return "Left out: failures were not recorded."
    reasons: dict[str, list[str]] = {}
    for failure in failures:
        reasons.setdefault(str(failure.get("reason")), []).append(str(failure.get("arch")))
    rows = sorted(reasons.items(), key=lambda item: -len(item[1]))
    return {
        "count": len(failures),
        "rows": [(reason, len(archs), archs[:3]) for reason, archs in rows[:50]],
        "kinds": len(rows),
    }
