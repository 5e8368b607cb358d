"""How many of a network's layers its skip links pass by, and how wide these are."""

from __future__ import annotations

from archscout.links import cells_of
from archscout.probe import Probe, Proxy


def nn_mass(probe: Probe) -> float:
    """NN-Mass: sum over cells of density * width * depth, density = skip links that there are / that there could be.

    A skip link is one channel that a layer reads past the layer right before it, by concatenation or by addition; width
    * depth is the sum of the channels of the cell's maps, one per layer. Cells: see archscout.links.cells_of.
    Bhardwaj et al. 2021, arXiv 1910.00780. Counts what the authors' published code counts for their densely connected,
    residual and inverted residual networks; other wirings, and maps of unequal width, are this project's extension.
    Data: none. Larger is better. Scale: channels, so it grows with width and depth. Cost: none (a trace on the meta
    device). Made to compare networks of one such family. Fails across families: a network without skip links has no
    score however large it is, nor has one whose sums join other branches, such as most cells of NAS-Bench-201. Sees
    neither the classifier, nor kernels, the tokens of transformers, or layers outside the cells.
    """
    _, channels, height, width = probe.batches[0][0].shape
    cells = cells_of(probe.model, (channels, height, width))
    return sum(cell.realised / cell.possible * sum(cell.widths) for cell in cells)


PROXY = Proxy(nn_mass, (), "max", "channels", "Bhardwaj et al. 2021, arXiv 1910.00780", "none", "none")
