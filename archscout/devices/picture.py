"""The page of the verb profile: the distribution of the measured times, drawn as SVG, without any script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from archscout.costs.limits import digits, format_cost
from archscout.devices.latency import interval
from archscout.devices.measure import table

WIDTH, HEIGHT = 900, 260
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 12, 40
BARS = 48
DOTS = 1500  # repeats drawn over time; of more, some at even places


def distribution_page(found: Mapping[str, Any]) -> str:
    """The page of a profiled network, as `verb.profile` gives it, as one HTML text of some ten kilobytes.

    Every text in it is taken as untrusted; the page opens offline, asks for nothing and runs nothing.
    """
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    loader = PackageLoader("archscout", "templates")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    latency = found["latency"]
    threads = f"{latency['threads']} thread{'s' if latency['threads'] != 1 else ''}"
    return environment.get_template("profile.html").render(
        name=found["name"],
        css=Markup(loader.get_source(environment, "report.css")[0]),
        verdict=f"{format_cost('latency', latency['median'])} for {batch_words(latency['batch'])}: the median of "
        f"{latency['repeats']:,} repeats.",
        measured_on=f"{latency['device']}, {latency['runtime']}, {threads}, batch {latency['batch']}",
        warnings=found["warnings"],
        pictures=[histogram(found["samples"], latency), over_time(found["samples"], latency)],
        rows=table(found),
    )


def batch_words(batch: int) -> str:
    """How many images an inference has, in words."""
    return "one image" if batch == 1 else f"a batch of {batch} images"


def histogram(samples: Sequence[float], latency: Mapping[str, Any]) -> dict[str, Any]:
    """How often each time was measured; the slowest hundredth is gathered in the last bar."""
    values = np.asarray(samples)
    low, high = float(values.min()), float(max(np.quantile(values, 0.99), latency["p95"]))
    high = high if high > low else low * 1.001 + 1e-9
    bars = min(BARS, max(5, len(values) // 4))
    counts, edges = np.histogram(np.clip(values, low, high), bins=bars, range=(low, high))
    across, down = scale(low, high, LEFT, WIDTH - RIGHT), scale(0, counts.max(), HEIGHT - BOTTOM, TOP)
    rects = [
        {
            "kind": "bar", "x": across(a), "y": down(n), "width": round(max(across(b) - across(a) - 1, 0.5), 2),
            "height": round(HEIGHT - BOTTOM - down(n), 2), "text": f"{digits(a)} to {digits(b)} ms: {n}",
        }
        for n, a, b in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    ]  # fmt: skip
    _, least, most = interval(samples)
    start, end = across(min(max(least, low), high)), across(min(max(most, low), high))
    rects.append(
        {"kind": "interval", "x": start, "y": TOP, "width": round(max(end - start, 1), 2),
         "height": HEIGHT - TOP - BOTTOM, "text": "95 % interval of the median"}
    )  # fmt: skip
    slow = int((values > high).sum())
    slower = (
        f" {slow} slower repeats are in the last bar, up to {format_cost('latency', values.max())}." if slow else ""
    )
    return {
        "title": "How long an inference took",
        "width": WIDTH,
        "height": HEIGHT,
        "rects": rects,
        "dots": [],
        "lines": [
            upright("median", across(latency["median"])),
            upright("tail", across(min(latency["p95"], high))),
            {"kind": "axis", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": HEIGHT - BOTTOM, "y2": HEIGHT - BOTTOM},
        ],
        "texts": [*ticks(low, high, across), label(LEFT - 6, TOP + 10, "end", str(int(counts.max())))],
        "text": f"Solid line: the median, {format_cost('latency', latency['median'])}, with its 95 % interval shaded. "
        f"Dashed: the 95th percentile, {format_cost('latency', latency['p95'])}.{slower}",
    }


def over_time(samples: Sequence[float], latency: Mapping[str, Any]) -> dict[str, Any]:
    """Each repeat in the order in which it was measured, so that drift and disturbances show."""
    values = np.asarray(samples)
    places = np.unique(np.linspace(0, len(values) - 1, min(DOTS, len(values))).round().astype(int))
    low, high = float(values.min()), float(max(np.quantile(values, 0.99), latency["p95"]))
    high = high if high > low else low * 1.001 + 1e-9
    across, down = scale(0, max(len(values) - 1, 1), LEFT, WIDTH - RIGHT), scale(low, high, HEIGHT - BOTTOM, TOP)
    middle = down(latency["median"])
    return {
        "title": "In the order of measuring",
        "width": WIDTH,
        "height": HEIGHT,
        "rects": [],
        "dots": [{"x": across(p), "y": down(min(values[p], high))} for p in places.tolist()],
        "lines": [
            {"kind": "median", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": middle, "y2": middle},
            {"kind": "axis", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": HEIGHT - BOTTOM, "y2": HEIGHT - BOTTOM},
        ],
        "texts": [
            label(LEFT - 6, down(low) + 4, "end", digits(low)),
            label(LEFT - 6, down(high) + 4, "end", digits(high)),
            label(LEFT, HEIGHT - BOTTOM + 18, "start", "first repeat"),
            label(WIDTH - RIGHT, HEIGHT - BOTTOM + 18, "end", f"repeat {len(values):,}"),
        ],
        "text": "Milliseconds of each repeat. A rise is heat or another program, steps are changes of the clock.",
    }


def scale(low: float, high: float, start: float, end: float) -> Any:
    """The function that brings low..high to start..end, in hundredths of a pixel."""
    span = high - low or 1.0
    return lambda value: round(float(start + (value - low) / span * (end - start)), 2)


def ticks(low: float, high: float, across: Any) -> list[dict[str, Any]]:
    """Five labels under the axis."""
    values = np.linspace(low, high, 5).tolist()
    anchors = ("start", "middle", "middle", "middle", "end")
    return [
        label(across(v), HEIGHT - BOTTOM + 18, anchor, f"{digits(v)}{' ms' if anchor == 'end' else ''}")
        for v, anchor in zip(values, anchors, strict=True)
    ]


def label(x: float, y: float, anchor: str, text: str) -> dict[str, Any]:
    """A text in a picture."""
    return {"x": x, "y": y, "anchor": anchor, "text": text}


def upright(kind: str, x: float) -> dict[str, Any]:
    """A line from the top of a picture to its axis."""
    return {"kind": kind, "x1": x, "x2": x, "y1": TOP, "y2": HEIGHT - BOTTOM}
