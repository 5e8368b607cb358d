"""The cell space of NAS-Bench-201: 15,625 cells of four nodes, stacked into a fixed skeleton."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import groupby, permutations, product
from typing import Any

import torch
from torch import nn

from archscout.errors import UserError
from archscout.space import Arch, SearchSpace, Shape

OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # (from, to) in the order of the published text
NONE, SKIP, POOL = OPS.index("none"), OPS.index("skip_connect"), OPS.index("avg_pool_3x3")
DISTINCT = 6_040  # canonical cells; counted by the tests
EXAMPLE = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|"


def nasbench201(input_shape: Shape, classes: int, channels: int = 16, cells: int = 5) -> SearchSpace:
    """The NAS-Bench-201 space: one cell of four nodes, repeated, with trained accuracies published for every cell.

    Use it to check a method against published results, or as a small space of residual-like networks. A network is a
    3x3 convolution to `channels` channels, three stages of `cells` cells with 1, 2 and 4 times as many channels, a
    residual block that halves height and width between stages, then BN, ReLU, global average pooling and a linear
    layer. The published networks have channels=16 and cells=5. Building costs 5 to 25 ms, nearly all inside nn.Module.

    Each of the six edges between the nodes is nothing, the identity, ReLU-Conv-BN with a 1x1 or 3x3 kernel, or a 3x3
    average pool; a node is the sum of its edges. Operations that do nothing to the output are not built, and cells that
    carry out the same operations are one architecture (see `canonical`).

    Source: Dong and Yang 2020, "NAS-Bench-201", arXiv 2001.00326.
    """
    if channels < 1 or cells < 1:
        raise UserError(f"nasbench201 wants channels >= 1 and cells >= 1, got {channels} and {cells}")

    def build_from(picks: dict[str, Any]) -> nn.Module:
        arch = canonical(tuple(OPS.index(op) for op in picks.values()))
        return Network(arch, input_shape, classes, channels, cells)

    def relax(cells: int = cells, channels: int = channels, **options: Any) -> nn.Module:
        from archscout.supernets.nasbench201 import SuperNetwork

        return SuperNetwork(input_shape, classes, channels, cells, **options)

    return SearchSpace(
        name="nasbench201",
        input_shape=input_shape,
        classes=classes,
        choices={f"{source}->{target}": OPS for source, target in EDGES},
        build_from=build_from,
        canonical_of=canonical,
        function_of=unique_text,
        format_of=format_cell,
        parse_of=parse_cell,
        describe=describe,
        distinct=DISTINCT,
        relax_of={"darts": relax, "pdarts": relax},
    )


def format_cell(arch: Arch) -> str:
    """The published text of a cell, such as |nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|."""
    terms = [f"{OPS[op]}~{source}|" for op, (source, _) in zip(arch, EDGES, strict=True)]
    return "+".join("|" + "".join(part) for part in (terms[:1], terms[1:3], terms[3:]))


_EDGE = "(" + "|".join(OPS) + ")"
_TEXT = re.compile(r"\+".join(r"\|" + "".join(rf"{_EDGE}~{i}\|" for i in range(n)) for n in (1, 2, 3)))


def parse_cell(text: str) -> Arch:
    """The cell of a published text; raises UserError for anything else."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise UserError(
            f"'{text[:120]}' is no cell of nasbench201: wanted a text like {EXAMPLE} "
            f"with operations of {', '.join(OPS)}"
        )
    return tuple(OPS.index(op) for op in match.groups())


def describe(arch: Arch) -> dict[str, Any]:
    """The cell as a graph, for the report: {"kind": "cell", "nodes": 4, "edges": [[from, to, operation], ...]}."""
    edges = [[source, target, OPS[op]] for op, (source, target) in zip(arch, EDGES, strict=True) if op != NONE]
    return {"kind": "cell", "nodes": 4, "edges": edges}


# --- which cells are the same ---


def unique_text(arch: Arch) -> str:
    """The published text that isomorphic cells share (6,466 of them), by which the benchmark groups its accuracies.

    It forgets which weights are shared and takes an operation of zero for zero, so that cells of one text may differ in
    parameters, cost and score: it is for reporting, never for caching. '#' is zero, '(x)@op' an operation applied to x.
    """
    nodes = {0: "0"}
    for target in (1, 2, 3):
        terms = []
        for op, (source, end) in zip(arch, EDGES, strict=True):
            if end != target:
                continue
            value = nodes[source]
            if op == NONE or value == "#":
                terms.append("#")
            else:
                terms.append(value if op == SKIP else f"({value})@{OPS[op]}")
        nodes[target] = "+".join(sorted(terms))
    return nodes[3]


def prune(arch: Arch) -> Arch:
    """The cell without the edges that change nothing: those that carry zero and those that do not reach the output.

    A convolution of zero stays: its BN adds a trained bias. A skip or a pool of zero is zero.
    """
    ops = list(arch)
    zero = [False, True, True, True]
    for spot, (source, target) in enumerate(EDGES):
        if zero[source] and ops[spot] in (SKIP, POOL):
            ops[spot] = NONE
        if ops[spot] != NONE:
            zero[target] = False
    needed = {3}
    for spot, (source, target) in reversed(list(enumerate(EDGES))):
        if target not in needed:
            ops[spot] = NONE
        elif ops[spot] != NONE:
            needed.add(source)
    return tuple(ops)


def computation(arch: Arch) -> tuple[Any, ...]:
    """A value that is equal for two pruned cells exactly if they carry out the same operations on the same sums.

    A node is a multiset of terms, each the input (-1) or the result of one operation; skips only pass terms on. The
    operations are numbered by the text of what they compute; those of equal text are tried in every order, and the
    smallest description is taken.
    """
    sums: list[list[int]] = [[-1], [], [], []]
    texts: dict[int, str] = {-1: "x"}
    reads: dict[int, list[int]] = {}
    for spot, (source, target) in enumerate(EDGES):
        if arch[spot] == SKIP:
            sums[target] += sums[source]
        elif arch[spot] != NONE:
            reads[spot] = list(sums[source])
            texts[spot] = f"{arch[spot]}({'+'.join(sorted(texts[term] for term in sums[source]))})"
            sums[target].append(spot)
    ties = [list(tie) for _, tie in groupby(sorted(reads, key=lambda spot: texts[spot]), key=lambda spot: texts[spot])]

    def description(order: Sequence[tuple[int, ...]]) -> tuple[Any, ...]:
        number = {-1: -1} | {spot: place for place, spot in enumerate(spot for tie in order for spot in tie)}
        steps = tuple(
            (arch[spot], tuple(sorted(number[term] for term in reads[spot]))) for tie in order for spot in tie
        )
        return steps, tuple(sorted(number[term] for term in sums[3]))

    return min(description(order) for order in product(*(permutations(tie) for tie in ties)))


@cache
def representatives() -> dict[tuple[Any, ...], Arch]:
    """Computation -> its lexicographically smallest cell, over all cells; made once, in about a third of a second."""
    first: dict[tuple[Any, ...], Arch] = {}
    for arch in product(range(len(OPS)), repeat=len(EDGES)):
        if prune(arch) == arch:
            first.setdefault(computation(arch), arch)
    return first


@cache
def canonical(arch: Arch) -> Arch:
    """The smallest cell that carries out the same operations with the same sharing of weights.

    Cells are merged when they differ by the names of their nodes, by skips that only give a node a second name, or by
    edges that change nothing. They are not merged for equal mathematics at another cost: one pool read twice and two
    pools of the same map stay two cells.
    """
    return representatives()[computation(prune(arch))]


# --- the network ---


class Cell(nn.Module):
    """One cell: maps (N, channels, H, W) to the same shape."""

    def __init__(self, arch: Arch, channels: int) -> None:
        super().__init__()
        self.operations = nn.ModuleList()
        self.plan: list[tuple[int, int, int]] = []  # (from, to, place in operations or -1 for a skip)
        for op, (source, target) in zip(arch, EDGES, strict=True):
            if op == NONE:
                continue
            if op != SKIP:
                self.operations.append(operation(OPS[op], channels))
            self.plan.append((source, target, -1 if op == SKIP else len(self.operations) - 1))
        self.last_use = {source: spot for spot, (source, _, _) in enumerate(self.plan)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nodes: list[torch.Tensor | None] = [x, None, None, None]
        for spot, (source, target, place) in enumerate(self.plan):
            value = nodes[source]
            if value is None:  # a convolution of zero
                value = x * 0
            if place >= 0:
                value = self.operations[place](value)
            nodes[target] = value if (partial := nodes[target]) is None else partial + value
            del partial
            if self.last_use[source] == spot:  # free its memory
                nodes[source] = None
        return x * 0 if nodes[3] is None else nodes[3]


class Reduction(nn.Module):
    """The residual block between stages: maps (N, inputs, H, W) to (N, outputs, H/2, W/2), halves rounded up."""

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int]) -> None:
        super().__init__()
        odd = any(side % 2 for side in size)
        self.first = conv_bn(inputs, outputs, 3, 2)
        self.second = conv_bn(outputs, outputs, 3, 1)
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, 2, ceil_mode=odd, count_include_pad=not odd), nn.Conv2d(inputs, outputs, 1, bias=False)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x)) + self.shortcut(x)


class Network(nn.Module):
    """A NAS-Bench-201 network: maps (N, C, H, W) to logits (N, classes)."""

    def __init__(self, arch: Arch, input_shape: Shape, classes: int, channels: int, cells: int) -> None:
        super().__init__()
        self.stem, body, channels = skeleton(input_shape, channels, cells, lambda width: Cell(arch, width))
        self.body = nn.Sequential(*body)
        self.last = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.pool(self.last(self.body(self.stem(x)))).flatten(1))


def skeleton(
    input_shape: Shape, channels: int, cells: int, make: Callable[[int], nn.Module]
) -> tuple[nn.Sequential, list[nn.Module], int]:
    """The stem, the three stages of cells made by `make(channels)` with reductions between, and the last channels."""
    inputs, height, width = input_shape
    stem = nn.Sequential(nn.Conv2d(inputs, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
    body: list[nn.Module] = []
    for stage in range(3):
        if stage:
            body.append(Reduction(channels, 2 * channels, (height, width)))
            channels, height, width = 2 * channels, -(-height // 2), -(-width // 2)
        body += [make(channels) for _ in range(cells)]
    return stem, body, channels


def operation(op: str, channels: int) -> nn.Module:
    """The module of one edge."""
    if op == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return conv_bn(channels, channels, 1 if op == "nor_conv_1x1" else 3, 1)


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    """ReLU, convolution without bias, BN."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )
