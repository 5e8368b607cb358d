"""The verb profile: time, energy, memory, what disturbed the measurement, and the page with its distribution."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from archscout.cli import main
from archscout.devices import energy as energy_module
from archscout.devices import measure as measure_module
from archscout.devices.energy import Meter, open_meter, stated_power
from archscout.devices.latency import slowdown, summary
from archscout.devices.measure import Surroundings, disturbances, measure_network, table
from archscout.devices.picture import distribution_page
from archscout.devices.verb import profile
from archscout.errors import UserError

QUICK: dict[str, Any] = {"seconds": 0.1, "precision": 0.5}


def net(width: int = 4, channels: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(width, 5),
    )  # fmt: skip


def zone(folder: Path, name: str, label: str, energy: int, most: int = 10**9) -> Path:
    made = folder / name
    made.mkdir(parents=True)
    for file, text in (("name", label), ("energy_uj", energy), ("max_energy_range_uj", most)):
        (made / file).write_text(f"{text}\n")
    return made


# --- energy ---


def test_counters_of_packages_and_their_memory_add_up(tmp_path: Path) -> None:
    """Two packages and one memory; cores are within their package, and psys holds everything twice."""
    zones = {
        "package": zone(tmp_path, "intel-rapl:0", "package-0", 100),
        "other": zone(tmp_path, "intel-rapl:1", "package-1", 999_999_000),
        "memory": zone(tmp_path, "intel-rapl:0:1", "dram", 0),
        "cores": zone(tmp_path, "intel-rapl:0:0", "core", 0),
        "board": zone(tmp_path, "intel-rapl:2", "psys", 0),
        "twice": zone(tmp_path, "intel-rapl-mmio:0", "package-0", 0),
    }
    meter, source = open_meter("cpu", tmp_path)
    assert meter is not None
    assert "RAPL" in source
    assert meter.read() == 0
    for place in zones.values():
        (place / "energy_uj").write_text("3000100")
    # package-0: 3 J; package-1: over its end of 1000 J, 3.0011 J; its memory: 3.0001 J
    assert meter.read() == pytest.approx(3.0 + 3.0011 + 3.0001)
    assert meter.read() == pytest.approx(9.0012)


def test_why_there_is_no_meter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_meter("cpu", tmp_path / "absent") == (
        None,
        f"no meter: there is no energy counter under {tmp_path / 'absent'}",
    )
    zone(tmp_path, "intel-rapl:0", "package-0", 5)
    original = Path.read_text

    def refused(self: Path, *args: Any, **kwargs: Any) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refused)
    meter, why = open_meter("cpu", tmp_path)
    assert meter is None
    assert "root only" in why
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_meter("cuda")[1] == "no meter: pip install nvidia-ml-py to read the energy counter of the card"


def test_the_counter_of_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML counts millijoules; the card is found by its UUID, whatever its number is among those that torch sees."""
    asked, counter = [], iter([5000, 5000, 8000])

    class Problem(Exception):
        pass

    def handle(uuid: str) -> str:
        asked.append(uuid)
        return uuid

    nvml = SimpleNamespace(
        NVMLError=Problem,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=handle,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(counter),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="ab-12"))
    meter, source = open_meter("cuda:1")
    assert meter is not None
    assert meter.read() == 5.0
    assert meter.read() == 8.0
    assert asked == ["GPU-ab-12"]
    assert "NVML" in source


def test_a_card_without_a_counter_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cards before Volta have no counter; a machine may have NVML and no card; a PyTorch may be without CUDA."""

    class Problem(Exception):
        pass

    def fails(error: Exception) -> Any:
        def call(*given: Any) -> Any:
            raise error

        return call

    good: dict[str, Any] = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: 0,
    }
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="ab-12"))
    for broken in good:
        nvml = SimpleNamespace(**{**good, broken: fails(Problem("not supported"))}, NVMLError=Problem)
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        assert open_meter("cuda") == (None, "no meter: the card has no readable energy counter (not supported)")
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(**good, NVMLError=Problem))
    monkeypatch.setattr(torch.cuda, "get_device_properties", fails(AssertionError("no CUDA")))
    assert open_meter("cuda")[1] == "no meter: the card has no readable energy counter (no CUDA)"


def test_energy_of_a_card_goes_into_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card of 150 W, whose counter NVML reads in millijoules; the network itself runs on a CPU."""

    class Problem(Exception):
        pass

    start = time.perf_counter()
    nvml = SimpleNamespace(
        NVMLError=Problem,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: int(150e3 * (time.perf_counter() - start)),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="ab-12"))
    monkeypatch.setattr(measure_module, "open_meter", lambda device: open_meter("cuda"))
    found = measure_network(net(), (3, 12, 12), seconds=0.3, precision=0.001)
    assert found.metered
    assert found.energy_source == "measured by NVML, the whole card"
    assert found.power == pytest.approx(150, rel=0.05)
    assert found.energy == pytest.approx(found.power * np.mean(found.samples), rel=1e-6)


def test_metered_energy_is_power_times_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that draws 7 W all the time: joules follow the clock."""
    monkeypatch.setattr(
        measure_module, "open_meter", lambda device: (Meter("fake", lambda: 7 * time.perf_counter()), "measured")
    )
    found = measure_network(net(), (3, 12, 12), **QUICK)
    assert found.metered
    assert found.power == pytest.approx(7, rel=0.05)  # also when the machine is taken by others
    assert found.energy == pytest.approx(found.power * np.mean(found.samples), rel=1e-6)
    assert found.energy_source == "measured"


def test_an_estimate_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_module, "open_meter", lambda device: (None, "no meter: none here"))
    found = measure_network(net(), (3, 12, 12), **QUICK, threads=2)
    assert not found.metered
    assert found.power == stated_power("cpu", 2)[0] == 24
    assert found.energy == pytest.approx(24 * found.latency.median)
    assert found.energy_source == "estimate: 12 W for each of 2 busy cores (no meter: none here)"
    stated = measure_network(net(), (3, 12, 12), **QUICK, watts=1.5)
    assert stated.energy == pytest.approx(1.5 * stated.latency.median)
    assert "stated: 1.5 W" in stated.energy_source
    assert stated_power("cuda")[0] == energy_module.CARD_WATTS


# --- time ---


def test_repeats_end_when_the_interval_is_as_asked() -> None:
    loose = measure_network(net(), (3, 12, 12), seconds=2.0, precision=0.9)
    assert loose.latency.repeats >= measure_module.LEAST
    assert measure_module.spread(loose.samples) <= 0.9
    assert sum(loose.samples) < 2000
    assert len(loose.samples) == loose.latency.repeats
    assert loose.latency.median == pytest.approx(np.median(loose.samples))


def test_a_batch_is_measured_as_a_whole() -> None:
    one = measure_network(net(32), (3, 24, 24), seconds=0.3, precision=0.01)
    many = measure_network(net(32), (3, 24, 24), seconds=0.3, precision=0.01, batch=32)
    assert many.latency.batch == 32
    assert many.latency.median > 3 * one.latency.median


@pytest.mark.parametrize("batch", [1, 4])
def test_onnxruntime_runs_the_exported_network(batch: int, tmp_path: Path) -> None:
    from archscout.deploy import bare_onnx

    found = measure_network(net(), (3, 12, 12), **QUICK, runtime="onnxruntime", batch=batch)
    assert (found.latency.runtime, found.latency.batch) == ("onnxruntime", batch)
    (tmp_path / "n.onnx").write_bytes(bare_onnx(net(), (3, 12, 12), batch=batch))
    again = measure_network(tmp_path / "n.onnx", runtime="onnxruntime", batch=batch, **QUICK)
    assert again.latency.median > 0
    with pytest.raises(UserError, match="no batch of 7; give the --batch it was made for"):
        measure_network(tmp_path / "n.onnx", runtime="onnxruntime", batch=7, **QUICK)


def test_the_exported_network_computes_the_same() -> None:
    import onnxruntime

    from archscout.deploy import bare_onnx

    model = net().eval()
    session = onnxruntime.InferenceSession(bare_onnx(model, (3, 12, 12)), providers=["CPUExecutionProvider"])
    images = torch.randn(1, 3, 12, 12)
    with torch.no_grad():
        expected = model(images).numpy()
    np.testing.assert_allclose(session.run(["logits"], {"image": images.numpy()})[0], expected, atol=1e-5)


@pytest.mark.slow
def test_compiled_networks_are_measured() -> None:
    found = measure_network(net(), (3, 12, 12), **QUICK, runtime="compile")
    assert found.latency.runtime == "compile"


def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(network: nn.Module) -> Any:
        def call(images: torch.Tensor) -> None:
            raise RuntimeError("no C++ compiler found\nand more")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(UserError, match=r"cannot do it here \(no C\+\+ compiler found\).*--runtime torch"):
        measure_network(net(), (3, 12, 12), **QUICK, runtime="compile")


def test_what_cannot_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(x).mean((2, 3))

    with pytest.raises(UserError, match=r"cannot be written as ONNX .*--runtime torch"):
        measure_network(Odd(), (3, 8, 8), **QUICK, runtime="onnxruntime")
    with pytest.raises(UserError, match="did you mean 'onnxruntime'"):
        measure_network(net(), (3, 8, 8), **QUICK, runtime="onnxruntim")
    with pytest.raises(UserError, match="precision"):
        measure_network(net(), (3, 8, 8), precision=2)
    with pytest.raises(UserError, match="threads is at least 1"):
        measure_network(net(), (3, 8, 8), **QUICK, threads=0)
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(UserError, match="cannot load"):
        measure_network(tmp_path / "text.onnx", runtime="onnxruntime", **QUICK)
    with pytest.raises(UserError, match="measure it with --runtime onnxruntime"):
        measure_network(tmp_path / "text.onnx", runtime="torch", **QUICK)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="onnxruntime is not installed; type: pip install onnxruntime"):
        measure_network(net(), (3, 12, 12), **QUICK, runtime="onnxruntime")


# --- what disturbs ---


def calm(samples: list[float], interrupted: int = 0) -> Any:
    return summary(samples, interrupted, device="cpu", runtime="torch", threads=1)


def test_a_slowing_machine_is_seen() -> None:
    steady = [1.0 + 0.01 * (k % 5) for k in range(80)]
    hot = [value * (1.3 if k >= 60 else 1.0) for k, value in enumerate(steady)]
    assert slowdown(steady) == 0
    assert slowdown(hot) == pytest.approx(0.3, abs=0.02)
    assert slowdown(hot[::-1]) < -0.2
    noisy = np.random.default_rng(0).exponential(size=80).tolist()
    assert slowdown(noisy) == 0  # what may be chance is none
    assert slowdown([1.0, 2.0]) == 0


def test_each_disturbance_is_told_and_calm_is_silent() -> None:
    quiet = Surroundings(throttled=4, clock=3000.0, load=0.0)
    steady = [1.0 + 0.001 * (k % 5) for k in range(80)]
    assert list(disturbances(steady, calm(steady), 0.02, quiet, quiet)) == []
    unknown = Surroundings(None, None, None)
    assert list(disturbances(steady, calm(steady), 0.02, unknown, unknown)) == []
    hot = [value * (1.3 if k >= 60 else 1.0) for k, value in enumerate(steady)]
    told = " | ".join(
        disturbances(
            hot,
            calm(hot, interrupted=40),
            0.0001,
            Surroundings(throttled=4, clock=3000.0, load=1000.0),
            Surroundings(throttled=9, clock=1500.0, load=0.0),
        )
    )
    for words in (
        "throttled 5 times for heat", "from 3000 to 1500 MHz", "30% longer than the first", "eight blocks differ",
        "50% of the repeats were interrupted", "a load of 1000.0", "wider than the ± 0.0% asked for",
    ):  # fmt: skip
        assert words in told


def test_the_system_says_how_hot_it_is(tmp_path: Path) -> None:
    for cpu, count, clock in (("cpu0", 3, 2_000_000), ("cpu1", 4, 1_000_000)):
        (tmp_path / cpu / "thermal_throttle").mkdir(parents=True)
        (tmp_path / cpu / "cpufreq").mkdir()
        (tmp_path / cpu / "thermal_throttle" / "core_throttle_count").write_text(f"{count}\n")
        (tmp_path / cpu / "cpufreq" / "scaling_cur_freq").write_text(f"{clock}\n")
    found = Surroundings.now(tmp_path)
    assert (found.throttled, found.clock) == (7, 1500.0)
    absent = Surroundings.now(tmp_path / "absent")
    assert (absent.throttled, absent.clock) == (None, None)


# --- the verb ---


def test_an_architecture_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["profile", "resnet8-w8", "--space", "plain", "--input-shape", "1x8x8", "--seconds", "0.1"]
    main([*words, "--out", str(tmp_path / "p.json"), "--page", str(tmp_path / "p.html"), "--power", "2W"])
    shown = capsys.readouterr().out
    for word in ("latency p95", "energy", "power", "ram_int8", "training_memory", "macs"):
        assert word in shown
    found = json.loads((tmp_path / "p.json").read_text())
    assert found["units"] == {"latency": "ms", "energy": "mJ", "power": "W", "samples": "ms"}
    assert len(found["samples"]) == found["latency"]["repeats"]
    assert found["costs"]["params"] > 0
    assert found["memory_measured"] >= found["costs"]["memory"] * 0.9
    html = (tmp_path / "p.html").read_text()
    assert html.count("<svg") == 2
    assert "<script" not in html
    main([*words, "--json", "--runtime", "onnxruntime"])
    assert json.loads(capsys.readouterr().out)["latency"]["runtime"] == "onnxruntime"


def test_other_things_to_profile(tmp_path: Path) -> None:
    found = profile("torchvision.models:squeezenet1_1", input_shape="3x64x64", **QUICK)
    assert found["costs"]["params"] > 1e6
    assert profile(net(), input_shape=(3, 12, 12), **QUICK)["name"] == "Sequential"
    for model, told in (
        ("resnet8-w8", "add --space NAME --input-shape 3x32x32"),
        ("torchvision.models:squeezenet1_1", "add --input-shape 3x32x32"),
        ("math:pi", "gives a float; wanted a torch network"),
        (str(tmp_path), "no run"),
        (str(tmp_path / "absent.onnx"), "there is no"),
    ):
        with pytest.raises(UserError, match=re.escape(told)):
            profile(model, **QUICK)
    with pytest.raises(UserError, match="cannot write"):
        profile(net(), input_shape=(3, 12, 12), out=tmp_path / "no" / "p.json", **QUICK)


def test_the_page_shows_the_numbers_and_escapes_names() -> None:
    samples = [1.0, 1.1, 1.2, 1.3, 9.0] * 10
    latency = calm(samples).to_json()
    found = {
        "name": "<script>alert(1)</script>", "latency": latency, "energy": 12.0, "power": 12.0, "metered": False,
        "energy_source": "estimate: 12 W", "warnings": ["it was <b>hot</b>"], "samples": samples,
        "costs": {"macs": 1e6}, "memory_measured": None,
    }  # fmt: skip
    html = distribution_page(found)
    assert "<script" not in html
    assert "<b>hot" not in html
    assert "it was &lt;b&gt;hot" in html
    assert "1.2 ms for one image" in html
    heights = sum(int(n) for n in re.findall(r"<title>[\d.]+ to [\d.]+ ms: (\d+)</title>", html))
    assert heights == len(samples)  # every repeat is in one bar
    assert html.count('class="dot"') == len(samples)
    assert {row["what"] for row in table(found)} >= {"latency", "energy", "macs"}
    same = {**found, "samples": [2.0] * 30, "latency": calm([2.0] * 30).to_json()}
    assert "2 ms for one image" in distribution_page(same)
