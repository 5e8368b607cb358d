"""The learned predictor against a slow solution, its rule for few evaluations, and published figures where they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau, norm

from archscout.aggregate import rank_pool
from archscout.errors import UserError
from archscout.predictor import ALIKE, LEAST, PRIOR, means_of, normal_scores, predict_pool, regress, slope_of

DIRECTIONS = {"params": "max", "naswot": "max"}


def pool(n: int, seed: int = 0) -> list[dict[str, float]]:
    rng = np.random.default_rng(seed)
    size = rng.normal(size=n)
    return [
        {"params": float(np.exp(s)), "naswot": float(s + rng.normal()), "macs": float(rng.normal()), "truth": float(s)}
        for s in size
    ]


def test_few_evaluations_leave_the_aggregate() -> None:
    members = pool(30)
    evaluated = {i: float(i) for i in range(LEAST - 1)}
    found = predict_pool(members, DIRECTIONS, evaluated)
    assert found.value is None
    assert found.evidence == LEAST - 1
    assert (found.ranks == rank_pool(members, DIRECTIONS)).all()
    assert predict_pool(members, DIRECTIONS, evaluated | {20: 3.0}).value is not None


def test_evaluations_overrule_an_aggregate_that_is_wrong() -> None:
    """What decides is a cost that the aggregate does not know, against what it believes."""
    members = pool(200, seed=1)
    truth = [m["macs"] - 0.2 * m["truth"] for m in members]
    believed = kendalltau(-rank_pool(members, DIRECTIONS), truth)[0]
    taus = []
    for count in (LEAST, 20, 60):
        evaluated = {i: truth[i] for i in range(count)}
        found = predict_pool(members, DIRECTIONS, evaluated, features=("params", "naswot", "macs"))
        taus.append(kendalltau(-found.ranks[60:], truth[60:])[0])
    assert believed < 0.05
    assert taus[0] < taus[2]
    assert taus[2] > 0.6


def test_an_aggregate_that_is_right_is_kept() -> None:
    members = pool(200, seed=2)
    truth = [m["truth"] for m in members]
    believed = kendalltau(-rank_pool(members, DIRECTIONS)[10:], truth[10:])[0]
    found = predict_pool(members, DIRECTIONS, {i: truth[i] for i in range(10)}, features=("params", "naswot", "macs"))
    assert kendalltau(-found.ranks[10:], truth[10:])[0] > believed - 0.05


def test_what_sets_kinds_apart_is_learned_from_evaluations() -> None:
    """The aggregate puts every network of kind 0 before all others, and is right within a kind; kind 1 is the best."""
    members = pool(300, seed=3)
    kinds = [i % 3 for i in range(300)]
    truth = np.array([0.05 * m["truth"] + 0.3 * (kind == 1) for m, kind in zip(members, kinds, strict=True)])
    for member, kind in zip(members, kinds, strict=True):
        if kind == 0:
            member["params"], member["naswot"] = 1000 * member["params"], member["naswot"] + 10
    before = predict_pool(members, DIRECTIONS, {}, kinds=kinds)
    order = np.argsort(before.ranks)
    assert [kinds[i] for i in order[:30]].count(0) == 10
    assert kinds[order[0]] == 0
    assert sorted(kinds[i] for i in order[:3]) == [0, 1, 2]
    assert kinds[np.argsort(rank_pool(members, DIRECTIONS))[99]] == 0

    evaluated = {int(i): float(truth[i]) for i in order[:9]}
    found = np.argsort(predict_pool(members, DIRECTIONS, evaluated, kinds=kinds).ranks)
    blind = np.argsort(predict_pool(members, DIRECTIONS, evaluated).ranks)
    assert [kinds[i] for i in found[:6]].count(1) >= 5
    assert {kinds[i] for i in blind[:20]} == {0}
    assert truth[found[:20]].mean() > truth[blind[:20]].mean() + 0.15


def test_the_mean_of_a_kind_is_drawn_to_that_of_all() -> None:
    at, z = np.array([0, 1, 2]), np.array([1.0, 2.0, -1.0])
    kinds = ["a", "a", "b", "c", "b"]
    assert means_of(kinds, at, z).tolist() == pytest.approx([3 / (2 + ALIKE)] * 2 + [-1 / (1 + ALIKE), 0.0, -0.5])
    assert means_of(["a"] * 5, at, z).tolist() == [0.0] * 5


def test_the_process_is_that_of_the_book() -> None:
    """Conditioning written out with a solve, at the kernel that was fitted; its likelihood has no better neighbour."""
    rng = np.random.default_rng(3)
    inputs, believed = rng.normal(size=(40, 3)), rng.normal(size=40)
    at, z = np.arange(12), normal_scores(rng.normal(size=12))
    x = (believed - believed[at].mean()) / believed[at].std()
    slope = slope_of(x[at], z)
    rest = z - slope * x[at]
    distance = np.linalg.norm(inputs[:, None] - inputs[None], axis=2)

    def solved(size: float, length: float, noise: float) -> tuple[np.ndarray, float]:
        r = np.sqrt(3) * distance / length
        kernel = size * (1 + r) * np.exp(-r)
        known = kernel[np.ix_(at, at)] + noise * np.eye(len(at))
        likelihood = -0.5 * rest @ np.linalg.solve(known, rest) - 0.5 * np.linalg.slogdet(known)[1]
        return slope * x + kernel[:, at] @ np.linalg.solve(known, rest), float(likelihood)

    found = regress(inputs, believed, [()] * len(inputs), at, z, seed=0)
    grid = [(s, ell, v) for s in np.geomspace(0.01, 10, 25) for ell in np.geomspace(1, 50, 25)
            for v in np.geomspace(0.05, 2, 25)]  # fmt: skip
    best = max(grid, key=lambda numbers: solved(*numbers)[1])
    assert np.abs(found - solved(*best)[0]).max() < 0.15
    assert np.abs(found - solved(0.5, 5.0, 0.5)[0]).max() > 1e-6  # so the kernel was fitted at all


def test_the_slope_begins_at_its_prior_and_is_never_negative() -> None:
    weight, correlation = PRIOR
    assert slope_of(np.zeros(0), np.zeros(0)) == pytest.approx(correlation)
    x = np.array([-1.0, 1.0])
    assert slope_of(x, x) == pytest.approx((weight * correlation + 2) / (weight + 2))
    many = np.tile(x, 500)
    assert slope_of(many, 0.9 * many) == pytest.approx(0.9, abs=0.01)
    assert slope_of(many, -many) == 0.0


def test_normal_scores() -> None:
    found = normal_scores(np.array([3.0, np.nan, 5.0, 3.0]))
    assert found == pytest.approx(norm.ppf([0.5, 0.125, 0.875, 0.5]))


@pytest.mark.parametrize("direction", ["max", "min"])
def test_what_lacks_a_score_counts_as_the_worst_by_it(direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The inputs of a pool whose first member lacks a score are those of a pool where it has the worst value of all."""
    import archscout.predictor

    seen: list[np.ndarray] = []

    def kept(inputs: np.ndarray, *args: Any) -> np.ndarray:
        seen.append(inputs)
        return regress(inputs, *args)

    monkeypatch.setattr(archscout.predictor, "regress", kept)
    members = pool(30, seed=6)
    worst = -99.0 if direction == "max" else 99.0
    directions = {"params": "max", "naswot": direction}
    lacking, bad = [dict(member) for member in members], [dict(member) for member in members]
    del lacking[0]["naswot"]
    bad[0]["naswot"] = worst
    for some in (lacking, bad):
        predict_pool(some, directions, {i: float(i % 7) for i in range(12)})
    assert seen[0][:, 1] == pytest.approx(seen[1][:, 1])
    assert seen[0][0, 1] == seen[0][:, 1].min()


def test_values_stay_within_what_was_seen() -> None:
    members = pool(50, seed=4)
    evaluated = {i: 80 + m["truth"] for i, m in enumerate(members[:20])}
    value = predict_pool(members, DIRECTIONS, evaluated).value
    assert value is not None
    assert min(evaluated.values()) <= value.min() <= value.max() <= max(evaluated.values())


@pytest.mark.parametrize(("evaluated", "words"), [({99: 1.0}, "from 0 to 29"), ({0: float("nan")}, "finite")])
def test_mistakes(evaluated: dict[int, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        predict_pool(pool(30), DIRECTIONS, evaluated)


def test_more_evaluations_than_the_kernel_is_fitted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import archscout.predictor

    monkeypatch.setattr(archscout.predictor, "FITTED", 20)
    members = pool(150, seed=5)
    truth = [m["truth"] + m["macs"] for m in members]
    found = predict_pool(members, DIRECTIONS, {i: truth[i] for i in range(100)}, features=("params", "naswot", "macs"))
    assert kendalltau(-found.ranks[100:], truth[100:])[0] > 0.6


def test_published_figures_are_reached() -> None:
    """Kendall's tau of a forest on 13 published scores of NAS-Bench-201 with 100 trained networks: .765."""
    pd = pytest.importorskip("pandas")
    folder = Path(os.environ.get("ARCHSCOUT_DATA", "absent")) / "nas"
    if not (folder / "nb201_reference_proxies.parquet").exists():
        pytest.skip("the tables of NAS-Bench-201 are absent; set ARCHSCOUT_DATA")
    scores = pd.read_parquet(folder / "nb201_reference_proxies.parquet")
    both = scores.merge(
        pd.read_parquet(folder / "nb201_accuracy.parquet")[["index", "unique_str", "cifar10_test_200ep"]]
    )
    both = both.sample(3000, random_state=0).reset_index(drop=True)
    names = [name for name in scores.columns if name.startswith("cifar10__") and name != "cifar10__val_accs"]
    truth, kind = both["cifar10_test_200ep"].to_numpy(), both["unique_str"].to_numpy()
    members = both[names].to_dict("records")
    taus = []
    for seed in range(3):
        trained = np.random.default_rng(seed).permutation(len(both))[:100]
        found = predict_pool(
            members, {"cifar10__params": "max", "cifar10__jacov": "max"}, {int(i): truth[i] for i in trained},
            features=names,
        )  # fmt: skip
        others = ~np.isin(kind, kind[trained])
        taus.append(kendalltau(-found.ranks[others], truth[others])[0])
    assert np.mean(taus) > 0.765
