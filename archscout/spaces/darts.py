"""The cell space of DARTS: a normal and a reduction cell of four nodes with two inputs each, stacked."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, permutations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archscout.drop_path import DropPath
from archscout.errors import UserError
from archscout.space import Arch, SearchSpace, Shape

OPS = (
    "none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3",
    "dil_conv_5x5",
)  # fmt: skip
WORDS = ("none", "max", "avg", "skip", "sep3", "sep5", "dil3", "dil5")  # of OPS, in texts
NONE, MAX, AVG, SKIP = range(4)
NODES = (2, 3, 4, 5)  # nodes 0 and 1 are the two inputs of a cell
KINDS = ("normal", "reduce")
PAIRS = {node: tuple(combinations(range(node), 2)) for node in NODES}  # the inputs that a node can have
DISTINCT = 382_128_166**2  # canonical architectures, two cells each; counted by the tests
LARGE = 96  # sides in pixels from which images have the stem of ImageNet
EXAMPLE = (
    "normal-sep3~0+sep3~1-sep3~0+sep3~1-skip~0+sep3~1-skip~0+dil3~2-"
    "reduce-max~0+max~1-max~1+skip~2-max~0+skip~2-max~1+skip~2"
)
# Cells that were found by searches on CIFAR-10, as their authors published them: first- and second-order DARTS
# (arXiv:1806.09055), P-DARTS (arXiv:1904.12760), PC-DARTS (arXiv:1907.05737).
PUBLISHED = {
    "DARTS_V1": "normal-sep3~0+sep3~1-skip~0+sep3~1-skip~0+sep3~1-sep3~0+skip~2-"
    "reduce-max~0+max~1-max~0+skip~2-max~0+skip~2-avg~0+skip~2",
    "DARTS_V2": EXAMPLE,
    "PDARTS": "normal-skip~0+dil3~1-skip~0+sep3~1-sep3~1+sep3~3-sep3~0+dil5~4-"
    "reduce-avg~0+sep5~1-sep3~0+dil5~2-max~0+dil3~1-dil3~1+dil5~3",
    "PC_DARTS_cifar": "normal-skip~0+sep3~1-sep3~0+dil3~1-sep5~0+sep3~1-avg~0+dil3~1-"
    "reduce-max~0+sep5~1-sep5~1+sep5~2-sep3~0+sep3~3-sep3~1+sep3~2",
}

Edge = tuple[int, int]  # the node that is read, and the place of the operation in OPS
Wiring = tuple[tuple[Edge, ...], ...]  # the two edges of each node of a cell


def darts(input_shape: Shape, classes: int, channels: int | None = None, layers: int | None = None) -> SearchSpace:
    """The DARTS space: a normal and a reduction cell, stacked; the space of most differentiable searches.

    Use it to compare with published searches, or for accurate networks of 2 to 5 million parameters where training may
    take long; for small devices and short budgets take another one. A network is a stem, `layers` cells, global average
    pooling and a linear layer. The cells at a third and at two thirds of the depth are reduction cells: they halve
    height and width and double the channels. A cell reads the results of the two cells before it, each brought to the
    cell's channels by ReLU, 1x1 convolution and BN (by a factorised reduction where the map is still larger). Each of
    its four nodes is the sum of two operations on two different earlier nodes; the nodes' concatenation is the result.
    The stem is a 3x3 convolution to 3 times `channels`, or, for images of 96 pixels and more, three of stride 2 as for
    ImageNet.

    channels, layers:  the published sizes if left out: 36 and 20 for small images, 48 and 14 for large ones.

    Decisions, for each cell and node: `inputs`, the two nodes that are read; `first` and `second`, the operations on
    them. So 1.04e9 cells and 1.08e18 architectures, as published. Canonical: the nodes of a cell in the order that
    gives the smallest architecture, since their names change nothing. Text: see format_cells; read too are the usual
    Genotype(...) and the names of PUBLISHED cells. Building costs about a tenth of a second at 20 layers.

    Source: Liu, Simonyan and Yang 2019, arXiv:1806.09055.
    """
    large = is_large(input_shape)
    width = channels or (48 if large else 36)
    depth = layers or (14 if large else 20)
    if width < 2 or depth < 3:
        raise UserError(f"darts wants channels >= 2 and layers >= 3, got {width} and {depth}")
    choices: dict[str, tuple[Any, ...]] = {}
    for kind in KINDS:
        for node in NODES:
            choices[f"{kind}.{node}.inputs"] = PAIRS[node]
            choices |= dict.fromkeys((f"{kind}.{node}.first", f"{kind}.{node}.second"), OPS[1:])

    def build_from(picks: dict[str, Any]) -> nn.Module:
        arch = tuple(options.index(picks[name]) for name, options in choices.items())
        return Network(canonical(arch), input_shape, classes, width, depth)

    def relax(cells: int = min(8, depth), channels: int = min(16, width), **options: Any) -> nn.Module:
        from archscout.supernets.darts import SuperNetwork

        return SuperNetwork(input_shape, classes, channels, cells, **options)

    return SearchSpace(
        name="darts", input_shape=input_shape, classes=classes, choices=choices, build_from=build_from,
        canonical_of=canonical, format_of=format_cells, parse_of=parse_cells, notation_of=write_genotype,
        describe=describe, distinct=DISTINCT, relax_of={"darts": relax, "pdarts": relax},
    )  # fmt: skip


def is_large(input_shape: Shape) -> bool:
    """Whether images of this shape have the stem of ImageNet."""
    return min(input_shape[1:]) >= LARGE


# --- architectures and their texts ---


def cells_of(arch: Arch) -> tuple[Wiring, Wiring]:
    """The normal and the reduction cell: of each node its two edges (node that is read, place in OPS), by that node."""
    normal, reduce = (
        tuple(
            tuple(zip(PAIRS[node][arch[at]], (arch[at + 1] + 1, arch[at + 2] + 1), strict=True))
            for at, node in zip(range(start, start + 12, 3), NODES, strict=True)
        )
        for start in (0, 12)
    )
    return normal, reduce


def arch_of(cells: Sequence[Wiring]) -> Arch:
    """The architecture of a normal and a reduction cell; the inverse of cells_of, for edges in any order."""
    found: list[int] = []
    for cell in cells:
        for node, edges in zip(NODES, cell, strict=True):
            (one, first), (other, second) = sorted(edges)
            found += [PAIRS[node].index((one, other)), first - 1, second - 1]
    return tuple(found)


def format_cells(arch: Arch) -> str:
    """A text such as normal-sep3~0+sep3~1-...-reduce-max~0+max~1-...: per node its two operations and what they read.

    Operations are max and avg (pools), skip, sep3 and sep5 (separable convolutions), dil3 and dil5 (dilated ones).
    """
    return "-".join(
        "-".join((kind, *("+".join(f"{WORDS[op]}~{source}" for source, op in edges) for edges in cell)))
        for kind, cell in zip(KINDS, cells_of(arch), strict=True)
    )


def parse_cells(text: str) -> Arch:
    """The architecture of a text of format_cells, of a Genotype(...), or of a name in PUBLISHED.

    Raises UserError for anything else.
    """
    if "Genotype" in text:
        return read_genotype(text)
    text = PUBLISHED.get(text, text)
    edge = rf"({'|'.join(WORDS[1:])})~([0-4])"
    cell = "-".join([rf"{edge}\+{edge}"] * len(NODES))
    match = re.fullmatch("-".join(f"{kind}-{cell}" for kind in KINDS), text)
    if match is None:
        raise UserError(
            f"'{text[:160]}' is no architecture of space 'darts': wanted a text like {EXAMPLE}, with operations of "
            f"{', '.join(WORDS[1:])}; or Genotype(normal=[('sep_conv_3x3', 0), ...], ...); or one of the published "
            f"{', '.join(PUBLISHED)}"
        )
    words = match.groups()
    edges = [(WORDS.index(op), int(source)) for op, source in zip(words[::2], words[1::2], strict=True)]
    return arch_of([checked(kind, edges[start : start + 8]) for kind, start in zip(KINDS, (0, 8), strict=True)])


def checked(kind: str, edges: Sequence[tuple[int, int]]) -> Wiring:
    """A cell of eight edges (place in OPS, node that is read), two for each node in turn, or a UserError."""
    cell = []
    for node, pair in zip(NODES, zip(edges[::2], edges[1::2], strict=True), strict=True):
        sources = [source for _, source in pair]
        if not all(0 <= source < node for source in sources) or sources[0] == sources[1]:
            raise UserError(
                f"node {node} of the {kind} cell reads the nodes {sources[0]} and {sources[1]}: wanted two different "
                f"ones of 0 to {node - 1} (0 and 1 are the cell's inputs)"
            )
        cell.append(tuple(sorted((source, op) for op, source in pair)))
    return tuple(cell)


def write_genotype(arch: Arch) -> str:
    """The usual notation of an architecture: Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=...)."""
    parts = []
    for kind, cell in zip(KINDS, cells_of(arch), strict=True):
        listed = ", ".join(f"('{OPS[op]}', {source})" for edges in cell for source, op in edges)
        parts.append(f"{kind}=[{listed}], {kind}_concat=range(2, 6)")
    return f"Genotype({', '.join(parts)})"


FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")


def read_genotype(text: str) -> Arch:
    """The architecture of a Genotype(...) text, which may have a name before it and may list a node's pair in brackets.

    The text is taken apart as a syntax tree; nothing in it is executed. Raises UserError, with what was found and what
    is wanted, for what is no genotype or lies outside the space: other operations or `none`, other than four nodes, a
    node that reads one node twice, a concatenation of other nodes than 2 to 5.
    """
    source = re.sub(r"^\s*\w+\s*=\s*(?=[\w.]*Genotype)", "", text).strip()
    if len(source) > 10_000:
        raise UserError(f"a genotype of {len(source)} characters; wanted one of four nodes per cell, about 700")
    try:
        call: Any = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(
            f"'{text[:80]}' is no genotype ({getattr(error, 'msg', None) or type(error).__name__}): check its brackets "
            f"and quotes; wanted {write_genotype(parse_cells(EXAMPLE))}"
        ) from None
    name = getattr(getattr(call, "func", None), "id", None) or getattr(getattr(call, "func", None), "attr", None)
    if not isinstance(call, ast.Call) or name != "Genotype":
        raise UserError(f"'{text[:80]}' is no genotype: wanted Genotype(normal=[...], normal_concat=..., ...)")
    given: dict[str | None, Any] = dict(zip(FIELDS, call.args, strict=False))
    given |= {keyword.arg: keyword.value for keyword in call.keywords}
    if set(given) != set(FIELDS) or len(call.args) + len(call.keywords) != len(FIELDS):
        raise UserError(f"a genotype has the fields {', '.join(FIELDS)}, each once; got {', '.join(map(str, given))}")
    for kind in KINDS:
        concat = given[f"{kind}_concat"]
        if values_of(concat) != list(NODES):
            raise UserError(f"{kind}_concat is {shown(source, concat)}: wanted range(2, 6), all four nodes")
    cells = []
    for kind in KINDS:
        listed = values_of(given[kind])
        if not isinstance(listed, list):
            raise UserError(f"{kind} is {shown(source, given[kind])}: wanted a list of pairs like ('sep_conv_3x3', 1)")
        cells.append(checked(kind, edges_of(kind, listed)))
    return arch_of(cells)


def shown(source: str, node: Any) -> str:
    """The text of a part of a syntax tree, at most 80 characters of it."""
    return (ast.get_source_segment(source, node) or "")[:80]


def values_of(node: Any) -> Any:
    """The literal values of a syntax tree, or those of a range(...) of small numbers; None for anything else."""
    try:
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "range" and not node.keywords:
            bounds = [ast.literal_eval(argument) for argument in node.args]
            return list(range(*bounds)[:100])
        found = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, OverflowError):
        return None
    return list(found) if isinstance(found, tuple) else found


def edges_of(kind: str, listed: Sequence[Any]) -> list[tuple[int, int]]:
    """The eight edges (place in OPS, node that is read) that one cell of a genotype lists, or a UserError."""
    flat: list[Any] = []
    for entry in listed:
        nested = isinstance(entry, list | tuple) and all(isinstance(edge, list | tuple) for edge in entry)
        flat += entry if nested else [entry]
    for edge in flat:
        if not (isinstance(edge, list | tuple) and len(edge) == 2 and type(edge[1]) is int):
            raise UserError(f"an edge of the {kind} cell is {edge!r}: wanted a pair like ('sep_conv_3x3', 1)")
        if edge[0] not in OPS[1:]:
            raise UserError(f"an operation of the {kind} cell is {edge[0]!r}: wanted one of {', '.join(OPS[1:])}")
    if len(flat) != 2 * len(NODES):
        raise UserError(
            f"the {kind} cell of the genotype has {len(flat)} edges: wanted 8, two for each of its four nodes, as a "
            f"list of pairs like ('sep_conv_3x3', 1)"
        )
    return [(OPS.index(op), source) for op, source in flat]


def describe(arch: Arch) -> dict[str, Any]:
    """Both cells as graphs, for the report: {"kind": "cells", "cells": [{name, nodes, edges}, ...]}."""
    names = ("normal cell", "reduction cell")
    return {
        "kind": "cells",
        "cells": [
            {
                "name": name,
                "nodes": ["before last", "last", *map(str, NODES)],
                "edges": [
                    [source, node, OPS[op]] for node, edges in zip(NODES, cell, strict=True) for source, op in edges
                ],
            }
            for name, cell in zip(names, cells_of(arch), strict=True)
        ],
    }


def canonical(arch: Arch) -> Arch:
    """The smallest architecture whose cells differ from the given ones by the names of their nodes alone."""
    return smallest(arch[:12]) + smallest(arch[12:])


def smallest(half: Arch) -> Arch:
    """The smallest encoding of one cell, over the orders of its nodes in which each reads only earlier ones."""
    return min(
        tuple(number for pair, one, other in order for number in (pair, half[one], half[other]))
        for order in orders(half[::3])
    )


@cache
def orders(inputs: tuple[int, ...]) -> list[list[tuple[int, int, int]]]:
    """The orders of the nodes of a cell of these inputs: per new node its inputs, and the places of its operations."""
    pairs = {node: PAIRS[node][pick] for node, pick in zip(NODES, inputs, strict=True)}
    found = []
    for names in permutations(NODES):
        new = dict(zip(NODES, names, strict=True)) | {0: 0, 1: 1}
        if not all(new[source] < new[node] for node, pair in pairs.items() for source in pair):
            continue
        order = []
        for node in sorted(NODES, key=lambda node: new[node]):
            place = 3 * NODES.index(node)
            (one, first), (other, second) = sorted((new[source], place + 1 + i) for i, source in enumerate(pairs[node]))
            order.append((PAIRS[new[node]].index((one, other)), first, second))
        found.append(order)
    return found


# --- the network ---


class Network(nn.Module):
    """A DARTS network: maps (N, C, H, W) to logits (N, classes).

    With an `auxiliary` head, which only training has (see make_auxiliary), it gives a pair in training mode: the logits
    and those of the head, which reads the result of the second reduction cell.

    normed_pools: whether a BN without parameters follows each pool, as in the supernet.
    """

    def __init__(
        self,
        arch: Arch,
        input_shape: Shape,
        classes: int,
        channels: int,
        layers: int,
        normed_pools: bool = False,
    ) -> None:
        super().__init__()
        large = is_large(input_shape)
        self.stem = stem(input_shape[0], channels, large)
        normal, reduce = cells_of(arch)
        self.cells = nn.ModuleList(
            Cell(reduce if place.reduction else normal, place, normed_pools) for place in plan(channels, layers, large)
        )
        self.behind = 2 * layers // 3  # the cell that the auxiliary head reads
        *_, last = plan(channels, layers, large)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(4 * last.channels, classes)
        self.auxiliary: nn.Module | None
        self.register_module("auxiliary", None)
        height, width = (-(-side // (32 if large else 4)) for side in input_shape[1:])
        self.head = (4 * last.channels, (height, width), classes)

    def forward(self, x: Tensor) -> Any:
        before, last = read_stem(self.stem, x)
        aside = None
        for number, cell in enumerate(self.cells):
            before, last = last, cell(before, last)
            if number == self.behind and self.auxiliary is not None and self.training:
                aside = self.auxiliary(last)
        logits = self.classifier(self.pool(last).flatten(1))
        return logits if aside is None else (logits, aside)

    def make_auxiliary(self) -> nn.Module:
        """A new auxiliary head for this network; `fit` sets it as `auxiliary` while it trains, and takes it off."""
        return AuxiliaryHead(*self.head)


@dataclass(frozen=True)
class Place:
    """Where a cell stands: channels of its two inputs and of its nodes, whether it and the one before it halve."""

    before: int
    last: int
    channels: int
    reduction: bool
    after_reduction: bool


def plan(channels: int, layers: int, large: bool) -> Iterator[Place]:
    """The places of the cells of a network, from the stem on."""
    before = last = channels if large else 3 * channels
    halved = large
    for number in range(layers):
        reduction = number in (layers // 3, 2 * layers // 3)
        channels *= 1 + reduction
        yield Place(before, last, channels, reduction, halved)
        before, last, halved = last, 4 * channels, reduction


def stem(inputs: int, channels: int, large: bool) -> nn.ModuleList:
    """The layers before the cells: one part, or two for large images, of which the second reads the first."""
    if not large:
        first = nn.Sequential(nn.Conv2d(inputs, 3 * channels, 3, padding=1, bias=False), nn.BatchNorm2d(3 * channels))
        return nn.ModuleList([first])
    half = channels // 2
    first = nn.Sequential(
        nn.Conv2d(inputs, half, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(half), nn.ReLU(),
        nn.Conv2d(half, channels, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(channels),
    )  # fmt: skip
    second = nn.Sequential(
        nn.ReLU(), nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(channels)
    )
    return nn.ModuleList([first, second])


def read_stem(parts: nn.ModuleList, images: Tensor) -> tuple[Tensor, Tensor]:
    """The two inputs of the first cell."""
    before = parts[0](images)
    return before, before if len(parts) == 1 else parts[1](before)


class Cell(nn.Module):
    """One cell: maps the results of the cell before the last and of the last one to (N, 4 channels, H, W)."""

    def __init__(self, wiring: Wiring, place: Place, normed_pools: bool = False) -> None:
        super().__init__()
        self.before, self.last = inputs_of(place)
        self.sources = [source for edges in wiring for source, _ in edges]
        self.operations = nn.ModuleList(
            operation(op, place.channels, 2 if place.reduction and source < 2 else 1, normed_pools)
            for edges in wiring
            for source, op in edges
        )
        self.drop = DropPath()

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        nodes = [self.before(before), self.last(last)]
        parts: list[Tensor] = []
        for source, operation in zip(self.sources, self.operations, strict=True):
            part = operation(nodes[source])
            parts.append(part if isinstance(operation, nn.Identity) else self.drop(part))
            if len(parts) == 2:
                nodes.append(parts[0] + parts[1])
                parts = []
        return torch.cat(nodes[2:], 1)


def inputs_of(place: Place, affine: bool = True) -> tuple[nn.Module, nn.Module]:
    """What brings the two inputs of a cell to its channels, and the first of them to the size of the second."""
    before: nn.Module = (
        FactorizedReduction(place.before, place.channels, affine)
        if place.after_reduction
        else relu_conv_bn(place.before, place.channels, affine)
    )
    return before, relu_conv_bn(place.last, place.channels, affine)


def relu_conv_bn(inputs: int, outputs: int, affine: bool) -> nn.Sequential:
    """ReLU, 1x1 convolution without bias, BN."""
    return nn.Sequential(nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False), norm(outputs, affine))


def norm(channels: int, affine: bool) -> nn.BatchNorm2d:
    """A BN; without parameters and with the statistics of the batch always, if it is not affine (for supernets)."""
    return nn.BatchNorm2d(channels, affine=affine, track_running_stats=affine)


class FactorizedReduction(nn.Module):
    """ReLU, two 1x1 convolutions of stride 2, of which the second reads one pixel further right and down, and BN.

    Maps (N, inputs, H, W) to (N, outputs, H/2, W/2), halves rounded up; odd sides get a row or column of zeros for the
    second convolution. Every second pixel is taken before the convolutions: a strided 1x1 convolution of fewer than 8
    channels writes outside its memory on processors without AVX-512 (PyTorch 2.14).
    """

    def __init__(self, inputs: int, outputs: int, affine: bool = True) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.first = nn.Conv2d(inputs, outputs - outputs // 2, 1, bias=False)
        self.second = nn.Conv2d(inputs, outputs // 2, 1, bias=False)
        self.norm = norm(outputs, affine)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.halved(self.relu(x)))

    def halved(self, active: Tensor) -> Tensor:
        """What the BN gets, from the result of the ReLU."""
        height, width = active.shape[2:]
        shifted = F.pad(active, (0, width % 2, 0, height % 2)) if height % 2 or width % 2 else active
        return torch.cat([self.first(active[:, :, ::2, ::2]), self.second(shifted[:, :, 1::2, 1::2])], 1)


def pool(op: int, stride: int) -> nn.Module:
    """A 3x3 pool of the given operation."""
    if op == MAX:
        return nn.MaxPool2d(3, stride=stride, padding=1)
    return nn.AvgPool2d(3, stride=stride, padding=1, count_include_pad=False)


def convolutions(op: int, channels: int, stride: int, affine: bool) -> list[nn.Module]:
    """What stands between the first ReLU and the last BN of a separable or dilated convolution."""

    def depthwise(stride: int, dilation: int) -> list[nn.Module]:
        return [
            nn.Conv2d(channels, channels, size, stride, dilation * (size // 2), dilation, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
        ]

    size = int(WORDS[op][-1])
    if WORDS[op].startswith("dil"):
        return depthwise(stride, 2)
    return [*depthwise(stride, 1), norm(channels, affine), nn.ReLU(inplace=not affine), *depthwise(1, 1)]


def operation(op: int, channels: int, stride: int, normed_pools: bool = False) -> nn.Module:
    """The module of one edge: maps (N, channels, H, W) to (N, channels, H/stride, W/stride)."""
    if op in (MAX, AVG):
        made = pool(op, stride)
        return nn.Sequential(made, nn.BatchNorm2d(channels, affine=False)) if normed_pools else made
    if op == SKIP:
        return nn.Identity() if stride == 1 else FactorizedReduction(channels, channels)
    return nn.Sequential(nn.ReLU(), *convolutions(op, channels, stride, True), norm(channels, True))


class AuxiliaryHead(nn.Module):
    """A classifier on the map behind the second reduction cell: (N, C, H, W) to logits (N, classes).

    ReLU, average pool to 2 x 2 (windows of 5 pixels where a side has 6 to 10, as published for 8; else adaptive), 1x1
    convolution to 128 channels, BN, ReLU, 2x2 convolution to 768 channels, BN, ReLU, linear layer.
    """

    def __init__(self, channels: int, size: tuple[int, int], classes: int) -> None:
        super().__init__()
        fixed = all(6 <= side <= 10 for side in size)
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, stride=(size[0] - 5, size[1] - 5)) if fixed else nn.AdaptiveAvgPool2d(2),
            nn.Conv2d(channels, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False), nn.BatchNorm2d(768), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))
