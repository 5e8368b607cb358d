"""The section on images that a selector left out, which only some runs have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archscout.page.by_epoch import LINES
from archscout.selection.drift import GROUPS


def section(facts: Mapping[str, Any], figures: dict[str, Any]) -> dict[str, Any] | None:
    """What a selector left out of the full training and how the network does there; None without one."""
    found = facts.get("selection")
    if not found:
        return None
    names = list((facts.get("data") or {}).get("classes") or ())
    last = found["audits"][-1]
    rows = [
        {
            "name": names[row["number"]] if row["number"] < len(names) else str(row["number"]),
            "images": row["images"], "accuracy": row["accuracy"],
        }
        for row in found["class"]
    ]  # fmt: skip
    alike = [{**row, "name": f"such as {', '.join(row['names'])}"} for row in found.get("cluster") or ()]
    audits = found["audits"]
    figures["selection"] = {
        "data": [
            {
                "type": "scatter", "mode": "lines+markers", "name": name,
                "x": [one["round"] for one in audits if one["accuracy"][place] is not None],
                "y": [100 * one["accuracy"][place] for one in audits if one["accuracy"][place] is not None],
                "line": {"color": LINES[place], "width": 2},
                "hovertemplate": "round %{x}: %{y:.3~g} %<extra>" + name + "</extra>",
            }
            for place, name in enumerate(GROUPS)
        ],
        "layout": {
            "height": 280, "margin": {"l": 56, "r": 14, "t": 34, "b": 46}, "showlegend": True,
            "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
            "xaxis": {"title": {"text": "round"}, "automargin": True},
            "yaxis": {"title": {"text": "accuracy, %"}, "automargin": True},
        },
    }  # fmt: skip
    groups = [
        {"name": name, "images": n, "accuracy": accuracy}
        for name, n, accuracy in zip(GROUPS, last["images"], last["accuracy"], strict=True)
    ]
    return {
        "selector": found["selector"], "rounds": found["rounds"], "updates": found["updates"],
        "images": found["images"], "ever": found["ever"], "groups": groups,
        "tables": {"class": rows, "images that look alike": alike}, "behind": found.get("behind") or [],
        "drifted": last["drifted"], "widened": any(one["drifted"] for one in audits[:-1]),
        "suspects": found["suspects"],
    }  # fmt: skip
