"""archscout export: the winner as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from archscout.cli import app, options


@app.command()
def export(
    run: options.Run,
    out: Annotated[
        Path | None, typer.Option(help="Where to write it (default: RUN/model.onnx, or RUN/model.int8.onnx).")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="8-bit weights and activations, calibrated on training images.")
    ] = False,
    trust: options.Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print path and, with --int8, what it cost as JSON.")] = False,
) -> None:
    """Write a run's trained network as one ONNX file, normalisation inside; --int8: quantized, and what that cost."""
    from archscout.verbs import export as write

    path = write(run, out, int8=int8, trust=trust)
    found = None
    if int8:
        from archscout.result import Result

        found = Result(run).best["int8"]
    if as_json:
        print(options.json.dumps({"path": str(path), **({"int8": found} if found else {})}, indent=1))
        return
    if found:
        low, high = found["accuracy_interval"]
        print(
            f"accuracy  {100 * found['accuracy']:.1f} % in int8 (95 % interval {100 * low:.1f} to {100 * high:.1f}), "
            f"{100 * found['float_accuracy']:.1f} % before, on {found['images']} test images"
        )
        print(f"same      {100 * found['agreement']:.1f} % of the images get the same class")
        print(f"size      {found['bytes'] / 1e3:.0f} kB, {found['float_bytes'] / 1e3:.0f} kB before")
        print(f"latency   {found['latency']:.3g} ms, {found['float_latency']:.3g} ms before (onnxruntime, 1 thread)")
    print(path)
