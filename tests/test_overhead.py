"""What a candidate costs beside its measurement stays within some times of what is wanted, also on a busy machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import overhead
import results_file

CANDIDATES = 2000


@pytest.mark.parametrize("strategy", ["evolution", "prune"])
def test_two_thousand_candidates_cost_little_each(strategy: str) -> None:
    overhead.milliseconds(strategy, 64, 0)  # imports and caches
    _, processor, scored = overhead.milliseconds(strategy, CANDIDATES, 0)
    assert scored == CANDIDATES
    assert processor < 4.0  # ms of the processor; wanted: 1
    held, scored = overhead.kilobytes(strategy, CANDIDATES, 0)
    assert scored == CANDIDATES
    assert held < 2.5  # kB; wanted: 2


def test_a_search_that_ends_early_is_charged_to_what_it_scored() -> None:
    """The policy settles: what it spends on proposals that are not new counts, and is not divided by what was asked."""
    scored = overhead.milliseconds("reinforce", CANDIDATES, 0)[2]
    assert 100 < scored < CANDIDATES


def test_a_search_that_ends_early_is_no_cell_of_what_was_asked() -> None:
    early = overhead.how_many(100_000, [400, 600])
    assert (early["asked"], early["scored"], early["scored_least"]) == (100_000, 500, 400)
    assert "no cell of 100,000" in early["note"]
    assert "after 500 on average (from 400 to 600)" in early["note"]
    assert overhead.how_many(100, [100, 100]) == {"asked": 100, "scored": 100, "scored_least": 100}
    assert "note" in overhead.how_many(100, [100, 99])


def test_figures_of_other_code_are_dropped_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    now = {"code": "b", "with": "python 3", "processor": "fast"}
    figures: dict[str, dict[str, Any]] = {
        "same": {"value": 1.0, **now},
        "old": {"value": 1.0, **now, "code": "a"},
        "elsewhere": {"value": 1.0, **now, "processor": "slow"},
        "unnamed": {"value": 1.0},
    }
    assert list(overhead.of_now(figures, now)) == ["same"]
    said = capsys.readouterr().err
    for reason in ("1 of the figures (another code)", "(another processor)", "(no code named)"):
        assert reason in said


def test_going_on_measures_again_what_other_code_gave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(overhead, "warm_up", lambda: None)
    monkeypatch.setattr(overhead, "code_of_program", lambda: "one")
    monkeypatch.setattr(overhead, "milliseconds", lambda strategy, candidates, seed: (1.0, 1.0, 7))
    monkeypatch.setattr(overhead, "read_back", lambda strategy, candidates, seed: (1.0, 1.0, 5.0, candidates))
    for name in ("kilobytes", "kilobytes_of_page"):
        monkeypatch.setattr(overhead, name, lambda strategy, candidates, seed: (1.0, candidates))
    out = tmp_path / "overhead.json"
    monkeypatch.setattr(sys, "argv", ["overhead.py", "--quick", "--minutes", "9", "--out", str(out)])
    overhead.main()
    first = results_file.read(out)
    assert {found["code"] for found in first.values()} == {"one"}
    assert first["ms_per_candidate"]["scored"] == 7
    assert "no cell of 300" in first["ms_per_candidate"]["note"]
    monkeypatch.setattr(overhead, "milliseconds", lambda strategy, candidates, seed: (2.0, 2.0, 7))
    overhead.main()  # all is there
    assert results_file.read(out)["cpu_ms_per_candidate/prune/100"]["value"] == 1
    monkeypatch.setattr(overhead, "code_of_program", lambda: "another")
    overhead.main()
    assert results_file.read(out)["cpu_ms_per_candidate/prune/100"]["value"] == 2
    assert "another code" in capsys.readouterr().err


def test_the_code_of_a_program_is_what_runs(tmp_path: Path) -> None:
    def code(text: str, name: str = "inner/a.py") -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
        return results_file.code_of_program(folder)

    plain = code("def f(x):\n    return x + 1\n")
    assert plain == code('"""Words."""\n\n\ndef f(x):  # a remark\n    """More words."""\n    return (x + 1)\n')
    assert plain != code("def f(x):\n    return x + 2\n")
    assert plain != code("def f(x):\n    return 'words'\n")
    assert plain != code("def f(x):\n    return x + 1\n", "inner/b.py")
    assert len(results_file.code_of_program()) == 16
