"""The section on the images: how many of each class in each part."""

# ruff: noqa: RUF001 (typographic minus, dash and times are meant)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archscout.page.colours import BLUE, ORANGE, PALETTE, SKY
from archscout.page.shape import Figures
from archscout.page.words import label_text


def section(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any] | str:
    data = facts.get("data") or {}
    if not data:
        return "Left out: the images have not been read."
    classes, counts = [str(name) for name in data.get("classes") or ()], data.get("counts") or {}
    figure = ""
    if classes and counts:
        figure, many = "counts", len(classes) > 40
        places = list(range(len(classes)))
        colours = {"train": BLUE, "validation": SKY, "test": ORANGE}
        figures["counts"] = {
            "data": [
                {
                    "type": "bar",
                    "name": label_text(part),
                    "x": places,
                    "y": list(values),
                    "text": [label_text(name, 60) for name in classes],
                    "textposition": "none",
                    "hovertemplate": "<b>%{text}</b><br>%{y} images<extra>%{fullData.name}</extra>",
                    "marker": {"color": colours.get(part, PALETTE[k % len(PALETTE)])},
                }
                for k, (part, values) in enumerate(counts.items())
            ],
            "layout": {
                "height": 320,
                "barmode": "stack",
                "margin": {"l": 60, "r": 14, "t": 40, "b": 60},
                "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
                "xaxis": {
                    "tickvals": [] if many else places,
                    "ticktext": [] if many else [label_text(name, 16) for name in classes],
                    "title": {"text": f"{len(classes)} classes (point at a bar for its name)" if many else ""},
                    "range": [-0.6, len(classes) - 0.4],
                    "tickangle": -45 if len(classes) > 6 and max(map(len, classes)) > 4 else "auto",
                    "automargin": True,
                },
                "yaxis": {"title": {"text": "images"}, "automargin": True},
            },
        }
    shape = data.get("shape")
    return {
        "figure": figure,
        "source": data.get("source"),
        "images": data.get("images"),
        "shape": f"{shape[1]} × {shape[2]} pixels, {shape[0]} channel{'s' if shape[0] != 1 else ''}" if shape else None,
        "classes": classes,
        "counts": counts,
        "split": data.get("split"),
        "remarks": list(data.get("notes") or ()),
    }
