"""Count of trainable numbers."""

from __future__ import annotations

from archscout.probe import Probe, Proxy


def params(probe: Probe) -> float:
    """The number of trainable parameters.

    Data: none. Larger is better. Scale: counts. Cost: none (a trace on the meta device).
    Use it as the baseline that every other proxy has to beat: on CIFAR-like tasks larger networks are better.
    Fails where size does not decide: among the best networks of a space, and on tasks unlike natural images
    (rank correlation .01 with accuracy on NinaPro over the NAS-Bench-201 cells). Has many ties.
    """
    return float(probe.trace.params)


PROXY = Proxy(params, (), "max", "parameters", "baseline; see Ning et al. 2021, arXiv 2008.03064", "none", "none")
