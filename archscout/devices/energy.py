"""Energy of a computation: read from the machine's own meters, or estimated from a stated power."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")
CORE_WATTS = 12.0  # of a busy core, and of a busy card: what Green Algorithms takes for an unknown one
CARD_WATTS = 200.0


@dataclass(frozen=True)
class Meter:
    """A counter of joules. name: what it counts, for people.  read: joules since some moment, never falling."""

    name: str
    read: Callable[[], float]


def open_meter(device: str = "cpu", powercap: Path = POWERCAP) -> tuple[Meter | None, str]:
    """The energy counter of a device, and what it is; or None, and why there is none.

    cpu: RAPL, the counters of processor packages and their memory that Linux shows under /sys/class/powercap. They
    count everything that runs on the processor, and most systems let only root read them.  cuda: NVML's counter of the
    card (needs the package nvidia-ml-py). A reading costs tens of microseconds; the counters step about every
    millisecond.
    """
    return _nvml(device) if device.startswith("cuda") else _rapl(powercap)


def stated_power(device: str = "cpu", threads: int = 1) -> tuple[float, str]:
    """Watts that a busy device is taken to draw where it has no meter, and the sentence that says so.

    12 W for each busy core, or 200 W for a card: the values for unknown hardware of Lannelongue, Grealey and Inouye
    2021, "Green Algorithms", arXiv 2007.07610. Real cores draw from under 1 W (a phone) to over 20 W.
    """
    if device.startswith("cuda"):
        return CARD_WATTS, f"estimate: {CARD_WATTS:g} W for a busy card"
    return CORE_WATTS * threads, f"estimate: {CORE_WATTS:g} W for each of {threads} busy core{'s' * (threads > 1)}"


def _rapl(powercap: Path) -> tuple[Meter | None, str]:
    zones = []
    try:
        for zone in sorted(powercap.iterdir()):
            if not re.fullmatch(r"intel-rapl:\d+(:\d+)?", zone.name):
                continue
            name = (zone / "name").read_text().strip()
            if name == "dram" or (zone.name.count(":") == 1 and name.startswith("package")):
                int((zone / "energy_uj").read_text())
                zones.append((zone / "energy_uj", int((zone / "max_energy_range_uj").read_text())))
    except PermissionError:
        return None, f"no meter: the counters under {powercap} may be read by root only"
    except (OSError, ValueError):
        return None, f"no meter: there is no energy counter under {powercap}"
    if not zones:
        return None, f"no meter: there is no energy counter under {powercap}"
    last = [int(path.read_text()) for path, _ in zones]
    total = [0.0]

    def read() -> float:
        for place, (path, most) in enumerate(zones):
            now = int(path.read_text())
            total[0] += (now - last[place] if now >= last[place] else now + most - last[place]) / 1e6
            last[place] = now
        return total[0]

    return Meter("RAPL", read), "measured by RAPL, the whole processor with all that ran on it"


def _nvml(device: str) -> tuple[Meter | None, str]:
    try:
        import pynvml
    except ImportError:
        return None, "no meter: pip install nvidia-ml-py to read the energy counter of the card"
    try:
        pynvml.nvmlInit()
        handle: Any = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except (pynvml.NVMLError, RuntimeError, AssertionError, AttributeError) as error:  # no driver, no card, no counter
        return None, f"no meter: the card has no readable energy counter ({error})"

    def read() -> float:
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3

    return Meter("NVML", read), "measured by NVML, the whole card"
