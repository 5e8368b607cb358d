"""How fast this machine is now beside how fast it was before, told by a fixed small network timed on each occasion.

A shared, hot or throttled machine changes its speed for seconds or hours at a time, which no number of repeats in one
sitting shows. A reference network that never changes does: what it took in earlier measurements says how much another
measurement may differ from this one.
"""

from __future__ import annotations

import hashlib
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from archscout.devices.latency import once
from archscout.files import user_cache, write_whole

KEPT, DAYS = 1000, 30  # earlier times that count, at most, and how old they may be
SHARE = 0.1  # of a measurement, spent on the reference at most
WINDOW = 1.0  # seconds of which one time is remembered
BUSY = 0.05  # share of interrupted repeats from where other programs disturb a measurement
STATED = (0.025, 0.975)  # quantiles of the earlier times between which a measurement is expected


@dataclass(frozen=True)
class Speed:
    """How the reference did in a measurement, beside earlier ones; all factors multiply a time measured with it.

    usual:    brings it to the usual speed of the machine, the median of all.
    fastest, slowest: bring it to speeds that the machine has in 95 of 100 seconds (the extremes of fewer than 40).
    earlier:  how many earlier seconds are known.
    """

    usual: float = 1.0
    fastest: float = 1.0
    slowest: float = 1.0
    earlier: int = 0

    @property
    def restless(self) -> float:
        """How much slower than usual the machine can be, relative."""
        return self.slowest / self.usual - 1

    @classmethod
    def told(cls, now: float, earlier: Sequence[float]) -> Speed:
        """From the milliseconds of the reference now and earlier."""
        if not now > 0:
            return cls()
        times = np.asarray([*earlier, now])
        return cls(
            usual=float(np.median(times)) / now,
            fastest=float(np.quantile(times, STATED[0], method="lower")) / now,
            slowest=float(np.quantile(times, STATED[1], method="higher")) / now,
            earlier=len(earlier),
        )


class Reference:
    """The reference network, timed between the repeats of a measurement: `tick` after each, then `speed`.

    Three convolutions of 32 channels on 32 x 32 images with batch norm and ReLU, in PyTorch, about a millisecond: what
    networks mostly are, so that it slows down as they do. The earlier times are kept by machine, device, thread count
    and version of PyTorch in the user's cache folder (`speed/`), a line of "seconds since 1970, milliseconds" each.
    """

    def __init__(self, device: torch.device, threads: int, name: str, wait: Callable[[], None] | None) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = [
                layer for _ in range(3) for layer in (nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
            ]
            images = torch.randn(1, 32, 32, 32)
        network = nn.Sequential(*layers).eval().to(device)
        self.network = network.to(memory_format=torch.channels_last)
        self.images = images.to(device).contiguous(memory_format=torch.channels_last)
        self.wait, self.on_core = wait, threads == 1 and wait is None
        here = "|".join((platform.node(), platform.machine(), name, str(threads), torch.__version__))
        self.path = user_cache() / "speed" / f"{hashlib.blake2b(here.encode(), digest_size=8).hexdigest()}.txt"
        self.earlier = recalled(self.path)
        self.times: list[float] = []
        self.at: list[float] = []
        self.spent = 0.0
        self.since = time.perf_counter()

    def begin(self) -> None:
        """What was timed so far is forgotten: a measurement begins."""
        self.times, self.at, self.spent, self.since = [], [], 0.0, time.perf_counter()
        self.tick()

    def tick(self) -> None:
        """One run, unless the reference has had its share of the time since `begin`; the caller sets the threads."""
        start = time.perf_counter()
        if self.times and self.spent > SHARE * (start - self.since):
            return
        self._run()  # what ran before has taken the caches
        if self.wait:
            self.wait()
        self.times.append(once(self._run, self.wait, self.on_core)[0])
        self.at.append(start)
        self.spent += time.perf_counter() - start

    def _run(self) -> None:
        with torch.inference_mode():
            self.network(self.images)

    def now(self) -> float:
        """The median of the runs since `begin`, in milliseconds."""
        return statistics.median(self.times)

    def speed(self) -> Speed:
        """How this measurement stands beside the earlier ones."""
        return Speed.told(self.now(), self.earlier)

    def remember(self, interrupted: float = 0.0) -> None:
        """Keep what was timed since `begin` for later measurements: one median for each second.

        Not if other programs interrupted more than a twentieth of the repeats: then it tells of them.
        """
        if interrupted > BUSY:
            return
        windows: dict[int, list[float]] = {}
        for at, spent in zip(self.at, self.times, strict=True):
            windows.setdefault(int((at - self.since) / WINDOW), []).append(spent)
        found = [statistics.median(times) for times in windows.values()]
        self.earlier = [*self.earlier, *found][-KEPT:]
        remembered(self.path, found)


def recalled(path: Path) -> list[float]:
    """The times in a file that are not too old; lines that are none are skipped, as is a file that cannot be read."""
    oldest, found = time.time() - DAYS * 86400, []
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    for line in lines[-KEPT:]:
        try:
            when, spent = (float(word) for word in line.split())
        except ValueError:
            continue
        if when >= oldest and 0 < spent < float("inf"):
            found.append(spent)
    return found


def remembered(path: Path, times: Sequence[float]) -> None:
    """Append times to a file, and shorten one that has grown to twice what counts; does nothing if it cannot."""
    text = "".join(f"{time.time():.0f} {spent:.6g}\n" for spent in times)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            file.write(text.encode())
        if os.path.getsize(path) > 2 * KEPT * 22:
            write_whole(path, "".join(f"{line}\n" for line in path.read_text(errors="replace").splitlines()[-KEPT:]))
    except OSError:
        return
