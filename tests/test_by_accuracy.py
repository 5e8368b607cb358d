"""The main job with accuracy as the strategy's reward: what trains, what is kept, how it resumes, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from test_pipeline import essence
from test_plan import RATES, planned

import archscout
from archscout.config import Config, make_config
from archscout.errors import UserError
from archscout.plan import SHORT_IMAGES, Plan, plan_counts

pytestmark = pytest.mark.usefixtures("quick_profile")

COUNTS = {
    "candidates": 10, "trainings": 7, "finalists": 2, "epochs": 1.0, "train_threads": 1, "workers": 0,
    "proxies": ("params", "naswot"), "limits": {"params": "40k"}, "reward": "accuracy",
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(npz: Path, tmp_path_factory: pytest.TempPathFactory) -> archscout.Result:
    out = tmp_path_factory.mktemp("runs") / "whole"
    return archscout.search(str(npz), out=out, inherit=True, select="random", **COUNTS)


def short(found: archscout.Result) -> dict[str, dict]:
    space = found.events["short"]["space"]
    return {row["arch"]: found.events[f"short/{space}/{row['arch']}"] for row in found.events["short"]["trained"]}


def test_the_most_accurate_of_the_short_trainings_are_verified(finished: archscout.Result) -> None:
    trained = short(finished)
    assert len(trained) == 7
    assert all(record["costs"]["params"] <= 40_000 for record in trained.values())
    best = sorted(trained, key=lambda arch: (-trained[arch]["validation"], trained[arch]["costs"]["params"]))
    finalists = [r["arch"] for r in finished.events["verified"] if r["role"] == "finalist"]
    assert finalists == best[:2]
    assert any(record["heir_of"] for record in trained.values())  # weights came from a neighbour
    begun = {row["arch"]: row["begun"] for row in finished.events["short"]["trained"]}
    assert any(begun.values())
    assert not all(begun.values())  # some were proposed from what the others did
    assert {"score", "short", "verify"} <= {key[6:] for key in finished.events if key.startswith("stage/")}
    assert finished.finished


def test_the_report_tells_of_it(finished: archscout.Result) -> None:
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "The search by accuracy" in page
    assert "7 networks trained for" in page
    assert "images chosen by random" in page
    assert "proposed by evolution" in page
    assert "Pretrained networks were not in the comparison." in page


@pytest.mark.parametrize("kept", [1, 3, 6])
def test_cut_off_after_a_training_and_resumed_it_ends_alike(
    finished: archscout.Result, tmp_path: Path, kept: int
) -> None:
    """The log ends in the midst of the short trainings, as after a power cut; weights may be lost or damaged then."""
    out = tmp_path / "cut"
    shutil.copytree(finished.folder, out)
    lines = (out / "trials.jsonl").read_text().splitlines(keepends=True)
    at = [i for i, line in enumerate(lines) if '"short/' in line][kept]
    (out / "trials.jsonl").write_text("".join(lines[:at]))
    for name in ("weights.safetensors", "report.html", "model.onnx"):
        (out / name).unlink()
    if kept == 3:
        shutil.rmtree(out / "checkpoints")
    for file in out.glob("checkpoints/short-*") if kept == 6 else ():
        file.write_bytes(file.read_bytes()[:-1])
    resumed = archscout.resume(out)
    assert essence(out) == essence(finished.folder)
    assert list(short(resumed)) == list(short(finished))
    assert [r["validation"] for r in short(resumed).values()] == [r["validation"] for r in short(finished).values()]


def test_disagreement_acts_in_short_trainings_and_in_a_verification_of_two_and_resumes_alike(
    npz: Path, tmp_path: Path
) -> None:
    found = archscout.search(str(npz), out=tmp_path / "run", select="disagreement", **COUNTS)
    trained = short(found)
    asked = [record.get("answered", 0) for record in trained.values()]
    assert all(asked[:4])
    assert not any(asked[4:])  # nothing follows the last
    assert found.events["short"]["ended"] == ""
    assert not any("said" in record for record in trained.values())
    assert {len(r["rounds"]) for r in found.events["verified"] if r["role"] == "finalist"} == {2}
    at_random = archscout.search(str(npz), out=tmp_path / "random", select="random", **COUNTS)
    other = short(at_random)
    assert list(other)[:4] == list(trained)[:4]
    assert [other[a]["validation"] for a in list(other)[:4]] == [trained[a]["validation"] for a in list(other)[:4]]
    out = tmp_path / "cut"
    shutil.copytree(found.folder, out)
    lines = (out / "trials.jsonl").read_text().splitlines(keepends=True)
    at = [i for i, line in enumerate(lines) if '"short/' in line][5]
    (out / "trials.jsonl").write_text("".join(lines[:at]))
    for name in ("weights.safetensors", "report.html", "model.onnx"):
        (out / name).unlink()
    for file in out.glob("checkpoints/short-*.npy"):
        file.unlink()
    archscout.resume(out)
    assert essence(out) == essence(found.folder)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["reinforce", "nsga2", "random", "predictor"])
def test_every_strategy_can_be_rewarded_with_accuracy(strategy: str, npz: Path, tmp_path: Path) -> None:
    found = archscout.search(
        str(npz), out=tmp_path / "run", **{**COUNTS, "trainings": 5, "epochs": 0.5}, strategy=strategy,
        objectives=("macs",),
    )  # fmt: skip
    assert len(short(found)) == 5
    assert found.finished


@pytest.mark.slow
def test_workers_do_not_matter(finished: archscout.Result, npz: Path, tmp_path: Path) -> None:
    settings = {**COUNTS, "workers": 2}
    archscout.search(str(npz), out=tmp_path / "run", inherit=True, select="random", **settings)
    assert essence(tmp_path / "run") == essence(finished.folder)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"reward": "accuracy", "strategy": "darts"}, "leave --reward out"),
        ({"strategy": "predictor"}, "add --reward accuracy"),
        ({"trainings": 5}, "add --reward accuracy"),
        ({"inherit": True}, "add --reward accuracy"),
        ({"reward": "accurracy"}, "reward"),
        ({"reward": "accuracy", "trainings": 0}, "trainings"),
    ],
)
def test_mistakes_are_told_plainly(settings: dict, words: str, npz: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        archscout.search(str(npz), out=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("budget", [120.0, 1200.0, 7200.0])
@pytest.mark.parametrize("images", [1_500, 60_000])
def test_the_short_trainings_fit_their_part_of_the_budget(budget: float, images: int) -> None:
    plan, without = planned(budget, images, reward="accuracy"), planned(budget, images)
    assert plan.training_limit == without.training_limit
    seen = plan.trainings * plan.short * 0.6 * images
    assert plan.training_limit is not None
    pace = min(plan.training_limit, RATES.training_ms[2])  # of the slower ones that may train
    assert seen * pace / 1000 <= 1.01 * plan.seconds["short"]
    assert plan.seconds["short"] + plan.seconds["verify"] == pytest.approx(without.seconds["verify"])
    assert sum(plan.split.values()) == pytest.approx(100)
    assert list(plan.split) == ["score", "short", "verify", "train"]
    assert Plan.from_json(plan.to_json()) == plan


def test_more_time_goes_half_into_more_and_half_into_longer_short_trainings() -> None:
    less, more = planned(1200.0, 100_000, reward="accuracy"), planned(24_000.0, 100_000, reward="accuracy")
    assert 1 < more.trainings / less.trainings < 20
    assert more.short * 60_000 >= SHORT_IMAGES
    assert more.short > less.short
    asked = planned(1200.0, 100_000, reward="accuracy", trainings=50)
    assert asked.trainings == 50
    assert asked.short < less.short


def test_counts_of_a_search_by_accuracy() -> None:
    config = make_config({"data": "digits", "finalists": 2, "epochs": 8, "reward": "accuracy"})
    plan = plan_counts(config)
    assert (plan.trainings, plan.short) == (24, pytest.approx(2.0))
    assert plan_counts(Config(data="digits", epochs=8.0)).trainings == 0
    assert RATES.score_seconds > 0
