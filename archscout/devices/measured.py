"""Timings that were measured elsewhere, read from a file: the JSON of a bench kit, or a table of another tool."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from archscout.costs.limits import SHOWN, unit_of
from archscout.devices.amounts import MOST as LARGEST
from archscout.devices.amounts import whole_number
from archscout.devices.bench import FORMAT
from archscout.errors import UserError, unknown
from archscout.space import Arch, SearchSpace, Shape

LEAST = 6  # networks without which nothing is fitted
MOST = 300  # networks that are fitted; of more, some at even places
BASE = {"latency": "ms", "energy": "mJ"}
WANTED = "give the measured.json of a bench kit, or a table as .csv or .parquet"
NAMES = ("arch", "arch_str", "arch_idx")  # columns that can hold architectures: ours, and those of published tables
NUMBER = "index"  # column that joins a table without architectures to one with them
MISSING = -1.0  # what published tables write where there is no value
WINNER = "winner.onnx"  # the file of a run's winner in a kit
UNKNOWN = "unknown"  # the runtime of a table that does not say it


@dataclass(frozen=True)
class Measured:
    """Networks, no two of them alike, with their milliseconds on a device, and millijoules where known.

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
    latency: str | None = None,
    energy: str | None = None,
    names: str | Path | None = None,
) -> Measured:
    """The networks and their timings in a file: measured.json of a bench kit, or a table with a row a network.

    A table is a CSV or a parquet file. It has a column `arch` (or `arch_str`, `arch_idx`, as published tables call it),
    one of latency whose name is a unit (`ms`, `us`, `s`, or `latency_ms` and so on), and perhaps one of energy (`mJ`,
    `uJ`, `J`, `energy_mJ`); its networks are of `space` for images of `input_shape` and `classes`. A value that is
    empty, nan or -1 is missing and left out; any other that is not above zero is an error. Rows of the same network
    (canonically, in one space) become one with their medians.
    latency, energy: columns of another name, with their unit, like "lat_pixel3:ms".  names: another table, which holds
    the architectures where this one has but their `index`.
    trust: whether a kit's file may name search spaces as module:function, which are then imported; or which.
    Raises UserError that names the row for what cannot be read.
    """
    path = Path(path)
    text = None if path.suffix == ".parquet" else text_of(path)
    if text is not None and text.lstrip().startswith("{"):
        return read_kit(path, text, trust)
    if space is None or input_shape is None or classes is None:
        raise UserError(
            f"{path} is a table, so say whose architectures these are: --space NAME --input-shape 3x32x32 --classes 10"
        )
    shape = _shape(input_shape, "input_shape")
    classes, threads = whole_number(classes, "classes"), 1 if threads is None else whole_number(threads, "threads")
    table = _named(path, _cells(path, text), names)
    return _from_table(path, table, space, shape, classes, runtime or UNKNOWN, threads, latency, energy)


def text_of(path: Path) -> str:
    """The text of a file, without the mark that some programs put before it. UserError where there is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); {WANTED}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text file; {WANTED}") from None


def kit_of(path: Path, text: str) -> dict[str, Any]:
    """What the text of a kit's measured.json says, with its networks as they stand there, a dict each.

    UserError where it is none, or in other units than ours.
    """
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
    rows = found.get("networks")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{wrong}: it lists no networks; run bench.py again on the device")
    for name in ("device", "threads"):
        if name not in found:
            raise UserError(f"{wrong}: it does not say its {name}; run bench.py again on the device")
    said = ("device", "runtime", "energy_source")
    texts = {name: " ".join(str(found.get(name) or "").split())[:200] for name in said}
    whole_number(found["threads"], f"threads of {path}")
    return {**found, **texts, "runtime": texts["runtime"] or UNKNOWN}


def read_kit(path: Path, text: str, trust: bool | Sequence[str] = False) -> Measured:
    """The networks and their timings in the text of a kit's measured.json; see `read_measured`.

    The winner of a run is left out where its space was an object of Python, which no file can name.
    """
    found = kit_of(path, text)
    rows: list[Row] = []
    notes: list[str] = []
    spaces: dict[Any, SearchSpace] = {}
    try:
        for place, row in enumerate(found["networks"], 1):
            name = row["space"]
            if row["file"] == WINNER and ":" not in name and name not in known_spaces():
                notes.append(f"{WINNER} is of the space '{name:.80}', which has no name here, and was left out")
                continue
            shape = _shape(row["input_shape"], f"input_shape of network {place} of {path}")
            classes = whole_number(row["classes"], f"classes of network {place} of {path}")
            key = (name, shape, classes)
            if ":" in name and trust is not True and name not in (trust or ()):
                raise UserError(
                    f"network {place} of {path} is of the space '{name}', which is code that would be run; "
                    "if you trust it and this file, add --trust"
                )
            if key not in spaces:
                spaces[key] = _space(name, shape, classes)
            what = f"network {place} of {path} ({row['file']})"
            latency = row.get("latency")
            reason = f"{row['file']} failed there: {row.get('failure')}" if latency is None else ""
            arch = _arch(spaces[key], row["arch"], what)
            value, energy = value_of(latency, what, "latency"), value_of(row.get("energy"), what, "energy")
            rows.append(Row(spaces[key], arch, value, energy, reason, bool(row.get("check"))))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{path} is no measurement of a bench kit: {type(error).__name__} {error}; run bench.py again on the device"
        ) from None
    if isinstance(asked := found.get("asked"), int) and asked > len(found["networks"]):
        notes.append(f"bench.py was stopped: {len(found['networks'])} of the {asked} networks of the kit were measured")
    return _checked(path, rows, found["device"], found["runtime"], found["threads"], found["energy_source"], notes)


def _cells(path: Path, text: str | None) -> list[list[Any]]:
    """The cells of a table row by row, the names of its columns first; `text` of a CSV, None for a parquet file."""
    if text is not None:
        try:
            return list(csv.reader(text.splitlines()))
        except csv.Error as error:
            raise UserError(f"{path} is no CSV ({error}); {WANTED}") from None
    from archscout.bench.table import read_frame

    frame = read_frame(path)
    columns = [column.tolist() for _, column in frame.items()]
    return [[str(name) for name in frame.columns], *map(list, zip(*columns, strict=True))]


def _named(path: Path, table: list[list[Any]], names: str | Path | None) -> list[list[Any]]:
    """The table with a column `arch` joined from another one on `index`, if there is another one."""
    if names is None:
        return table
    names = Path(names)
    other = _cells(names, None if names.suffix == ".parquet" else text_of(names))
    header, labels = table[0] if table else [], other[0] if other else []
    column = next((labels.index(name) for name in NAMES if name in labels), None)
    if NUMBER not in header or NUMBER not in labels or column is None:
        raise UserError(
            f"{path} and {names} cannot be joined; wanted the column {NUMBER} in both, and one of "
            f"{', '.join(NAMES)} in {names}"
        )
    archs = {str(row[labels.index(NUMBER)]).strip(): row[column] for row in other[1:] if len(row) == len(labels)}
    place = header.index(NUMBER)
    joined = [["arch", *(name if name not in NAMES else f"_{name}" for name in header)]]
    for number, row in enumerate(table[1:], 2):
        key = str(row[place]).strip() if place < len(row) else ""
        if row and key not in archs:
            raise UserError(f"line {number} of {path}: {names} has no network of {NUMBER} '{key[:40]}'")
        joined.append([archs[key], *row] if row else [])
    return joined


def _from_table(
    path: Path,
    table: list[list[Any]],
    space: str,
    input_shape: Shape,
    classes: int,
    runtime: str,
    threads: int,
    latency: str | None,
    energy: str | None,
) -> Measured:
    header = [name.strip() for name in table[0]] if table else []
    chosen = {"latency": latency, "energy": energy}
    places = {cost: _column(path, header, cost, asked) for cost, asked in chosen.items()}
    arch = next((header.index(name) for name in NAMES if name in header), None)
    if arch is None or places["latency"] is None:
        shown = ", ".join(header[:12]) or "none"
        raise UserError(
            f"{path} has the columns {shown}; wanted arch and one of latency whose name is its unit: ms, us or s (also "
            f"latency_ms and so on), or --latency COLUMN:ms{' and --names FILE' if NUMBER in header else ''}"
        )
    ready, rows, widths = _space(space, input_shape, classes), [], len(header)
    for number, cells in enumerate(table[1:], 2):
        if not any(str(cell).strip() for cell in cells):
            continue
        what = f"line {number} of {path}"
        if len(cells) != widths:
            raise UserError(f"{what} has {len(cells)} values, the first line {widths}")
        values = []
        for cost, found in places.items():
            values.append(None if found is None else _scaled(cells[found[0]], what, cost, found[1]))
        rows.append(Row(ready, _arch(ready, cells[arch], what), values[0], values[1]))
    name = path.stem if latency is None else latency.rpartition(":")[0]
    return _checked(path, rows, name, runtime, threads, "measured elsewhere" if places["energy"] else "")


def _column(path: Path, header: Sequence[str], cost: str, asked: str | None) -> tuple[int, float] | None:
    """The place and the unit of the column of a cost, None if there is none. Raises UserError where its unit is not."""
    if asked is not None:
        name, _, text = asked.rpartition(":")
        unit = unit_of(cost, text) if text else None
        if not name or unit is None:
            raise UserError(f"'--{cost} {asked}' names no unit of {cost}; wanted COLUMN:UNIT, like {cost}:{BASE[cost]}")
        if name not in header:
            raise unknown("column", name, header, f"of {path}")
        return header.index(name), unit
    found = []
    for place, name in enumerate(header):
        word = name.lower()
        text = name[len(cost) :].removeprefix("_") if word.startswith(cost) else name
        unit = unit_of(cost, text) if text else None
        if word.startswith(cost) and unit is None:
            raise UserError(
                f"column '{name}' of {path} names no unit of {cost}; wanted {SHOWN[cost]}, like {cost}_{BASE[cost]}"
            )
        if unit is not None:
            found.append((place, unit))
    if len(found) > 1:
        raise UserError(
            f"{path} has several columns of {cost}: {', '.join(header[p] for p, _ in found)}; keep one, or choose: "
            f"--{cost} {header[found[0][0]]}:{BASE[cost]}"
        )
    return found[0] if found else None


def _scaled(cell: Any, what: str, cost: str, unit: float) -> float | None:
    """A cell of a table, text or number, in the base unit of its cost; None where it is missing."""
    text = str(cell).strip()
    try:
        value = None if cell is None or not text else float(text)
    except ValueError:
        raise UserError(f"{what}: '{text[:40]}' is no {cost}; wanted a number") from None
    found = value_of(value, what, cost)
    return None if found is None else found * unit


def value_of(value: Any, what: str, cost: str) -> float | None:
    """A measured value, None where it is missing, UserError where it cannot be one."""
    if value is None or value == MISSING or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value < math.inf):
        raise UserError(
            f"{what}: {cost} {value!r} is not above zero; wanted {SHOWN[cost]}, or {MISSING:g} where it is missing"
        )
    return float(value)


def known_spaces() -> dict[str, Callable[..., SearchSpace]]:
    """The spaces that a file can name: all of ours, and that of pretrained networks, from which a winner may be."""
    from archscout.pretrained import pretrained
    from archscout.spaces import SPACES

    return {**SPACES, "pretrained": pretrained}


def _space(name: str, input_shape: Shape, classes: int) -> SearchSpace:
    from archscout.naming import find

    return find("space", name, known_spaces())(input_shape, classes)


def _shape(sides: Sequence[Any], what: str) -> Shape:
    if len(sides) != 3:
        raise UserError(f"{what}: an image has channels, height and width, like 3x32x32; got {sides!r:.60}")
    channels, height, width = (whole_number(side, what) for side in sides)
    return channels, height, width


def _arch(space: SearchSpace, text: Any, what: str) -> Arch:
    """The canonical architecture of a text, or of a list like [7, 0, 3], the places of its options."""
    try:
        words = str(text).strip().strip("[]").split(",")
        listed = str(text).strip().startswith("[") and all(word.strip().isdecimal() for word in words)
        return space.canonical(space.require(tuple(map(int, words))) if listed else space.parse(str(text)))
    except UserError as error:
        raise UserError(f"{what}: {error}") from None


def _checked(
    path: Path,
    rows: Sequence[Row],
    device: str,
    runtime: str,
    threads: int,
    energy_source: str,
    more: Sequence[str] = (),
) -> Measured:
    notes = [*more, *(row.failure for row in rows if row.failure)]
    if missing := sum(row.latency is None and not row.failure for row in rows):
        notes.append(f"{missing} of {len(rows)} networks have no latency and were left out")
    found = [row for row in rows if row.latency is not None]
    good = merged(found)
    if len(good) < len(found):
        notes.append(f"{len(found)} rows are of {len(good)} networks: of those that repeat, the medians count")
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


def merged(rows: Sequence[Row]) -> list[Row]:
    """One row for each network, in the order in which they first come: the medians of what was measured of it.

    It was drawn at random (`check`) if all of its rows were.
    """
    alike: dict[tuple[SearchSpace, Arch], list[Row]] = {}
    for row in rows:
        alike.setdefault((row.space, row.arch), []).append(row)

    def middle(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.median(known)) if known else None

    return [
        Row(
            space,
            arch,
            middle([row.latency for row in group]),
            middle([row.energy for row in group]),
            check=all(row.check for row in group),
        )
        for (space, arch), group in alike.items()
    ]


def input_shape_of(text: str) -> Shape:
    """(channels, height, width) of a text like 3x32x32. UserError for any other."""
    parts = text.lower().replace(",", "x").split("x")
    if len(parts) == 3 and all(part.isdecimal() and len(part) < 9 and 0 < int(part) <= LARGEST for part in parts):
        return int(parts[0]), int(parts[1]), int(parts[2])
    raise UserError(f"'{text}' is no shape of an image; wanted channels x height x width, like 3x32x32")
