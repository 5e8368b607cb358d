"""Workers on a Ray cluster; an optional extra."""

from __future__ import annotations

import logging
import os
import pickle
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from archscout.errors import Stopped, UserError
from archscout.execute import AHEAD, DIED, SAME, TRIES, Outcome, packed_attempt, pickled, too_long, unpacked

log = logging.getLogger("archscout")

LONELY = 60.0  # seconds without any worker after which the person is told


@contextmanager
def ray_pool(address: str, work: Callable[[Any], Any], threads: int, timeout: float | None) -> Iterator[_Actors]:
    """Actors that hold `work`, on the cluster at `address`; "ray" is the one at hand, or else a new local one.

    Starting a new one takes some seconds. Only what was started here is ended. A cluster that is lost is told as
    Stopped, so that a run can be resumed. See `archscout.execute.executor`.
    """
    try:
        import ray
    except ImportError:
        raise UserError("workers on Ray need Ray: pip install 'archscout[ray]', or give a number of workers") from None
    ours = not ray.is_initialized()
    if ours:
        before = os.environ.get("RAY_USAGE_STATS_ENABLED")
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read while Ray starts: nothing is reported to anybody
        try:
            where = None if address == "ray" else address
            ray.init(where, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, TimeoutError, ValueError) as error:
            raise UserError(f"cannot reach Ray at '{address}' ({str(error)[:200]}): check the address") from None
        finally:
            if before is None:
                del os.environ["RAY_USAGE_STATS_ENABLED"]
            else:
                os.environ["RAY_USAGE_STATS_ENABLED"] = before
    try:
        actors = _Actors(work, threads, timeout)
        try:
            yield actors
        except (ConnectionError, ray.exceptions.RaySystemError) as error:
            why = " ".join(str(error).split())[:200]
            raise Stopped(
                f"the Ray cluster was lost ({type(error).__name__}: {why}); when it is back type: archscout resume RUN"
            ) from None
        finally:
            with suppress(ConnectionError, ray.exceptions.RayError):
                actors.stop()
    finally:
        if ours:
            with suppress(ConnectionError, ray.exceptions.RayError):
                ray.shutdown()


class _Actors:
    """One actor for each `threads` CPUs; an actor has one item at a time, so that a timeout costs that item only."""

    def __init__(self, work: Any, threads: int, timeout: float | None) -> None:
        import ray

        class Actor:
            def __init__(self, work: list[Any], threads: int, path: list[str]) -> None:
                import torch
                from threadpoolctl import threadpool_limits

                torch.set_num_threads(threads)
                threadpool_limits(threads, user_api="blas")
                sys.path += [folder for folder in path if folder not in sys.path]  # before the work is loaded
                head, arrays = ray.get(work[0])
                self.work = pickle.loads(head, buffers=arrays)

            def ready(self) -> str:
                """Answers once the actor stands, with the machine that it stands on."""
                return str(ray.get_runtime_context().get_node_id())

            def attempt(self, item: Any) -> tuple[bytes, str | None, float]:
                return packed_attempt(self.work, item)

        cpus = float(ray.cluster_resources().get("CPU", 1))
        share = min(float(threads), cpus)
        self._actor: Any = ray.remote(num_cpus=share, max_restarts=0, max_task_retries=0)(Actor)
        self._threads, self._timeout, self._usual = threads, timeout, timeout
        buffers: list[pickle.PickleBuffer] = []
        head = pickled(work, buffers.append)  # a text to Ray, so that only actors load it, which know where modules lie
        self._work = ray.put((head, [np.frombuffer(buffer.raw(), dtype=np.uint8) for buffer in buffers]))
        self._count = max(1, int(cpus // share))
        self._starting: dict[Any, Any] = {}  # reference of ready() -> actor
        self._idle: list[Any] = []
        self._node: dict[Any, str] = {}  # actor -> machine
        self._busy: dict[Any, tuple[Any, int, Any, int, float]] = {}  # reference -> actor, number, item, trial, since
        self._lost = 0  # actors that ended while they started, one after another
        for _ in range(self._count):
            self._start()

    def _start(self) -> None:
        actor = self._actor.remote([self._work], self._threads, sys.path)
        self._starting[actor.ready.remote()] = actor

    def stop(self) -> None:
        """Ends all actors, whatever they do."""
        import ray

        actors = [*self._starting.values(), *self._idle, *(entry[0] for entry in self._busy.values())]
        if ray.is_initialized():  # or any call would start a cluster of its own
            for actor in actors:
                ray.kill(actor)
        self._starting, self._idle, self._busy, self._node = {}, [], {}, {}

    def map(self, items: Iterable[Any], timeout: float | None = SAME) -> Iterator[Outcome]:
        import ray

        self._timeout = self._usual if timeout == SAME else timeout
        source = enumerate(items)
        queue: deque[tuple[int, Any, int]] = deque()  # number, item, trial
        done: dict[int, Outcome] = {}
        taken = given = 0
        more = True
        try:
            while True:
                while more and given - taken < AHEAD * self._count:
                    try:
                        number, item = next(source)
                    except StopIteration:
                        more = False
                        break
                    queue.append((number, item, 1))
                    given += 1
                while queue and self._idle:
                    actor, (number, item, trial) = self._idle.pop(), queue.popleft()
                    self._busy[actor.attempt.remote(item)] = (actor, number, item, trial, time.perf_counter())
                if taken in done:
                    yield done.pop(taken)
                    taken += 1
                    continue
                if not more and taken == given:
                    return
                if not ray.is_initialized():
                    raise ConnectionError("no connection")
                self._wait(queue, done)
        finally:
            self._abandon()

    def _wait(self, queue: deque[tuple[int, Any, int]], done: dict[int, Outcome]) -> None:
        """Until something ends or is overdue."""
        import ray

        patience = None
        if self._timeout is not None and self._busy:
            first = min(entry[4] for entry in self._busy.values())
            patience = max(0.0, first + self._timeout - time.perf_counter())
        elif not self._busy:
            patience = LONELY
        ended, _ = ray.wait([*self._starting, *self._busy], num_returns=1, timeout=patience)
        if not ended and not self._busy:
            log.warning("waiting for a machine of the Ray cluster with %d free CPUs", self._threads)
        for reference in ended:
            if reference in self._starting:
                self._greet(reference)
                continue
            actor, number, item, trial, since = self._busy.pop(reference)
            try:
                done[number] = unpacked(ray.get(reference))
                self._idle.append(actor)
            except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError):  # the second: its answer went
                gone = self._machine_gone(actor)
                self._end(actor)
                if gone or trial < TRIES:
                    queue.appendleft((number, item, trial if gone else trial + 1))
                else:
                    done[number] = Outcome(None, DIED, time.perf_counter() - since)
            except ray.exceptions.RaySystemError:
                raise
            except ray.exceptions.RayError as error:
                self._end(actor)
                done[number] = Outcome(None, f"{type(error).__name__}: {error}"[:500], time.perf_counter() - since)
        if self._timeout is None or ended:
            return
        for reference, (actor, number, _, _, since) in list(self._busy.items()):
            if time.perf_counter() - since >= self._timeout:
                del self._busy[reference]
                self._end(actor)
                done[number] = too_long(self._timeout, time.perf_counter() - since)

    def _end(self, actor: Any) -> None:
        """Ends an actor, dead or alive, and starts another in its place."""
        import ray

        self._node.pop(actor, None)
        ray.kill(actor)
        self._start()

    def _machine_gone(self, actor: Any) -> bool:
        """Whether the machine of an actor is known to be lost, so that its death says nothing about its item."""
        import ray

        return self._node.get(actor) not in {node["NodeID"] for node in ray.nodes() if node["Alive"]}

    def _greet(self, reference: Any) -> None:
        import ray

        actor = self._starting.pop(reference)
        try:
            self._node[actor] = ray.get(reference)
        except ray.exceptions.RaySystemError:
            raise
        except ray.exceptions.RayError as error:
            self._lost += 1
            if self._lost > 2 * self._count:
                reason = " ".join(str(error).split())[-300:]
                raise UserError(
                    f"workers on Ray end while they start ({reason}): archscout and your own modules must be installed "
                    "on every machine of the cluster"
                ) from None
            self._start()
            return
        self._lost = 0
        self._idle.append(actor)

    def _abandon(self) -> None:
        """Ends the actors whose answers nobody waits for any more."""

        import ray

        busy, self._busy = self._busy, {}
        for actor, *_ in busy.values():
            if ray.is_initialized():
                self._end(actor)
