"""How a machine's earlier speeds widen what is measured on it now."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import nn

import archscout.devices.measure as measure_module
import archscout.devices.speed as speed_module
from archscout.devices.latency import Latency, device_name
from archscout.devices.measure import at_speeds, measure_network, safe_end
from archscout.devices.speed import DAYS, KEPT, Reference, Speed, recalled, remembered


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ARCHSCOUT_CACHE", str(tmp_path))
    monkeypatch.setattr(speed_module, "BUSY", 1.0)  # what else runs beside the tests does not matter
    return tmp_path / "speed"


def reference(threads: int = 1) -> Reference:
    cpu = torch.device("cpu")
    return Reference(cpu, threads, device_name(cpu), None)


def test_speeds_against_plain_quantiles() -> None:
    earlier = np.random.default_rng(0).gamma(20, 0.1, 999)
    found = Speed.told(2.5, list(earlier))
    everything = np.sort([*earlier, 2.5])
    assert found.usual == pytest.approx(np.median(everything) / 2.5)
    assert found.fastest == pytest.approx(everything[24] / 2.5)  # 25 of 1,000 are at most this
    assert found.slowest == pytest.approx(everything[975] / 2.5)
    assert found.restless == pytest.approx(everything[975] / np.median(everything) - 1)
    assert found.earlier == 999


def test_few_earlier_times_count_with_their_extremes() -> None:
    assert Speed.told(1.0, []) == Speed(1.0, 1.0, 1.0, 0)
    found = Speed.told(1.0, [1.5, 0.8])
    assert (found.usual, found.fastest, found.slowest) == (1.0, 0.8, 1.5)
    assert Speed.told(0.0, [1.0]) == Speed()  # a clock too coarse for the reference says nothing


def test_intervals_of_a_machine_that_changes_its_speed_meet_each_other() -> None:
    """A network that takes 7 references: of two measurements at any speeds nine in ten have intervals that meet."""
    rng = np.random.default_rng(1)
    paces = np.exp(rng.normal(0, 0.3, 600))
    noise = np.exp(rng.normal(0, 0.03, 600))
    found = [
        at_speeds(latency(7 * pace * err), Speed.told(pace, list(paces[:i]))) for i, (pace, err) in
        enumerate(zip(paces, noise, strict=True)) if i >= 100
    ]  # fmt: skip
    pairs = list(zip(found[::2], found[1::2], strict=True))
    assert np.mean([a.low <= b.median <= a.high for a, b in pairs]) > 0.9
    assert np.mean([abs(b.usual / a.usual - 1) for a, b in pairs]) < 0.06
    assert np.mean([abs(b.median / a.median - 1) for a, b in pairs]) > 0.3


def latency(median: float) -> Latency:
    return Latency(median, 0.99 * median, 1.01 * median, median, 100, 0.0, "cpu", "torch", 1)


def test_what_one_measurement_saw_the_next_one_knows(cache, monkeypatch) -> None:
    first = reference()
    assert first.earlier == []
    first.begin()
    first.tick()
    first.remember()
    assert reference().earlier == pytest.approx([first.now()], rel=1e-4)
    assert first.earlier == [first.now()]
    assert reference(threads=2).earlier == []  # other threads, another story
    first.begin()
    monkeypatch.setattr(speed_module, "BUSY", 0.05)
    first.remember(interrupted=0.5)
    assert len(reference().earlier) == 1


def test_a_second_gives_one_time(cache) -> None:
    told = reference()
    told.at, told.times, told.since = [10.0, 10.1, 10.2, 11.5, 11.6], [1.0, 3.0, 2.0, 5.0, 7.0], 10.0
    told.remember()
    assert reference().earlier == [2.0, 6.0]


def test_the_reference_takes_a_tenth_of_the_time(cache, monkeypatch) -> None:
    """On a clock of the test, where a run of the reference takes 1 ms and what is measured 3 ms."""
    now = [0.0]

    def passes(seconds: float) -> None:
        now[0] += seconds

    told = reference()
    monkeypatch.setattr(speed_module.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(speed_module, "once", lambda run, wait, on_core: (run(), (1.0, False))[1])
    monkeypatch.setattr(told, "_run", lambda: passes(0.001))
    told.begin()
    while now[0] < 1.0:
        passes(0.003)
        told.tick()
    assert told.spent == pytest.approx(0.1, rel=0.05)
    assert len(told.times) == pytest.approx(50, abs=2)


def test_a_file_of_times_is_read_with_care(tmp_path) -> None:
    file, now = tmp_path / "speed.txt", time.time()
    assert recalled(file) == []
    old = now - (DAYS + 1) * 86400
    lines = (f"{now:.0f} 1.5", "no number", f"{old:.0f} 9", f"{now} -1", f"{now} nan", f"{now} inf", f"{now} 2.5", "17")
    file.write_text("\n".join(lines))
    assert recalled(file) == [1.5, 2.5]
    remembered(file, [3.0])
    assert recalled(file)[:2] == [1.5, 2.5]
    file.write_bytes(b"\xff\xfe\n")
    assert recalled(file) == []


def test_a_file_of_times_does_not_grow_for_ever(tmp_path) -> None:
    file = tmp_path / "speed.txt"
    for start in range(0, 12 * KEPT, KEPT):
        remembered(file, [1 + i / 1e6 for i in range(start, start + KEPT)])
    assert len(file.read_text().splitlines()) <= 4 * KEPT
    assert recalled(file)[-1] == pytest.approx(1 + (12 * KEPT - 1) / 1e6, rel=1e-5)
    assert len(recalled(file)) == KEPT


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ARCHSCOUT_CACHE", str(tmp_path / "file"))
    assert measure_network(nn.Flatten(), (3, 8, 8), seconds=0.05).latency.usual > 0


def test_a_measurement_reaches_to_the_speeds_the_machine_had(cache) -> None:
    measure_network(nn.Conv2d(3, 8, 3), (3, 32, 32), seconds=0.1)
    (file,) = cache.iterdir()
    (known,) = recalled(file)
    remembered(file, [0.5 * known] * 30 + [3 * known] * 60)
    found = measure_network(nn.Conv2d(3, 8, 3), (3, 32, 32), seconds=0.1)
    latency = found.latency
    pace = recalled(file)[-1] / known  # of this measurement, beside the first
    assert latency.high >= 2.99 / pace * latency.median
    assert latency.low <= 0.51 / pace * latency.median
    assert latency.usual == pytest.approx(3 / pace * latency.median, rel=1e-3)
    assert safe_end("latency", found.to_json()) == latency.high
    assert safe_end("energy", found.to_json()) == pytest.approx(found.energy * latency.high / latency.median)
    assert any("than usual" in line for line in found.warnings)
    assert found.latency.median == np.median(found.samples)  # as it was measured
    assert len(recalled(file)) == 92


def test_a_machine_at_its_usual_speed_that_is_restless(cache) -> None:
    measure_network(nn.Conv2d(3, 8, 3), (3, 32, 32), seconds=0.1)
    (file,) = cache.iterdir()
    (known,) = recalled(file)
    calm = [known * factor for factor in np.linspace(0.9, 1.1, 200)]
    remembered(file, [*calm, *[4 * known] * 20])
    found = measure_module.disturbances(
        [1.0] * 100, latency(1.0), 0.02, measure_module.Surroundings(None, None, None),
        measure_module.Surroundings(None, None, None), Speed.told(known, recalled(file)),
    )  # fmt: skip
    assert any("at times 29" in line for line in found), found


def test_the_share_of_the_reference_is_stated() -> None:
    assert speed_module.SHARE == 0.1
    assert "a tenth of the time" in (measure_network.__doc__ or "")
