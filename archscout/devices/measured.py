"""Timings that were measured elsewhere, read from a file: the JSON of a bench kit, or a CSV of another tool."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from archscout.costs.limits import SHOWN, UNITS
from archscout.devices.bench import FORMAT
from archscout.errors import UserError
from archscout.space import Arch, SearchSpace, Shape

LEAST = 6  # networks without which nothing is fitted
MOST = 300  # networks that are fitted; of more, some at even places
BASE = {"latency": "ms", "energy": "mJ"}
WANTED = "give the measured.json of a bench kit, or a CSV"
MISSING = -1.0  # what published tables write where there is no value


@dataclass(frozen=True)
class Measured:
    """Networks with their milliseconds on a device, and millijoules where known.

    archs, latencies, energies: one entry a network.  notes: what was left out, a plain sentence each.
    checks: places of networks that were drawn at random while the others were chosen.
    """

    device: str
    runtime: str
    threads: int
    archs: tuple[tuple[SearchSpace, Arch], ...]
    latencies: tuple[float, ...]
    energies: tuple[float | None, ...]
    energy_source: str
    notes: tuple[str, ...]
    checks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Row:
    """A network of a file: latency in ms and energy in mJ, None where missing; failure says why, check as in a kit."""

    space: SearchSpace
    arch: Arch
    latency: float | None
    energy: float | None
    failure: str = ""
    check: bool = False


def read_measured(
    path: str | Path,
    *,
    space: str | None = None,
    input_shape: Shape | None = None,
    classes: int | None = None,
    runtime: str | None = None,
    threads: int | None = None,
    trust: bool | Sequence[str] = False,
) -> Measured:
    """The networks and their timings in a file: measured.json of a bench kit, or a CSV with a row a network.

    A CSV has a column `arch`, one of latency whose name is a unit (`ms`, `us`, `s`, or `latency_ms` and so on), and
    perhaps one of energy (`mJ`, `uJ`, `J`, `energy_mJ`); its networks are of `space` for images of `input_shape` and
    `classes`. A value that is empty, nan or -1 is missing and left out; any other that is not above zero is an error.
    trust: whether a kit's file may name search spaces as module:function, which are then imported; or which.
    Raises UserError that names the row for what cannot be read.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror}); give the measured.json of a bench kit, or a CSV"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text file; give the measured.json of a bench kit, or a CSV") from None
    if text.lstrip().startswith("{"):
        return _from_kit(path, text, trust)
    if space is None or input_shape is None or classes is None:
        raise UserError(
            f"{path} is a CSV, so say whose architectures these are: --space NAME --input-shape 3x32x32 --classes 10"
        )
    return _from_csv(path, text, space, input_shape, classes, runtime or "unknown", threads or 1)


def _from_kit(path: Path, text: str, trust: bool | Sequence[str]) -> Measured:
    wrong = f"{path} is no measurement of a bench kit"
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{wrong}: it is no JSON ({error}); run bench.py again on the device") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        kind = found.get("format") if isinstance(found, dict) else None
        raise UserError(f"{wrong}: wanted the format '{FORMAT}', got {kind!r}; run bench.py of archscout bench-kit")
    units = found.get("units")
    if units != BASE:
        raise UserError(f"{path} has the units {units!r}; wanted latency in ms and energy in mJ")
    if found.get("batch") != 1:
        raise UserError(f"{path} was measured at batch {found.get('batch')!r}; wanted batch 1, one image at a time")
    rows: list[Row] = []
    spaces: dict[Any, SearchSpace] = {}
    try:
        for place, row in enumerate(found["networks"], 1):
            shape, classes = tuple(int(side) for side in row["input_shape"]), int(row["classes"])
            key = (row["space"], shape, classes)
            if ":" in row["space"] and trust is not True and row["space"] not in (trust or ()):
                raise UserError(
                    f"network {place} of {path} is of the space '{row['space']}', which is code that would be run; "
                    "if you trust it and this file, add --trust"
                )
            if key not in spaces:
                spaces[key] = _space(row["space"], shape, classes)
            what = f"network {place} of {path} ({row['file']})"
            latency = row.get("latency")
            reason = f"{row['file']} failed there: {row.get('failure')}" if latency is None else ""
            arch = _arch(spaces[key], row["arch"], what)
            value, energy = _value(latency, what, "latency"), _value(row.get("energy"), what, "energy")
            rows.append(Row(spaces[key], arch, value, energy, reason, bool(row.get("check"))))
        threads, device, source = int(found["threads"]), str(found["device"]), found.get("energy_source")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{wrong}: {type(error).__name__} {error}; run bench.py again on the device") from None
    return _checked(path, rows, device, str(found.get("runtime", "unknown")), threads, source or "")


def _from_csv(
    path: Path, text: str, space: str, input_shape: Shape, classes: int, runtime: str, threads: int
) -> Measured:
    table = list(csv.reader(text.splitlines()))
    header = [name.strip() for name in table[0]] if table else []
    places = {cost: _column(path, header, cost) for cost in ("latency", "energy")}
    if "arch" not in header or places["latency"] is None:
        raise UserError(
            f"{path} has the columns {', '.join(header) or 'none'}; wanted arch and one of latency whose name is its "
            "unit: ms, us or s (also latency_ms and so on)"
        )
    ready, rows, widths = _space(space, input_shape, classes), [], len(header)
    for number, cells in enumerate(table[1:], 2):
        if not any(cell.strip() for cell in cells):
            continue
        what = f"line {number} of {path}"
        if len(cells) != widths:
            raise UserError(f"{what} has {len(cells)} values, the first line {widths}")
        values = []
        for cost in ("latency", "energy"):
            found = places[cost]
            values.append(None if found is None else _scaled(cells[found[0]], what, cost, found[1]))
        rows.append(Row(ready, _arch(ready, cells[header.index("arch")], what), values[0], values[1]))
    return _checked(path, rows, path.stem, runtime, threads, "measured elsewhere" if places["energy"] else "")


def _column(path: Path, header: Sequence[str], cost: str) -> tuple[int, float] | None:
    """The place and the unit of the column of a cost, None if there is none. Raises UserError where its unit is not."""
    found = []
    for place, name in enumerate(header):
        word = name.lower()
        unit = word.removeprefix(f"{cost}_").removeprefix(cost)
        if word == cost or (word.startswith(cost) and unit not in UNITS[cost]):
            raise UserError(
                f"column '{name}' of {path} names no unit of {cost}; wanted {SHOWN[cost]}, like {cost}_{BASE[cost]}"
            )
        if unit and unit in UNITS[cost]:
            found.append((place, UNITS[cost][unit]))
    if len(found) > 1:
        raise UserError(f"{path} has several columns of {cost}: {', '.join(header[p] for p, _ in found)}; keep one")
    return found[0] if found else None


def _scaled(cell: str, what: str, cost: str, unit: float) -> float | None:
    cell = cell.strip()
    try:
        value = float(cell) if cell else None
    except ValueError:
        raise UserError(f"{what}: '{cell[:40]}' is no {cost}; wanted a number") from None
    found = _value(value, what, cost)
    return None if found is None else found * unit


def _value(value: Any, what: str, cost: str) -> float | None:
    """A measured value, None where it is missing, UserError where it cannot be one."""
    if value is None or value == MISSING or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value < math.inf):
        raise UserError(
            f"{what}: {cost} {value!r} is not above zero; wanted {SHOWN[cost]}, or {MISSING:g} where it is missing"
        )
    return float(value)


def _space(name: str, input_shape: tuple[int, ...], classes: int) -> SearchSpace:
    from archscout.naming import find
    from archscout.spaces import SPACES

    if len(input_shape) != 3:
        raise UserError(f"an image has channels, height and width, like 3x32x32; got {input_shape}")
    return find("space", name, SPACES)(input_shape, classes)


def _arch(space: SearchSpace, text: Any, what: str) -> Arch:
    try:
        return space.canonical(space.parse(str(text)))
    except UserError as error:
        raise UserError(f"{what}: {error}") from None


def _checked(
    path: Path,
    rows: Sequence[Row],
    device: str,
    runtime: str,
    threads: int,
    energy_source: str,
) -> Measured:
    notes = [row.failure for row in rows if row.failure]
    if missing := sum(row.latency is None and not row.failure for row in rows):
        notes.append(f"{missing} of {len(rows)} networks have no latency and were left out")
    good = [row for row in rows if row.latency is not None]
    if len(good) < LEAST:
        raise UserError(f"{path} has {len(good)} measured networks; wanted {LEAST} or more")
    if len(good) > MOST:
        notes.append(f"{MOST} of {len(good)} networks, at even places by latency, were taken")
        good.sort(key=lambda row: row.latency or 0.0)
        good = [good[place] for place in np.linspace(0, len(good) - 1, MOST).round().astype(int)]
    return Measured(
        device=device,
        runtime=runtime,
        threads=threads,
        archs=tuple((row.space, row.arch) for row in good),
        latencies=tuple(row.latency or 0.0 for row in good),
        energies=tuple(row.energy for row in good),
        energy_source=energy_source,
        notes=tuple(notes),
        checks=tuple(place for place, row in enumerate(good) if row.check),
    )


def input_shape_of(text: str) -> Shape:
    """(channels, height, width) of a text like 3x32x32. UserError for any other."""
    parts = text.lower().replace(",", "x").split("x")
    if len(parts) == 3 and all(part.isdigit() and int(part) > 0 for part in parts):
        return int(parts[0]), int(parts[1]), int(parts[2])
    raise UserError(f"'{text}' is no shape of an image; wanted channels x height x width, like 3x32x32")
