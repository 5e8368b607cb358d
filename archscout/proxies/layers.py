"""Count of layers with weights."""

from __future__ import annotations

from torch import nn

from archscout.probe import CONVOLUTIONS, NotDefined, Probe, Proxy


def layers(probe: Probe) -> float:
    """The number of convolutions and linear layers.

    Data: none. Larger is better. Scale: counts. Cost: none.
    A baseline: on NAS-Bench-201 it orders networks about as well as `macs` (Kendall .63 against .62 with test accuracy
    on the connected cells; Tybl & Neumann 2025, arXiv 2502.04975). Has very many ties, and says nothing about width,
    nor among the best networks. Counts modules, whether or not the forward uses them.
    """
    count = sum(isinstance(module, (*CONVOLUTIONS, nn.Linear)) for module in probe.model.modules())
    if not count:
        raise NotDefined("the network has no convolution or linear layer")
    return float(count)


PROXY = Proxy(layers, (), "max", "layers", "baseline; see Tybl & Neumann 2025, arXiv 2502.04975", "none", "none")
