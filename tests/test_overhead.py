"""What a candidate costs beside its measurement stays within some times of what is wanted, also on a busy machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import overhead

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
