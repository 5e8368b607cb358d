"""The small verbs: report, export, predict and the list of methods. Each works on a run folder or on nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from archscout.errors import UserError
from archscout.files import refuse_exits

ALSO = {  # other words for the kinds of methods
    "spaces": "space", "strategies": "strategy", "selector": "select", "selectors": "select", "selection": "select",
    "proxies": "proxy", "costs": "cost",
}  # fmt: skip


def report(run: str | Path, out: str | Path | None = None) -> Path:
    """Write the report page of a run, finished or not, and return its path. Takes about a second."""
    from archscout.facts import facts_of
    from archscout.page import write_report

    facts, place = facts_of(run), Path(out) if out else Path(run) / "report.html"
    if place.is_dir():
        raise UserError(f"{place} is a folder; give the name of a file, like --out {place / 'report.html'}")
    if not place.parent.is_dir():
        raise UserError(f"there is no folder {place.parent}; make it, or give another --out")
    return write_report(facts, place)


def export(
    run: str | Path, out: str | Path | None = None, *, int8: bool = False, data: Any = None, trust: bool = False
) -> Path:
    """Write the winner of a finished run as one ONNX file, checked against torch; its path. Takes seconds.

    int8: write it with 8-bit weights and activations (default RUN/model.int8.onnx), calibrated on training images, and
    keep its accuracy on the test images beside that before, in `Result.best["int8"]` and the report. Nothing is decided
    by that look at the test images. data: the images, where they were objects of Python. trust: import the code that
    the run names, though it was not made here.
    """
    from archscout.result import Result

    result = Result(run, trust=trust)
    if not (result.folder / "weights.safetensors").exists():
        raise UserError(f"run {run} has no trained weights yet; type: archscout resume {run}")
    if int8:
        return _export_int8(result, Path(out) if out else result.folder / "model.int8.onnx", data)
    return result.export_onnx(Path(out) if out else result.folder / "model.onnx")


def _export_int8(result: Any, out: Path, data: Any) -> Path:
    """The winner in int8, and the event that says what that costs."""
    from archscout.deploy import export_int8
    from archscout.run import Run

    onnx = result.folder / "model.onnx"
    if not onnx.exists():
        result.export_onnx(onnx)
    images = result.data(data)
    found = export_int8(onnx, out, calibration=images.part("train"), judged=images.part("test"))
    with Run.open(result.folder) as run:
        number = sum(1 for _ in run.keys("int8"))
        run.record(f"int8/{number}" if number else "int8", found.to_json())
    report(result.folder)
    return out


def predict(run: str | Path, images: Sequence[str | Path]) -> list[Any]:
    """The class and confidence of image files, by a run's model.onnx (or an .onnx file). Unreadable ones say why.

    Of a folder, all images below it.
    """
    from archscout.deploy import predict as predict_onnx

    path = Path(run)
    if path.is_dir():
        refuse_exits(path)
    model = path / "model.onnx" if path.is_dir() else path
    if not model.exists():
        raise UserError(f"there is no {model}; finish the run first: archscout resume {run}")
    if not images:
        raise UserError("no images given; type: archscout predict RUN IMAGE...")
    return predict_onnx(model, [file for image in images for file in image_files(image)])


def image_files(image: str | Path) -> list[str | Path]:
    """An image file itself, or the images below a folder in a fixed order. Raises UserError for a folder of none."""
    from archscout.readers.image_folder import EXTENSIONS

    if not Path(image).is_dir():
        return [image]
    below = (file for file in Path(image).rglob("*") if file.is_file() and not file.name.startswith("."))
    found: list[str | Path] = sorted(file for file in below if file.suffix.lower() in EXTENSIONS)
    if not found:
        raise UserError(f"folder {image} holds no image (wanted {', '.join(sorted(EXTENSIONS))})")
    return found


def methods(kind: str | None = None) -> list[dict[str, str]]:
    """Every method by kind (space, strategy, select, proxy, cost) with its first line of documentation."""
    from archscout.costs import COSTS
    from archscout.differentiable import DIFFERENTIABLE
    from archscout.predicted import Predictor
    from archscout.proxies import DEFAULT, PROXIES
    from archscout.selection import SELECTORS
    from archscout.spaces import SPACES
    from archscout.strategies import STRATEGIES

    kinds: dict[str, dict[str, Any]] = {
        "space": dict(SPACES),
        "strategy": {**STRATEGIES, **DIFFERENTIABLE, "predictor": Predictor},
        "select": {"full": None, **SELECTORS},
        "proxy": dict(PROXIES),
        "cost": dict(COSTS),
    }
    kind = ALSO.get(kind, kind) if kind else None
    if kind is not None and kind not in kinds:
        from archscout.errors import unknown

        raise unknown("kind of method", kind, kinds)
    rows = []
    for name_of_kind, registry in kinds.items():
        if kind not in (None, name_of_kind):
            continue
        for name, method in registry.items():
            function = getattr(method, "compute", method)
            line = (getattr(function, "__doc__", None) or "").strip().split("\n")[0]
            mark = " (default)" if name_of_kind == "proxy" and name in DEFAULT else ""
            rows.append({"kind": name_of_kind, "name": name, "what": line + mark})
    return rows
