"""The section on a search by accuracy, which only some runs have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archscout.page.by_epoch import LINES


def section(facts: Mapping[str, Any], figures: dict[str, Any]) -> dict[str, Any] | None:
    """The short trainings in order, those of the ranking apart from those that the strategy proposed; None without."""
    found = facts.get("short")
    if not found:
        return None
    rows = [{**row, "number": number} for number, row in enumerate(found["trained"], 1)]
    groups = {
        "of the zero-shot ranking": [row for row in rows if row["begun"]],
        f"proposed by {found['strategy']}": [row for row in rows if not row["begun"]],
    }
    best, top = [], None
    for row in rows:
        top = max((value for value in (top, row["validation"]) if value is not None), default=None)
        best.append(top)
    figures["short"] = {
        "data": [
            *(
                {
                    "type": "scatter", "mode": "markers", "name": name, "x": [row["number"] for row in fine],
                    "y": [100 * row["validation"] for row in fine], "text": [row["arch"] for row in fine],
                    "marker": {"color": LINES[place], "size": 8, "symbol": ("circle", "diamond")[place]},
                    "hovertemplate": "%{text}<br>training %{x}: %{y:.3~g} %<extra></extra>",
                }
                for place, (name, group) in enumerate(groups.items())
                if (fine := [row for row in group if row["validation"] is not None])
            ),
            {
                "type": "scatter", "mode": "lines", "name": "best so far", "hoverinfo": "skip",
                "x": [row["number"] for row, value in zip(rows, best, strict=True) if value is not None],
                "y": [100 * value for value in best if value is not None],
                "line": {"color": LINES[2], "width": 2, "shape": "hv"},
            },
        ],
        "layout": {
            "height": 300, "margin": {"l": 56, "r": 14, "t": 34, "b": 46}, "showlegend": True,
            "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
            "xaxis": {"title": {"text": "short training"}, "automargin": True},
            "yaxis": {"title": {"text": "validation, %"}, "automargin": True},
        },
    }  # fmt: skip
    ordered = sorted((row for row in rows if row["validation"] is not None), key=lambda row: -row["validation"])
    return {
        **{name: found[name] for name in ("strategy", "selector", "epochs", "failed")},
        "count": len(rows), "asked": found["asked"], "top": ordered[:8],
        "seconds": sum(row["seconds"] or 0.0 for row in rows),
        "begun": len(groups["of the zero-shot ranking"]),
        "heirs": sum(row["heir_of"] is not None for row in rows),
    }  # fmt: skip
