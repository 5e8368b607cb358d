"""The supernet of the DARTS space: all operations on all edges of the normal and of the reduction cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archscout.errors import UserError
from archscout.space import Arch, Shape
from archscout.spaces.darts import (
    AVG,
    KINDS,
    MAX,
    NODES,
    NONE,
    OPS,
    SKIP,
    WORDS,
    FactorizedReduction,
    Network,
    Place,
    arch_of,
    cells_of,
    convolutions,
    inputs_of,
    is_large,
    plan,
    pool,
    read_stem,
    stem,
)

EDGES = tuple((source, node) for node in NODES for source in range(node))  # (from, to) of a cell, 14
CONVOLUTIONS = range(SKIP + 1, len(OPS))
WANTED = 2  # inputs of a node that an architecture keeps


class MixedCell(nn.Module):
    """A cell whose every edge is a weighted sum of operations: maps the results of two cells to (N, 4 C, H, W).

    Edges that read one node share what has no weights: the ReLU, the two pools with their normalisations, the identity.
    The weight of a convolution in the choice is folded into the scale of its last batch normalisation. These have no
    parameters of their own and always use the batch, as all do but those of the stem.

    allowed: of each edge, the operations that it has.
    """

    def __init__(self, place: Place, allowed: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.channels, self.reduction = place.channels, place.reduction
        self.before, self.last = inputs_of(place, affine=False)
        self.allowed = [frozenset(ops) for ops in allowed]
        self.pools = {}
        self.made = nn.ModuleDict()
        for edge, (source, _) in enumerate(EDGES):
            stride = 2 if self.reduction and source < 2 else 1
            for op in sorted(self.allowed[edge]):
                if op in (MAX, AVG):
                    self.pools[source, op] = pool(op, stride)
                elif op == SKIP and stride > 1:
                    self.made[f"{edge}_{op}"] = FactorizedReduction(self.channels, self.channels, affine=False)
                elif op in CONVOLUTIONS:
                    self.made[f"{edge}_{op}"] = nn.Sequential(*convolutions(op, self.channels, stride, affine=False))

    def forward(self, before: Tensor, last: Tensor, choice: Tensor, skip_keep: Tensor | None = None) -> Tensor:
        """choice: (14, 8). skip_keep: (14, N) factors of the identities of this cell, for dropout; None for none."""
        nodes: list[Any] = [self.before(before), self.last(last), *(None for _ in NODES)]
        weights = [row.unbind() for row in choice.unbind()]
        for node in range(2 + len(NODES) - 1):
            here = nodes[node]
            active = F.relu(here)
            shared = {
                op: F.batch_norm(made(here), None, None, training=True)
                for (source, op), made in self.pools.items()
                if source == node
            }
            for edge, (source, target) in enumerate(EDGES):
                if source != node:
                    continue
                parts = [weights[edge][op] * shared[op] for op in (MAX, AVG) if op in self.allowed[edge]]
                for op in sorted(self.allowed[edge] - {NONE, MAX, AVG}):
                    name = f"{edge}_{op}"
                    if name in self.made:
                        module: Any = self.made[name]
                        made = module.halved(active) if op == SKIP else module(active)
                        scale = weights[edge][op].expand(self.channels)
                        parts.append(F.batch_norm(made, None, None, scale, torch.zeros_like(scale), training=True))
                    else:
                        weight = weights[edge][op]
                        if skip_keep is not None:
                            weight = weight * skip_keep[edge].view(-1, 1, 1, 1)
                        parts.append(weight * here)
                for part in parts:
                    nodes[target] = part if nodes[target] is None else nodes[target] + part
        return torch.cat(nodes[2:], 1)


class SuperNetwork(nn.Module):
    """The whole network of mixed cells; `alphas` (28, 8): the 14 edges of normal cells, then those of reduction cells.

    channels, cells:  16 and 8 in the published search, where the network that is built in the end has 36 and 20; the
                      supernet of a space of smaller networks is no larger than these.
    allowed:          of each decision, the operations it has (places in OPS), one besides `none` at least; default all.

    derive: of each node the two edges stay whose strongest operation besides `none` is strongest, each with that
    operation. Among equals the edge from the earlier node, and the operation that comes first in OPS, wins.
    """

    rivals = tuple(
        tuple(start + edge for edge, (_, target) in enumerate(EDGES) if target == node)
        for start in (0, len(EDGES))
        for node in NODES
    )  # decisions of which derive keeps two
    never = NONE  # the option that derive never takes
    labels = tuple((f"{kind} {source}->{node}", list(WORDS)) for kind in KINDS for source, node in EDGES)
    edges = WANTED * len(NODES)  # of the normal cell of an architecture, whose skips are counted

    def __init__(
        self,
        input_shape: Shape,
        classes: int,
        channels: int,
        cells: int,
        allowed: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        if channels < 2 or cells < 3:
            raise UserError(f"a supernet of darts wants channels >= 2 and cells >= 3, got {channels} and {cells}")
        count = 2 * len(EDGES)
        allowed = [range(len(OPS))] * count if allowed is None else allowed
        self.allowed = [tuple(sorted(set(ops))) for ops in allowed]
        if len(self.allowed) != count or not all(
            set(ops) - {NONE} and set(ops) <= set(range(8)) for ops in self.allowed
        ):
            raise UserError(
                f"a supernet of darts wants {count} lists of operations of 0 to 7, each with one besides 0 (none); "
                f"got {[list(ops) for ops in self.allowed]}"
            )
        self.arguments = (input_shape, classes, channels, cells)
        self.cells_in_all = cells
        large = is_large(input_shape)
        places = list(plan(channels, cells, large))
        self.stem = stem(input_shape[0], channels, large)
        halves = (self.allowed[: len(EDGES)], self.allowed[len(EDGES) :])
        self.cells = nn.ModuleList(MixedCell(place, halves[place.reduction]) for place in places)
        self.classifier = nn.Linear(4 * places[-1].channels, classes)
        barred = torch.zeros(count, len(OPS))
        for decision, ops in enumerate(self.allowed):
            barred[decision, [op for op in range(len(OPS)) if op not in ops]] = -torch.inf
        self.register_buffer("barred", barred, persistent=False)
        self.alphas = nn.Parameter(1e-3 * torch.randn(count, len(OPS)))

    def logits(self) -> Tensor:
        """The alphas, -inf for operations that an edge does not have."""
        return self.alphas + self.get_buffer("barred")

    def forward(self, images: Tensor, choice: Tensor, skip_keep: Sequence[Tensor] | None = None) -> Tensor:
        """skip_keep: of each cell factors (28, N) of its identities, of which it takes those of its kind."""
        before, last = read_stem(self.stem, images)
        for number, cell in enumerate(self.cells):
            rows = slice(len(EDGES), None) if cell.reduction else slice(len(EDGES))
            keep = None if skip_keep is None else skip_keep[number][rows]
            before, last = last, cell(before, last, choice[rows], keep)
        return self.classifier(last.mean((2, 3)))

    def derive(self, choice: Tensor) -> Arch:
        """The architecture of a choice; see the class."""
        weights = choice.detach().tolist()
        best = [
            max((-1.0 if op == NONE else row[op], -op) for op in ops)
            for row, ops in zip(weights, self.allowed, strict=True)
        ]
        cells = []
        for start in (0, len(EDGES)):
            cell = []
            for node in NODES:
                edges = [(edge + start, source) for edge, (source, target) in enumerate(EDGES) if target == node]
                kept = sorted(edges, key=lambda edge: (-best[edge[0]][0], edge))[:WANTED]
                cell.append(tuple((source, -best[edge][1]) for edge, source in kept))
            cells.append(tuple(cell))
        return arch_of(cells)

    def chosen(self, arch: Arch) -> Tensor:
        """Float (28, 8): one at the operations that an architecture has, zero elsewhere."""
        found = torch.zeros(2 * len(EDGES), len(OPS))
        for start, cell in zip((0, len(EDGES)), cells_of(arch), strict=True):
            for node, edges in zip(NODES, cell, strict=True):
                for source, op in edges:
                    found[start + EDGES.index((source, node)), op] = 1.0
        return found

    def is_skip(self, decision: int, option: int) -> bool:
        """Whether an option is a skip that the cap of P-DARTS counts: those of the normal cell."""
        return option == SKIP and decision < len(EDGES)

    def skips(self, arch: Arch) -> int:
        """How many skips the normal cell of an architecture has."""
        return sum(op == SKIP for edges in cells_of(arch)[0] for _, op in edges)

    @torch.no_grad()
    def discrete(self, arch: Arch) -> nn.Module:
        """The network of an architecture with these weights; its batch normalisations are as freshly made.

        The architecture is built as it is, not in canonical form, so that each edge finds its weights; each pool is
        followed by a batch normalisation without parameters, as it is here. Networks of the space itself have none
        there, as published.
        """
        input_shape, classes, channels, cells = self.arguments
        network = Network(arch, input_shape, classes, channels, cells, normed_pools=True)
        network.stem.load_state_dict(self.stem.state_dict())
        network.classifier.load_state_dict(self.classifier.state_dict())
        wirings = cells_of(arch)
        pairs: Any = zip(self.cells, network.cells, strict=True)
        for ours, theirs in pairs:
            copy_convolutions(ours.before, theirs.before)
            copy_convolutions(ours.last, theirs.last)
            edges = [
                (EDGES.index((source, node)), op)
                for node, pair in zip(NODES, wirings[ours.reduction], strict=True)
                for source, op in pair
            ]
            for (edge, op), module in zip(edges, theirs.operations, strict=True):
                if f"{edge}_{op}" in ours.made:
                    copy_convolutions(ours.made[f"{edge}_{op}"], module)
        return network


def copy_convolutions(source: nn.Module, target: nn.Module) -> None:
    """Gives the convolutions of one module the weights of those of another, in order."""
    pairs = ([m for m in module.modules() if isinstance(m, nn.Conv2d)] for module in (source, target))
    for one, other in zip(*pairs, strict=True):
        other.weight.copy_(one.weight)
