"""archscout export: the winner as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from archscout.cli import app, options


@app.command()
def export(
    run: options.Run,
    out: Annotated[Path | None, typer.Option(help="Where to write it (default: RUN/model.onnx).")] = None,
) -> None:
    """Write a run's trained network as one ONNX file, normalisation inside, checked against torch."""
    from archscout.verbs import export as write

    print(write(run, out))
