"""A copy of a network, several times faster than `copy.deepcopy`: scoring one makes three or four."""

from __future__ import annotations

import copy
from collections import OrderedDict
from functools import cache
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


@cache
def _ordinary(kind: type) -> bool:
    """Whether copying the attributes one by one is all there is to copying a module of this class."""
    if kind.__reduce_ex__ is not object.__reduce_ex__ or hasattr(kind, "__deepcopy__") or hasattr(kind, "__slots__"):
        return False
    if kind.__setstate__ is not nn.Module.__setstate__ and not kind.__module__.startswith("torch.nn."):
        return False
    return all(getattr(kind, name, None) is getattr(nn.Module, name, None) for name in ("__reduce__", "__getstate__"))


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
