"""What the sections on a supernet and on selected images draw over epochs alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from archscout.selection.drift import GROUPS

LINES = ("#1f5fbf", "#c8322b", "#2b8a4b")


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
