"""What the page of a run wants to know: plain values, every key optional."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

Figures = dict[str, dict[str, Any]]


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
