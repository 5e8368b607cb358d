"""The report page: figures, numbers, escaping, and what a real browser makes of it."""

# ruff: noqa: RUF001 (typographic minus and dash are meant)

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from html.parser import HTMLParser
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import open_page

from archscout import page
from archscout.fronts import pareto
from archscout.page import front
from archscout.page.html import embed
from archscout.page.intervals import rank_interval, wilson
from archscout.page.network import cell_picture, stage_picture
from archscout.page.report import view_of
from archscout.page.words import count, duration, label_text, quantity

OPERATIONS = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
HOSTILE = "<script>document.title='pwned'</script>"
QUOTED = "a\"b'c</script><!--\u2028&amp;<img src=x onerror=\"document.title='pwned'\">.png"


def cell_text(rng: np.random.Generator) -> str:
    ops = [OPERATIONS[k] for k in rng.integers(0, 5, 6)]
    pieces = iter(ops)
    return "+".join("|" + "|".join(f"{next(pieces)}~{i}" for i in range(n)) + "|" for n in (1, 2, 3))


def fake_facts(candidates: int = 600, classes: int = 10, seed: int = 0) -> dict[str, Any]:
    """Facts of a finished run as the pipeline would hand them over; invented, but plausible and consistent."""
    rng = np.random.default_rng(seed)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    names = [names[k] if classes <= 10 else f"{names[k % 10]} kind {k // 10 + 1}" for k in range(classes)]
    pool = []
    quality = rng.normal(size=candidates)
    for k in range(candidates):
        params = float(np.exp(rng.normal(12.9, 0.55) + 0.15 * quality[k]))
        macs = params * float(rng.uniform(90, 140))
        pool.append(
            {
                "arch": cell_text(rng),
                "scores": {
                    "synflow": 60 + 6 * quality[k] + rng.normal(),
                    "naswot": 1500 + 40 * quality[k] + 20 * rng.normal(),
                    "jacobian_covariance": -7.1 + 2 * rng.normal(),
                    "zen": 35 + 5 * quality[k] + 4 * rng.normal(),
                },
                "costs": {
                    "latency": 0.6 + macs / 3e7 + 0.05 * abs(rng.normal()),
                    "memory": 4 * params + float(rng.uniform(1e6, 2e6)),
                    "params": round(params),
                    "macs": round(macs),
                },
                "feasible": True,
                "front": False,
                "finalist": False,
                "quality": quality[k] + 0.4 * rng.normal(),
            }
        )
    pool.sort(key=lambda entry: -entry["quality"])
    over = [entry for entry in pool if entry["costs"]["latency"] > 5 or entry["costs"]["params"] > 1e6]
    pool = [entry for entry in pool if entry not in over]
    for entry in over:
        entry.update(feasible=False, scores={}, rank=None)
        del entry["quality"]
    best = math.inf
    for k, entry in enumerate(pool):
        entry["rank"] = k + 1
        if entry["costs"]["latency"] < best:
            best, entry["front"] = entry["costs"]["latency"], True
        entry["finalist"] = k < 6
        del entry["quality"]
    winner = pool[2]
    entrants = []
    for k, entry in enumerate([*pool[:6], *(dict(entry, rank=None) for entry in pool[-3:])]):
        role = ["largest", "random", "baseline"][k - 6] if k >= 6 else "finalist"
        rounds = 3 if k in (2, 7) else 2 if k in (0, 1, 3) else 1
        start = 0.52 + 0.03 * rng.normal() + (0.06 if k == 2 else 0)
        entrants.append(
            {
                "arch": entry["arch"]
                if k < 6
                else ["largest: " + entry["arch"], entry["arch"], "plain-16-32-64"][k - 6],
                "role": role,
                "costs": entry["costs"],
                "measured_latency": entry["costs"]["latency"] * float(rng.uniform(0.9, 1.1)),
                "rank": entry["rank"],
                "rounds": [
                    {
                        "epochs": [3, 6, 12][r],
                        "validation": start + [0, 0.11, 0.18][r],
                        "seconds": [20.5, 41.0, 80.2][r],
                    }
                    for r in range(rounds)
                ],
                "eliminated_after": None if rounds == 3 else rounds,
                "scores": entry["scores"],
                "failure": None,
            }
        )
    entrants[5].update(rounds=[], failure="loss became NaN in epoch 1", eliminated_after=None)
    confusion = rng.poisson(0.6 if classes > 20 else 3, (classes, classes)) + np.diag(rng.integers(40, 90, classes))
    recall = np.diag(confusion) / confusion.sum(1)
    precision = np.diag(confusion) / confusion.sum(0)
    tested = int(confusion.sum())
    accuracy = float(np.diag(confusion).sum() / tested)
    low, high = wilson(accuracy, tested)
    epochs = 40
    return {
        "title": "Photos of vehicles and animals",
        "version": "0.1.0",
        "created": "2026-03-01 14:05",
        "state": "finished",
        "command": "archscout search photos --limit latency=5ms --limit params=1M --budget 2h --seed 0",
        "folder": "runs/photos of march",
        "config": '[data]\nsource = "photos"\nseed = 0\n\n[limits]\nlatency = 5.0\nparams = 1000000\n',
        "seed": 0,
        "versions": {"torch": "2.9.0", "numpy": "2.3.1"},
        "machine": "2 cores x86-64, 4 GB",
        "summary": {
            "space": "nasbench201",
            "winner": winner["arch"],
            "winner_role": "finalist",
            "metric": "accuracy",
            "test": {"value": accuracy, "low": low, "high": high, "n": tested},
            "validation": 0.763,
            "baseline": {"arch": "plain-16-32-64", "validation": 0.721, "params": 272474, "latency": 2.31},
            "latency": {
                "median": 3.42,
                "low": 3.31,
                "high": 3.6,
                "p95": 3.9,
                "device": "cpu",
                "runtime": "torch eager",
                "threads": 1,
            },
            "onnx_latency": {
                "median": 1.87,
                "low": 1.8,
                "high": 1.95,
                "device": "cpu",
                "runtime": "onnxruntime",
                "threads": 1,
            },
            "memory_bytes": 3.4e6,
            "peak_memory_measured": 2.1e8,
            "params": winner["costs"]["params"],
            "macs": winner["costs"]["macs"],
            "limits": {"latency": 5.0, "params": 1e6, "memory": 3.2e6},
            "seconds": 6843.0,
            "verdict": f"The network found gets {100 * accuracy:.1f} % of new images right, 4.2 points more on "
            "validation than the plain baseline, and takes 3.4 ms for one image.",
        },
        "data": {
            "source": "photos/",
            "images": 6 * tested,
            "shape": (3, 32, 32),
            "classes": names,
            "counts": {
                part: [int(v) for v in share * confusion.sum(1)]
                for part, share in (("train", 4), ("validation", 1), ("test", 1))
            },
            "notes": [
                "12 images appear twice; copies were kept in one part.",
                "Class 'bird' has less than half the images of class 'ship'.",
            ],
            "split": "stratified by class, 60/20/20, seed 0",
        },
        "plan": {"candidates": candidates, "finalists": 6, "epochs": 40, "budget_seconds": 7200},
        "plan_changes": [
            {
                "time": 3120.0,
                "what": "epochs 50 → 40",
                "why": "training was slower than predicted (31 ms a step, not 25)",
            }
        ],
        "network": {
            "kind": "cell",
            "nodes": 4,
            "edges": [
                (0, 1, "nor_conv_3x3"),
                (0, 2, "nor_conv_1x1"),
                (1, 2, "nor_conv_3x3"),
                (0, 3, "skip_connect"),
                (1, 3, "none"),
                (2, 3, "avg_pool_3x3"),
            ],
        },
        "candidates": pool + over,
        "cost_axis": "latency",
        "entrants": entrants,
        "correlation": {
            "rank": {"spearman": -0.1, "kendall": 0.0, "n": 5},
            "synflow": {"spearman": 0.52, "kendall": 0.43, "n": 8},
            "naswot": {"spearman": 0.9, "kendall": 0.79, "n": 8},
            "jacobian_covariance": {"spearman": -0.07, "kendall": 0.0, "n": 8},
            "zen": {"spearman": 0.31, "kendall": 0.21, "n": 8},
        },
        "training": {
            "history": [
                {
                    "epoch": k + 1,
                    "loss": 0.35 + 1.9 * math.exp(-k / 9) + 0.02 * float(rng.normal()),
                    "accuracy": 0.95 - 0.7 * math.exp(-k / 9),
                    "lr": 0.05 * (1 + math.cos(math.pi * k / epochs)),
                }
                for k in range(epochs)
            ],
            "seconds": 2930.0,
            "recipe": {
                "lr": 0.1,
                "weight_decay": 5e-4,
                "batch_size": 128,
                "label_smoothing": 0.1,
                "flip": True,
                "cutout": 8,
            },
        },
        "audit": {
            "parts": {
                "train": {"accuracy": 0.952, "balanced_accuracy": 0.95, "n": 4 * tested, "low": 0.945, "high": 0.958},
                "validation": {"accuracy": 0.949, "balanced_accuracy": 0.946, "n": tested, "low": 0.93, "high": 0.963},
                "test": {
                    "accuracy": accuracy,
                    "balanced_accuracy": float(recall.mean()),
                    "n": tested,
                    "low": low,
                    "high": high,
                },
            },
            "per_class": [
                {
                    "name": name,
                    "recall": float(recall[k]),
                    "precision": float(precision[k]),
                    "n": int(confusion[k].sum()),
                }
                for k, name in enumerate(names)
            ],
            "confusion": confusion.tolist(),
            "worst": [
                {
                    "name": f"photos/{names[k % classes]}/img_{rng.integers(1e4):05d}.png",
                    "true": names[k % classes],
                    "predicted": names[(k + 3) % classes],
                    "confidence": 0.99 - 0.01 * k,
                    "part": "test",
                    "image": page.thumbnail(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)),
                }
                for k in range(8)
            ],
            "calibration_error": 0.043,
        },
        "time": [
            {"stage": "reading images", "seconds": 4.2},
            {"stage": "device profile", "seconds": 31.0},
            {"stage": "scoring candidates", "seconds": 2210.0},
            {"stage": "verification", "seconds": 1480.0},
            {"stage": "full training", "seconds": 2930.0},
            {"stage": "audit and export", "seconds": 187.8},
        ],
        "files": [
            {"name": "model.onnx", "what": "the network for any runtime", "bytes": 1843221},
            {"name": "weights.safetensors", "what": "the weights", "bytes": 1830112},
            {"name": "trials.jsonl", "what": "the log: everything that was measured", "bytes": 412000},
        ],
        "failures": [
            {"arch": pool[-1]["arch"], "reason": "zen: not finite"},
            {"arch": pool[5]["arch"], "reason": "loss became NaN in epoch 1"},
        ],
    }


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return fake_facts()


def hostile_facts() -> dict[str, Any]:
    """Facts in which every text that a stranger can choose is an attack."""
    found = fake_facts(candidates=60)
    text = json.dumps(found)
    text = text.replace('"airplane"', json.dumps(HOSTILE)).replace("photos/", json.dumps(QUOTED)[1:-1])
    found = json.loads(text)
    attack = HOSTILE + QUOTED + "%{x}<b>$x$"
    found["title"] = found["command"] = found["config"] = found["folder"] = attack
    found["versions"] = {attack: attack}
    found["machine"] = found["created"] = attack
    found["data"].update(source=attack, notes=[attack], split=attack)
    found["data"]["counts"][attack] = found["data"]["counts"].pop("test")
    found["summary"].update(verdict=attack, space=attack)
    found["summary"]["limits"] = {attack: 3.0, "latency": 5.0}
    found["plan"][attack] = attack
    found["plan_changes"][0] = {"time": attack, "what": attack, "why": attack}
    found["training"]["recipe"][attack] = attack
    found["time"][0]["stage"] = attack
    found["files"][0].update(name=attack + ".onnx", what=attack)
    found["failures"] = [{"arch": attack, "reason": attack}]
    found["network"]["edges"][0][2] = attack
    found["correlation"][attack] = {"spearman": 0.1, "kendall": 0.1, "n": 8}
    for entry in [*found["candidates"], *found["entrants"]]:
        entry["scores"] = {**entry["scores"], attack: 1.0}
        entry["costs"] = {**entry["costs"], attack: 2.0}
    for entry in found["candidates"][:4]:
        entry["arch"] = f"{entry['rank']}{attack}"
    for entrant in found["entrants"]:
        entrant.update(arch=attack, role=attack)
    found["entrants"][5]["failure"] = attack
    found["audit"]["worst"][0]["image"] = "x\" onerror=\"document.title='pwned'"
    found["audit"]["worst"][1]["image"] = "http://example.org/x.png"
    found["audit"]["worst"][2].update(true=attack, predicted=attack, part=attack)
    return found


class Reader(HTMLParser):
    """Tags with attributes, and the text of the scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attributes}))
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.scripts[-1] += data


def painted(value: Any) -> Any:
    """A figure as the page's script hands it to plotly: colour names resolved, our own keys gone."""
    if isinstance(value, dict):
        return {k: painted(v) for k, v in value.items() if k not in ("names", "counts", "views", "line_", "scales")}
    if isinstance(value, list):
        return [painted(entry) for entry in value]
    if isinstance(value, str) and value.startswith("@"):
        return "Blues" if value == "@share" else "#123456"
    return value


# Numbers


@pytest.mark.parametrize(
    ("value", "name", "text"),
    [
        (1_234_567, "params", "1.23 M"),
        (999_600, "params", "1.00 M"),
        (999, "macs", "999"),
        (45_678, "macs", "45.7 k"),
        (4_560_000, "memory", "4.56 MB"),
        (512, "memory", "512 B"),
        (0.01234, "latency", "0.0123 ms"),
        (1234.5, "latency", "1,234 ms"),
        (999.6, "latency", "1,000 ms"),
        (0.9123, "accuracy", "91.2 %"),
        (-3.5, "zen", "−3.500"),
        (float("nan"), "latency", "–"),
        (None, "params", "–"),
        (True, "params", "–"),
    ],
)
def test_quantities(value: Any, name: str, text: str) -> None:
    assert quantity(value, name).replace("\u00a0", " ") == text


def test_durations_and_counts() -> None:
    assert [duration(s) for s in (0, 4.23, 31, 200, 6843, 3599.7, None)] == [
        "0 s",
        "4.2 s",
        "31.0 s",
        "3 min 20 s",
        "1 h 54 min",
        "1 h 00 min",
        "–",
    ]
    assert [count(v) for v in (12345, 3.0, 0.33333, math.inf)] == ["12,345", "3", "0.333", "–"]


def test_wilson_matches_published_values() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    for hits, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(hits / n, n) == pytest.approx((low, high), abs=6e-5)


def test_rank_interval() -> None:
    from scipy.stats import spearmanr

    assert rank_interval(0.5, 50) == pytest.approx((0.2411, 0.6925), abs=2e-4)  # worked out by hand
    assert rank_interval(0.5, 3) is None
    for n in (4, 5, 6):
        values = {round(float(spearmanr(range(n), order).statistic), 9) for order in permutations(range(n))}
        second = sorted(values)[-2]
        low, high = rank_interval(1.0, n) or (0, 0)
        assert high == 1.0
        assert low == pytest.approx((rank_interval(second, n) or (0, 0))[0])
        assert rank_interval(-1.0, n) == pytest.approx((-1.0, -low))


def test_front_equals_brute_force() -> None:
    rng = np.random.default_rng(3)
    for n in (1, 2, 30, 200):
        rank, cost = rng.integers(1, n + 1, n).astype(float), rng.integers(0, 12, n).astype(float)
        points = set(zip(rank, cost, strict=True))
        slow = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
        front = pareto(rank, cost)
        assert {(rank[i], cost[i]) for i in front} == slow
        assert len(front) == len(slow)
        assert (np.diff(cost[front]) > 0).all()
    assert len(pareto(np.zeros(0), np.zeros(0))) == 0


def test_thumbnail_is_the_picture() -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for shape in ((32, 32, 3), (28, 28), (28, 28, 1)):
        array = rng.integers(0, 256, shape, dtype=np.uint8)
        head, _, body = page.thumbnail(array).partition(",")
        assert head == "data:image/png;base64"
        back = np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))
        assert np.array_equal(back, array.reshape(back.shape))
    large = page.thumbnail(np.zeros((200, 100, 3), np.uint8), side=64).partition(",")[2]
    assert Image.open(io.BytesIO(base64.b64decode(large))).size == (32, 64)
    with pytest.raises(ValueError, match="uint8"):
        page.thumbnail(np.zeros((3, 8, 8)))


# Drawings


def test_cell_arcs_do_not_overlap() -> None:
    nodes = 6
    edges = [(a, b, f"op{a}{b}") for b in range(nodes) for a in range(b)]
    drawn = cell_picture(nodes, edges)
    assert len(drawn["edges"]) == len(edges) == len(drawn["rows"])
    labels = [(edge["x"] - edge["wide"] / 2, edge["x"] + edge["wide"] / 2, edge["y"]) for edge in drawn["edges"]]
    for k, (left, right, y) in enumerate(labels):
        assert 0 < left < right < drawn["width"]
        assert 10 < y < drawn["height"] - 10
        assert not any(y == other[2] and left < other[1] and other[0] < right for other in labels[:k])
    spots = [node["x"] for node in drawn["nodes"]]
    for edge, other in permutations(drawn["edges"], 2):  # one lane holds no two arcs that share more than an end
        if edge["y"] == other["y"] != drawn["nodes"][0]["y"]:
            a, b = (sorted(int(w) for w in e["what"].split(":")[0].split(" to ")) for e in (edge, other))
            assert a[1] <= b[0] or b[1] <= a[0], spots


def test_stage_resolutions_follow_strides() -> None:
    stages = [
        {"name": "a", "blocks": 2, "width": 16, "stride": 1},
        {"blocks": 9, "width": 64, "stride": 2},
        {"stride": 4},
    ]
    drawn = stage_picture(stages, (3, 33, 33))
    assert [row[3] for row in drawn["rows"]] == [33, 17, 5]
    assert [len(part["slabs"]) for part in drawn["parts"]] == [1, 2, 6, 1]
    heights = [part["height"] for part in drawn["parts"]]
    assert heights[0] == heights[1] > heights[2] > heights[3]
    assert drawn["parts"][2]["slab"] > drawn["parts"][1]["slab"]
    given = stage_picture([{"output": [8, 12, 12], "stride": 2}], (3, 32, 32))
    assert given["rows"][0][2:4] == (8, 12)
    assert stage_picture(stages, None)["rows"][0][3] is None


def test_layers_of_one_shape_are_one_stage() -> None:
    layers = [{"name": str(k), "type": t, "output": o} for k, (t, o) in enumerate(
        [("Conv2d", [8, 32, 32]), ("ReLU", [8, 32, 32]), ("Conv2d", [8, 32, 32]), ("Flatten", [10]), ("Linear", [10])]
    )]  # fmt: skip
    html = page.render({"network": {"kind": "layers", "layers": layers}, "data": {"shape": [3, 32, 32]}})
    assert "layers 1–3" in html
    assert "2 Conv2d, 1 ReLU" in html
    assert "layers 4–5" in html
    assert "All 5 layers" in html


def test_a_cell_without_edges_is_drawn() -> None:
    html = page.render({"network": {"kind": "cell", "nodes": 4, "edges": []}})
    assert html.count('class="node"') == 4


# The page


def test_plotly_accepts_every_figure(facts: dict[str, Any]) -> None:
    import plotly.graph_objects as go

    many = fake_facts(300, 100)
    for figures in (view_of(facts)["figures"], view_of(many)["figures"], view_of(hostile_facts())["figures"]):
        assert {"front", "verification", "proxy-0", "training-loss", "classes", "confusion", "counts"} <= set(figures)
        for figure in figures.values():
            go.Figure(data=painted(figure["data"]), layout=painted(figure["layout"]))


def test_everything_large_is_thinned_and_said() -> None:
    facts = fake_facts(10_000)
    figures = view_of(facts)["figures"]
    feasible = [c for c in facts["candidates"] if c["feasible"]]
    by_name = {trace["name"]: trace for trace in figures["front"]["data"]}
    assert sum(len(by_name[n]["x"]) for n in ("candidate", "finalist", "winner")) == front.DRAWN
    assert len(by_name["finalist"]["x"]) == sum(c["finalist"] for c in feasible) - 1  # the winner has its own mark
    drawn = set(by_name["candidate"]["y"]) | set(by_name["finalist"]["y"]) | set(by_name["winner"]["y"])
    assert {c["rank"] for c in feasible if c["front"]} <= drawn
    assert set(range(1, 501)) <= drawn
    assert max(np.diff(sorted(drawn))) < 5  # the rest evenly: about 9,400 ranks by 3,500 points
    html = page.render(facts)
    assert f"4,000 of {len(feasible):,} points are drawn" in html
    assert len(html.encode()) < 6_000_000
    for axis in ("latency", "memory", "params", "macs"):
        cost = np.array([c["costs"][axis] for c in feasible])
        rank = np.array([c["rank"] for c in feasible], float)
        assert figures["front"]["views"][axis]["front"] == [rank[i] for i in pareto(rank, cost)]
    assert by_name["front"]["y"] == [c["rank"] for c in reversed(feasible) if c["front"]]  # the run's own front


def test_the_axis_holds_every_point_and_the_limit(facts: dict[str, Any]) -> None:
    figure = view_of(facts)["figures"]["front"]
    for view in figure["views"].values():
        low, high = view["xaxis"]["range"]
        scale = (lambda v: math.log10(v)) if view["xaxis"]["type"] == "log" else (lambda v: v)
        for xs in view["x"]:
            assert all(low < scale(x) < high for x in xs)
    assert figure["views"]["latency"]["xaxis"]["range"][1] > 5.0
    assert figure["views"]["latency"]["shapes"][0]["x0"] == 5.0
    assert figure["views"]["macs"]["shapes"] == []
    for kind, scale in (("log", math.log10), ("linear", float)):
        bottom, top = figure["scales"][kind]["range"]
        ranks = [y for trace in figure["data"] for y in trace["y"]]
        assert all(top < scale(rank) < bottom for rank in ranks)


def test_the_answer_comes_first(facts: dict[str, Any]) -> None:
    html = page.render(facts)
    text = re.sub(r"<[^>]+>", " ", html[html.index("<main>") : html.index('id="network"')]).replace("\u00a0", " ")
    text = " ".join(text.split())
    test = facts["summary"]["test"]
    assert text.startswith(facts["summary"]["verdict"])
    assert f"{100 * test['value']:.1f} %" in text
    assert f"95 % interval {100 * test['low']:.1f} % to {100 * test['high']:.1f} %" in text
    assert "plain baseline 72.1 % +4.2 points" in text
    assert "latency 5.00 ms 3.42 ms ✓ met" in text
    assert "memory 3.20 MB 3.40 MB ✗ over by 6.2 %" in text


def test_weak_evidence_is_called_weak(facts: dict[str, Any]) -> None:
    html = " ".join(page.render(facts).split())
    assert "At most 8 networks, which is little" in html
    assert "For 4 of 5 the 95 % interval includes zero" in html
    assert "Spearman −0.10" in html
    few = {"entrants": facts["entrants"], "correlation": {"zen": {"spearman": 1.0, "kendall": 1.0, "n": 3}}}
    assert "too few points for an interval" in page.render(few)


def test_every_block_is_optional() -> None:
    facts = fake_facts(60)
    whole = page.render(facts)
    assert "Left out" not in whole[whole.index("<main>") : whole.index("<footer>")]
    for key in facts:
        html = page.render({name: value for name, value in facts.items() if name != key})
        assert "<footer>" in html
    for key, value in facts.items():
        if isinstance(value, dict) and key not in ("versions", "correlation", "plan"):
            for inner in value:
                if (key, inner) != ("network", "kind"):
                    reduced = {**facts, key: {name: v for name, v in value.items() if name != inner}}
                    assert "<footer>" in page.render(reduced), (key, inner)
    for state, said in (("unfinished", 13), ("finished", 0)):
        html = page.render({"state": state})
        assert html.count('class="absent">Left out') == 13
        assert len(re.findall(r"Left out[^<]*The run is not finished\.", html)) == said
        assert "No answer yet." in html


def test_facts_of_other_shapes() -> None:
    entrant = {
        "arch": "a",
        "role": "finalist",
        "costs": {},
        "rounds": [],
        "failure": "hung",
        "scores": {},
        "rank": None,
    }
    odd = {
        "summary": {"winner": "a", "test": None, "baseline": None, "latency": None, "limits": {"latency": 3.0}},
        "candidates": [{"arch": "a", "rank": 1, "costs": {"params": 10}, "scores": {}}],
        "entrants": [entrant],
        "audit": {
            "parts": {"test": {"accuracy": 0.5, "n": 2}},
            "per_class": [{"name": "a", "recall": None, "precision": None, "n": 0}],
            "confusion": [[0]],
        },
        "training": {"history": [{"epoch": 0.1, "loss": float("nan")}]},
        "time": [{"stage": "a", "seconds": 0.0}],
        "data": {"classes": [], "counts": {}},
        "failures": [],
    }
    html = page.render(odd)
    assert "failed: hung" in html
    assert "not measured" in html
    assert "the training history holds no numbers" in html


def test_a_baseline_of_another_space_marks_no_candidate(facts: dict[str, Any]) -> None:
    summary = {**facts["summary"], "winner_role": "baseline"}
    changed = {**facts, "summary": summary}
    assert "winner" not in {trace["name"] for trace in view_of(changed)["figures"]["front"]["data"]}
    assert "has no rank in the pool" in page.render(changed)
    html = page.render(changed)
    assert "the search found nothing better" in html
    assert "Beside the plain baseline" not in html
    assert "Beside the plain baseline" in page.render(facts)


def test_facts_are_left_alone(facts: dict[str, Any]) -> None:
    before = json.dumps(facts)
    page.render(facts)
    assert json.dumps(facts) == before


def test_tables_pictures_and_addresses(facts: dict[str, Any], tmp_path: Path) -> None:
    path = page.write_report(facts, tmp_path / "report.html")
    read = Reader(path.read_text(encoding="utf-8"))
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in read.tags if tag == "th")
    assert all("alt" in attributes for tag, attributes in read.tags if tag == "img")
    assert sum(tag == "img" for tag, _ in read.tags) == 8
    for _, attributes in read.tags:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
        assert not any(name.startswith("on") for name in attributes)
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for t, a in read.tags if t == "a"} <= set(ids)
    figures = json.loads(read.scripts[0])
    assert {a["data-figure"] for _, a in read.tags if "data-figure" in a} == set(figures)


def test_only_our_scripts_may_run(facts: dict[str, Any]) -> None:
    read = Reader(page.render(hostile_facts()))
    policy = next(a["content"] for t, a in read.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "http" not in policy
    wanted = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in read.scripts[1:]}
    assert set(re.findall(r"'sha256-([^']+)'", policy)) == wanted
    assert len(read.scripts) == 3


def test_embedded_json_cannot_leave_its_block() -> None:
    value = {"a": [HOSTILE, QUOTED, "]]>", "\u2029", float("inf"), (1, None)]}
    text = embed(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert text.isascii()
    assert json.loads(text) == {"a": [HOSTILE, QUOTED, "]]>", "\u2029", None, [1, None]]}


def test_plotly_sees_no_markup() -> None:
    import html

    for text in (HOSTILE, "%{x}<b>bold</b>", "a&lt;b", "$x^2$", "<a href='javascript:alert(1)'>x</a>"):
        assert not set("<>%{}$\"'") & set(label_text(text))
        assert html.unescape(label_text(text)) == text
    assert label_text("x" * 50, 10) == "x" * 9 + "…"
    for figure in view_of(hostile_facts())["figures"].values():
        shown = json.dumps(json.loads(embed([figure["data"], figure["layout"]])))
        assert "<script" not in shown
        assert "<img" not in shown


def test_commands_are_quoted() -> None:
    folder = "my runs/it's $(rm) here"
    html = page.render({"files": [{"name": "model.onnx"}], "folder": folder})
    import html as h
    import shlex

    code = [h.unescape(c) for c in re.findall(r"<pre[^>]*><code>(.*?)</code>", html, re.S)]
    assert shlex.split(code[0])[2] == folder
    for snippet in code[1:]:
        compile(snippet, "snippet", "exec")
    own = page.render({"files": [{"name": "x"}], "usage": [{"title": "Own", "code": "do <it>"}]})
    assert "do &lt;it&gt;" in own
    assert "archscout predict" not in own


# In a browser


def probed(html: str, script: str) -> str:
    """The page with a script of the test's own at its end, which the page's policy would refuse."""
    html = re.sub(r"script-src .*?; style-src", "script-src 'unsafe-inline'; style-src", html, count=1)
    return html.replace("</body>", f"<script>{script}</script></body>")


def test_browser_draws_everything(facts: dict[str, Any], tmp_path: Path) -> None:
    opened = open_page(page.write_report(facts, tmp_path / "report with space.html"))
    assert opened.console == []
    assert opened.requests == []
    figures = re.findall(r'class="figure[^"]*" data-figure="([^"]+)"', opened.dom)
    assert len(figures) == len(view_of(facts)["figures"]) == 14
    assert f'data-drawn="{len(figures)}"' in opened.dom
    for chunk in re.split(r'class="figure[^"]*" data-figure="', opened.dom)[1:]:
        assert 'class="main-svg"' in chunk
        assert re.search(r'class="(point|points|hm|js-line|bars)', chunk), chunk[:200]


def test_browser_shows_hostile_names_literally(tmp_path: Path) -> None:
    facts = hostile_facts()
    opened = open_page(page.write_report(facts, tmp_path / "report.html"))
    assert opened.console == []
    assert opened.requests == []
    title = re.search(r"<title>(.*?)</title>", opened.dom, re.S)
    assert title is not None
    assert title[1] != "pwned"
    assert "&lt;script&gt;document.title='pwned'&lt;/script&gt;" in title[1]
    body = opened.dom[opened.dom.index("<body") :]
    assert body.count("<script") == 3
    assert not re.search(r"<[a-z]+ [^>]*\sonerror=", re.sub(r'"[^"]*"', '""', body[: body.index("<script")]))
    assert len(re.findall(r"<td[^>]*>&lt;script&gt;document.title='pwned'&lt;/script&gt;", body)) > 3
    labels = re.findall(r"<text[^>]*>([^<]*&lt;script&gt;[^<]*)", body)
    assert labels, "the class is a label of a chart, shown as it is"


def test_browser_opens_an_empty_page(tmp_path: Path) -> None:
    opened = open_page(page.write_report({"state": "unfinished"}, tmp_path / "report.html"))
    assert opened.console == []
    assert opened.requests == []
    assert 'data-drawn="0"' in opened.dom


def test_browser_switches_the_cost_and_fits_a_narrow_window(tmp_path: Path) -> None:
    script = """
    const title = () => document.querySelector('[data-figure="front"] .xtitle').textContent;
    const seen = [title()];
    for (const [id, value] of [["cost", "params"], ["scale", "linear"], ["cost", "latency"]]) {
      const select = document.getElementById(id);
      select.value = value;
      select.dispatchEvent(new Event("change"));
      seen.push(title());
    }
    const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
    document.title = JSON.stringify([seen, wide]);
    """
    path = tmp_path / "probed.html"
    path.write_text(probed(page.render(fake_facts(classes=40)), script), encoding="utf-8")
    opened = open_page(path, width=500)
    assert opened.console == []
    title = re.search(r"<title>(.*?)</title>", opened.dom)
    assert title is not None
    seen, wide = json.loads(title[1])
    assert seen == ["predicted latency for one image", *["parameters"] * 2, "predicted latency for one image"]
    assert wide == 0


def test_browser_helper_sees_errors_and_requests(tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="http://example.org/a.png"><script>console.error("oh no"); nothing.here()</script>')
    opened = open_page(bad)
    assert any("oh no" in line for line in opened.console)
    assert any("nothing is not defined" in line for line in opened.console)
    assert opened.requests == ["http://example.org/a.png"]


def test_the_page_says_among_which_networks_a_rank_is(facts: dict[str, Any]) -> None:
    by_rank = {**facts, "shortlist": "rank"}
    html = page.render({**by_rank, "kinds": ["halving"]})
    assert "of each halving and of several sizes" in html
    assert "those that chose were among networks of the same halving" in html
    assert "good rank among networks of the same halving" in html
    assert "The best that were found, of several sizes, and the controls" in page.render(by_rank)
    plain = page.render({**facts, "shortlist": "accuracy"})
    assert "The best that were found, and the controls" in plain
    assert "of the same" not in plain
