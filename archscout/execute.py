"""Where evaluations run: in this process, in worker processes, or on a Ray cluster; the results are the same."""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import os
import pickle
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from archscout.errors import UserError

AHEAD = 32  # items handed out per worker before the first of them is taken back
DIED = "the worker process died"
TRIES = 3  # workers that may die with an item before it is given up: any of them may have been killed for others' sake
SAME = -1.0  # the timeout that the pool was made with


@dataclass(frozen=True)
class Outcome:
    """What became of one item: a value, or a failure with its reason; and the seconds it took where it ran.

    Where a worker died or was stopped, `seconds` is the time since the item was handed out.
    """

    value: Any
    failure: str | None
    seconds: float


class Pool(Protocol):
    """What `executor` gives."""

    def map(self, items: Iterable[Any], timeout: float | None = SAME) -> Iterator[Outcome]:
        """The outcomes of items, in item order; taken from a limited number of items at a time.

        `timeout` is for these items; default: that of the pool.
        """
        ...


@contextmanager
def executor(
    workers: int | str,
    work: Callable[[Any], Any],
    *,
    threads: int = 1,
    timeout: float | None = None,
    early: bool = False,
) -> Iterator[Pool]:
    """A pool that calls `work` on items: `for outcome in pool.map(items)`, outcomes in item order.

    workers: 0 runs in this process; N >= 1 in N processes of their own, which start with the first item (some seconds
             each, mostly importing torch) and end with the block; "ray" or "ray://host:port" on a Ray cluster, one
             actor for every `threads` CPUs of it.
    work:    a callable object or function, with everything it needs; it is sent to each worker once, by cloudpickle, so
             that functions of a script or notebook travel too; items and values travel as pickles. It must not draw
             from global generators unless it restores them.
    threads: torch and BLAS threads of each call. Results are equal for every `workers` at equal `threads`.
    timeout: seconds after which one item is stopped at the cost of that item only; its failure says "took longer than
             60 s". With workers=0 it stops what `Limit` can stop.
    early:   processes start now, beside what the caller does before the first item.

    An exception costs its item only (failure "ValueError: ..."). Where a worker dies (no memory, a crash, a kill), its
    item is tried again, and costs itself when the third has died; what a lost machine of a Ray cluster had is tried
    elsewhere. Overhead: a fraction of a millisecond per item between processes. Raises UserError for work that
    cannot be sent, for workers that cannot start, and where Ray is missing.
    """
    if threads < 1 or (timeout is not None and not timeout > 0):
        raise UserError(f"wanted threads >= 1 and timeout > 0 seconds, got threads={threads} and timeout={timeout}")
    if isinstance(workers, str):
        if workers != "ray" and not workers.startswith("ray://"):
            raise UserError(f"unknown workers '{workers}': give 0, a number of processes, ray, or ray://host:port")
        from archscout.execute_ray import ray_pool

        with ray_pool(workers, work, threads, timeout) as pool:
            yield pool
    elif workers < 0:
        raise UserError(f"wanted workers >= 0, got {workers}: 0 is this process")
    elif workers == 0:
        yield _Here(work, threads, timeout)
    else:
        processes = _Processes(workers, work, threads, timeout)
        try:
            if early:
                processes.begin()
            yield processes
        finally:
            processes.stop()


class _Here:
    """This process; its thread counts are as before whenever the caller has the word."""

    def __init__(self, work: Callable[[Any], Any], threads: int, timeout: float | None) -> None:
        from threadpoolctl import ThreadpoolController

        self._work, self._threads, self._timeout = work, threads, timeout
        self._blas = ThreadpoolController()

    def map(self, items: Iterable[Any], timeout: float | None = SAME) -> Iterator[Outcome]:
        limit = self._timeout if timeout == SAME else timeout
        for item in items:
            start = time.perf_counter()
            try:
                with (
                    self._blas.limit(limits=self._threads, user_api="blas"),
                    _torch_threads(self._threads),
                    Limit(limit),
                ):
                    outcome = Outcome(*attempt(self._work, item))
            except Overdue:
                outcome = too_long(limit, time.perf_counter() - start)
            yield outcome


class Overdue(BaseException):
    """Something took longer than it was allowed to; no Exception, so that nothing on the way takes it for one."""


class Limit:
    """Raises Overdue inside its block after some seconds, again and again until the block is left.

    Use it around what a person's own code may do for ever, in this process. It works by the alarm signal, so only in
    the main thread and not on Windows; elsewhere, and for None, it does nothing. One long call of compiled code is not
    interrupted: Overdue comes when it returns, and so it does after an import. Costs some microseconds. Another alarm
    that was set goes on after it.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds, self._on = seconds, False

    def __enter__(self) -> Limit:
        usable = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
        if self._seconds is None or not usable or signal.getsignal(signal.SIGALRM) is None:
            return self
        self._since = time.monotonic()
        self._before = signal.signal(signal.SIGALRM, self._ring)
        self._other = signal.setitimer(signal.ITIMER_REAL, self._seconds, 1.0)
        self._on = True
        return self

    def __exit__(self, *error: object) -> None:
        if self._on:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before)
            left, every = self._other
            if left:
                signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - self._since), 1e-3), every)

    def _ring(self, number: int, frame: Any) -> None:
        while frame is not None:
            if frame.f_code in (Limit.__enter__.__code__, Limit.__exit__.__code__):
                return
            if frame.f_code.co_filename.startswith("<frozen importlib"):  # half a module would stay for ever
                return
            frame = frame.f_back
        raise Overdue


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def attempt(work: Callable[[Any], Any], item: Any) -> tuple[Any, str | None, float]:
    """Value, failure and seconds of one call; only Ctrl-C gets out."""
    start = time.perf_counter()
    try:
        value, failure = work(item), None
    except (Exception, SystemExit) as error:
        value, failure = None, reason(error)
    return value, failure, time.perf_counter() - start


def packed_attempt(work: Callable[[Any], Any], item: Any) -> tuple[bytes, str | None, float]:
    """The same with the value as a pickle, for the way back from a worker."""
    value, failure, seconds = attempt(work, item)
    try:
        return pickle.dumps(value), failure, seconds
    except Exception as error:
        return pickle.dumps(None), f"the value cannot be sent back from a worker: {reason(error)}", seconds


def unpacked(answer: tuple[bytes, str | None, float]) -> Outcome:
    """The outcome that a worker of this run sent."""
    return Outcome(pickle.loads(answer[0]), answer[1], answer[2])


def too_long(timeout: float | None, seconds: float) -> Outcome:
    """The outcome of an item that was stopped."""
    return Outcome(None, f"took longer than {timeout:g} s", seconds)


def reason(error: BaseException) -> str:
    """One line of at most 500 characters that says what an exception was."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def pickled(work: Any, keep: Callable[[pickle.PickleBuffer], Any] | None = None) -> bytes:
    """The work as cloudpickle writes it, its large arrays handed to `keep`; UserError where it cannot be sent."""
    import cloudpickle

    try:
        return bytes(cloudpickle.dumps(work, protocol=5, buffer_callback=keep))
    except (pickle.PicklingError, AttributeError, TypeError, ValueError, RecursionError, NotImplementedError) as error:
        raise UserError(
            f"cannot send the work to worker processes ({reason(error)}): leave open files, locks and the like out of "
            "your own methods, or use workers=0"
        ) from None


_starting = threading.Lock()


class _Process(multiprocessing.context.SpawnProcess):
    """A new process that does not run the caller's script again: it gets all it needs by cloudpickle.

    Without this a script had to call archscout under `if __name__ == "__main__":`.
    """

    def start(self) -> None:
        main = sys.modules["__main__"]
        with _starting:
            kept: dict[str, Any] = {n: vars(main)[n] for n in ("__file__", "__spec__") if n in vars(main)}
            main.__dict__.pop("__file__", None)
            main.__spec__ = None
            try:
                super().start()
            finally:
                vars(main).update(kept)


class _Context(multiprocessing.context.SpawnContext):
    Process = _Process


@dataclass
class _Handed:
    """An item on its way; without a future it is still to be scheduled. `deaths`: workers that ended with it."""

    item: Any
    future: Any = None
    since: float = 0.0
    deaths: int = 0


class _Processes:
    """Worker processes; started with the first item, or before by `begin`."""

    def __init__(self, workers: int, work: Any, threads: int, timeout: float | None) -> None:
        self._workers, self._threads, self._timeout, self._usual = workers, threads, timeout, timeout
        self._payload = pickled(work)
        self._pool: Any = None

    def stop(self) -> None:
        """Ends the processes at once, whatever they do."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None

    def begin(self) -> None:
        """Starts the processes, and waits for none of them."""
        self._started().schedule(_nothing)

    def _schedule(self, item: Any) -> Any:
        return self._started().schedule(_work_in_worker, args=(item,), timeout=self._timeout)

    def _started(self) -> Any:
        from pebble import ProcessPool

        if self._pool is None:
            self._pool = ProcessPool(
                max_workers=self._workers,
                initializer=_start_worker,
                initargs=(self._payload, self._threads),
                context=_Context(),
            )
        return self._pool

    def map(self, items: Iterable[Any], timeout: float | None = SAME) -> Iterator[Outcome]:
        self._timeout = self._usual if timeout == SAME else timeout
        source = iter(items)
        waiting: deque[_Handed] = deque()
        more, broken = True, 0
        try:
            while True:
                while more and len(waiting) < AHEAD * self._workers:
                    try:
                        waiting.append(_Handed(next(source)))
                    except StopIteration:
                        more = False
                if not waiting:
                    return
                try:
                    for handed in waiting:
                        if handed.future is None:
                            handed.future, handed.since = self._schedule(handed.item), time.perf_counter()
                    outcome = self._taken(waiting[0])
                    if outcome is None:
                        continue
                except RuntimeError as error:  # pebble gave its processes up: what is not done starts again in new ones
                    broken += 1
                    self.stop()
                    if broken > 2:
                        raise UserError(
                            f"worker processes end while they start ({reason(error)}): use fewer workers, if memory "
                            "is short, or workers=0"
                        ) from None
                    for handed in waiting:
                        if handed.future and not (handed.future.done() and handed.future.exception() is None):
                            handed.future = None
                    continue
                broken = 0
                waiting.popleft()
                yield outcome
        finally:
            if waiting:  # given up half-way; cancelling one by one would restart a worker for each
                self.stop()

    def _taken(self, handed: _Handed) -> Outcome | None:
        """What became of an item; None if its worker died, and it is to be scheduled again."""
        from pebble import ProcessExpired

        since = handed.since
        try:
            answer = handed.future.result()
        except FutureTimeoutError:
            return too_long(self._timeout, time.perf_counter() - since)
        except ProcessExpired:
            handed.deaths += 1
            if handed.deaths >= TRIES:
                return Outcome(None, DIED, time.perf_counter() - since)
            handed.future = None
            return None
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            return Outcome(None, f"the item cannot be sent to a worker: {reason(error)}", time.perf_counter() - since)
        if isinstance(answer, str):
            raise UserError(f"a worker cannot load the work ({answer}): make it importable there, or use workers=0")
        return unpacked(answer)


_in_worker: dict[str, Any] = {}  # of a worker process: its work, or why it has none


def _start_worker(payload: bytes, threads: int) -> None:
    """Once in each worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which stops its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # at once, also from within a long call of torch
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        import torch
        from threadpoolctl import threadpool_limits

        torch.set_num_threads(threads)
        threadpool_limits(threads, user_api="blas")
        _in_worker["work"] = pickle.loads(payload)
    except Exception as error:
        _in_worker["failure"] = reason(error)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _nothing() -> None:
    pass


def _work_in_worker(item: Any) -> tuple[bytes, str | None, float] | str:
    if "failure" in _in_worker:
        return str(_in_worker["failure"])
    return packed_attempt(_in_worker["work"], item)
