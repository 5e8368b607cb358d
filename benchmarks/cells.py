"""Cells of a benchmark that runs in pieces: images in memory, processes that train one cell each, files of cells."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images in memory, as training and evaluation want them."""

    pixels: np.ndarray  # uint8 (n, H, W, C)
    labels: np.ndarray  # int64 (n,)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, positions: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(positions, images (k, C, H, W), labels)."""
        rows = np.asarray(positions, dtype=np.int64)
        images = torch.from_numpy(self.pixels[rows]).permute(0, 3, 1, 2)
        return torch.from_numpy(rows), images, torch.from_numpy(self.labels[rows])


def run_cells(
    jobs: Sequence[tuple[str, tuple[Any, ...]]],
    work: Callable[..., dict[str, Any]],
    done: Callable[[str, dict[str, Any]], None],
    *,
    workers: int,
    minutes: float,
) -> None:
    """Calls work(*arguments) for each (key, arguments), some at a time, and `done` with each answer as it comes.

    Every cell has a fresh process, so that its peak of memory is its own. After `minutes` no new one begins.
    """
    ends = time.monotonic() + 60 * minutes
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
        running: dict[Future[dict[str, Any]], str] = {}
        waiting = list(reversed(jobs))
        while waiting or running:
            while waiting and len(running) < workers and time.monotonic() < ends:
                key, arguments = waiting.pop()
                running[pool.submit(work, *arguments)] = key
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                done(running.pop(future), future.result())


def stored(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a file that were measured with these settings; none where there is no file.

    Raises SystemExit where the file holds cells of other settings, which do not mix, or is unreadable.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        cells, held = content["cells"], content.get("settings") or {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SystemExit(
            f"{path} is no file of cells ({error}): move it away, and its cells are measured anew"
        ) from None
    wanted = json.loads(json.dumps(settings))
    other = [key for key in {**wanted, **held} if key in wanted and held.get(key) != wanted[key]]
    if other:
        told = ", ".join(f"{key} {held.get(key)} instead of {wanted[key]}" for key in other)
        raise SystemExit(f"{path} holds cells of other settings ({told}): move it away, or put these settings back")
    return dict(cells)


def keep(path: Path, cells: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Writes cells and the settings they were measured with, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps({"settings": settings, "cells": cells}), encoding="utf-8")
    os.replace(part, path)
