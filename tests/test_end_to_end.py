"""What the end-to-end benchmark rests on: the known networks, the paired bootstrap, the choice of the rival."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from archscout.errors import UserError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import end_to_end
import known


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 64, 64)], ids=str)
@pytest.mark.parametrize("name", known.NAMES)
def test_known_networks_keep_a_map_of_four_pixels(name: str, shape: tuple[int, int, int]) -> None:
    space = known.known(shape, 7)
    model = space.build(space.parse(name)).eval()
    sizes: list[int] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, i, out: sizes.append(out.shape[-1]))
    with torch.no_grad():
        assert model(torch.randn(1, *shape)).shape == (1, 7)
    last = [size for size in sizes if size > 1][-1]  # behind it only squeeze-and-excitation
    assert last == (shape[1] // 4 if name.startswith("resnet") else 4)


def test_known_networks_are_the_published_ones() -> None:
    models = torchvision.models
    for name, theirs in (
        ("mobilenetv2-1.0", models.mobilenet_v2()),
        ("mobilenetv3small-1.0", models.mobilenet_v3_small()),
        ("shufflenetv2-0.5", models.shufflenet_v2_x0_5()),
    ):
        ours = known.network_of(name, (3, 224, 224), 1000)
        assert count(ours) == count(theirs)
        assert [m.stride for m in ours.modules() if isinstance(m, nn.Conv2d)] == [
            m.stride for m in theirs.modules() if isinstance(m, nn.Conv2d)
        ]
    assert count(known.network_of("efficientnetlite-1.0", (3, 224, 224), 1000)) == pytest.approx(4.65e6, rel=0.01)
    assert count(known.network_of("resnet20", (3, 32, 32), 10)) == 272_474


def test_metric_by_hand() -> None:
    right, labels = np.array([1, 1, 0, 1], bool), np.array([0, 0, 0, 2])
    assert end_to_end.metric_value(right, labels, "accuracy") == pytest.approx(75)
    assert end_to_end.metric_value(right, labels, "balanced_accuracy") == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert end_to_end.unpacked(end_to_end.packed(labels)).tolist() == labels.tolist()
    many = np.array([0, 255, 256, 999])
    assert end_to_end.unpacked(end_to_end.packed(many)).tolist() == many.tolist()


def test_the_bootstrap_is_paired_and_as_wide_as_it_should_be() -> None:
    rng = np.random.default_rng(0)
    labels = [np.zeros(400, int)] * 3
    ours = [rng.random(400) < 0.8 for _ in range(3)]
    shared, apart = ["one"] * 3, ["one", "two", "three"]
    mean, low, high, _ = end_to_end.bootstrap(ours, ours, labels, "accuracy", shared, "x", 200)
    assert mean == low == high == 0
    ours = [ours[0]] * 3
    theirs = [o & (np.arange(400) % 10 > 0) for o in ours]  # a tenth of the images answered wrong instead, by all seeds
    gap = 100 * (ours[0].astype(int) - theirs[0])
    mean, low, high, drawn = end_to_end.bootstrap(ours, theirs, labels, "accuracy", shared, "x")
    assert mean == pytest.approx(gap.mean())
    assert low < mean < high
    error = gap.std() / np.sqrt(400)
    assert drawn.std() == pytest.approx(error, rel=0.07)  # three seeds that err on the same images say no more than one
    drawn = end_to_end.bootstrap(ours, theirs, labels, "accuracy", apart, "x")[3]
    assert drawn.std() == pytest.approx(error / np.sqrt(3), rel=0.07)  # as if they were other images, they would
    again = end_to_end.bootstrap(ours, theirs, labels, "accuracy", shared, "y")[3]
    assert abs(np.corrcoef(again, drawn)[0, 1]) < 0.1  # data sets are drawn independently


def test_the_interval_holds_the_true_difference_as_often_as_it_says() -> None:
    """Each network finds other images hard, in all seeds the same ones; and there is chance in each training."""
    rng, size, trials, held = np.random.default_rng(0), 150, 250, {"shared": 0, "apart": 0}
    for _ in range(trials):
        hard = rng.normal(0, 1, (2, size))  # for either arm
        right = rng.normal(0, 0.4, (3, 2, size)) + hard + 0.5 > 0  # seed, arm
        for how, parts in (("shared", ["one"] * 3), ("apart", ["one", "two", "three"])):
            labels = [np.arange(size) % 3] * 3
            one, other = list(right[:, 0]), list(right[:, 1])
            _, low, high, _ = end_to_end.bootstrap(one, other, labels, "accuracy", parts, "x", 120)
            held[how] += low <= 0 <= high
    assert 0.92 * trials <= held["shared"]
    assert held["apart"] < 0.9 * trials  # what it was when seeds of one test part drew their images apart


def run_of(share: float, **more: float) -> dict:
    """A cell: the first images of a hundred were answered right."""
    right = np.arange(100) < round(100 * share)
    return {
        "right": end_to_end.packed(np.packbits(right)), "n": 100, "value": 100 * share, "metric": "accuracy",
        "tested": "one", "minutes": 19.9, "latency_ms": 2.0, "epochs": 12.0, **more,
    }  # fmt: skip


def test_archscout_stands_against_the_better_known_network() -> None:
    labels = np.zeros(100, int)
    cells, rates = {}, {"archscout": (0.9, 0.92), "resnet8": (0.95, 0.80), "resnet20": (0.88, 0.89)}
    for arm, shares in rates.items():
        for seed, share in enumerate(shares):
            cells[f"x/20/{arm}/{seed}"] = run_of(share)
    cells["x/20/pilot/resnet8"] = {"value": 50.0, "latency_ms": 1.0}
    kept = {f"{name}/{seed}": end_to_end.packed(labels) for name in "xy" for seed in range(2)}
    found = {f["name"]: f for f in end_to_end.figures(cells, kept, [20.0], {"x": 3.0})}
    assert found["gain_x_20"]["known_network"] == "resnet20"  # the higher mean
    assert found["gain_x_20"]["value"] == pytest.approx(2.5)
    assert found["gain_x_20"]["took"]["resnet20"]["minutes"] == {"mean": 19.9, "most": 19.9}
    assert found["gain_x_20"]["flags"] == {}
    assert found["ahead_count"]["value"] == 1
    assert found["worst_gain_20"]["value"] == pytest.approx(2.5)
    assert found["worst_gain_20"]["over_a_point_behind"] == []
    cells |= {f"y/20/archscout/{seed}": run_of(0.5) for seed in range(2)}
    cells |= {f"y/20/resnet8/{seed}": run_of(0.52) for seed in range(2)}
    found = {f["name"]: f for f in end_to_end.figures(cells, kept, [20.0], {"x": 3.0, "y": 3.0})}
    assert found["ahead_count"]["value"] == 1
    assert found["worst_gain_20"]["value"] == pytest.approx(-2.0)
    assert found["worst_gain_20"]["data"] == "y"
    assert found["worst_gain_20"]["over_a_point_behind"] == ["y"]
    del cells["x/20/resnet20/1"]  # a rival that has not all seeds yet does not count before one that has
    assert end_to_end.compare(cells, kept, "x", 20.0, 3.0)["known_network"] == "resnet8"


def test_who_takes_more_than_its_time_or_its_limit_is_flagged_and_not_ahead() -> None:
    kept = {"x/0": end_to_end.packed(np.zeros(100, int))}
    cells = {"x/20/archscout/0": run_of(0.9), "x/20/resnet8/0": run_of(0.8, minutes=20.1)}
    one, *rest = end_to_end.figures(cells, kept, [20.0], {"x": 3.0})
    assert (one["name"], one["value"], rest[-1]["flags"]) == ("ahead_count", 1, {})
    cells["x/20/resnet8/0"] = run_of(0.8, minutes=20.3)
    one, *rest = end_to_end.figures(cells, kept, [20.0], {"x": 3.0})
    assert (one["value"], rest[-1]["flags"]) == (1, {"resnet8": ["took 20.30 of 20 minutes"]})
    cells["x/20/archscout/0"] = run_of(0.9, latency_ms=3.1)
    one, *rest = end_to_end.figures(cells, kept, [20.0], {"x": 3.0})
    assert (one["value"], one["high"], one["flagged"]) == (0, 0, ["x"])
    assert rest[-1]["flags"]["archscout"] == ["a network takes 3.10 of 3 ms"]


def test_the_pilot_halves_and_a_failed_cell_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Small networks are ahead in a short training; the larger ones of the first four catch up in a longer one."""
    names = list(known.NAMES)
    short, long = end_to_end.PILOT
    values = {short: {name: float(100 - place) for place, name in enumerate(names)}}
    values[short][names[1]] = None  # over the limit on latency
    values[long] = {name: float(place) for place, name in enumerate(names)}
    asked = []

    def pilot(task: object, data: object, arch: str, minutes: float, share: float) -> dict:
        asked.append((share, arch))
        return {"latency_ms": 1.0, "value": values[share][arch]}

    def run_arm(task: object, arm: str, minutes: float, seed: int, folder: Path) -> tuple[dict, np.ndarray]:
        if (arm, seed) == ("archscout", 0):
            raise UserError("no network within the limits")
        return run_of(0.5, program=arm[:2]), np.zeros(100, int)

    monkeypatch.setattr(end_to_end, "pilot", pilot)
    monkeypatch.setattr(end_to_end, "run_arm", run_arm)
    monkeypatch.setattr(end_to_end, "load", lambda source, seed: None)
    cells, labels = {}, {}

    def go(ends: float) -> None:
        task = end_to_end.Task("x", "x", 3.0)
        end_to_end.run_task(task, [20.0], 2, ends, tmp_path, None, cells, labels, cells.__setitem__)

    go(0.0)
    assert cells == {}
    go(np.inf)
    assert [share for share, _ in asked] == [short] * len(names) + [long] * end_to_end.FEW
    first = [names[place] for place in (0, 2, 3, 4)]
    assert [arch for share, arch in asked if share == long] == first
    assert {key for key in cells if "pilot" not in key} == {
        "x/20/archscout/1", *(f"x/20/{arch}/{seed}" for arch in first[2:] for seed in (0, 1))
    }  # fmt: skip
    assert "x/20/archscout/0 failed: no network within the limits" in capsys.readouterr().err
    assert end_to_end.compare(cells, labels, "x", 20.0, 3.0)["programs"] == 2
    for key, cell in cells.items():
        cell["machine"] = "new" if "archscout" in key else "old"
    found = end_to_end.compare(cells, labels, "x", 20.0, 3.0)
    assert found["machines"] == ["new", "old"]
    assert found["unlike"] == [1]
    before = len(asked)
    go(np.inf)
    assert len(asked) == before  # nothing is measured twice


def test_where_no_known_network_keeps_the_limit_nothing_is_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(end_to_end, "pilot", lambda *_: {"latency_ms": 12.34, "value": None})
    monkeypatch.setattr(end_to_end, "load", lambda source, seed: None)
    cells: dict = {}
    task = end_to_end.Task("x", "x", 3.0)
    end_to_end.run_task(task, [20.0], 2, np.inf, tmp_path, None, cells, {}, cells.__setitem__)
    assert all("pilot-0.075" in key for key in cells)
    told = "x: skipped, no known network keeps 3 ms here and learns; the fastest takes 12.3 ms"
    assert told in capsys.readouterr().err
    assert end_to_end.default_latency((3, 32, 32)) == end_to_end.default_latency((1, 8, 8)) == 10
    assert end_to_end.default_latency((3, 64, 64)) == end_to_end.LATENCY["tiles"]


def test_the_long_tail(real_data: Path, tmp_path: Path) -> None:
    with np.load(end_to_end.longtail(tmp_path, real_data), allow_pickle=False) as found:
        counts = np.bincount(found["y"])
        assert len(found["y_test"]) == 10_000
    assert counts[0] == 5000
    assert counts[-1] == 50
    assert np.log(counts[:-1] / counts[1:]) == pytest.approx(np.log(100) / 9, abs=0.02)
