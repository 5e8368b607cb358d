"""The section on the proxies: each against the accuracy of the entrants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from archscout.page.colours import RED, ROLES, SKY
from archscout.page.entrants import judged_rounds, winner_of
from archscout.page.intervals import rank_interval
from archscout.page.shape import Figures
from archscout.page.words import is_number, label_text, shortened, wrapped_label


def section(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any] | str:
    given = facts.get("correlation") or {}
    points = [e for e in facts.get("entrants") or () if judged_rounds(e)]
    names = list(dict.fromkeys([*given, *(name for e in points for name in (e.get("scores") or {}))]))
    if not names or not points:
        return "Left out: too few networks were verified to compare proxies with."
    panels: list[dict[str, Any]] = []
    for k, name in enumerate(names):
        have: list[tuple[Mapping[str, Any], float]] = []
        for entrant in points:
            score = entrant.get("rank") if name == "rank" else (entrant.get("scores") or {}).get(name)
            if score is not None and is_number(score):
                have.append((entrant, float(score)))
        found = dict(given.get(name) or {})
        n = int(found.get("n") or len(have))
        ends: Any = (found.get("low"), found.get("high"))
        if not all(map(is_number, ends)):
            ends = rank_interval(found["spearman"], n) if is_number(found.get("spearman")) else None
        figure = ""
        if have:
            figure = f"proxy-{k}"
            figures[figure] = _proxy_figure(name, have, winner_of(facts))
        panels.append(
            {
                "name": "rank (all proxies together)" if name == "rank" else name,
                "figure": figure,
                "spearman": found.get("spearman"),
                "kendall": found.get("kendall"),
                "n": n,
                "low": ends[0] if ends else None,
                "high": ends[1] if ends else None,
            }
        )
    panels.sort(key=lambda panel: not panel["name"].startswith("rank ("))
    tested = [panel for panel in panels if is_number(panel["low"])]
    return {
        "panels": panels,
        "kinds": list(facts.get("kinds") or ()),
        "tested": len(tested),
        "open": sum(panel["low"] <= 0 <= panel["high"] for panel in tested),
        "most": max(panel["n"] for panel in panels),
        "epochs": _first_epochs(points),
    }


def _first_epochs(points: Sequence[Mapping[str, Any]]) -> float | None:
    epochs = {judged_rounds(e)[0].get("epochs") for e in points}
    value = epochs.pop() if len(epochs) == 1 else None
    return value if is_number(value) else None


def _proxy_figure(name: str, have: Sequence[tuple[Mapping[str, Any], float]], winner: Any) -> dict[str, Any]:
    def kind(entrant: Mapping[str, Any]) -> str:
        return "winner" if entrant is winner else str(entrant.get("role"))

    traces = []
    for role in dict.fromkeys(kind(e) for e, _ in have):
        members = [(e, score) for e, score in have if kind(e) == role]
        colour, symbol = (RED, "star") if role == "winner" else ROLES.get(role, (SKY, "circle"))
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": label_text(role),
                "showlegend": False,
                "x": [shortened(score) for _, score in members],
                "y": [100 * judged_rounds(e)[0]["validation"] for e, _ in members],
                "marker": {"color": colour, "symbol": symbol, "size": 14 if role == "winner" else 9},
                "text": [wrapped_label(str(e.get("arch", "")), 40) for e, _ in members],
                "hovertemplate": "<b>%{text}</b><br>%{x:.4~g}: %{y:.1f} %<extra>%{fullData.name}</extra>",
            }
        )
    reverse = {"autorange": "reversed"} if name == "rank" else {}
    return {
        "data": traces,
        "layout": {
            "height": 220,
            "margin": {"l": 52, "r": 14, "t": 8, "b": 44},
            "hovermode": "closest",
            "xaxis": {
                "title": {"text": "rank (best right)" if name == "rank" else label_text(name, 30)},
                "nticks": 5,
                "tickformat": "~s" if max(abs(score) for _, score in have) >= 1e4 else "~g",
                "automargin": True,
                **reverse,
            },
            "yaxis": {"title": {"text": "validation, %"}, "nticks": 5, "automargin": True},
        },
    }
