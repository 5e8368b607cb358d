"""The DARTS space against published sizes, a count by hand, brute force, and a plain computation of one cell."""

from __future__ import annotations

from itertools import combinations, permutations, product

import numpy as np
import pytest
import torch
from torch import nn

from archscout.costs.trace import trace
from archscout.errors import UserError
from archscout.scoring import score
from archscout.spaces.darts import (
    DISTINCT,
    NODES,
    OPS,
    PUBLISHED,
    AuxiliaryHead,
    Cell,
    FactorizedReduction,
    Place,
    arch_of,
    canonical,
    cells_of,
    darts,
    plan,
    smallest,
)

SPACE = darts((3, 32, 32), 10)
LARGE = darts((3, 224, 224), 1000)
SMALL = darts((3, 12, 12), 5, channels=4, layers=3)


def counted(arch: tuple[int, ...], channels: int, layers: int, classes: int, large: bool = False) -> int:
    """The parameters of a network, added up by hand: no module is made."""

    def edge(op: str, width: int, halves: bool) -> int:
        side = int(op[-1]) if op[-1].isdigit() else 0
        if op.startswith("sep"):
            return 2 * (side * side * width + width * width + 2 * width)
        if op.startswith("dil"):
            return side * side * width + width * width + 2 * width
        return width * width + 2 * width if op == "skip_connect" and halves else 0  # two halves of a 1x1 convolution

    half = channels // 2
    total = (
        9 * (3 * half + half * channels + channels * channels) + 2 * (half + 2 * channels) if large else 87 * channels
    )
    before = last = channels if large else 3 * channels
    width = channels
    for number in range(layers):
        reduction = number in (layers // 3, 2 * layers // 3)
        width *= 2 if reduction else 1
        total += (before + last) * width + 4 * width
        for pair in cells_of(arch)[reduction]:
            total += sum(edge(OPS[op], width, reduction and source < 2) for source, op in pair)
        before, last = last, 4 * width
    return total + last * classes + classes


def params(space, arch) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in space.build(arch).parameters())


@pytest.mark.parametrize(
    ("name", "published", "digits"),
    [("DARTS_V2", 3.349, 3), ("PDARTS", 3.43, 2), ("PC_DARTS_cifar", 3.6, 1)],
)
def test_published_sizes_on_cifar(name: str, published: float, digits: int) -> None:
    """DARTS: README of its code, "3.349MB params"; P-DARTS: 3.4 in the paper, 3.43 by its code; PC-DARTS: the paper."""
    arch = SPACE.parse(name)
    assert round(params(SPACE, arch) / 1e6, digits) == published
    assert params(SPACE, arch) == counted(arch, 36, 20, 10)


def test_published_size_on_imagenet_and_multiply_adds() -> None:
    """README of DARTS: 4.719 million parameters on ImageNet with 48 channels and 14 cells, without auxiliary head."""
    arch = LARGE.parse("DARTS_V2")
    assert round(params(LARGE, arch) / 1e6, 3) == 4.719
    assert params(LARGE, arch) == counted(arch, 48, 14, 1000, large=True)
    with torch.device("meta"):
        seen = trace(SPACE.build(SPACE.parse("DARTS_V2")), (3, 32, 32))
    assert round(seen.macs / 1e6) == 528  # as counted by FairDARTS (Chu et al. 2020, arXiv:1911.12126)


def test_parameters_of_random_networks_by_hand() -> None:
    rng = np.random.default_rng(0)
    for _ in range(6):
        arch = SMALL.sample(rng)
        assert params(SMALL, arch) == counted(arch, 4, 3, 5)
    assert counted(SPACE.parse("DARTS_V1"), 36, 20, 10) == 3_169_414


def test_the_raw_space_has_the_published_size() -> None:
    """Liu et al. 2019: the product over k = 1..4 of (k + 1) k / 2 x 7^2, about 10^9 cells of each kind."""
    cells = 1
    for k in range(1, 5):
        cells *= (k + 1) * k // 2 * 7**2
    assert SPACE.size == cells**2
    assert len(SPACE.choices) == 24
    assert all("none" not in options for options in SPACE.choices.values())


def graphs() -> list[dict[int, tuple[int, int]]]:
    """Every way in which four named nodes each read two of the inputs and of each other, without cycles."""
    found = []
    for pick in product(*(tuple(combinations([s for s in range(6) if s != node], 2)) for node in NODES)):
        reads, known = dict(zip(NODES, pick, strict=True)), {0, 1}
        for _ in NODES:
            known |= {node for node, pair in reads.items() if set(pair) <= known}
        if len(known) == 6:
            found.append(reads)
    return found


def orbits(ops: int) -> int:
    """How many cells there are up to the names of nodes, with so many operations: Burnside's lemma over S4."""
    total = 0
    for order in permutations(NODES):
        new = dict(zip(NODES, order, strict=True)) | {0: 0, 1: 1}
        for reads in graphs():
            edges = {(source, node) for node, pair in reads.items() for source in pair}
            if {(new[a], new[b]) for a, b in edges} != edges:
                continue
            cycles = 0
            while edges:
                cycles, start = cycles + 1, min(edges)
                edge = start
                while edge in edges:
                    edges.discard(edge)
                    edge = (new[edge[0]], new[edge[1]])
            total += ops**cycles
    assert total % 24 == 0
    return total // 24


def test_canonical_cells_are_counted_by_burnside() -> None:
    assert orbits(7) ** 2 == DISTINCT == SPACE.distinct
    halves = product(*([*range(size)] for pairs in (1, 3, 6, 10) for size in (pairs, 2, 2)))  # two operations only
    assert len({smallest(half) for half in halves}) == orbits(2)


def test_canonical_is_idempotent_and_blind_to_names_only() -> None:
    rng = np.random.default_rng(1)
    widths = [len(options) for options in SPACE.choices.values()]
    for _ in range(50):
        arch = tuple(int(rng.integers(width)) for width in widths)
        chosen = canonical(arch)
        assert canonical(chosen) == chosen <= arch
        assert counted(chosen, 8, 5, 10) == counted(arch, 8, 5, 10)
        assert arch_of(cells_of(arch)) == arch
        assert SPACE.parse(SPACE.format(arch)) == arch
    one = SPACE.parse(PUBLISHED["DARTS_V2"])
    swapped = SPACE.parse(PUBLISHED["DARTS_V2"].replace("sep3~0+sep3~1-sep3~0+sep3~1", "sep3~1+sep3~0-sep3~1+sep3~0"))
    assert swapped == one


def test_renamed_nodes_compute_the_same_up_to_the_order_of_channels() -> None:
    """A cell and its twin with corresponding weights: the parts of the concatenation are permuted."""
    text = "sep3~0+dil5~1-max~0+skip~1-sep5~0+avg~1-skip~2+dil3~3"
    twin = "max~0+skip~1-sep3~0+dil5~1-sep5~0+avg~1-dil3~2+skip~3"
    same = [SPACE.parse(f"normal-{t}-reduce-{t}") for t in (text, twin)]
    assert canonical(same[0]) == canonical(same[1])
    place = Place(6, 6, 4, False, False)
    cells = [Cell(cells_of(arch)[0], place).double().eval() for arch in same]
    order = [2, 3, 0, 1, 4, 5, 7, 6]  # place in the first cell of each operation of the second
    for mine, other in enumerate(order):
        cells[1].operations[mine].load_state_dict(cells[0].operations[other].state_dict())
    for part in ("before", "last"):
        getattr(cells[1], part).load_state_dict(getattr(cells[0], part).state_dict())
    x, y = torch.randn(2, 2, 6, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one, other = (cell(x, y).split(4, 1) for cell in cells)
    for a, b in zip(one, (other[1], other[0], *other[2:]), strict=True):
        torch.testing.assert_close(a, b)


def test_a_cell_computes_what_its_text_says() -> None:
    """Node by node, with torch's functions and the cell's weights."""
    arch = SPACE.parse(
        "normal-" + "-".join(["skip~0+skip~1"] * 4) + "-reduce-sep3~0+skip~1-max~0+avg~2-dil5~1+skip~2-sep5~3+dil3~4"
    )
    cell = Cell(cells_of(arch)[1], Place(6, 8, 4, True, False)).eval()
    x, y = torch.randn(2, 6, 7, 6), torch.randn(2, 8, 7, 6)

    def bn(values, norm):
        return nn.functional.batch_norm(values, norm.running_mean, norm.running_var, norm.weight, norm.bias)

    def ready(values, layers):
        return bn(nn.functional.conv2d(values.relu(), layers[1].weight), layers[2])

    def convolved(values, layers, padding, stride, dilation):
        return nn.functional.conv2d(values, layers.weight, None, stride, padding, dilation, groups=len(layers.weight))

    def separable(values, m, size, stride):
        values = nn.functional.conv2d(convolved(values.relu(), m[1], size // 2, stride, 1), m[2].weight)
        return bn(nn.functional.conv2d(convolved(bn(values, m[3]).relu(), m[5], size // 2, 1, 1), m[6].weight), m[7])

    def dilated(values, m, size, stride):
        return bn(nn.functional.conv2d(convolved(values.relu(), m[1], size - 1, stride, 2), m[2].weight), m[3])

    with torch.no_grad():
        m = cell.operations
        first, second = ready(x, cell.before), ready(y, cell.last)
        rows = nn.functional.pad(second.relu(), (0, 0, 0, 1))[:, :, 1::2, 1::2]
        halved = torch.cat(
            [
                nn.functional.conv2d(second.relu()[:, :, ::2, ::2], m[1].first.weight),
                nn.functional.conv2d(rows, m[1].second.weight),
            ],
            1,
        )
        two = separable(first, m[0], 3, 2) + bn(halved, m[1].norm)
        three = nn.functional.max_pool2d(first, 3, 2, 1) + nn.functional.avg_pool2d(
            two, 3, 1, 1, count_include_pad=False
        )
        four = dilated(second, m[4], 5, 2) + two
        five = separable(three, m[6], 5, 1) + dilated(four, m[7], 3, 1)
        torch.testing.assert_close(cell(x, y), torch.cat([two, three, four, five], 1))


@pytest.mark.parametrize("side", [1, 4, 5])
def test_a_factorised_reduction_reads_every_pixel(side: int) -> None:
    """With weights of one, its halves are the pixels at even and at odd places."""
    layer = FactorizedReduction(1, 2)
    with torch.no_grad():
        layer.first.weight.fill_(1.0)
        layer.second.weight.fill_(1.0)
    x = torch.arange(1.0, side * side + 1).view(1, 1, side, side)
    even, odd = layer.halved(x)[0]
    assert even.tolist() == x[0, 0, ::2, ::2].tolist()
    assert torch.equal(odd[: side // 2, : side // 2], x[0, 0, 1::2, 1::2])
    assert odd.shape == even.shape
    assert float(odd.detach().sum()) == float(x[0, 0, 1::2, 1::2].sum())


@pytest.mark.parametrize(("layers", "where"), [(3, [1, 2]), (8, [2, 5]), (14, [4, 9]), (20, [6, 13])])
def test_reductions_stand_at_a_third_and_two_thirds(layers: int, where: list[int]) -> None:
    places = list(plan(16, layers, False))
    assert [n for n, place in enumerate(places) if place.reduction] == where
    assert [n for n, place in enumerate(places) if place.after_reduction] == [n + 1 for n in where if n + 1 < layers]
    assert places[-1].channels == 64


@pytest.mark.parametrize(("shape", "sides"), [((1, 9, 7), (3, 2)), ((3, 96, 100), (3, 4)), ((3, 95, 96), (24, 24))])
def test_the_stem_follows_the_image(shape, sides) -> None:
    space = darts(shape, 4, channels=4, layers=3)
    model = space.build(space.parse("DARTS_V2")).eval()
    seen = []
    model.cells[-1].register_forward_hook(lambda m, i, output: seen.append(tuple(output.shape[2:])))
    with torch.inference_mode():
        assert model(torch.zeros(1, *shape)).shape == (1, 4)
    assert seen == [sides]
    assert len(model.stem) == (2 if min(shape[1:]) >= 96 else 1)


def test_the_auxiliary_head_is_a_part_of_training_only() -> None:
    model = SMALL.build(SMALL.parse("PDARTS"))
    before = set(model.state_dict())
    model.auxiliary = model.make_auxiliary()
    x = torch.randn(3, 3, 12, 12)
    logits, aside = model.train()(x)
    assert logits.shape == aside.shape == (3, 5)
    assert model.eval()(x).shape == (3, 5)
    model.auxiliary = None
    assert set(model.state_dict()) == before
    assert model.train()(x).shape == (3, 5)
    published = AuxiliaryHead(4 * 144, (8, 8), 10)
    assert sum(p.numel() for p in published.parameters()) == 576 * 128 + 256 + 128 * 768 * 4 + 1536 + 7690
    assert published.features[1](torch.zeros(1, 1, 8, 8)).shape[2:] == (2, 2)
    for size in ((7, 7), (10, 6), (1, 3), (14, 14)):
        head = AuxiliaryHead(4, size, 3).eval()
        assert head(torch.zeros(2, 4, *size)).shape == (2, 3)


def test_drop_path_leaves_the_expectation_and_the_identity() -> None:
    model = SMALL.build(SMALL.parse("DARTS_V1")).train()
    paths = [cell.drop for cell in model.cells]
    x = torch.full((20_000, 1, 1, 1), 3.0)
    torch.manual_seed(0)
    paths[0].rate = 0.2
    dropped = paths[0](x)
    assert dropped.unique().tolist() == pytest.approx([0.0, 3 / 0.8])
    assert float((dropped == 0).float().mean()) == pytest.approx(0.2, abs=4 * (0.16 / 20_000) ** 0.5)
    assert float(dropped.mean()) == pytest.approx(3.0, abs=4 * 3 * (0.25 / 20_000) ** 0.5)
    paths[0].eval()
    assert torch.equal(paths[0](x), x)
    cell = Cell(
        cells_of(SPACE.parse("normal-" + "-".join(["skip~0+skip~1"] * 4) + "-reduce-" + "-".join(["max~0+max~1"] * 4)))[
            0
        ],
        Place(4, 4, 4, False, False),
    )
    cell.drop.train()
    cell.drop.rate = 1.0  # an identity is never dropped, so nothing is
    x, y = torch.randn(2, 3, 4, 5, 5)
    wanted = (cell.before(x) + cell.last(y)).repeat(1, 4, 1, 1)
    torch.testing.assert_close(cell(x, y), wanted)


def test_default_proxies_have_scores() -> None:
    images, labels = torch.randn(16, 3, 12, 12), torch.randint(5, (16,))
    scores = score(SMALL.build(SMALL.parse("DARTS_V2")), images, labels, seed=0)
    assert not scores.failures
    assert len(scores) >= 8


def test_wrong_sizes_and_descriptions() -> None:
    for wrong in ({"channels": 1}, {"layers": 2}):
        with pytest.raises(UserError, match="channels >= 2 and layers >= 3"):
            darts((3, 32, 32), 10, **wrong)
    drawn = SPACE.describe(SPACE.parse("DARTS_V2"))
    assert [cell["name"] for cell in drawn["cells"]] == ["normal cell", "reduction cell"]
    assert drawn["cells"][0]["edges"][-1] == [2, 5, "dil_conv_3x3"]
    assert all(len(cell["edges"]) == 8 for cell in drawn["cells"])
