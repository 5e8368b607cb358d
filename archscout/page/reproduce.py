"""The section on how to get the run again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archscout.page.shape import Figures


def section(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any] | str:
    shown = {key: facts.get(key) for key in ("command", "config", "seed", "machine")}
    versions = dict(facts.get("versions") or {})
    if facts.get("version"):
        versions = {"archscout": facts["version"], **versions}
    if not any(value is not None for value in shown.values()):
        return "Left out: the command was not recorded."
    return {**shown, "versions": versions}
