"""A random share of the images, redrawn each round."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from archscout.selection.quota import draw_stratified
from archscout.selection.selector import Labelled, Record, Selector


class Random(Selector):
    """A new random share each round; the control that every cleverer selector has to beat.

    balanced=False keeps the proportions of the classes (stratified, off by less than one image a class);
    balanced=True takes equally many of every class, and all of a class that has too few. No image comes twice.
    Costs one sort of n numbers a round.
    """

    name = "random"

    def __init__(self, part: Labelled, *, balanced: bool = False, **settings: Any) -> None:
        super().__init__(part, **settings)
        self.balanced = balanced

    def choose(self, record: Record) -> tuple[Tensor, Tensor | None]:
        chosen = draw_stratified(record.labels.numpy(), record.size, balanced=self.balanced, draw=record.generator)
        return torch.from_numpy(chosen), None
