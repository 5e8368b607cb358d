"""A differentiable strategy through the whole main job: limits kept, resumed alike, refused where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import archscout
from archscout.data import load
from archscout.differentiable import stage
from archscout.differentiable.stage import expected, halves, linear_costs, within_limits
from archscout.errors import UserError
from archscout.propose import Costing
from archscout.spaces.nasbench201 import nasbench201


def tiny(input_shape, classes):
    return nasbench201(input_shape, classes, channels=4, cells=1)


def images(n: int = 160) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    return (rng.integers(60, 190, (n, 8, 8, 3)) + 40 * labels[:, None, None, None]).clip(0, 255).astype(
        np.uint8
    ), labels


@pytest.mark.parametrize("strategy", ["darts", "pdarts"])
def test_the_main_job_with_a_supernet(strategy: str, tmp_path: Path) -> None:
    result = archscout.search(
        images(), space=tiny, strategy=strategy, select="hard_random", share=0.5, limits={"params": "6k"}, finalists=1,
        epochs=1, out=tmp_path / "run", workers=0,
    )  # fmt: skip
    found = result.events["supernet"]
    assert found["method"] == strategy
    assert found["selector"] == "hard_random"
    assert len(found["story"]["history"]) == len(found["story"]["alphas"]) > 0
    space = tiny((3, 8, 8), 2)
    assert Costing(space, {"params": 6000.0})(space.parse(found["arch"]))["violation"] <= 0
    roles = {entrant["role"] for entrant in result.events["verified"]}
    assert {"finalist", "random"} <= roles
    assert result.best["test"]["n"] > 0
    assert "The search by a supernet" in (tmp_path / "run" / "report.html").read_text()


def test_a_stopped_search_goes_on_to_the_same_architecture(tmp_path: Path) -> None:
    options = {"space": tiny, "strategy": "darts", "finalists": 1, "epochs": 1, "workers": 0}
    whole = archscout.search(images(), out=tmp_path / "one", **options)
    archscout.search(images(), out=tmp_path / "two", **options)
    log = tmp_path / "two" / "trials.jsonl"
    lines = log.read_text().splitlines()
    cut = next(i for i, line in enumerate(lines) if json.loads(line)["event"] == "supernet")
    log.write_text(
        "\n".join(lines[:cut]) + "\n"
    )  # as if it was killed when the supernet was trained, its log not written
    again = archscout.resume(tmp_path / "two", data=images(), space=tiny)
    assert again.events["supernet"]["arch"] == whole.events["supernet"]["arch"]
    assert again.events["supernet"]["story"]["alphas"] == whole.events["supernet"]["story"]["alphas"]


def test_a_space_without_a_supernet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="darts cannot search space 'mobilenet'; it can search darts, nasbench201"):
        archscout.search(
            images(), space="mobilenet", strategy="darts", epochs=1, finalists=1, out=tmp_path / "x", workers=0
        )


def test_halves_are_disjoint_and_stratified() -> None:
    part = load(images()).part("train")
    one, other = halves(part, 0)
    assert not set(one.indices) & set(other.indices)
    assert abs(len(one) - len(other)) <= 2
    assert abs(one.labels.mean() - 0.5) < 0.05
    grouped = load(images(), group=np.arange(160) // 4).part("train")
    one, other = halves(grouped, 0)
    groups = grouped.data.groups
    assert not set(groups[one.indices]) & set(groups[other.indices])


def test_a_linear_model_steers_and_the_count_decides() -> None:
    space = tiny((3, 8, 8), 2)
    costing = Costing(space, {"params": 6000.0})
    rng = np.random.default_rng(0)
    model = linear_costs(costing, rng)["params"]
    archs = [space.sample(rng) for _ in range(60)]
    hot = [torch.nn.functional.one_hot(torch.tensor(arch), 5).float() for arch in archs]
    true = [costing(arch)["params"] for arch in archs]
    assert np.corrcoef([float(expected(model, choice)) for choice in hot], true)[0, 1] > 0.8
    big = (3,) * 6
    logits = torch.zeros(6, 5)
    logits[:, 3], logits[:, 2] = 3.0, 2.0
    choice = logits.softmax(1)
    inside = within_limits(costing, choice, big)
    assert costing(inside)["violation"] <= 0
    assert 3 in inside or 2 in inside  # not emptied
    with pytest.raises(UserError, match="raise the limits"):
        within_limits(Costing(space, {"params": 10.0}), choice, big)


def test_training_on_selected_images_is_audited_and_shown(tmp_path: Path) -> None:
    pixels, labels = images(240)
    result = archscout.train(
        (pixels, labels), space="plain", arch="resnet8-w8", select="dds", share=0.3, epochs=6, out=tmp_path / "run"
    )
    found = result.events["selection"]
    assert found["selector"] == "dds"
    assert found["rounds"] >= 15
    assert 57 <= found["images"] < found["ever"] <= 192
    assert len(found["audits"]) >= 3
    assert sum(found["audits"][-1]["images"]) == 192  # train and validation
    assert {row["number"] for row in found["class"]} == {0, 1}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Images it was not trained on" in page
    assert "chosen by dds" in page
    assert "The search by a supernet" not in page
    plain = archscout.train((pixels, labels), space="plain", arch="resnet8-w8", epochs=1, out=tmp_path / "full")
    assert "selection" not in plain.events


def test_a_search_on_two_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes train one supernet inside the main job; selection and audits work in both."""
    monkeypatch.setattr(stage, "EPOCHS", 3.0)
    result = archscout.search(
        images(), space=tiny, strategy="pdarts", select="hard_random", share=0.5, finalists=1, epochs=0.3, devices=2,
        limits={"params": "6k"}, out=tmp_path / "run", workers=0,
    )  # fmt: skip
    story = result.events["supernet"]["story"]
    assert len(story["history"]) == len(story["alphas"]) > 0
    assert story["audits"]
    assert result.best["test"]["n"] > 0
