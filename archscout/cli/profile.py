"""archscout profile: measure a network on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from archscout.cli import app, options


@app.command()
def profile(
    model: Annotated[
        str,
        typer.Argument(
            help="Run folder, .onnx file, architecture of --space, or module:function that makes a network.",
            show_default=False,
        ),
    ],
    space: Annotated[str | None, typer.Option(help="Search space of the architecture.")] = None,
    input_shape: options.InputShape = None,
    classes: Annotated[int, typer.Option(help="Classes of the architecture.")] = 10,
    device: options.Device = None,
    runtime: Annotated[
        str | None, typer.Option(help="torch, compile or onnxruntime (default: torch; onnxruntime for .onnx files).")
    ] = None,
    batch: Annotated[int, typer.Option(help="Images in an inference.")] = 1,
    threads: Annotated[int, typer.Option(help="Threads of an inference.")] = 1,
    seconds: Annotated[float, typer.Option(help="Longest time to measure.")] = 10.0,
    precision: Annotated[
        float, typer.Option(help="Stop when the 95 % interval of the median is within this share of it.")
    ] = 0.02,
    power: Annotated[
        str | None, typer.Option(help="Power to take where the machine has no meter, like 12W (default: a stated one).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for everything, each repeat included.")] = None,
    page: Annotated[Path | None, typer.Option(help="HTML file for a page with the distribution of the times.")] = None,
    trust: options.Trust = False,
    as_json: options.Json = False,
) -> None:
    """Measure a network on this machine: latency with its interval, energy, power, memory, and what disturbed it."""
    from archscout.devices.measure import table
    from archscout.devices.verb import profile as profile_network

    found = profile_network(
        model, space=space, input_shape=input_shape, classes=classes, device=device or "cpu", runtime=runtime,
        batch=batch, threads=threads, seconds=seconds, precision=precision, power=power, out=out, page=page,
        trust=trust,
    )  # fmt: skip
    if as_json:
        print(options.json.dumps({k: v for k, v in found.items() if k != "samples"}, indent=1))
        return
    latency = found["latency"]
    print(
        f"{found['name']}: {latency['device']}, {latency['runtime']}, {latency['threads']} thread, "
        f"batch {latency['batch']}"
    )
    options.show(table(found), False)
    for warning in found["warnings"]:
        print(f"note: {warning}")
    for path in (out, page):
        if path is not None:
            print(path)
