"""The seconds that a run has worked, and a full training that ends within its budget."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from archscout.config import Config
from archscout.devices.energy import open_meter
from archscout.errors import UserError
from archscout.plan import audit_seconds
from archscout.run import Run

log = logging.getLogger("archscout")

CLOCK, NOTED = "clock", 20.0  # the file of the seconds worked, and how often it is written, in seconds
AFTERWARDS = ("int8", "target_measured")  # events that other verbs add to a run, at any time


class Clock:
    """Seconds that a run has worked, over all its sessions; the gaps between sessions do not count."""

    def __init__(self, run: Run, budget: float | None, device: str = "cpu") -> None:
        self.before, number, began, last = 0.0, 0, None, None
        for event in run.events():
            if event["event"].startswith(AFTERWARDS):
                continue
            at = datetime.fromisoformat(event["time"])
            if event["event"].startswith("session/"):
                if began is not None and last is not None:
                    self.before += (last - began).total_seconds()
                began, number = at, number + 1
            last = at
        if began is not None and last is not None:
            self.before += (last - began).total_seconds()
        run.record(f"session/{number}", {"seconds_before": self.before})
        self.start = time.monotonic()
        self.budget = budget
        self.run = run
        self.noted = self.start
        with suppress(OSError, ValueError):  # what a session did after its last event, see spent
            self.before = max(self.before, float(run.path(CLOCK).read_text()))
        self.meter, self.source = open_meter(device)
        self.last = (self.start, self.meter.read() if self.meter else 0.0)

    def spent(self) -> float:
        """Seconds worked so far; noted in a file now and then, since a long training logs nothing until its end."""
        now = time.monotonic()
        seconds = self.before + now - self.start
        if now - self.noted > NOTED:
            self.noted = now
            with suppress(UserError):  # a full disk shows at the next event
                self.run.write(CLOCK, f"{seconds:.0f}")
        return seconds

    def begun(self, stage: str) -> float:
        """When a stage began, in seconds worked: now, or in an earlier session, so that its time is not given twice."""
        return float(self.run.once(f"begun/{stage}", self.spent))

    def late(self, share: float) -> bool:
        """Whether more than a share of the budget is gone; never without a budget."""
        return self.budget is not None and self.spent() > share * self.budget

    def stage_done(self, name: str) -> None:
        """Log that a stage ended, when, and the mean watts since the last if there is a meter; for the report."""
        now = time.monotonic(), self.meter.read() if self.meter else 0.0
        (since, joules), self.last = self.last, now
        power = (now[1] - joules) / max(now[0] - since, 1e-9) if self.meter else None
        self.run.once(f"stage/{name}", lambda: {"ended": self.spent(), "power": power, "source": self.source})
        log.info("%s done after %.0f s", name, self.spent())


@dataclass
class Deadline:
    """The `allow` of a training that must end at `ends`, in seconds of time.monotonic: shortens one that is too slow.

    epochs: what is planned; changes with each shortening.  budget: seconds of the whole run; a hundredth is forgiven.
    Holds numbers only, so it travels to the processes of a training on several devices.
    """

    ends: float
    epochs: float
    budget: float
    first: tuple[float, float] | None = None  # epochs and seconds at the first look
    looked: float = 0.0

    def __call__(self, done: float) -> float | None:
        now = time.monotonic()
        if self.first is None:
            self.first, self.looked = (done, now), now
        since = now - self.first[1]
        if now - self.looked < 0.02 * self.budget or done <= self.first[0] or since < 0.05 * self.budget:
            return None
        self.looked = now
        speed, left = since / (done - self.first[0]), self.ends - now
        if (self.epochs - done) * speed <= left + 0.01 * self.budget:
            return None
        self.epochs = done + max(left, 0.0) / speed
        return self.epochs


def keep_deadline(
    run: Run, config: Config, clock: Clock, epochs: float, training_ms: float, images: int
) -> Callable[[float], float | None] | None:
    """The `allow` of the full training: shortens it when, at the speed so far, the budget would be overrun.

    Each shortening is an event at its place in the training; a training resumed from before that place repeats it.
    On several devices the events are written when the training has ended, since a log does not travel.
    """
    timed = config.budget is not None and config.epochs is None
    budget = config.budget or 0.0
    left = 0.985 * budget - audit_seconds(images, training_ms, budget) - clock.spent()
    deadline = Deadline(time.monotonic() + left, epochs, budget)
    if config.devices > 1:
        return deadline if timed else None
    logged = {float(event["value"]["done"]): float(event["value"]["epochs"]) for event in run.events("shorter/")}

    def allow(done: float) -> float | None:
        if done in logged:
            deadline.epochs = logged[done]
            return deadline.epochs
        if not timed or (logged and done <= max(logged)):
            return None
        total = deadline(done)
        if total is not None:
            record_shorter(run, clock, done, total)
        return total

    return allow


def record_shorter(run: Run, clock: Clock, done: float, total: float) -> None:
    """Log that a training was shortened to `total` epochs after `done` of them."""
    run.record(f"shorter/{done!r}", {"done": done, "epochs": total})
    run.record(
        f"plan-change/{done!r}",
        {
            "time": clock.spent(),
            "what": f"full training: {total:.3g} epochs in all",
            "why": "it runs slower than measured",
        },
    )
