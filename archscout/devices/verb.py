"""The verb profile: measure a network on this machine, and show what was found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from archscout.costs import measure
from archscout.costs.limits import parse_value
from archscout.devices.latency import measure_memory
from archscout.devices.measure import Measurement, measure_network
from archscout.devices.measured import input_shape_of
from archscout.errors import UserError
from archscout.files import write_whole
from archscout.space import Shape


def profile(
    model: Any,
    *,
    space: str | None = None,
    input_shape: str | Shape | None = None,
    classes: int = 10,
    device: str = "cpu",
    runtime: str | None = None,
    batch: int = 1,
    threads: int = 1,
    seconds: float = 10.0,
    precision: float = 0.02,
    power: str | float | None = None,
    out: str | Path | None = None,
    page: str | Path | None = None,
    trust: bool = False,
) -> dict[str, Any]:
    """Measure a network on this machine: latency with its interval and spread, energy, power, memory, and its costs.

    model: a run folder, an .onnx file, an architecture of `space` for images of `input_shape` (with fresh weights), a
    function "module:name" that makes a network, or an nn.Module; the last three need `input_shape`, like "3x32x32".
    runtime: torch, compile or onnxruntime; by default torch, and onnxruntime for an .onnx file.  power: watts to take
    where the machine has no meter.  out: JSON file.  page: HTML file with the distribution of the times.  trust: import
    the search space that a run names, though the run was not made here.

    Returns the fields of `Measurement.to_json`, and name, costs (counted, base units) and memory_measured (bytes).
    Takes at most about 1.3 x `seconds`, and torch.compile up to a minute before. Raises UserError for what can be
    mended.
    """
    shape = input_shape_of(input_shape) if isinstance(input_shape, str) else input_shape
    name, network, shape = find_network(model, space, shape, classes, runtime, trust)
    is_file = isinstance(network, Path)
    watts = None if power is None else parse_value("power", power, "power")
    found: Measurement = measure_network(
        network,
        shape,
        device=device,
        runtime=runtime or ("onnxruntime" if is_file else "torch"),
        batch=batch,
        threads=threads,
        seconds=seconds,
        precision=precision,
        watts=watts,
    )
    result: dict[str, Any] = {"name": name, **found.to_json(), "costs": {}, "memory_measured": None}
    if isinstance(network, nn.Module) and shape is not None:
        result["costs"] = measure(network, shape)
        result["input_shape"] = list(shape)
        if found.latency.runtime == "torch" and batch == 1:
            result["memory_measured"] = measure_memory(network, shape, device=device)
    if out is not None:
        _write(Path(out), json.dumps(result, indent=1))
    if page is not None:
        from archscout.devices.picture import distribution_page

        _write(Path(page), distribution_page(result))
    return result


def find_network(
    model: Any, space: str | None, input_shape: Shape | None, classes: int, runtime: str | None, trust: bool = False
) -> tuple[str, nn.Module | Path, Shape | None]:
    """The name, the network or ONNX file, and the shape of its images, of what a person gave."""
    if isinstance(model, nn.Module):
        return type(model).__name__, model, _required(input_shape, type(model).__name__)
    path = Path(model)
    if path.is_dir():
        return _of_run(path, runtime, trust)
    if path.suffix == ".onnx":
        if not path.is_file():
            raise UserError(f"there is no {path}; give an .onnx file, a run folder, or an architecture with --space")
        return str(path), path, None
    if space is not None:
        from archscout.ranking import ready_space

        ready = ready_space(space, _required(input_shape, str(model)), classes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return str(model), ready.build(ready.parse(str(model))), ready.input_shape
    if ":" in str(model):
        from archscout.naming import find

        made = find("network", str(model), {})
        with torch.random.fork_rng(devices=[]):
            made = made() if callable(made) and not isinstance(made, nn.Module) else made
        if not isinstance(made, nn.Module):
            raise UserError(f"'{model}' gives a {type(made).__name__}; wanted a torch network")
        return str(model), made, _required(input_shape, str(model))
    raise UserError(
        f"'{model}' is no run folder and no .onnx file; for an architecture add --space NAME --input-shape 3x32x32, "
        "for a network of yours write module:function"
    )


def _of_run(path: Path, runtime: str | None, trust: bool) -> tuple[str, nn.Module | Path, Shape]:
    from archscout.result import Result

    result = Result(path, trust=trust)
    needed = path / ("model.onnx" if runtime == "onnxruntime" else "weights.safetensors")
    if not needed.exists():
        raise UserError(f"run {path} has no {needed.name} yet; type: archscout resume {path}")
    channels, height, width = result.about["input_shape"]
    network = needed if runtime == "onnxruntime" else result.model()
    return f"{path} ({result.best['arch']})", network, (channels, height, width)


def _required(input_shape: Shape | None, what: str) -> Shape:
    if input_shape is None:
        raise UserError(f"the images of {what} are not known; add --input-shape 3x32x32 (channels x height x width)")
    return input_shape


def _write(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); give another file") from None
