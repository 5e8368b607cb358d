"""One self-contained HTML page of a run, drawn from plain facts.

`write_report(facts, path)` wants a JSON-able mapping shaped like `Facts` below. Every key is optional: a section whose
facts are missing is left out with one line that says why, so that a run that is not finished gives a page too.

Fractions (accuracies, their intervals, calibration error) are 0..1 and shown in percent. Costs are in base units:
`latency` ms for one image, `memory` bytes, `params`, `macs`, `flops` counts; times are seconds.

Every text in the facts is taken as untrusted. HTML is escaped by Jinja's autoescape, JSON inside the page carries no
`<`, `>` or `&`, texts handed to plotly (which reads pseudo-HTML) are entity-escaped, and the page's
Content-Security-Policy runs only its own two scripts, by their hashes, and allows no request to anywhere.
"""

# ruff: noqa: RUF001 (typographic minus, dash and times are meant)

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
import shlex
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np

from archscout import chapters
from archscout.costs.limits import IN_BYTES, format_cost
from archscout.facts import TIMED, standing
from archscout.files import write_whole
from archscout.fronts import best_within, budgets_of, knee, pareto

BASE_UNITS = {"latency": "ms", "energy": "mJ", "power": "W"}
DRAWN = 4000  # candidates drawn at most
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # Okabe and Ito's palette, safe for colour-blind
PURPLE, SKY = "#CC79A7", "#56B4E9"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY)
ROLES = {"finalist": (BLUE, "circle"), "largest": (ORANGE, "square"), "random": (PURPLE, "diamond")}
ROLES["baseline"] = (GREEN, "triangle-up")


class Timing(TypedDict, total=False):
    """A measured latency: milliseconds for one image; `low` and `high` are its spread."""

    median: float
    low: float
    high: float
    p95: float
    device: str
    runtime: str
    threads: int


class Estimate(TypedDict, total=False):
    """A metric on `n` images with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


class Baseline(TypedDict, total=False):
    """The plain network beside the winner; `validation` is from the same round as the winner's."""

    arch: str
    validation: float
    params: float
    latency: float


class Summary(TypedDict, total=False):
    """The answer of a run. `verdict` is the sentence at the top; one is written from the rest if it is missing."""

    space: str
    winner: str
    winner_role: Literal["finalist", "largest", "random", "baseline"]
    metric: str
    test: Estimate
    validation: float
    baseline: Baseline
    latency: Timing
    onnx_latency: Timing
    memory_bytes: float
    peak_memory_measured: float
    params: float
    macs: float
    costs: dict[str, float]
    energy: dict[str, Any]  # energy mJ, power W, metered, source
    int8: dict[str, Any]  # see deploy.Int8
    target: dict[str, Any]  # see facts.target_facts
    limits: dict[str, float]
    seconds: float
    verdict: str


class DataFacts(TypedDict, total=False):
    """What was learned from: `shape` is (channels, height, width), `counts` part -> images per class."""

    source: str
    images: int
    shape: Sequence[int]
    classes: Sequence[str]
    counts: dict[str, Sequence[int]]
    notes: Sequence[str]
    split: str


class Change(TypedDict, total=False):
    """A plan that had to be changed while running; `time` is a text or seconds since the start."""

    time: str | float
    what: str
    why: str


class Stage(TypedDict, total=False):
    """A row of equal blocks; `output` (c, h, w) is worked out from strides and the input shape if missing."""

    name: str
    blocks: int
    width: int
    stride: int
    text: str
    output: Sequence[int]


class Layer(TypedDict, total=False):
    """One layer in order of execution; `output` is (c, h, w) or (features,)."""

    name: str
    type: str
    output: Sequence[int]
    params: int


class Network(TypedDict, total=False):
    """The picture of the winner: a cell (nodes: a count or names; edges: from, to, operation), stages, or layers.

    `cells`: several such cells, each with a `name` (kind "cells").
    `resolution`: side in pixels that the image is resized to before the first stage, if it is.
    """

    kind: Literal["cell", "cells", "stages", "layers"]
    nodes: int | Sequence[str]
    edges: Sequence[tuple[int, int, str]]
    cells: Sequence[Mapping[str, Any]]
    stages: Sequence[Stage]
    layers: Sequence[Layer]
    resolution: int


class Candidate(TypedDict, total=False):
    """One scored network. A candidate without a rank is counted, not drawn."""

    arch: str
    rank: int
    scores: dict[str, float]
    costs: dict[str, float]
    feasible: bool
    front: bool
    finalist: bool


class Round(TypedDict, total=False):
    """One measurement in verification: `epochs` trained so far, the metric on validation images, seconds spent."""

    epochs: float
    validation: float
    seconds: float


class Entrant(TypedDict, total=False):
    """One network in verification. `eliminated_after` is the number of the last round it took part in, 1 = first.

    `timed`: cost of a device -> {value, most, measured}, see facts.timed_costs.
    """

    arch: str
    role: str
    costs: dict[str, float]
    measured_latency: float
    timed: dict[str, dict[str, Any]]
    rank: int
    rounds: Sequence[Round]
    eliminated_after: int | None
    stopped_by: str
    pulled: str
    scores: dict[str, float]
    failure: str | None
    winner: bool


class Correlation(TypedDict, total=False):
    """Rank correlation of a proxy with the metric over entrants; positive: better scores go with a better metric.

    `low`, `high`: 95 % interval of `spearman`, worked out by `rank_interval` if missing.
    """

    spearman: float
    kendall: float
    n: int
    low: float
    high: float


class Epoch(TypedDict, total=False):
    """One row of the training history; `validation` is the metric on held-out images if it was looked at."""

    epoch: float
    loss: float
    accuracy: float
    lr: float
    validation: float


class Training(TypedDict, total=False):
    """Full training of the winner."""

    history: Sequence[Epoch]
    seconds: float
    recipe: dict[str, Any]


class PartResult(TypedDict, total=False):
    """The audit of one part; `low`, `high`: 95 % interval of the accuracy."""

    accuracy: float
    balanced_accuracy: float
    n: int
    low: float
    high: float


class ClassResult(TypedDict, total=False):
    """One class on the test part: share of its `n` images found, share of its predictions that are right."""

    name: str
    recall: float
    precision: float
    n: int


class Example(TypedDict, total=False):
    """An image the winner got wrong; `image` is a data URI made by `thumbnail`."""

    name: str
    true: str
    predicted: str
    confidence: float
    part: str
    image: str


class AuditFacts(TypedDict, total=False):
    """The trained winner on all images; `per_class` and `confusion` (row = true class) are of the test part."""

    parts: dict[str, PartResult]
    per_class: Sequence[ClassResult]
    confusion: Sequence[Sequence[int]]
    worst: Sequence[Example]
    calibration_error: float


class Spent(TypedDict, total=False):
    """Wall-clock seconds of one stage."""

    stage: str
    seconds: float


class FileFacts(TypedDict, total=False):
    """A file in the run folder."""

    name: str
    what: str
    bytes: int


class Failure(TypedDict, total=False):
    """A network that could not be scored or trained, and why."""

    arch: str
    reason: str


class Usage(TypedDict, total=False):
    """A snippet for 'How to use it'; given ones replace the default ones."""

    title: str
    code: str


class Facts(TypedDict, total=False):
    """Everything the page can show. `folder`: of the run; `config`: its TOML text; `versions`: package -> version.

    `safe_ends`: cost -> its safe end for each candidate in order, where that is not the cost; see facts.safe_ends.
    `spent`: see facts.search_cost.
    """

    title: str
    version: str
    created: str
    state: Literal["finished", "unfinished"]
    command: str
    folder: str
    config: str
    seed: int
    versions: dict[str, str]
    machine: str
    summary: Summary
    data: DataFacts
    plan: dict[str, Any]
    plan_changes: Sequence[Change]
    network: Network
    candidates: Sequence[Candidate]
    cost_axis: str
    safe_ends: dict[str, Sequence[float]]
    entrants: Sequence[Entrant]
    correlation: dict[str, Correlation]
    training: Training
    audit: AuditFacts
    time: Sequence[Spent]
    spent: dict[str, Any]
    files: Sequence[FileFacts]
    usage: Sequence[Usage]
    failures: Sequence[Failure]


def write_report(facts: Facts | Mapping[str, Any], path: str | Path) -> Path:
    """Write the page of a run to `path` and return the path; opens offline in any browser.

    facts: see `Facts`; any part may be missing. Costs about a second for 100,000 candidates; the file has about
    5 MB (plotly.js) plus at most 1 MB of points. Of more than 4,000 candidates an even share by rank is drawn, with
    every finalist, every member of a front and the best ranks, and the page says so.
    """
    path = Path(path)
    write_whole(path, render(facts))
    return path


def render(facts: Facts | Mapping[str, Any]) -> str:
    """The HTML text of a run's page; `write_report` is the same into a file."""
    return fill("report.html", _view(facts))


def fill(template: str, view: Mapping[str, Any]) -> str:
    """A page from a template of this package: `view` is what it shows, and `view["figures"]` what plotly draws.

    The template gets the style, plotly.js and the page's own script, and a policy that lets nothing else run.
    """
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = _environment()

    def read(name: str) -> str:
        return environment.loader.get_source(environment, name)[0].replace("\r\n", "\n")

    scripts = [get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n"), read("report.js")]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return environment.get_template(template).render(
        {
            **view,
            "css": Markup(read("report.css")),
            "scripts": [Markup(script) for script in scripts],
            "figures": Markup(embed(view["figures"])),
            "policy": f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
            "base-uri 'none'; form-action 'none'",
        }
    )


@cache
def _environment() -> Any:
    """The templates; kept, since compiling them takes longer than a page."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("archscout", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        quantity=quantity,
        percent=percent,
        digits=digits,
        duration=duration,
        count=count,
        size=_bytes,
        role=_role,
        plain=_plain,
    )
    return environment


def embed(value: Any) -> str:
    """JSON that is safe inside a script block: no `<`, `>`, `&`, nothing beyond ASCII; what is not finite is null."""
    try:
        text = _json(value)
    except ValueError:  # a NaN somewhere
        text = _json(_finite(value))
    return text.translate({ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"})


def _json(value: Any) -> str:
    """JSON in ASCII; piece by piece, which takes a quarter of the memory of one go."""
    text = bytearray()
    encoder = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"), default=_made)
    for piece in encoder.iterencode(value):
        text += piece.encode("ascii")
    return text.decode("ascii")


class _Late:
    """A part of a picture that is made while it is written, and not kept."""

    __slots__ = ("_i", "_make")

    def __init__(self, make: Callable[[int], Any], i: int) -> None:
        self._make, self._i = make, i

    def made(self) -> Any:
        return self._make(self._i)


def _made(value: Any) -> Any:
    """What json writes for what it does not know."""
    return _finite(value.made() if isinstance(value, _Late) else value)


def thumbnail(array: Any, side: int = 64) -> str:
    """A PNG data URI of one image, for `worst[i]["image"]`; about 8 kB for 64 × 64 colour pixels.

    array: uint8, (height, width), (height, width, 1) or (height, width, 3). Larger images are shrunk so that the
    longer side has `side` pixels.
    """
    from PIL import Image

    pixels = np.ascontiguousarray(array)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3)):
        raise ValueError(f"thumbnail wants uint8 (H, W), (H, W, 1) or (H, W, 3), got {pixels.dtype} {pixels.shape}")
    image = Image.fromarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def rank_interval(spearman: float, n: int) -> tuple[float, float] | None:
    """The approximate 95 % interval of a Spearman correlation of `n` points without ties, or None below four points.

    On Fisher's scale, with the standard error sqrt((1 + r²/2) / (n - 3)) of Bonett and Wright, "Sample size
    requirements for estimating Pearson, Kendall and Spearman correlations", Psychometrika 65 (2000). Points in perfect
    order would give an interval of no width; there the inner end is that of the next lower value that r can take,
    1 - 12 / (n (n² - 1)), where one neighbouring pair is swapped.
    """
    if n < 4:
        return None
    edge = 1 - 12 / (n * (n * n - 1))
    inner = max(-edge, min(edge, spearman))
    half = 1.959964 * math.sqrt((1 + inner * inner / 2) / (n - 3))
    low, high = math.tanh(math.atanh(inner) - half), math.tanh(math.atanh(inner) + half)
    return (-1.0 if spearman < -edge else low), (1.0 if spearman > edge else high)


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of `n` cases, by Wilson's score (Journal of the American Statistical Association 22,
    1927)."""
    z = 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(max(0.0, share * (1 - share)) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


# Words and numbers


def digits(value: Any, count: int = 3) -> str:
    """A number with `count` significant digits, or a dash for what is no finite number."""
    if not _number(value):
        return "–"
    if value == 0:
        return "0"
    size = int(f"{value:.{count - 1}e}".partition("e")[2])
    if size < -4 or size >= 9:
        return f"{value:.{count - 1}e}".replace("-", "−")
    return f"{value:,.{max(0, count - 1 - size)}f}".replace("-", "−")


def percent(value: Any, decimals: int = 1) -> str:
    """A share 0..1 in percent, or a dash."""
    return f"{100 * value:.{decimals}f}\u00a0%".replace("-", "−") if _number(value) else "–"


def duration(seconds: Any) -> str:
    """Seconds as people say them, in at most two units, or a dash."""
    if not _number(seconds):
        return "–"
    if seconds < 60:
        return f"{digits(seconds, 2 if seconds < 10 else 3)} s"
    total = round(seconds)
    hours, minutes = total // 3600, total % 3600 // 60
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {total % 60:02d} s"


def quantity(value: Any, name: str) -> str:
    """A cost with its unit in the size people read: '1.23 M', '4.56 MB', '7.89 ms'; a dash if it is no number."""
    if not _number(value):
        return "–"
    if name in BASE_UNITS:
        return f"{digits(value)}\u00a0{BASE_UNITS[name]}"
    if name in IN_BYTES:
        return _bytes(value)
    if name in ("params", "macs", "flops"):
        return _scaled(value, "")
    if name in ("accuracy", "balanced_accuracy"):
        return percent(value)
    return digits(value, 4)


def count(value: Any) -> str:
    """A count as people write it, 12,345, or a dash; what is not whole keeps up to three digits."""
    if not _number(value):
        return "–"
    return f"{int(value):,}" if value == int(value) else f"{value:.3g}"


def _bytes(value: Any) -> str:
    return _scaled(value, "B") if _number(value) else "–"


def _scaled(value: float, unit: str) -> str:
    for prefix, step in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 0.9995 * step:
            return f"{digits(value / step)}\u00a0{prefix}{unit}"
    return f"{digits(value)}\u00a0{unit}".strip()


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value


def _role(role: Any) -> str:
    names = {
        "finalist": "finalist",
        "largest": "largest allowed network (a control)",
        "random": "random network (a control)",
        "baseline": "plain baseline (a control)",
    }
    return names.get(str(role), str(role or ""))


def _plain(value: Any) -> str:
    """A setting as text: a bool as yes or no, a number unchanged, anything else as it prints."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if _number(value):
        return f"{value:,}" if isinstance(value, int) else f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(entry)}" for key, entry in value.items())
    return "–" if value is None else str(value)


def _label(text: Any, width: int = 0) -> str:
    """Text for plotly, which reads pseudo-HTML and `%{...}`: every active character as an entity, cut to `width`."""
    text = str(text)
    if width and len(text) > width:
        text = text[: width - 1] + "…"
    text = re.sub(r"[\x00-\x1f\x7f\u2028\u2029]", " ", text)
    return re.sub(r"[&<>%\"'${}]", lambda found: f"&#{ord(found[0])};", text)


def _wrapped(text: str, width: int = 56, lines: int = 4) -> str:
    """A long text for a hover box, broken into lines."""
    parts = [text[at : at + width] for at in range(0, len(text), width)] or [""]
    if len(parts) > lines:
        parts = [*parts[: lines - 1], parts[lines - 1][: width - 1] + "…"]
    return "<br>".join(map(_label, parts))


def _short(value: Any) -> Any:
    """A number with four significant digits, to keep the page small; None if there is none."""
    return float(f"{value:.4g}") if _number(value) else None


# The sections: each takes the facts and the figures to add to, and returns what its part of the template shows,
# or a text that says why there is nothing.

Figures = dict[str, dict[str, Any]]


def _view(facts: Mapping[str, Any]) -> dict[str, Any]:
    figures: Figures = {}
    unfinished = facts.get("state") == "unfinished"
    sections = []
    for key, title, build in (
        ("network", "The network", _network),
        ("front", "What it was chosen from", _front),
        ("verification", "Verification: trainings side by side", _verification),
        ("proxies", "Did the proxies predict it?", _proxies),
        ("training", "Full training", _training),
        ("audit", "Audit of the trained network", _audit),
        ("time", "Where the time went", _time),
        ("data", "The images", _data),
        ("plan", "The plan and its changes", _plan),
        ("use", "How to use it", _use),
        ("reproduce", "How to get it again", _reproduce),
        ("failures", "Failures", _failures),
    ):
        shown = build(facts, figures)
        absent = ""
        if isinstance(shown, str):
            absent, shown = shown + (" The run is not finished." if unfinished else ""), {}
        sections.append({"key": key, "title": title, "absent": absent, **shown})
    for key, title, before, chapter in (
        ("supernet", "The search by a supernet", "front", chapters.supernet(facts, figures)),
        ("short", "The search by accuracy", "verification", chapters.by_accuracy(facts, figures)),
        ("selection_audit", "Images it was not trained on", "audit", chapters.selection(facts, figures)),
    ):
        if chapter is not None:
            place = next(i for i, section in enumerate(sections) if section["key"] == before)
            sections.insert(place, {"key": key, "title": title, "absent": "", **chapter})
    return {
        "title": str(facts.get("title") or "archscout report"),
        "version": facts.get("version"),
        "created": facts.get("created"),
        "unfinished": unfinished,
        "notes": list((facts.get("data") or {}).get("notes") or ()),
        "summary": _summary(facts),
        "sections": sections,
        "figures": figures,
    }


def _summary(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    summary = facts.get("summary")
    if not summary:
        return None
    metric = summary.get("metric") or "accuracy"
    word = metric.replace("_", " ")
    test, latency = summary.get("test") or {}, summary.get("latency") or {}
    onnx, baseline = summary.get("onnx_latency") or {}, summary.get("baseline") or {}
    limits = summary.get("limits") or {}
    energy, target = summary.get("energy") or {}, summary.get("target") or {}
    notes = {} if energy.get("metered") else dict.fromkeys(("energy", "power"), "estimate")
    if target:
        words = {"stated": "estimated from its measured latency", "predicted": "predicted, at most"}
        for name in [name for name in TIMED if name in limits]:
            notes[name] = f"on {target.get('name')}, {words.get(source := standing(name, summary)['source'], source)}"
    checks = [_check(name, summary, notes.get(name, "")) for name in limits]
    tiles: list[dict[str, Any]] = []

    def tile(name: str, value: str, *notes: str) -> None:
        if value != "–":
            tiles.append({"name": name, "value": value, "notes": [note for note in notes if note]})

    tile(
        f"Test {word}",
        percent(test.get("value")),
        f"95 % interval {percent(test['low'])} to {percent(test['high'])}" if _number(test.get("low")) else "",
        f"on {test['n']:,} images, looked at once" if _number(test.get("n")) else "",
    )
    gain = None
    itself = summary.get("winner_role") == "baseline"
    if not itself and _number(summary.get("validation")) and _number(baseline.get("validation")):
        gain = 100 * (summary["validation"] - baseline["validation"])
    tile(
        f"Validation {word}",
        percent(summary.get("validation")),
        f"plain baseline {percent(baseline.get('validation'))}" if gain is not None else "",
        f"{'+' if gain >= 0 else '−'}{abs(gain):.1f} points" if gain is not None else "",
    )
    tile("Latency", quantity(latency.get("median"), "latency"), *_timing(latency))
    tile("Latency of the ONNX file", quantity(onnx.get("median"), "latency"), *_timing(onnx))
    for name, title in (("latency", "Latency"), ("energy", "Energy")):
        there, most = (target.get("measured") or {}).get(name), (target.get("most") or {}).get(name)
        said = "measured there" if _number(there) else f"predicted, at most {quantity(most, name)}; not measured there"
        value = there if _number(there) else (target.get("predicted") or {}).get(name)
        tile(f"{title} on {target.get('name')}", quantity(value, name), said)
    tile("Energy for one image", quantity(energy.get("energy"), "energy"), *_metering(energy))
    peak = summary.get("peak_memory_measured")
    tile(
        "Memory",
        _bytes(summary.get("memory_bytes")),
        "weights and live activations, one image",
        f"measured peak {_bytes(peak)}" if _number(peak) else "",
    )
    small = summary.get("int8") or {}
    tile(
        "Accuracy in int8",
        percent(small.get("accuracy")),
        f"before {percent(small.get('float_accuracy'))}, on {count(small.get('images'))} test images",
        f"{_bytes(small.get('bytes'))}, before {_bytes(small.get('float_bytes'))}",
    )
    tile("Parameters", quantity(summary.get("params"), "params"), "trainable numbers")
    tile("Multiply-adds", quantity(summary.get("macs"), "macs"), "for one image")
    tile("Wall-clock time", duration(summary.get("seconds")), "of the whole run")
    rows = [
        row
        for row in (
            (f"Validation {word}", percent(summary.get("validation")), percent(baseline.get("validation"))),
            ("Latency", quantity(latency.get("median"), "latency"), quantity(baseline.get("latency"), "latency")),
            ("Parameters", quantity(summary.get("params"), "params"), quantity(baseline.get("params"), "params")),
        )
        if row[2] != "–" and not itself
    ]
    return {
        "verdict": summary.get("verdict") or _verdict(summary, word),
        "winner": summary.get("winner"),
        "winner_role": summary.get("winner_role"),
        "space": summary.get("space"),
        "tiles": tiles,
        "checks": checks,
        "baseline": baseline,
        "rows": rows,
    }


def _check(name: str, summary: Mapping[str, Any], note: str) -> dict[str, Any]:
    """A row of the limits: what the winner takes, and how that stands to the limit; see facts.standing."""
    found, limit = standing(name, summary), summary["limits"][name]
    got = found["most"] if found["state"] == "predicted" else found["value"]
    known = _number(got) and limit > 0
    return {
        "name": name,
        "note": note,
        "limit": limit,
        "got": got,
        "most": found["most"],
        "share": got / limit if known else None,
        "state": found["state"] if known else "unknown",
    }


def _metering(energy: Mapping[str, Any]) -> list[str]:
    return [f"at {quantity(energy.get('power'), 'power')}", str(energy.get("source") or "")]


def _timing(timing: Mapping[str, Any]) -> list[str]:
    spread = ""
    if _number(timing.get("low")) and _number(timing.get("high")):
        spread = f"{digits(timing['low'])} to {digits(timing['high'])} ms"
    if _number(timing.get("p95")):
        spread += (", " if spread else "") + f"95th percentile {digits(timing['p95'])} ms"
    threads = timing.get("threads")
    where = [timing.get("device"), timing.get("runtime"), threads and f"{threads} thread{'s' if threads != 1 else ''}"]
    return [spread, ", ".join(str(word) for word in where if word)]


def _verdict(summary: Mapping[str, Any], word: str) -> str:
    test, name = summary.get("test") or {}, summary.get("winner")
    if not name:
        return "No winner yet."
    if not _number(test.get("value")):
        return f"The winner so far is {name}; it has not been tested."
    return f"{name} reaches {percent(test['value'])} test {word}."


def _network(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any] | str:
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


# Candidates


def _front(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any] | str:
    everyone = facts.get("candidates") or ()
    if not everyone:
        return "Left out: no candidate was scored."

    def has_rank(candidate: Mapping[str, Any]) -> bool:
        return _number(candidate.get("rank")) and candidate.get("feasible", True)

    first = list(islice(filter(has_rank, everyone), 100))
    if not first:
        return f"Left out: none of the {len(everyone):,} candidates has a rank."
    names = list(dict.fromkeys(name for c in first for name, v in (c.get("costs") or {}).items() if _number(v)))
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
            column.append(float(value) if value is not None and _number(value) else math.nan)
        if c.get("finalist") or c.get("arch") == winner:
            marked.add(len(places))
        if c.get("front"):
            fronted.add(len(places))
        places.append(place)
        ranks.append(c["rank"])
    rank, costs = np.array(ranks), {name: np.array(column) for name, column in columns.items()}
    ranked = _Picked(everyone, places)
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
        box += f"<br>{_label(axis)} %{{customdata[{1 + k}]}}"
    for k, name in enumerate(scores[:16]):
        box += f"<br>{_label(name)} %{{customdata[{1 + len(axes) + k}]}}"
    box += "<extra>%{fullData.name}</extra>"

    def hover(i: int) -> list[str]:
        c = ranked[i]
        return [
            _wrapped(str(c.get("arch", ""))),
            *(quantity((c.get("costs") or {}).get(axis), axis) for axis in axes),
            *(digits((c.get("scores") or {}).get(score), 4) for score in scores[:16]),
        ]

    def trace(name: str, members: list[int], **style: Any) -> dict[str, Any]:
        return {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [_short(costs[axes[0]][i]) for i in members],
            "y": [ranked[i]["rank"] for i in members],
            "customdata": [_Late(hover, i) for i in members],
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
        "x": [_short(costs[axes[0]][i]) for i in fronts[axes[0]]],
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
        scales[axis] = _cost_axis(axis, shown[np.isfinite(shown)], limits.get(axis))
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
            "shapes": _limit_shapes(axis, limits.get(axis)),
            "x": [
                [_short(costs[axis][i]) for i in fronts[axis]]
                if one is line
                else mark[axis]["x"]
                if one["name"] == "knee"
                else [_short(costs[axis][i]) for i in next(g[0] for g in groups if g[1] == one["name"])]
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
                **_rank_axis(top, span),
            },
            "shapes": views[axes[0]]["shapes"],
        },
        "views": views,
        "line": traces.index(line),
        "knee": len(traces) - 1 if traces[-1]["name"] == "knee" else None,
        "scales": {"log": _rank_axis(top, True), "linear": _rank_axis(top, False)},
    }
    members = sorted({int(i) for i in fronts[axes[0]]} | marked, key=lambda i: rank[i])
    return {
        "figure": "front",
        "axes": axes,
        "log": span,
        "total": len(everyone),
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
    ranked: _Picked, front: np.ndarray, place: int | None, costs: np.ndarray, axis: str, scale: Mapping[str, Any]
) -> dict[str, Any]:
    """Where the knee of a front stands in the picture, and what is written beside it."""
    if place is None:
        return {"x": [], "y": [], "text": [], "textposition": "top right"}
    i = int(front[place])
    low, high = scale["range"]
    at = math.log10(costs[i]) if scale["type"] == "log" else costs[i]
    rank = ranked[i]["rank"]
    return {
        "x": [_short(costs[i])],
        "y": [rank],
        "text": [f"knee: rank {rank:,}, {quantity(costs[i], axis)}<br>{_label(ranked[i].get('arch', ''), 26)}"],
        "textposition": "top left" if at > (low + high) / 2 else "top right",
    }


def _knee_words(ranked: _Picked, front: np.ndarray, place: int | None, axis: str) -> dict[str, Any] | None:
    """The knee of a front for the text."""
    if place is None:
        return None
    found = ranked[int(front[place])]
    return {"arch": found.get("arch"), "rank": found["rank"], "cost": quantity(found["costs"][axis], axis)}


def _budget_rows(
    facts: Mapping[str, Any], ranked: _Picked, rank: np.ndarray, costs: np.ndarray, most: np.ndarray, axis: str
) -> list[dict[str, Any]]:
    """The best network under each of some budgets on a cost: by validation where any was verified, else by rank.

    rank, costs, most: (n,) of the ranked candidates, `most` the safe end of the cost, which must be within.
    """
    limit = ((facts.get("summary") or {}).get("limits") or {}).get(axis)
    verified = [
        (found["validation"], -params, {**entrant, "epochs": found.get("epochs")}, paid)
        for entrant in facts.get("entrants") or ()
        if (found := _last_round(entrant)) and (paid := _paid(entrant, axis)) and not entrant.get("failure")
        if entrant.get("role") != "teacher"
        for params in [(entrant.get("costs") or {}).get("params") or 0.0]
    ]
    rows = []
    for budget, share in budgets_of(costs, limit if _number(limit) else None):
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


def _paid(entrant: Mapping[str, Any], axis: str) -> dict[str, Any] | None:
    """What an entrant takes of a cost, {value, most, measured}: measured where it was; None if it is not known."""
    found = (entrant.get("timed") or {}).get(axis)
    if found and _number(found.get("value")):
        return dict(found)
    measured = entrant.get("measured_latency") if axis == "latency" else None
    value = measured if _number(measured) else (entrant.get("costs") or {}).get(axis)
    if value is None or not _number(value):
        return None
    return {"value": value, "most": value, "measured": _number(measured)}


class _Picked:
    """Some entries of a sequence, by place among them; an entry is made when it is read."""

    def __init__(self, whole: Sequence[Mapping[str, Any]], places: Sequence[int]) -> None:
        self._whole, self._places = whole, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, i: int) -> Mapping[str, Any]:
        return self._whole[self._places[i]]


def _rank_axis(top: float, log: bool) -> dict[str, Any]:
    """The axis of ranks 1..top, best on top, with room for the markers at both ends."""
    if log:
        pad = max(0.08, 0.04 * math.log10(max(top, 2)))
        ticks = [step * 10**power for power in range(10) for step in (1, 2, 5) if step * 10**power <= top]
        ends = [math.log10(max(top, 2)) + pad, -pad]
        return {"type": "log", "range": ends, "tickvals": ticks, "ticktext": [f"{tick:,}" for tick in ticks]}
    pad = max(0.6, 0.05 * top)
    step = next(s * 10**power for power in range(10) for s in (1, 2, 5) if s * 10**power * 8 >= top)
    ticks = sorted({1, *range(step, int(top) + 1, step)} - ({step} if 1 < step <= 2 else set()))
    return {"type": "linear", "range": [top + pad, 1 - pad], "tickvals": ticks, "ticktext": [f"{t:,}" for t in ticks]}


def _cost_axis(axis: str, values: np.ndarray, limit: Any) -> dict[str, Any]:
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    names = {"latency": "predicted latency for one image", "memory": "memory for one image", "params": "parameters"}
    names |= {"macs": "multiply-adds for one image", "flops": "flops for one image"}
    names |= {"energy": "predicted energy for one image", "power": "predicted power"}
    names |= {"ram_int8": "activations at int8", "flash_int8": "weights at int8", "training_memory": "a training step"}
    log = low > 0 and high > 20 * low
    if _number(limit) and limit > 0 and limit < 4 * high:
        high = max(high, float(limit))
    if log:
        pad = 0.04 * (math.log10(high) - math.log10(low))
        ends = [math.log10(low) - pad, math.log10(high) + pad]
    else:
        pad = 0.04 * (high - low) or 0.1 * abs(high) or 1.0
        ends = [low - pad, high + pad]
    units = {**{name: f" {unit}" for name, unit in BASE_UNITS.items()}, **dict.fromkeys(IN_BYTES, "B")}
    return {
        "title": {"text": _label(names.get(axis, axis)), "standoff": 8},
        "type": "log" if log else "linear",
        "range": ends,
        "ticksuffix": units.get(axis, ""),
        "tickformat": "~g" if axis in BASE_UNITS else "~s",
        "nticks": 8,
        "automargin": True,
    } | ({"dtick": "D2" if ends[1] - ends[0] < 3.2 else 1} if log else {})


def _limit_shapes(axis: str, limit: Any) -> list[dict[str, Any]]:
    if not _number(limit):
        return []
    line = {"color": RED, "width": 2, "dash": "dash"}
    ends = {"x0": limit, "x1": limit, "yref": "paper", "y0": 0, "y1": 1}
    return [
        {"type": "line", "showlegend": True, "name": _label(f"limit {quantity(limit, axis)}"), "line": line, **ends}
    ]


# Verification and proxies


def _winner(facts: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The entrant that won: the one that says so, or else the one with the summary's role and architecture."""
    entrants, summary = facts.get("entrants") or (), facts.get("summary") or {}
    for entrant in entrants:
        if entrant.get("winner"):
            return entrant
    for entrant in entrants:
        if entrant.get("arch") == summary.get("winner") and entrant.get("role") == summary.get("winner_role"):
            return entrant
    return None


def _last_round(entrant: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The last round of an entrant that has a validation value, None if none has."""
    rounds = _best_round(entrant)
    return rounds[-1] if rounds else None


def _best_round(entrant: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry for entry in entrant.get("rounds") or () if _number(entry.get("validation"))]


def _verification(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any] | str:
    entrants = list(facts.get("entrants") or ())
    if not entrants:
        return "Left out: no network has been verified."
    winner = _winner(facts)

    def standing(entrant: Mapping[str, Any]) -> tuple[bool, int, float]:
        rounds = _best_round(entrant)
        return entrant is not winner, -len(rounds), -(rounds[-1]["validation"] if rounds else 0.0)

    entrants.sort(key=standing)
    depth = max(len(e.get("rounds") or ()) for e in entrants)
    traces: list[dict[str, Any]] = []
    seen: set[str] = set()
    for entrant in reversed(entrants):
        rounds = _best_round(entrant)
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
                "name": _label(name),
                "legendgroup": _label(name),
                "showlegend": name not in seen,
                "x": [entry.get("epochs", k + 1) for k, entry in enumerate(rounds)],
                "y": [100 * entry["validation"] for entry in rounds],
                "line": {
                    "color": colour,
                    "width": 3 if best else 1.5,
                    "dash": "solid" if role == "finalist" else "dot",
                },
                "marker": {"color": colour, "size": 15 if best else 8, "symbol": symbol},
                "text": [_wrapped(str(entrant.get("arch", "")))] * len(rounds),
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
        known = {value for value in epochs if _number(value)}
        heads.append((f"round {k + 1}", f"{count(known.pop())} epochs" if len(known) == 1 else ""))
    return {
        "figure": "verification" if traces else "",
        **_accuracy_front(facts, figures),
        "rows": rows,
        "costs": names,
        "heads": heads,
        "measured": any(_number(e.get("measured_latency")) for e in entrants),
    }


def _accuracy_front(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any]:
    """The picture of validation against cost: every entrant that trained, and the line over those that none beats.

    The cost is the one of the front of candidates, or the first that the entrants have. Teachers are drawn and not
    joined, since they cannot win.
    """
    trained = [(e, found) for e in facts.get("entrants") or () if (found := _last_round(e)) and not e.get("failure")]
    names = list(dict.fromkeys(name for e, _ in trained for name in (e.get("costs") or {})))
    wanted = facts.get("cost_axis")
    axis = next((name for name in (wanted, "macs", "params", *names) if name in names), None)
    points = [(e, found, paid) for e, found in trained if axis and (paid := _paid(e, axis))]
    if axis is None or len(points) < 2:
        return {"accuracy_figure": ""}
    rivals = [point for point in points if point[0].get("role") != "teacher"]
    cost = np.array([paid["value"] for *_, paid in rivals], float)
    lost = np.array([-found["validation"] for _, found, _ in rivals], float)
    line = [rivals[int(i)] for i in pareto(lost, cost)]
    winner = _winner(facts)

    def kind(entrant: Mapping[str, Any]) -> str:
        return "winner" if entrant is winner else str(entrant.get("role"))

    def hover(entrant: Mapping[str, Any], found: Mapping[str, Any], paid: Mapping[str, Any]) -> str:
        how = "measured" if paid["measured"] else "predicted" if axis in TIMED else "counted"
        most = f", at most {quantity(paid['most'], axis)}" if paid["most"] > paid["value"] else ""
        return (
            f"<b>{_wrapped(str(entrant.get('arch', '')))}</b><br>{percent(found['validation'])} after "
            f"{count(found.get('epochs'))} epochs<br>{_label(axis)} {quantity(paid['value'], axis)}{most}, {how}"
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
                "name": _label(role),
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
    scale = _cost_axis(axis, ends, limit)
    known = {paid["measured"] for *_, paid in points}
    how = "measured " if known == {True} else "measured or predicted " if len(known) > 1 else ""
    if how:
        scale["title"] = {"text": f"{how}{_label(axis)} for one image", "standoff": 8}
    figures["accuracy"] = {
        "data": traces,
        "layout": {
            "height": 360,
            "margin": {"l": 64, "r": 20, "t": 40, "b": 56},
            "hovermode": "closest",
            "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
            "xaxis": scale,
            "yaxis": {"title": {"text": "validation, %"}, "automargin": True},
            "shapes": _limit_shapes(axis, limit),
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
        "limited": _number(limit),
    }


def _proxies(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any] | str:
    given = facts.get("correlation") or {}
    points = [e for e in facts.get("entrants") or () if _best_round(e)]
    names = list(dict.fromkeys([*given, *(name for e in points for name in (e.get("scores") or {}))]))
    if not names or not points:
        return "Left out: too few networks were verified to compare proxies with."
    panels: list[dict[str, Any]] = []
    for k, name in enumerate(names):
        have: list[tuple[Mapping[str, Any], float]] = []
        for entrant in points:
            score = entrant.get("rank") if name == "rank" else (entrant.get("scores") or {}).get(name)
            if score is not None and _number(score):
                have.append((entrant, float(score)))
        found = dict(given.get(name) or {})
        n = int(found.get("n") or len(have))
        ends: Any = (found.get("low"), found.get("high"))
        if not all(map(_number, ends)):
            ends = rank_interval(found["spearman"], n) if _number(found.get("spearman")) else None
        figure = ""
        if have:
            figure = f"proxy-{k}"
            figures[figure] = _proxy_figure(name, have, _winner(facts))
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
    tested = [panel for panel in panels if _number(panel["low"])]
    return {
        "panels": panels,
        "tested": len(tested),
        "open": sum(panel["low"] <= 0 <= panel["high"] for panel in tested),
        "most": max(panel["n"] for panel in panels),
        "epochs": _first_epochs(points),
    }


def _first_epochs(points: Sequence[Mapping[str, Any]]) -> float | None:
    epochs = {_best_round(e)[0].get("epochs") for e in points}
    value = epochs.pop() if len(epochs) == 1 else None
    return value if _number(value) else None


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
                "name": _label(role),
                "showlegend": False,
                "x": [_short(score) for _, score in members],
                "y": [100 * _best_round(e)[0]["validation"] for e, _ in members],
                "marker": {"color": colour, "symbol": symbol, "size": 14 if role == "winner" else 9},
                "text": [_wrapped(str(e.get("arch", "")), 40) for e, _ in members],
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
                "title": {"text": "rank (best right)" if name == "rank" else _label(name, 30)},
                "nticks": 5,
                "tickformat": "~s" if max(abs(score) for _, score in have) >= 1e4 else "~g",
                "automargin": True,
                **reverse,
            },
            "yaxis": {"title": {"text": "validation, %"}, "nticks": 5, "automargin": True},
        },
    }


# Training and audit


def _training(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any] | str:
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
            rows = [(row.get("epoch", k + 1), row[field]) for k, row in enumerate(history) if _number(row.get(field))]
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


def _audit(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any] | str:
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
    chosen = sorted(per_class, key=lambda entry: entry["recall"] if _number(entry.get("recall")) else -1.0)[:40]
    places = list(range(len(chosen)))
    ends = [
        wilson(entry["recall"], int(entry["n"])) if _number(entry.get("recall")) and entry.get("n") else None
        for entry in chosen
    ]
    text = [f"{_label(entry.get('name'), 60)}<br>{_plain(entry.get('n'))} test images" for entry in chosen]

    def share(entry: Mapping[str, Any], key: str) -> float | None:
        return 100 * entry[key] if _number(entry.get(key)) else None

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
                "ticktext": [_label(entry.get("name"), 22) for entry in chosen],
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
    short = [_label(name, 16) for name in names]
    long = [_label(name, 60) for name in names]
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


# The rest


def _time(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any] | str:
    rows = [row for row in facts.get("time") or () if _number(row.get("seconds")) and row["seconds"] >= 0]
    total = sum(row["seconds"] for row in rows)
    if not total:
        return "Left out: no times were recorded."
    greys = ("#7f8790", "#b3bac2")
    colours = [*PALETTE, *greys]
    spent = facts.get("spent") or {}
    every, full = spent.get("every_candidate") or {}, spent.get("full_data") or {}
    return {
        "total": total,
        "energy": _joules(spent.get("energy")),
        "source": spent.get("source"),
        "metered": spent.get("metered"),
        "every": every
        and {
            "candidates": count(every.get("candidates")),
            "of": every.get("of", "scored"),
            "rate": every.get("rate", "scored"),
            "seconds": every.get("seconds"),
            "energy": _joules(every.get("energy")),
            "times": digits(every["seconds"] / total, 2) if _number(every.get("seconds")) else None,
        },
        "full": full
        and {
            "seconds": full.get("seconds"),
            "energy": _joules(full.get("energy")),
            "times": digits(full.get("times"), 3),
            "more": _number(full.get("times")) and full["times"] > 1,
            "selector": full.get("selector"),
            "share": full.get("share"),
            "at_most": full.get("at_most"),
        },
        "rows": [
            {
                "stage": row.get("stage"),
                "energy": _joules(row.get("energy")),
                "seconds": row["seconds"],
                "share": row["seconds"] / total,
                "colour": colours[k % len(colours)],
            }
            for k, row in enumerate(rows)
        ],
    }


def _joules(energy: Any) -> str:
    return format_cost("energy", energy).replace(" ", "\u00a0") if _number(energy) else ""


def _data(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any] | str:
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
                    "name": _label(part),
                    "x": places,
                    "y": list(values),
                    "text": [_label(name, 60) for name in classes],
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
                    "ticktext": [] if many else [_label(name, 16) for name in classes],
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


def _plan(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any] | str:
    plan, changes = dict(facts.get("plan") or {}), list(facts.get("plan_changes") or ())
    if not plan and not changes:
        return "Left out: no plan was recorded."
    rows = []
    for key, value in plan.items():
        timed = key.endswith("seconds") and _number(value)
        name = key.removesuffix("_seconds") if timed else key
        rows.append((name.replace("_", " "), duration(value) if timed else _plain(value)))
    return {
        "rows": rows,
        "changes": [
            {**change, "time": duration(change.get("time")) if _number(change.get("time")) else change.get("time")}
            for change in changes
        ],
    }


def _use(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any] | str:
    files = list(facts.get("files") or ())
    if not files:
        return "Left out: no files have been written for use."
    folder = str(facts.get("folder") or "RUN")
    snippets = [dict(snippet) for snippet in facts.get("usage") or ()]
    if not snippets:
        snippets = _snippets(folder, [str(entry.get("name")) for entry in files], facts.get("data") or {})
    return {"files": files, "snippets": snippets, "folder": folder}


def _snippets(folder: str, files: Sequence[str], data: Mapping[str, Any]) -> list[dict[str, str]]:
    """The default ways to use a run: command line, Python, PyTorch, ONNX Runtime alone; none without an ONNX file."""
    onnx = next((name for name in files if name.endswith(".onnx")), None)
    if not onnx:
        return []
    shape = ", ".join(map(str, data.get("shape") or (3, 32, 32)))
    found = {
        "On the command line": f"archscout predict {shlex.quote(folder)} photo1.png photo2.png",
        "In Python": "from archscout import predict\n\n"
        f"for found in predict({folder!r}, ['photo1.png', 'photo2.png']):\n"
        "    print(found.name, found.label, found.confidence)",
        "As a PyTorch network": f"from archscout import Result\n\nmodel = Result({folder!r}).model()  # in eval mode",
        "With ONNX Runtime alone": "import numpy as np\nimport onnxruntime\n\n"
        f"session = onnxruntime.InferenceSession({str(Path(folder) / onnx)!r})\n"
        f"images = np.zeros((1, {shape}), np.float32)  # your images, pixels 0..255\n"
        "(probabilities,) = session.run(['probabilities'], {'image': images})\n"
        "print(probabilities.argmax(1))",
    }
    if "weights.safetensors" not in files:
        del found["As a PyTorch network"]
    return [{"title": title, "code": code} for title, code in found.items()]


def _reproduce(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any] | str:
    shown = {key: facts.get(key) for key in ("command", "config", "seed", "machine")}
    versions = dict(facts.get("versions") or {})
    if facts.get("version"):
        versions = {"archscout": facts["version"], **versions}
    if not any(value is not None for value in shown.values()):
        return "Left out: the command was not recorded."
    return {**shown, "versions": versions}


def _failures(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any] | str:
    failures = facts.get("failures")
    if failures is None:
        return "Left out: failures were not recorded."
    reasons: dict[str, list[str]] = {}
    for failure in failures:
        reasons.setdefault(str(failure.get("reason")), []).append(str(failure.get("arch")))
    rows = sorted(reasons.items(), key=lambda item: -len(item[1]))
    return {
        "count": len(failures),
        "rows": [(reason, len(archs), archs[:3]) for reason, archs in rows[:50]],
        "kinds": len(rows),
    }
