"""The shortest way through a network: against a search over the cell's graph, hand counts, and where there is none."""

from __future__ import annotations

import networkx
import numpy as np
import pytest
import torch
from torch import nn

from archscout.probe import NotDefined
from archscout.proxies.short_path import fewest_layers
from archscout.spaces import SPACES
from archscout.spaces.nasbench201 import nasbench201
from archscout.spaces.plain import plain
from archscout.testing import check_proxy

SPACE = nasbench201((3, 16, 16), 4, channels=4, cells=2)


def shortest(text: str) -> int | None:
    """The fewest convolutions between the ends of a cell, by Dijkstra's search."""
    graph = networkx.MultiDiGraph()
    for node, edges in enumerate(text.split("+"), 1):
        for edge in edges.strip("|").split("|"):
            operation, start = edge.split("~")
            if operation != "none":
                graph.add_edge(int(start), node, layers=int("conv" in operation))
    try:
        return networkx.shortest_path_length(graph, 0, 3, weight="layers")
    except (networkx.NetworkXNoPath, networkx.NodeNotFound):
        return None


def test_cells_against_a_search_of_the_graph() -> None:
    rng = np.random.default_rng(0)
    for arch in [SPACE.sample(rng) for _ in range(30)]:
        inside = shortest(SPACE.format(arch))
        if inside is None:
            with pytest.raises(NotDefined, match="no way"):
                fewest_layers(SPACE.build(arch), (3, 16, 16))
            continue
        # a stem, six cells, two reductions whose shorter branch is one convolution, and the classifier
        assert fewest_layers(SPACE.build(arch), (3, 16, 16)) == 1 + 6 * inside + 2 + 1


def test_hand_counts() -> None:
    residual = plain((3, 16, 16), 4)
    for text in ("resnet8-w8", "resnet20-w8"):  # a stem, two projections, the classifier
        assert fewest_layers(residual.build(residual.parse(text)), (3, 16, 16)) == 4
    vit = SPACES["vit"]((3, 16, 16), 4)
    assert fewest_layers(vit.build(vit.sample(np.random.default_rng(0))), (3, 16, 16)) == 2
    chain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.LazyLinear(2))
    chain(torch.zeros(1, 3, 8, 8))
    assert fewest_layers(chain, (3, 8, 8)) == 3


class Dense(nn.Module):
    """Concatenation: the classifier reads the image's own pixels too."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 1), nn.Linear(7, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([x, self.body(x)], 1).mean((2, 3)))


class Concrete(nn.Module):
    """Looks at values, which shapes alone do not have."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3))) if float(x.sum()) == 0 else self.head(x.new_zeros(1, 4))


def test_concatenation_and_a_model_that_must_really_run() -> None:
    assert fewest_layers(Dense(), (3, 4, 4)) == 1
    assert fewest_layers(Concrete(), (3, 4, 4)) == 2


def test_keeps_what_a_proxy_must_keep() -> None:
    check_proxy("short_path")
