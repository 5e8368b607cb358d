"""The section on the network: its table of layers, and a picture of its cell or its stages."""

# ruff: noqa: RUF001 (typographic minus, dash and times are meant)

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from archscout.page.colours import PALETTE
from archscout.page.shape import Figures


def section(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any] | str:
    network = facts.get("network") or {}
    kind = network.get("kind")
    cells = network.get("cells") or () if kind == "cells" else [network] if kind == "cell" else ()
    if cells and all(cell.get("nodes") for cell in cells):
        pictures = [cell_picture(cell["nodes"], cell.get("edges") or ()) for cell in cells]
        return {"cells": [{"name": cell.get("name", "cell"), **p} for cell, p in zip(cells, pictures, strict=True)]}
    shape = (facts.get("data") or {}).get("shape")
    if shape and network.get("resolution"):
        shape = (shape[0], network["resolution"], network["resolution"])
    if kind == "stages" and network.get("stages"):
        return {"stages": stage_picture(network["stages"], shape)}
    if kind == "layers" and network.get("layers"):
        layers = list(network["layers"])
        return {"stages": stage_picture(_runs(layers), shape), "layers": layers}
    return "Left out: no picture of a winner was recorded."


def cell_picture(nodes: int | Sequence[str], edges: Iterable[Sequence[Any]]) -> dict[str, Any]:
    """Positions of a cell's nodes and edges for the page's drawing: nodes in a row, longer edges as nested arcs.

    nodes: a count or names. edges: (from, to, operation). Returns plain numbers in pixels; the template draws them.
    """
    names = [str(i) for i in range(nodes)] if isinstance(nodes, int) else [str(name) for name in nodes]
    edges = [(int(a), int(b), str(op)) for a, b, op in edges]
    words = list(dict.fromkeys(op for _, _, op in edges))
    shown = {op: op if len(op) <= 22 else op[:21] + "…" for op in words}
    wide = {op: 7.0 * len(shown[op]) + 14 for op in words}
    colour: dict[str, str | None] = {}
    for op in words:
        idle = op.lower() in ("none", "zero", "zeroize")
        colour[op] = None if idle else PALETTE[sum(c is not None for c in colour.values()) % len(PALETTE)]
    lanes: dict[int, list[tuple[int, int, int]]] = {1: [], -1: []}  # +1 above the row, -1 below: spans by lane
    arcs = []
    straight: set[tuple[int, int]] = set()
    for a, b, op in sorted(edges, key=lambda edge: (abs(edge[1] - edge[0]), edge[0])):
        left, right = min(a, b), max(a, b)
        if right - left == 1 and (left, right) not in straight:
            straight.add((left, right))
            arcs.append((a, b, op, 0))
            continue

        def lane_of(side: int, left: int = left, right: int = right) -> int:
            return 1 + max((lane for low, high, lane in lanes[side] if low < right and left < high), default=0)

        side = 1 if lane_of(1) <= lane_of(-1) else -1
        lane = lane_of(side)
        lanes[side].append((left, right, lane))
        arcs.append((a, b, op, side * lane))
    step, pad, radius = 46, 34, 17
    cut = [name if len(name) <= 14 else name[:13] + "…" for name in names]
    half = [max(radius, 3.7 * len(name) + 8) for name in cut]
    above = max([0, *(arc[3] for arc in arcs)])
    below = max([0, *(-arc[3] for arc in arcs)])
    middle = pad + above * step
    gap = max([108.0, *(wide[op] + 50 + 2 * max(half) for op in words)])
    at = [pad + max(half) + gap * i for i in range(len(names))]
    drawn = []
    for a, b, op, lane in arcs:
        x1, x2, aside = at[a], at[b], 0.0
        way = 1 if x2 > x1 else -1
        if lane == 0:
            start, end, y = x1 + way * half[a], x2 - way * (half[b] + 7), middle
            line = f"M{start:.1f} {middle} L{end:.1f} {middle}"
        else:
            sign = 1 if lane > 0 else -1
            y = middle - lane * step
            start, end = x1 + way * 7, x2 - way * 7
            foot, head = middle - sign * (radius - 1), middle - sign * (radius + 7)
            bend = min(0.3 * abs(x2 - x1), 60)
            if (b - a) % 2 == 0:  # an outer arc that ends at the node in the middle would run through the label
                outer = {end for c, d, _, other in arcs if other * lane > lane * lane for end in (c, d)}
                aside = gap / 2 if (a + b) // 2 in outer else 0.0
            line = (
                f"M{start:.1f} {foot} C{start:.1f} {y} {start + way * bend / 2:.1f} {y} {start + way * bend:.1f} {y} "
                f"L{end - way * bend:.1f} {y} C{end - way * bend / 2:.1f} {y} {end:.1f} {y} {end:.1f} {head}"
            )
        drawn.append(
            {
                "line": line,
                "colour": colour[op],
                "text": shown[op],
                "x": round((x1 + x2) / 2 + aside, 1),
                "y": y,
                "wide": wide[op],
                "what": f"{names[a]} to {names[b]}: {op}",
            }
        )
    return {
        "width": round(at[-1] + max(half) + pad),
        "height": middle + below * step + pad,
        "radius": radius,
        "nodes": [
            {"x": x, "y": middle, "half": side, "name": short, "full": name}
            for x, side, short, name in zip(at, half, cut, names, strict=True)
        ],
        "edges": drawn,
        "rows": [(names[a], names[b], op) for a, b, op in edges],
    }


def stage_picture(stages: Sequence[Mapping[str, Any]], shape: Sequence[int] | None) -> dict[str, Any]:
    """Positions of a network's stages for the page's drawing: height shows resolution, width shows channels.

    shape: (channels, height, width) of the input, from which the resolutions follow where a stage has no `output`.
    """
    side = float(shape[1]) if shape else None
    rows = []
    for i, stage in enumerate(stages):
        output = stage.get("output")
        here: float | None
        if output:
            here = float(output[1]) if len(output) > 1 else 1.0
            channels = float(output[0])
        else:
            here = math.ceil(side / (stage.get("stride") or 1)) if side is not None else None
            channels = float(stage.get("width") or 1)
        side = here
        rows.append((str(stage.get("name") or f"stage {i + 1}"), int(stage.get("blocks") or 1), channels, here, stage))
    widest = max(row[2] for row in rows)
    tallest = max([row[3] for row in rows if row[3]], default=1.0) if not shape else float(shape[1])
    x, top, tall = 24.0, 20, 150
    parts: list[dict[str, Any]] = []

    def box(name: str, blocks: int, channels: float, here: float | None, lines: list[str], hint: str, i: int) -> None:
        nonlocal x
        height = 16 + (tall - 16) * math.sqrt(min(1.0, here / tallest)) if here else 80
        width = 7 + 25 * math.sqrt(channels / widest)
        slabs = min(blocks, 6)
        span = slabs * (width + 3) - 3
        column = max(span, 7.0 * max(len(line) for line in [name, *lines]) + 18, 66)
        left = x + (column - span) / 2
        parts.append(
            {
                "slabs": [round(left + k * (width + 3), 1) for k in range(slabs)],
                "slab": round(width, 1),
                "y": round(top + (tall - height) / 2, 1),
                "height": round(height, 1),
                "middle": round(x + column / 2, 1),
                "ends": (round(left, 1), round(left + span, 1)),
                "name": name,
                "lines": lines,
                "hint": hint,
                "colour": PALETTE[i % len(PALETTE)] if i >= 0 else None,
            }
        )
        x += column + 12

    if shape:
        channels, high, wide = (int(v) for v in shape)
        box("input", 1, channels, high, [f"{channels} ch", f"{high}×{wide}"], "the image", -1)
    for i, (name, blocks, channels, here, stage) in enumerate(rows):
        cut = name if len(name) <= 16 else name[:15] + "…"
        lines = [f"{blocks} × {channels:.0f} ch" if blocks > 1 else f"{channels:.0f} ch"]
        if here:
            lines.append(f"{here:.0f}×{here:.0f}" if here > 1 else "1×1")
        text = str(stage.get("text") or "")
        lines += _lines(text, 18)
        box(cut, blocks, channels, here, lines, f"{name}: {text}" if text else name, i)
    deepest = max(len(part["lines"]) for part in parts)
    return {
        "width": round(x + 12),
        "height": top + tall + 28 + 16 * deepest + 8,
        "baseline": top + tall,
        "centre": top + tall / 2,
        "parts": parts,
        "rows": [
            (name, blocks, channels, here, str(stage.get("text") or "")) for name, blocks, channels, here, stage in rows
        ],
    }


def _lines(text: str, width: int, most: int = 3) -> list[str]:
    """Text broken at spaces into at most `most` lines of `width` characters."""
    import textwrap

    return textwrap.wrap(text, width, max_lines=most, placeholder="…") if text else []


def _runs(layers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Layers in a row with the same output shape, as one stage each."""
    stages: list[dict[str, Any]] = []
    for i, layer in enumerate(layers):
        output = list(layer.get("output") or ())
        if not output:
            continue
        if stages and stages[-1]["output"] == output:
            stages[-1]["blocks"] += 1
            stages[-1]["name"] = f"layers {stages[-1]['first'] + 1}–{i + 1}"
        else:
            stages.append({"name": f"layer {i + 1}", "blocks": 1, "output": output, "first": i, "kinds": {}})
        kinds = stages[-1]["kinds"]
        kinds[str(layer.get("type"))] = kinds.get(str(layer.get("type")), 0) + 1
    for stage in stages:
        kinds = sorted(stage["kinds"].items(), key=lambda item: -item[1])
        stage["text"] = ", ".join(f"{count} {kind}" for kind, count in kinds)
    return stages
