"""One random subset for the whole training."""

from __future__ import annotations

from torch import Tensor

from archscout.selection.random import Random
from archscout.selection.selector import Record


class Fixed(Random):
    """A random share drawn before the first round and kept: what a smaller data set would give.

    The control that shows how much of a selector's result is due to seeing more images over time. `balanced` is as in
    Random, and nothing but the seed decides which images. Costs nothing after the first round. Fails where the share is
    small and the training long: the network learns the few images by heart.
    """

    name = "fixed"

    def choose(self, record: Record) -> tuple[Tensor, Tensor | None]:
        return super().choose(record) if record.round == 1 else (record.subset, None)
