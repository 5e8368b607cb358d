"""What the savings on a pool of trained cells rest on: a fair pool, searches, curves, levels, ratios, halves, files."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import cells
import selected_pool
from cells import Images


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return selected_pool.pool_of(60)


@pytest.fixture(scope="module")
def pool() -> list[str]:
    return selected_pool.pool_of(200)


def worth(text: str) -> float:
    """More for convolutions; each cell its own, so that there is one best."""
    return 10.0 * text.count("nor_conv") + sum(text.encode()) % 97 / 97


# --- the pool as a space ---


def test_the_moves_of_a_pool_do_not_depend_on_the_order_of_drawing(pool: list[str]) -> None:
    for some in (pool, pool[::-1]):
        space = selected_pool.pool_space(some)
        archs = [space.parse(text) for text in some]
        place = {arch: number for number, arch in enumerate(archs)}
        degrees = [len(space.near[arch]) for arch in archs]
        assert min(degrees) >= selected_pool.NEAR
        for arch in archs:
            assert arch not in space.near[arch]
            assert all(arch in space.near[other] for other in space.near[arch])  # who can go can be reached
        downward = sum(place[other] < place[arch] for arch in archs for other in space.near[arch])
        assert downward == sum(degrees) / 2
        stands = np.bincount([place[space.canonical(arch)] for arch in space], minlength=len(some))
        assert stands.min() >= 1  # a policy can reach each
        for counts in (degrees, stands):
            assert abs(spearmanr(counts, range(len(some))).statistic) < 0.2


def test_every_cell_of_the_pool_leads_to_every_other(pool: list[str]) -> None:
    space = selected_pool.pool_space(pool)
    reached, ahead = {space.parse(pool[0])}, [space.parse(pool[0])]
    while ahead:
        for other in space.near[ahead.pop()]:
            if other not in reached:
                reached.add(other)
                ahead.append(other)
    assert len(reached) == len(pool)


def test_a_mutation_is_a_step_to_a_near_cell_of_the_pool(pool: list[str]) -> None:
    space, rng = selected_pool.pool_space(pool), np.random.default_rng(0)
    archs = {space.parse(text) for text in pool}
    for arch in archs:
        child = space.mutate(arch, rng)
        assert child in archs - {arch}
        assert space.canonical(arch) == arch
        assert space.sample(rng) in archs
    apart = [sum(a != b for a, b in zip(arch, space.mutate(arch, rng), strict=True)) for arch in archs]
    assert np.mean(apart) < 3.2  # of two random cells 4.4 edges of six differ


def test_an_architecture_stands_for_one_of_the_nearest_cells(texts: list[str]) -> None:
    space = selected_pool.pool_space(texts)
    cells = np.array([space.parse(text) for text in texts])
    stood: dict[int, int] = {}
    for arch in space:
        apart = (cells != np.array(arch)).sum(1)
        least = np.flatnonzero(apart == apart.min())
        chosen = int(np.flatnonzero((cells == np.array(space.canonical(arch))).all(1))[0])
        assert chosen in least
        if len(least) == 2:
            rank = int(np.searchsorted(least, chosen))
            stood[rank] = stood.get(rank, 0) + 1
    assert 0.45 < stood[0] / (stood[0] + stood[1]) < 0.55  # chance decides, not the place


# --- searches ---


@pytest.mark.parametrize("name", selected_pool.SEARCHES)
def test_a_search_trains_no_cell_twice_and_most_of_them(name: str, texts: list[str]) -> None:
    space = selected_pool.pool_space(texts)
    rewards = {space.parse(text): worth(text) for text in texts}
    order = selected_pool.searched(space, name, 0, rewards)
    assert len(order) == len(set(order))
    assert set(order) <= set(rewards)
    assert len(order) >= 0.6 * len(texts)  # copies in the population ended evolution after a sixth
    assert order == selected_pool.searched(space, name, 0, rewards)
    assert order != selected_pool.searched(space, name, 1, rewards)


def test_random_order_knows_no_reward(texts: list[str]) -> None:
    space = selected_pool.pool_space(texts)
    rewards = {space.parse(text): worth(text) for text in texts}
    order = selected_pool.searched(space, "random", 3, rewards)
    assert order == selected_pool.searched(space, "random", 3, {arch: -value for arch, value in rewards.items()})
    assert set(order) == set(rewards)


@pytest.mark.parametrize("name", ["evolution", "reinforce"])
def test_a_search_finds_more_than_random_order(name: str, pool: list[str]) -> None:
    space = selected_pool.pool_space(pool)
    rewards = {space.parse(text): worth(text) for text in pool}
    found = {
        each: [np.mean([rewards[arch] for arch in selected_pool.searched(space, each, seed, rewards)[20:60]])
               for seed in range(4)]
        for each in (name, "random")
    }  # fmt: skip
    assert np.mean(found[name]) > np.mean(found["random"]) + 2


def test_repeats_are_told_as_skipped(monkeypatch: pytest.MonkeyPatch, texts: list[str]) -> None:
    space = selected_pool.pool_space(texts)
    first, second = (space.parse(text) for text in texts[:2])
    told = []

    class Stubborn:
        def __init__(self, space: object, **more: object) -> None:
            self.asked = iter([first, first, second, *[first] * selected_pool.IDLE])

        def ask(self, n: int) -> list:
            return [next(self.asked)]

        def tell(self, archs: list, values: list) -> None:
            told.extend(values)

    monkeypatch.setitem(selected_pool.STRATEGIES, "evolution", Stubborn)
    rewards = {space.parse(text): worth(text) for text in texts}
    assert selected_pool.searched(space, "evolution", 0, rewards) == [first, second]
    skipped = {"violation": 0.0, "skipped": 1.0}
    assert told[:3] == [
        {"violation": 0.0, "accuracy": rewards[first]},
        skipped,
        {**told[0], "accuracy": told[2]["accuracy"]},
    ]
    assert told[3:] == [skipped] * selected_pool.IDLE  # and then it ends


# --- curves and ratios ---


def test_a_curve_has_the_mean_truth_of_the_best_by_reward() -> None:
    order = [(0,), (1,), (2,)]
    rewards, prices = {(0,): 1.0, (1,): 3.0, (2,): 2.0}, {(0,): 10.0, (1,): 1.0, (2,): 5.0}
    truth = {(0,): 90.0, (1,): 80.0, (2,): 99.0}
    seconds, accuracy = selected_pool.curve(order, rewards, prices, truth, 1)
    assert seconds.tolist() == [10, 11, 16]
    assert accuracy.tolist() == [90, 80, 80]  # it was misled, and never has the third
    assert selected_pool.curve(order, rewards, prices, truth, 2)[1].tolist() == [90, 85, 89.5]


def test_a_mean_curve_has_a_step_wherever_one_has() -> None:
    one, other = (np.array([1.0, 3.0]), np.array([10.0, 20.0])), (np.array([2.0, 3.0]), np.array([30.0, 10.0]))
    seconds, has = selected_pool.mean_curve([one, other])
    assert seconds.tolist() == [2, 3]  # from where each has something; equal seconds are one step
    assert has.tolist() == [20, 15]
    assert [selected_pool.at((seconds, has), when) for when in (2.0, 2.9, 3.0, 99.0)] == [20, 20, 15, 15]
    assert math.isnan(selected_pool.at((seconds, has), 1.9))


def test_a_level_is_reached_first_and_to_stay() -> None:
    mean = np.arange(5.0), np.array([0.0, 4, 2, 4, 5])
    assert selected_pool.first(mean, 3.0) == 1
    assert selected_pool.to_stay(mean, 3.0) == 3  # not at 1, from where it falls again
    assert selected_pool.first(mean, 5.0) == selected_pool.to_stay(mean, 5.0) == 4
    assert selected_pool.first(mean, 5.1) == selected_pool.to_stay(mean, 5.1) == math.inf
    assert selected_pool.to_stay(mean, 0.0) == 0


def test_who_never_arrives_counts_as_infinite_and_below_it_as_nothing() -> None:
    inf, nan = math.inf, math.nan
    assert selected_pool.ratio(3.0, 6.0) == 0.5
    assert selected_pool.ratio(3.0, inf) == 0
    assert selected_pool.ratio(inf, 3.0) == inf
    assert math.isnan(selected_pool.ratio(inf, inf))
    assert selected_pool.middle([1.0, inf, 0.5]) == 1
    assert selected_pool.middle([nan, 2.0, 2.0, 2.0, 5.0]) == 2  # wherever the first would stand
    assert math.isnan(selected_pool.middle([nan, 1.0, 2.0]))
    assert selected_pool.middle([inf, 1.0, inf]) == inf


def test_the_ends_of_an_interval_treat_what_is_infinite_or_undefined() -> None:
    samples = [float(number) for number in range(1, 101)]
    found = selected_pool.ends(101.0, samples, is_ratio=True)  # the median is 50.5: all is doubled
    assert found == {"value": 101, "low": pytest.approx(6), "high": pytest.approx(196)}
    found = selected_pool.ends(60.5, samples, is_ratio=False)
    assert found == {"value": 60.5, "low": pytest.approx(13), "high": pytest.approx(108)}
    infinite = [0.1] * 40 + [math.inf] * 60
    assert selected_pool.ends(math.inf, infinite, is_ratio=True) == {
        "value": None, "low": 0.1, "high": None, "not_reached": True,
    }  # fmt: skip
    assert selected_pool.ends(0.05, infinite, is_ratio=True) == {"value": 0.05, "low": 0.05, "high": None}
    rival = [0.0] * 10 + [0.5] * 90  # the rival never came in ten: that is at the low end
    assert selected_pool.ends(0.5, rival, is_ratio=True) == {"value": 0.5, "low": 0, "high": 0.5}
    neither = [math.nan] * 10 + [0.5] * 90
    assert selected_pool.ends(0.5, neither, is_ratio=True) == {"value": 0.5, "low": 0, "high": None}
    found = selected_pool.ends(math.nan, neither, is_ratio=True)
    assert (found["value"], found["undefined"]) == (None, True)
    json.dumps(found, allow_nan=False)


# --- figures ---


def made(texts: list[str], **rewards: object) -> dict[str, dict[str, dict[str, float]]]:
    """Cells that take 20 seconds on full data and 2 on a tenth; rewards: arm -> function of (place, text)."""
    return {
        text: {
            arm: {
                "accuracy": rewards[arm](place, text),  # type: ignore[operator]
                "seconds": (20.0 + place % 3) * (1 if arm == "full" else 0.1),
                "judge_seconds": 1.0,
            }
            for arm in selected_pool.ARMS
        }
        for place, text in enumerate(texts)
    }


def exact(place: int, text: str) -> float:
    return worth(text)


def test_equal_accuracies_at_a_tenth_of_the_price_save_nine_tenths(texts: list[str]) -> None:
    chance = np.random.default_rng(0).permutation(len(texts))
    trained = made(texts, full=exact, dds=exact, redrawn=lambda place, text: float(chance[place]))
    truth = {text: worth(text) for text in texts}
    rows, more = selected_pool.figures(trained, truth, 10, 5, 1)
    by_name = {row["name"]: row for row in rows}
    assert list(by_name) == [
        *(f"saving_{name}" for name in selected_pool.SEARCHES), *(f"gain_{name}" for name in selected_pool.SEARCHES),
        "rank_corr_dds",
    ]  # fmt: skip
    for name in selected_pool.SEARCHES:
        row, gain = by_name[f"saving_{name}"], by_name[f"gain_{name}"]
        assert row["price"]["value"] == pytest.approx(0.1)
        assert row["price_judged"]["value"] == pytest.approx(3.1 / 22, rel=0.01)
        assert row["zero_point"]["value"] == pytest.approx(1.0, rel=0.1)
        assert row["value"] == pytest.approx(0.1 * row["zero_point"]["value"], rel=0.01)
        assert row["low"] <= row["value"] <= row["high"]
        assert row["redrawn"] == {**row["redrawn"], "value": None, "not_reached": True}  # it ranks by chance
        assert row["dds_over_redrawn"]["value"] == 0
        assert gain["value"] > 0 > gain["redrawn"]["value"]
        assert gain["dds_over_redrawn"]["value"] == pytest.approx(gain["value"] - gain["redrawn"]["value"])
    assert by_name["rank_corr_dds"]["value"] == pytest.approx(1.0)
    assert more["standings"]["random/over_random/full"]["value"] == 0
    json.dumps([rows, more], allow_nan=False)


def test_the_counts_shrink_with_the_pool(monkeypatch: pytest.MonkeyPatch, texts: list[str]) -> None:
    trained = made(texts, full=exact, dds=exact, redrawn=exact)
    seen = []

    def noting(space: object, name: str, seed: int, rewards: dict, population: int) -> list:
        seen.append(population)
        return list(rewards)

    monkeypatch.setattr(selected_pool, "searched", noting)
    found = selected_pool.standing(trained, {text: worth(text) for text in texts}, range(1))
    assert set(seen) == {3}  # 10 of 200, so of 60
    best = sorted((worth(text) for text in texts[:15]), reverse=True)[:3]  # 15 of 60 are 50 of 200
    assert found["random/level/50"] == pytest.approx(np.mean(best))


def test_halves_vary_as_much_as_the_whole(monkeypatch: pytest.MonkeyPatch, texts: list[str]) -> None:
    def mean_of(trained: dict, truth: dict, seeds: range) -> dict[str, float]:
        assert len(trained) == len(set(trained)) == len(texts) // 2
        assert len(seeds) == 3
        used.extend(seeds)
        return {"mean": float(np.mean([truth[text] for text in trained]))}

    used: list[int] = []
    monkeypatch.setattr(selected_pool, "standing", mean_of)
    trained = made(texts, full=exact, dds=exact, redrawn=exact)
    truth = {text: worth(text) for text in texts}
    found = [sample["mean"] for sample in selected_pool.spread(trained, truth, 400, 3)]
    wanted = np.std(list(truth.values()), ddof=1) / math.sqrt(len(texts))
    assert np.std(found, ddof=1) == pytest.approx(wanted, rel=0.15)
    assert len(set(used)) == 1200  # each half is searched with seeds of its own
    assert min(used) >= selected_pool.SEEDS


# --- trainings and files ---


def test_moments_are_those_of_all_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (7, 5, 4, 3), dtype=np.uint8)
    mean, std = selected_pool.moments(Images(pixels, np.zeros(7, dtype=np.int64)))
    assert mean == pytest.approx(pixels.mean((0, 1, 2)))
    assert std == pytest.approx(pixels.std((0, 1, 2)))


def test_a_file_of_cells_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, settings = tmp_path / "cells.json", {"epochs": 2.0, "batch": {"full": 64}, "levels": (1, 2)}
    assert cells.stored(path, settings) == {}
    cells.keep(path, {"full/a": {"accuracy": 1.0}}, settings)
    assert cells.stored(path, settings) == {"full/a": {"accuracy": 1.0}}

    def killed(self: Path, text: str, **more: object) -> None:
        with self.open("w") as file:
            file.write(text[: len(text) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            cells.keep(path, {"full/a": {}, "full/b": {}}, settings)
    assert cells.stored(path, settings) == {"full/a": {"accuracy": 1.0}}
    path.write_text('{"settings": {"ep')
    with pytest.raises(SystemExit, match="no file of cells"):
        cells.stored(path, settings)


@pytest.mark.parametrize("held", [{"epochs": 1.0, "batch": {"full": 64}}, {"epochs": 2.0}, {}, None])
def test_cells_of_other_settings_do_not_mix(tmp_path: Path, held: dict | None) -> None:
    path = tmp_path / "cells.json"
    path.write_text(json.dumps({"settings": held, "cells": {"full/a": {}}}))
    with pytest.raises(SystemExit, match="other settings"):
        cells.stored(path, {"epochs": 2.0, "batch": {"full": 64}})
    wider = {"epochs": 2.0, "batch": {"full": 64}, "levels": [1]}  # what the cells do not depend on may differ
    path.write_text(json.dumps({"settings": wider, "cells": {"full/a": {}}}))
    assert cells.stored(path, {"epochs": 2.0, "batch": {"full": 64}}) == {"full/a": {}}


def test_pieces_go_on_where_they_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []

    def quickly(text: str, arm: str, *more: object) -> dict[str, float]:
        if len(trained) == 10:
            raise KeyboardInterrupt
        trained.append(f"{arm}/{text}")
        return {"accuracy": worth(text), "seconds": 1.0, "judge_seconds": 1.0}

    images = Images(np.zeros((2, 2, 2, 3), dtype=np.uint8), np.arange(2))
    for name, value in (
        ("train", quickly), ("POOL", 12), ("HALVES", 8), ("SEARCHES", ("random",)),
        ("halves", lambda *paths: (images, images)),
        ("truth_of", lambda path: worth), ("cifar10", lambda work, data: (work / "cifar10.npz").touch()),
    ):  # fmt: skip
        monkeypatch.setattr(selected_pool, name, value)
    monkeypatch.setattr(selected_pool.results_file, "code_of_program", lambda: "code")
    (tmp_path / "images").mkdir()
    out = tmp_path / "results.json"
    line = ["selected_pool.py", "--data", str(tmp_path), "--work", str(tmp_path / "work"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*line, "--seeds", "2"])
    with pytest.raises(KeyboardInterrupt):
        selected_pool.main()
    assert not out.exists()
    trained.append("")
    selected_pool.main()
    assert len(trained) == 37  # 12 cells in three arms, none twice, and the mark
    found = json.loads(out.read_text())
    assert found["finished"]
    assert len(found["cells"]) == 36
    assert {cell["code"] for cell in found["cells"].values()} == {"code"}
    selected_pool.main()
    assert len(trained) == 37
    monkeypatch.setitem(selected_pool.TRAINING, "epochs", 3.0)
    with pytest.raises(SystemExit, match="epochs"):
        selected_pool.main()
