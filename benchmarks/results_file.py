"""The form of every results file: command, machine, versions, date, and figures with their 95 % intervals.

from results_file import figure, write
write(path, [figure("ms per candidate", samples, "ms", known="42 to 720", reach=1.0)], command)
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

PACKAGES = ("archscout", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "pymoo", "pebble", "onnxruntime")


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory, accelerator, system, and how busy it is (mean load)."""
    import torch

    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else None
    return {
        "processor": name,
        "cores": cores,
        "memory_gib": round(memory, 1) if memory else None,
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def code_of_program(folder: str | os.PathLike[str] | None = None) -> str:
    """Sixteen hexadecimal digits that are equal for two copies of the package exactly if their Python code is equal.

    Docstrings, comments, blank lines and the form of lines do not count: what is hashed is the syntax tree of each
    module without the statements that are a bare text, and the module's place in the package. Other files of the
    package and what it depends on do not count either (see `versions`). Pythons of other versions name trees otherwise.

    folder: of the package; default: that of archscout as it is imported here. Costs about a second.
    """
    if folder is None:
        found = importlib.util.find_spec("archscout")
        if found is None or found.origin is None:
            raise SystemExit("archscout is not installed here: pip install -e '.[dev]'")
        folder = Path(found.origin).parent
    sources = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [each for each in body if not _is_text(each)]  # type: ignore[attr-defined]
        sources.update(f"{path.relative_to(folder).as_posix()}\n{ast.dump(tree)}\n".encode())
    return sources.hexdigest()[:16]


def _is_text(statement: ast.stmt) -> bool:
    """Whether a statement is nothing but a text, as a docstring is."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def interval(samples: Sequence[float]) -> tuple[float, float, float]:
    """Mean and the ends of its 95 % confidence interval (Student's t); a single sample has no width."""
    values = np.asarray(samples, dtype=float)
    if not np.isfinite(values).all() or not len(values):
        raise ValueError(f"wanted at least one finite sample, got {samples}")
    mean = float(values.mean())
    if len(values) < 2:
        return mean, mean, mean
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


def figure(
    name: str,
    samples: Sequence[float],
    unit: str,
    *,
    known: str | float | None = None,
    reach: str | float | None = None,
    **more: Any,
) -> dict[str, Any]:
    """One figure from repeats: mean as `value`, ends `low` and `high`, their number `n`.

    known: what others report, in words or as a number. reach: the value that this project wants to reach.
    """
    value, low, high = interval(samples)
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "low": low,
        "high": high,
        "n": len(samples),
        "known": known,
        "reach": reach,
        **more,
    }


def read(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """The figures of a results file by name; empty if there is none. For skipping what is done."""
    path = Path(path)
    if not path.exists():
        return {}
    return {figure["name"]: figure for figure in json.loads(path.read_text(encoding="utf-8"))["figures"]}


def write(
    path: str | os.PathLike[str], figures: Sequence[dict[str, Any]], command: str | None = None, **more: Any
) -> None:
    """Writes a results file whole or not at all. `command` is what to type to get it again; default: this command.

    `more` stands beside the figures: what they were made from.
    """
    path = Path(path)
    content = {
        "command": command or f"python {' '.join(sys.argv)}",
        "machine": machine(),
        "versions": versions(),
        "date": datetime.now(UTC).date().isoformat(),
        "figures": list(figures),
        **more,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, path)
