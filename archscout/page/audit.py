"""The section on the audit: parts, classes, confusion, and the images that the network fails on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from archscout.page.colours import BLUE, ORANGE
from archscout.page.intervals import wilson
from archscout.page.shape import Figures
from archscout.page.words import is_number, label_text, percent, plain_words


def section(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any] | str:
    audit = facts.get("audit") or {}
    if not audit:
        return "Left out: the winner has not been audited; the test part is still unopened."
    per_class = list(audit.get("per_class") or ())
    names = [str(entry.get("name")) for entry in per_class] or list((facts.get("data") or {}).get("classes") or ())
    shown: dict[str, Any] = {
        "parts": audit.get("parts") or {},
        "calibration_error": audit.get("calibration_error"),
        "per_class": per_class,
        "classes_figure": "",
        "confusion_figure": "",
        "pairs": [],
        "hidden": 0,
        "worst": {},
    }
    if per_class:
        shown["classes_figure"], shown["hidden"] = "classes", max(0, len(per_class) - 40)
        figures["classes"] = _class_figure(per_class)
    confusion = audit.get("confusion")
    if confusion:
        counts = np.asarray(confusion, float)
        if len(names) != len(counts):
            names = [str(k) for k in range(len(counts))]
        shown["confusion_figure"], shown["side"] = "confusion", 170 + max(330, min(800, 34 * len(counts)))
        figures["confusion"] = _confusion_figure(counts, names)
        wrong = counts - np.diag(np.diag(counts))
        rows = np.maximum(counts.sum(1), 1)
        for flat in np.argsort(-wrong, axis=None, kind="stable")[:10]:
            true, said = divmod(int(flat), len(counts))
            if wrong[true, said] > 0:
                share = percent(wrong[true, said] / rows[true])
                shown["pairs"].append((names[true], names[said], int(wrong[true, said]), share))
    for example in audit.get("worst") or ():
        picture = str(example.get("image") or "")
        safe = picture if re.fullmatch(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/]+=*", picture) else ""
        here = "test" if example.get("part") in ("test", None) else "learned"
        shown["worst"].setdefault(here, []).append({**example, "image": safe})
    return shown


def _class_figure(per_class: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Recall with its interval and precision of up to 40 classes, the lowest recall on top."""
    chosen = sorted(per_class, key=lambda entry: entry["recall"] if is_number(entry.get("recall")) else -1.0)[:40]
    places = list(range(len(chosen)))
    ends = [
        wilson(entry["recall"], int(entry["n"])) if is_number(entry.get("recall")) and entry.get("n") else None
        for entry in chosen
    ]
    text = [f"{label_text(entry.get('name'), 60)}<br>{plain_words(entry.get('n'))} test images" for entry in chosen]

    def share(entry: Mapping[str, Any], key: str) -> float | None:
        return 100 * entry[key] if is_number(entry.get(key)) else None

    recall = {
        "type": "bar",
        "orientation": "h",
        "name": "recall (95 % interval)",
        "y": places,
        "x": [share(entry, "recall") for entry in chosen],
        "text": text,
        "textposition": "none",
        "hovertemplate": "<b>%{text}</b><br>recall %{x:.1f} %<extra></extra>",
        "marker": {"color": BLUE},
        "width": 0.62,
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [100 * (e[1] - c["recall"]) if e else 0 for e, c in zip(ends, chosen, strict=True)],
            "arrayminus": [100 * (c["recall"] - e[0]) if e else 0 for e, c in zip(ends, chosen, strict=True)],
            "color": "@ink",
            "thickness": 1.2,
            "width": 3,
        },
    }
    precision = {
        "type": "scatter",
        "mode": "markers",
        "name": "precision",
        "y": places,
        "x": [share(entry, "precision") for entry in chosen],
        "text": text,
        "hovertemplate": "<b>%{text}</b><br>precision %{x:.1f} %<extra></extra>",
        "marker": {"color": ORANGE, "size": 10, "symbol": "diamond", "line": {"color": "@paper", "width": 1.5}},
    }
    return {
        "data": [recall, precision],
        "layout": {
            "height": 120 + 26 * len(chosen),
            "margin": {"l": 60, "r": 20, "t": 40, "b": 48},
            "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
            "xaxis": {"title": {"text": "%"}, "range": [0, 104], "tickvals": [0, 20, 40, 60, 80, 100]},
            "yaxis": {
                "tickvals": places,
                "ticktext": [label_text(entry.get("name"), 22) for entry in chosen],
                "range": [len(chosen) - 0.4, -0.6],
                "automargin": True,
                "showgrid": False,
            },
        },
    }


def _confusion_figure(counts: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Shares of each true class as colour; counts as text where there is room."""
    n = len(counts)
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    places = list(range(n))
    short = [label_text(name, 16) for name in names]
    long = [label_text(name, 60) for name in names]
    font = 12 if n <= 30 else 10 if n <= 50 else 7
    cells = [[round(float(v), 1) if v else None for v in row] for row in shares]
    heat: dict[str, Any] = {
        "type": "heatmap",
        "x": places,
        "y": places,
        "z": cells,
        "zmin": 0,
        "zmax": 100,
        "colorscale": "@share",
        "xgap": 1 if n <= 50 else 0,
        "ygap": 1 if n <= 50 else 0,
        "hoverongaps": False,
        "customdata": [[[long[i], long[j], int(counts[i, j])] for j in places] for i in places] if n <= 30 else None,
        "hovertemplate": "true <b>%{customdata[0]}</b><br>predicted <b>%{customdata[1]}</b><br>"
        "%{customdata[2]} images, %{z:.1f} % of the class<extra></extra>",
        "colorbar": {"title": {"text": "% of class", "side": "right"}, "thickness": 12, "outlinewidth": 0},
        "showscale": n <= 30,
    }
    if n > 30:
        del heat["customdata"]
        heat["names"] = long  # the page's script builds the hover texts from these, to keep the file small
        heat["counts"] = [[int(v) for v in row] for row in counts]
    if n <= 15:
        heat["text"] = [[str(int(v)) if v else "" for v in row] for row in counts]
        heat["texttemplate"] = "%{text}"
    ticks = {"tickvals": places, "ticktext": short, "tickfont": {"size": font}, "showgrid": False, "zeroline": False}
    return {
        "data": [heat],
        "layout": {
            "height": 110 + max(330, min(900, 34 * n)),
            "margin": {"l": 60, "r": 10, "t": 10, "b": 60},
            "xaxis": {
                "title": {"text": "predicted class", "standoff": 10},
                "tickangle": -90 if n > 8 else "auto",
                "range": [-0.5, n - 0.5],
                "automargin": True,
                **ticks,
            },
            "yaxis": {
                "title": {"text": "true class", "standoff": 10},
                "range": [n - 0.5, -0.5],
                "automargin": True,
                **ticks,
            },
        },
    }
