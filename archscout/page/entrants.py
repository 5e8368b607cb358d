"""What several sections ask of the entrants of the verification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archscout.page.words import is_number


def paid_of(entrant: Mapping[str, Any], axis: str) -> dict[str, Any] | None:
    """What an entrant takes of a cost, {value, most, measured}: measured where it was; None if it is not known."""
    found = (entrant.get("timed") or {}).get(axis)
    if found and is_number(found.get("value")):
        return dict(found)
    measured = entrant.get("measured_latency") if axis == "latency" else None
    value = measured if is_number(measured) else (entrant.get("costs") or {}).get(axis)
    if value is None or not is_number(value):
        return None
    return {"value": value, "most": value, "measured": is_number(measured)}


def winner_of(facts: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The entrant that won: the one that says so, or else the one with the summary's role and architecture."""
    entrants, summary = facts.get("entrants") or (), facts.get("summary") or {}
    for entrant in entrants:
        if entrant.get("winner"):
            return entrant
    for entrant in entrants:
        if entrant.get("arch") == summary.get("winner") and entrant.get("role") == summary.get("winner_role"):
            return entrant
    return None


def last_round(entrant: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The last round of an entrant that has a validation value, None if none has."""
    rounds = judged_rounds(entrant)
    return rounds[-1] if rounds else None


def judged_rounds(entrant: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry for entry in entrant.get("rounds") or () if is_number(entry.get("validation"))]
