"""A run: a folder with everything that a search computed, and the log that makes it resumable."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from archscout.errors import DiskFull, UserError
from archscout.files import FULL, refuse_exits, write_whole
from archscout.naming import word

logger = logging.getLogger("archscout")

CONFIG, EVENTS, LOG, LOCK = "config.toml", "trials.jsonl", "run.log", ".lock"


class Run:
    """A folder of plain files and an append-only log of events; to resume is to read the log back.

    Use it wherever something is measured: `once(key, compute)` measures the first time and reads the log ever after, so
    calling the same function again on the same folder continues it. One event costs some tens of microseconds and one
    line of `trials.jsonl`; in memory an event is its key and two numbers (about 0.3 kB), values stay in the file.

    Files: `config.toml` (as given), `trials.jsonl` (one event a line: `event`, `value`, `seconds`, `time`),
    `run.log` (what the logger "archscout" says while the run is open), `checkpoints/`, and what `write` puts there.
    Events are handed to the operating system one by one: a killed process loses at most the line it was writing.
    A power cut may lose the last seconds, since the file is not forced to the disk.

    Open it with `Run.create` or `Run.open`, close it with `close` or use it in a `with` block.
    Raises UserError for everything the person can mend: a folder in use, a damaged log, a full disk.
    """

    def __init__(self, folder: Path, lock: FileLock) -> None:
        """Not for callers: use `create` or `open`."""
        self.folder = folder
        self._lock = lock
        self._at: dict[str, tuple[int, int]] = {}  # key -> (offset, length) of its line
        self._closed = False
        self._handler: logging.Handler | None = None
        self._raised_level = False
        try:
            self.checkpoints.mkdir(exist_ok=True)
            self._file = open(folder / EVENTS, "a+b", buffering=0)  # noqa: SIM115
        except OSError as error:
            lock.release()
            raise _mendable(error, folder) from None
        try:
            self._attach_log()
            self._read()
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, folder: str | os.PathLike[str], config_text: str) -> Run:
        """A new run in a folder that is empty or does not exist; `config_text` becomes its `config.toml`."""
        folder = Path(folder)
        taken = UserError(
            f"folder '{folder}' is not empty: give another folder with --out, or continue its run with "
            f"`archscout resume {folder}`"
        )
        try:
            if folder.exists() and any(child.name != LOCK for child in folder.iterdir()):
                raise taken
            folder.mkdir(parents=True, exist_ok=True)
            lock = _lock(folder)
            try:
                if (folder / CONFIG).exists():  # another process was faster
                    raise taken
                write_whole(folder / CONFIG, config_text)
            except DiskFull:
                lock.release()
                raise DiskFull(
                    f"disk full: no room for a run in '{folder}'; free space, or name another --out"
                ) from None
            except BaseException:
                lock.release()
                raise
        except OSError as error:
            raise _mendable(error, folder) from None
        return cls(folder, lock)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Run:
        """The run that lies in a folder, with all events logged so far."""
        folder = Path(folder)
        if not (folder / CONFIG).is_file():
            raise UserError(f"'{folder}' is no run: wanted a folder with {CONFIG}, as `archscout search` makes it")
        try:
            lock = _lock(folder)
        except OSError as error:
            raise _mendable(error, folder) from None
        return cls(folder, lock)

    @property
    def checkpoints(self) -> Path:
        """The folder for the states of interrupted trainings."""
        return self.folder / "checkpoints"

    @property
    def config_text(self) -> str:
        """The text of `config.toml`."""
        return (self.folder / CONFIG).read_text(encoding="utf-8")

    def __contains__(self, key: object) -> bool:
        return key in self._at

    def __len__(self) -> int:
        return len(self._at)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """The keys that begin with `prefix`, in the order in which they were logged."""
        return (key for key in tuple(self._at) if key.startswith(prefix))

    def events(self, prefix: str = "") -> Iterator[dict[str, Any]]:
        """The events whose key begins with `prefix`, in log order: `event`, `value`, `seconds`, `time`."""
        return (self._event(key) for key in self.keys(prefix))

    def recall(self, key: str) -> Any:
        """The logged value of a key, or None if there is none."""
        return self._event(key)["value"] if key in self._at else None

    def record(self, key: str, value: Any, seconds: float = 0.0) -> Any:
        """Logs a value under a key and returns it as it will be read back (tuples become lists).

        `seconds` is what computing it took. A key holds one value for ever: ValueError if it has one, and ValueError
        naming the key if the value is not strict JSON (NaN and infinity are not). UserError if the disk is full.
        """
        if key in self._at:
            raise ValueError(f"event '{key}' is already logged, and the log is append-only")
        event = {
            "event": key,
            "value": value,
            "seconds": round(seconds, 6),
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        try:
            text = json.dumps(event, allow_nan=False, separators=(",", ":"))
        except (ValueError, TypeError) as error:
            raise ValueError(f"the value of event '{key}' cannot be logged: {error}") from None
        self._append(key, text.encode() + b"\n")
        return json.loads(text)["value"]

    def once(self, key: str, compute: Callable[[], Any]) -> Any:
        """The logged value of a key; if there is none, computes and logs it.

        The first call and every later one, also of a resumed run, return equal values: the value as read back from
        JSON (floats exactly, tuples as lists). If `compute` raises, nothing is logged.
        """
        if key in self._at:
            return self.recall(key)
        start = time.perf_counter()
        value = compute()
        return self.record(key, value, time.perf_counter() - start)

    def path(self, name: str) -> Path:
        """Where a file of that name lies in the folder; UserError if the name leads out of it."""
        place = self.folder / name
        root = self.folder.resolve()
        if not name or "\0" in name or root not in place.resolve().parents:
            raise UserError(f"file name '{name}' leads out of the run folder '{self.folder}': give a name inside it")
        return place

    def write(self, name: str, content: str | bytes) -> Path:
        """Writes a file of the folder whole or not at all, replacing an old one; `name` may have subfolders in it."""
        place = self.path(name)
        if Path(os.path.normpath(name)).as_posix() in (CONFIG, EVENTS, LOG, LOCK):
            raise UserError(f"'{name}' is a file the run keeps itself: give another name")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_whole(place, content)
        except DiskFull:
            raise _full(self.folder) from None
        except OSError as error:
            raise _mendable(error, self.folder) from None
        return place

    def close(self) -> None:
        """Ends the log and lets other processes in; closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self._file.close()
            if self._handler:
                logger.removeHandler(self._handler)
                with suppress(OSError):  # a full disk showed before
                    self._handler.close()
        finally:
            if self._raised_level:
                logger.setLevel(logging.NOTSET)
            self._lock.release()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _event(self, key: str) -> dict[str, Any]:
        start, length = self._at[key]
        self._file.seek(start)
        return json.loads(self._file.read(length))

    def _append(self, key: str, line: bytes) -> None:
        """The line is in the file and in the index, or, after any error or Ctrl-C, in neither."""
        start = self._file.seek(0, os.SEEK_END)
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            self._at[key] = (start, len(line))
        except BaseException as error:
            self._at.pop(key, None)
            self._file.truncate(start)
            if isinstance(error, OSError):
                raise _mendable(error, self.folder) from None
            raise

    def _read(self) -> None:
        """Fills the index; drops a torn last line."""
        self._file.seek(0)
        offset = 0
        with open(self.folder / EVENTS, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    self._file.truncate(offset)
                    logger.warning("dropped a torn last line of %s (line %d): writing it was cut off", EVENTS, number)
                    break
                try:
                    event = json.loads(line, parse_constant=_refuse)
                    key = event["event"]
                    whole = isinstance(key, str) and "value" in event
                    datetime.fromisoformat(event["time"])
                except (ValueError, TypeError, KeyError, RecursionError):
                    whole = False
                if not whole or key in self._at:
                    what = "repeats an event" if whole else "is damaged"
                    raise UserError(
                        f"line {number} of {self.folder / EVENTS} {what}: {line[:60]!r}; remove that line and run "
                        f"`archscout resume {self.folder}`, which computes it again"
                    )
                self._at[key] = (offset, len(line))
                offset += len(line)

    def _attach_log(self) -> None:
        handler = logging.FileHandler(self.folder / LOG, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        handler.handleError = lambda record: None  # type: ignore[method-assign]  # a full disk shows at the next event
        self._handler = handler
        logger.addHandler(handler)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
            self._raised_level = True


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _lock(folder: Path) -> FileLock:
    """The lock of a run, held; UserError if another process holds it, or if a link leads out of the folder."""
    refuse_exits(folder)  # before anything is opened for writing, the file of the lock included
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"run '{folder}' is in use by another process: wait for it or stop it, then try again"
        ) from None
    return lock


def _mendable(error: OSError, folder: Path) -> UserError:
    if error.errno in FULL:
        return _full(folder)
    return UserError(f"cannot write the run folder '{folder}': {error.strerror or error}; give another one with --out")


def _full(folder: Path) -> DiskFull:
    return DiskFull(f"disk full: free space, then archscout resume {folder}")


def free_folder(data: str, kind: str) -> Path:
    """The first unused runs/DATA-KIND-N."""
    stem = "".join(c if c.isalnum() or c in "-_" else "-" for c in Path(data.replace(":", "-")).stem) or "data"
    kind = "".join(c if c.isalnum() or c in "-_" else "-" for c in word(kind))
    number = 1
    while (folder := Path("runs") / f"{stem}-{kind}-{number}").exists():
        number += 1
    return folder


def versions() -> dict[str, Any]:
    """What the run was made with: program, libraries, machine, date."""
    import platform
    from importlib.metadata import version

    import numpy as np
    import torch  # here, since a run is read without it

    return {
        "archscout": version("archscout"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
