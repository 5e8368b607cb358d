"""Bytes that a training step holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archscout.costs.cost import Cost
from archscout.costs.trace import Trace

if TYPE_CHECKING:
    from archscout.devices.profile import Profile


BATCH = 64


def training_memory(trace: Trace, profile: Profile | None = None) -> float:
    """Bytes of one training step of 64 images in fp32 with SGD and momentum.

    Weights, and for each parameter a gradient and a momentum, plus what is saved for the backward pass and the
    gradients of activations at the worst moment; see `archscout.costs.trace.trace`. Work space of kernels and the
    framework itself come on top.
    """
    return float(trace.weight_bytes + 2 * 4 * trace.params + BATCH * trace.training_activation_bytes)


COST = Cost(training_memory, unit="bytes")
