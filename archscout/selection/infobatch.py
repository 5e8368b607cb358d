"""All images whose loss is above the mean, and a random part of the others with more weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from archscout.errors import UserError
from archscout.selection.selector import Labelled, Record, Selector


class InfoBatch(Selector):
    """Leaves out easy images at random, and weights those of them that stay so that the expected gradient is kept.

    With m the mean of all known last losses, the round holds every image with loss >= m or no loss yet, weight 1, and
    round((1 - drop) E) drawn at random of the E images with loss < m, weight E over their number, about 1 / (1 - drop).
    The weights then add up to n whatever was drawn, so that the weighted mean loss of a round is an unbiased estimate
    of the mean loss of all images. When `until` of the training is done, every round is of all images with equal
    weights.

    drop:   r of the paper, the part of the easy images left out.
    until:  delta of the paper. It needs the length of the training, which `fit` says; in a loop of your own call
            `selector.expect(images)` first, or images are left out to the end.

    `share` and `size` have no effect: the losses decide how many images a round has, n at first, then from
    (1 - drop) n upwards, typically two thirds.

    The base class scales weights to mean one. The direction of the expected step is as published, but its length is
    not: there the mean weight is n over the images of the round, up to 1 / (1 - drop), and a round moves the weights of
    the network as far as an epoch of all images does. Here a step is as long as one of ordinary training and a round
    has fewer of them. That is the fair comparison where budgets are counted in images; to have theirs, multiply the
    learning rate by n / len(selector).

    Costs one pass over n numbers a round. Fails where losses are close to equal, so that the mean divides noise; a loss
    of an image that was left out is from an older network, and mislabelled images always stay. A class of which nothing
    was drawn gets one image back at mean weight, which is not unbiased for classes of few, easy images.

    Source: Qin et al. 2023, arXiv:2303.04947.
    """

    name = "infobatch"

    def __init__(self, part: Labelled, *, drop: float = 0.5, until: float = 0.875, **settings: Any) -> None:
        super().__init__(part, **{**settings, "size": len(part)})
        if not 0 <= drop < 1 or not 0 <= until <= 1:
            raise UserError(f"infobatch wants drop in [0, 1) and until in [0, 1], got {drop} and {until}")
        self.drop, self.until = drop, until

    def choose(self, record: Record) -> tuple[Tensor, Tensor | None]:
        known = record.observed > 0
        easy = known & (record.loss < record.loss[known].double().mean())  # nothing known: no comparison is true
        if record.progress >= self.until or not easy.any():
            return torch.arange(len(record.labels)), None
        candidates, hard = easy.nonzero().squeeze(1), (~easy).nonzero().squeeze(1)
        number = max(1, round((1 - self.drop) * len(candidates)))
        stay = record.generator.choice(candidates.numpy(), number, replace=False)
        weights = torch.ones(len(hard) + number)
        weights[len(hard) :] = len(candidates) / number
        return torch.cat([hard, torch.from_numpy(stay)]), weights
