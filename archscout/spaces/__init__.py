"""Search spaces, one file each. A space of your own is one call of `archscout.space.SearchSpace`."""

from __future__ import annotations

from collections.abc import Callable

from archscout.space import SearchSpace, Shape
from archscout.spaces.mobilenet import mobilenet
from archscout.spaces.nasbench201 import nasbench201
from archscout.spaces.plain import plain

SPACES: dict[str, Callable[[Shape, int], SearchSpace]] = {
    "mobilenet": mobilenet,
    "nasbench201": nasbench201,
    "plain": plain,
}
