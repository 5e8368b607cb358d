"""Sections of the report that only some runs have: a search by a supernet or by accuracy, and selected images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from archscout.selection.drift import GROUPS

LINES = ("#1f5fbf", "#c8322b", "#2b8a4b")
COLUMNS = 40  # moments of a search whose alphas are drawn


def supernet(facts: Mapping[str, Any], figures: dict[str, Any]) -> dict[str, Any] | None:
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


def subset_figure(epochs: Sequence[float], shares: Sequence[float], audits: Sequence[Mapping[str, Any]]) -> Any:
    """How many images a round had by epoch, and what the supernet knew of those in it and of the others."""
    drawn: list[dict[str, Any]] = [
        {
            "type": "scatter", "mode": "lines+markers", "name": f"accuracy on {name} images",
            "x": [one["at"] for one in audits if one["accuracy"][place] is not None],
            "y": [100 * one["accuracy"][place] for one in audits if one["accuracy"][place] is not None],
            "line": {"color": LINES[place], "width": 2},
            "hovertemplate": "epoch %{x:.3~g}: %{y:.3~g} %<extra>" + name + "</extra>",
        }
        for place, name in enumerate(GROUPS)
    ]  # fmt: skip
    drawn.append(
        {
            "type": "scatter", "mode": "lines", "name": "images in a round, of all", "x": list(epochs),
            "y": [100 * share for share in shares], "line": {"color": "@muted", "width": 2, "dash": "dot"},
            "hovertemplate": "epoch %{x:.3~g}: %{y:.3~g} %<extra>images in a round</extra>",
        }
    )  # fmt: skip
    return {"data": [one for one in drawn if one["x"]], "layout": layout_by_epoch({"range": [0, 103]})}


def layout_by_epoch(yaxis: Mapping[str, Any]) -> dict[str, Any]:
    """The layout of lines by the epoch of the supernet."""
    return {
        "height": 280, "margin": {"l": 56, "r": 14, "t": 34, "b": 46}, "showlegend": True,
        "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
        "xaxis": {"title": {"text": "epoch of the supernet"}, "automargin": True},
        "yaxis": {"title": {"text": "%"}, "automargin": True, **yaxis},
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
