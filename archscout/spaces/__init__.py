"""Search spaces, one file each. A space of your own is one call of `archscout.space.SearchSpace`."""

from __future__ import annotations

from collections.abc import Callable

from archscout.space import SearchSpace, Shape
from archscout.spaces.darts import darts
from archscout.spaces.fbnet import fbnet
from archscout.spaces.macro import macro
from archscout.spaces.mobilenet import mobilenet
from archscout.spaces.nasbench201 import nasbench201
from archscout.spaces.plain import plain
from archscout.spaces.resnet_shape import resnet_shape
from archscout.spaces.vit import vit

SPACES: dict[str, Callable[[Shape, int], SearchSpace]] = {
    "darts": darts,
    "fbnet": fbnet,
    "macro": macro,
    "mobilenet": mobilenet,
    "nasbench201": nasbench201,
    "plain": plain,
    "resnet_shape": resnet_shape,
    "vit": vit,
}
