"""What the networks of a space ask of a device, as rows of numbers: operations, multiply-adds, numbers moved, depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from archscout.costs.trace import Op, trace
from archscout.devices.profile import family_of
from archscout.space import Arch, SearchSpace

FAMILIES = ("dense", "pointwise", "depthwise", "linear")
SHARES = (0.5, 0.8, 0.95)  # of the operations lie below the knees of the roofline quantities
CHECKS = 6  # random networks on which the sums over decisions are checked
DRAWS = 60  # networks that are traced to learn the range of a space whose costs are no such sums
MOST = 400  # networks that may be traced for the sums
EXACT, NEAR = 0.02, 0.25  # relative errors up to which multiply-adds, and all else, count as sums over decisions


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of numbers for n networks, each array (n, columns), also of no columns where nothing is known.

    work:     quantities that a network asks for, each with mean 1 over random networks; for every encoding.
    counts:   how often each option is taken among the decisions that offer the same, as a share; for every encoding.
    options:  which option each decision takes, over the number of decisions; for every encoding.
    depth:    longest chains, joins and reached nodes of a cell; none where a network is a chain.
    """

    work: np.ndarray
    counts: np.ndarray
    options: np.ndarray
    depth: np.ndarray


@dataclass(frozen=True, eq=False)
class Workload:
    """Rows of numbers for the networks of a space; made by `workload`.

    space:      whose networks.
    encodings:  functions (n, decisions) int -> the same shape: as written, and simplified where that differs.
    table:      (quantities, decisions, most options): what an option asks for beyond the cheapest of its decision;
                None where costs are no sums over decisions.
    scale:      (quantities,) means over random networks, by which columns are divided.
    knees:      numbers moved, and multiply-adds, at which an operation takes longer than its start; None if no network
                of the space can be built.
    """

    space: SearchSpace
    encodings: tuple[Callable[[np.ndarray], np.ndarray], ...]
    table: np.ndarray | None
    scale: np.ndarray
    knees: tuple[np.ndarray, np.ndarray] | None

    def rows(self, archs: Sequence[Arch]) -> Rows:
        """The rows of some networks: microseconds each, but 10 to 50 ms where there is no table and each is traced."""
        raw = np.array(archs, dtype=np.int64).reshape(len(archs), len(self.space.choices))
        codes = [encode(raw) for encode in self.encodings]
        if self.table is not None:
            work = np.concatenate([self.sums(each) for each in codes], axis=1)
        elif self.knees is not None:
            found = [quantities(operations(self.space, arch), *self.knees) for arch in archs]
            work = np.array(found).reshape(len(archs), len(self.scale)) / self.scale
        else:
            work = np.zeros((len(archs), 0))
        cell = self.space.name == "nasbench201"
        return Rows(
            work=work,
            counts=np.concatenate([self.counts(each) for each in codes], axis=1),
            options=np.concatenate([self.options(each) for each in codes], axis=1),
            depth=cell_depth(codes[-1]) if cell else np.zeros((len(archs), 0)),
        )

    def sums(self, codes: np.ndarray) -> np.ndarray:
        """(n, quantities) of encoded networks, from the table."""
        assert self.table is not None
        return np.sum([self.table[:, i, codes[:, i]] for i in range(codes.shape[1])], axis=0).T / self.scale

    def options(self, codes: np.ndarray) -> np.ndarray:
        """(n, options) which option each decision takes, over the number of decisions."""
        sizes = [len(options) for options in self.space.choices.values()]
        taken = [codes[:, i, None] == np.arange(size) for i, size in enumerate(sizes)]
        return np.concatenate(taken, axis=1) / len(sizes)

    def counts(self, codes: np.ndarray) -> np.ndarray:
        """(n, options) how often each option is taken among the decisions that offer the same, as a share of them."""
        groups: dict[tuple[object, ...], list[int]] = {}
        for i, offered in enumerate(self.space.choices.values()):
            groups.setdefault(offered, []).append(i)
        found = [(codes[:, at] == k).mean(axis=1) for offered, at in groups.items() for k in range(len(offered))]
        return np.stack(found, axis=1)


@lru_cache(maxsize=8)
def workload(space: SearchSpace) -> Workload:
    """Find out what the networks of a space ask of a device. For predicting latency or energy from few measurements.

    Where costs are sums over the decisions, as in nasbench201, macro and fbnet, one network per option is traced, once
    for a space (1 to 2 s), and everything else is looked up. Otherwise `DRAWS` networks are traced to learn the range,
    and later each network that is asked about. A space whose networks cannot be built has no quantities, only options.

    Quantities: the number of operations and of those with weights; multiply-adds of dense, pointwise and depthwise
    convolutions and of linear layers; numbers read and written; and rooflines, sum over operations of
    max(1, moved / knee) and max(1, macs / knee), since an operation takes no less than its start (Williams et al. 2009,
    "Roofline"). Knees are the values below which 50, 80 and 95 % of the operations lie.
    """
    raw, simple = (lambda codes: codes), _simplified(space)
    both = (raw,) if simple is None else (raw, simple)
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(CHECKS)]
    try:
        seen = [operations(space, arch) for arch in drawn]
    except Exception:  # a space of names alone: nothing is known of its networks
        return Workload(space, both, None, np.zeros(0), None)
    sizes = [len(options) for options in space.choices.values()]
    if 1 + sum(sizes) - len(sizes) <= MOST:
        for base in sorted(_uniform(space), key=lambda arch: len(operations(space, arch))):
            found = _summed(space, both, base, drawn, seen)
            if found is not None:
                return found
    drawn += [space.sample(rng) for _ in range(DRAWS - CHECKS)]
    seen += [operations(space, arch) for arch in drawn[CHECKS:]]
    knees = _knees(seen)
    scale = np.array([quantities(ops, *knees) for ops in seen]).mean(axis=0)
    return Workload(space, both[-1:], None, np.where(scale > 0, scale, 1.0), knees)


def operations(space: SearchSpace, arch: Arch) -> tuple[Op, ...]:
    """The operations of a network for one image, without its weights."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = space.build(arch)
    return trace(model, space.input_shape).ops


def quantities(ops: Sequence[Op], moved_knees: np.ndarray, macs_knees: np.ndarray) -> np.ndarray:
    """The quantities of some operations: counts, multiply-adds by family, numbers moved, rooflines."""
    macs = np.array([op.macs for op in ops], dtype=float)
    moved = np.array([op.inputs + op.outputs + op.weights for op in ops], dtype=float)
    families = [family_of(op) for op in ops]
    by_family = [macs[[family == name for family in families]].sum() for name in FAMILIES]
    pools = float(families.count("pool"))
    roofs = [np.maximum(1, moved / knee).sum() for knee in moved_knees]
    roofs += [np.maximum(1, macs / knee).sum() for knee in macs_knees]
    return np.array([len(ops), (macs > 0).sum(), pools, *by_family, moved.sum(), *roofs])


def cell_depth(codes: np.ndarray) -> np.ndarray:
    """(n, 4) of NAS-Bench-201 cells: operations and convolutions on the longest chain, joins, nodes that are reached.

    Each is divided by its largest value.
    """
    from archscout.spaces.nasbench201 import EDGES, NONE, OPS

    work = [OPS.index(op) for op in ("nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")]
    far = np.full((len(codes), 2, 4), -np.inf)
    far[:, :, 0] = 0
    degree = np.zeros((len(codes), 4))
    for i, (source, target) in enumerate(EDGES):
        length = np.stack([np.isin(codes[:, i], work), np.isin(codes[:, i], work[:2])], axis=1)
        reach = np.where((codes[:, i] == NONE)[:, None], -np.inf, far[:, :, source] + length)
        far[:, :, target] = np.maximum(far[:, :, target], reach)
        degree[:, target] += codes[:, i] != NONE
    chains = np.where(np.isfinite(far[:, :, 3]), far[:, :, 3], 0)
    joins, reached = np.maximum(degree - 1, 0).sum(axis=1), np.isfinite(far[:, 0, 1:]).sum(axis=1)
    return np.column_stack([chains / 3, joins / 3, reached / 3])


def _simplified(space: SearchSpace) -> Callable[[np.ndarray], np.ndarray] | None:
    """The rows without what changes nothing; None where the space knows no such form.

    Of a NAS-Bench-201 cell the pruned form is taken: the canonical one also renames nodes, and gives skips other names.
    """
    if space.name == "nasbench201":
        from archscout.spaces.nasbench201 import prune as simple
    elif space.canonical_of is not None:
        simple = space.canonical
    else:
        return None
    return lambda codes: np.array([simple(tuple(row)) for row in codes.tolist()], dtype=np.int64).reshape(codes.shape)


def _uniform(space: SearchSpace) -> list[Arch]:
    """The architectures that take the same place in every decision (or the last, where there are fewer)."""
    sizes = [len(options) for options in space.choices.values()]
    return [tuple(min(k, size - 1) for size in sizes) for k in range(max(sizes))]


def _knees(seen: Sequence[Sequence[Op]]) -> tuple[np.ndarray, np.ndarray]:
    ops = [op for each in seen for op in each]
    moved = [op.inputs + op.outputs + op.weights for op in ops]
    return np.quantile(moved, SHARES), np.quantile([op.macs for op in ops if op.macs] or [1], SHARES)


def _summed(
    space: SearchSpace,
    encodings: tuple[Callable[[np.ndarray], np.ndarray], ...],
    base: Arch,
    drawn: Sequence[Arch],
    seen: Sequence[Sequence[Op]],
) -> Workload | None:
    """The workload from changes of one network, decision by decision; None if random networks are no such sums."""
    knees = _knees(seen)
    start = quantities(operations(space, base), *knees)
    sizes = [len(options) for options in space.choices.values()]
    changes = [(*base[:i], k, *base[i + 1 :]) for i, size in enumerate(sizes) for k in range(size) if k != base[i]]
    if any(space.canonical(change) == space.canonical(base) for change in changes):
        return None  # what an option asks for cannot be seen there
    table = np.zeros((len(start), len(sizes), max(sizes)))
    for i, size in enumerate(sizes):
        for k in range(size):
            if k != base[i]:
                table[:, i, k] = quantities(operations(space, (*base[:i], k, *base[i + 1 :])), *knees) - start
    draft = Workload(space, encodings, table, np.ones(len(start)), knees)
    expected = start + draft.sums(encodings[-1](np.array(drawn, dtype=np.int64)))
    true = np.array([quantities(ops, *knees) for ops in seen])
    error = np.abs(expected - true) / np.maximum(np.maximum(true, true.mean(axis=0)), 1e-9)
    macs = list(range(3, 3 + len(FAMILIES)))
    if (error > NEAR).any() or (error[:, macs] > EXACT).any():
        return None
    for i, size in enumerate(sizes):
        table[:, i] -= table[:, i, :size].min(axis=1, keepdims=True)
        table[:, i, size:] = 0
    scale = sum(table[:, i, :size].mean(axis=1) for i, size in enumerate(sizes))
    kept = scale > 0
    table, scale = table[kept], scale[kept]
    rng = np.random.default_rng(1)
    raw = np.column_stack([rng.integers(size, size=50) for size in sizes])
    made = Workload(space, encodings, table, scale, knees)
    rows = [made.sums(encode(raw)) for encode in encodings]
    if len(rows) > 1 and np.allclose(rows[0], rows[1]):
        return Workload(space, encodings[:1], table, scale, knees)
    return made
