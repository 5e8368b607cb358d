"""Predicting a device from few measurements: made-up devices whose costs are known, published ones, and bad input."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from archscout.devices import choose, few_shot
from archscout.devices.workload import workload
from archscout.errors import UserError
from archscout.spaces.nasbench201 import nasbench201

SPACE = nasbench201((3, 32, 32), 10)
TABLES = Path(os.environ.get("ARCHSCOUT_DATA", "absent")) / "nas"


def device(seed: int, noise: float = 0.0):
    """A device whose cost is a sum over quantities of work, with relative noise: architectures -> milliseconds."""
    draw = np.random.default_rng(seed)
    columns = workload(SPACE).rows([SPACE.sample(draw)]).work.shape[1]
    price = draw.gamma(0.7, size=columns)

    def cost(archs):
        exact = 3.0 + workload(SPACE).rows(archs).work @ price
        return dict(zip(archs, exact * (1 + noise * draw.normal(size=len(archs))), strict=True))

    return cost


def networks(seed: int, count: int):
    draw = np.random.default_rng(seed)
    return list(dict.fromkeys(SPACE.canonical(SPACE.sample(draw)) for _ in range(2 * count)))[:count]


def test_a_scaled_source_is_recovered() -> None:
    one, archs = device(0), networks(0, 300)
    sources = {"one": one(archs[:200])}
    samples = {arch: 7.0 * value for arch, value in one(archs[200:210]).items()}
    mean, half = few_shot(SPACE, sources, samples).predict(archs[210:])
    true = 7.0 * np.array(list(one(archs[210:]).values()))
    assert np.abs(mean / true - 1).max() < 0.01
    assert np.median(half / true) < 0.1


def test_an_additive_device_is_learned_from_enough_samples_without_sources() -> None:
    cost, archs = device(1), networks(1, 400)
    errors = []
    for count in (5, 60):
        mean, _ = few_shot(SPACE, None, cost(archs[:count])).predict(archs[200:])
        errors.append(np.abs(mean / np.array(list(cost(archs[200:]).values())) - 1).mean())
    assert errors[1] < 0.01 < errors[0]


def test_ten_samples_and_other_devices_order_networks_and_the_interval_covers() -> None:
    archs = networks(2, 900)
    sources = {str(i): device(10 + i, 0.03)(archs[:400]) for i in range(6)}
    held, inside, ranks = archs[450:], [], []
    for number in range(6):
        cost = device(30 + number, 0.03)
        chosen = choose(SPACE, sources, candidates=archs[400:450], seed=number)
        mean, half = few_shot(SPACE, sources, cost(chosen)).predict(held)
        true = np.array(list(cost(held).values()))
        inside.append((np.abs(mean - true) <= half).mean())
        ranks.append(spearmanr(mean, true).statistic)
    assert np.mean(ranks) > 0.95
    assert 0.82 < np.mean(inside) < 0.97


def test_sources_that_tell_nothing_are_not_believed() -> None:
    """Sources whose costs are drawn anew for each option, far from work: predictions are about as good as without."""
    archs = networks(6, 700)
    draw = np.random.default_rng(7)
    odd = {}
    for name in "abc":
        price = draw.gamma(0.3, size=(6, 5))
        odd[name] = {arch: 0.2 + sum(price[i, k] for i, k in enumerate(arch)) for arch in archs[:300]}
    ranks, believed = [], []
    for number in range(5):
        cost = device(60 + number, 0.02)
        samples = cost([archs[i] for i in draw.permutation(300)[:10]])
        true = list(cost(archs[300:]).values())
        found = [few_shot(SPACE, sources, samples) for sources in (odd, None)]
        ranks.append([spearmanr(each.predict(archs[300:])[0], true).statistic for each in found])
        believed.append(sum(p for p, believes, *_ in found[0].hypotheses if believes))
        assert sum(p for p, *_ in found[0].hypotheses) == pytest.approx(1)
    assert np.mean(believed) < 0.3
    with_odd, without = np.mean(ranks, axis=0)
    assert with_odd > without - 0.02
    good = few_shot(SPACE, {"one": device(60)(archs[:300])}, device(60, 0.02)(archs[300:310]))
    assert sum(p for p, believes, *_ in good.hypotheses if believes) > 0.7


def test_noise_widens_the_interval() -> None:
    archs = networks(3, 300)
    sources = {"one": device(5)(archs[:150])}
    widths = []
    for noise in (0.0, 0.2):
        _, half = few_shot(SPACE, sources, device(5, noise)(archs[150:170])).predict(archs[170:])
        widths.append(half.mean())
    assert widths[1] > 3 * widths[0]


def test_the_chosen_networks_leave_less_uncertain_than_random_ones() -> None:
    archs = networks(4, 600)
    cost, held = device(50, 0.02), archs[300:]
    gains = []
    for seed in range(8):
        widths = []
        random = [archs[i] for i in np.random.default_rng(seed).permutation(300)[:8]]
        for samples in (choose(SPACE, None, candidates=archs[:300], count=8, seed=seed), random):
            mean, half = few_shot(SPACE, None, cost(samples)).predict(held)
            widths.append(np.mean(half / mean))
        gains.append(np.log(widths[1] / widths[0]))
    assert np.mean(gains) > 0
    assert len(set(choose(SPACE, count=10, seed=1))) == 10
    assert choose(SPACE, count=3, seed=1) == choose(SPACE, count=3, seed=1)


def test_bad_input_is_refused_by_name() -> None:
    archs = networks(5, 12)
    good = device(0)(archs)
    for wrong, words in (
        ({archs[0]: 1.0}, "at least 2"),
        (good | {archs[3]: -1}, "missing value"),
        (good | {archs[3]: float("nan")}, "positive"),
        (good | {archs[3]: "fast"}, "positive"),
        (good | {(9, 9): 1.0}, "no architecture"),
    ):
        with pytest.raises(UserError, match=words):
            few_shot(SPACE, None, wrong)
    with pytest.raises(UserError, match="no measurements"):
        few_shot(SPACE, {"empty": {}}, good)
    with pytest.raises(UserError, match="no architecture"):
        few_shot(SPACE, None, good).predict([(0,)])
    with pytest.raises(UserError, match="count"):
        choose(SPACE, candidates=archs, count=13)
    assert few_shot(SPACE, None, good).predict([])[0].shape == (0,)


@pytest.mark.skipif(not (TABLES / "nb201_help_latency.parquet").exists(), reason="the published latencies are absent")
@pytest.mark.parametrize(
    ("out", "group"), [("help_1080ti_1", ("1080", "2080", "titan")), ("help_gold_6240", ("gold", "silver"))]
)
def test_published_devices_are_ordered(out: str, group: tuple[str, ...]) -> None:
    """A device from those of other kinds and ten measurements; the networks asked about are in neither."""
    import pyarrow.parquet as parquet

    texts = parquet.read_table(TABLES / "nb201_accuracy.parquet", columns=["index", "arch_str"]).to_pydict()
    table = parquet.read_table(TABLES / "nb201_help_latency.parquet").to_pydict()
    names = dict(zip(texts["index"], texts["arch_str"], strict=True))
    archs = [SPACE.parse(names[index]) for index in table.pop("index")]
    draw = np.random.default_rng(0).permutation(len(archs))
    sources = {
        column: {archs[i]: values[i] for i in draw[:900]}
        for column, values in table.items()
        if not column.removeprefix("help_").startswith(group)
    }
    known = dict(zip(archs, table[out], strict=True))
    canonical = {SPACE.canonical(archs[i]) for i in draw[:900]}
    rest = [archs[i] for i in draw[900:4000] if SPACE.canonical(archs[i]) not in canonical]
    chosen = choose(SPACE, sources, candidates=rest)
    same = {SPACE.canonical(arch) for arch in chosen}
    held = [arch for arch in rest if SPACE.canonical(arch) not in same]
    mean, _ = few_shot(SPACE, sources, {arch: known[arch] for arch in chosen}).predict(held)
    assert len(sources) >= 7
    assert spearmanr(mean, [known[arch] for arch in held]).statistic > 0.9
