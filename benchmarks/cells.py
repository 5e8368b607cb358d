"""Cells of a benchmark that runs in pieces: labelled images in memory, and processes that each train one cell."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
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
