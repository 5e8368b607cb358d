"""The NAS-Bench-201 space against a slow version of itself and against the published tables."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import pairwise, permutations

import pytest
import torch
from reference import nasbench201_slow as slow

from archscout.costs import measure, trace
from archscout.errors import UserError
from archscout.spaces.nasbench201 import EDGES, EXAMPLE, OPS, Cell, canonical, nasbench201, parse_cell, prune

SPACE = nasbench201((3, 32, 32), 10)
CELLS = list(SPACE)


def random_weights(arch: tuple[int, ...], seed: int, channels: int = 2) -> dict[int, tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for edge, op in enumerate(arch):
        if op in (2, 3):
            side = 1 if op == 2 else 3
            kernel = torch.randn(channels, channels, side, side, generator=generator, dtype=torch.float64)
            scale, shift, mean = torch.randn(3, channels, generator=generator, dtype=torch.float64)
            weights[edge] = (kernel, scale, shift, mean * 0.1, scale.abs() + 0.5)
    return weights


def reads_zero(arch: tuple[int, ...]) -> bool:
    """Whether a pruned cell has an operation that reads a node without edges."""
    filled = {0} | {target for op, (_, target) in zip(arch, EDGES, strict=True) if op}
    return any(op and source not in filled for op, (source, _) in zip(arch, EDGES, strict=True))


def correspond(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    """Whether some assignment of the weights of `large` to the convolutions of `small` gives the same output."""
    x = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    weights = random_weights(large, 1)
    wanted = slow.run_cell(large, x, weights)
    edges = [edge for edge, op in enumerate(small) if op in (2, 3)]
    for chosen in permutations(weights, len(edges)):
        if all(small[edge] == large[other] for edge, other in zip(edges, chosen, strict=True)):
            lent = {edge: weights[other] for edge, other in zip(edges, chosen, strict=True)}
            if torch.allclose(slow.run_cell(small, x, lent), wanted, rtol=1e-9, atol=1e-9):
                return True
    return False


def test_texts_round_trip() -> None:
    assert SPACE.size == 15_625
    assert SPACE.format(SPACE.parse(EXAMPLE)) == EXAMPLE
    assert all(SPACE.parse(SPACE.format(arch)) == arch for arch in CELLS)
    for text in ("", "0-1-2", EXAMPLE + "|", EXAMPLE.replace("none", "zero"), EXAMPLE.replace("~1", "~0")):
        with pytest.raises(UserError, match="wanted a text like"):
            SPACE.parse(text)


def test_canonical_cells_are_those_of_the_slow_version() -> None:
    classes = defaultdict(set)
    for arch in CELLS:
        classes[slow.same_computation_key(arch)].add(arch)
    assert len(classes) == SPACE.distinct == len({canonical(arch) for arch in CELLS})
    for members in classes.values():
        assert {canonical(arch) for arch in members} == {min(members)}


def test_canonical_is_idempotent_and_clears_what_is_inactive() -> None:
    for arch in CELLS:
        chosen = canonical(arch)
        assert canonical(chosen) == prune(chosen) == chosen


def test_a_convolution_of_zero_is_not_nothing() -> None:
    text = "|none~0|+|none~0|none~1|+|skip_connect~0|{}~1|none~2|"
    conv, pool, none = (canonical(parse_cell(text.format(op))) for op in ("nor_conv_3x3", "avg_pool_3x3", "none"))
    assert pool == none != conv


def test_canonical_cells_compute_the_same_with_corresponding_weights() -> None:
    for arch in random.Random(0).sample(CELLS, 150):
        assert correspond(canonical(arch), arch), SPACE.format(arch)


def test_other_canonical_cells_of_the_same_operations_do_not_correspond() -> None:
    groups = defaultdict(list)
    for arch in sorted({canonical(arch) for arch in CELLS}):
        if not reads_zero(arch):  # a convolution of zero is a constant, whatever its kernel
            groups[tuple(sorted(op for op in arch if op > 1))].append(arch)
    pairs = [pair for group in groups.values() for pair in pairwise(group)]
    for first, second in random.Random(1).sample(pairs, 200):
        assert not correspond(first, second), (SPACE.format(first), SPACE.format(second))


def test_built_cell_computes_the_published_cell() -> None:
    x = torch.randn(2, 2, 5, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for arch in random.Random(2).sample(sorted({canonical(a) for a in CELLS}), 80):
        cell = Cell(arch, 2).double().eval()
        weights, place = {}, 0
        for edge, op in enumerate(arch):
            if op in (2, 3):
                block = cell.operations[place]
                norm = block[2]
                with torch.random.fork_rng(devices=[]), torch.no_grad():
                    torch.manual_seed(edge)
                    for tensor in (norm.weight, norm.bias, norm.running_mean):
                        tensor.normal_()
                weights[edge] = (block[1].weight, norm.weight, norm.bias, norm.running_mean, norm.running_var)
            place += op > 1
        assert len(cell.operations) == place
        torch.testing.assert_close(cell(x), slow.run_cell(arch, x, weights))


def test_equal_canonical_forms_share_costs_and_network() -> None:
    for arch in random.Random(3).sample([a for a in CELLS if canonical(a) != a], 3):
        outputs = []
        for same in (arch, canonical(arch)):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = SPACE.build(same).eval()
            outputs.append((measure(model, (3, 32, 32)), model(torch.ones(1, 3, 32, 32)).tolist()))
        assert outputs[0] == outputs[1]


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 7, 9), (2, 1, 1)])
def test_any_image_size(shape: tuple[int, int, int]) -> None:
    space = nasbench201(shape, 3, channels=4, cells=1)
    model = space.build(parse_cell(EXAMPLE)).eval()
    assert model(torch.zeros(2, *shape)).shape == (2, 3)


def test_description() -> None:
    assert SPACE.describe is not None
    edges = [[0, 1, "nor_conv_3x3"], [1, 2, "skip_connect"], [2, 3, "nor_conv_1x1"]]
    assert SPACE.describe(parse_cell(EXAMPLE)) == {"kind": "cell", "nodes": 4, "edges": edges}
    assert {op for _, _, op in edges} <= set(OPS)


def test_known_sizes() -> None:
    full = measure(SPACE.build((3,) * 6), (3, 32, 32))
    empty = measure(SPACE.build((0,) * 6), (3, 32, 32))
    assert (full["params"], full["macs"]) == (1_531_546, 220_119_680)
    assert (empty["params"], empty["macs"]) == (73_306, 7_783_040)


def test_function_keys_are_the_published_texts(real_data) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.read_parquet(real_data / "nas" / "nb201_accuracy.parquet", columns=["arch_str", "unique_str"])
    assert len(table) == len(CELLS)
    keys = [SPACE.function_key(SPACE.parse(text)) for text in table.arch_str]
    assert keys == list(table.unique_str)
    assert len(set(keys)) == 6_466
    first, second = (SPACE.parse(table.arch_str[row]) for row in (3452, 3584))
    assert canonical(first) != canonical(second)


@pytest.mark.parametrize("rows", [200, pytest.param(9_445, marks=pytest.mark.slow)])
def test_params_and_flops_are_those_of_the_published_proxies(real_data, rows: int) -> None:
    """One cell is traced for each canonical form, and one network for each multiset of traced operations."""
    pandas = pytest.importorskip("pandas")
    columns = ["arch_str", "cifar10__params", "cifar10__flops"]
    table = pandas.read_parquet(real_data / "nas" / "nb201_reference_proxies.parquet", columns=columns)
    assert len(table) == 9_445
    table = table.sample(rows, random_state=0)
    archs = [canonical(parse_cell(text)) for text in table.arch_str]
    contents = {}
    for arch in set(archs):
        ops = [op for op in trace(Cell(arch, 4), (4, 8, 8)).ops if op.kind in ("conv", "bn", "relu", "pool", "other")]
        contents[arch] = tuple(sorted((op.kind, op.kernel, op.flops, op.weights) for op in ops))
    costs = {}
    for arch, content in contents.items():
        if content not in costs:
            costs[content] = measure(SPACE.build(arch), (3, 32, 32), ["params", "flops"])
    assert len(costs) > 40
    for arch, params, flops in zip(archs, table.cifar10__params, table.cifar10__flops, strict=True):
        cost = costs[contents[arch]]
        assert cost["params"] == round(params * 1e6)
        assert cost["flops"] == round(flops * 1e6)
