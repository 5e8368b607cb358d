"""For each of many images the most dissimilar other one of its class, none given twice: furthest-neighbour search.

Dynamic data selection (Poyser & Breckon 2025, arXiv 2506.14667) replaces every mastered image of a training subset by
the furthest image of the same class in an embedding. All queries of a class want the same few outer points, so the
answers of one call are settled together: in the order of the queries, each takes the furthest point that is left.

How, for up to `SEGMENT` queries of a group at a time:

1. A few thousand outer points are the candidates, as most furthest neighbours are among few points (Curtin & Gardner
   2016, arXiv 1605.09784). All queries choose among them by deferred acceptance, in which an earlier query always wins.
2. What is then wrong can only be a point outside the candidates that is further from some query than what that query
   has. Such points are added and step 1 is repeated. Adding points never takes a query's answer nearer, so that each
   point is looked at once. `approximate` leaves this step out; the other modes differ in what they need to look at:
   - `brute`: every point.
   - `radius`: |q - x| <= |q - c| + |x - c| for the centre c of the group, so only points of large radius |x - c|.
   - `tree`: the leaves of a kd-tree in which some point may be further.

Distances are found in float32, of points that are centred on their group and scaled to radius one, with a margin for
rounding, and decided in float64 of the points as given. Matrix products must be full float32, torch's default.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike

from archscout.errors import UserError, unknown

MODES = ("auto", "brute", "radius", "tree", "approximate")
SEGMENT = 1024  # queries that are settled together
CANDIDATES = 6  # outer points per query of a segment, to begin with
WIDE = 8  # points from which the candidates are chosen, for each one that is gone or asked for
SAMPLE = 64  # queries that choose them
CELLS = 2**23  # of the largest matrix of distances: 32 MB in float32
TILE = 2**18  # cells of a matrix of distances that is looked at once and dropped; stays in the processor's cache
PIVOTS = 64  # points from which candidates are furthest
LEAF = 64  # points at most
DEPTH = 64  # least length of the lists from which queries choose
PAIRS = 2**20  # of a query and a candidate whose distance is taken in float64 at once
TIES = 4096  # points that count as just as far as an answer, within rounding, and are added to the candidates at once
ALLOWED = 2**33  # multiply-adds of the second step for one segment, above which `auto` leaves it out


@dataclass(frozen=True)
class Group:
    """The points of one group in the order in which they are stored; n points, d dimensions, float32 if not said.

    members:   (n,) int64, their positions among all points.
    x:         (n, d), centred, scaled so that the largest radius is one, and for a tree rotated to its main axes.
    radius:    (n,), distances from the centre, in the same unit.
    scale:     the largest radius in the unit of the points.
    priority:  (n,) int64, places in the stored order, likely answers first.
    margin:    what rounding may add to or take from a squared distance.
    tree:      the boxes of its leaves, or None; without a tree the points are stored by falling radius.
    """

    members: np.ndarray
    x: torch.Tensor
    radius: np.ndarray
    scale: float
    priority: np.ndarray
    margin: float
    tree: Leaves | None


@dataclass(frozen=True)
class Leaves:
    """The leaves of a kd-tree: leaf i holds the points starts[i] to starts[i + 1] of the stored order.

    starts:  (leaves + 1,) int64.
    corners: (leaves, 2 d) float32, the upper ends of the boxes and the negatives of their lower ends.
    """

    starts: np.ndarray
    corners: torch.Tensor


class Furthest:
    """Points in groups, ready to be asked for the furthest points of their group.

    points:  (n, d) finite numbers, any unit; kept as float32, not copied if they are: do not change them.
    groups:  (n,) whole numbers from 0, such as classes.
    mode:    "brute", "radius" and "tree" are exact, with the same answers; "approximate" leaves out the check that
             nothing is further. "auto" is "radius" for each segment of queries where that is little work, and
             "approximate" where it is not; see docs/decisions/006-furthest-neighbours.md.

    Keeps a second copy of the points and about 30 bytes a point. Takes some seconds for a million points of 32
    dimensions, most of it for the outer points. Nothing is random. Raises UserError for input that it cannot use.
    """

    def __init__(self, points: ArrayLike, groups: ArrayLike, mode: str = "auto") -> None:
        if mode not in MODES:
            raise unknown("mode of furthest-neighbour search", mode, MODES)
        self.mode = mode
        self.exact: bool | None = None  # whether all answers of the last call of `replace` are exact
        self.points = _checked_points(points)
        self.groups = _checked_groups(groups, len(self.points))
        order = np.argsort(self.groups, kind="stable")
        names, starts = np.unique(self.groups[order], return_index=True)
        self.place = np.empty(len(order), np.int64)  # of each position in the stored order of its group
        self.parts: dict[int, Group] = {}
        for name, start, stop in zip(names.tolist(), starts, np.append(starts, len(order))[1:], strict=True):
            members = order[start:stop]
            group = _stored(self.points, members, tree=mode == "tree")
            self.parts[name] = group
            self.place[group.members] = np.arange(len(members))

    def replace(self, queries: ArrayLike, excluded: ArrayLike) -> np.ndarray:
        """For each query the furthest point of its group that is neither excluded nor already given in this call.

        queries:   (q,) positions, which may repeat and may be excluded; served in this order, never with themselves.
        excluded:  (n,) bool; it is read only.

        Returns (q,) int64 positions, -1 where the group has none left. Of equally far points the smallest position is
        given. Uses below 256 MB besides what is stored. Raises UserError for input of a wrong form.
        """
        asked = _checked_queries(queries, len(self.points))
        barred = _checked_excluded(excluded, len(self.points))
        found = np.full(len(asked), -1, np.int64)
        self.exact = True
        if not len(asked):
            return found
        gone = np.flatnonzero(barred)
        gone = gone[np.argsort(self.groups[gone], kind="stable")]
        names = self.groups[gone]
        order = np.argsort(self.groups[asked], kind="stable")
        wanted, starts = np.unique(self.groups[asked[order]], return_index=True)
        for name, rows in zip(wanted.tolist(), np.split(order, starts[1:]), strict=True):
            group = self.parts[name]
            alive = np.ones(len(group.members), bool)
            low, high = np.searchsorted(names, [name, name + 1])
            alive[self.place[gone[low:high]]] = False
            for first in range(0, len(rows), SEGMENT):
                some = rows[first : first + SEGMENT]
                places, exact = _settle(group, self.points, self.place[asked[some]], alive, self.mode)
                self.exact &= exact
                given = places[places >= 0]
                alive[given] = False
                found[some[places >= 0]] = group.members[given]
        return found


def _array(values: ArrayLike) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _checked_points(points: ArrayLike) -> np.ndarray:
    given = _array(points)
    if given.ndim != 2 or given.shape[1] == 0 or given.dtype.kind not in "fiub":
        raise UserError(
            f"points for furthest-neighbour search are numbers of shape (n, d), got {given.dtype} of shape "
            f"{given.shape}; give one row of embedding per image"
        )
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(given, np.float32)
    bad = np.flatnonzero(~np.isfinite(values).all(1))
    if len(bad):
        raise UserError(
            f"{len(bad)} of {len(values)} points are not finite in float32, the first at position {bad[0]}; remove "
            "them or mend what embeds them"
        )
    return values


def _checked_groups(groups: ArrayLike, n: int) -> np.ndarray:
    given = _array(groups)
    if given.shape != (n,) or (given.dtype.kind not in "iu" and n):
        raise UserError(
            f"groups for furthest-neighbour search are whole numbers of shape ({n},), one per point, got {given.dtype} "
            f"of shape {given.shape}"
        )
    values = given.astype(np.int64)
    if n and values.min() < 0:
        at = int(np.flatnonzero(values < 0)[0])
        raise UserError(f"groups are numbered from 0, got {values[at]} at position {at}; number the classes anew")
    return values


def _checked_queries(queries: ArrayLike, n: int) -> np.ndarray:
    given = _array(queries)
    if given.ndim != 1 or (given.dtype.kind not in "iu" and len(given)):
        raise UserError(
            f"queries are positions of points, whole numbers of shape (q,), got {given.dtype} of shape {given.shape}"
        )
    values = given.astype(np.int64)
    outside = np.flatnonzero((values < 0) | (values >= n))
    if len(outside):
        raise UserError(
            f"{len(outside)} queries lie outside the {n} points, the first is {values[outside[0]]}; give positions "
            f"from 0 to {n - 1}"
        )
    return values


def _checked_excluded(excluded: ArrayLike, n: int) -> np.ndarray:
    given = _array(excluded)
    if given.shape != (n,) or given.dtype != bool:
        raise UserError(f"excluded is bool of shape ({n},), one per point, got {given.dtype} of shape {given.shape}")
    return given


def _stored(points: np.ndarray, members: np.ndarray, tree: bool) -> Group:
    """Centres, scales and orders the points of a group, in blocks of rows so that little memory is used besides."""
    n, d = len(members), points.shape[1]
    rows = max(1, CELLS // 4 // d)
    pieces = [members[first : first + rows] for first in range(0, n, rows)]
    centre = sum(points[piece].sum(0, dtype=np.float64) for piece in pieces) / n
    axes = np.eye(d)
    if tree:
        spread = np.zeros((d, d))
        for piece in pieces:
            spread += (points[piece] - centre).T @ (points[piece] - centre)
        axes = np.linalg.eigh(spread / max(np.abs(spread).max(), 1e-300))[1][:, ::-1]
    radius = np.concatenate([np.linalg.norm(points[piece] - centre, axis=1) for piece in pieces])
    scale = float(radius.max()) or 1.0
    order = np.argsort(-radius, kind="stable")
    members, radius = members[order], (radius[order] / scale).astype(np.float32)
    x = torch.empty(n, d)
    for first in range(0, n, rows):
        piece = (points[members[first : first + rows]] - centre) / scale
        x[first : first + rows] = torch.from_numpy(piece @ axes if tree else piece)
    priority = _priority(x)
    leaves = None
    if tree:
        starts, order = _split(x.numpy())
        place = np.empty(n, np.int64)
        place[order] = np.arange(n)
        members, radius, x, priority = members[order], radius[order], x[torch.from_numpy(order)], place[priority]
        upper, lower = np.maximum.reduceat(x.numpy(), starts[:-1]), np.minimum.reduceat(x.numpy(), starts[:-1])
        leaves = Leaves(starts, torch.from_numpy(np.concatenate([upper, -lower], 1)))
    return Group(members, x, radius, scale, priority, (d + 16) * 2.5e-7, leaves)


def _priority(x: torch.Tensor) -> np.ndarray:
    """All places of points x (n, d), stored by falling radius, likely answers first.

    Every second one is the next by radius. The others are in turn the next furthest from each of some pivots, which
    lie as far from each other as a sample allows: where the radius says little, as on a sphere or among clusters,
    queries are near pivots and pivots know what is far.
    """
    n = len(x)
    rank = 2 * np.arange(n)
    if n <= CANDIDATES * SEGMENT:  # all of them are candidates of a full segment
        return rank // 2
    sample = x[:: -(-n // 2048)]
    chosen, near = [0], torch.full((len(sample),), torch.inf)
    for _ in range(PIVOTS - 1):
        near = torch.minimum(near, (sample - sample[chosen[-1]]).square().sum(1))
        chosen.append(int(near.argmax()))
    each = n // (4 * PIVOTS)
    norms = x.square().sum(1)
    for turn, pivots in enumerate(sample[chosen].split(4)):
        far = torch.addmm(norms, pivots, x.T, alpha=-2).topk(each, dim=1).indices.numpy()
        for number, row in enumerate(far):
            rank[row] = np.minimum(rank[row], 2 * (PIVOTS * np.arange(each) + 4 * turn + number) + 1)
    return np.argsort(rank, kind="stable")


def _split(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A balanced kd-tree of points x (n, d): starts (leaves + 1,) of the leaves, and the order (n,) of the points.

    Every node is halved at the median of its axis of largest variance until no node has more than `LEAF` points.
    """
    nodes = [np.arange(len(x))]
    while len(nodes[-1]) > LEAF:  # the last one is never smaller than others
        halves = []
        for node in nodes:
            inside = x[node]
            along = inside[:, inside.var(0).argmax()]
            middle = len(node) // 2
            order = node[np.argpartition(along, middle)]
            halves += [order[:middle], order[middle:]]
        nodes = halves
    starts = np.concatenate([[0], np.cumsum([len(node) for node in nodes])])
    return starts, np.concatenate(nodes)


@dataclass
class Segment:
    """Queries of one group that are settled together, and where that stands.

    rows:    (b,) places of the queries, in their order.
    columns: places of the candidates.
    unseen:  (n,) bool, by place: may be given and is no candidate.
    found:   (b,) places of the answers among the candidates, -1 for none.
    reach:   (b,) float64, their squared distances in units of the group's scale, -inf for none.
    """

    group: Group
    points: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    unseen: np.ndarray
    found: np.ndarray = field(init=False)
    reach: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.unseen[self.columns] = False
        self.choose()

    def choose(self) -> None:
        """Each query in order takes the furthest candidate left; of equally far ones the smallest position."""
        group, rows = self.group, self.rows
        columns = self.columns[np.argsort(group.members[self.columns])]
        self.found, self.reach = np.full(len(rows), -1, np.int64), np.full(len(rows), -np.inf)
        first, block = 0, 4 * DEPTH
        while first < len(rows) and len(columns):
            lists = _lists(group, self.points, rows[first : first + block], columns)
            entry, settled = _defer(lists, len(columns))
            has = np.flatnonzero(entry >= 0)
            given = lists.column[entry[has]]
            self.found[first + has] = columns[given]
            self.reach[first + has] = lists.distance[entry[has]]
            columns = np.delete(columns, given)
            first += settled
            block = 2 * block if settled == block else max(DEPTH, settled)

    def look(self, places: np.ndarray, excess: np.ndarray) -> None:
        """Takes in those places whose `excess` says that they are further from some query than what that query has.

        excess: by how much the squared distance is more, at most over the queries, in units of the group's scale.
        """
        margin = self.group.margin
        sure = places[self.unseen[places] & (excess > margin)]
        same = places[self.unseen[places] & (np.abs(excess) <= margin)]
        if len(same) > TIES:
            same = same[np.argpartition(self.group.members[same], TIES)[:TIES]]
        if len(sure) + len(same):
            more = np.concatenate([sure, same])
            self.columns = np.concatenate([self.columns, more])
            self.unseen[more] = False
            self.choose()


def _settle(
    group: Group, points: np.ndarray, rows: np.ndarray, alive: np.ndarray, mode: str
) -> tuple[np.ndarray, bool]:
    """The answers (b,) of the queries at places `rows` (b,), as places or -1, and whether they are exact.

    alive: (n,) bool, by place, what may be given.
    """
    count = int(alive.sum())
    wanted = min(count, CANDIDATES * max(len(rows), SEGMENT // 4) + 1)  # one is left for the last query, not itself
    segment = Segment(group, points, rows, _candidates(group, rows, alive, wanted), alive.copy())
    if wanted == count:
        return segment.found, True
    if mode == "approximate":
        return segment.found, False
    if mode == "auto" and int(_prefixes(segment).sum()) * (group.x.shape[1] + 32) > ALLOWED:
        return segment.found, False
    if group.tree is not None:
        _look_by_leaf(segment, group.tree)
    else:
        _look_by_radius(segment, everything=mode == "brute")
    return segment.found, True


def _candidates(group: Group, rows: np.ndarray, alive: np.ndarray, wanted: int) -> np.ndarray:
    """The places (wanted,) of points that are alive and that some of a sample of the queries find far.

    They are among the next ones by priority: more the more points are gone, as those that are left of a much used
    region are the ones that nobody wanted.
    """
    gone = len(alive) - int(alive.sum())
    many = min(len(alive) - gone, max(wanted, min(WIDE * (gone + len(rows)), CELLS // SAMPLE)))
    likely = group.priority[: many + gone]
    likely = likely[alive[likely]][:many]
    if many == wanted:
        return likely
    some = rows[:: -(-len(rows) // SAMPLE)]
    values = _distances(group.x[torch.from_numpy(some)], group.x[torch.from_numpy(likely)], 4 * DEPTH)
    level = torch.from_numpy(_level(values, 4 * DEPTH, 2 * DEPTH)).float()
    promise = (values - level[:, None]).amax(0).numpy()[:many]
    return likely[np.argpartition(-promise, wanted)[:wanted]]


@dataclass(frozen=True)
class Lists:
    """For each of b queries some candidates, the furthest first: query i has the entries ends[i] to ends[i + 1].

    column:    (entries,) int64, which candidate.
    distance:  (entries,) float64, squared, in units of the group's scale.
    whole:     whether the lists hold all candidates; otherwise those left out are nearer than all of the list.
    """

    ends: np.ndarray
    column: np.ndarray
    distance: np.ndarray
    whole: bool


def _lists(group: Group, points: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> Lists:
    """Lists of at least `DEPTH` candidates each, for the first of the queries, as many as memory allows."""
    many, own = len(columns), group.members[rows]
    rows = rows[: max(1, CELLS // many)]
    q = group.x[torch.from_numpy(rows)]
    c = group.x[torch.from_numpy(columns)]
    base = q.double().square().sum(1).numpy()
    whole = many <= 8 * DEPTH
    if whole:
        row, column = np.divmod(np.arange(len(rows) * many), many)
        level = np.full(len(rows), -np.inf)
    else:
        values = _distances(q, c, 4 * DEPTH)
        level = _level(values, 4 * DEPTH, DEPTH + 1)
        least = torch.from_numpy((level - 2 * group.margin).astype(np.float32))
        row, column = np.divmod(np.flatnonzero((values >= least[:, None]).numpy()), values.shape[1])
    if len(row) > PAIRS:
        few = max(1, int(row[PAIRS]))  # whole lists only
        inside = row < few
        rows, row, column = rows[:few], row[inside], column[inside]
    near, far = points[own[: len(rows)]], points[group.members[columns]]
    distance = np.empty(len(row))
    for first in range(0, len(row), 4096):
        part = slice(first, first + 4096)
        apart = np.subtract(near[row[part]], far[column[part]], dtype=np.float64)
        distance[part] = np.einsum("ij,ij->i", apart, apart)
    distance /= group.scale**2
    sure = (distance - base[row] >= level[row] - group.margin) & (own[row] != group.members[columns[column]])
    row, column, distance = row[sure], column[sure], distance[sure]
    count = np.bincount(row, minlength=len(rows))
    ends = np.concatenate([[0], np.cumsum(count)])
    table = np.full((len(rows), int(count.max())), np.inf)
    table[row, np.arange(len(row)) - ends[row]] = -distance
    order = np.argsort(table, axis=1, kind="stable") + ends[:-1, None]
    order = order[np.arange(table.shape[1]) < count[:, None]]
    return Lists(ends, column[order], distance[order], whole)


def _distances(q: torch.Tensor, c: torch.Tensor, buckets: int) -> torch.Tensor:
    """Squared distances of q (b, d) and c (m, d) less |q|^2, with columns of -inf up to a multiple of `buckets`."""
    more = -len(c) % buckets
    norms = torch.cat([c.square().sum(1), torch.full((more,), -torch.inf)])
    return torch.addmm(norms, q, torch.cat([c, torch.zeros(more, c.shape[1])]).T, alpha=-2)


def _level(values: torch.Tensor, buckets: int, rank: int) -> np.ndarray:
    """Some value (b,) float64 that at least `rank` of the values of its row reach, and few more: values (b, m).

    It is the rank-th largest of the maxima of buckets into which the columns are dealt in turn; m is a multiple of
    their number. That costs less than a selection among all values.
    """
    tops = values.view(len(values), -1, buckets).amax(1).numpy()
    return np.partition(tops, buckets - rank, axis=1)[:, buckets - rank].astype(np.float64)


def _defer(lists: Lists, many: int) -> tuple[np.ndarray, int]:
    """Which entry of the lists each query takes, or -1, for the first queries of the lists, and of how many.

    Deferred acceptance: all queries that have nothing ask at once for the best entry that did not refuse them; a
    candidate keeps the earliest query. As all candidates prefer earlier queries, the outcome is that of serving the
    queries one by one. Where a list ends too early, the queries before it are settled and it is for the caller to
    make a longer one; at least one query is settled. `many` is the number of candidates.
    """
    queries = len(lists.ends) - 1
    at, ends = lists.ends[:-1].copy(), lists.ends[1:]
    holder, first = np.full(many, queries), np.empty(many, np.int64)
    free, settled = np.arange(queries), queries
    while len(free):
        out = at[free] >= ends[free]
        if out.any():
            if not lists.whole:
                settled = min(settled, int(free[out][0]))
            free = free[~out]
            free = free[free < settled]
        asked = lists.column[at[free]]
        first[asked[::-1]] = free[::-1]  # of several that ask for the same, the earliest is written last
        wins = (first[asked] == free) & (free < holder[asked])
        dropped = holder[asked[wins]]
        holder[asked[wins]] = free[wins]
        free = np.sort(np.concatenate([free[~wins], dropped[dropped < settled]]))
        at[free] += 1
    entry = np.where(at < ends, at, -1)
    return entry[:settled], settled


def _excess(x: torch.Tensor, norms: torch.Tensor, q: torch.Tensor, short: torch.Tensor) -> np.ndarray:
    """By how much points x (p, d) are further than the answers of queries q (b, d), at most over the queries: (p,).

    norms: (p,) squared; short: (1, b), |q|^2 less the squared distance of the answer.
    """
    return torch.addmm(short, x, q.T, alpha=-2).amax(1).add_(norms).numpy()


def _short(segment: Segment) -> tuple[torch.Tensor, torch.Tensor]:
    """The queries (b, d) and |q|^2 less the squared distances of their answers (b,), as `_excess` wants them."""
    q = segment.group.x[torch.from_numpy(segment.rows)]
    return q, (q.double().square().sum(1) - torch.from_numpy(segment.reach)).float()


def _prefixes(segment: Segment) -> np.ndarray:
    """How many of the points, stored by falling radius, can be at least as far as the answers of the queries: (b,)."""
    group = segment.group
    least = np.sqrt(np.maximum(segment.reach - group.margin, 0)) - group.radius[segment.rows] - 1e-6
    return np.searchsorted(-group.radius, -least, side="right")


def _look_by_radius(segment: Segment, everything: bool) -> None:
    """Looks at all unseen points that the radius allows, or at all, in stages of growing size.

    What a stage finds raises the answers and so lowers what the next ones have to look at.
    """
    group = segment.group
    n, first, size = len(group.members), 0, len(segment.columns)
    step = max(32, TILE // len(segment.rows))
    while first < n:
        prefix = np.full(len(segment.rows), n) if everything else _prefixes(segment)
        order = np.argsort(-prefix, kind="stable")
        falling = -prefix[order]
        last = min(n, first + size, -int(falling[0]))
        if last <= first:
            return
        q, short = (each[torch.from_numpy(order)] for each in _short(segment))
        excess = np.empty(last - first, np.float32)
        for start in range(first, last, step):
            stop = min(start + step, last)
            some = int(np.searchsorted(falling, -start))  # queries whose prefix reaches beyond start
            x = group.x[start:stop]
            excess[start - first : stop - first] = _excess(x, x.square().sum(1), q[:some], short[None, :some])
        segment.look(np.arange(first, last), excess)
        first, size = last, 2 * size


def _look_by_leaf(segment: Segment, tree: Leaves) -> None:
    """Looks at the leaves that can hold something further, the most promising first, in stages of growing size."""
    group = segment.group
    left, size = np.arange(len(tree.starts) - 1), max(64, len(segment.columns) // LEAF)
    block = max(1, TILE // len(segment.rows))
    while len(left):
        radius = np.maximum.reduceat(np.where(segment.unseen, group.radius, -1), tree.starts[:-1])
        left = left[radius[left] >= 0]  # those that still hold something
        q, short = _short(segment)
        best = np.empty(len(left), np.float32)
        for i in range(0, len(left), block):
            some = left[i : i + block]
            best[i : i + block] = _bounds(tree, some, radius, q, short).amax(1)
        order = np.argsort(-best, kind="stable")
        order = order[best[order] >= -2 * group.margin]
        now, left = left[order[:size]], left[order[size:]]
        places, excess = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        for i in range(0, len(now), block):
            some = now[i : i + block]
            further = _bounds(tree, some, radius, q, short) >= -2 * group.margin
            for leaf, wants in zip(some.tolist(), further, strict=True):
                start, stop = int(tree.starts[leaf]), int(tree.starts[leaf + 1])
                x = group.x[start:stop]
                places.append(np.arange(start, stop))
                excess.append(_excess(x, x.square().sum(1), q[wants], short[None, wants]))
        segment.look(np.concatenate(places), np.concatenate(excess))
        size *= 2


def _bounds(tree: Leaves, leaves: np.ndarray, radius: np.ndarray, q: torch.Tensor, short: torch.Tensor) -> torch.Tensor:
    """By how much the points of some leaves can be further than the answers of queries q (b, d): (leaves, b).

    radius: (all leaves,), the largest of the unseen points in each. short: (b,), see `_excess`.
    In a box with largest radius r, |q - x|^2 = |q|^2 - 2 q.x + |x|^2 is at most |q|^2 + 2 s + r^2, where s, the largest
    -q.x, is at most that of the box's corner that is furthest against q, and at most |q| r. For many queries and
    leaves this is one matrix product. It is tighter than the distance to the furthest corner, as a corner's own radius
    is much larger than that of any point once there are more than a few dimensions.
    """
    r = torch.from_numpy(radius[leaves])[:, None]
    signed = torch.cat([(-q).clamp(min=0), q.clamp(min=0)], 1)
    along = torch.minimum(tree.corners[torch.from_numpy(leaves)] @ signed.T, r * q.norm(dim=1))
    return 2 * along + (r.square() + short)
