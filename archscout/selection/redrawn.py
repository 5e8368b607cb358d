"""A random subset that is kept for some rounds, then redrawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from archscout.errors import UserError
from archscout.selection.dds import due_by_default
from archscout.selection.random import Random
from archscout.selection.selector import Labelled, Record


class Redrawn(Random):
    """A random share that is drawn anew at certain rounds and kept in between.

    The control for selectors that keep a subset until they update it: the same updates, but by chance. What such a
    selector gains over this one is due to which images it takes, not to when it changes them.

    every:     rounds for which a subset is kept; 1 redraws each round, as Random does. None: `when` decides.
    when:      says at the start of each round but the first whether to redraw; default: the update rule of dds with
               its default thresholds (see dds.due). It gets the Record as `choose` does: `record.round` is the new
               round, `record.subset` and the outcomes are of the one before. It must depend on the Record alone.
    balanced:  as in Random.

    Costs one sort of n numbers per redraw. Like any random share it does not care what the network knows already.
    Raises UserError for `every` below 1.
    """

    name = "redrawn"

    def __init__(
        self, part: Labelled, *, every: int | None = None, when: Callable[[Record], bool] | None = None, **settings: Any
    ) -> None:
        super().__init__(part, **settings)
        if every is not None and every < 1:
            raise UserError(f"redrawn keeps a subset for every=1 round or more, got {every}")
        self.every, self.when = every, when or due_by_default

    def choose(self, record: Record) -> tuple[Tensor, Tensor | None]:
        if record.round == 1 or self._due(record):
            return super().choose(record)
        return record.subset, None

    def _due(self, record: Record) -> bool:
        return self.when(record) if self.every is None else (record.round - 1) % self.every == 0
