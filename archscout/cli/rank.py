"""archscout rank: score architectures with proxies, without a search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from archscout.cli import app, options
from archscout.errors import UserError


@app.command()
def rank(
    space: Annotated[str, typer.Option(help="Search space of the architectures.")] = "nasbench201",
    archs: Annotated[str, typer.Option(help="File with one architecture per line, or all.")] = "all",
    proxies: Annotated[
        str | None, typer.Option(help="Proxies to show, joined by commas, or all (default: the default set).")
    ] = None,
    data: options.Data = None,
    limit: options.Limit = None,
    device_profile: options.DeviceProfile = None,
    batch_size: Annotated[int, typer.Option(help="Images in the batch that the proxies see.")] = 64,
    images: Annotated[str, typer.Option(help="Which images: balanced, random, diverse or hard.")] = "balanced",
    seeds: Annotated[int, typer.Option(help="Initialisations and batches that each score averages.")] = 1,
    seed: options.Seed = None,
    device: options.Device = None,
    workers: Annotated[str | None, typer.Option(help="Processes (default: all cores), ray, or ray://ADDRESS.")] = None,
    data_root: options.DataRoot = None,
    size: options.Size = None,
    out: Annotated[
        Path | None, typer.Option(help="CSV file to write; its scores so far lie in a file of that name with .log.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Score architectures with zero-shot proxies and rank them by the aggregate; a CSV with a column per proxy."""
    from archscout.ranking import rank as rank_archs

    table = rank_archs(
        space, archs, proxies=proxies, data=data, limits=limit, device_profile=device_profile, batch_size=batch_size,
        images=images, seeds=seeds, seed=seed or 0, device=device or "cpu", workers=workers, data_root=data_root,
        size=size, out=out,
    )  # fmt: skip
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    if not any(map(has_score, rows)):
        raise UserError(none_scored(rows, limit or []))
    if out is not None and not as_json:
        print(out)
        return
    options.show(rows if as_json else [in_words(row) for row in rows], as_json)


def has_score(row: dict[str, Any]) -> bool:
    """Whether any proxy that is shown has a score in a row."""
    return any(isinstance(value, int | float) for name, value in row.items() if name != "rank")


def none_scored(rows: list[dict[str, Any]], limits: list[str]) -> str:
    """Why no architecture has a score, by the reasons of the first one that was within the limits, if one was."""
    failures = [json.loads(row["failures"] or "{}") for row in rows]
    tried = [found for found in failures if "limits" not in found]
    if not tried:
        within = " and ".join(limits)
        return f"no architecture is within {within}; of the first, {failures[0]['limits']}; raise --limit"
    reasons = "; ".join(f"{name}: {why}" for name, why in tried[0].items())
    return f"no architecture of {len(rows)} has a score; of the first, {reasons}"


def in_words(row: dict[str, Any]) -> dict[str, Any]:
    """A row for the terminal: '-' for what is missing, no rank without any score, and failures as texts."""
    shown = {name: "-" if value is None else value for name, value in row.items()}
    failures = json.loads(row["failures"] or "{}")
    shown["failures"] = "; ".join(why if name == "limits" else f"{name}: {why}" for name, why in failures.items())
    return shown if has_score(row) else {**shown, "rank": "-"}
