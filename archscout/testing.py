"""Checks for methods of your own: what archscout expects of them, as functions to call in your tests."""

from __future__ import annotations

import copy
import math
import random
from typing import Any

import numpy as np
import torch
from torch import nn


def tiny_network(channels: int = 3, classes: int = 4, seed: int = 0) -> nn.Sequential:
    """A small convolutional network with batch normalisation and ReLU, drawn from a seed of its own."""
    from archscout.probe import seeded

    with seeded(seed, "tiny"):
        return nn.Sequential(
            nn.Conv2d(channels, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, classes),
        )


def tiny_transformer(channels: int = 3, classes: int = 4, seed: int = 0) -> nn.Module:
    """A small vision transformer for 8 x 8 images, drawn from a seed of its own."""
    from archscout.probe import seeded
    from archscout.spaces.vit import vit

    space = vit((channels, 8, 8), classes)
    with seeded(seed, "tiny"):
        return space.build(space.parse("p2-w64-d2-h2r1-h2r1"))


class Dense(nn.Sequential):
    """A chain of layers whose input is kept beside its output, as further channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((x, super().forward(x)), 1)


def tiny_dense(channels: int = 3, classes: int = 4, seed: int = 0) -> nn.Sequential:
    """A small convolutional network with densely connected layers, drawn from a seed of its own."""
    from archscout.probe import seeded

    def layer(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
        return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()

    with seeded(seed, "tiny"):
        body = (*layer(channels, 6), Dense(*layer(6, 4)), Dense(*layer(10, 4)))
        return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(14, classes))


def check_proxy(proxy: Any) -> None:
    """Check a proxy of your own: a name, "module:name", a Proxy or a function (Probe) -> float.

    Call it in a test; costs a dozen passes of a tiny network. Raises AssertionError, with what is wrong, unless it

    * gives a finite number for a small convolutional network or, where it is not defined for that, for a transformer or
      a densely connected network,
    * gives the same number again under the same seed, alone and next to other proxies,
    * leaves the network (weights, buffers, mode, gradients, hooks), the batch and the random states of torch, NumPy and
      Python as they were,
    * has no score, for a stated reason, where the network's weights are NaN and the proxy reads data.
    """
    from archscout.probe import resolve, seeded, split
    from archscout.proxies import DEFAULT, PROXIES
    from archscout.scoring import methods_of, score

    ((name, method),) = methods_of([proxy]).items()
    rng = torch.Generator().manual_seed(1)
    images, labels = torch.randn(32, 3, 8, 8, generator=rng), torch.randint(4, (32,), generator=rng)
    with seeded(0, "try"):
        for make in (tiny_network, tiny_transformer, tiny_dense):
            if name in score(make(), images.clone(), labels.clone(), proxies=[proxy], batch_size=16):
                break
    model = make().eval()
    first_weight, *_, last_bias = model.parameters()
    first_weight.requires_grad_(False)
    last_bias.grad = torch.ones_like(last_bias)
    before = _state(model, images, labels)

    def read(network: nn.Module = model, proxies: Any = (proxy,)) -> Any:
        return score(network, images, labels, proxies=proxies, batch_size=16, seed=3)

    first = read()
    assert name in first, f"proxy '{name}' has no score for a small network: {first.failures.get(name)}"
    assert _same(before, _state(model, images, labels)), (
        f"proxy '{name}' changed the network, the batch or a random state: work on probe.copy(), draw from a generator"
    )
    assert read()[name] == first[name], f"proxy '{name}' is not determined by the seed: {first[name]}, {read()[name]}"
    others = [other for other in DEFAULT if other != name]
    beside = read(proxies=(*others, proxy))[name]
    assert beside == first[name], f"proxy '{name}' depends on its neighbours: {first[name]} alone, {beside} beside them"
    assert math.isfinite(first[name])

    broken = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in broken.parameters():
            parameter.fill_(math.nan)
    result = read(broken)
    redrawn = {split(resolve(need)[1])[0] in ("noise", "kaiming", "frozen", "arc") for need in method.needs}
    reads = bool(method.needs) and True not in redrawn
    assert not reads or name not in result, f"proxy '{name}' scored a network of NaN weights: {result.get(name)}"
    assert name in result or result.failures[name], f"proxy '{name}' failed without a reason"
    assert name not in PROXIES or PROXIES[name] is not method or method.paper, f"proxy '{name}' names no source"


def _state(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> list[Any]:
    """Everything that scoring must not change."""
    numpy: Any = np.random.get_state()
    return [
        *(value.detach().clone() for value in model.state_dict().values()),
        *(None if p.grad is None else p.grad.clone() for p in model.parameters()),
        [p.requires_grad for p in model.parameters()],
        [m.training for m in model.modules()],
        [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        images.clone(),
        images.requires_grad,
        labels.clone(),
        torch.get_rng_state(),
        torch.from_numpy(np.asarray(numpy[1], dtype=np.int64)),
        numpy[2:],
        random.getstate(),
    ]


def _same(first: list[Any], second: list[Any]) -> bool:
    return all(
        torch.equal(one, other) if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) else one == other
        for one, other in zip(first, second, strict=True)
    )
