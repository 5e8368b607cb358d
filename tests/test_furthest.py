"""Furthest-neighbour search: exact modes against a plain loop, what approximate keeps, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archscout.errors import UserError
from archscout.selection import furthest
from archscout.selection.furthest import MODES, Furthest

EXACT = ("brute", "radius", "tree")
# sizes at which a few dozen points already pass through every branch
SMALL = {
    "SEGMENT": 8,
    "CANDIDATES": 1,
    "WIDE": 2,
    "SAMPLE": 2,
    "CELLS": 40,
    "TILE": 16,
    "PIVOTS": 2,
    "LEAF": 2,
    "DEPTH": 1,
}
MIDDLE = SMALL | {"SEGMENT": 32, "CANDIDATES": 2, "WIDE": 4, "CELLS": 2**11, "TILE": 2**9, "LEAF": 5, "DEPTH": 3}


def steps(points, groups, queries, excluded, answers=None) -> Iterator[tuple[int, int, np.ndarray]]:
    """Per query in order: the answer of a plain loop in float64, its given answer or the same, and all free distances.

    A point that is not free has the distance -1. Without `answers` the loop goes on from its own.
    """
    points = np.asarray(points, np.float32).astype(np.float64)
    free = ~excluded
    for turn, query in enumerate(queries):
        allowed = free & (groups == groups[query])
        allowed[query] = False
        distances = np.where(allowed, ((points - points[query]) ** 2).sum(1), -1)
        best = int(distances.argmax()) if allowed.any() else -1
        answer = best if answers is None else int(answers[turn])
        yield best, answer, distances
        if answer >= 0:
            free[answer] = False


def plain(points, groups, queries, excluded) -> np.ndarray:
    return np.array([best for best, _, _ in steps(points, groups, queries, excluded)], np.int64)


@st.composite
def settings_of_a_call(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, d = draw(st.integers(1, 120)), draw(st.integers(1, 6))
    kind = draw(st.sampled_from(["normal", "grid", "constant", "copies", "line", "far", "sphere"]))
    points = rng.standard_normal((n, d))
    if kind == "grid":
        points = rng.integers(0, 3, (n, d))
    elif kind == "constant":
        points[:] = 0.1
    elif kind == "copies":
        points = points[rng.integers(0, max(1, n // 3), n)]
    elif kind == "line":
        points[:, 1:] = 0
    elif kind == "far":
        points += 1000
    elif kind == "sphere":
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    groups = rng.integers(0, draw(st.integers(1, 4)), n) * draw(st.sampled_from([1, 7]))
    excluded = rng.random(n) < draw(st.sampled_from([0, 0.1, 0.5, 0.9, 1]))
    inside = np.flatnonzero(excluded)
    queries = rng.integers(0, n, draw(st.integers(0, n)))
    if draw(st.booleans()) and len(inside):  # the usual case: the queries are the subset
        queries = rng.permutation(inside)
    return points.astype(np.float32), groups, queries, excluded


@pytest.mark.parametrize("sizes", [{"SEGMENT": furthest.SEGMENT}, SMALL, MIDDLE], ids=["as is", "small", "middle"])
@settings(max_examples=150, deadline=None)
@given(call=settings_of_a_call())
def test_exact_modes_equal_a_plain_loop(sizes, call):
    points, groups, queries, excluded = call
    before = excluded.copy()
    wanted = plain(points, groups, queries, excluded)
    with patch.multiple(furthest, **sizes):
        for mode in EXACT:
            index = Furthest(points, groups, mode)
            found = index.replace(queries, excluded)
            assert found.tolist() == wanted.tolist(), mode
            assert found.dtype == np.int64
            assert index.exact
        for mode in ("auto", "approximate"):
            found = Furthest(points, groups, mode).replace(queries, excluded)
            for best, answer, distances in steps(points, groups, queries, excluded, found):
                assert distances[answer] >= 0 if answer >= 0 else best < 0  # free and of the group, or none is left
    assert (excluded == before).all()


def clustered(n: int, d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    spread = 0.8 ** np.arange(d)
    return ((rng.standard_normal((12, d))[rng.integers(12, size=n)] + rng.standard_normal((n, d))) * spread).astype(
        np.float32
    )


@pytest.mark.parametrize("kind", ["normal", "clustered", "sphere"])
def test_exact_modes_on_many_points(kind):
    """At the sizes as they are, beyond the first candidates and one segment: every step is right within rounding."""
    n, d, size = 20_000, 16, 1_300
    points = clustered(n, d, 1)
    if kind != "clustered":
        points = np.random.default_rng(0).standard_normal((n, d)).astype(np.float32)
    if kind == "sphere":
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    groups = np.zeros(n, np.int64)
    queries = np.random.default_rng(2).permutation(n)[:size]
    excluded = np.zeros(n, bool)
    excluded[queries] = True
    found = {mode: Furthest(points, groups, mode).replace(queries, excluded) for mode in EXACT}
    assert (found["radius"] == found["brute"]).all()
    assert (found["tree"] == found["brute"]).all()
    assert len(set(found["tree"].tolist())) == size
    for best, answer, distances in steps(points, groups, queries, excluded, found["tree"]):
        assert distances[answer] >= distances[best] * (1 - 1e-6)


@pytest.mark.parametrize(("kind", "least"), [("normal", 0.99), ("clustered", 0.99), ("two", 0.99), ("sphere", 0.95)])
def test_approximate_is_nearly_exact_under_the_same_exclusions(kind, least):
    n, size = 30_000, 400
    points = clustered(n, 16, 3)
    if kind in ("normal", "sphere"):
        points = np.random.default_rng(0).standard_normal((n, 16)).astype(np.float32)
    if kind == "two":  # a small part far away, whose furthest points have small radius
        points[: n // 10] += 20
    if kind == "sphere":
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    groups = np.zeros(n, np.int64)
    queries = np.random.default_rng(2).permutation(n)[:size]
    excluded = np.zeros(n, bool)
    excluded[queries] = True
    index = Furthest(points, groups, "approximate")
    found = index.replace(queries, excluded)
    assert index.exact is False
    all_steps = steps(points, groups, queries, excluded, found)
    ratios = np.array([np.sqrt(distances[answer] / distances[best]) for best, answer, distances in all_steps])
    assert ratios.mean() >= least


@pytest.mark.parametrize("d", [1, 8])
def test_all_want_the_same_few(d):
    """Points of which few are ever furthest, until nothing is left; on a line all lists agree but for the two ends."""
    points = np.random.default_rng(0).standard_normal((3_000, d)).astype(np.float32)
    groups = np.zeros(3_000, np.int64)
    queries = np.arange(1_600)
    excluded = np.arange(3_000) < 1_600
    wanted = plain(points, groups, queries, excluded)
    assert (wanted < 0).sum() == 200
    for mode in MODES:
        assert (Furthest(points, groups, mode).replace(queries, excluded) == wanted).all(), mode


def test_auto_is_exact_where_that_is_little_work():
    points = clustered(20_000, 8, 0)
    excluded = np.arange(20_000) < 500
    calls = np.arange(500), excluded
    index = Furthest(points, np.zeros(20_000, int))
    exact = index.replace(*calls)
    assert index.exact
    assert (exact == Furthest(points, np.zeros(20_000, int), "brute").replace(*calls)).all()
    with patch.object(furthest, "ALLOWED", 0):
        near = index.replace(*calls)
    assert index.exact is False
    assert (near == Furthest(points, np.zeros(20_000, int), "approximate").replace(*calls)).all()


@pytest.mark.parametrize("mode", MODES)
def test_updates_in_a_row_with_what_left_excluded(mode):
    """The index keeps nothing of a call: the second answers as a new index would; tensors and lists do too."""
    points, groups = clustered(600, 4, 5), np.arange(600) % 3
    index = Furthest(torch.from_numpy(points), torch.from_numpy(groups), mode)
    queries = np.random.default_rng(0).permutation(600)[:60]
    excluded = np.zeros(600, bool)
    excluded[queries] = True
    for _ in range(4):
        found = index.replace(torch.from_numpy(queries), torch.from_numpy(excluded))
        assert (found == Furthest(points, groups, mode).replace(queries.tolist(), excluded.tolist())).all()
        assert (groups[found] == groups[queries]).all()
        assert not excluded[found].any()
        queries = found
        excluded[queries] = True


@pytest.mark.parametrize("factor", [1e-38, 1e-20, 1e18, 1e37])
@pytest.mark.parametrize("mode", EXACT)
def test_any_unit_will_do(mode, factor):
    points = (clustered(200, 3, 0) * factor).astype(np.float32)
    groups, excluded = np.zeros(200, np.int64), np.arange(200) < 40
    with patch.multiple(furthest, **SMALL):
        found = Furthest(points, groups, mode).replace(np.arange(40), excluded)
    assert (found == plain(points, groups, np.arange(40), excluded)).all()


def test_a_class_may_have_one_member_and_nothing_may_be_asked():
    index = Furthest([[0.0], [1.0], [3.0]], [4, 9, 9])
    assert index.replace([0, 1, 2, 2], [False] * 3).tolist() == [-1, 2, 1, -1]
    assert index.replace([], [False] * 3).tolist() == []
    assert index.replace([1], [True] * 3).tolist() == [-1]
    assert Furthest(np.zeros((0, 3)), []).replace([], np.zeros(0, bool)).tolist() == []


def test_refuses_what_it_cannot_use():
    points = np.zeros((5, 2), np.float32)
    groups = np.zeros(5, np.int64)
    for value, at in ((np.nan, 3), (np.inf, 1), (1e300, 0)):
        bad = points.astype(np.float64)
        bad[at, 1] = bad[4, 0] = value
        with pytest.raises(UserError, match=f"2 of 5 points are not finite.*first at position {at}"):
            Furthest(bad, groups)
    for bad in (points[0], points[:, :0], points[None], np.array([["a"]] * 5)):
        with pytest.raises(UserError, match=r"shape \(n, d\)"):
            Furthest(bad, groups)
    for bad in (groups[:4], groups.astype(float), groups[None]):
        with pytest.raises(UserError, match=r"one per point"):
            Furthest(points, bad)
    with pytest.raises(UserError, match="got -2 at position 1"):
        Furthest(points, [0, -2, 0, -1, 0])
    with pytest.raises(UserError, match="did you mean 'brute'"):
        Furthest(points, groups, "brut")
    index = Furthest(points, groups)
    for queries in ([5], [-1], [0, 7]):
        with pytest.raises(UserError, match="1 queries lie outside the 5 points"):
            index.replace(queries, np.zeros(5, bool))
    for queries in ([[0]], [0.5], 3):
        with pytest.raises(UserError, match="queries are positions"):
            index.replace(queries, np.zeros(5, bool))
    for excluded in (np.zeros(4, bool), np.zeros(5), np.zeros((5, 1), bool)):
        with pytest.raises(UserError, match=r"excluded is bool of shape \(5,\)"):
            index.replace([0], excluded)
