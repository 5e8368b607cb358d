"""archscout predict: class and confidence of image files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from archscout.cli import app, options


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="Run folder or .onnx file.", show_default=False)],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.", show_default=False)],
    as_json: options.Json = False,
) -> None:
    """Tell the class and the confidence of each image file."""
    from archscout.errors import UserError
    from archscout.verbs import predict as predict_files

    found = predict_files(run, images)
    rows = [
        {"image": p.name, "class": p.label or "-", "confidence": p.confidence if p.confidence is not None else "-",
         **({"problem": p.failure or ""} if any(q.failure for q in found) else {})}
        for p in found
    ]  # fmt: skip
    options.show(rows, as_json)
    if all(p.failure for p in found):
        raise UserError(
            f"none of the {len(found)} images could be read; the first, {found[0].name}: {found[0].failure}"
        )
