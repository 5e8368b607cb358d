"""Draw the pictures of measurements in the documents, from the committed results files.

python benchmarks/pictures.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from dds_search import FRESH, truth
from matplotlib import pyplot as plt

HERE = Path(__file__).resolve().parent
COLOURS = {"full": "#222222", "dds": "#d62728", "random": "#1f77b4", "fixed": "#7f7f7f", "infobatch": "#2ca02c"}
WORDS = {
    "full": "all images",
    "random": "redrawn at random",
    "fixed": "a fixed random subset",
    "infobatch": "InfoBatch",
}


def over_time(cells: list[dict[str, Any]], truth: dict[str, float], grid: np.ndarray) -> np.ndarray:
    """The true accuracy (cells, moments) of what each search would give at each moment; its end's after its end."""
    rows = []
    for cell in cells:
        times = np.array([entry["seconds"] for entry in cell["curve"]])
        values = np.array([truth[entry["arch"]] for entry in cell["curve"]])
        place = np.searchsorted(times, grid, side="right") - 1
        rows.append(np.where(place < 0, np.nan, values[np.maximum(place, 0)]))
    return np.stack(rows)


def searches(out: Path, known: dict[str, float]) -> None:
    """True accuracy against seconds of the processor, mean over seeds, for the arms of dds_search."""
    cells = json.loads((HERE / "results" / "dds_search.json").read_text(encoding="utf-8"))["cells"]
    figure, axes = plt.subplots(figsize=(8, 4.2), dpi=120)
    for arm, colour in COLOURS.items():
        mine = [
            cell for key, cell in cells.items() if key.rpartition("/")[0] == arm and int(key.rpartition("/")[2]) < FRESH
        ]
        if not mine:
            continue
        first = max(cell["curve"][0]["seconds"] for cell in mine)
        last = max(cell["curve"][-1]["seconds"] for cell in mine)
        grid = np.geomspace(first, last, 200)
        values = over_time(mine, known, grid)
        mean = values.mean(0)
        axes.plot(grid, mean, color=colour, label=f"{WORDS.get(arm, arm)} (n = {len(mine)})")
        if len(mine) > 1:
            half = 1.96 * values.std(0, ddof=1) / np.sqrt(len(mine))
            axes.fill_between(grid, mean - half, mean + half, color=colour, alpha=0.12, linewidth=0)
        axes.plot(last, mean[-1], "o", color=colour, markersize=4)
    axes.set_xscale("log")
    ticks = [10, 20, 50, 100, 200, 500, 1000]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("seconds of one core, everything counted")
    axes.set_ylabel("true accuracy on CIFAR-10, %")
    axes.set_ylim(84, 95)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(out)


if __name__ == "__main__":
    known = truth(Path(os.environ.get("ARCHSCOUT_DATA") or HERE.parents[1] / "shared" / "data"))
    searches(HERE.parent / "docs" / "dds_search.png", {cell: values[0] for cell, values in known.items()})
