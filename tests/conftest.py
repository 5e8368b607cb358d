"""Where the optional real data lies. Set ARCHSCOUT_DATA to its folder; tests that need it skip without it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest


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


@pytest.fixture(autouse=True)
def room(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Under `pytest -n` a test marked `alone`, as it measures time, runs while no other does."""
    if not hasattr(request.config, "workerinput"):
        yield
        return
    shared = tmp_path_factory.getbasetemp().parent
    alone = request.node.get_closest_marker("alone") is not None
    with open(shared / "turn", "a") as turn, open(shared / "room", "a") as room:
        fcntl.flock(turn, fcntl.LOCK_EX)  # held while waiting, so that those behind do not slip past
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(turn, fcntl.LOCK_UN)
        yield
