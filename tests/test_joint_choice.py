"""What the joint choice of images and networks rests on: taus and gains by group, equal prices, pieces that go on."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import joint_choice
from cells import Images


def by_name(cells: dict[str, Any], truth: list[list[float]]) -> dict[str, dict[str, Any]]:
    return {figure["name"]: figure for figure in joint_choice.figures(cells, truth)}


def cell(accuracy: list[float], **more: Any) -> dict[str, Any]:
    return {"accuracy": accuracy, "disputed": accuracy, "sampled": accuracy[::-1], "seconds": 8.0, **more}


UP, DOWN = [1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]
ONE_OFF = [1.0, 2.0, 4.0, 3.0]  # tau 2/3


def test_gains_are_differences_of_tau_paired_by_group() -> None:
    truth = [UP, DOWN, UP]
    cells = {
        **{f"warm/{group}": cell(UP, asking_seconds=2.0) for group in range(3)},
        "disagreement/0": cell(UP), "disagreement/1": cell(DOWN), "disagreement/2": cell(ONE_OFF),
        "random/0": cell(ONE_OFF), "random/1": cell(UP),
        "dds/0": cell(UP),
    }  # fmt: skip
    found = by_name(cells, truth)
    assert found["tau_disagreement"]["value"] == pytest.approx((1 + 1 + 2 / 3) / 3)
    assert found["tau_random"]["value"] == pytest.approx((2 / 3 - 1) / 2)
    gain = found["gain_disagreement_over_random"]
    assert gain["value"] == pytest.approx(((1 - 2 / 3) + (1 + 1)) / 2)  # of groups 0 and 1, which both have
    assert (gain["n"], gain["networks"], gain["reach"]) == (2, 8, 0.0)
    half = stats.t.ppf(0.975, 1) * (2 - 1 / 3) / 2
    assert gain["high"] - gain["value"] == pytest.approx(half)
    assert gain["bootstrap"] == [pytest.approx(1 / 3), pytest.approx(2)]
    assert found["gain_dds_over_random"]["n"] == 1
    assert found["gain_random_judged_disputed_over_random_judged_sampled"]["value"] == pytest.approx(
        2 * (2 / 3 - 1) / 2
    )
    assert found["tau_warm"]["asking_seconds"] == pytest.approx(6 / 12)  # of one network
    assert found["tau_random"]["seconds"] == pytest.approx(2.0)


def test_networks_that_are_all_alike_have_no_order() -> None:
    assert joint_choice.tau_of([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) == 0
    assert by_name({"random/0": cell([5.0] * 4)}, [UP])["tau_random"]["value"] == 0


def test_the_interval_covers_networks_and_seeds() -> None:
    """Gains of groups that differ in networks and noise: Student's t and the bootstrap of groups cover the truth."""
    draw, covered, widths = np.random.default_rng(0), 0, []
    for _ in range(100):
        truth = draw.normal(size=(12, 20))
        cells = {}
        for group, known in enumerate(truth):
            base = known + draw.normal(size=20)
            for arm in ("random", "disagreement"):
                cells[f"{arm}/{group}"] = cell((base + draw.normal(size=20)).tolist())
        gain = by_name(cells, truth.tolist())["gain_disagreement_over_random"]
        covered += gain["low"] <= 0 <= gain["high"]
        widths.append((gain["bootstrap"][1] - gain["bootstrap"][0]) / (gain["high"] - gain["low"]))
    assert 88 <= covered <= 99  # of equal arms
    assert 0.75 < np.mean(widths) < 0.95  # percentiles of few groups are narrower than Student's t


def test_every_arm_costs_the_same() -> None:
    sizes = {"rest": 600, "asked": 300}
    price = {
        arm: joint_choice.images_of(arm, sizes) + (100 if arm == "disagreement" else 0) for arm in joint_choice.ARMS
    }
    assert set(price.values()) == {700}
    assert joint_choice.images_of("disagreement", sizes) == 600


def test_groups_share_no_network_and_answer_images_of_their_own() -> None:
    texts = joint_choice.shortlist(40)
    groups = joint_choice.in_groups(texts, 20)
    assert [len(group) for group in groups] == [20, 20]
    assert len(set(texts)) == 40
    part = Images(np.zeros((500, 2, 2, 3), dtype=np.uint8), np.zeros(500, dtype=np.int64))
    first, other = (joint_choice.asked_of(part, group, {"asked": 60}) for group in (0, 1))
    assert len(set(first.tolist())) == 60
    assert first.tolist() == joint_choice.asked_of(part, 0, {"asked": 60}).tolist()
    assert len(set(first.tolist()) & set(other.tolist())) < 30


def test_what_is_left_of_a_group() -> None:
    arms = list(joint_choice.ARMS)
    assert joint_choice.jobs_left({}, 0, False) == ["warm", *arms]
    assert joint_choice.jobs_left({"warm/0": {}}, 0, True) == arms
    assert joint_choice.jobs_left({"warm/0": {}}, 0, False) == ["warm", *arms]  # the weights are gone
    all_done: dict[str, dict[str, Any]] = {f"{arm}/0": {} for arm in ["warm", *arms]}
    assert joint_choice.jobs_left(all_done, 0, False) == []
    assert joint_choice.jobs_left({**all_done, "warm/1": {}}, 1, True) == arms


def test_pieces_go_on_where_they_stopped_and_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def some_cells(jobs: list, work: Callable, save: Callable, *, workers: int, minutes: float) -> None:
        for key, (texts, _, group, *more) in jobs:
            if len(done) >= most[0]:
                return
            done.append(key)
            if key.startswith("warm"):
                (more[0] / f"{group}.npz").touch()
            save(key, cell([float(len(text)) for text in texts]))

    most = [6]
    for name, value in (
        ("run_cells", some_cells), ("GROUPS", 3), ("NETWORKS", 4), ("truths", lambda data, texts: UP * 3),
        ("cifar10", lambda folder, data: (folder / "cifar10.npz").touch()),
    ):  # fmt: skip
        monkeypatch.setattr(joint_choice, name, value)
    monkeypatch.setattr(joint_choice.results_file, "code_of_program", lambda: "code")
    (tmp_path / "images").mkdir()
    out = tmp_path / "results.json"
    line = ["joint_choice.py", "--data", str(tmp_path), "--work", str(tmp_path / "work"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", line)
    joint_choice.main()
    assert not json.loads(out.read_text())["finished"]
    most[0] = 100
    joint_choice.main()
    assert sorted(done) == sorted(f"{arm}/{group}" for arm in ["warm", *joint_choice.ARMS] for group in range(3))
    found = json.loads(out.read_text())
    assert found["finished"]
    assert [len(texts) for texts in found["archs"]] == [4, 4, 4]
    assert math.isfinite(found["figures"][0]["value"])
    monkeypatch.setitem(joint_choice.SETTINGS, "rest", 1)
    with pytest.raises(SystemExit, match="rest"):
        joint_choice.main()
