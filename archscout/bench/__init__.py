"""Benchmarks over published tables: how good are scores where every network's trained accuracy is known?

    table = load_table("nb201_accuracy.parquet", hardware=["nb201_hwnasbench.parquet"])
    found = evaluate(scores, table, "cifar10", cost="edgegpu_energy")
    found["connected"]["kendall"]  # {"value": ..., "low": ..., "high": ...}

The tables are the user's own files; the package holds none.
"""

from __future__ import annotations

from archscout.bench.figures import figures_of
from archscout.bench.protocol import beside, evaluate
from archscout.bench.table import Table, load_table
from archscout.bench.verb import benchmark

__all__ = ["Table", "benchmark", "beside", "evaluate", "figures_of", "load_table"]
