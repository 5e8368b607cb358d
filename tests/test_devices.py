"""Measured latency, training time and memory, and the profile that predicts them."""

from __future__ import annotations

import gc
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from archscout.costs.trace import Op, Trace, trace
from archscout.devices import latency as latency_module
from archscout.devices import profile as profile_module
from archscout.devices import speed as speed_module
from archscout.devices.latency import (
    Latency,
    interval,
    limited_threads,
    measure_latency,
    measure_memory,
    measure_training,
    median_interval,
    timed,
)
from archscout.devices.profile import Profile, _step_sizes, features, fit_profile, measure_profile, spread
from archscout.errors import UserError
from archscout.space import SearchSpace


def net(width: int, depth: int, dropout: float = 0.0) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


def small_space() -> SearchSpace:
    return SearchSpace(
        name="mine",
        input_shape=(3, 8, 8),
        classes=5,
        choices={"width": (2, 4, 8, 16), "depth": (0, 1, 2, 3)},
        build_from=lambda picks: net(picks["width"], picks["depth"]),
    )


# --- timing ---


@pytest.mark.alone
def test_a_twenty_times_larger_network_is_slower() -> None:
    small = measure_latency(net(8, 2), (3, 16, 16), seconds=0.1)
    large = measure_latency(net(64, 4), (3, 16, 16), seconds=0.1)
    assert trace(net(64, 4), (3, 16, 16)).macs > 20 * trace(net(8, 2), (3, 16, 16)).macs
    assert large.low > small.high
    assert large.median > 2 * small.median


def test_latency_states_what_it_is() -> None:
    found = measure_latency(net(4, 0), (3, 8, 8), seconds=0.1, threads=2)
    assert 0 < found.low <= found.median <= found.high <= found.p95
    assert found.repeats >= 5  # 20, unless the machine is so busy that they would take 5 x seconds
    assert found.noise >= 0
    assert (found.device, found.runtime, found.threads) == ("cpu", "torch", 2)
    assert Latency(**json.loads(json.dumps(found.to_json()))) == found


def test_a_known_duration_is_found() -> None:
    """Sleeping is not being interrupted: the wall clock counts."""
    found = timed(lambda: time.sleep(0.005), seconds=0.2, min_repeats=5, device="cpu", runtime="torch", threads=1)
    assert 5.0 <= found.median < 12.0


@pytest.mark.alone
def test_repeats_end_when_a_run_is_slow() -> None:
    start = time.perf_counter()
    found = timed(lambda: time.sleep(0.02), seconds=0.02, min_repeats=1000, device="x", runtime="x", threads=2)
    assert 5 <= found.repeats < 50
    assert time.perf_counter() - start < 2


@pytest.mark.skipif(latency_module._THREAD is None, reason="preemptions are counted on Linux only")
def test_time_given_to_other_processes_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that waits 10 ms while the system reports a preemption counts with its time on the core, almost none."""
    switches = iter(range(100_000))
    monkeypatch.setattr(latency_module, "_switches", lambda: next(switches))
    found = timed(lambda: time.sleep(0.01), seconds=0.1, min_repeats=5, device="cpu", runtime="torch", threads=1)
    assert found.interrupted == 1.0
    assert found.median < 5.0
    monkeypatch.setattr(latency_module, "_switches", lambda: 0)
    found = timed(lambda: time.sleep(0.01), seconds=0.1, min_repeats=5, device="cpu", runtime="torch", threads=1)
    assert found.interrupted == 0.0
    assert found.median >= 10.0


@pytest.mark.parametrize("n", [1, 5, 6, 20, 101])
def test_median_interval_ranks(n: int) -> None:
    """The ranks are the narrowest symmetric ones whose coverage, summed from binomial coefficients, is 95 %."""
    median, low, high = median_interval([float(i) for i in range(1, n + 1)][::-1])
    rank = int(low)
    assert median == (n + 1) / 2
    assert high == n + 1 - rank

    def coverage(k: int) -> float:
        return 1 - 2 * sum(math.comb(n, j) for j in range(k)) / 2**n

    assert coverage(rank) >= 0.95 or rank == 1
    assert coverage(rank + 1) < 0.95


def test_median_interval_covers() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        _, low, high = median_interval(rng.exponential(size=31).tolist())
        hits += low <= math.log(2) <= high
    assert 0.94 <= hits / 1000 <= 0.99


def test_the_interval_covers_what_drifts_slowly() -> None:
    """Repeats that wander as a whole: the order statistics cover the true median seldom, the interval nearly always."""
    rng = np.random.default_rng(1)
    hits = np.zeros(2)
    for _ in range(400):
        walk = np.convolve(rng.normal(size=900), np.ones(100) / 10, mode="valid")  # alike over a hundred repeats
        samples = (100 + walk + 0.1 * rng.normal(size=len(walk))).tolist()
        for place, found in enumerate((median_interval(samples), interval(samples))):
            hits[place] += found[1] <= 100 <= found[2]
    assert hits[0] / 400 < 0.5
    assert hits[1] / 400 > 0.85


def test_the_interval_of_a_calm_machine_is_that_of_the_order_statistics() -> None:
    calm = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7] * 20  # every block has the same median
    assert interval(calm) == pytest.approx(median_interval(calm))
    assert interval([2.0]) == (2.0, 2.0, 2.0)
    restless = [1.0] * 60 + [3.0] * 20
    assert interval(restless)[0] == 1.0
    assert interval(restless)[1:] == (1.0, pytest.approx(1 + 2.365 * np.std([1] * 6 + [3] * 2, ddof=1) / 8**0.5))


def test_noise_sees_a_disturbed_block() -> None:
    calm = latency_module._noise([1.0] * 80)
    stormy = latency_module._noise([1.0] * 40 + [2.0] * 10 + [1.0] * 30)
    assert calm == 0
    assert stormy == pytest.approx(math.sqrt(1 / 8 * 7 / 8))  # one of eight blocks at 2, seven at 1


def test_the_model_and_the_process_are_left_as_found() -> None:
    model = net(4, 1, dropout=0.5).train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    torch.manual_seed(3)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    measure_latency(model, (3, 8, 8), seconds=0.02, threads=threads + 1)
    measure_training(model, (3, 8, 8), 5, batch=4, seconds=0.02)
    measure_memory(model, (3, 8, 8))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert gc.isenabled()


def test_what_fails_leaves_the_process_as_found() -> None:
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError):
        measure_latency(net(4, 0), (1, 8, 8), threads=threads + 1)
    assert torch.get_num_threads() == threads
    assert gc.isenabled()


def test_training_grows_with_the_network() -> None:
    small = measure_training(net(4, 0), (3, 8, 8), 5, batch=16, seconds=0.05)
    large = measure_training(net(32, 4), (3, 8, 8), 5, batch=16, seconds=0.05)
    assert 0 < small < large


def test_memory_of_one_layer() -> None:
    """ReLU on 4 KiB of pixels: the image and the result are alive at once, and nothing else."""
    assert measure_memory(nn.ReLU(), (1, 32, 32)) == 2 * 4096
    model = net(16, 2)
    weights = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    assert measure_memory(model, (3, 32, 32)) >= weights + 2 * 16 * 32 * 32 * 4  # input and output of a layer


COUNTED = {  # how many times the counted memory an inference may hold at most: kernels take work space, most for
    "fbnet": ("3" * 22, 1.1),  # dense convolutions of few channels, whose numbers they copy into wider blocks
    "vit": ("p4-w64-d2-h2r1-h2r1", 1.1),
    "mobilenet": ("r100-s32-d3e4w32x2-d3e4w64x2", 1.6),
    "nasbench201": (
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|", 1.8
    ),
    "plain": ("resnet14-w32", 2.5),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTED)
def test_counted_memory_is_below_what_an_inference_holds_and_near_it(name: str) -> None:
    """Liveness over the graph against the allocator's peak; test_costs compares it with the living tensors exactly."""
    from archscout.costs import measure
    from archscout.spaces import SPACES

    text, most = COUNTED[name]
    space = SPACES[name]((3, 32, 32), 10)
    model = space.build(space.parse(text)).eval()
    counted = measure(model, (3, 32, 32), ["memory"])["memory"]
    assert 0.98 < measure_memory(model, (3, 32, 32)) / counted < most


def test_requests_that_cannot_be_met() -> None:
    with pytest.raises(UserError, match="no device 'cuda:99' here"):
        measure_latency(net(4, 0), (3, 8, 8), device="cuda:99")
    with pytest.raises(UserError, match="threads is at least 1"), limited_threads(0):
        pass
    with pytest.raises(UserError, match="seconds > 0"):
        measure_latency(net(4, 0), (3, 8, 8), seconds=0)


# --- the profile ---


def law(seen: Trace) -> float:
    """A device that is linear in counts and multiply-adds."""
    return 0.1 + 0.02 * len(seen.ops) + 3e-6 * seen.macs


def profile_of(space: SearchSpace, noise: float = 0.0) -> Profile:
    archs = list(space)
    traces = [trace(space.build(arch), space.input_shape) for arch in archs]
    rng = np.random.default_rng(0)
    disturbed = 1 + noise * rng.uniform(-1, 1, len(traces))
    return fit_profile(
        traces,
        [law(seen) * d for seen, d in zip(traces, disturbed, strict=True)],
        [law(seen) / 7 for seen in traces],
        names=[space.format(arch) for arch in archs],
        device="toy",
        threads=1,
        train_threads=2,
        batch=8,
        space=space.name,
        input_shape=space.input_shape,
    )


def test_a_linear_device_is_recovered() -> None:
    found = profile_of(small_space())
    for width, depth in ((6, 1), (12, 3), (10, 2)):  # none of these was measured
        seen = trace(net(width, depth), (3, 8, 8))
        assert found.latency(seen) == pytest.approx(law(seen), rel=0.02)
        assert found.training(seen) == pytest.approx(law(seen) / 7, rel=0.02)
    assert found.half_width < 0.02
    assert all(rate >= 0 for rate in found.latency_terms.values())


def test_the_half_width_states_the_noise() -> None:
    calm, noisy = profile_of(small_space()), profile_of(small_space(), noise=0.3)
    assert 0.1 < noisy.half_width < 0.8
    assert calm.half_width < 0.05
    assert noisy.training_half_width == calm.training_half_width


def test_one_disturbed_network_does_not_spoil_the_fit() -> None:
    rows = [{"network": 1.0, "macs/dense": float(m)} for m in range(1, 13)]
    times = [1 + 0.5 * m for m in range(1, 13)]
    times[5] *= 10
    terms = profile_module._solve(rows, times)
    assert terms["network"] == pytest.approx(1, rel=0.1)
    assert terms["macs/dense"] == pytest.approx(0.5, rel=0.1)


def test_features_count_families() -> None:
    seen = trace(
        nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3), nn.ReLU()), (4, 8, 8)
    )
    found = features(seen)
    assert found["macs/depthwise"] == 4 * 36 * 9
    assert found["macs/pointwise"] == 4 * 8 * 36
    assert found["macs/dense"] == 8 * 8 * 9 * 16
    assert found["count/elementwise"] == 1
    assert found["moved/elementwise"] == 2 * 8 * 16
    assert found["network"] == 1


def test_an_unseen_family_is_not_free() -> None:
    found = profile_of(small_space())
    deep = Trace(0, 0, 10**6, 10**6, 0, (Op("conv", macs=10**6, groups=8, kernel=3),))
    assert found.latency(deep) >= 10**6 * max(v for k, v in found.latency_terms.items() if k.startswith("macs/"))


def test_spread_holds_the_extremes_and_starts_wide() -> None:
    drawn = [((i,), Trace(0, 0, macs, 0, 0, ())) for i, macs in enumerate([5, 1, 9, 3, 7, 2, 8])]
    picked = [pair[1].macs for pair in spread(drawn, 4)]
    assert set(picked[:2]) == {1, 9}
    assert len(set(picked)) == 4
    assert [pair[1].macs for pair in spread(drawn[:1], 4)] == [5]


def test_json_round_trip_is_exact() -> None:
    found = profile_of(small_space(), noise=0.1)
    back = Profile.from_json(json.loads(json.dumps(found.to_json())))
    assert back == found
    assert asdict(back) == asdict(found)
    with pytest.raises(UserError, match="no device profile"):
        Profile.from_json({"latency_terms": {}})


BROKEN: list[Any] = [-1, float("nan"), float("inf"), "3", True, [], 10**400]


@cache
def kept() -> str:
    """A profile as a file holds it."""
    return json.dumps(profile_of(small_space()).to_json())


def put(place: str, value: Any) -> dict[str, Any]:
    """The same with another value at a place like "few.samples.a"."""
    found = json.loads(kept())
    costs = {"0-0": 1.0, "1-0": 2.0}
    found["few"] = {
        "space": "small", "input_shape": [3, 8, 8], "classes": 5, "samples": costs, "energies": {},
        "sources": {"other latency": dict(costs)},
    }  # fmt: skip
    found["energy_terms"] = {"network": 1.0}
    *way, last = place.split(".")
    inner: Any = found
    for step in way:
        inner = inner[int(step) if isinstance(inner, list) else step]
    inner[last] = value
    return found


@pytest.mark.parametrize(
    "place",
    [
        "speedup", "half_width", "training_half_width", "power", "energy_half_width", "restless", "threads", "batch",
        "networks", "latency_terms.network", "training_terms.network", "energy_terms.network", "measured.0.latency",
        "measured.0.energy", "few.samples.0-0", "few.energies.0-0", "few.sources.other latency.0-0", "few.classes",
    ],
)  # fmt: skip
def test_numbers_of_a_profile_that_are_none(place: str) -> None:
    """Negative, without end, no number, or of 400 digits: whatever a file holds, the error names what is wrong."""
    for value in BROKEN:
        with pytest.raises(UserError, match="this is no device profile") as raised:
            Profile.from_json(put(place, value))
        assert len(str(raised.value)) < 300
    assert Profile.from_json(put(place, 2)).to_json() == put(place, 2)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("few", [1]), ("few", {"space": "small"}), ("few.space", 3), ("few.input_shape", [3, 8]), ("few.samples", {}),
        ("few.samples", {"0-0": 1.0}), ("few.samples", [1, 2]), ("few.sources", []), ("few.sources", {"other": 3}),
        ("few.energies", None), ("input_shape", [3, 8]), ("input_shape", [3, 8, 8.5]), ("input_shape", [3, 8, 10**9]),
        ("device", 5), ("target", None), ("latency_terms", None), ("measured", [[]]), ("measured", [{"arch": 1}]),
        ("surprise", 1),
    ],
)  # fmt: skip
def test_parts_of_a_profile_that_are_none(place: str, value: Any) -> None:
    with pytest.raises(UserError, match="this is no device profile"):
        Profile.from_json(put(place, value))


def test_a_space_of_your_own_is_measured() -> None:
    calls: list[tuple[int, int]] = []
    state = torch.get_rng_state()
    start = time.perf_counter()
    found = measure_profile(
        small_space(),
        networks=6,
        seconds=1.0,
        train_threads=1,
        batch=8,
        limits={"params": 8000},
        on_progress=lambda done, total: calls.append((done, total)),
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert time.perf_counter() - start < 20
    assert found.networks == 6
    assert all(row["training"] > 0 and row["latency"] > 0 for row in found.measured)
    assert {row["arch"] for row in found.measured} <= {small_space().format(a) for a in small_space()}
    small, large = (trace(net(w, d), (3, 8, 8)) for w, d in ((2, 0), (16, 3)))
    assert 0 < found.latency(small) < found.latency(large)
    assert 0 < found.training(small) < found.training(large)
    assert calls[-1][0] == calls[-1][1]


def test_limits_choose_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    space = small_space()
    monkeypatch.setattr(latency_module, "measure_training", lambda *a, **k: 1.0)
    calm = Latency(1.0, 1.0, 1.0, 1.0, 20, 0.0, "cpu", "torch", 1)
    monkeypatch.setattr(profile_module, "measure_latency", lambda *a, on_begin, **k: on_begin() or calm)
    params = {space.format(a): sum(p.numel() for p in space.build(a).parameters()) for a in space}
    free = measure_profile(space, networks=6, seconds=5.0)
    bound = measure_profile(space, networks=6, seconds=5.0, limits={"params": 700, "latency": 0.001})
    assert max(params[row["arch"]] for row in free.measured) > 700
    assert max(params[row["arch"]] for row in bound.measured) <= 700


def test_a_profile_states_the_usual_speed_of_a_machine_that_changes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network takes 3 references, at whatever speed: predicted is 3 usual references, and the end is higher."""
    space, paces = small_space(), iter(np.exp(np.random.default_rng(0).normal(0, 0.4, 1000)))
    now = [1.0]

    def begins(self: object) -> None:
        now[0] = float(next(paces))

    def pretend(*_: object, on_begin: Callable[[], None], **__: object) -> Latency:
        on_begin()
        return Latency(3 * now[0], 3 * now[0], 3 * now[0], 3 * now[0], 20, 0.0, "cpu", "torch", 1)

    monkeypatch.setattr(profile_module, "measure_latency", pretend)
    monkeypatch.setattr(latency_module, "measure_training", lambda *a, **k: 1.0)
    monkeypatch.setattr(profile_module.Reference, "begin", begins)
    monkeypatch.setattr(profile_module.Reference, "now", lambda self: now[0])
    monkeypatch.setattr(profile_module.Reference, "remember", lambda self, interrupted: self.earlier.append(now[0]))
    monkeypatch.setattr(speed_module, "recalled", lambda path: [1.0] * 500)
    found = measure_profile(space, networks=6, seconds=5.0)
    assert [row["latency"] for row in found.measured] == pytest.approx([3.0] * len(found.measured), rel=0.02)
    assert found.half_width < 0.05
    assert found.upper({"latency": 3.0})["latency"] == pytest.approx(3 * (1 + found.restless), rel=0.02)
    assert replace(found, restless=0.5).upper({"latency": 3.0})["latency"] == pytest.approx(4.5, rel=0.02)
    assert Profile.from_json(found.to_json()) == found


def test_the_fastest_precision_is_taken_where_the_gain_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, mixed = "32-true", "bf16-mixed"
    among = [(1, exact), (2, exact), (1, mixed), (2, mixed)]

    def fastest(**ms: float) -> tuple[float, int, str]:
        def pretend(*_: object, threads: int, precision: str, **__: object) -> float:
            if (value := ms[f"{precision[:2]}x{threads}"]) < 0:
                raise RuntimeError("no kernel")
            return value

        monkeypatch.setattr(latency_module, "measure_training", pretend)
        return latency_module.fastest_training(net(2, 0), (3, 8, 8), 5, among=among)

    times = {"_32x1": 3.0, "_32x2": 2.0, "bfx1": 2.5, "bfx2": 1.0}
    times = {name.lstrip("_"): value for name, value in times.items()}
    assert fastest(**times) == (1.0, 2, mixed)
    assert fastest(**times | {"bfx2": 1.9}) == (2.0, 2, exact)  # a twentieth is not worth the rounding
    assert fastest(**times | {"bfx1": -1.0, "bfx2": -1.0}) == (2.0, 2, exact)
    with pytest.raises(RuntimeError, match="no kernel"):
        fastest(**times | {"32x1": -1.0})
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert latency_module.precisions() == (exact, mixed)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert latency_module.precisions() == (exact,)


def test_what_disturbs_for_a_moment_does_not_choose_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([2.0, 9.0, 2.1, 1.0])  # of float32 and bfloat16, disturbed the first time, in two turns
    monkeypatch.setattr(latency_module, "measure_training", lambda *_, **__: next(times))
    among = [(1, "32-true"), (1, "bf16-mixed")]
    assert latency_module.fastest_training(net(2, 0), (3, 8, 8), 5, among=among, turns=2) == (1.0, 1, "bf16-mixed")


def test_each_network_trains_in_a_step_of_its_own_size() -> None:
    latencies = np.array([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 400.0])
    sizes, slow = _step_sizes(64, latencies, 800.0, 4)  # 100 ms each, 4 steps
    assert sizes == [64, 64, 32, 16, 8, 8, 8, 8]
    assert slow == [False] * 6 + [True, True]  # beyond 200 ms: those that are not among the six fastest
    assert _step_sizes(64, latencies[:6], 1e-3, 4) == ([8] * 6, [False] * 6)
    assert _step_sizes(12, latencies[:6], 1e-3, 4)[0] == [8] * 6
    assert _step_sizes(4, latencies[:1], 1e9, 4) == ([4], [False])


def test_half_of_what_a_profile_measures_is_typical(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_module, "measure_training", lambda *a, **k: 1.0)
    calm = Latency(1.0, 1.0, 1.0, 1.0, 20, 0.0, "cpu", "torch", 1)
    monkeypatch.setattr(profile_module, "measure_latency", lambda *a, on_begin, **k: on_begin() or calm)
    choices = {"width": tuple(range(1, 1001))}
    space = SearchSpace("wide", (3, 8, 8), 5, choices, lambda picks: net(picks["width"] % 7 + 1, 0))
    space = replace(space, typical=tuple((index,) for index in range(8)))
    texts = {space.format(arch) for arch in space.typical}
    found = measure_profile(space, networks=9, seconds=5.0)
    assert sum(row["arch"] in texts for row in found.measured) == 4
    assert found.networks == 9
    few = measure_profile(replace(space, typical=space.typical[:1]), networks=9, seconds=5.0)
    assert sum(row["arch"] in texts for row in few.measured) == 1
    assert few.networks == 9


def test_a_step_in_bfloat16_leaves_the_network_as_it_was() -> None:
    model = net(4, 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert measure_training(model, (3, 8, 8), 5, batch=4, seconds=0.02, precision="bf16-mixed") > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_space_of_one_network() -> None:
    space = SearchSpace("one", (3, 8, 8), 5, {"only": (0,)}, lambda picks: net(2, 0))
    found = measure_profile(space, seconds=0.5, train_threads=1, batch=4)
    assert found.networks == 1
    assert found.half_width == 1.0
    assert found.latency(trace(net(2, 0), (3, 8, 8))) == pytest.approx(found.measured[0]["latency"])


def test_accuracy_on_a_quiet_device_with_the_real_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """measure_profile end to end with the clock replaced by a law: every network of the space is predicted."""
    space = small_space()

    def pretend(model: nn.Module, input_shape: tuple[int, int, int], **_: object) -> Latency:
        value = law(trace(model, input_shape))
        return Latency(value, value, value, value, 20, 0.0, "cpu", "torch", 1)

    def per_image(seen: Trace, batch: int) -> float:
        return 2 * len(seen.ops) / batch + 1e-6 * seen.macs

    def step(model: nn.Module, input_shape: tuple[int, int, int], classes: int, **how: int) -> float:
        return per_image(trace(model, input_shape), how["batch"]) / how["threads"]

    monkeypatch.setattr(profile_module, "measure_latency", pretend)
    monkeypatch.setattr(latency_module, "measure_training", step)
    monkeypatch.setattr(profile_module, "FREE", -1.0)
    monkeypatch.setattr(speed_module, "recalled", lambda path: [])
    monkeypatch.setattr(profile_module.Reference, "now", lambda self: 1.0)
    monkeypatch.setattr(profile_module.Reference, "remember", lambda self, interrupted: self.earlier.append(1.0))
    found = measure_profile(space, networks=12, seconds=5.0, train_threads=2)
    assert found.speedup == pytest.approx(2)
    for arch in space:
        seen = trace(space.build(arch), space.input_shape)
        assert found.latency(seen) == pytest.approx(law(seen), rel=0.05)
        assert found.training(seen) == pytest.approx(per_image(seen, 64) / 2, rel=0.05)


@pytest.mark.parametrize("step", [16, (8, 16, 32)])
def test_steps_of_fewer_images_than_are_predicted(step: int | tuple[int, ...]) -> None:
    """A step costs 2 ms an operation once, and 1e-6 ms a multiply-add for each image."""
    space = small_space()
    traces = [trace(space.build(arch), space.input_shape) for arch in space]

    def per_image(seen: Trace, batch: int) -> float:
        return 2 * len(seen.ops) / batch + 1e-6 * seen.macs

    steps = [step] * len(traces) if isinstance(step, int) else [step[i % 3] for i in range(len(traces))]
    found = fit_profile(
        traces,
        [law(seen) for seen in traces],
        [per_image(seen, size) for seen, size in zip(traces, steps, strict=True)],
        names=[space.format(arch) for arch in space],
        device="toy",
        threads=1,
        train_threads=1,
        batch=64,
        step=step if isinstance(step, int) else steps,
        space=space.name,
        input_shape=space.input_shape,
    )
    for seen in traces:
        assert found.training(seen) == pytest.approx(per_image(seen, 64), rel=0.05)
