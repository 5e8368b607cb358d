"""Where the optional real data lies. Set ARCHSCOUT_DATA to its folder; tests that need it skip without it."""

from __future__ import annotations

import os
from pathlib import Path

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
