"""The page of the verb select, drawn from the facts that selection.story records.

As in archscout.page every text is taken as untrusted, and the page opens offline and asks for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from archscout.page import fill
from archscout.page.colours import BLUE, GREEN, ORANGE, PALETTE, PURPLE, RED, SKY
from archscout.page.intervals import wilson
from archscout.page.words import count, label_text, percent

CLASSES = 12  # as stacked bars; more are drawn as a map of colours
LISTED = 40  # classes or clusters in a picture
COLOURS = (*PALETTE, "#F0E442", "#8c6bb1", "#7f8790", "#a6761d", "#66c2a5", "#c2a5cf")
GROUP_COLOURS = (BLUE, ORANGE, GREEN)

Figures = dict[str, dict[str, Any]]


def write_page(facts: Mapping[str, Any], pictures: Mapping[int, str], path: str | Path) -> Path:
    """Write the page of a selection and return its path.

    facts: as selection.json holds them. pictures: data URIs of the images shown, by position. About 5 MB, of which
    nearly all is plotly.js.
    """
    path = Path(path)
    path.write_text(fill("selection.html", view_of(facts, pictures)), encoding="utf-8", newline="\n")
    return path


def view_of(facts: Mapping[str, Any], pictures: Mapping[int, str]) -> dict[str, Any]:
    """What the template shows."""
    figures: Figures = {}
    classes = [str(name) for name in facts["classes"]]
    rounds = list(facts["rounds"])

    def shown(image: Mapping[str, Any]) -> dict[str, Any]:
        picture = str(pictures.get(image["position"], ""))
        safe = re.fullmatch(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/]+=*", picture)
        return {**image, "image": picture if safe else ""}

    pairs = [{**pair, "left": shown(pair["left"]), "came": shown(pair["came"])} for pair in facts["pairs"]]
    times = facts["time"]
    total = sum(row["seconds"] for row in times)
    figures["rounds"] = rounds_figure(rounds)
    figures["changes"] = changes_figure(rounds)
    for key, name in (("classes", "images"), ("hard_classes", "hard images")):
        figures[key] = classes_figure(rounds, key, name, classes)
    if sum(facts["never"]):
        figures["never"] = never_figure(facts["never"], facts["counts"], classes)
    audits = [*facts["audits"], facts["final"]]
    figures["drift"] = drift_figure(audits, facts["groups"])
    split = by_group(facts["by_class"], classes)
    if any(entry["complete"] for entry in split):
        figures["drift-classes"] = groups_figure(split, facts["groups"])
    clusters = by_group(facts["by_cluster"], None)
    for row, entry in zip(facts["by_cluster"], clusters, strict=True):
        entry["pictures"] = [shown(one) for one in row["images_shown"]]
    return {
        "title": f"What {facts['selector']} chose",
        "version": facts["versions"].get("archscout"),
        "created": facts["versions"].get("date"),
        "unfinished": False,
        "notes": facts["notes"],
        "facts": facts,
        "verdict": verdict(facts),
        "tiles": tiles(facts),
        "rounds": rounds,
        "pairs": pairs,
        "often": [shown(one) for one in facts["often"]],
        "never_shown": [shown(one) for one in facts["never_shown"]],
        "never_rows": [
            (name, images, none, none / images if images else None)
            for name, images, none in zip(classes, facts["counts"], facts["never"], strict=True)
        ],
        "suspects": [shown(one) for one in facts["suspects"]],
        "audits": audits,
        "drift": drift_text(facts["final"]),
        "by_class": split,
        "by_cluster": sorted(clusters, key=lambda entry: -entry["gap"] if entry["gap"] is not None else 2.0),
        "legend": list(zip(classes, COLOURS, strict=False)) if len(classes) <= CLASSES else [],
        "time": {
            "total": total,
            "rows": [
                {**row, "share": row["seconds"] / total if total else 0.0, "colour": COLOURS[k]}
                for k, row in enumerate(times)
            ],
        },
        "again": {
            "command": facts["command"],
            "seed": facts["seed"],
            "machine": facts["versions"].get("machine"),
            "versions": {k: v for k, v in facts["versions"].items() if k not in ("machine", "date")},
        },
        "figures": figures,
    }


def verdict(facts: Mapping[str, Any]) -> str:
    """The answer in a sentence."""
    n, rounds, ever = facts["images"], facts["rounds"], facts["ever"]
    size = rounds[-1]["images"]
    replaced = sum(entry["replaced"] for entry in rounds[1:])
    if size == n:
        return f"{facts['selector']} trained on all {n:,} images in its last round."
    part = f"{facts['selector']} trained on {size:,} of {n:,} images a round"
    if not facts["updates"]:
        return f"{part}, the same ones all along: {percent(1 - ever / n, 0)} of the images were never looked at."
    updates = f"{facts['updates']} update{'s' if facts['updates'] > 1 else ''}"
    return (
        f"{part}, replaced {replaced:,} in {updates}, and has used {percent(ever / n, 0)} of all images at least once."
    )


def tiles(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The numbers at the top."""
    n, rounds, last = facts["images"], facts["rounds"], facts["rounds"][-1]
    held = facts["validation"]
    seconds = {row["stage"]: row["seconds"] for row in facts["time"]}
    choosing = seconds.get("choosing images", 0.0) + seconds.get("embedding", 0.0)
    both = choosing + seconds.get("training", 0.0)
    low, high = wilson(held["value"], held["n"])
    notes = [f"95 % interval {percent(low)} to {percent(high)}"] if held["metric"] == "accuracy" else []
    return [
        {
            "name": "Images in a round",
            "value": count(last["images"]),
            "notes": [f"{percent(last['images'] / n, 0)} of {n:,} train images"],
        },
        {
            "name": "Rounds",
            "value": count(len(rounds)),
            "notes": [
                f"{facts['updates']} began with other images",
                f"as many images as {facts['epochs']:.3g} epochs",
            ],
        },
        {
            "name": "Chosen at least once",
            "value": percent(facts["ever"] / n),
            "notes": [f"{n - facts['ever']:,} images never were"],
        },
        {
            "name": "Mastered in the last round",
            "value": percent(last["mastered"]),
            "notes": [
                f"own class at {percent(facts['hardness'], 0)} or more",
                f"first round {percent(rounds[0]['mastered'])}",
            ],
        },
        {
            "name": "Doubtful labels",
            "value": count(facts["suspected"]),
            "notes": ["contradicted all along by the network"],
        },
        {
            "name": f"Validation {held['metric'].replace('_', ' ')}",
            "value": percent(held["value"]),
            "notes": [*notes, f"{held['n']:,} images, {facts['network']}"],
        },
        {
            "name": "Cost of selecting",
            "value": percent(choosing / both if both else None),
            "notes": ["of the training", "the embedding included" if "embedding" in seconds else "no embedding needed"],
        },
    ]


def axis_of_rounds(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The axis under every picture by round."""
    return {"title": {"text": "round"}, "automargin": True, "nticks": 10, "range": [0.4, len(rounds) + 0.6]}


def axis_of_shares(least: float) -> dict[str, Any]:
    """The axis of accuracies in percent, from below `least` to 100."""
    span = max(4.0, 100 - least)
    return {
        "title": {"text": "answered right, %"},
        "automargin": True,
        "range": [max(-2.0, 100 - 1.1 * span), 100 + 0.04 * span],
    }


def rounds_figure(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mastered and hard images of each round, and the share that is asked for an update."""
    x = [entry["round"] for entry in rounds]
    data = [
        {
            "type": "bar",
            "name": name,
            "x": x,
            "y": [entry["hard"] if key == "hard" else entry["seen"] - entry["hard"] for entry in rounds],
            "marker": {"color": colour},
            "hovertemplate": "round %{x}: %{y} images<extra>" + name + "</extra>",
        }
        for key, name, colour in (("mastered", "mastered at its end", SKY), ("hard", "still hard", RED))
    ]
    rule = [entry["round"] for entry in rounds if entry["asked"] is not None]
    if rule:
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "mastered images that trigger an update",
                "x": rule,
                "y": [entry["asked"] * entry["images"] for entry in rounds if entry["asked"] is not None],
                "line": {"color": "@ink", "width": 2, "dash": "dot"},
                "hovertemplate": "round %{x}: %{y:.0f} images<extra>asked for</extra>",
            }
        )
    return {
        "data": data,
        "layout": {
            "height": 300,
            "barmode": "stack",
            "bargap": 0.15,
            "margin": {"l": 56, "r": 14, "t": 50, "b": 46},
            "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
            "xaxis": axis_of_rounds(rounds),
            "yaxis": {"title": {"text": "images"}, "automargin": True, "rangemode": "tozero"},
        },
    }


def changes_figure(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What each round kept of the one before, and what it replaced."""
    x = [entry["round"] for entry in rounds]
    parts = (
        ("kept_hard", "kept as hard", RED),
        ("kept_mastered", "kept though mastered", SKY),
        ("again", "chosen again", ORANGE),
        ("new", "new", GREEN),
    )
    values = {key: [entry[key] for entry in rounds] for key in ("kept_hard", "kept_mastered", "new")}
    values["again"] = [entry["images"] - entry["kept_hard"] - entry["kept_mastered"] - entry["new"] for entry in rounds]
    return {
        "data": [
            {
                "type": "bar",
                "name": name,
                "x": x,
                "y": values[key],
                "marker": {"color": colour},
                "hovertemplate": "round %{x}: %{y} images<extra>" + name + "</extra>",
            }
            for key, name, colour in parts
            if any(values[key])
        ],
        "layout": {
            "height": 300,
            "barmode": "stack",
            "bargap": 0.15,
            "margin": {"l": 56, "r": 14, "t": 50, "b": 46},
            "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
            "xaxis": axis_of_rounds(rounds),
            "yaxis": {"title": {"text": "images"}, "automargin": True, "rangemode": "tozero"},
        },
    }


def classes_figure(rounds: Sequence[Mapping[str, Any]], key: str, what: str, classes: Sequence[str]) -> dict[str, Any]:
    """Images of each class by round: stacked bars, or a map of colours where there are many classes."""
    x = [entry["round"] for entry in rounds]
    rows = [[entry[key][k] for entry in rounds] for k in range(len(classes))]
    if len(classes) <= CLASSES:
        data = [
            {
                "type": "bar",
                "name": label_text(name, 18),
                "x": x,
                "y": row,
                "marker": {"color": COLOURS[k]},
                "hovertemplate": "round %{x}: %{y} " + what + "<extra>" + label_text(name, 40) + "</extra>",
            }
            for k, (name, row) in enumerate(zip(classes, rows, strict=True))
        ]
        return {
            "data": data,
            "layout": {
                "height": 300,
                "barmode": "stack",
                "bargap": 0.15,
                "margin": {"l": 50, "r": 10, "t": 10, "b": 46},
                "showlegend": False,
                "xaxis": axis_of_rounds(rounds),
                "yaxis": {"title": {"text": what}, "automargin": True, "rangemode": "tozero"},
            },
        }
    most = sorted(range(len(classes)), key=lambda k: min(rows[k]) - max(rows[k]))[:LISTED]  # those that change most
    order = sorted(most)
    return {
        "data": [
            {
                "type": "heatmap",
                "x": x,
                "y": list(range(len(order))),
                "z": [rows[k] for k in order],
                "text": [[label_text(classes[k], 60)] * len(x) for k in order],
                "colorscale": "@share",
                "zmin": 0,
                "hovertemplate": "<b>%{text}</b><br>round %{x}: %{z} " + what + "<extra></extra>",
                "colorbar": {"thickness": 12, "outlinewidth": 0},
            }
        ],
        "layout": {
            "height": 110 + 15 * len(order),
            "margin": {"l": 60, "r": 10, "t": 10, "b": 46},
            "xaxis": axis_of_rounds(rounds),
            "yaxis": {
                "tickvals": list(range(len(order))),
                "ticktext": [label_text(classes[k], 18) for k in order],
                "range": [len(order) - 0.5, -0.5],
                "automargin": True,
                "showgrid": False,
            },
        },
    }


def never_figure(never: Sequence[int], counts: Sequence[int], classes: Sequence[str]) -> dict[str, Any]:
    """The share of each class that was never chosen, the largest on top."""
    shares = [none / n if n else 0.0 for none, n in zip(never, counts, strict=True)]
    order = sorted(range(len(classes)), key=lambda k: -shares[k])[:LISTED]
    places = list(range(len(order)))
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "y": places,
                "x": [100 * shares[k] for k in order],
                "text": [f"{never[k]:,} of {counts[k]:,}" for k in order],
                "textposition": "auto",
                "hovertext": [label_text(classes[k], 60) for k in order],
                "hovertemplate": "<b>%{hovertext}</b><br>%{x:.1f} %: %{text} images<extra></extra>",
                "marker": {"color": PURPLE},
                "width": 0.7,
            }
        ],
        "layout": {
            "height": 70 + 26 * len(order),
            "margin": {"l": 60, "r": 20, "t": 8, "b": 46},
            "xaxis": {"title": {"text": "% of the class"}, "range": [0, 101]},
            "yaxis": {
                "tickvals": places,
                "ticktext": [label_text(classes[k], 22) for k in order],
                "range": [len(order) - 0.4, -0.6],
                "automargin": True,
                "showgrid": False,
            },
        },
    }


def drift_figure(audits: Sequence[Mapping[str, Any]], groups: Sequence[str]) -> dict[str, Any]:
    """Accuracy of the three groups at each audit; the last one is of all images."""
    data = []
    for k, name in enumerate(groups):
        rows = [(audit["round"], audit["accuracy"][k], audit["n"][k]) for audit in audits]
        rows = [row for row in rows if row[1] is not None]
        if rows:
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": name,
                    "x": [row[0] for row in rows],
                    "y": [100 * row[1] for row in rows],
                    "text": [f"{row[2]:,} images looked at" for row in rows],
                    "line": {"color": GROUP_COLOURS[k], "width": 2, "dash": ("solid", "dash", "dot")[k]},
                    "marker": {"color": GROUP_COLOURS[k], "size": 8, "symbol": ("circle", "square", "diamond")[k]},
                    "hovertemplate": "round %{x}: %{y:.1f} %<br>%{text}<extra>" + name + "</extra>",
                }
            )
    last = max(audit["round"] for audit in audits)
    least = min(value for trace in data for value in trace["y"])
    return {
        "data": data,
        "layout": {
            "height": 300,
            "margin": {"l": 56, "r": 14, "t": 40, "b": 46},
            "showlegend": True,
            "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
            "xaxis": {"title": {"text": "round"}, "automargin": True, "nticks": 8, "range": [0.4, last + 0.6]},
            "yaxis": {**axis_of_shares(least), "nticks": 6},
        },
    }


def by_group(rows: Sequence[Mapping[str, Any]], names: Sequence[str] | None) -> list[dict[str, Any]]:
    """Rows of a table by class or cluster, with how much worse never chosen images are than ever chosen ones."""
    found = []
    for row in rows:
        never, ever = row["accuracy"][2], sum(row["images"][:2])
        right = sum(n * value for n, value in zip(row["images"][:2], row["accuracy"][:2], strict=True) if n)
        gap = right / ever - never if ever and never is not None else None
        name = names[row["number"]] if names else f"cluster {row['number'] + 1}"
        complete = sum(value is not None for value in row["accuracy"]) > 1
        found.append(
            {
                "name": name,
                "gap": gap,
                "complete": complete,
                "images": row["images"],
                "accuracy": row["accuracy"],
            }
        )
    return found  # fmt: skip


def groups_figure(rows: Sequence[Mapping[str, Any]], groups: Sequence[str]) -> dict[str, Any]:
    """Accuracy of the three groups in each class, the largest gap on top."""
    order = sorted(rows, key=lambda entry: -entry["gap"] if entry["gap"] is not None else 2.0)[:LISTED]
    places = list(range(len(order)))
    lines = []
    least = 100 * min(value for entry in order for value in entry["accuracy"] if value is not None)
    for place, entry in zip(places, order, strict=True):
        values = [100 * value for value in entry["accuracy"] if value is not None]
        lines.append({"type": "line", "x0": min(values), "x1": max(values), "y0": place, "y1": place, "layer": "below",
                      "line": {"color": "@faint", "width": 2}})  # fmt: skip
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "y": [place + 0.2 * (k - 1) for place in places],
                "x": [None if entry["accuracy"][k] is None else 100 * entry["accuracy"][k] for entry in order],
                "text": [f"<b>{label_text(entry['name'], 60)}</b><br>{entry['images'][k]:,} images" for entry in order],
                "hovertemplate": "%{text}: %{x:.1f} % right<extra>" + name + "</extra>",
                "marker": {
                    "color": GROUP_COLOURS[k],
                    "size": 11,
                    "symbol": ("circle", "square", "diamond")[k],
                    "line": {"color": "@paper", "width": 1.5},
                },
            }
            for k, name in enumerate(groups)
            if any(entry["accuracy"][k] is not None for entry in order)
        ],
        "layout": {
            "height": 120 + 26 * len(order),
            "margin": {"l": 60, "r": 20, "t": 40, "b": 48},
            "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
            "shapes": lines,
            "xaxis": axis_of_shares(least),
            "yaxis": {
                "tickvals": places,
                "ticktext": [label_text(entry["name"], 22) for entry in order],
                "range": [len(order) - 0.4, -0.6],
                "automargin": True,
                "showgrid": False,
            },
        },
    }


def drift_text(final: Mapping[str, Any]) -> str:
    """What the last audit says, in a sentence."""
    if not final["images"][2]:
        return "Every image was chosen at least once, so none is left out."
    if final["gap"] is None:
        selected, _, never = final["accuracy"]
        return (
            "It cannot be told, as no image left the subset, or no class has images of both kinds. "
            f"Of the images never chosen {percent(never)} are answered right, of those trained on {percent(selected)}."
        )
    gap, error = 100 * final["gap"], 100 * final["error"]
    size = f"{abs(gap):.1f} points (± {2 * error:.1f}, two standard errors)"
    if final["drifted"]:
        return f"Yes: images that were never chosen are answered worse than those that were, by {size}."
    if gap - 2 * error > 0:
        return f"A little: never chosen images are answered worse by {size}, which is within what is tolerated."
    if gap + 2 * error < 0:
        return f"No: images that were never chosen are even answered better than those that were, by {size}."
    return f"No: the difference between images ever chosen and images never chosen is {size}, which may be chance."
