"""The latency or energy of networks on a device, predicted from about ten measurements and from other devices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy.special import ndtr

from archscout.devices.workload import Rows, Workload, workload
from archscout.errors import UserError
from archscout.space import Arch, SearchSpace

COVERAGE = 0.9  # of the intervals
LEAST = 0.3  # networks faster than this share of the typical one are taken as noisy as one of that share
SPREAD = 0.5  # standard deviation of the device's speed, relative to the median ratio
WORK = (0.01, 0.1, 1.0)  # variances of what a unit of work costs: about as sources say, or quite differently
COUNTS = (0.01, 0.1, 1.0)
MIDDLE = (1.0, 0.1, 0.1, 0.3)
OPTIONS = (0.03, 0.3)  # variances of what is particular to an option at its place
NOISE = (0.003, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3)  # standard deviations of a measurement, relative
OUTLIER = 0.02  # share of measurements that mean nothing
KEPT = 0.98  # probability of the hypotheses that predict
OWN, FIXED, DEPTH = 0.1, 0.3, 0.05  # variances of one option, of the constant, of a cell's depth, within OPTIONS
TRIES = 3_000  # candidates among which networks to measure are chosen
TRACED = 120  # the same, where every candidate must be traced
TARGETS = 400  # networks whose predictions the choice makes sure


@dataclass(frozen=True, eq=False)
class Predictor:
    """Predicts a device's latency or energy, in the unit of its measurements; made by `few_shot`.

    hypotheses: (probability, whether the sources are believed, weights of the kernels, noise, left-out sample or -1),
        the most probable first.
    """

    hypotheses: tuple[tuple[float, bool, tuple[float, ...], float, int], ...]
    _views: tuple[_View, ...]
    _floor: float
    _states: tuple[tuple[np.ndarray, np.ndarray], ...]

    def predict(self, archs: Sequence[Arch]) -> tuple[np.ndarray, np.ndarray]:
        """(mean, half_width), two arrays (n,): nine of ten measurements lie within mean +- half_width.

        The interval holds the noise of a measurement. 15,625 cells of nasbench201 take about a second; in a space whose
        networks must be traced, each takes 10 to 50 ms. Raises UserError for what is no architecture of the space.
        """
        archs = [_checked(self._views[0].prior.load.space, arch) for arch in archs]
        if not archs:
            return np.zeros(0), np.zeros(0)
        asked = {view.believes: (view.prior.rows(archs), view) for view in self._views}
        kernels = {way: (rows.kernels(view.known), rows.variances()) for way, (rows, view) in asked.items()}
        means, widths = [], []
        for (_, way, weights, noise, _), (alpha, inverse) in zip(self.hypotheses, self._states, strict=True):
            (rows, view), (cross, own) = asked[way], kernels[way]
            k = np.tensordot(weights, cross, 1)
            mean = rows.mean + k @ alpha
            variance = np.maximum(np.dot(weights, own) - ((k @ inverse) * k).sum(axis=1), 0)
            means.append(mean * view.unit)
            widths.append(np.sqrt(variance + (noise * np.maximum(mean, LEAST)) ** 2) * view.unit)
        shares = np.array([probability for probability, *_ in self.hypotheses])
        mean, half = _mixed(shares, np.array(means), np.array(widths))
        return np.maximum(mean, self._floor), half


def few_shot(
    space: SearchSpace, sources: Mapping[str, Mapping[Arch, float]] | None, samples: Mapping[Arch, float]
) -> Predictor:
    """A predictor of a device's latency or energy from a few of its own measurements and those of other devices.

    Use it where measuring is dear: on a phone, a board, by hand. Ten measurements (see `choose`) order networks about
    as well as a table of hundreds; the interval says how far to trust one number.

    space:    of the networks.
    sources:  other devices, each with its measurements of networks of the space, in any positive unit; the networks may
              differ from device to device, some hundred each are best. None or empty: the counts of operations,
              multiply-adds and moved numbers alone must do.
    samples:  the new device's measurements, at least 2, in the unit that is to be predicted.

    The cost of a network x is a Gaussian process on rows of numbers that costs add up from,

        y(x) / unit ~ N(m(x), c (x, x') + noise),   c = s m m' + d d' + w W W' + o O O'

    m is the mean of the sources' costs, each a ridge regression on those rows, scaled to mean 1; d are the sources'
    deviations from it; W the work a network asks for (`archscout.devices.workload`); O its options, decision by
    decision, and the depth of a cell. The weights w, o, the noise (relative to the cost), which sample, if any, is an
    outlier, and whether the sources tell anything of this device (if not, m follows the work alone and d is nothing)
    are unknown: every combination on a grid predicts, weighted by how probable it makes the samples.

    Costs about a second with a dozen sources of 900 networks, and once per space 1 to 3 s to trace its operations; a
    space that cannot be built (names of options alone) is predicted from its options and the sources. It fails where a
    device does what neither work nor sources know, such as folding whole networks into constants.

    Raises UserError for an architecture that is not of the space, for values that are not positive and finite (-1 in
    published tables is a missing value: leave it out), and for fewer than 2 samples.

    Sources of the ideas: Lee et al. 2021, "HELP", arXiv 2106.08630 (ten samples and other devices); Rasmussen and
    Williams 2006, "Gaussian processes for machine learning", chapters 2 and 5; Hoeting et al. 1999, "Bayesian model
    averaging", Statistical Science 14.
    """
    if len(samples) < 2:
        raise UserError(f"few_shot wants at least 2 measured networks of the device, got {len(samples)}")
    archs, values = _measured(space, samples, "samples")
    views, weighed = [], []
    for believes in (True, False) if sources else (False,):
        prior = _prior_of(space, sources if believes else None)
        rows = prior.rows(archs)
        unit = float(np.median(values / np.maximum(rows.mean, LEAST)))
        views.append(_View(believes, prior, rows, unit))
        weighed.append(_weighed(rows, values / unit, math.log(unit)))
    hypotheses, states = _probable(views, weighed)
    return Predictor(hypotheses, tuple(views), 0.1 * float(values.min()), states)


def choose(
    space: SearchSpace,
    sources: Mapping[str, Mapping[Arch, float]] | None = None,
    *,
    candidates: Sequence[Arch] | None = None,
    count: int = 10,
    seed: int = 0,
) -> list[Arch]:
    """Which networks to measure on a new device, so that `few_shot` then predicts all others best.

    candidates: networks that can be measured; None draws some of the space. At most 3,000 are looked at (120 where each
    must be traced), drawn with `seed`; so other seeds give other choices. sources: as for `few_shot`, may be None.

    Greedy: each network is the one that lowers the expected squared relative error of the predictions most, summed over
    400 candidates, under the prior of `few_shot` with middling weights (I-optimal design: Cohn et al. 1996, "Active
    learning with statistical models", arXiv cs/9603104). Costs a second, and what `few_shot` costs per space.

    Raises UserError for a count below 1 or above the number of candidates, and for what is not of the space.
    """
    prior = _prior_of(space, sources)
    rng = np.random.default_rng([seed, 10])
    most = TRIES if prior.load.table is not None or prior.load.knees is None else TRACED
    if candidates is None:
        pool = list(dict.fromkeys(space.sample(rng) for _ in range(most)))
    else:
        pool = [_checked(space, arch) for arch in dict.fromkeys(candidates)]
        pool = [pool[i] for i in rng.permutation(len(pool))[:most]]
    if not 1 <= count <= len(pool):
        raise UserError(f"choose wants a count from 1 to the {len(pool)} candidates, got {count}")
    rows = prior.rows(pool)
    weights = MIDDLE
    scaled = np.concatenate([w**0.5 * part for w, part in zip(weights, rows.parts, strict=True)], axis=1)
    scaled /= np.maximum(rows.mean, LEAST)[:, None]
    noise = 0.05**2
    cover, left = scaled @ scaled[:TARGETS].T, (scaled**2).sum(axis=1)
    chosen: list[int] = []
    learned: list[np.ndarray] = []
    for _ in range(count):
        gain = (cover**2).sum(axis=1) / (left + noise)
        gain[chosen] = -1
        best = int(gain.argmax())
        chosen.append(best)
        column = scaled @ scaled[best] - sum(known * known[best] for known in learned)
        column = column / math.sqrt(max(float(column[best]), 0.0) + noise)
        learned.append(column)
        cover = cover - np.outer(column, column[:TARGETS])
        left = np.maximum(left - column**2, 0)
    return [pool[i] for i in chosen]


@dataclass(frozen=True, eq=False)
class _Rows:
    """The prior mean (n,) of some networks, and the features of each kernel, (n, q) each."""

    mean: np.ndarray
    parts: tuple[np.ndarray, ...]

    def kernels(self, other: _Rows) -> np.ndarray:
        """(kernels, n, m) covariances with other networks, each of weight 1."""
        return np.array([mine @ its.T for mine, its in zip(self.parts, other.parts, strict=True)])

    def variances(self) -> np.ndarray:
        """(kernels, n)"""
        return np.array([(part**2).sum(axis=1) for part in self.parts])


@dataclass(frozen=True, eq=False)
class _Prior:
    """What is known before the device is measured: coefficients of the mean, and of each source's deviation."""

    load: Workload
    mean: np.ndarray | None
    deviations: np.ndarray

    def rows(self, archs: Sequence[Arch]) -> _Rows:
        """The rows of some networks."""
        found = self.load.rows(archs)
        ones = np.ones((len(archs), 1))
        if self.mean is not None:
            base = _base(found)
            mean, apart = base @ self.mean, base @ self.deviations.T
        else:
            mean = 0.2 + 0.8 * found.work.mean(axis=1) if found.work.shape[1] else ones[:, 0]
            apart = np.zeros((len(archs), 0))
        rest = np.concatenate([OWN**0.5 * found.options, FIXED**0.5 * ones, DEPTH**0.5 * found.depth], axis=1)
        return _Rows(mean, (np.column_stack([SPREAD * mean, apart]), found.work, found.counts, rest))


def _base(rows: Rows) -> np.ndarray:
    """What a source's costs are a linear function of."""
    work = rows.work / max(1, rows.work.shape[1]) ** 0.5
    return np.concatenate([np.ones((len(work), 1)), work, rows.counts, rows.options], axis=1)


def _prior_of(space: SearchSpace, sources: Mapping[str, Mapping[Arch, float]] | None) -> _Prior:
    load = workload(space)
    if not sources:
        return _Prior(load, None, np.zeros((0, 0)))
    tables = {name: _measured(space, table, f"source '{name}'") for name, table in sources.items()}
    rng = np.random.default_rng(0)
    every = list(dict.fromkeys(arch for archs, _ in tables.values() for arch in archs))
    base = dict(zip(every, _base(load.rows(every)), strict=True))
    reference = np.mean([base[every[i]] for i in rng.permutation(len(every))[:1000]], axis=0)
    fits = np.array([_ridge(np.array([base[a] for a in archs]), values) for archs, values in tables.values()])
    fits /= np.maximum(fits @ reference, 1e-9)[:, None]
    mean = fits.mean(axis=0)
    return _Prior(load, mean, (fits - mean) / math.sqrt(max(1, len(fits) - 1)))


def _ridge(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Coefficients of a source: ridge regression of relative errors, in which far ones count less (Huber)."""
    target = values / np.median(values)
    weights = 1 / np.maximum(target, LEAST)
    noise = 0.05
    for _ in range(5):
        scaled = rows * weights[:, None]
        system = scaled.T @ scaled / noise**2 + np.eye(rows.shape[1])
        found = np.linalg.solve(system, scaled.T @ (target * weights) / noise**2)
        foretold = np.maximum(rows @ found, LEAST)
        off = np.abs(target - foretold) / foretold
        noise = float(np.clip(1.48 * np.median(off), 0.01, 0.3))
        weights = np.sqrt(np.minimum(1, 2 * noise / np.maximum(off, 1e-12))) / foretold
    return found


@dataclass(frozen=True, eq=False)
class _View:
    """A prior, its rows of the samples, and the unit in which it predicts; `believes` where it rests on the sources."""

    believes: bool
    prior: _Prior
    known: _Rows
    unit: float


@dataclass(frozen=True, eq=False)
class _Weighed:
    """How probable combinations of a grid make n samples, and what predicts under each.

    log:      (grid, 1 + n) natural logarithm of the density, without an outlier and with each sample as the outlier.
    alpha:    (grid, n) K^-1 r.  inverse: (grid, n, n) K^-1.  grid: (weights of the kernels, noise).
    """

    log: np.ndarray
    alpha: np.ndarray
    inverse: np.ndarray
    grid: tuple[tuple[tuple[float, ...], float], ...]


def _weighed(rows: _Rows, target: np.ndarray, log_unit: float) -> _Weighed:
    """Every combination of weights and noise against the samples, whose unit the density is stated without."""
    kernels, off = rows.kernels(rows), target - rows.mean
    grid = tuple(((1.0, *weights), noise) for *weights, noise in product(WORK, COUNTS, OPTIONS, NOISE))
    level = np.maximum(rows.mean, LEAST)
    for turn in range(2):
        covariance = np.array([np.tensordot(w, kernels, 1) + np.diag((s * level) ** 2) for w, s in grid])
        inverse = np.linalg.inv(covariance)
        alpha = inverse @ off
        fit = -0.5 * (alpha @ off) - 0.5 * np.linalg.slogdet(covariance)[1] - len(target) * log_unit
        own = np.einsum("gii->gi", inverse)  # left out, sample i is off by alpha_i / own_i with variance 1 / own_i
        alone = -0.5 * alpha**2 / own + 0.5 * np.log(own)
        wild = -0.5 * (alpha / own) ** 2 / (1 / own + level**2) - 0.5 * np.log(1 / own + level**2)
        log = np.concatenate([fit[:, None], fit[:, None] - alone + wild + math.log(OUTLIER / (1 - OUTLIER))], axis=1)
        if turn == 0:  # noise is relative to the cost: take it from the best first fit
            best = int(log.max(axis=1).argmax())
            level = np.maximum(rows.mean + np.tensordot(grid[best][0], kernels, 1) @ alpha[best], LEAST)
    return _Weighed(log, alpha, inverse, grid)


def _probable(
    views: Sequence[_View], weighed: Sequence[_Weighed]
) -> tuple[tuple[tuple[float, bool, tuple[float, ...], float, int], ...], tuple[tuple[np.ndarray, np.ndarray], ...]]:
    """The probable hypotheses of all views together, and for each the vector and the matrix that predict."""
    log = np.stack([each.log for each in weighed])
    chance = np.exp(log - log.max())
    chance /= chance.sum()
    hypotheses: list[tuple[float, bool, tuple[float, ...], float, int]] = []
    states, total = [], 0.0
    for place in np.argsort(-chance, axis=None):
        view, g, left = (int(at) for at in np.unravel_index(int(place), chance.shape))
        probability, left, found = float(chance[view, g, left]), left - 1, weighed[view]
        vector, matrix = found.alpha[g], found.inverse[g]
        if left >= 0:
            column = matrix[:, left] / matrix[left, left]
            vector, matrix = vector - column * vector[left], matrix - np.outer(column, matrix[left])
        hypotheses.append((probability, views[view].believes, *found.grid[g], left))
        states.append((vector, matrix))
        total += probability
        if total >= KEPT:
            break
    return tuple((p / total, way, weights, noise, left) for p, way, weights, noise, left in hypotheses), tuple(states)


def _mixed(shares: np.ndarray, means: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (n,) of a mixture of normals, and the half-width around it that holds COVERAGE of it (by bisection)."""
    mean = shares @ means
    low, high = np.zeros(len(mean)), 5 * (np.abs(means - mean) + widths).max(axis=0)
    for _ in range(16):
        half = (low + high) / 2
        inside = shares @ (ndtr((mean + half - means) / widths) - ndtr((mean - half - means) / widths))
        low, high = np.where(inside < COVERAGE, half, low), np.where(inside < COVERAGE, high, half)
    return mean, (low + high) / 2


def _measured(space: SearchSpace, table: Mapping[Arch, float], what: str) -> tuple[list[Arch], np.ndarray]:
    """Architectures and their values, checked."""
    if not table:
        raise UserError(f"{what}: no measurements; give architectures with their cost, or leave it out")
    archs = [_checked(space, arch, f"{what}: ") for arch in table]
    values = np.array([_number(value) for value in table.values()], dtype=float)
    wrong = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if len(wrong):
        text, value = space.format(archs[wrong[0]]), list(table.values())[wrong[0]]
        hint = "-1 is a missing value: leave that network out" if value == -1 else "leave out what was not measured"
        raise UserError(f"{what}: {text} has the value {value!r}; wanted a positive number ({hint})")
    return archs, values


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _checked(space: SearchSpace, arch: Any, what: str = "") -> Arch:
    """The architecture with plain integers, or a UserError."""
    try:
        found = tuple(int(index) for index in arch) if not isinstance(arch, str) else None
    except (TypeError, ValueError):
        found = None
    if found is None or found not in space:
        raise UserError(
            f"{what}{arch!r} is no architecture of space '{space.name}'; wanted a tuple of "
            f"{len(space.choices)} option indices, as space.parse(text) gives"
        )
    return found
