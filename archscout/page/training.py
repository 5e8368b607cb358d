"""The section on the full training: loss, accuracy and learning rate by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archscout.page.colours import BLUE, GREEN, RED
from archscout.page.shape import Figures
from archscout.page.words import is_number


def section(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any] | str:
    training = facts.get("training") or {}
    history = list(training.get("history") or ())
    if not history:
        return "Left out: the winner has not been trained."
    shown = []
    for key, title, lines, scale in (
        ("loss", "Loss", (("loss", "training", BLUE, "solid"),), 1),
        (
            "accuracy",
            "Accuracy, %",
            (("accuracy", "training images", BLUE, "solid"), ("validation", "held-out images", RED, "dash")),
            100,
        ),
        ("lr", "Learning rate", (("lr", "learning rate", GREEN, "solid"),), 1),
    ):
        traces = []
        for field, name, colour, dash in lines:
            rows = [(row.get("epoch", k + 1), row[field]) for k, row in enumerate(history) if is_number(row.get(field))]
            if rows:
                traces.append(
                    {
                        "type": "scatter",
                        "mode": "lines" if len(rows) > 40 else "lines+markers",
                        "name": name,
                        "x": [x for x, _ in rows],
                        "y": [scale * y for _, y in rows],
                        "line": {"color": colour, "width": 2, "dash": dash},
                        "marker": {"color": colour, "size": 5},
                        "hovertemplate": "epoch %{x:.3~g}: %{y:.4~g}<extra>" + name + "</extra>",
                    }
                )
        if not traces:
            continue
        figures[f"training-{key}"] = {
            "data": traces,
            "layout": {
                "height": 260,
                "margin": {"l": 56, "r": 14, "t": 34 if len(traces) > 1 else 8, "b": 46},
                "showlegend": len(traces) > 1,
                "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
                "xaxis": {"title": {"text": "epoch"}, "automargin": True, "nticks": 7},
                "yaxis": {"nticks": 6, "automargin": True, "rangemode": "tozero" if key != "accuracy" else "normal"},
            },
        }
        shown.append({"figure": f"training-{key}", "title": title})
    if not shown:
        return "Left out: the training history holds no numbers."
    return {
        "panels": shown,
        "seconds": training.get("seconds"),
        "epochs": history[-1].get("epoch", len(history)),
        "recipe": dict(training.get("recipe") or {}),
    }
