"""Drop-path: in training, the result of an operation is left out of the sum for some images."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Maps x (N, ...) to x or, in training, to x m / (1 - rate) with m of each image 0 with chance `rate`, else 1.

    The expectation is x at any rate. A network that can be trained so has one wherever a path may be dropped, and `fit`
    sets their rates (Recipe.drop_path). Draws from torch's current random state; costs one multiplication. Sources:
    Larsson, Maire and Shakhnarovich 2017, "FractalNet", arXiv:1605.07648; Zoph et al. 2018, arXiv:1707.07012.
    """

    rate = 0.0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate <= 0:
            return x
        kept = torch.empty((len(x),) + (1,) * (x.ndim - 1), dtype=x.dtype, device=x.device)
        return x * kept.bernoulli_(1 - self.rate).div_(1 - self.rate)
