"""The growth of the variance through blocks: closed forms, an independent slow version, and where it does not exist."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from archscout.probe import NotDefined, Probe, kaiming, noise_batch
from archscout.proxies import PROXIES
from archscout.proxies.variance_growth import GROWTHS
from archscout.spaces.nasbench201 import nasbench201
from archscout.spaces.plain import plain

SPACE = nasbench201((3, 16, 16), 4, channels=8, cells=2)
BATCHES = [(torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 4)]


def growth(model: nn.Module) -> float:
    return PROXIES["variance_growth"].compute(Probe(model, BATCHES))


def cell(text: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SPACE.build(SPACE.parse(text))


def test_a_chain_of_normalised_convolutions_neither_grows_nor_shrinks() -> None:
    # Every cell is ReLU, convolution, BN: of variance one. Only the first of a stage reads a map of another variance.
    model = cell("|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|")
    first, second = np.reshape(Probe(model, BATCHES)[GROWTHS], (3, 2)).T
    assert second == pytest.approx(0, abs=1e-3)
    assert np.ptp([first.mean(), growth(model) * 2]) < 1e-3


def test_skips_alone_grow_by_the_logarithm_of_their_square() -> None:
    # x -> x + x through two paths: the variance is four times as large in every cell.
    model = cell("|skip_connect~0|+|none~0|none~1|+|skip_connect~0|skip_connect~1|none~2|")
    assert growth(model) == pytest.approx(math.log(4), abs=1e-4)


def test_a_residual_branch_adds_its_variance() -> None:
    # x + BN(conv(ReLU(x))): about log(1 + 1 / Var(x)), with Var(x) = 1, 2 in the first stage's two cells.
    model = cell("|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|")
    assert growth(model) == pytest.approx(0.0, abs=1e-6)
    residual = growth(cell("|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|nor_conv_3x3~1|none~2|"))
    twice = growth(cell("|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"))
    assert 0.3 < residual < twice


def slow(model: nn.Module, blocks: list[nn.Module], images: np.ndarray) -> float:
    """Loops over channels of the maps that enter and leave the blocks, in NumPy."""
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    handles = [
        b.register_forward_hook(lambda m, i, o: seen.append((i[0].detach().numpy(), o.detach().numpy())))
        for b in blocks
    ]
    with torch.no_grad():
        model(torch.from_numpy(images))
    for handle in handles:
        handle.remove()
    logs = []
    for before, after in seen:
        if before.shape == after.shape:
            means = [np.mean([x[:, c].astype(float).var() for c in range(x.shape[1])]) for x in (before, after)]
            logs.append(math.log(means[1] / means[0]))
    return sum(logs) / len(logs)


def test_equals_the_slow_version() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = plain((3, 16, 16), 4).build((0, 1))
    probe = Probe(model, BATCHES)
    network = probe.prepared(kaiming)
    blocks = [*network.layer1, *network.layer2, *network.layer3]
    wanted = slow(network, blocks, noise_batch(probe, 0)[0].numpy())
    assert PROXIES["variance_growth"].compute(probe) == pytest.approx(wanted, rel=1e-4)


def test_a_block_that_changes_its_input_in_place_is_read_before_it_does() -> None:
    class Network(nn.Module):
        def __init__(self, inplace: bool) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 4)
            self.blocks = [nn.Sequential(nn.ReLU(inplace=inplace), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))]
            self.body = nn.Sequential(*self.blocks)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(self.stem(x)).mean((2, 3)))

    def made(inplace: bool) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Network(inplace)

    assert growth(made(True)) == growth(made(False)) != 0


def test_no_score_has_a_reason_and_leaves_the_others_of_the_pass() -> None:
    chain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(NotDefined, match="keeps the shape"):
        growth(chain)
    dead = cell("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    probe = Probe(dead, BATCHES, needs=[*PROXIES["variance_growth"].needs, *PROXIES["expressivity"].needs])
    with pytest.raises(NotDefined, match="constant"):
        PROXIES["variance_growth"].compute(probe)
