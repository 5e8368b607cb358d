"""Kill -9 at random moments of a search, each followed by resuming: equal to the search that nobody stopped.

Sessions are children of a server process that has imported everything, so that each starts in no time. One is killed
when its run has made a random number of steps (lines of the log, checkpoints), a random moment later.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_pipeline import essence

import archscout

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
KILLS = {"evolution": 10, "nsga2, dds, a worker": 2}  # of the others FEW
FEW = 4
SEARCHES: dict[str, dict[str, Any]] = {
    "evolution": {"space": "mobilenet", "limits": {"params": "40k"}, "candidates": 24, "finalists": 3, "epochs": 3.0},
    "nsga2, dds, a worker": {
        "space": "plain", "strategy": "nsga2", "limits": {"params": "60k"}, "candidates": 12, "finalists": 2,
        "epochs": 8.0, "select": "dds", "share": 0.3, "workers": 1,
    },
    "evolution by accuracy, inherit, dds": {
        "space": "plain", "limits": {"params": "60k"}, "reward": "accuracy", "inherit": True, "trainings": 5,
        "candidates": 8, "finalists": 2, "epochs": 4.0, "select": "dds", "share": 0.3,
    },
    "darts": {"space": "test_supernet_stage:tiny", "strategy": "darts", "finalists": 1, "epochs": 2.0},
    "pdarts, redrawn": {
        "space": "test_supernet_stage:tiny", "strategy": "pdarts", "finalists": 1, "epochs": 1.0,
        "select": "hard_random", "share": 0.5,
    },
    "tas, dds": {
        "space": "resnet_shape", "strategy": "tas", "limits": {"macs": "400k"}, "finalists": 1, "epochs": 0.5,
        "select": "dds", "share": 0.5,
    },
    "train, dds": {"arch": "resnet8-w8", "space": "plain", "select": "dds", "share": 0.3, "epochs": 24.0},
}  # fmt: skip
SERVER = ("archscout.pipeline", "archscout.page", "archscout.facts", "torch._dynamo", "onnxscript", "onnxruntime")


def session(name: str, data: str, out: str) -> None:
    """What a child does: begins the search, or goes on with it."""
    sys.path.insert(0, str(Path(__file__).parent))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    from archscout import pipeline
    from archscout.differentiable import stage

    measure = pipeline.measure_profile
    pipeline.measure_profile = lambda *args, **kw: measure(*args, **{**kw, "seconds": 0.5})  # decides nothing here
    stage.EPOCHS = 3.0
    few = {"workers": 0, "train_threads": 1, **({} if "train" in name else {"proxies": ("macs", "synflow")})}
    if (Path(out) / "config.toml").exists():
        pipeline.resume(out)
    elif "train" in name:
        few.pop("workers")
        pipeline.train(data, out=out, **few, **SEARCHES[name])
    else:
        pipeline.search(data, out=out, **{**few, **SEARCHES[name]})


class Watched:
    """A session under way, and how many steps its run has made meanwhile."""

    def __init__(self, name: str, data: Path, out: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(SERVER))
        self.out, self.steps = out, 0
        self._last = self._state()
        self.process = context.Process(target=session, args=(name, str(data), str(out)))
        self.process.start()

    def _state(self) -> Any:
        files = [self.out / "trials.jsonl", *sorted(self.out.glob("checkpoints/*.pt"))]
        try:
            return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        except FileNotFoundError:
            return None

    def goes_on(self) -> bool:
        """Waits a moment; whether the session still runs."""
        time.sleep(0.002)
        if (now := self._state()) != self._last:
            self.steps, self._last = self.steps + 1, now
        return self.process.is_alive()


def outcome(folder: Path) -> dict[str, Any]:
    events = archscout.Result(folder).events
    found = essence(folder) if "verified" in events else {"test": events["audit"]["parts"]["test"]}
    if "supernet" in events:
        found["supernet"] = {name: events["supernet"]["story"][name] for name in ("alphas", "step", "stopped")}
    if "selection" in events:
        found["selection"] = events["selection"]
    weights = (folder / "weights.safetensors").read_bytes()
    return {**found, "weights": hashlib.sha256(weights).hexdigest()}


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
@pytest.mark.parametrize("name", list(SEARCHES))
def test_killed_again_and_again_it_comes_to_the_same_end(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    pixels = rng.integers(0, 120, (300, 8, 8, 3)) + 60 * (np.arange(3) == labels[:, None])[:, None, None]
    np.savez(tmp_path / "d.npz", X=pixels.astype(np.uint8), y=labels)
    whole = Watched(name, tmp_path / "d.npz", tmp_path / "whole")
    while whole.goes_on():
        pass
    assert whole.process.exitcode == 0
    expected = outcome(tmp_path / "whole")
    seed = time.time_ns() % 10**6
    chance = random.Random(seed)
    out, kills, count = tmp_path / "killed", [], KILLS.get(name, FEW)
    while len(kills) < count:
        one = Watched(name, tmp_path / "d.npz", out)
        wanted, ends = chance.randint(1, max(2, whole.steps // (count + 2))), time.monotonic() + 120
        while one.goes_on() and one.steps < wanted and time.monotonic() < ends:
            pass
        until = time.monotonic() + chance.choice((0.0, 0.02, 0.2)) * chance.random()
        while one.goes_on() and time.monotonic() < until:
            pass
        if one.process.is_alive():
            os.kill(one.process.pid or 0, signal.SIGKILL)
        one.process.join()
        if one.process.exitcode == -signal.SIGKILL:
            kills.append(one.steps)
            continue
        assert one.process.exitcode == 0, (seed, kills)  # it came to its end between two kills: another one goes on
        assert outcome(out) == expected, (seed, kills)
        out = tmp_path / f"killed after {len(kills)}"
    last = Watched(name, tmp_path / "d.npz", out)
    while last.goes_on():
        pass
    assert last.process.exitcode == 0, (seed, kills)
    assert outcome(out) == expected, (seed, kills)
    print(f"{name}: {whole.steps} steps in all, killed after {kills}")
