"""One network measured on this machine as it will run: time, energy, memory, and what disturbed the measurement."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from archscout.devices.energy import open_meter, stated_power
from archscout.devices.latency import (
    Latency,
    _copied,
    _images,
    _waiter,
    checked_device,
    device_name,
    interval,
    limited_threads,
    sampled,
    summary,
)
from archscout.devices.speed import BUSY, Reference, Speed
from archscout.errors import UserError, unknown
from archscout.space import Shape

RUNTIMES = ("torch", "compile", "onnxruntime")
NOISY, SLOWED = 0.1, 0.05  # from where noise and slowing down are reported
RESTLESS = 0.1  # from where it is reported that the machine is not at its usual speed, or changes its speed
LEAST = 30  # repeats
CPUS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Measurement:
    """What measuring a network found. Times are of a whole batch, energy is of a whole batch.

    latency:   milliseconds, with interval, spread and what they were measured on.
    energy:    millijoules of an inference.  power: mean watts meanwhile.  metered: whether they were read off a meter;
               if not, power is a stated one and energy is latency x power.  energy_source: a sentence on that.
    warnings:  what disturbed the measurement, a plain sentence each; empty if nothing did.
    samples:   milliseconds of each repeat, in order.
    """

    latency: Latency
    energy: float
    power: float
    metered: bool
    energy_source: str
    warnings: tuple[str, ...]
    samples: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields by name, as plain values, with the units of the numbers."""
        return {
            "latency": self.latency.to_json(),
            "energy": self.energy,
            "power": self.power,
            "metered": self.metered,
            "energy_source": self.energy_source,
            "warnings": list(self.warnings),
            "samples": list(self.samples),
            "units": {"latency": "ms", "energy": "mJ", "power": "W", "samples": "ms"},
        }


def measure_network(
    model: nn.Module | str | Path,
    input_shape: Shape | None = None,
    *,
    device: str = "cpu",
    runtime: str = "torch",
    batch: int = 1,
    threads: int = 1,
    seconds: float = 10.0,
    precision: float = 0.02,
    watts: float | None = None,
) -> Measurement:
    """Time and energy of a network on this machine: a module, or the path of an ONNX file.

    runtime: torch (channels-last, no compilation), compile (torch.compile) or onnxruntime.  batch: images at once.
    After a warm-up the inference is repeated until the 95 % interval of the median is within ± `precision` of it, at
    least 30 times, at most for `seconds`.  watts: the power to take where the machine has no meter; by default a stated
    one, see `energy.stated_power`. The module, the thread count and the random state are left as found.

    A reference network is timed among the repeats, for a tenth of the time. What it took in earlier measurements on
    this machine (kept in the user's cache folder, see `speed`) widens the interval of the latency, which then reaches
    to the speeds that the machine has had. Metered power is a mean over its runs as well.

    Raises UserError for a device or runtime that is not here, and for a network that it cannot run.
    """
    if batch < 1 or seconds <= 0 or not 0 < precision < 1:
        raise UserError(f"wanted batch >= 1, seconds > 0 and 0 < precision < 1, got {batch}, {seconds} and {precision}")
    if runtime not in RUNTIMES:
        raise unknown("runtime", runtime, RUNTIMES)
    checked_device(device)
    meter, source = open_meter(device)
    before = Surroundings.now()
    at_begin: list[tuple[float, float]] = []

    def enough(samples: Sequence[float], passed: float) -> bool:
        if passed >= seconds:
            return len(samples) >= 5 or passed >= 5 * seconds
        if len(samples) < LEAST or passed < 0.1 * seconds or len(samples) & (len(samples) - 1):
            return False  # an interval is only looked at when the repeats have doubled
        return spread(samples) <= precision

    def begin() -> None:
        reference.begin()
        at_begin.append((meter.read() if meter else 0.0, time.perf_counter()))

    where = torch.device(device)
    # the threads of ONNX Runtime go on spinning between its runs, so that its reference is another one
    spinning = " beside onnxruntime" if runtime == "onnxruntime" else ""
    reference = Reference(where, threads, device_name(where) + spinning, _waiter(where))
    with (
        runner(model, input_shape, device=device, runtime=runtime, batch=batch, threads=threads) as (run, wait, name),
        limited_threads(threads),
    ):
        samples, interrupted = sampled(
            run,
            enough=enough,
            warm_up=0.3 * seconds,
            wait=wait,
            on_core=threads == 1,
            on_begin=begin,
            after=reference.tick,
        )
        joules = meter.read() - at_begin[0][0] if meter else 0.0
        passed = time.perf_counter() - at_begin[0][1]
    speed = reference.speed()
    found = summary(samples, interrupted, device=name, runtime=runtime, threads=threads, batch=batch)
    found = at_speeds(found, speed)
    reference.remember(found.interrupted)
    if meter and joules > 0:
        power = joules / passed  # over all the time, also that in which other programs had the core
        energy = power * float(np.mean(samples))
    else:
        power, stated = stated_power(device, threads)
        if watts is not None:
            power, stated = watts, f"stated: {watts:g} W"
        energy, source = found.median * power, f"{stated} ({source})"
    return Measurement(
        latency=found,
        energy=energy,
        power=power,
        metered=bool(meter and joules > 0),
        energy_source=source,
        warnings=tuple(disturbances(samples, found, precision, before, Surroundings.now(), speed)),
        samples=tuple(samples),
    )


def at_speeds(found: Latency, speed: Speed) -> Latency:
    """A measured latency with `usual`, and with an interval that reaches to the speeds the machine is known to have."""
    return replace(
        found,
        usual=found.median * speed.usual,
        low=min(found.low, found.median * speed.fastest),
        high=max(found.high, found.median * speed.slowest),
    )


def spread(samples: Sequence[float]) -> float:
    """Half the 95 % interval of the median, relative to the median."""
    median, low, high = interval(samples)
    return max(high - median, median - low) / median


def safe_end(name: str, found: Mapping[str, Any]) -> float:
    """The upper end of a measured cost, which a limit is held against: of latency that of its interval.

    name: latency, energy or power.  found: latency (as `Latency.to_json` gives it), energy and power. Energy follows
    the latency; power is a mean over the whole measurement and has no interval.
    """
    latency = found["latency"]
    if name == "latency":
        return float(latency["high"])
    return float(found[name] * (latency["high"] / latency["median"] if name == "energy" else 1.0))


@dataclass(frozen=True)
class Surroundings:
    """What the machine says: how often it throttled so far, the mean clock in MHz, the load; None if unknown."""

    throttled: int | None
    clock: float | None
    load: float | None

    @classmethod
    def now(cls, cpus: Path = CPUS) -> Surroundings:
        """Read them; some hundred microseconds."""
        counts = _numbers(cpus, "cpu[0-9]*/thermal_throttle/*_throttle_count")
        clocks = _numbers(cpus, "cpu[0-9]*/cpufreq/scaling_cur_freq")
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        return cls(
            throttled=int(sum(counts)) if counts else None,
            clock=float(np.mean(clocks)) / 1e3 if clocks else None,
            load=load,
        )


def _numbers(folder: Path, pattern: str) -> list[float]:
    try:
        return [float(path.read_text()) for path in sorted(folder.glob(pattern))]
    except (OSError, ValueError):
        return []


def disturbances(
    samples: Sequence[float],
    found: Latency,
    precision: float,
    before: Surroundings,
    after: Surroundings,
    speed: Speed | None = None,
) -> Iterator[str]:
    """What makes a measurement doubtful, a plain sentence each."""
    speed = speed or Speed()
    if before.throttled is not None and after.throttled is not None and after.throttled > before.throttled:
        yield f"the processor throttled {after.throttled - before.throttled} times for heat meanwhile"
    if before.clock and after.clock and after.clock < 0.9 * before.clock:
        yield f"the clock fell from {before.clock:.0f} to {after.clock:.0f} MHz"
    if found.slowdown > SLOWED:
        yield (
            f"the last quarter of the repeats took {found.slowdown:.0%} longer than the first: the machine grew hot "
            "and throttled, or other programs began"
        )
    if found.noise > NOISY:
        yield f"the medians of eight blocks differ by {found.noise:.0%}: another measurement may differ by as much"
    if found.interrupted > BUSY:
        yield f"{found.interrupted:.0%} of the repeats were interrupted by other programs"
    cores = os.cpu_count() or 1
    if before.load is not None and before.load > 0.7 * cores:
        yield f"the machine was busy before it began: a load of {before.load:.1f} on {cores} cores"
    if abs(pace := 1 / speed.usual - 1) > RESTLESS:
        usual = found.median * speed.usual
        yield (
            f"by a reference network the machine was {abs(pace):.0%} {'slower' if pace > 0 else 'faster'} than usual "
            f"meanwhile: at its usual speed the latency is {usual:.3g} ms"
        )
    elif speed.restless > RESTLESS:
        yield (
            f"by a reference network in {speed.earlier} earlier seconds of measuring, this machine is at times "
            f"{speed.restless:.0%} slower than usual; the interval says so"
        )
    if (reached := spread(samples)) > precision:
        yield f"the interval is ± {reached:.1%}, wider than the ± {precision:.1%} asked for; give it more --seconds"


@contextmanager
def runner(
    model: nn.Module | str | Path,
    input_shape: Shape | None,
    *,
    device: str,
    runtime: str,
    batch: int,
    threads: int,
) -> Iterator[tuple[Callable[[], object], Callable[[], None] | None, str]]:
    """A function that runs a network once, what waits for the device or None, and the name of the device."""
    where = checked_device(device)
    if isinstance(model, str | Path) or runtime == "onnxruntime":
        if runtime != "onnxruntime":
            raise UserError(f"{model} is an ONNX file; measure it with --runtime onnxruntime")
        with _quiet_threads(threads):
            yield _onnx_run(model, input_shape, where, batch, threads), None, device_name(where)
        return
    assert input_shape is not None
    with _copied(model, where, training=False) as network, torch.inference_mode(), limited_threads(threads):
        images = _images(batch, input_shape, where)
        if runtime == "compile":
            network = _compiled(network, images)
        yield lambda: network(images), _waiter(where), device_name(where)


@contextmanager
def _quiet_threads(threads: int) -> Iterator[None]:
    if threads < 1:
        raise UserError(f"threads is at least 1, got {threads}")
    yield


def _onnx_run(
    model: nn.Module | str | Path, input_shape: Shape | None, device: torch.device, batch: int, threads: int
) -> Callable[[], object]:
    from archscout.deploy import _session, bare_onnx

    if isinstance(model, nn.Module):
        assert input_shape is not None
        source: str | Path | bytes = bare_onnx(model, input_shape, batch=batch)
    else:
        source = model
    session = _session(source, threads, "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider")
    generator = np.random.default_rng(0)
    feed = {}
    for entry in session.get_inputs():
        if entry.type != "tensor(float)":
            raise UserError(f"'{model}' has the input '{entry.name}' of {entry.type}; wanted images as float32")
        shape = [side if isinstance(side, int) else 0 for side in entry.shape]
        shape[:1] = [shape[0] or batch] if shape else []
        if 0 in shape or (shape and shape[0] != batch):
            raise UserError(f"'{model}' takes {entry.shape}, so no batch of {batch}; give the --batch it was made for")
        feed[entry.name] = generator.standard_normal(shape).astype(np.float32)
    return lambda: session.run(None, feed)


def _compiled(network: nn.Module, images: torch.Tensor) -> nn.Module:
    compiled = torch.compile(network)
    try:
        compiled(images)
    except Exception as error:  # compilers fail in many ways: none installed, an operation they do not know
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UserError(
            f"torch.compile cannot do it here ({line}); install a C++ compiler, or take --runtime torch"
        ) from None
    return compiled  # type: ignore[return-value]


def table(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows (what, value, note) of a profiled network, as `verb.profile` gives it."""
    from archscout.costs.limits import format_cost

    latency, costs = found["latency"], found.get("costs") or {}
    batch = latency["batch"]
    rows = [
        ("latency", format_cost("latency", latency["median"]),
         f"median of {latency['repeats']}; another measurement is expected between "
         f"{format_cost('latency', latency['low'])} and {format_cost('latency', latency['high'])}"),
        ("latency p95", format_cost("latency", latency["p95"]), "95 of 100 repeats were at most this slow"),
    ]  # fmt: skip
    if latency.get("usual"):
        rows.append(
            ("usual latency", format_cost("latency", latency["usual"]), "brought to the usual speed of this machine")
        )
    if batch > 1:
        rows.append(("per image", format_cost("latency", latency["median"] / batch), f"at batch {batch}"))
    rows += [
        ("noise", f"{latency['noise']:.1%}", "spread of the medians of eight blocks"),
        ("energy", format_cost("energy", found["energy"]), found["energy_source"]),
        ("power", format_cost("power", found["power"]), "mean while it runs" if found["metered"] else "not measured"),
    ]
    notes = {
        "memory": "fp32 weights and live activations, counted",
        "ram_int8": "live activations at int8, counted",
        "flash_int8": "weights at int8, counted",
        "training_memory": "a step of 64 images in fp32, counted",
        "params": "trainable numbers",
        "macs": "multiply-adds for one image",
    }
    if found.get("memory_measured"):
        rows.append(("memory measured", format_cost("memory", found["memory_measured"]), "peak of one inference"))
    rows += [(name, format_cost(name, costs[name]), note) for name, note in notes.items() if name in costs]
    return [{"what": what, "value": value, "note": note} for what, value, note in rows]


def energy_facts(model: torch.nn.Module, shape: Any, device: str, threads: int, seconds: float) -> dict[str, Any]:
    """Latency, energy in mJ and power in W of a network measured here, what they rest on, and what disturbed them."""
    found = measure_network(model, shape, device=device, threads=threads, seconds=seconds, precision=0.005)
    return {
        "latency": found.latency.to_json(),
        "energy": found.energy,
        "power": found.power,
        "metered": found.metered,
        "source": found.energy_source,
    }
