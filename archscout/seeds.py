"""Independent random streams from some whole numbers, such as a seed and a step."""

from __future__ import annotations

import numpy as np
import torch


def number_of(*key: int) -> int:
    """A seed of 63 bits from some whole numbers; other numbers, another seed."""
    return int(np.random.SeedSequence([k % 2**64 for k in key]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator_of(*key: int) -> torch.Generator:
    """A generator on the CPU, seeded by number_of."""
    return torch.Generator().manual_seed(number_of(*key))
