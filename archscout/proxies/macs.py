"""Multiply-adds of convolutions and linear layers."""

from __future__ import annotations

from archscout.probe import Probe, Proxy


def macs(probe: Probe) -> float:
    """The multiply-adds of convolutions and linear layers for one image.

    Data: none. Larger is better. Scale: counts. Cost: none (a trace on the meta device).
    A strong baseline; under a limit it fills the limit. Fails like `params`: it says nothing about how the operations
    are connected, and little among the best networks of a space. Has many ties.
    """
    return float(probe.trace.macs)


PROXY = Proxy(macs, (), "max", "multiply-adds", "baseline; see Ning et al. 2021, arXiv 2008.03064", "none", "none")
