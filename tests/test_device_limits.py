"""Limits on a device through whole runs: measured here, predicted elsewhere from ten networks, and told by `train`."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import archscout
from archscout import full_training, pipeline, shortlist
from archscout.asked import wanted_costs
from archscout.cli import main
from archscout.config import Config
from archscout.costs.trace import Trace
from archscout.devices.latency import Latency
from archscout.devices.profile import Profile, fit_profile, trace_of
from archscout.devices.shelf import add_device, find_profile
from archscout.differentiable import DIFFERENTIABLE, stage
from archscout.differentiable.darts import darts
from archscout.differentiable.stage import CHEAPER, linear_costs
from archscout.errors import UserError
from archscout.facts import facts_of
from archscout.propose import Costing
from archscout.space import SearchSpace
from archscout.spaces.nasbench201 import nasbench201
from archscout.strategies import NSGA2

FEW: dict[str, Any] = {"workers": 0, "threads": 1, "train_threads": 1, "proxies": ("macs", "naswot")}
LIMIT = 50.0  # ms or mJ; above what is predicted of any network here


def tiny(input_shape: Any, classes: int) -> SearchSpace:
    return nasbench201(input_shape, classes, channels=4, cells=1)


def images(count: int = 160) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    return (rng.integers(60, 190, (count, 8, 8, 3)) + 40 * labels[:, None, None, None]).astype(np.uint8), labels


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shelf without devices; and peaks of memory, each read in a process of its own, are left out."""
    monkeypatch.setenv("ARCHSCOUT_CONFIG", str(tmp_path / "config"))
    monkeypatch.setattr(full_training, "measure_memory", lambda model, shape: None)


def law(seen: Trace) -> float:
    """Milliseconds on a device that is linear in operations and multiply-adds."""
    return 0.2 + 0.03 * len(seen.ops) + 2e-6 * seen.macs


def board(space: SearchSpace, **changes: Any) -> Profile:
    """What measuring this machine would give if it kept the law and drew 2 W."""
    rng = np.random.default_rng(5)
    archs = list(dict.fromkeys(space.sample(rng) for _ in range(16)))
    seen = [trace_of(space, arch) for arch in archs]
    found = fit_profile(
        seen, [law(one) for one in seen], [0.05 * law(one) for one in seen], names=[space.format(a) for a in archs],
        device="a board", threads=1, train_threads=1, batch=64, space=space.name, input_shape=space.input_shape,
        power=2.0, power_source="stated: 2 W",
    )  # fmt: skip
    return replace(found, **changes)


@pytest.fixture
def lawful(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine keeps the law, and is known without measuring it."""
    monkeypatch.setattr(pipeline, "measure_profile", lambda space, **options: board(space))


class Stopwatch:
    """Stands for `energy_facts`: ms, the upper end of ms, and mJ by how many networks were measured before."""

    def __init__(self, rule: Callable[[int], tuple[float, float, float]]) -> None:
        self.rule, self.measured = rule, 0

    def __call__(self, model: Any, shape: Any, device: str, threads: int, seconds: float) -> dict[str, Any]:
        ms, high, energy = self.rule(self.measured)
        self.measured += 1
        found = Latency(ms, 0.9 * ms, high, ms, 30, 0.0, "a board", "torch", threads)
        return {
            "latency": found.to_json(), "energy": energy, "power": energy / ms, "metered": True, "source": "a meter",
        }  # fmt: skip


def timed(cost: str, *values: tuple[float, float]) -> Stopwatch:
    """Networks that take the (value, upper end) of a cost in turn, and next to nothing of the other."""

    def rule(number: int) -> tuple[float, float, float]:
        value, high = values[number % len(values)]
        return (value, high, 1.0) if cost == "latency" else (1.0, high / value, value)

    return Stopwatch(rule)


# --- this machine: the door ---


def measured_by(monkeypatch: pytest.MonkeyPatch, facts: Any) -> None:
    """Lets a stopwatch measure networks, at the door and after the full training."""
    for module in (shortlist, full_training):
        monkeypatch.setattr(module, "energy_facts", facts)


@pytest.mark.slow
@pytest.mark.parametrize("cost", ["latency", "energy"])
def test_what_measures_above_the_limit_does_not_enter(
    cost: str, lawful: None, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three networks one measures above the limit, one reaches above it with its interval, and one is within."""
    measured_by(monkeypatch, timed(cost, (60.0, 61.0), (49.0, 52.0), (40.0, 41.0)))
    result = archscout.search(
        str(npz), limits={cost: LIMIT}, candidates=24, finalists=2, epochs=0.5, out=tmp_path / "run", **FEW
    )
    measured = {key[9:]: found for key, found in result.events.items() if key.startswith("measured/")}
    value = {
        key: found["energy"] if cost == "energy" else found["latency"]["median"] for key, found in measured.items()
    }
    entered = {record["key"]: record["role"] for record in result.events["verified"]}
    assert {value[key] for key in entered} == {40.0}
    assert {value[key] for key in set(value) - set(entered)} == {60.0, 49.0}
    assert list(entered.values()).count("finalist") == 2
    ranks = {f"mobilenet/{c['arch']}": c["rank"] for c in result.candidates}
    last = max(ranks[key] for key, role in entered.items() if role == "finalist")
    assert sum(ranks.get(key, last) < last for key in set(value) - set(entered)) >= 2  # better ones were passed over


@pytest.mark.parametrize("cost", ["latency", "energy"])
def test_where_all_measure_above_the_limit_the_nearest_is_named(
    cost: str, lawful: None, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_by(monkeypatch, timed(cost, (70.0, 71.0), (60.0, 62.0), (80.0, 80.0)))
    unit = {"latency": "ms", "energy": "mJ"}[cost]
    words = f"the best .* all measure above the limit {cost}=50 {unit} .least at the safe end: {cost} 62 {unit}."
    with pytest.raises(UserError, match=words):
        archscout.search(
            str(npz), limits={cost: LIMIT}, candidates=8, finalists=1, epochs=0.5, out=tmp_path / "run", **FEW
        )


# --- supernets ---


def heavy(space: SearchSpace, *parts: Any, **options: Any) -> Any:
    """DARTS, whose supernet in the end wants 3x3 convolutions on every edge, and 1x1 ones next."""
    found = darts(space, *parts, **options)
    with torch.no_grad():
        found.supernet.alphas.zero_()
        found.supernet.alphas[:, 3], found.supernet.alphas[:, 2] = 3.0, 2.0
        return replace(found, arch=found.supernet.derive(found.supernet.logits().softmax(-1)))


@pytest.fixture
def wanting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The strategy darts is `heavy`, and brief."""
    monkeypatch.setattr(heavy, "__name__", "darts")
    monkeypatch.setitem(DIFFERENTIABLE, "darts", heavy)
    monkeypatch.setattr(stage, "EPOCHS", 1.0)


def supernet_search(out: Path, **settings: Any) -> archscout.Result:
    return archscout.search(images(), space=tiny, strategy="darts", epochs=0.5, out=out, **{**FEW, **settings})


def test_predicted_costs_steer_by_their_safe_end_and_counted_ones_as_they_are() -> None:
    space, limits = tiny((3, 8, 8), 2), {"latency": 1e6, "params": 1e6}
    sure, doubtful = (
        linear_costs(Costing(space, limits, board(space, half_width=half)), np.random.default_rng(0))
        for half in (0.0, 0.5)
    )
    assert doubtful["latency"][0] == pytest.approx(1.5 * sure["latency"][0])
    torch.testing.assert_close(doubtful["latency"][1], 1.5 * sure["latency"][1])
    counted = linear_costs(Costing(space, {"params": 1e6}), np.random.default_rng(0))
    for found in (sure, doubtful):
        assert found["params"][0] == counted["params"][0]
        assert torch.equal(found["params"][1], counted["params"][1])


@pytest.mark.slow
@pytest.mark.parametrize("refused", [0, 2])
def test_a_supernet_gives_cheaper_networks_until_one_is_admitted(
    refused: int, lawful: None, wanting: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One finalist in the end, however many are planned; the others are as like it as their costs allow."""

    def rule(number: int) -> tuple[float, float, float]:
        return (60.0, 61.0, 1.0) if number < refused else (40.0, 41.0, 1.0)

    measured_by(monkeypatch, Stopwatch(rule))
    result = supernet_search(tmp_path / "run", limits={"latency": LIMIT}, finalists=8)
    space, found = tiny((3, 8, 8), 2), result.events["supernet"]
    tried = result.events["supernet-tried"] if refused else [found["arch"]]
    assert ("supernet-tried" in result.events) == bool(refused)
    assert tried[0] == found["arch"]
    assert len(set(tried)) == len(tried) == refused + 1
    assert [r["arch"] for r in result.events["verified"] if r["role"] == "finalist"] == [tried[-1]]
    costing = Costing(space, {}, Profile.from_json(result.events["profile"]))
    most = [costing.upper(costing(space.parse(text)))["latency"] for text in tried]
    for before, after in pairwise(most):
        assert 0.5 * before < after <= CHEAPER * before
    if not refused:
        return
    stopped = tmp_path / "run" / "trials.jsonl"
    lines = stopped.read_text().splitlines()
    place = next(i for i, line in enumerate(lines) if '"event":"supernet"' in line)
    stopped.write_text("\n".join(lines[: place + 1]) + "\n")  # as if it was killed when the supernet was trained
    measured_by(monkeypatch, Stopwatch(rule))
    again = archscout.resume(tmp_path / "run", data=images(), space=tiny)
    assert again.events.get("supernet-tried", [found["arch"]]) == tried


def test_a_supernet_of_which_nothing_is_admitted(
    lawful: None, wanting: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_by(monkeypatch, timed("energy", (70.0, 71.0)))
    with pytest.raises(UserError, match="the best 4 candidates all measure above the limit energy=50 mJ, power=3 W"):
        supernet_search(tmp_path / "run", limits={"energy": LIMIT, "power": "3W"}, finalists=1)


# --- another device, of which ten networks were measured ---


def ten_networks(path: Path, shape: tuple[int, int, int], classes: int) -> Path:
    """A CSV of ten cells of NAS-Bench-201 on a device that keeps the law within a few per cent."""
    space, rng = tiny(shape, classes), np.random.default_rng(9)
    archs = list(dict.fromkeys(space.canonical(space.sample(rng)) for _ in range(30)))[:10]
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("arch", "ms"))
        for arch in archs:
            writer.writerow((space.format(arch), law(trace_of(space, arch)) * rng.normal(1, 0.03)))
    return path


def add_phone(folder: Path, shape: tuple[int, int, int], classes: int) -> None:
    row = add_device(
        "phone", ten_networks(folder / "phone.csv", shape, classes), space="nasbench201", input_shape=shape,
        classes=classes,
    )  # fmt: skip
    assert row["networks"] == 10


def middling(space: SearchSpace) -> float:
    """A limit that the safe end of two in five random networks keeps on the phone."""
    predict = find_profile("phone").predictor(space)
    rng = np.random.default_rng(3)
    assert predict is not None
    drawn = [space.canonical(space.sample(rng)) for _ in range(60)]
    return float(np.quantile([predict(arch)["latency_high"] for arch in drawn], 0.4))


@pytest.mark.slow
def test_a_supernet_for_a_device_of_ten_networks(lawful: None, wanting: None, tmp_path: Path) -> None:
    space = tiny((3, 8, 8), 2)
    add_phone(tmp_path, (3, 8, 8), 2)
    limit, predict = middling(space), find_profile("phone").predictor(space)
    assert predict is not None
    result = supernet_search(
        tmp_path / "run", limits=[f"latency={limit}ms"], device_profile="phone", finalists=1,
        supernet={"decide": "largest"},
    )  # fmt: skip
    found, profile = result.events["supernet"], Profile.from_json(result.events["profile"])
    assert len(profile.few["samples"]) == 10
    assert profile.target == "phone"
    assert predict(space.canonical(space.parse(found["derived"])))["latency_high"] > limit  # it had to be moved
    ends = predict(space.canonical(space.parse(found["arch"])))
    assert ends["latency"] < ends["latency_high"] <= limit
    (finalist,) = (r for r in result.events["verified"] if r["role"] == "finalist")
    assert finalist["arch"] == found["arch"]
    assert finalist["costs"]["latency_high"] == pytest.approx(ends["latency_high"])
    assert not [key for key in result.events if key.startswith("measured/")]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shelf that holds the phone, for grey images of 8 x 8 pixels."""
    folder = tmp_path_factory.mktemp("shelf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHSCOUT_CONFIG", str(folder))
        add_phone(folder, (1, 8, 8), 10)
    return folder


def search_for_phone(out: Path, shelf: Path, **settings: Any) -> archscout.Result:
    """The main job on scikit-learn's digits under a limit on the phone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHSCOUT_CONFIG", str(shelf))
        patch.setattr(pipeline, "measure_profile", lambda space, **options: board(space))
        patch.setattr(full_training, "measure_memory", lambda model, shape: None)
        limit = middling(tiny((1, 8, 8), 10))
        return archscout.search(
            "digits", space=tiny, limits={"latency": limit}, device_profile="phone", candidates=16, finalists=1,
            epochs=0.2, out=out, **FEW, **settings,
        )  # fmt: skip


@pytest.fixture(scope="module")
def searched(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> archscout.Result:
    return search_for_phone(tmp_path_factory.mktemp("runs") / "proxies", shelf)


def check_phone(result: archscout.Result) -> None:
    """Whatever was scored or trained keeps the limit with the safe end of what ten networks tell of it."""
    space, limit = tiny((1, 8, 8), 10), result.config["limits"]["latency"]
    profile = Profile.from_json(result.events["profile"])
    assert len(profile.few["samples"]) == 10
    predict = profile.predictor(space)
    assert predict is not None
    assert profile.upper(result.best["costs"])["latency"] <= limit
    assert sum(bool(candidate["scores"]) for candidate in result.candidates) >= 16
    for candidate in result.candidates:
        end = predict(space.parse(candidate["arch"]))["latency_high"]
        assert bool(candidate["scores"]) == (end <= limit)
    for record in result.events["verified"]:
        if record["space"] == space.name:
            assert predict(space.parse(record["arch"]))["latency_high"] <= limit
        else:
            assert profile.upper(record["costs"])["latency"] <= limit


@pytest.mark.slow
def test_a_search_for_a_device_of_ten_networks(searched: archscout.Result) -> None:
    check_phone(searched)


@pytest.mark.slow
def test_a_search_by_accuracy_for_a_device_of_ten_networks(shelf: Path, tmp_path: Path) -> None:
    result = search_for_phone(tmp_path / "run", shelf, reward="accuracy", trainings=3)
    check_phone(result)
    space, limit = tiny((1, 8, 8), 10), result.config["limits"]["latency"]
    predict = Profile.from_json(result.events["profile"]).predictor(space)
    assert predict is not None
    assert len(result.events["short"]["trained"]) == 3
    assert all(predict(space.parse(one["arch"]))["latency_high"] <= limit for one in result.events["short"]["trained"])


# --- train ---


def told(result: archscout.Result) -> str:
    return str(facts_of(result.folder)["summary"]["verdict"])


@pytest.mark.slow
def test_training_the_winner_again_keeps_the_limits_and_the_device(searched: archscout.Result, tmp_path: Path) -> None:
    """The phone is on no shelf any more; the report tells its prediction, and nothing of this machine's latency."""
    settings: dict[str, Any] = {"run": searched.folder, "space": tiny, "epochs": 0.1, "train_threads": 1}
    again = archscout.train(out=tmp_path / "again", **settings)
    assert again.events["profile"] == searched.events["profile"]
    assert {name: again.config[name] for name in ("limits", "device_profile")} == {
        "limits": searched.config["limits"], "device_profile": "phone",
    }  # fmt: skip
    assert again.best["costs"]["latency"] == pytest.approx(searched.best["costs"]["latency"])
    assert "On phone its latency is predicted to be" in told(again)
    assert "Measured" not in told(again)
    other = archscout.train(limits={"latency": "1us"}, out=tmp_path / "other", **settings)
    assert "the limit is 1 us" in told(other)
    with pytest.raises(UserError, match="unknown device 'tablet'"):
        archscout.train(device_profile="tablet", out=tmp_path / "none", **settings)


def test_limits_stop_no_training_of_a_given_network(
    npz: Path, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHSCOUT_CONFIG", str(shelf))
    words = ["--data", npz, "--space", "plain", "--arch", "resnet8-w8", "--epochs", "0.2", "--train-threads", "1"]
    limits = ["--limit", "latency=1us", "--limit", "params=1k", "--device-profile", "phone"]
    main(["train", *map(str, [*words, *limits, "--out", tmp_path / "run"])])
    result = archscout.Result(tmp_path / "run")
    assert result.finished
    assert result.config["limits"] == {"latency": 0.001, "params": 1000.0}
    costs = result.best["costs"]
    assert costs["violation"] == pytest.approx(
        Profile.from_json(result.events["profile"]).upper(costs)["latency"] / 0.001 - 1 + costs["params"] / 1000 - 1
    )
    assert "training" not in costs  # a phone trains nothing
    assert "On phone its latency is predicted to be" in told(result)
    assert "the limit is 1 us" in told(result)
    assert "Measured" not in told(result)
    with pytest.raises(UserError, match="a limit on energy needs to know it, and the profile of phone does not"):
        archscout.train(
            str(npz), space="plain", arch="resnet8-w8", limits={"energy": "1J"}, device_profile="phone", epochs=0.2,
            out=tmp_path / "none",
        )  # fmt: skip
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("limit", "verdict"), [("1us", "ABOVE the limit of 1 us"), ("50ms", "within the limit of 50 ms")]
)
def test_limits_on_this_machine_are_measured_when_a_given_network_is_trained(
    limit: str, verdict: str, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_by(monkeypatch, timed("latency", (40.0, 41.0)))
    result = archscout.train(
        str(npz), space="plain", arch="resnet8-w8", limits={"latency": limit}, epochs=0.2, train_threads=1,
        out=tmp_path / "run",
    )  # fmt: skip
    assert "profile" not in result.events
    assert f"its latency is 40 ms, {verdict}" in told(result)


# --- objectives ---


@pytest.mark.slow
def test_objectives_reach_the_strategy_behind_the_limits(lawful: None, npz: Path, tmp_path: Path) -> None:
    goals = []

    def noting(space: SearchSpace, *, seed: int, goal: Any) -> NSGA2:
        goals.append(goal)
        return NSGA2(space, seed=seed, goal=goal, population=6)

    result = archscout.search(
        str(npz), strategy=noting, limits={"params": "40k"}, objectives=("latency", "params", "energy"), candidates=16,
        finalists=1, epochs=0.3, out=tmp_path / "run", **FEW,
    )  # fmt: skip
    assert {goal.costs for goal in goals} == {("params", "latency", "energy")}  # it is made once before, as a trial
    assert result.events["goal"]["cost_axis"] == "params"
    front = sorted(result.front, key=lambda c: c["costs"]["params"])
    assert front
    assert [c["rank"] for c in front] == sorted((c["rank"] for c in front), reverse=True)


def test_objectives_that_are_no_limits(npz: Path, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without limits the first is the axis; one that the device is not known for is refused."""
    assert wanted_costs(Config(data="x", epochs=1.0)) == ("macs",)
    assert wanted_costs(Config(data="x", epochs=1.0, objectives=("energy", "latency"))) == ("energy", "latency")
    monkeypatch.setenv("ARCHSCOUT_CONFIG", str(shelf))
    monkeypatch.setattr(pipeline, "measure_profile", lambda space, **options: board(space))
    with pytest.raises(UserError, match="an objective on energy needs to know it, and the profile of phone does not"):
        archscout.search(
            str(npz), objectives=("energy",), device_profile="phone", candidates=8, finalists=1, epochs=0.3,
            out=tmp_path / "run", **FEW,
        )  # fmt: skip
