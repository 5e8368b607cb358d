"""Sections of the report that only some runs have: a search by a supernet or by accuracy, and selected images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archscout.selection.drift import GROUPS

LINES = ("#1f5fbf", "#c8322b", "#2b8a4b")


def supernet(facts: Mapping[str, Any], figures: dict[str, Any]) -> dict[str, Any] | None:
    """How a differentiable search went: its accuracy, how undecided it was, and what was derived; None without one."""
    found = facts.get("supernet")
    if not found:
        return None
    story = found["story"]
    history = story["history"]
    lines = (
        ("accuracy", "accuracy on the weight images, %", 100.0),
        ("entropy", "how undecided, % (entropy of the choice)", 100.0),
    )
    figures["supernet"] = {
        "data": [
            {
                "type": "scatter", "mode": "lines", "name": name, "x": [row["epoch"] for row in history],
                "y": [scale * row[key] for row in history], "line": {"color": LINES[place], "width": 2},
                "hovertemplate": "epoch %{x:.3~g}: %{y:.3~g}<extra>" + name + "</extra>",
            }
            for place, (key, name, scale) in enumerate(lines)
        ],
        "layout": {
            "height": 280, "margin": {"l": 56, "r": 14, "t": 34, "b": 46}, "showlegend": True,
            "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
            "xaxis": {"title": {"text": "epoch of the supernet"}, "automargin": True},
            "yaxis": {"range": [0, 103], "automargin": True},
        },
    }  # fmt: skip
    changes = [
        row
        for before, row in zip([None, *history], history, strict=False)
        if not before or before["arch"] != row["arch"]
    ]
    return {
        "method": found["method"], "selector": found["selector"], "seconds": story["seconds"], "arch": found["arch"],
        "derived": found["derived"], "stopped": story["stopped"], "skips": history[-1]["skips"] if history else 0,
        "epochs": history[-1]["epoch"] if history else 0, "changed": len(changes) - 1,
    }  # fmt: skip


def by_accuracy(facts: Mapping[str, Any], figures: dict[str, Any]) -> dict[str, Any] | None:
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


def selection(facts: Mapping[str, Any], figures: dict[str, Any]) -> dict[str, Any] | None:
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
        "images": found["images"], "ever": found["ever"], "groups": groups, "rows": rows,
        "drifted": last["drifted"], "widened": any(one["drifted"] for one in audits[:-1]),
        "suspects": found["suspects"],
    }  # fmt: skip
