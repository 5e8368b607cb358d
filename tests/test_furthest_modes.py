"""Furthest-neighbour search: every mode against a loop over all points, without repeats, with removals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archscout.errors import UserError
from archscout.selection.furthest import MODES, Furthest


def slow(points: np.ndarray, groups: np.ndarray, queries: np.ndarray, excluded: np.ndarray) -> list[float]:
    """The distances of the answers, one query after another."""
    gone, found = excluded.copy(), []
    for query in queries:
        free = [i for i in range(len(points)) if groups[i] == groups[query] and not gone[i] and i != query]
        if not free:
            found.append(-1.0)
            continue
        distances = [((points[query].astype(np.float64) - points[i]) ** 2).sum() for i in free]
        best = free[int(np.argmax(distances))]
        gone[best] = True
        found.append(max(distances))
    return found


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_answers_are_those_of_a_loop(mode: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(1, 60)), int(rng.integers(1, 6))
    points = rng.normal(size=(n, d)).astype(np.float32)
    if rng.random() < 0.3:
        points = np.round(points)  # many equal points and distances
    groups = rng.integers(0, 3, n)
    excluded = rng.random(n) < rng.random()
    queries = rng.integers(0, n, int(rng.integers(0, n + 4)))
    before = excluded.copy()
    found = Furthest(points, groups, mode).replace(queries, excluded)
    assert (excluded == before).all()
    taken = found[found >= 0]
    assert len(np.unique(taken)) == len(taken)
    assert not excluded[taken].any()
    assert (groups[found[found >= 0]] == groups[queries[found >= 0]]).all()
    assert (found != queries).all()
    wanted = slow(points, groups, queries, excluded)
    for query, answer, distance in zip(queries, found, wanted, strict=True):
        got = -1.0 if answer < 0 else ((points[query].astype(np.float64) - points[answer]) ** 2).sum()
        assert got == pytest.approx(distance, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("mode", ["radius", "tree", "brute"])
def test_exact_modes_agree_on_many_queries_that_want_the_same_points(mode: str) -> None:
    rng = np.random.default_rng(0)
    points, groups = rng.normal(size=(4000, 8)).astype(np.float32), np.repeat([0, 1], 2000)
    queries = rng.permutation(4000)[:1500]
    excluded = np.zeros(4000, dtype=bool)
    excluded[queries] = True
    index = Furthest(points, groups, mode)
    found = index.replace(queries, excluded)
    wanted = slow(points, groups, queries[:60], excluded)
    got = ((points[queries[:60]].astype(np.float64) - points[found[:60]]) ** 2).sum(1)
    assert got == pytest.approx(wanted, rel=1e-6)
    assert index.exact
    assert (found == Furthest(points, groups, "brute").replace(queries, excluded)).all()


def test_the_approximate_mode_is_near() -> None:
    rng = np.random.default_rng(1)
    points, groups = rng.normal(size=(6000, 32)).astype(np.float32), np.zeros(6000, dtype=np.int64)
    queries = rng.permutation(6000)[:500]
    excluded = np.zeros(6000, dtype=bool)
    excluded[queries] = True
    near = Furthest(points, groups, "approximate").replace(queries, excluded)
    exact = Furthest(points, groups, "radius").replace(queries, excluded)

    def distance(answers: np.ndarray) -> np.ndarray:
        return np.sqrt(((points[queries] - points[answers]) ** 2).sum(1))

    assert (distance(near) / distance(exact)).mean() > 0.99


@pytest.mark.parametrize(
    ("points", "groups", "mode"),
    [
        (np.array([[0.0], [np.nan]]), [0, 0], "auto"),
        (np.zeros(3), [0, 0, 0], "auto"),
        (np.zeros((3, 2)), [0, 0], "auto"),
        (np.zeros((2, 2)), [0, -1], "auto"),
        (np.zeros((2, 2)), [0, 0], "tre"),
    ],
)
def test_bad_input_is_told(points: np.ndarray, groups: list[int], mode: str) -> None:
    with pytest.raises(UserError):
        Furthest(points, groups, mode)


def test_queries_that_are_not_there() -> None:
    index = Furthest(np.zeros((3, 2)), [0, 0, 1])
    with pytest.raises(UserError):
        index.replace([3], np.zeros(3, dtype=bool))
    with pytest.raises(UserError):
        index.replace([0], np.zeros(2, dtype=bool))
    assert index.replace([2], np.zeros(3, dtype=bool)).tolist() == [-1]
