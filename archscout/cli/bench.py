"""archscout bench: judge scores on a benchmark with published accuracies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from archscout.cli import app, options


@app.command()
def bench(
    table: Annotated[Path, typer.Argument(help="Table of NAS-Bench-201 or NAS-Bench-Macro.", show_default=False)],
    scores: Annotated[Path, typer.Argument(help="CSV file as archscout rank writes it.", show_default=False)],
    hardware: Annotated[
        list[Path] | None, typer.Option(help="Table of measured costs (HW-NAS-Bench, HELP); may be repeated.")
    ] = None,
    cost: Annotated[
        list[str] | None, typer.Option(help="Cost to pick networks under; may be repeated (default: one measured).")
    ] = None,
    accuracy: Annotated[str, typer.Option(help="Which accuracy of the table is the truth.")] = "cifar10",
    seed: options.Seed = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for all figures with their intervals.")] = None,
    as_json: options.Json = False,
) -> None:
    """Judge scores where trained accuracies are published; one row per proxy, params, macs and random beside them."""
    from archscout.bench.verb import benchmark, summary

    found = benchmark(
        table, scores, hardware=hardware or (), costs=cost, accuracy=accuracy, seed=seed or 0, out=out
    )  # fmt: skip
    options.show(summary(found), as_json)
