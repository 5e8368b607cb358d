"""Every benchmark runs with --quick and writes the results format; committed results hold what they must."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
NO_SCRIPTS = ("cells", "known", "pictures", "readme_table", "repeats", "results_file", "trade_offs")
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in NO_SCRIPTS)


def check(path: Path) -> list[dict]:
    found = json.loads(path.read_text())
    assert {"command", "machine", "versions", "date", "figures"} <= set(found)
    for figure in found["figures"]:
        assert {"name", "value", "unit", "low", "high", "n", "known", "reach"} <= set(figure), figure
    return found["figures"]


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_quick(script: str, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    line = [sys.executable, str(FOLDER / f"{script}.py"), "--quick", "--out", str(out)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=280, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert check(out)


@pytest.mark.parametrize("path", sorted((FOLDER / "results").glob("*.json")), ids=lambda path: path.stem)
def test_committed_results_have_the_format(path: Path) -> None:
    assert path.stem in SCRIPTS
    assert check(path)
