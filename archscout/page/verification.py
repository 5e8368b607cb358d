"""The section on the verification: curves of the entrants, their table, and accuracy against cost."""

# ruff: noqa: RUF001 (typographic minus, dash and times are meant)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from archscout.facts import TIMED
from archscout.fronts import pareto
from archscout.page.axes import axis_of_cost, shapes_of_limit
from archscout.page.colours import BLUE, RED, ROLES, SKY
from archscout.page.entrants import judged_rounds, last_round, paid_of, winner_of
from archscout.page.shape import Figures
from archscout.page.words import count, duration, is_number, label_text, percent, quantity, wrapped_label


def section(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any] | str:
    entrants = list(facts.get("entrants") or ())
    if not entrants:
        return "Left out: no network has been verified."
    winner = winner_of(facts)

    def standing(entrant: Mapping[str, Any]) -> tuple[bool, int, float]:
        rounds = judged_rounds(entrant)
        return entrant is not winner, -len(rounds), -(rounds[-1]["validation"] if rounds else 0.0)

    entrants.sort(key=standing)
    depth = max(len(e.get("rounds") or ()) for e in entrants)
    traces: list[dict[str, Any]] = []
    seen: set[str] = set()
    for entrant in reversed(entrants):
        rounds = judged_rounds(entrant)
        if not rounds:
            continue
        role = str(entrant.get("role"))
        best = entrant is winner
        colour, symbol = (RED, "star") if best else ROLES.get(role, (SKY, "circle"))
        name = "winner" if best else role
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": label_text(name),
                "legendgroup": label_text(name),
                "showlegend": name not in seen,
                "x": [entry.get("epochs", k + 1) for k, entry in enumerate(rounds)],
                "y": [100 * entry["validation"] for entry in rounds],
                "line": {
                    "color": colour,
                    "width": 3 if best else 1.5,
                    "dash": "solid" if role == "finalist" else "dot",
                },
                "marker": {"color": colour, "size": 15 if best else 8, "symbol": symbol},
                "text": [wrapped_label(str(entrant.get("arch", "")))] * len(rounds),
                "hovertemplate": "<b>%{text}</b><br>%{x:.3~g} epochs: %{y:.1f} %<extra>%{fullData.name}</extra>",
            }
        )
        seen.add(name)
    if traces:
        ticks = sorted({float(x) for trace in traces for x in trace["x"]})
        figures["verification"] = {
            "data": traces,
            "layout": {
                "height": 380,
                "margin": {"l": 64, "r": 20, "t": 40, "b": 56},
                "hovermode": "closest",
                "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "traceorder": "reversed"},
                "xaxis": {
                    "title": {"text": "epochs trained"},
                    "tickvals": ticks if len(ticks) <= 8 else None,
                    "tickformat": ".3~g",
                    "automargin": True,
                },
                "yaxis": {"title": {"text": "validation, %"}, "automargin": True},
            },
        }
    names = list(dict.fromkeys(name for e in entrants for name in (e.get("costs") or {}) if name[-5:] != "_high"))
    rows = []
    for entrant in entrants:
        rounds = list(entrant.get("rounds") or ())
        gone = entrant.get("eliminated_after")
        beaten = f", surely beaten by {entrant['stopped_by']}" if entrant.get("stopped_by") else ""
        fate = "winner" if entrant is winner else f"out after round {gone}{beaten}" if gone else ""
        if entrant.get("pulled"):
            fate = f"{fate}; named later by the {entrant['pulled']}".removeprefix("; ")
        rows.append(
            {
                "arch": entrant.get("arch"),
                "role": entrant.get("role"),
                "rank": entrant.get("rank"),
                "winner": entrant is winner,
                "costs": [quantity((entrant.get("costs") or {}).get(name), name) for name in names],
                "measured": quantity(entrant.get("measured_latency"), "latency"),
                "rounds": [percent(rounds[k].get("validation")) if k < len(rounds) else "" for k in range(depth)],
                "seconds": duration(sum(entry.get("seconds") or 0 for entry in rounds)) if rounds else "–",
                "fate": f"failed: {entrant['failure']}" if entrant.get("failure") else fate,
            }
        )
    heads = []
    for k in range(depth):
        epochs = {e["rounds"][k].get("epochs") for e in entrants if len(e.get("rounds") or ()) > k}
        known = {value for value in epochs if is_number(value)}
        heads.append((f"round {k + 1}", f"{count(known.pop())} epochs" if len(known) == 1 else ""))
    return {
        "by_rank": facts.get("shortlist") == "rank" and sum(e.get("role") == "finalist" for e in entrants) > 1,
        "kinds": list(facts.get("kinds") or ()),
        "figure": "verification" if traces else "",
        **_accuracy_front(facts, figures),
        "rows": rows,
        "costs": names,
        "heads": heads,
        "measured": any(is_number(e.get("measured_latency")) for e in entrants),
    }


def _accuracy_front(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any]:
    """The picture of validation against cost: every entrant that trained, and the line over those that none beats.

    The cost is the one of the front of candidates, or the first that the entrants have. Teachers are drawn and not
    joined, since they cannot win.
    """
    trained = [(e, found) for e in facts.get("entrants") or () if (found := last_round(e)) and not e.get("failure")]
    names = list(dict.fromkeys(name for e, _ in trained for name in (e.get("costs") or {})))
    wanted = facts.get("cost_axis")
    axis = next((name for name in (wanted, "macs", "params", *names) if name in names), None)
    points = [(e, found, paid) for e, found in trained if axis and (paid := paid_of(e, axis))]
    if axis is None or len(points) < 2:
        return {"accuracy_figure": ""}
    rivals = [point for point in points if point[0].get("role") != "teacher"]
    cost = np.array([paid["value"] for *_, paid in rivals], float)
    lost = np.array([-found["validation"] for _, found, _ in rivals], float)
    line = [rivals[int(i)] for i in pareto(lost, cost)]
    winner = winner_of(facts)

    def kind(entrant: Mapping[str, Any]) -> str:
        return "winner" if entrant is winner else str(entrant.get("role"))

    def hover(entrant: Mapping[str, Any], found: Mapping[str, Any], paid: Mapping[str, Any]) -> str:
        how = "measured" if paid["measured"] else "predicted" if axis in TIMED else "counted"
        most = f", at most {quantity(paid['most'], axis)}" if paid["most"] > paid["value"] else ""
        return (
            f"<b>{wrapped_label(str(entrant.get('arch', '')))}</b><br>{percent(found['validation'])} after "
            f"{count(found.get('epochs'))} epochs<br>{label_text(axis)} {quantity(paid['value'], axis)}{most}, {how}"
        )

    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "front",
            "x": [paid["value"] for *_, paid in line],
            "y": [100 * found["validation"] for _, found, _ in line],
            "line": {"color": BLUE, "width": 2, "shape": "hv"},
            "hoverinfo": "skip",
        }
    ]
    for role in dict.fromkeys(kind(e) for e, *_ in points):
        members = [point for point in points if kind(point[0]) == role]
        colour, symbol = (RED, "star") if role == "winner" else ROLES.get(role, (SKY, "circle"))
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": label_text(role),
                "x": [paid["value"] for *_, paid in members],
                "y": [100 * found["validation"] for _, found, _ in members],
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [max(0.0, paid["most"] - paid["value"]) for *_, paid in members],
                    "arrayminus": [0.0] * len(members),
                    "thickness": 1,
                    "width": 3,
                    "color": colour,
                },
                "marker": {"color": colour, "size": 15 if role == "winner" else 9, "symbol": symbol},
                "text": [hover(*point) for point in members],
                "hovertemplate": "%{text}<extra>%{fullData.name}</extra>",
            }
        )
    limit = ((facts.get("summary") or {}).get("limits") or {}).get(axis)
    ends = np.array([end for *_, paid in points for end in (paid["value"], paid["most"])], float)
    scale = axis_of_cost(axis, ends, limit)
    known = {paid["measured"] for *_, paid in points}
    how = "measured " if known == {True} else "measured or predicted " if len(known) > 1 else ""
    if how:
        scale["title"] = {"text": f"{how}{label_text(axis)} for one image", "standoff": 8}
    figures["accuracy"] = {
        "data": traces,
        "layout": {
            "height": 360,
            "margin": {"l": 64, "r": 20, "t": 40, "b": 56},
            "hovermode": "closest",
            "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
            "xaxis": scale,
            "yaxis": {"title": {"text": "validation, %"}, "automargin": True},
            "shapes": shapes_of_limit(axis, limit),
        },
    }
    return {
        "accuracy_figure": "accuracy",
        "accuracy_axis": axis,
        "accuracy_front": [
            {
                "arch": e.get("arch"),
                "role": kind(e),
                "cost": quantity(paid["value"], axis),
                "validation": percent(found["validation"]),
            }
            for e, found, paid in line
        ],
        "whiskers": any(paid["most"] > paid["value"] for *_, paid in points),
        "limited": is_number(limit),
    }
