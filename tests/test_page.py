"""The report page: figures, numbers, escaping, and what a real browser makes of it."""

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

from archscout import page

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
                "arch": entry["arch"] if k < 6 else ["largest: " + entry["arch"], entry["arch"], "plain-16-32-64"][k - 6],
                "role": role,
                "costs": entry["costs"],
                "measured_latency": entry["costs"]["latency"] * float(rng.uniform(0.9, 1.1)),
                "rank": entry["rank"],
                "rounds": [
                    {"epochs": [3, 6, 12][r], "validation": start + [0, 0.11, 0.18][r], "seconds": [20.5, 41.0, 80.2][r]}
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
    low, high = page.wilson(accuracy, tested)
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
            "onnx_latency": {"median": 1.87, "low": 1.8, "high": 1.95, "device": "cpu", "runtime": "onnxruntime", "threads": 1},
            "memory_bytes": 3.4e6,
            "peak_memory_measured": 2.1e8,
            "params": winner["costs"]["params"],
            "macs": winner["costs"]["macs"],
            "limits": {"latency": 5.0, "params": 1e6, "memory": 3.2e6},
            "seconds": 6843.0,
            "verdict": f"The network found gets {100 * accuracy:.1f} % of new images right, 4.2 points more on validation "
            "than the plain baseline, and takes 3.4 ms for one image.",
        },
        "data": {
            "source": "photos/",
            "images": 6 * tested,
            "shape": (3, 32, 32),
            "classes": names,
            "counts": {
                part: [int(v) for v in share * confusion.sum(1)] for part, share in (("train", 4), ("validation", 1), ("test", 1))
            },
            "notes": [
                "12 images appear twice; copies were kept in one part.",
                "Class 'bird' has less than half the images of class 'ship'.",
            ],
            "split": "stratified by class, 60/20/20, seed 0",
        },
        "plan": {"candidates": candidates, "finalists": 6, "epochs": 40, "budget_seconds": 7200},
        "plan_changes": [{"time": 3120.0, "what": "epochs 50 → 40", "why": "training was slower than predicted (31 ms a step, not 25)"}],
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
        "candidates": pool,
        "cost_axis": "latency",
        "entrants": entrants,
        "correlation": {
            "rank": {"spearman": 0.43, "kendall": 0.36, "n": 8},
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
            "recipe": {"lr": 0.1, "weight_decay": 5e-4, "batch_size": 128, "label_smoothing": 0.1, "flip": True, "cutout": 8},
        },
        "audit": {
            "parts": {
                "train": {"accuracy": 0.952, "balanced_accuracy": 0.95, "n": 4 * tested, "low": 0.945, "high": 0.958},
                "validation": {"accuracy": 0.949, "balanced_accuracy": 0.946, "n": tested, "low": 0.93, "high": 0.963},
                "test": {"accuracy": accuracy, "balanced_accuracy": float(recall.mean()), "n": tested, "low": low, "high": high},
            },
            "per_class": [
                {"name": name, "recall": float(recall[k]), "precision": float(precision[k]), "n": int(confusion[k].sum())}
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
