"""The verb bench: every column of a scores file on a benchmark table."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from archscout.bench.protocol import beside, evaluate
from archscout.bench.scores import read_scores
from archscout.bench.table import load_table
from archscout.files import write_whole


def benchmark(
    table: str | Path,
    scores: str | Path,
    *,
    hardware: str | Path | Sequence[str | Path] = (),
    accuracy: str = "cifar10",
    costs: str | Sequence[str] | None = None,
    out: str | Path | None = None,
    resamples: int = 200,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """The figures of every column of a scores file, and of params, macs and random beside them.

    table, hardware:  files of a published benchmark, see archscout.bench.load_table.
    scores:    a file as `archscout rank --out` writes it. Proxies of the registry have its direction, a column `rank`
               is better where smaller, any other column where larger.
    costs:     which costs networks are picked under; default: one of `hardware`, without it macs.
    out:       JSON file for everything; otherwise nothing is written.
    Returns column -> the answer of archscout.bench.evaluate. About 2 s per column for 15,625 networks.
    """
    published = load_table(table, hardware)
    if costs is None:
        measured = [name for name in published.costs if name not in ("params", "macs")]
        costs = ["edgegpu_energy" if "edgegpu_energy" in measured else measured[0]] if measured else ["macs"]
    options: dict[str, Any] = {"costs": costs, "resamples": resamples, "seed": seed}
    if published.connected.all():
        options["pools"] = ["all"]
    found = {
        name: evaluate(values, published, accuracy, direction=direction_of(name), ceilings=False, **options)
        for name, values in read_scores(scores, published).items()
    }
    if missing := min(answer["failures"] for answer in found.values()):
        logging.getLogger("archscout").info(
            "every column lacks a score for %.1f %% of the table's networks or more: they count as the worst",
            100 * missing,
        )
    found |= {f"({name})": answer for name, answer in beside(published, accuracy, **options).items()}
    if out is not None:
        write_whole(out, json.dumps(found, indent=1, allow_nan=False) + "\n")
    return found


def direction_of(name: str) -> str:
    """Whether more ("max") or less ("min") of a column is better."""
    from archscout.proxies import PROXIES

    return "min" if name == "rank" else PROXIES[name].direction if name in PROXIES else "max"


def summary(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per column of the scores file with the main figures; names in brackets are what stands beside them.

    tau is Kendall's tau-b over all networks; then over the connected ones, with its 95 % interval, and within their
    best 10 and 5 %; top 1 and top 10 are accuracies of the best-scored; the rest is under limits on a cost.
    """
    rows = []
    for name, answer in found.items():
        pool = "connected" if "connected" in answer else "all"
        row: dict[str, Any] = {"proxy": name, "failed": f"{100 * answer['failures']:.1f} %"}
        if pool == "connected":
            row["tau all"] = f"{answer['all']['all']['kendall']['value']:.3f}"
        part = answer[pool]
        row["tau" if pool == "all" else "connected"] = shown(part["all"]["kendall"])
        row |= {f"top {p} %": f"{part[f'top{p}']['kendall']['value']:.3f}" for p in (10, 5)}
        row |= {"top 1": f"{part['picks']['top1']['value']:.2f}", "top 10": f"{part['picks']['top10']['value']:.2f}"}
        for cost, under in part["under"].items():
            row[f"regret {cost}"] = f"{under['regret']['mean']['value']:.2f}"
            row[f"worst {cost}"] = f"{under['regret']['worst']['value']:.2f}"
            row[f"area {cost}"] = f"{under['hypervolume']['value']:.3f}"
        rows.append(row)
    return rows


def shown(figure: dict[str, float]) -> str:
    """A figure with its interval."""
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"
