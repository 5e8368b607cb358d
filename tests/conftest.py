"""What all tests share: the optional real data (ARCHSCOUT_DATA names its folder), a few digits, and cores of their own.

Under `pytest -n` every worker has one core, and so has what it starts: two networks that each compute with two threads
on two cores wait for each other most of the time.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
OWN = {sorted(CORES)[int(WORKER[2:]) % len(CORES)]} if WORKER and CORES else CORES
if OWN != CORES:  # before torch is imported, which asks how many there are
    os.sched_setaffinity(0, OWN)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images and benchmark tables, or a skip that says how to name it."""
    here = Path(__file__).resolve().parents[1]
    for folder in (os.environ.get("ARCHSCOUT_DATA"), here.parent / "shared" / "data"):
        if folder and Path(folder).is_dir():
            return Path(folder)
    pytest.skip("no benchmark data: set ARCHSCOUT_DATA to the folder that holds images/ and nas/")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory) -> None:
    """No test reads or writes the cache of the person who runs it: images and earlier speeds of the machine."""
    os.environ["ARCHSCOUT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def images() -> tuple[np.ndarray, np.ndarray]:
    """360 of scikit-learn's digits: images uint8 (360, 8, 8) and labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return (found.images[:360] * 15).astype(np.uint8), found.target[:360]


@pytest.fixture(scope="session")
def npz(images: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those digits as a file; no test may change it."""
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, X=images[0], y=images[1])
    return path


@pytest.fixture(scope="module")
def quick_profile() -> Iterator[None]:
    """Half a second for measuring the device, in a file whose searches do not depend on it."""
    from archscout import pipeline

    measure = pipeline.measure_profile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "measure_profile", lambda *args, **kw: measure(*args, **{**kw, "seconds": 0.5}))
        yield


def pytest_configure(config: pytest.Config) -> None:
    """Files are given out in the order of their tests, not the largest first: those that run alone come last."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `alone` come last, where no other waits for them."""
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)


@pytest.fixture(autouse=True)
def room(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Under `pytest -n` a test marked `alone`, as it measures time, runs while no other does, on all cores."""
    if not hasattr(request.config, "workerinput"):
        yield
        return
    shared = tmp_path_factory.getbasetemp().parent
    alone = request.node.get_closest_marker("alone") is not None
    with open(shared / "turn", "a") as turn, open(shared / "room", "a") as room:
        fcntl.flock(turn, fcntl.LOCK_EX)  # held while waiting, so that those behind do not slip past
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(turn, fcntl.LOCK_UN)
        if alone and OWN != CORES:
            os.sched_setaffinity(0, CORES)
        yield
        if alone and OWN != CORES:
            os.sched_setaffinity(0, OWN)
