"""Measures the networks of this folder on this device. Run it there: python bench.py

It needs Python 3.8 or newer, numpy and onnxruntime, no network and no rights. For each network it warms up, repeats
one inference at batch 1, and keeps the median in milliseconds with its 95 % interval, in two passes over all networks
of which the faster counts; the interval reaches to the median of the slower. A repeat in which Linux gave the core to
another program counts with its time on the core (with one thread). Energy is read where Linux shows the processor's
counters to this user. Everything goes into one file, measured.json, to be taken back: archscout device add NAME
measured.json. The file is written anew after each network, so that a stop keeps what was measured until then.
"""

from __future__ import annotations

import argparse
import errno
import glob
import json
import math
import os
import platform
import sys
import time

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

FORMAT = "archscout-measured/1"
HERE = os.path.dirname(os.path.abspath(__file__))
RAPL = "measured by RAPL, the whole processor with all that ran on it"


def main(argv: list[str] | None = None) -> int:
    """Measure, show a line for each network, and write the file; the exit code is 2 where nothing can be measured."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--out", default="measured.json", help="file to write (default: measured.json)")
    words.add_argument("--threads", type=int, default=1, help="threads of an inference (default: 1)")
    words.add_argument("--seconds", type=float, default=1.0, help="seconds for each network and pass (default: 1)")
    words.add_argument("--provider", default="CPUExecutionProvider", help="of onnxruntime (default: the CPU's)")
    words.add_argument("--name", default="", help="what this device is (default: as the system calls it)")
    asked = words.parse_args(argv)
    try:
        import numpy  # noqa: F401
        import onnxruntime
    except ImportError as error:
        return fail(f"{error}; type: pip install numpy onnxruntime")
    if asked.threads < 1 or not 0 < asked.seconds < math.inf:
        return fail("wanted --threads of at least 1 and --seconds above 0")
    if asked.provider not in onnxruntime.get_available_providers():
        have = ", ".join(onnxruntime.get_available_providers())
        return fail(f"onnxruntime here has no {asked.provider}; it has {have}")
    try:
        networks = listed(os.path.join(HERE, "kit.json"))
        keep(asked.out, None)
    except ValueError as error:
        return fail(str(error))
    except OSError as error:
        return fail(f"cannot write {asked.out} ({error.strerror}); name another file with --out")
    meter = EnergyMeter.found()
    about = {
        "format": FORMAT,
        "device": asked.name or device_name(),
        "system": platform.platform(),
        "runtime": "onnxruntime",
        "runtime_version": onnxruntime.__version__,
        "provider": asked.provider,
        "threads": asked.threads,
        "batch": 1,
        "units": {"latency": "ms", "energy": "mJ"},
        "energy_source": RAPL if meter else None,
        "asked": len(networks),
    }
    done: list[dict] = [{} for _ in networks]
    stopped = False
    try:
        for turn in (1, 2):
            for place, network in enumerate(networks):
                try:
                    found = measure(os.path.join(HERE, network["file"]), asked, meter)
                except Exception as error:  # a network that this device cannot run costs itself only
                    found = {"failure": (str(error).strip().splitlines() or [type(error).__name__])[0][:200]}
                done[place] = better(done[place], found)
                so_far = [{**row, **one} for row, one in zip(networks, done) if one]  # noqa: B905 - Python 3.8
                if any("latency" in one for one in done):
                    keep(asked.out, {**about, "networks": so_far})
                shown = found.get("failure") or "{latency:9.3f} ms ({low:.3f} to {high:.3f})".format(**found)
                print(f"{turn}/2 {place + 1:3}/{len(networks)} {network['file']:12} {shown}", flush=True)
    except KeyboardInterrupt:
        stopped = True
    except OSError as error:
        return fail(f"cannot write {asked.out} ({error.strerror}); make room, or name another file with --out")
    good = [found for found in done if "latency" in found]
    if not good:
        said = "it was stopped" if stopped else f"the first said: {done[0]['failure']}"
        return fail(f"no network could be measured; {said}")
    if stopped:
        print(f"stopped: {asked.out} holds {len(good)} of {len(networks)} networks; to measure all, run it again")
        return 130
    noisy = sum(found["noise"] > 0.1 for found in good)
    if noisy:
        print(
            f"note: the machine was busy or hot during {noisy} of {len(good)}; if you can, stop other programs, repeat"
        )
    print(f"wrote {asked.out}: {len(good)} networks; take it back and type: archscout device add NAME {asked.out}")
    return 0


def listed(path: str) -> list[dict]:
    """The networks of a kit.json; ValueError that says what is wrong with it."""
    mend = "copy the whole folder that archscout bench-kit wrote"
    try:
        with open(path, encoding="utf-8") as file:
            networks = json.load(file)["networks"]
        whole = all(isinstance(network["file"], str) for network in networks)
    except OSError as error:
        raise ValueError(f"cannot read kit.json beside bench.py ({error.strerror}); {mend}") from None
    except (ValueError, TypeError, KeyError):
        whole = False
    if not whole:
        raise ValueError(f"kit.json is damaged; {mend}")
    if not networks:
        raise ValueError(f"kit.json lists no networks; {mend}")
    return networks


def keep(path: str, found: dict | None) -> None:
    """Put what was found at a path, whole or not at all, also when the power fails; with None only try the place."""
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    with open(path + ".part", "w", encoding="utf-8") as file:
        json.dump(found, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    if found is None:
        os.remove(path + ".part")
    else:
        os.replace(path + ".part", path)


def measure(path: str, asked: argparse.Namespace, meter: EnergyMeter | None) -> dict:
    """What one network takes: milliseconds, and millijoules where there is a meter."""
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = asked.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=[asked.provider])
    entry = session.get_inputs()[0]
    shape = [side if isinstance(side, int) else 1 for side in entry.shape]
    image = {entry.name: numpy.random.RandomState(0).standard_normal(shape).astype(numpy.float32)}
    begin, count = time.perf_counter(), 0
    while count < 3 or time.perf_counter() - begin < 0.3 * asked.seconds:
        session.run(None, image)
        count += 1
    samples: list[float] = []
    joules = meter.joules() if meter else 0.0
    begin = now = time.perf_counter()
    on_core = asked.threads == 1 and asked.provider == "CPUExecutionProvider"
    while (now - begin < asked.seconds or len(samples) < 20) and now - begin < 5 * asked.seconds:
        switches, core, start = preemptions(), time.thread_time(), time.perf_counter()
        session.run(None, image)
        now = time.perf_counter()
        spent = now - start
        if on_core and preemptions() > switches:
            spent = min(spent, time.thread_time() - core)
        samples.append(1e3 * spent)
    joules = meter.joules() - joules if meter else 0.0
    watts = joules / (time.perf_counter() - begin)
    median, low, high = interval(samples)
    return {
        "latency": median,
        "low": low,
        "high": high,
        "p95": sorted(samples)[min(len(samples) - 1, int(0.95 * len(samples)))],
        "repeats": len(samples),
        "noise": noise(samples),
        "energy": watts * sum(samples) / len(samples) if joules > 0 else None,
    }


def better(one: dict, other: dict) -> dict:
    """The faster of two passes, with an interval that reaches to the median of the slower; or the one that worked."""
    fast, slow = sorted((one, other), key=lambda found: found.get("latency", math.inf))
    if "latency" not in fast:
        return other
    return {**fast, "high": max(fast["high"], slow["latency"])} if "latency" in slow else fast


def preemptions() -> int:
    """How often the system has taken the core away from this thread; always 0 where it does not say."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw if hasattr(resource, "RUSAGE_THREAD") else 0


def median_of(samples: list[float]) -> float:
    """The median of some numbers."""
    ordered = sorted(samples)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def median_interval(samples: list[float]) -> tuple[float, float, float]:
    """The median and the order statistics that enclose the true one with 95 % confidence."""
    ordered, below, k = sorted(samples), 0.0, 0
    n = len(ordered)
    while True:  # the smallest k with P(Binomial(n, 1/2) <= k) of at least 2.5 %
        below += math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))
        if below >= 0.025:
            return median_of(ordered), ordered[max(1, k) - 1], ordered[-max(1, k)]
        k += 1


def interval(samples: list[float]) -> tuple[float, float, float]:
    """The median, and the wider at either end of median_interval and of what the medians of eight blocks say of it."""
    median, low, high = median_interval(samples)
    half = 2.365 / 7**0.5 * noise(samples) * median  # Student's t; batch means
    return median, max(min(samples), min(low, median - half)), min(max(samples), max(high, median + half))


def noise(samples: list[float]) -> float:
    """The standard deviation of the medians of eight consecutive blocks, relative to the median."""
    size = max(1, len(samples) // 8)
    medians = [median_of(samples[at : at + size]) for at in range(0, len(samples) - size + 1, size)]
    mean = sum(medians) / len(medians)
    return math.sqrt(sum((value - mean) ** 2 for value in medians) / len(medians)) / median_of(samples)


class EnergyMeter:
    """The energy counters of the processor's packages and their memory, added up since the first reading."""

    def __init__(self, zones: list[str]) -> None:
        self.zones = [(zone, int(read(zone, "max_energy_range_uj"))) for zone in zones]
        self.last = [int(read(zone, "energy_uj")) for zone in zones]
        self.total = 0.0

    @classmethod
    def found(cls) -> EnergyMeter | None:
        """The meter of this machine, or None where there is no counter that this user may read."""
        try:
            zones = [zone for zone in sorted(glob.glob("/sys/class/powercap/intel-rapl:*")) if counts(zone)]
            return cls(zones) if zones else None
        except (OSError, ValueError):
            return None

    def joules(self) -> float:
        """Joules so far."""
        for place, (zone, most) in enumerate(self.zones):
            now = int(read(zone, "energy_uj"))
            self.total += (now - self.last[place] if now >= self.last[place] else now + most - self.last[place]) / 1e6
            self.last[place] = now
        return self.total


def counts(zone: str) -> bool:
    """Whether a counter is of a whole package, or of its memory, which is not in the package's."""
    name = read(zone, "name")
    return name == "dram" or (os.path.basename(zone).count(":") == 1 and name.startswith("package"))


def read(folder: str, name: str) -> str:
    """The text of a small file."""
    with open(os.path.join(folder, name), encoding="utf-8") as file:
        return file.read().strip()


def device_name() -> str:
    """What this device is: the board's name, or the processor's."""
    try:
        return read("/proc/device-tree", "model").strip("\0 ")
    except OSError:
        pass
    try:
        for line in read("/proc", "cpuinfo").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"


def fail(message: str) -> int:
    """Say on one line what is wrong; the exit code for it."""
    print("error: " + message, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
