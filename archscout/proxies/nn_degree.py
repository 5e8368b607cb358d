"""How many neighbours a channel has in a network with skip links."""

from __future__ import annotations

from archscout.links import cells_of
from archscout.probe import Probe, Proxy


def nn_degree(probe: Probe) -> float:
    """NN-Degree: sum over cells of width + skip links / channels, the mean degree of a channel in the network's graph.

    width: mean channels of the cell's maps, one per layer, as each channel is linked with all of the next map;
    channels: their sum over the maps; skip links: as in `nn_mass`. Cells: see archscout.links.cells_of.
    Li et al. 2021, "FLASH", arXiv 2108.00568, for dense, residual and inverted residual networks. Only the abstract
    could be read: the formula follows accounts of the paper by others and was compared neither with it nor with code.
    Data: none. Larger is better. Scale: channels; it grows with width and with the number of cells, hardly with depth.
    Cost: none (a trace on the meta device).
    Fails where `nn_mass` does. Width is nearly all of it: skip links add at most half the depth of a cell.
    """
    _, channels, height, width = probe.batches[0][0].shape
    cells = cells_of(probe.model, (channels, height, width))
    return sum(sum(cell.widths) / len(cell.widths) + cell.realised / sum(cell.widths) for cell in cells)


PROXY = Proxy(nn_degree, (), "max", "channels", "Li et al. 2021, arXiv 2108.00568", "none", "none")
