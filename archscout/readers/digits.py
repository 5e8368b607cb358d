"""The hand-written digits inside scikit-learn."""

from __future__ import annotations

import numpy as np

from archscout.readers.arrays import arrays
from archscout.readers.source import Source


def digits() -> Source:
    """1,797 grey digits of 8 x 8 pixels in ten classes (Alpaydin and Kaynak, UCI 1998), to try without a file."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return arrays(np.rint(data.images * (255 / 16)).astype(np.uint8), data.target, what="digits")
