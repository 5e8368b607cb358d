"""A copy of a network, several times faster than `copy.deepcopy`: scoring one makes three or four."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

from torch import nn

PLAIN = (int, float, complex, bool, str, bytes, type(None))


def duplicate(model: nn.Module) -> nn.Module:
    """An independent copy: what `copy.deepcopy` gives, without the work on the empty tables that most modules carry.

    Modules that say themselves how to be copied are left to `copy.deepcopy`.
    """
    return _module(model, {})


def _module(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    if id(module) in memo:
        return memo[id(module)]
    kind = type(module)
    if not _ordinary(kind):
        return copy.deepcopy(module, memo)
    made = kind.__new__(kind)
    memo[id(module)] = made
    for name, value in module.__dict__.items():
        made.__dict__[name] = _value(value, memo)
    return made


def _ordinary(kind: Any) -> bool:
    """Whether copying the attributes one by one is all there is to copying a module of this class."""
    ways = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__slots__")
    usual = kind.__setstate__ is nn.Module.__setstate__ or kind.__module__.startswith("torch.nn.")
    return usual and all(getattr(kind, way, None) is getattr(nn.Module, way, None) for way in ways)


def _value(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in PLAIN or (kind is tuple and all(type(each) in PLAIN for each in value)):
        return value
    if kind in (dict, OrderedDict, set) and not value and id(value) not in memo:
        made = memo[id(value)] = kind()
        return made
    if isinstance(value, nn.Module):
        return _module(value, memo)
    if kind is dict and id(value) not in memo:
        made = memo[id(value)] = {}
        made.update((_value(key, memo), _value(each, memo)) for key, each in value.items())
        return made
    return copy.deepcopy(value, memo)
