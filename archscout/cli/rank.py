"""archscout rank: score architectures with proxies, without a search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from archscout.cli import app, options


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
    if out is None or as_json:
        options.show(table.astype(object).where(table.notna(), None).to_dict("records"), as_json)
    else:
        print(out)
