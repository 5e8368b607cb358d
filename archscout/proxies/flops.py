"""Multiply-adds plus the element-wise work of normalisation, activation and pooling."""

from __future__ import annotations

from archscout.probe import Probe, Proxy


def flops(probe: Probe) -> float:
    """The operation count of NAS-Bench-201: multiply-adds plus normalisation, activation and pooling, for one image.

    Data: none. Larger is better. Scale: counts. Cost: none (a trace on the meta device).
    Ranks almost as `macs` does; differs where pooling carries much of the work. Fails like `macs`.
    It is also the complexity term of AZ-NAS, beside `expressivity`, `progressivity` and `trainability`.
    """
    return float(probe.trace.flops)


PROXY = Proxy(flops, (), "max", "operations", "Dong & Yang 2020, arXiv 2001.00326", "none", "none")
