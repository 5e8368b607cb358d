"""A search space of somebody whose networks go wrong in every way that a candidate can."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mine import _network
from torch import nn

from archscout.space import SearchSpace, Shape

KINDS = ("good", "fine", "broken", "array", "tensor", "limit", "killed", "forever")


def build(channels: int, classes: int, picks: dict[str, Any]) -> nn.Module:
    """The network; or what the kind says, in a worker, or where memory is short also elsewhere."""
    kind, working = picks["kind"], multiprocessing.parent_process() is not None
    real = torch.get_default_device().type != "meta"  # costs are counted without any memory
    if kind == "broken":
        raise ValueError("no such layer")
    if kind == "array" and real:
        np.zeros((10**6, 10**6, 10**3))
    if kind == "tensor" and real:
        torch.empty(10**15)
    if kind in ("limit", "killed", "forever") and real and not working:
        raise MemoryError("for the sake of the test, only workers die")
    if kind == "limit" and real:  # as a container does: what is there may stay, no more is given
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**26, resource.RLIM_INFINITY))
        try:
            torch.ones(2**30)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if kind == "killed" and real:  # as the kernel does when memory is out
        os.kill(os.getpid(), signal.SIGKILL)
    while kind == "forever" and real:
        pass
    return _network(channels, classes, {"width": picks["width"], "depth": 2})


def faulty(input_shape: Shape, classes: int) -> SearchSpace:
    """Sixteen networks, four of which are sound."""
    return SearchSpace(
        "faulty",
        input_shape,
        classes,
        {"kind": KINDS, "width": (4, 8)},
        lambda picks: build(input_shape[0], classes, picks),
    )
