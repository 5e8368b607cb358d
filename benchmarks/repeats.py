"""Whether measurements on this machine repeat, and whether accepted limits hold: two figures of devices.py.

repeat_difference   24 architectures of three spaces are measured as `archscout profile --seconds 2` does, each in turn;
                    when all are done, all are measured again by another process. A sample is
                    |second / first - 1| of the two medians, in percent. `within_5_or_interval`: the share whose medians
                    differ by at most 5 % or whose stated 95 % intervals overlap; `usual`: the mean difference of the
                    two latencies brought to the usual speed of the machine. No earlier measurement is known when the
                    first begins.
limits_met          100 searches under a limit on latency: the whole main job on the digits, few candidates and only a
                    moment of training, since the choice is what matters. The limit lies between the 10th and the 90th
                    percentile of the latencies of 12 random networks. The winner is then built and measured anew for
                    2 s by another process; the limit is met if the median is not above it.

Everything else on the machine must rest meanwhile.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from archscout.errors import UserError

SPACES = ("plain", "mobilenet", "nasbench201")
SHAPE = (3, 32, 32)


def apart(job: Callable[..., Any], *args: Any) -> Any:
    """What a function answers in a process that begins with it and ends with it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(job, *args).result()


@contextmanager
def no_history() -> Iterator[None]:
    """Inside, and in processes begun inside, nothing is known of earlier measurements on this machine."""
    before = os.environ.get("ARCHSCOUT_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ARCHSCOUT_CACHE"] = folder
        try:
            yield
        finally:
            del os.environ["ARCHSCOUT_CACHE"]
            if before is not None:
                os.environ["ARCHSCOUT_CACHE"] = before


def measured(
    names: Sequence[tuple[str, str]], shape: tuple[int, int, int], classes: int, seconds: float
) -> list[dict[str, Any]]:
    """Median, low, high and usual in ms of networks named by space and architecture."""
    from archscout.devices.measure import measure_network
    from archscout.spaces import SPACES as known
    from archscout.verify import initialise

    found = []
    for name, text in names:
        space = known[name](shape, classes)
        latency = measure_network(initialise(space, space.parse(text), 0), shape, seconds=seconds).latency
        found.append({"median": latency.median, "low": latency.low, "high": latency.high, "usual": latency.usual})
    return found


def drawn(spaces: Sequence[str], each: int, shape: tuple[int, int, int], seed: int) -> list[tuple[str, str]]:
    """Random architectures: space and text."""
    from archscout.spaces import SPACES as known

    rng, found = np.random.default_rng(seed), []
    for name in spaces:
        space = known[name](shape, 10)
        found += [(name, space.format(space.sample(rng))) for _ in range(each)]
    return found


def repeats(each: int = 8, seconds: float = 2.0) -> list[dict[str, Any]]:
    """A row per network: both measurements."""
    names = drawn(SPACES, each, SHAPE, 0)
    with no_history():
        first, second = (apart(measured, names, SHAPE, 10, seconds) for _ in range(2))
    return [
        {"space": name, "arch": text, "first": a, "second": b}
        for (name, text), a, b in zip(names, first, second, strict=True)
    ]


def agree(row: dict[str, Any]) -> bool:
    a, b = row["first"], row["second"]
    near = abs(b["median"] / a["median"] - 1) <= 0.05
    return near or (a["low"] <= b["high"] and b["low"] <= a["high"])


def one_search(limit: float, seed: int) -> tuple[str, str]:
    """Space and architecture of the winner of a short search on the digits under a limit in ms."""
    import archscout

    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        found = archscout.search(
            "digits", out=Path(folder) / "run", space="mobilenet", limits={"latency": f"{limit}ms"}, candidates=6,
            finalists=1, epochs=0.05, workers=0, seed=seed,
        )  # fmt: skip
        return str(found.best["space"]), str(found.best["arch"])


def limits(count: int, path: Path, seconds: float = 2.0) -> list[dict[str, Any]]:
    """A row per search: limit, winner, and its latency measured again. Rows are kept in `path` (JSON lines)."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    shape, context = (1, 8, 8), multiprocessing.get_context("spawn")
    with (
        no_history(),
        ProcessPoolExecutor(1, mp_context=context) as searcher,
        ProcessPoolExecutor(1, mp_context=context) as other,
    ):
        names = drawn(("mobilenet",), 12, shape, 1)
        times = [found["median"] for found in other.submit(measured, names, shape, 10, 0.5).result()]
        low, high = np.quantile(times, [0.1, 0.9])
        for seed in range(len(rows), count):
            limit = float(np.exp(np.random.default_rng([seed, 2]).uniform(np.log(low), np.log(high))))
            row: dict[str, Any] = {"seed": seed, "limit": limit}
            try:
                row["space"], row["arch"] = searcher.submit(one_search, limit, seed).result()
            except UserError as error:  # nothing within the limit was found, so nothing was accepted
                row["refused"] = str(error)[:200]
            else:
                row["again"] = other.submit(measured, [(row["space"], row["arch"])], shape, 10, seconds).result()[0]
            rows.append(row)
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
    return rows
