"""Two Ray nodes on one machine: a worker, a node and the driver are killed; nothing is lost, results are equal."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_execute import Gradient, plain
from test_pipeline import COUNTS, command, essence

import archscout
from archscout.errors import Stopped
from archscout.execute import executor

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(900)]
ray = pytest.importorskip("ray", reason="Ray is an optional extra")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head node and another one, with a CPU each; this process is the driver."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # or they wait for everything else on a busy machine
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.second = made.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    try:
        ray.init(address=made.address, log_to_driver=False, logging_level="error")
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


class Where(Gradient):
    """The gradient, with the process and machine that computed it and what is too large for a message."""

    def __call__(self, seed: int) -> dict[str, Any]:
        time.sleep(0.2)
        import ray as there

        node = there.get_runtime_context().get_node_id()
        return {**super().__call__(seed), "pid": os.getpid(), "node": node, "large": np.full(200_000, seed)}


def test_a_worker_and_a_node_are_killed(cluster: Any) -> None:
    with executor(0, Gradient(), threads=1) as pool:
        reference = [plain(outcome) for outcome in pool.map(range(30))]
    found, nodes = [], []
    with executor("ray", Where(), threads=1) as pool:
        for number, outcome in enumerate(pool.map(range(30))):
            value = plain(outcome)
            nodes.append(value.pop("node"))
            pid = value.pop("pid")
            assert (value.pop("large") == number).all()
            found.append(value)
            if number in (4, 5):  # one on each node, most likely
                os.kill(pid, signal.SIGKILL)
            if number == 14:
                time.sleep(1.5)  # what the other node computes is done by now, and not fetched yet
                cluster.remove_node(cluster.second, allow_graceful=False)
    assert found == reference
    assert len(set(nodes[:12])) == 2
    assert len(set(nodes[-5:])) == 1


def test_a_driver_is_killed_and_a_node_lost_while_it_resumes(cluster: Any, npz: Path, tmp_path: Path) -> None:
    limits = {"params": "40k"}
    whole = archscout.search(str(npz), out=tmp_path / "whole", workers=0, limits=limits, **COUNTS)
    out = tmp_path / "run"
    line = [
        *command("search", "--data", npz, "--out", out, "--workers", "ray", "--limit", "params=40k"),
        *("--candidates", "12", "--finalists", "2", "--epochs", "2", "--train-threads", "1"),
        *("--proxies", "macs,naswot,synflow"),
    ]
    driver = subprocess.Popen(line, env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = out / "trials.jsonl"
    deadline = time.monotonic() + 240
    while driver.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.read_bytes().count(b'"event":"trial/') >= 5:
            break
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    done = log.read_bytes().count(b'"event":"trial/')
    assert 5 <= done < 30

    gone: list[float] = []

    def lose() -> None:
        while time.monotonic() < deadline + 240:
            if log.read_bytes().count(b'"event":"verify/') or log.read_bytes().count(b'"event":"trial/') > done + 3:
                cluster.remove_node(cluster.second, allow_graceful=False)
                gone.append(time.monotonic())
                return
            time.sleep(0.05)

    thread = threading.Thread(target=lose)
    thread.start()
    resumed = archscout.resume(out)
    thread.join()
    assert gone
    assert resumed.finished
    assert essence(out) == essence(whole.folder)


def free_port() -> int:
    """A port above those that Ray keeps for its workers."""
    while True:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            if (port := int(one.getsockname()[1])) > 20_000:
                return port


LOST = """
import sys
sys.path.insert(0, {tests!r})
from archscout.errors import Stopped
from archscout.execute import executor
from test_execute import process_of
try:
    with executor({address!r}, process_of) as pool:
        for number, outcome in enumerate(pool.map(range(100_000))):
            if number == 3:
                print("on", flush=True)
except Stopped as error:
    print("told:", error, flush=True)
"""


def test_a_cluster_that_is_lost_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the client protocol, whose connection ends with the head."""
    pytest.importorskip("grpc", reason="Ray's client wants ray[client]")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # a token in the home of whoever runs the tests is not for this one
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    environment.pop("RAY_ADDRESS", None)
    port = free_port()
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--num-cpus=1", f"--port={free_port()}"]
    start += [f"--ray-client-server-port={port}", "--include-dashboard=false", "--block"]
    own = tempfile.mkdtemp(prefix="ray")  # short, for sockets; not where a cluster would be looked for
    start += [f"--temp-dir={own}"]
    head = subprocess.Popen(
        start, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        script = tmp_path / "lost.py"
        script.write_text(LOST.format(tests=str(Path(__file__).parent), address=f"ray://127.0.0.1:{port}"))
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:  # until the head listens
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        time.sleep(5)
        driver = subprocess.Popen(
            [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        assert driver.stdout is not None
        first = driver.stdout.readline()
        assert first == "on\n", driver.communicate()[1][-2000:]
        os.killpg(head.pid, signal.SIGKILL)
        told = driver.communicate(timeout=300)[0]
        assert "told: the Ray cluster was lost" in told
    finally:
        if head.poll() is None:
            os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(own, ignore_errors=True)


def test_stopped_is_for_the_person() -> None:
    assert issubclass(Stopped, archscout.UserError)
