"""The section on the choice: all candidates by rank and cost, their front, its knee, and the best within budgets."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from archscout.fronts import best_within, budgets_of, knee, pareto
from archscout.page.axes import axis_of_cost, axis_of_ranks, shapes_of_limit
from archscout.page.colours import BLUE, ORANGE, RED
from archscout.page.entrants import last_round, paid_of
from archscout.page.html import Late
from archscout.page.shape import Figures
from archscout.page.words import digits, is_number, label_text, percent, quantity, shortened, wrapped_label

DRAWN = 4000  # candidates drawn at most


def section(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any] | str:
    everyone = facts.get("candidates") or ()
    if not everyone:
        return "Left out: no candidate was scored."

    def has_rank(candidate: Mapping[str, Any]) -> bool:
        return is_number(candidate.get("rank")) and candidate.get("feasible", True)

    first = list(islice(filter(has_rank, everyone), 100))
    if not first:
        return f"Left out: none of the {len(everyone):,} candidates has a rank."
    names = list(dict.fromkeys(name for c in first for name, v in (c.get("costs") or {}).items() if is_number(v)))
    axes = [name for name in names if name.removesuffix("_high") == name]
    limited = facts.get("cost_axis")
    axes = ([limited] if limited in axes else []) + [name for name in axes if name != limited]
    if not axes:
        return "Left out: the candidates have no costs."
    summary = facts.get("summary") or {}
    winner = summary.get("winner")
    if summary.get("winner_role") == "baseline":  # of another space, where the same text may name another network
        winner = None
    places, ranks, over = (
        array("q"),
        array("d"),
        0,
    )  # columns, since there may be many: a dict is made where it is drawn
    columns = {name: array("d") for name in names}
    marked: set[int] = set()
    fronted: set[int] = set()
    for place, c in enumerate(everyone):
        over += not c.get("feasible", True) and not c.get("failures")
        if not has_rank(c):
            continue
        paid = c.get("costs") or {}
        for name, column in columns.items():
            value = paid.get(name)
            column.append(float(value) if value is not None and is_number(value) else math.nan)
        if c.get("finalist") or c.get("arch") == winner:
            marked.add(len(places))
        if c.get("front"):
            fronted.add(len(places))
        places.append(place)
        ranks.append(c["rank"])
    rank, costs = np.array(ranks), {name: np.array(column) for name, column in columns.items()}
    ranked = Picked(everyone, places)
    fronts = {}
    for axis in axes:
        known = np.flatnonzero(np.isfinite(costs[axis]))
        fronts[axis] = known[pareto(rank[known], costs[axis][known])]
    keep = {int(i) for front in fronts.values() for i in front}
    keep |= marked | fronted
    thinned = len(ranked) > DRAWN
    by_rank = np.argsort(rank, kind="stable")
    if thinned:
        keep |= {int(i) for i in by_rank[: DRAWN // 8]}
        rest = [int(i) for i in by_rank if int(i) not in keep]
        spread = np.linspace(0, len(rest) - 1, max(0, DRAWN - len(keep))).round().astype(int)
        keep |= {rest[i] for i in np.unique(spread)}
    else:
        keep = set(range(len(ranked)))
    scores = list(dict.fromkeys(name for c in first for name in (c.get("scores") or {})))
    box = "<b>%{customdata[0]}</b><br>rank %{y} of " + f"{len(ranked):,}"
    for k, axis in enumerate(axes):
        box += f"<br>{label_text(axis)} %{{customdata[{1 + k}]}}"
    for k, name in enumerate(scores[:16]):
        box += f"<br>{label_text(name)} %{{customdata[{1 + len(axes) + k}]}}"
    box += "<extra>%{fullData.name}</extra>"

    def hover(i: int) -> list[str]:
        c = ranked[i]
        return [
            wrapped_label(str(c.get("arch", ""))),
            *(quantity((c.get("costs") or {}).get(axis), axis) for axis in axes),
            *(digits((c.get("scores") or {}).get(score), 4) for score in scores[:16]),
        ]

    def trace(name: str, members: list[int], **style: Any) -> dict[str, Any]:
        return {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [shortened(costs[axes[0]][i]) for i in members],
            "y": [ranked[i]["rank"] for i in members],
            "customdata": [Late(hover, i) for i in members],
            "hovertemplate": box,
            **style,
        }

    ordered = [int(i) for i in by_rank if int(i) in keep]
    groups = [
        ([i for i in ordered if i not in marked], "candidate", {"marker": {"color": "@faint", "size": 5}}),
        (
            [i for i in ordered if i in marked and ranked[i].get("arch") != winner],
            "finalist",
            {"marker": {"color": ORANGE, "size": 11, "symbol": "diamond", "line": {"color": "@paper", "width": 1.5}}},
        ),
        (
            [i for i in ordered if ranked[i].get("arch") == winner][:1],
            "winner",
            {"marker": {"color": RED, "size": 18, "symbol": "star", "line": {"color": "@paper", "width": 1.5}}},
        ),
    ]
    groups = [group for group in groups if group[0]]
    traces = [trace(name, members, **style) for members, name, style in groups]
    line = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "front",
        "x": [shortened(costs[axes[0]][i]) for i in fronts[axes[0]]],
        "y": [ranked[i]["rank"] for i in fronts[axes[0]]],
        "line": {"color": BLUE, "width": 2, "shape": "hv"},
        "marker": {"size": 5, "color": BLUE},
        "hoverinfo": "skip",
    }
    traces.insert(1 if groups[0][1] == "candidate" else 0, line)
    limits = summary.get("limits") or {}
    scales = {}
    for axis in axes:
        shown = costs[axis][ordered]
        scales[axis] = axis_of_cost(axis, shown[np.isfinite(shown)], limits.get(axis))
    knees = {
        axis: knee(rank[fronts[axis]], costs[axis][fronts[axis]], log=scales[axis]["type"] == "log") for axis in axes
    }
    ends = {name: np.asarray(column, float)[places] for name, column in (facts.get("safe_ends") or {}).items()}
    mark = {axis: _knee_mark(ranked, fronts[axis], knees[axis], costs[axis], axis, scales[axis]) for axis in axes}
    if any(place is not None for place in knees.values()):
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": "knee",
                "marker": {"color": BLUE, "size": 17, "symbol": "circle-open", "line": {"width": 2.5}},
                "textfont": {"size": 12},
                "cliponaxis": False,
                "hoverinfo": "skip",
                **mark[axes[0]],
            }
        )
    views = {}
    for axis in axes:
        views[axis] = {
            "xaxis": scales[axis],
            "shapes": shapes_of_limit(axis, limits.get(axis)),
            "x": [
                [shortened(costs[axis][i]) for i in fronts[axis]]
                if one is line
                else mark[axis]["x"]
                if one["name"] == "knee"
                else [shortened(costs[axis][i]) for i in next(g[0] for g in groups if g[1] == one["name"])]
                for one in traces
            ],
            "front": [ranked[i]["rank"] for i in fronts[axis]],
            "knee": mark[axis],
        }
    span = len(ranked) > 100
    top = float(rank.max())
    figures["front"] = {
        "data": traces,
        "layout": {
            "height": 500,
            "margin": {"l": 64, "r": 20, "t": 62, "b": 56},
            "hovermode": "closest",
            "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
            "xaxis": views[axes[0]]["xaxis"],
            "yaxis": {
                "title": {"text": "rank in the pool (best on top)"},
                "automargin": True,
                **axis_of_ranks(top, span),
            },
            "shapes": views[axes[0]]["shapes"],
        },
        "views": views,
        "line": traces.index(line),
        "knee": len(traces) - 1 if traces[-1]["name"] == "knee" else None,
        "scales": {"log": axis_of_ranks(top, True), "linear": axis_of_ranks(top, False)},
    }
    members = sorted({int(i) for i in fronts[axes[0]]} | marked, key=lambda i: rank[i])
    return {
        "figure": "front",
        "axes": axes,
        "log": span,
        "total": len(everyone),
        "kinds": list(facts.get("kinds") or ()),
        "ranked": len(ranked),
        "over": over,
        "drawn": len(ordered) if thinned else None,
        "best": DRAWN // 8,
        "on_front": len(fronts[axes[0]]),
        "winner_drawn": any(name == "winner" for _, name, _ in groups),
        "winner_role": summary.get("winner_role"),
        "winner": summary.get("winner"),
        "choices": [
            {
                "axis": axis,
                "log": scales[axis]["type"] == "log",
                "knee": _knee_words(ranked, fronts[axis], knees[axis], axis),
                "rows": _budget_rows(facts, ranked, rank, costs[axis], ends.get(axis, costs[axis]), axis),
            }
            for axis in axes
        ],
        "rows": [
            {
                "arch": ranked[i].get("arch"),
                "rank": ranked[i]["rank"],
                "finalist": bool(ranked[i].get("finalist")),
                "winner": ranked[i].get("arch") == winner,
                "front": i in set(fronts[axes[0]].tolist()),
                "costs": [quantity((ranked[i].get("costs") or {}).get(axis), axis) for axis in axes],
            }
            for i in members[:60]
        ],
        "more": max(0, len(members) - 60),
    }


def _knee_mark(
    ranked: Picked, front: np.ndarray, place: int | None, costs: np.ndarray, axis: str, scale: Mapping[str, Any]
) -> dict[str, Any]:
    """Where the knee of a front stands in the picture, and what is written beside it."""
    if place is None:
        return {"x": [], "y": [], "text": [], "textposition": "top right"}
    i = int(front[place])
    low, high = scale["range"]
    at = math.log10(costs[i]) if scale["type"] == "log" else costs[i]
    rank = ranked[i]["rank"]
    return {
        "x": [shortened(costs[i])],
        "y": [rank],
        "text": [f"knee: rank {rank:,}, {quantity(costs[i], axis)}<br>{label_text(ranked[i].get('arch', ''), 26)}"],
        "textposition": "top left" if at > (low + high) / 2 else "top right",
    }


def _knee_words(ranked: Picked, front: np.ndarray, place: int | None, axis: str) -> dict[str, Any] | None:
    """The knee of a front for the text."""
    if place is None:
        return None
    found = ranked[int(front[place])]
    return {"arch": found.get("arch"), "rank": found["rank"], "cost": quantity(found["costs"][axis], axis)}


def _budget_rows(
    facts: Mapping[str, Any], ranked: Picked, rank: np.ndarray, costs: np.ndarray, most: np.ndarray, axis: str
) -> list[dict[str, Any]]:
    """The best network under each of some budgets on a cost: by validation where any was verified, else by rank.

    rank, costs, most: (n,) of the ranked candidates, `most` the safe end of the cost, which must be within.
    """
    limit = ((facts.get("summary") or {}).get("limits") or {}).get(axis)
    verified = [
        (found["validation"], -params, {**entrant, "epochs": found.get("epochs")}, paid)
        for entrant in facts.get("entrants") or ()
        if (found := last_round(entrant)) and (paid := paid_of(entrant, axis)) and not entrant.get("failure")
        if entrant.get("role") != "teacher"
        for params in [(entrant.get("costs") or {}).get("params") or 0.0]
    ]
    rows = []
    for budget, share in budgets_of(costs, limit if is_number(limit) else None):
        why = "your limit" if share is None else f"{percent(share, 0)} of the candidates cost no more"
        row: dict[str, Any] = {"budget": quantity(budget, axis), "why": why, "limit": share is None, "arch": None}
        inside = [one for one in verified if one[3]["most"] <= budget]
        if inside:
            value, _, found, paid = max(inside, key=lambda one: one[:2])
            row["merit"], row["verified"] = percent(value), True
        elif (i := best_within(rank, most, budget)) is not None:
            found = ranked[i]
            paid = {"value": costs[i], "most": most[i], "measured": False}
            row["merit"], row["verified"] = f"rank {found['rank']:,}", False
        else:
            rows.append(row)
            continue
        row |= {
            "arch": found.get("arch"),
            "role": found.get("role"),
            "epochs": found.get("epochs"),
            "cost": quantity(float(paid["value"]), axis),
            "most": quantity(float(paid["most"]), axis) if paid["most"] > paid["value"] else "",
            "measured": paid["measured"],
            "params": quantity((found.get("costs") or {}).get("params"), "params"),
        }
        rows.append(row)
    return rows


class Picked:
    """Some entries of a sequence, by place among them; an entry is made when it is read."""

    def __init__(self, whole: Sequence[Mapping[str, Any]], places: Sequence[int]) -> None:
        self._whole, self._places = whole, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, i: int) -> Mapping[str, Any]:
        return self._whole[self._places[i]]
