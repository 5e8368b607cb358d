"""archscout device: the devices that were measured elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from archscout.cli import app, options

device = typer.Typer(
    help="Add, list and remove devices that were measured elsewhere; use one with --device-profile NAME.",
    no_args_is_help=True,
)
app.add_typer(device, name="device")
Name = Annotated[str, typer.Argument(help="Name of the device, like pi4.", show_default=False)]


@device.command()
def add(
    name: Name,
    file: Annotated[
        Path,
        typer.Argument(
            help="measured.json of a bench kit, or a CSV or parquet table with arch and ms.", show_default=False
        ),
    ],
    power: Annotated[
        str | None, typer.Option(help="Watts while it works, like 3W, for energies where none were measured.")
    ] = None,
    space: Annotated[str | None, typer.Option(help="Search space of the architectures of a table.")] = None,
    input_shape: options.InputShape = None,
    classes: Annotated[int | None, typer.Option(help="Classes of the networks of a table.")] = None,
    runtime: Annotated[str | None, typer.Option(help="What a table was measured with, like tflite.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads that a table was measured with.")] = None,
    latency: Annotated[str | None, typer.Option(help="Column of latency and its unit, like lat_pixel3:ms.")] = None,
    energy: Annotated[str | None, typer.Option(help="Column of energy and its unit, like edgegpu_energy:mJ.")] = None,
    names: Annotated[
        Path | None, typer.Option(help="Table with the architectures, where the first has only their index.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a device of that name.")] = False,
    trust: options.Trust = False,
    as_json: options.Json = False,
) -> None:
    """Keep a device under a name: its latency and energy are then predicted for any network."""
    from archscout.devices.shelf import add_device

    row = add_device(
        name, file, power=power, space=space, input_shape=input_shape, classes=classes, runtime=runtime,
        threads=threads, replace=replace, latency=latency, energy=energy, names=names, trust=trust,
    )  # fmt: skip
    notes = row.pop("notes")
    options.show([row], as_json)
    if not as_json:
        for note in notes:
            print(f"note: {note}")
        print(f"use it: archscout search --data photos/ --limit latency=20ms --device-profile {name}")


@device.command(name="list")
def list_devices(as_json: options.Json = False) -> None:
    """Show the devices that were added."""
    from archscout.devices.shelf import known_devices

    rows = known_devices()
    if rows or as_json:
        options.show(rows, as_json)
    else:
        print("no devices yet: archscout bench-kit --out kit, measure there, archscout device add NAME measured.json")


@device.command()
def check(
    run: options.Run,
    file: Annotated[
        Path, typer.Argument(help="measured.json of a kit that was written with --run.", show_default=False)
    ],
    as_json: options.Json = False,
) -> None:
    """Keep what a run's winner really takes on another device, and say whether its limits hold there."""
    from archscout.costs.limits import format_cost
    from archscout.devices.shelf import check_device
    from archscout.facts import judged
    from archscout.result import Result, last

    found = check_device(run, file)
    if as_json:
        print(options.json.dumps(found))
        return
    result = Result(run)
    limits, ends = result.config.get("limits", {}), last(result.events, "target_measured")
    for name in ("latency", "energy", "power"):
        if found[name] is not None:
            most = ends.get(f"{name}_high") or found[name]
            held = {
                "met": ", within the limit",
                "near": f", just below the limit: the interval reaches to {format_cost(name, most)}",
                "over": ", ABOVE the limit",
            }
            said = held[judged(found[name], most, limits[name])] if name in limits else ""
            print(f"{name:9} {format_cost(name, found[name])} on {found['device']}{said}")
    for note in found["notes"]:
        print(f"note: {note}")


@device.command()
def remove(name: Name) -> None:
    """Forget a device."""
    from archscout.devices.shelf import remove_device

    print(f"removed {remove_device(name)}")
