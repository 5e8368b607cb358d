"""A progress bar for people who wait at a terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

DELAY = 2.0  # seconds before the bar appears


class Bar:
    """What `progress` gives: count with `advance`, change the end by setting `total`."""

    def __init__(self, title: str, total: float | None, display: Progress | None) -> None:
        self._display = display
        self._total = total
        self._task = display.add_task(title, total=total, best="", note="") if display else None

    @property
    def total(self) -> float | None:
        """The count at which all is done; None if unknown."""
        return self._total

    @total.setter
    def total(self, total: float | None) -> None:
        self._total = total
        if self._display and self._task is not None:
            self._display.update(self._task, total=total)

    def advance(self, n: float = 1, best: str | float | None = None, note: str | None = None) -> None:
        """Counts `n` more as done; `best` (the best so far) and `note` replace what is shown after the bar."""
        if self._display is None or self._task is None:
            return
        fields: dict[str, str] = {}
        if best is not None:
            fields["best"] = f"best {best:.4g}" if isinstance(best, float) else f"best {best}"
        if note is not None:
            fields["note"] = str(note)
        self._display.update(self._task, advance=n, **fields)  # type: ignore[arg-type]


@contextmanager
def progress(title: str, total: float | None, quiet: bool = False) -> Iterator[Bar]:
    """A bar on stderr with counts, the best so far and the time left; for loops that a person may wait for.

    It appears after two seconds, so short loops show nothing, and prints nothing at all if `quiet` or if stderr is no
    terminal. Costs some microseconds per `advance`; a thread of its own draws it a few times a second. `total` is the
    number of steps, or None if unknown. Use `with progress("scoring", 100) as bar: ... bar.advance()`.
    """
    console = Console(stderr=True)
    if quiet or not sys.stderr.isatty() or console.is_dumb_terminal:
        yield Bar(title, total, None)
        return
    display = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[best]}", markup=False),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
        refresh_per_second=4,
    )
    lock, over = threading.Lock(), threading.Event()

    def appear() -> None:
        with lock:
            if not over.is_set():
                display.start()

    timer = threading.Timer(DELAY, appear)
    timer.daemon = True
    timer.start()
    try:
        yield Bar(title, total, display)
    finally:
        over.set()
        timer.cancel()
        with lock:
            if display.live.is_started:
                display.stop()
