"""The devices a person has measured, kept under their names between runs."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from archscout.costs.limits import format_cost, parse_value
from archscout.devices.measured import (
    LEAST,
    UNKNOWN,
    WINNER,
    Measured,
    input_shape_of,
    kit_of,
    read_measured,
    text_of,
    value_of,
)  # fmt: skip
from archscout.devices.profile import Profile, fit_profile, trace_of
from archscout.errors import UserError, unknown
from archscout.files import write_whole
from archscout.space import SearchSpace
from archscout.trust import FOLDER, home

FORMAT = "archscout-device/1"
FEW = 60  # measured networks of one space below which other devices help to predict the rest


def shelf() -> Path:
    """The folder of device files: $ARCHSCOUT_CONFIG/devices, or in the user's config folder ($XDG_CONFIG_HOME)."""
    return home() / "devices"


def add_device(
    name: str,
    file: str | Path,
    *,
    power: str | float | None = None,
    space: str | None = None,
    input_shape: str | tuple[int, int, int] | None = None,
    classes: int | None = None,
    runtime: str | None = None,
    threads: int | None = None,
    replace: bool = False,
    trust: bool = False,
    latency: str | None = None,
    energy: str | None = None,
    names: str | Path | None = None,
) -> dict[str, Any]:
    """Fit and keep what predicts latency and energy on another device, from timings that were measured there.

    file: the measured.json of a bench kit, or a table of architectures of `space`, a CSV or parquet file; latency and
    energy choose its columns, and names another file with the architectures (see `measured.read_measured`).
    power: watts that the device draws while it works, such as "3W" read off a meter at its plug, for energies where
    none were measured. runtime, threads: what a table was measured with. trust: import the search spaces of your own
    that the file names, as module:function. Takes seconds for a kit. Returns the row of `known_devices`, with `notes`
    on what was left out. Raises UserError for a bad file, and for a name that is taken.
    """
    path = _place(name)
    if path.exists() and not replace:
        raise UserError(f"there is a device '{name}' already; add --replace, or type: archscout device remove {name}")
    shape = input_shape_of(input_shape) if isinstance(input_shape, str) else input_shape
    notes = []
    measured = read_measured(
        file, space=space, input_shape=shape, classes=classes, runtime=runtime, threads=threads, trust=trust,
        latency=latency, energy=energy, names=names,
    )  # fmt: skip
    watts = None if power is None else parse_value("power", power, "power")
    profile = fit_device(measured, watts)
    if len({space.name for space, _ in measured.archs}) == 1 and len(measured.archs) < FEW:
        profile = dataclasses.replace(profile, few=few_of(measured, name))
        helpers = len({source.partition(" ")[0] for source in profile.few["sources"]})
        notes.append(
            f"{len(measured.archs)} networks are few: latency in '{profile.space}' is predicted from them and "
            f"{helpers or 'no'} other device{'' if helpers == 1 else 's'} with measurements there, elsewhere roughly"
        )
    kept = {
        "format": FORMAT,
        "name": name,
        "added": datetime.now(UTC).isoformat(timespec="seconds"),
        "file": str(file),
        "profile": profile.to_json(),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(kept, indent=1))
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); name another folder in ${FOLDER}") from None
    return {**_row(kept, profile), "notes": [*measured.notes, *notes]}


def fit_device(measured: Measured, power: float | None = None) -> Profile:
    """The profile of a device whose networks were timed elsewhere; it predicts no training.

    The same sum of terms per operation as for this machine, see `profile.features`.
    """
    spaces = {space.name for space, _ in measured.archs}
    first = measured.archs[0][0]
    return fit_profile(
        [trace_of(space, arch) for space, arch in measured.archs],
        measured.latencies,
        [None] * len(measured.archs),
        names=[f"{space.name} {space.format(arch)}" for space, arch in measured.archs],
        device=measured.device,
        threads=measured.threads,
        train_threads=1,
        batch=1,
        space=first.name if len(spaces) == 1 else "several",
        input_shape=first.input_shape,
        runtime=measured.runtime,
        energies=measured.energies,
        checks=measured.checks,
        power=power or 0.0,
        power_source=f"stated: {power:g} W" if power else measured.energy_source,
    )


def few_of(measured: Measured, name: str) -> dict[str, Any]:
    """What `Profile.few` holds: the few measured networks of a space, and what the other devices measured there.

    Their energies are sources as well, since a source may be in any unit.
    """
    space = measured.archs[0][0]
    about = {"space": space.name, "input_shape": list(space.input_shape), "classes": space.classes}
    texts = [space.format(arch) for _, arch in measured.archs]
    energies = {text: value for text, value in zip(texts, measured.energies, strict=True) if value}
    samples = dict(zip(texts, measured.latencies, strict=True))
    return {
        **about,
        "samples": samples,
        "energies": energies if len(energies) >= LEAST else {},
        "sources": sources_of(space, name),
    }


def sources_of(space: SearchSpace, name: str = "") -> dict[str, dict[str, float]]:
    """What the devices that were added, but for `name`, measured in a space: "device cost" -> text -> ms or mJ."""
    sources: dict[str, dict[str, float]] = {}
    for path in sorted(shelf().glob("*.json")) if shelf().is_dir() else ():
        _, profile = _read(path)
        if path.stem != name and profile.space == space.name and profile.input_shape == space.input_shape:
            for cost in ("latency", "energy"):
                known = {row["arch"].partition(" ")[2]: row[cost] for row in profile.measured if row.get(cost)}
                if len(known) >= LEAST:
                    sources[f"{path.stem} {cost}"] = known
    return sources


def check_device(run: str | Path, file: str | Path) -> dict[str, Any]:
    """Keep what the winner of a run measures on the device that its limits are of, and say whether they hold.

    file: the measured.json of a kit that was written with `bench-kit --run`. Writes one event and the report. Returns
    device, latency, energy and power (None if unknown), `limits`: of each limited one whether the upper end of its
    interval holds, and `notes`: what may be another device than the one that was added. Energy that was not measured is
    latency x the power stated of the device. No search space is imported. UserError where the file lacks this winner,
    where it was measured with another runtime or other threads than the device, and for a run on this machine.
    """
    from archscout.result import Result
    from archscout.run import Run
    from archscout.verbs import report

    result = Result(run)
    best, about = result.best, result.about
    kept = result.events.get("profile")
    profile = Profile.from_json(kept) if kept else None
    if profile is None or not profile.target:
        raise UserError(
            f"the limits of run {run} are of no other device; search with --device-profile NAME of archscout device add"
        )
    found = kit_of(Path(file), text_of(Path(file)))
    notes = _unlike(found, profile, str(file))
    alike = {
        "file": WINNER, "space": about["factory"], "arch": best["arch"], "input_shape": about["input_shape"],
        "classes": len(about["classes"]),
    }  # fmt: skip
    rows = [row for row in found["networks"] if all(row.get(key) == value for key, value in alike.items())]
    latency = value_of(rows[0].get("latency"), f"{WINNER} of {file}", "latency") if rows else None
    if latency is None:
        raise UserError(
            f"{file} has no time of this run's winner; write a kit with it: archscout bench-kit --run {run}"
        )
    energy = value_of(rows[0].get("energy"), f"{WINNER} of {file}", "energy")
    high = max(latency, value_of(rows[0].get("high"), f"{WINNER} of {file}", "latency") or latency)
    stated = profile.power if energy is None and not profile.energy_terms else None
    energy = latency * stated if stated else energy
    values = {"latency": latency, "energy": energy, "power": energy / latency if energy else None}
    ends = {name: None if value is None else value * high / latency for name, value in values.items()}
    ends["power"] = values["power"]
    with Run.open(run) as opened:
        config = tomllib.loads(opened.config_text)
        number = sum(1 for _ in opened.keys("target_measured"))
        opened.record(
            "target_measured" + (f"/{number}" if number else ""),
            {
                **values,
                **{f"{name}_high": end for name, end in ends.items()},
                "stated_power": bool(stated),
                "device": found["device"],
                "runtime": found["runtime"],
                "threads": found["threads"],
                "notes": notes,
            },
        )
    report(run)
    limits = {name: limit for name, limit in config.get("limits", {}).items() if values.get(name) is not None}
    held = {name: ends[name] <= limit for name, limit in limits.items()}
    return {"device": found["device"], **values, "limits": held, "notes": notes}


def _unlike(found: dict[str, Any], profile: Profile, file: str) -> list[str]:
    """In what a measurement may not be of the device of a profile, in sentences; UserError where it surely is not."""
    got = {"runtime": found["runtime"], "threads": found["threads"]}
    wanted = {"runtime": profile.runtime, "threads": profile.threads}
    if any(got[name] != wanted[name] for name in got if UNKNOWN not in (got[name], wanted[name])):
        threads = wanted["threads"]
        raise UserError(
            f"{file} was measured by {got['runtime']} with {got['threads']} thread{'s' if got['threads'] > 1 else ''}; "
            f"'{profile.target}', of which the limits are, by {wanted['runtime']} with {threads}: measure the same way "
            f"(python bench.py --threads {threads})"
        )
    notes = []
    if UNKNOWN in (got["runtime"], wanted["runtime"]) and got["runtime"] != wanted["runtime"]:
        notes.append(
            f"the runtime is {got['runtime']} here and {wanted['runtime']} where '{profile.target}' was measured"
        )
    if found["device"] != profile.device:
        notes.append(f"measured on '{found['device']}'; '{profile.target}' was added from '{profile.device}'")
    return notes


def known_devices() -> list[dict[str, Any]]:
    """A row for each device that was added: name, device, runtime, threads, networks, error, latency, power, added."""
    rows = []
    for path in sorted(shelf().glob("*.json")) if shelf().is_dir() else ():
        rows.append(_row(*_read(path)))
    return rows


def remove_device(name: str) -> Path:
    """Forget a device; the file that was removed. UserError if there is none of that name."""
    path = _place(name)
    if not path.exists():
        raise unknown("device", name, _names(), "see archscout device list")
    path.unlink()
    return path


def find_profile(source: Any, space: SearchSpace | None = None) -> Profile:
    """The profile that `source` stands for: a Profile, the name of an added device, a run folder, or a JSON file.

    Profiles of other devices carry their name as `target`. Raises UserError for what leads nowhere.
    """
    from archscout.result import Result

    if isinstance(source, Profile) or not isinstance(source, str | Path):
        return source
    text, path = str(source), Path(source)
    if _is_name(text) and _place(text).exists():
        _, profile = _read(_place(text))
        return profile.aimed(profile, text)
    mend = (
        "give the name of an added device (archscout device list), a run folder, or a JSON file, with --device-profile"
    )
    if not path.exists() and _is_name(text) and not path.suffix:
        raise unknown("device", text, _names(), f"or {mend}")
    try:
        if path.is_dir():
            return Profile.from_json(Result(path).events["profile"])
        found = json.loads(path.read_text(encoding="utf-8"))
        return Profile.from_json(found["profile"] if found.get("format") == FORMAT else found)
    except OSError as error:
        raise UserError(f"cannot read the device profile {path} ({error.strerror}); {mend}") from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} holds no device profile ({type(error).__name__}: {error}); {mend}") from None


def _names() -> list[str]:
    return [path.stem for path in shelf().glob("*.json")] if shelf().is_dir() else []


def _is_name(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) is not None


def _place(name: str) -> Path:
    if not _is_name(name):
        raise UserError(f"'{name}' is no name of a device; wanted letters, digits, '-', '_' and '.', like pi4")
    return shelf() / f"{name}.json"


def _read(path: Path) -> tuple[dict[str, Any], Profile]:
    """A device file and the profile in it; UserError for any other file."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["format"] != FORMAT or not all(isinstance(kept[name], str) for name in ("name", "added")):
            raise ValueError(kept["format"])
        return kept, Profile.from_json(kept["profile"])
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from None
    except UserError as error:
        raise UserError(f"{path} is no device file: {error}; or add the device again") from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no device file ({type(error).__name__}: {error}); add the device again") from None


def _row(kept: dict[str, Any], profile: Profile) -> dict[str, Any]:
    latencies = [row["latency"] for row in profile.measured]
    ends = [format_cost("latency", value) for value in (min(latencies), max(latencies))] if latencies else []
    return {
        "name": kept["name"],
        "device": profile.device,
        "runtime": profile.runtime,
        "threads": profile.threads,
        "networks": profile.networks,
        "latency": " to ".join(ends) or UNKNOWN,
        "error": f"{profile.half_width:.0%}",
        "power": format_cost("power", profile.power) if profile.power else UNKNOWN,
        "added": kept["added"][:10],
    }
