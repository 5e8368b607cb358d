"""archscout search: the main job."""

from __future__ import annotations

from typing import Annotated

import typer

from archscout.cli import app, options
from archscout.cli.options import usual
from archscout.errors import UserError


@app.command()
def search(
    images: Annotated[
        str | None, typer.Argument(help="The images, as --data names them.", show_default=False, metavar="DATA")
    ] = None,
    data: options.Data = None,
    space: Annotated[str | None, typer.Option(help=f"Search space; see archscout list space {usual('space')}.")] = None,
    strategy: Annotated[
        str | None, typer.Option(help=f"What proposes architectures; see archscout list strategy {usual('strategy')}.")
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(
            help="What the strategy is told: proxies (no training), or accuracy after a short training "
            f"{usual('reward')}."
        ),
    ] = None,
    inherit: Annotated[
        bool | None,
        typer.Option("--inherit", help="Short trainings begin with the weights of the nearest trained network."),
    ] = None,
    proxies: Annotated[str | None, typer.Option(help="Zero-shot proxies that rank, joined by commas.")] = None,
    select: options.Select = None,
    share: options.Share = None,
    limit: options.Limit = None,
    device_profile: options.DeviceProfile = None,
    budget: options.Budget = None,
    candidates: Annotated[int | None, typer.Option(help="Architectures to score.")] = None,
    finalists: Annotated[int | None, typer.Option(help="Architectures to verify by short training.")] = None,
    trainings: Annotated[int | None, typer.Option(help="Short trainings of a search by accuracy.")] = None,
    epochs: options.Epochs = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Shares of the TIME (not of the images) for ranking, verification and full training, like 5,15,80; "
            "they divide a --budget (default: decided)."
        ),
    ] = None,
    supernet: Annotated[
        list[str] | None,
        typer.Option(help="How darts, pdarts, tas train a supernet, like beta=0.3 or sample=gumbel; repeatable."),
    ] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(help="Cost that verification and nsga2 weigh against accuracy, like latency; repeatable."),
    ] = None,
    pretrained: Annotated[
        list[str] | None,
        typer.Option(help="Known network with a local file of its weights, like resnet18=resnet18.pth; repeatable."),
    ] = None,
    teach: Annotated[
        str | None,
        typer.Option(help=f"Whether the best such network teaches the winner: auto, yes, no {usual('teach')}."),
    ] = None,
    teacher: options.Teacher = None,
    metric: options.Metric = None,
    flip: options.Flip = None,
    seed: options.Seed = None,
    device: options.Device = None,
    devices: options.Devices = None,
    workers: Annotated[str | None, typer.Option(help="Processes (default: all cores), ray, or ray://ADDRESS.")] = None,
    threads: Annotated[
        int | None, typer.Option(help=f"Threads of each scoring and verification, and of latency {usual('threads')}.")
    ] = None,
    train_threads: options.TrainThreads = None,
    timeout: Annotated[
        float | None, typer.Option(help=f"Seconds after which scoring one network is given up {usual('timeout')}.")
    ] = None,
    data_root: options.DataRoot = None,
    size: options.Size = None,
    group: options.Group = None,
    strict: options.Strict = None,
    config: options.ConfigFile = None,
    trust: options.Trust = False,
    out: options.Out = None,
    as_json: options.Json = False,
) -> None:
    """Find, verify, train, audit and export the network for your images under your limits."""
    from archscout.pipeline import search as run_search

    if images is not None and data is not None:
        raise UserError(f"the images were named twice: {images} and --data {data}; leave one out")
    data = images if data is None else data
    apart = ("images", "data", "limit", "objective", "pretrained", "supernet", "config", "out", "as_json", "run_search")
    settings = {k: v for k, v in locals().items() if k not in (*apart, "apart")}
    settings |= {"limits": limit or None, "objectives": objective or None, "pretrained": pretrained or None}
    settings["supernet"] = supernet or None
    result = run_search(data, out=out, config=config, **settings)
    options.conclude(result, as_json)
