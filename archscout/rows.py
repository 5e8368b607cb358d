"""Many rows of named numbers at eight bytes a number; a dict of each row would take ten times as much."""

from __future__ import annotations

import math
from array import array
from collections.abc import Hashable, Iterator, Mapping, MutableMapping
from typing import TypeVar

import numpy as np

Key = TypeVar("Key", bound=Hashable)


class Rows:
    """A list of dicts from names to finite numbers, kept as one column of doubles per name.

    Use it for what there is one of per candidate. Reading a row makes a dict (about a microsecond); `column` and
    `table` give whole columns. NaN stands for "not in this row", so a NaN that is put in does not come back.
    """

    def __init__(self) -> None:
        self._columns: dict[str, array[float]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, row: Mapping[str, float]) -> int:
        """Adds a row at the end and returns its place."""
        for name in row:
            if name not in self._columns:
                self._columns[name] = array("d", [math.nan]) * self._count
        for name, column in self._columns.items():
            column.append(row.get(name, math.nan))
        self._count += 1
        return self._count - 1

    def __getitem__(self, place: int) -> dict[str, float]:
        if not 0 <= place < self._count:
            raise IndexError(place)
        return {name: value for name, column in self._columns.items() if (value := column[place]) == value}

    def __setitem__(self, place: int, row: Mapping[str, float]) -> None:
        for name in row:
            if name not in self._columns:
                self._columns[name] = array("d", [math.nan]) * self._count
        for name, column in self._columns.items():
            column[place] = row.get(name, math.nan)

    def __iter__(self) -> Iterator[dict[str, float]]:
        return (self[place] for place in range(self._count))

    @property
    def names(self) -> list[str]:
        """The names that any row has, in the order in which they came."""
        return list(self._columns)

    def column(self, name: str) -> np.ndarray:
        """float64 (n,), a copy; NaN where a row lacks the name."""
        found = self._columns.get(name)
        return np.full(self._count, np.nan) if found is None else np.array(found, dtype=np.float64)

    def table(self, names: list[str]) -> np.ndarray:
        """float64 (n, names); NaN where a row lacks a name."""
        return np.column_stack([self.column(name) for name in names]) if names else np.empty((self._count, 0))


class Keyed(MutableMapping[Key, dict[str, float]]):
    """Rows by key: a mapping from keys to dicts of finite numbers."""

    def __init__(self) -> None:
        self._rows = Rows()
        self._place: dict[Key, int] = {}

    def __getitem__(self, key: Key) -> dict[str, float]:
        return self._rows[self._place[key]]

    def __setitem__(self, key: Key, row: Mapping[str, float]) -> None:
        place = self._place.get(key)
        if place is None:
            self._place[key] = self._rows.append(row)
        else:
            self._rows[place] = row

    def __delitem__(self, key: Key) -> None:
        raise TypeError("rows stay once they are in")

    def __contains__(self, key: object) -> bool:
        return key in self._place

    def __iter__(self) -> Iterator[Key]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)
