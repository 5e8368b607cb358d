"""Rows of named numbers: what goes in comes out, in little memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archscout.rows import Keyed, Rows

ROW = st.dictionaries(st.sampled_from("abcdef"), st.floats(allow_nan=False), max_size=6)


@settings(max_examples=50, deadline=None)
@given(st.lists(ROW, max_size=12), st.lists(st.tuples(st.integers(0, 11), ROW), max_size=6))
def test_rows_are_a_list_of_dicts(given_rows: list, changes: list) -> None:
    rows, plain = Rows(), []
    for row in given_rows:
        assert rows.append(row) == len(plain)
        plain.append(dict(row))
    for place, row in changes:
        if place < len(plain):
            rows[place] = row
            plain[place] = dict(row)
    assert list(rows) == plain
    assert len(rows) == len(plain)
    for name in "abcdef":
        np.testing.assert_array_equal(rows.column(name), [row.get(name, np.nan) for row in plain])
    table = rows.table(["b", "a"])
    assert table.shape == (len(plain), 2)
    np.testing.assert_array_equal(table[:, 1], rows.column("a"))
    with pytest.raises(IndexError):
        rows[len(plain)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), ROW), max_size=12))
def test_keyed_rows_are_a_dict_of_dicts(given_rows: list) -> None:
    keyed: Keyed[int] = Keyed()
    plain: dict[int, dict[str, float]] = {}
    for key, row in given_rows:
        keyed[key] = row
        plain[key] = dict(row)
    assert dict(keyed) == plain
    assert list(keyed) == list(plain)
    assert 77 not in keyed
    with pytest.raises(KeyError):
        keyed[77]
    with pytest.raises(TypeError, match="stay"):
        del keyed[0]


def test_a_row_of_sixteen_numbers_takes_a_third_of_a_kilobyte() -> None:
    names = [f"proxy{i}" for i in range(16)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    keyed: Keyed[int] = Keyed()
    for key in range(5000):
        keyed[key] = {name: key / 7 + i for i, name in enumerate(names)}
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert held / 5000 < 350
