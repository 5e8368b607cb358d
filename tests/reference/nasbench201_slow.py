"""Slow, obvious versions of the NAS-Bench-201 cell and of the question which cells are the same."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import torch
import torch.nn.functional as F

EDGES = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
NAMES = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]


def run_cell(arch: tuple[int, ...], x: torch.Tensor, weights: dict[int, tuple[torch.Tensor, ...]]) -> torch.Tensor:
    """The cell as published, every edge computed: weights[edge] = kernel, scale, shift, mean, variance."""
    nodes = [x]
    for target in (1, 2, 3):
        total = torch.zeros_like(x)
        for edge, (source, end) in enumerate(EDGES):
            if end == target:
                total = total + run_edge(NAMES[arch[edge]], nodes[source], weights.get(edge))
        nodes.append(total)
    return nodes[3]


def run_edge(op: str, x: torch.Tensor, weight: tuple[torch.Tensor, ...] | None) -> torch.Tensor:
    if op == "none":
        return x * 0
    if op == "skip_connect":
        return x
    if op == "avg_pool_3x3":
        ones = torch.ones_like(x)
        total = F.avg_pool2d(x, 3, 1, 1, count_include_pad=True)
        share = F.avg_pool2d(ones, 3, 1, 1, count_include_pad=True)
        return total / share
    assert weight is not None
    kernel, scale, shift, mean, variance = weight
    y = F.conv2d(x.clamp(min=0), kernel, padding=kernel.shape[-1] // 2)
    rows = [t[None, :, None, None] for t in (scale, shift, mean, variance)]
    return (y - rows[2]) / (rows[3] + 1e-5).sqrt() * rows[0] + rows[1]


def same_computation_key(arch: tuple[int, ...]) -> Any:
    """Smallest description of what reaches the output, over every numbering of the operations of each kind."""
    terms = {0: [-1]}
    reads: dict[int, list[int]] = {}
    for target in (1, 2, 3):
        terms[target] = []
        for edge, (source, end) in enumerate(EDGES):
            op = NAMES[arch[edge]]
            if end != target or op == "none":
                continue
            if op == "skip_connect":
                terms[target].extend(terms[source])
            elif op == "avg_pool_3x3" and not terms[source]:
                continue
            else:
                reads[edge] = terms[source]
                terms[target].append(edge)
    alive = set(terms[3])
    while True:
        more = {t for edge in alive if edge >= 0 for t in reads[edge]} - alive
        if not more:
            break
        alive |= more
    edges = [edge for edge in alive if edge >= 0]
    kinds = [[edge for edge in edges if arch[edge] == kind] for kind in (2, 3, 4)]
    best = None
    for orders in product(*(permutations(kind) for kind in kinds)):
        number = {edge: place for place, edge in enumerate(edge for order in orders for edge in order)} | {-1: -1}
        steps = sorted((number[e], arch[e], tuple(sorted(number[t] for t in reads[e]))) for e in edges)
        text = (tuple(steps), tuple(sorted(number[t] for t in terms[3])))
        best = text if best is None or text < best else best
    return best
