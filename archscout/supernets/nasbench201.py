"""The supernet of the NAS-Bench-201 space: all five operations on all six edges of every cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archscout.errors import UserError
from archscout.space import Arch, Shape
from archscout.spaces.nasbench201 import EDGES, OPS, Network, skeleton

NONE, SKIP, CONV1, CONV3, POOL = range(5)
SIZES = {CONV1: 1, CONV3: 3}


class MixedCell(nn.Module):
    """A cell whose every edge is a weighted sum of operations: maps (N, C, H, W) to the same shape.

    What edges share is computed once: the ReLU and the pool of a node, and, as one convolution with as many times the
    channels, all convolutions of one kernel size that read a node. A convolution's weight in the choice is folded into
    the scale of its batch normalisation, which has no parameters of its own here and always uses the batch.

    allowed: per edge, the operations that it has.  dropout of skips: see forward.
    """

    def __init__(self, channels: int, allowed: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.channels, self.allowed = channels, [tuple(sorted(ops)) for ops in allowed]
        self.convolutions = nn.ModuleDict()
        self.readers: dict[str, list[int]] = {}  # which edges a convolution computes, in the order of its channels
        for node in range(3):
            for op, kernel in SIZES.items():
                edges = [e for e, (source, _) in enumerate(EDGES) if source == node and op in self.allowed[e]]
                if edges:
                    name = f"{node}_{op}"
                    self.readers[name] = edges
                    conv = nn.Conv2d(channels, channels * len(edges), kernel, padding=kernel // 2, bias=False)
                    self.convolutions[name] = conv

    def forward(self, x: Tensor, choice: Tensor, skip_keep: Tensor | None = None) -> Tensor:
        """choice: (6, 5). skip_keep: (6, N) factors of the skips of this cell, for dropout on them; None for none."""
        sums: list[Tensor | None] = [x, None, None, None]
        for node in range(3):
            here = sums[node]
            if here is None:
                here = torch.zeros_like(x)
            active = F.relu(here)
            edges = [e for e, (source, _) in enumerate(EDGES) if source == node]
            pooled = (
                F.avg_pool2d(here, 3, 1, 1, count_include_pad=False)
                if any(POOL in self.allowed[e] for e in edges)
                else None
            )
            parts: dict[int, list[Tensor]] = {e: [] for e in edges}
            together: dict[tuple[int, ...], Tensor] = {}  # what has the same edges is added before it is split
            for op in SIZES:
                name = f"{node}_{op}"
                if name not in self.readers:
                    continue
                readers = tuple(self.readers[name])
                made = self.convolutions[name](active)
                scale = torch.cat([choice[e, op].expand(self.channels) for e in readers])
                made = F.batch_norm(made, None, None, scale, torch.zeros_like(scale), True)
                together[readers] = together[readers] + made if readers in together else made
            for readers, made in together.items():
                for e, part in zip(readers, made.split(self.channels, 1), strict=True):
                    parts[e].append(part)
            for e in edges:
                total = sums[EDGES[e][1]]
                for part in parts[e]:
                    total = part if total is None else total + part
                if SKIP in self.allowed[e]:
                    kept = here if skip_keep is None else here * skip_keep[e].view(-1, 1, 1, 1)
                    total = weighted(total, choice[e, SKIP], kept)
                if pooled is not None and POOL in self.allowed[e]:
                    total = weighted(total, choice[e, POOL], pooled)
                sums[EDGES[e][1]] = total
        last = sums[3]
        return torch.zeros_like(x) if last is None else last


def weighted(total: Tensor | None, weight: Tensor, term: Tensor) -> Tensor:
    """total + weight * term in one pass over memory; weight is a single number."""
    return weight * term if total is None else torch.addcmul(total, term, weight)


class SuperNetwork(nn.Module):
    """The whole skeleton with mixed cells; `alphas` (6, 5) are shared by all cells."""

    never = NONE  # see choice.Supernet
    edges = len(EDGES)

    def __init__(
        self,
        input_shape: Shape,
        classes: int,
        channels: int,
        cells: int,
        allowed: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        if channels < 1 or cells < 1:
            raise UserError(f"a supernet of nasbench201 wants channels >= 1 and cells >= 1, got {channels} and {cells}")
        allowed = [range(len(OPS))] * len(EDGES) if allowed is None else allowed
        self.arguments = (input_shape, classes, channels, cells)
        self.cells_in_all = 3 * cells
        self.allowed = [tuple(sorted(ops)) for ops in allowed]
        self.stem, body, channels = skeleton(input_shape, channels, cells, lambda width: MixedCell(width, self.allowed))
        self.body = nn.ModuleList(body)
        self.last = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.classifier = nn.Linear(channels, classes)
        barred = torch.zeros(len(EDGES), len(OPS))
        for e, ops in enumerate(self.allowed):
            barred[e, [op for op in range(len(OPS)) if op not in ops]] = -torch.inf
        self.register_buffer("barred", barred, persistent=False)
        self.alphas = nn.Parameter(1e-3 * torch.randn(len(EDGES), len(OPS)))

    def logits(self) -> Tensor:
        """The alphas, -inf for operations that an edge does not have."""
        return self.alphas + self.get_buffer("barred")

    def forward(self, images: Tensor, choice: Tensor, skip_keep: Sequence[Tensor] | None = None) -> Tensor:
        x, place = self.stem(images), 0
        for module in self.body:
            if isinstance(module, MixedCell):
                x = module(x, choice, None if skip_keep is None else skip_keep[place])
                place += 1
            else:
                x = module(x)
        return self.classifier(self.last(x).mean((2, 3)))

    def derive(self, choice: Tensor) -> Arch:
        """The operation with the largest weight on each edge; `none` only where the others have no weight at all.

        As in DARTS, where none is never derived: its weight says little, since a mixture without it is the same mixture
        scaled, which the next normalisation undoes.
        """
        weights = choice.detach().clone()
        weights[weights[:, NONE + 1 :].sum(1) > 0, NONE] = -1.0
        return tuple(int(op) for op in weights.argmax(1))

    def is_skip(self, decision: int, option: int) -> bool:
        return option == SKIP

    def skips(self, arch: Arch) -> int:
        """How many edges of an architecture are skips."""
        return sum(op == SKIP for op in arch)

    @torch.no_grad()
    def discrete(self, arch: Arch) -> nn.Module:
        """The network of an architecture with these weights; its batch normalisations are as freshly made.

        The architecture is built as it is, not in canonical form, so that each edge finds its weights.
        """
        input_shape, classes, channels, cells = self.arguments
        network = Network(arch, input_shape, classes, channels, cells)
        network.stem.load_state_dict(self.stem.state_dict())
        network.last.load_state_dict(self.last.state_dict())
        network.classifier.load_state_dict(self.classifier.state_dict())
        for ours, theirs in zip(self.body, network.body, strict=True):
            if not isinstance(ours, MixedCell):
                theirs.load_state_dict(ours.state_dict())
                continue
            made = [(e, op) for e, op in enumerate(arch) if op not in (NONE, SKIP)]
            operations: Any = theirs.operations
            for (e, op), module in zip(made, operations, strict=True):
                if op == POOL:
                    continue
                name = f"{EDGES[e][0]}_{op}"
                spot = ours.readers[name].index(e) * ours.channels
                source: Any = ours.convolutions[name]
                module[1].weight.copy_(source.weight[spot : spot + ours.channels])
        return network
