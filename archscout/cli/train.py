"""archscout train: train one architecture fully, without a search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from archscout.cli import app, options


@app.command()
def train(
    run: Annotated[str | None, typer.Argument(help="Run whose winner to train again.", show_default=False)] = None,
    data: options.Data = None,
    space: Annotated[str | None, typer.Option(help="Search space of the architecture.")] = None,
    arch: Annotated[str | None, typer.Option(help="The architecture, as the program prints it.")] = None,
    select: options.Select = None,
    share: options.Share = None,
    limit: options.Limit = None,
    device_profile: options.DeviceProfile = None,
    budget: options.Budget = None,
    epochs: options.Epochs = None,
    recipe: options.Recipe = None,
    pretrained: options.Pretrained = None,
    teacher: options.Teacher = None,
    metric: options.Metric = None,
    flip: options.Flip = None,
    seed: options.Seed = None,
    device: options.Device = None,
    devices: options.Devices = None,
    train_threads: options.TrainThreads = None,
    data_root: options.DataRoot = None,
    size: options.Size = None,
    group: options.Group = None,
    strict: options.Strict = None,
    trust: options.Trust = False,
    out: Annotated[Path | None, typer.Option(help="New run folder (default: runs/DATA-train-N).")] = None,
    as_json: options.Json = False,
) -> None:
    """Train one architecture fully, audit and export it: a run's winner again, or --arch of --space on --data."""
    from archscout.pipeline import train as run_train

    apart = ("run", "data", "space", "arch", "limit", "out", "as_json", "run_train")
    settings = {k: v for k, v in locals().items() if k not in (*apart, "apart")} | {"limits": limit or None}
    options.conclude(run_train(data, run=run, space=space, arch=arch, out=out, **settings), as_json)
