"""The cells and skip links of networks against counts by hand and the published counts; nn_mass and nn_degree."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch
from torch import nn

from archscout.links import Cell, cells_of
from archscout.probe import NotDefined, Probe
from archscout.proxies import PROXIES
from archscout.spaces import SPACES
from archscout.testing import tiny_dense, tiny_network, tiny_transformer

SHAPE = (3, 16, 16)


def value(name: str, model: nn.Module) -> float:
    return PROXIES[name].compute(Probe(model, [(torch.zeros(2, *SHAPE), torch.zeros(2, dtype=torch.int64))]))


def conv(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    body = nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False), nn.BatchNorm2d(outputs)
    return nn.Sequential(*body, nn.ReLU(inplace=True))


class Ended(nn.Module):
    """A body that a head turns into logits."""

    def __init__(self, body: nn.Module, channels: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(channels, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))


# --- concatenation ---------------------------------------------------------------------------------------------------


def test_a_tiny_dense_network_counted_by_hand() -> None:
    # Maps of 6, 4 and 4 channels. The second layer reads the first map and the one before it: six links skip a layer.
    assert cells_of(tiny_dense(), SHAPE) == [Cell((6, 4, 4), 6, 6)]
    assert value("nn_mass", tiny_dense()) == pytest.approx(1.0 * 14)
    assert value("nn_degree", tiny_dense()) == pytest.approx(14 / 3 + 6 / 14)


def test_torchvision_densenet_counted_by_hand() -> None:
    vision = pytest.importorskip("torchvision")
    model = vision.models.DenseNet(growth_rate=4, block_config=(2, 3), num_init_features=8, num_classes=4)
    # Block 1 starts from 8 channels; its second layer skips these 8. The transition halves 8 + 4 + 4 channels to 8.
    # Block 2: the second layer skips 8, the third 8 + 4. A layer of two convolutions is one layer.
    assert cells_of(model, (3, 32, 32)) == [Cell((8, 4, 4), 8, 8), Cell((8, 4, 4, 4), 20, 20)]
    assert value("nn_mass", model) == pytest.approx(16 + 20)
    assert value("nn_degree", model) == pytest.approx(16 / 3 + 8 / 16 + 20 / 4 + 20 / 20)


class Sparse(nn.Module):
    """Cells of chained layers, each of which also reads some random channels of the maps two and more before it."""

    def __init__(self, depth: int, widths: tuple[int, ...], links: tuple[int, ...], joins_last: bool) -> None:
        super().__init__()
        draw = random.Random(0)
        self.picks = [
            [torch.tensor(draw.sample(range(w * max(i - 1, 0)), min(t, w * max(i - 1, 0)))) for i in range(depth)]
            for w, t in zip(widths, links, strict=True)
        ]
        self.joins_last = joins_last
        self.cells = nn.ModuleList()
        for before, width, picks in zip((3, *widths), widths, self.picks, strict=False):
            first = conv(before, width, stride=2)
            self.cells.append(nn.ModuleList([first, *(conv(width + len(p), width) for p in picks[1:])]))
        self.head = nn.Linear(widths[-1], 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layers, picks in zip(self.cells, self.picks, strict=True):
            x = layers[0](x)
            seen = x[:, :0]
            for layer, picked in zip(list(layers)[1:], picks[1:], strict=True):
                before, x = x, layer(torch.cat((x, seen[:, picked]), 1) if len(picked) else x)
                seen = torch.cat((seen, before), dim=1)
            if self.joins_last:
                torch.cat((seen, x), 1)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("joins_last", [True, False])
@pytest.mark.parametrize(("depth", "links"), [(4, (3, 5)), (6, (7, 1000)), (5, (1, 2))])
def test_sparse_links_are_counted_as_in_the_published_code(
    depth: int, links: tuple[int, ...], joins_last: bool
) -> None:
    """Per cell: density is sum_i min(t, w (i - 1)) / sum_i w (i - 1) over the layers i = 2 .. depth - 1."""
    widths, mass, degree = (6, 9), 0.0, 0.0
    for width, most in zip(widths, links, strict=True):
        possible = [width * (i - 1) for i in range(2, depth)]
        realised = [min(most, count) for count in possible]
        mass += sum(realised) / sum(possible) * width * depth
        degree += width + sum(realised) / (width * depth)
    model = Sparse(depth, widths, links, joins_last)
    assert value("nn_mass", model) == pytest.approx(mass)
    assert value("nn_degree", model) == pytest.approx(degree)


def test_more_links_more_mass() -> None:
    found = [value("nn_mass", Sparse(6, (8,), (t,), True)) for t in (2, 6, 18)]
    assert all(few < many for few, many in pairwise(found))


class Hourglass(nn.Module):
    """One concatenation over a part at half the resolution, written with channels moved about."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down, self.up, self.last = conv(3, 4), conv(4, 6, 2), conv(6, 5), conv(9, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        deep = nn.functional.interpolate(self.up(self.down(x)), scale_factor=2)
        both = torch.cat((deep, x), 1).permute(0, 2, 3, 1).flip(3).permute(0, 3, 1, 2)
        return self.last(both)


def test_a_link_over_a_part_of_several_layers() -> None:
    # Maps that are joined: 4 and 5; the last layer reads both, and 4 channels skip what lies between.
    assert cells_of(Ended(Hourglass(), 4), SHAPE) == [Cell((4, 5, 4), 4, 4)]


# --- addition --------------------------------------------------------------------------------------------------------


class Added(nn.Module):
    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.branch(x)
        out += self.shortcut(x)
        return out


def test_residual_blocks_counted_by_hand() -> None:
    # Two layers: 6 channels of the input pass one by, as many as can. Three: 6 of 6 + 6 + 10.
    basic = Added(nn.Sequential(conv(6, 8), conv(8, 6)), nn.Identity())
    inverted = Added(nn.Sequential(conv(6, 10), conv(10, 10, groups=10), conv(10, 6)), nn.Identity())
    projected = Added(nn.Sequential(conv(6, 8, 2), conv(8, 8)), nn.Conv2d(6, 8, 1, 2))
    short = Added(conv(8, 8), nn.Identity())
    model = Ended(nn.Sequential(conv(3, 6), basic, inverted, projected, short), 8)
    assert cells_of(model, SHAPE) == [Cell((6, 8), 6, 6), Cell((6, 10, 10), 6, 22), Cell((6, 8), 6, 6)]
    assert value("nn_mass", model) == pytest.approx(14 + 6 * 26 / 22 + 14)
    assert value("nn_degree", model) == pytest.approx(2 * (7 + 6 / 14) + 26 / 3 + 6 / 26)


def test_published_counts_of_residual_networks() -> None:
    """The authors' code: inputs + planes a basic block; others (x + 2 h) x / (2 x + h), x outer, h inner channels."""
    models = pytest.importorskip("torchvision").models
    blocks = [(64, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    with torch.device("meta"):
        resnet, mobile = models.resnet18(), models.mobilenet_v2()
    assert value("nn_mass", resnet) == sum(map(sum, blocks))
    repeats = ((24, 1), (32, 2), (64, 3), (96, 2), (160, 2))
    wanted = sum(times * (x + 12 * x) * x / (2 * x + 6 * x) for x, times in repeats)
    assert value("nn_mass", mobile) == pytest.approx(wanted)


def test_a_network_of_the_macro_space() -> None:
    space = SPACES["macro"](SHAPE, 4)
    # Layer 2 alone adds its input: 64 channels, 3 times as many inside. Layers 1, 3 and 6 change the shape.
    assert value("nn_mass", space.build(space.parse("11000000"))) == pytest.approx(64 * (64 + 2 * 192) / (2 * 64 + 192))


# --- where they do not exist, and isolation --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nn_mass", "nn_degree"])
def test_undefined_cases_say_why(name: str) -> None:
    parallel = Ended(nn.Sequential(conv(3, 6), Branches(joined=True), conv(10, 4)), 4)
    for model in (tiny_network(), tiny_transformer_of_maps(), parallel):
        with pytest.raises(NotDefined, match="no link skips a layer"):
            value(name, model)
    with pytest.raises(NotDefined, match="no chains of convolutions"):
        value(name, Ended(nn.Sequential(conv(3, 6), Branches(joined=False)), 5))


class Branches(nn.Module):
    """Two layers side by side, joined; or a sum of three branches."""

    def __init__(self, joined: bool) -> None:
        super().__init__()
        self.joined, self.one, self.two, self.three = joined, conv(6, 5), conv(6, 5), conv(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.joined:
            return torch.cat((self.one(x), self.two(x)), 1)
        return self.one(x) + self.two(x) + self.three(x)


def tiny_transformer_of_maps() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(8), tiny_transformer())


class Reading(nn.Module):
    """A network that reads a value to decide what to do, and so cannot run on shapes alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body = tiny_dense()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x if float(x.sum()) >= 0 else -x)


def test_networks_that_need_data_are_run_on_a_copy() -> None:
    model = Reading().double()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    assert value("nn_mass", model) == 14
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
