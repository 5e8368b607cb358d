"""Executors: the same outcomes in the same order wherever items run, and one bad item costs itself only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from archscout.errors import UserError
from archscout.execute import AHEAD, Outcome, executor


class Gradient:
    """A small convolutional network's gradient: something whose last digits depend on how it is computed."""

    def __init__(self) -> None:
        self.images = np.random.default_rng(0).normal(size=(16, 3, 12, 12)).astype(np.float32)

    def __call__(self, seed: int) -> dict[str, Any]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = nn.Sequential(
                nn.Conv2d(3, 16, 3),
                nn.BatchNorm2d(16),
                nn.ReLU(),
                nn.Conv2d(16, 16, 3),
                nn.Flatten(),
                nn.Linear(1024, 4),
            ).to(memory_format=torch.channels_last)
            loss = model(torch.from_numpy(self.images.copy())).logsumexp(1).sum()
        loss.backward()
        gram = self.images.reshape(16, -1) @ self.images.reshape(16, -1).T
        return {
            "norms": [float(p.grad.norm()) for p in model.parameters() if p.grad is not None],
            "logdet": float(np.linalg.slogdet(gram + seed)[1]),
            "weights": model[0].weight.detach(),
            "threads": torch.get_num_threads(),
        }


def trouble(item: Any) -> Any:
    """Does what the item says."""
    if item == "raise":
        raise ValueError("no such\n thing")
    if item == "exit":
        sys.exit(3)
    if item == "sleep":
        time.sleep(60)
    if item == "spin":  # holds the interpreter: only a kill helps
        sum(range(10**11))
    if item == "die":
        time.sleep(0.2)
        os._exit(7)
    if item == "crash":
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "lambda":
        return lambda: None
    return item


def process_of(item: Any) -> int:
    time.sleep(0.02)
    return os.getpid()


def plain(outcome: Outcome) -> Any:
    assert outcome.failure is None, outcome.failure
    return {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in outcome.value.items()}


@pytest.fixture(scope="module")
def reference() -> list[Any]:
    with executor(0, Gradient(), threads=1) as pool:
        return [plain(outcome) for outcome in pool.map(range(6))]


def test_here_restores_the_thread_count() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with executor(0, Gradient(), threads=1) as pool:
            for outcome in pool.map([1]):
                assert torch.get_num_threads() == 2
                assert outcome.value["threads"] == 1
                assert outcome.seconds > 0
            list(pool.map([None]))  # a failure
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_here_failures_cost_their_item_and_ctrl_c_gets_out() -> None:
    with executor(0, trouble) as pool:
        outcomes = list(pool.map(["a", "raise", "exit", 2]))
    assert [o.value for o in outcomes] == ["a", None, None, 2]
    assert [o.failure for o in outcomes] == [None, "ValueError: no such thing", "SystemExit: 3", None]

    def interrupt(item: Any) -> None:
        raise KeyboardInterrupt

    with executor(0, interrupt) as pool, pytest.raises(KeyboardInterrupt):
        list(pool.map([1]))


def test_two_workers_equal_this_process_in_order_and_value(reference) -> None:
    with executor(2, Gradient(), threads=1) as pool:
        assert [plain(outcome) for outcome in pool.map(range(6))] == reference


def test_one_worker_equals_this_process_and_survives_an_abandoned_map(reference) -> None:
    with executor(1, Gradient(), threads=1) as pool:
        first = pool.map(iter(range(100)))
        assert plain(next(first)) == reference[0]
        first.close()  # type: ignore[attr-defined]
        assert [plain(outcome) for outcome in pool.map(range(6))] == reference


def test_bad_items_cost_themselves_only() -> None:
    items = ["a", "raise", "die", "sleep", "b", "lambda", "crash", "spin", "exit", "c"]
    start = time.perf_counter()
    with executor(2, trouble, timeout=2.0) as pool:
        outcomes = list(pool.map(items))
        unsendable = list(pool.map([1, lambda: None, 2]))
    assert [o.value for o in outcomes] == ["a", None, None, None, "b", None, None, None, None, "c"]
    failures = [o.failure for o in outcomes]
    assert failures[1] == "ValueError: no such thing"
    assert failures[2] == failures[6] == "the worker process died"
    assert failures[3] == failures[7] == "took longer than 2 s"
    assert failures[5].startswith("the value cannot be sent back from a worker")
    assert failures[8] == "SystemExit: 3"
    assert [o.value for o in unsendable] == [1, None, 2]
    assert "cannot be sent to a worker" in str(unsendable[1].failure)
    assert time.perf_counter() - start < 100


@pytest.mark.alone
def test_many_items_are_taken_a_few_at_a_time_and_quickly() -> None:
    taken = 0

    def source() -> Iterator[int]:
        nonlocal taken
        while taken < 3000:
            yield taken
            taken += 1

    with executor(1, trouble) as pool:
        start = 0.0
        for number, outcome in enumerate(pool.map(source())):
            assert outcome.value == number
            assert taken - number <= AHEAD
            start = start or time.perf_counter()
    assert (time.perf_counter() - start) / 3000 < 5e-3


def test_work_that_no_worker_could_load_is_refused() -> None:
    lock = threading.Lock()
    with pytest.raises(UserError, match=r"locks .*workers=0"), executor(1, lambda item: lock):
        pass
    for workers in (-1, "slurm"):
        with pytest.raises(UserError, match="workers"), executor(workers, trouble):
            pass
    with pytest.raises(UserError, match="threads"), executor(0, trouble, threads=0):
        pass


def test_a_plain_script_can_use_its_own_functions(tmp_path) -> None:
    """No guard, no module of its own: what a person pastes."""
    script = tmp_path / "script.py"
    script.write_text(
        "from archscout.execute import executor\n"
        "print('run once')\n"
        "class Mine:\n"
        "    def __call__(self, item): return (lambda x: x * 2)(item)\n"
        "with executor(2, Mine()) as pool: print([o.value for o in pool.map([1, 2])])\n"
    )
    child = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=100)
    assert child.stdout.splitlines() == ["run once", "[2, 4]"], child.stderr


LONG = """
import os, sys, time
sys.path.insert(0, {tests!r})
from archscout.execute import executor
from test_execute import process_of, trouble
if __name__ == "__main__":
    with executor(2, process_of) as pool:
        pids = set()
        for outcome in pool.map(range(10**6)):
            pids.add(outcome.value)
            if len(pids) == 2:
                print(*pids, flush=True)
                pids.add(0)
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks into /proc")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_behind(tmp_path, end) -> None:
    """Ctrl-C reaches the whole group of a terminal; a kill only the parent."""
    script = tmp_path / "long.py"
    script.write_text(LONG.format(tests=str(Path(__file__).parent)))
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    if end == signal.SIGINT:
        os.killpg(parent.pid, end)
    else:
        parent.kill()
    start = time.perf_counter()
    assert parent.wait(20) != 0
    while any(alive(pid) for pid in pids) and time.perf_counter() - start < 20:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)
    assert time.perf_counter() - start < 15
    parent.communicate()


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # else they wait on a busy machine
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
        yield ray
        ray.shutdown()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@pytest.mark.slow
def test_ray_equals_this_process(ray_cluster, reference) -> None:
    with executor("ray", Gradient(), threads=1) as pool:
        assert [plain(outcome) for outcome in pool.map(range(6))] == reference
    assert ray_cluster.is_initialized()  # it was not ours to end


@pytest.mark.slow
def test_ray_bad_items_cost_themselves_only(ray_cluster, tmp_path) -> None:
    items = ["a", "raise", "die", "sleep", "b", "lambda", "exit", *range(10)]
    with executor("ray", trouble, timeout=2.0) as pool:
        outcomes = list(pool.map(items))
    assert [o.value for o in outcomes] == ["a", None, None, None, "b", None, None, *range(10)]
    failures = [o.failure for o in outcomes]
    assert failures[1] == "ValueError: no such thing"
    assert failures[2] == "the worker process died"
    assert failures[3] == "took longer than 2 s"
    assert str(failures[5]).startswith("the value cannot be sent back")
    with executor("ray", Once(tmp_path / "mark")) as pool:  # its first worker dies, the second one answers
        assert [o.value for o in pool.map([1, 2, 3])] == [1, 2, 3]


class Once:
    """Ends its worker the first time it sees a 2."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __call__(self, item: int) -> int:
        if item == 2 and not self.mark.exists():
            self.mark.touch()
            os._exit(1)
        return item


def test_ray_that_is_not_installed_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'archscout\[ray\]'"), executor("ray", trouble):
        pass


def test_processes_can_start_before_the_first_item() -> None:
    """What begins early are the processes that do the work, and the caller waits for none of them."""
    before = set(children())
    with executor(2, process_of, early=True) as pool:
        deadline = time.monotonic() + 60
        while len(begun := set(children()) - before) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert {outcome.value for outcome in pool.map(range(20))} <= begun
    assert not begun & set(children())


def children() -> list[int]:
    import multiprocessing

    return [child.pid for child in multiprocessing.active_children() if child.pid is not None]
