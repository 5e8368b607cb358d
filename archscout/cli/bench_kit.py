"""archscout bench-kit: a folder to measure another device with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from archscout.cli import app, options


@app.command(name="bench-kit")
def bench_kit(
    out: Annotated[Path, typer.Option(help="New folder to write.")] = Path("kit"),
    networks: Annotated[
        int | None, typer.Option(help="Networks in the kit: 24 or more (default 32); 6 or more of one space (10).")
    ] = None,
    space: Annotated[str | None, typer.Option(help="Only networks of this search space, of which ten do.")] = None,
    input_shape: options.InputShape = None,
    classes: Annotated[int | None, typer.Option(help="Classes of the networks of a --space.")] = None,
    run: Annotated[Path | None, typer.Option(help="Run whose winner is measured too.")] = None,
    as_json: options.Json = False,
) -> None:
    """Write a folder that measures another device with nothing but Python, numpy and onnxruntime."""
    from archscout.devices.kit import bench_kit as write
    from archscout.progress import progress

    more = {} if classes is None else {"classes": classes}
    with progress("writing networks", None) as bar:

        def written(done: int, total: int) -> None:
            bar.total = total
            bar.advance()

        found = write(
            out, networks=networks, run=run, space=space, input_shape=input_shape, on_progress=written, **more
        )
    if as_json:
        print(options.json.dumps(found))
        return
    print(f"kit       {found['folder']}: {found['networks']} networks, {found['bytes'] / 1e6:.1f} MB")
    print("there     copy it to the device, pip install numpy onnxruntime, and type: python bench.py")
    then = "add NAME" if run is None else f"check {run}"
    print(f"back      bring measured.json, and type: archscout device {then} measured.json")
