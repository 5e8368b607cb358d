"""Budgets of time are kept. In a file of few tests, which is given out last: nothing else runs beside these."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import archscout
from archscout.plan import wanted_epochs

pytestmark = pytest.mark.usefixtures("quick_profile")


@pytest.mark.slow
@pytest.mark.alone
def test_a_budget_is_kept(npz: Path, tmp_path: Path) -> None:
    start = time.monotonic()
    result = archscout.search(str(npz), out=tmp_path / "run", budget="60s", limits={"params": "40k"}, workers=1)
    assert time.monotonic() - start <= 1.1 * 60
    events = result.events
    assert events["plan"]["candidates"] >= 16
    rates, counts = events["rates"], events["data"]["counts"]
    assert rates["reference_ms"] > 0.005
    usable = events["plan"]["seconds"]["train"]
    final = sum(counts["train"]) + sum(counts["validation"])
    wanted = wanted_epochs(usable, final, rates["reference_ms"])  # at the speed of this machine
    limit = max(1000 * usable / (final * wanted), rates["training_ms"][0])
    assert events["plan"]["training_limit"] == pytest.approx(limit, rel=0.01)


@pytest.mark.slow
@pytest.mark.alone
def test_two_devices_train_a_given_network_within_a_budget(tmp_path: Path) -> None:
    """Several devices are processes of their own; two on the CPU keep the budget and leave a whole run."""
    began = time.monotonic()
    found = archscout.train("digits", space="plain", arch="resnet8-w8", devices=2, budget="40s", out=tmp_path / "two")
    assert time.monotonic() - began < 75  # the budget and the start of two processes on a busy machine
    trained = found.events["trained"]
    assert trained["epochs"] > 0.5
    assert found.best["test"]["accuracy"] > 0.5
    assert (tmp_path / "two" / "model.onnx").exists()
