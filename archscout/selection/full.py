"""Every image in every round."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from archscout.selection.selector import Labelled, Record, Selector


class Full(Selector):
    """All images each round, newly shuffled: ordinary training. `share` has no effect."""

    name = "full"

    def __init__(self, part: Labelled, **settings: Any) -> None:
        super().__init__(part, **{**settings, "size": len(part)})

    def choose(self, record: Record) -> tuple[Tensor, Tensor | None]:
        return torch.arange(len(record.labels)), None
