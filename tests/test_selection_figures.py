"""The figures of the benchmarks of data selection: pairs by seed, the best control, what full data are charged with."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import dds_search  # noqa: E402
import selection  # noqa: E402


def cells_of(values: dict[tuple[str, str, float], list[float]], **more: Any) -> dict[str, Any]:
    """Cells of ResNet-8 by (task, arm, reduction), one a seed."""
    cells = {}
    for (task, arm, reduction), each in values.items():
        for seed, value in enumerate(each):
            cells[f"{task}/resnet8/{arm}/{reduction:g}/{seed}"] = {
                "value": value, "seconds": 100.0 / reduction, "selection_seconds": 0.4, "audit_seconds": 0.0,
                "precision": "32-true", "made_with": selection.made_with(task, "resnet8", arm, reduction), **more,
            }  # fmt: skip
    return cells


def by_name(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in found}


def test_differences_are_paired_by_seed_and_the_best_control_stands_beside() -> None:
    cells = cells_of(
        {
            ("cifar10", "full", 1): [84.0, 85.0, 86.0],
            ("cifar10", "dds", 5): [74.0, 75.5, 76.0],
            ("cifar10", "short", 5): [73.0, 74.0, 75.0],
            ("cifar10", "random", 5): [73.5, 74.5],
            ("cifar10", "fixed", 5): [70.0, 70.0, 70.0],
            ("noisy10", "dds", 5): [60.0, 61.0],
            ("noisy10", "random", 5): [61.0, 61.0],
        }
    )
    found = by_name(selection.figures(cells))
    assert found["change_at_5x"]["value"] == pytest.approx((-10 - 9.5 - 10) / 3)
    assert found["change_at_5x"]["n"] == 3
    assert "change_at_2x" not in found
    assert found["gain_over_random_5x"]["control"] in ("short", "random")  # 74.0 both: the first
    assert found["gain_over_random_5x"]["value"] == pytest.approx((1 + 1.5 + 1) / 3)
    assert found["noisy10_gain"]["value"] == pytest.approx(-0.5)
    assert found["overhead_share"]["value"] == pytest.approx(100 * 0.4 / 80)
    assert found["overhead_share"]["low"] < found["overhead_share"]["reach"]


def test_a_selection_that_saves_nothing_does_not_hide_it() -> None:
    cells = cells_of({("cifar10", "full", 1): [84.0, 84.0], ("cifar10", "dds", 5): [74.0, 74.0]})
    for key in cells:
        cells[key]["seconds"] = 100.0
    assert by_name(selection.figures(cells))["overhead_share"]["value"] > 1000


def test_cells_of_other_settings_are_measured_again_and_not_read() -> None:
    cells = cells_of({("cifar10", "full", 1): [84.0], ("cifar10", "dds", 5): [74.0]})
    key = "cifar10/resnet8/dds/5/0"
    assert not selection.wanted(cells, key)
    cells[key]["made_with"] = "0"
    assert selection.wanted(cells, key)
    assert "change_at_5x" not in by_name(selection.figures(cells))
    cells = cells_of({("cifar10", "full", 1): [84.0], ("cifar10", "dds", 5): [74.0]}, precision="bf16-mixed")
    cells[key]["precision"] = "32-true"
    assert "change_at_5x" not in by_name(selection.figures(cells))


def test_what_a_cell_is_made_with() -> None:
    assert selection.made_with("cifar10", "resnet8", "dds", 5) == selection.made_with("noisy10", "resnet8", "dds", 5)
    others = [
        selection.made_with(*one)
        for one in (
            ("cifar10", "resnet8", "dds", 5.0), ("cifar10", "resnet8", "dds", 2.0), ("cifar10", "resnet20", "dds", 5.0),
            ("cifar10", "resnet8", "dds_furthest", 5.0), ("tiles", "resnet8", "dds", 5.0),
            ("cifar10", "resnet8", "full", 1.0), ("cifar10", "resnet8", "random", 5.0),
        )
    ]  # fmt: skip
    assert len(set(others)) == len(others)


def search(cells: list[str], seconds: float = 100.0, memory: float = 100.0) -> dict[str, Any]:
    each = seconds / len(cells)
    curve = [
        {"epoch": 0.25 * (i + 1), "seconds": each * (i + 1), "arch": cell, "skips": 0} for i, cell in enumerate(cells)
    ]
    return {"curve": curve, "seconds": seconds, "memory_mb": memory}


def test_full_data_are_charged_to_the_first_epoch_that_is_within_a_tenth_of_the_best() -> None:
    good, fair, bad = (
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|",
        "|nor_conv_3x3~0|+|nor_conv_1x1~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|",
        "|nor_conv_1x1~0|+|none~0|none~1|+|nor_conv_1x1~0|none~1|none~2|",
    )
    known = {good: (94.0, 72.0), fair: (93.95, 70.0), bad: (80.0, 50.0)}
    cells = {
        "full/0": search([bad, fair, good, good]), "full/1": search([bad, fair, good, good]),
        "dds/0": search([bad, good], 25.0, 110.0), "dds/1": search([fair, fair], 10.0, 110.0),
        "random/0": search([bad, fair], 25.0), "random/1": search([bad, bad], 25.0),
        "random_cell/0": {"curve": [{"seconds": 0.0, "arch": bad}], "seconds": 0.0, "memory_mb": None},
    }  # fmt: skip
    found = by_name(dds_search.figures(cells, known))
    assert "0.5" in found["speedup"]["unit"]
    assert found["speedup"]["value"] == pytest.approx((50 / 25 + 50 / 10) / 2)
    assert found["accuracy_difference"]["value"] == pytest.approx((0.05 + 0.0) / 2)
    assert found["gain_over_redrawn"]["value"] == pytest.approx((0.05 + 13.95) / 2)
    assert found["true_c100"]["value"] == pytest.approx(71.0)
    assert found["memory_ratio"]["value"] == pytest.approx(1.1)
    assert found["true_c10_random_cell"]["n"] == 1


def test_the_committed_searches_hold_the_trials_that_chose_the_settings() -> None:
    found = json.loads((FOLDER / "results" / "dds_search.json").read_text())
    assert len(found["tuning"]) >= 14
    names = {one["name"] for one in found["figures"]}
    wanted = "speedup memory_ratio accuracy_difference gain_over_redrawn true_c10 true_c100 step_seconds pdarts_speedup"
    assert set(wanted.split()) <= names
