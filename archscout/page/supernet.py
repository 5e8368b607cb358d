"""The section on a search by a supernet, which only some runs have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from archscout.page.by_epoch import LINES, layout_by_epoch, subset_figure

COLUMNS = 40  # moments of a search whose alphas are drawn


def section(facts: Mapping[str, Any], figures: dict[str, Any]) -> dict[str, Any] | None:
    """How a differentiable search went: accuracy, alphas, the images it chose, and what was derived; None without."""
    found = facts.get("supernet")
    if not found:
        return None
    story = found["story"]
    history = story["history"]
    before = epochs_before(history)
    epochs = [row["epoch"] + before[row.get("stage", 0)] for row in history]
    lines = (
        ("accuracy", "accuracy on the weight images, %", 100.0),
        ("entropy", "how undecided, % (entropy of the choice)", 100.0),
    )
    figures["supernet"] = {
        "data": [
            {
                "type": "scatter", "mode": "lines", "name": name, "x": epochs,
                "y": [scale * row[key] for row in history], "line": {"color": LINES[place], "width": 2},
                "hovertemplate": "epoch %{x:.3~g}: %{y:.3~g}<extra>" + name + "</extra>",
            }
            for place, (key, name, scale) in enumerate(lines)
        ],
        "layout": layout_by_epoch({"range": [0, 103]}),
    }  # fmt: skip
    if story["alphas"] and found.get("labels"):
        figures["alphas"] = alphas_figure(epochs, story["alphas"], found["labels"])
    audits = [{**audit, "at": audit["epoch"] + before[audit.get("stage", 0)]} for audit in story["audits"]]
    shares = [row["share"] for row in history if "share" in row]
    if found["selector"] != "full" and shares:
        figures["supernet_subset"] = subset_figure(epochs, shares, audits)
    changes = [
        row
        for before_it, row in zip([None, *history], history, strict=False)
        if not before_it or before_it["arch"] != row["arch"]
    ]
    ends = {row.get("stage", 0): row for row in history}
    options = [options for _, options in found.get("labels") or ()]
    collapsed = story.get("collapsed")
    return {
        "method": found["method"], "selector": found["selector"], "seconds": story["seconds"], "arch": found["arch"],
        "derived": found["derived"], "stopped": story["stopped"], "skips": found.get("skips"),
        "decided": found.get("decided"),
        "epochs": epochs[-1] if epochs else 0, "stages": len(ends), "changed": len(changes) - 1,
        "options": options[0] if options and all(one == options[0] for one in options) else [],
        "alphas": "alphas" in figures, "subset": "supernet_subset" in figures,
        "rounds": sum(row.get("round", 0) for row in ends.values()), "shares": shares[:1] + shares[-1:],
        "audits": len(audits), "widened": sum(audit["drifted"] for audit in audits),
        "collapsed": collapsed and {**collapsed, "at": collapsed["epoch"] + before[collapsed.get("stage", 0)]},
    }  # fmt: skip


def epochs_before(history: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Stage -> the epochs of all stages before it; each counts its own from 0."""
    last: dict[int, float] = {0: 0.0}
    for row in history:
        last[row.get("stage", 0)] = row["epoch"]
    found, total = {}, 0.0
    for stage in sorted(last):
        found[stage] = total
        total += last[stage]
    return found


def alphas_figure(epochs: Sequence[float], alphas: Sequence[Any], labels: Sequence[Any]) -> dict[str, Any]:
    """The weight of every option by epoch, decision under decision; of a long search at most COLUMNS moments."""
    places = np.unique(np.linspace(0, len(epochs) - 1, min(COLUMNS, len(epochs))).round().astype(int)).tolist()
    rows: list[list[int | None]] = []
    names: list[str] = []
    ticks: list[str] = []
    for decision, (name, options) in enumerate(labels):
        if rows:  # a gap between decisions, whose name only has to be another one
            names.append(" " * (decision + 1))
            rows.append([None] * len(places))
        names += (here := [f"{name}: {option}" for option in options])
        rows += [[round(100 * alphas[at][decision][k]) for at in places] for k in range(len(options))]
        ticks.append(here[len(here) // 2])
    return {
        "data": [
            {
                "type": "heatmap", "x": [epochs[at] for at in places], "y": names, "z": rows, "zmin": 0,
                "colorscale": "@share", "hoverongaps": False,
                "hovertemplate": "%{y}<br>epoch %{x:.3~g}: %{z} %<extra></extra>",
                "colorbar": {"title": {"text": "weight, %", "side": "right"}, "thickness": 12, "outlinewidth": 0},
            }
        ],
        "layout": {
            "height": 90 + min(900, (11 if len(rows) < 60 else 4) * len(rows)),
            "margin": {"l": 56, "r": 14, "t": 14, "b": 46},
            "xaxis": {"title": {"text": "epoch of the supernet"}, "automargin": True, "showgrid": False},
            "yaxis": {
                "type": "category", "autorange": "reversed", "tickvals": ticks,
                "ticktext": [name for name, _ in labels], "tickfont": {"size": 11}, "automargin": True,
                "showgrid": False,
            },
        },
    }  # fmt: skip
