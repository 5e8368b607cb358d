"""Score one network by zero-shot proxies: no training."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from archscout.errors import UserError
from archscout.naming import find, word
from archscout.probe import Batch, Probe, Proxy, as_proxy, check_batch, derive, reason, seeded
from archscout.proxies import DEFAULT, PROXIES
from archscout.space import Arch, SearchSpace


@dataclass(frozen=True)
class Scores(Mapping[str, float]):
    """The scores of one network: proxy -> finite number, for the proxies that could be computed.

    failures: proxy -> why it has no score.
    spread:   proxy -> standard deviation over the repeats (divisor repeats - 1); empty if there was one repeat.
    seconds:  wall-clock time of all of it.
    """

    values_of: Mapping[str, float]
    failures: Mapping[str, str] = field(default_factory=dict)
    spread: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def __getitem__(self, name: str) -> float:
        return self.values_of[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_of)

    def __len__(self) -> int:
        return len(self.values_of)


def score(
    model: nn.Module,
    images: Any,
    labels: Any,
    proxies: Sequence[Any] = DEFAULT,
    seed: int = 0,
    repeats: int = 1,
    classes: int | None = None,
    device: str = "cpu",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    batch_size: int = 64,
) -> Scores:
    """The zero-shot scores of one network, in a few forward and backward passes.

    Use it to compare untrained networks on your images; scores of different proxies cannot be compared with each
    other, and most only make sense under one batch size. Costs one forward and one backward of one batch with the
    default proxies, and a few passes of 16 images and of one. The model and the global random states stay as they are.

    model:    any module that maps (N, C, H, W) to logits (N, classes).
    images:   float (N, C, H, W), used as they are; or uint8 (N, H, W, C) or (N, C, H, W), normalised by `mean` and
              `std` per channel on the scale 0..255 (default: those of these images). Arrays or tensors.
    labels:   whole numbers (N,).
    proxies:  names, "module:name", Proxy objects, or functions (Probe) -> float.
    repeats:  1 scores the weights as given. More: every repeat re-initialises each layer that has `reset_parameters`
              and begins at another batch, scores are means and `.spread` their standard deviations.
    batch_size: the images are cut into batches of this many; a rest is left out unless it is the only batch. A repeat
              begins two batches after the one before, in a circle; all but zico read only the first of theirs.

    A proxy that is undefined, fails or runs out of memory becomes an entry of `.failures`.
    Raises UserError for unknown names, and images or labels of a wrong kind.
    """
    start = time.perf_counter()
    methods = methods_of(proxies)
    if repeats < 1 or batch_size < 1:
        raise UserError(f"repeats and batch_size are at least 1, got {repeats} and {batch_size}")
    x, y = as_images(images, mean, std), as_labels(labels)
    check_batch(x, y)
    batches = [(x[i : i + batch_size], y[i : i + batch_size]) for i in range(0, len(x), batch_size)]
    if len(batches) > 1 and len(batches[-1][0]) < batch_size:
        batches.pop()

    found: list[tuple[dict[str, float], dict[str, str]]] = []
    for repeat in range(repeats):
        network = model if repeats == 1 else reinitialised(model, derive(seed, f"repeat {repeat}"))
        read_first = from_place(batches, 2 * repeat)
        found.append(read(network, read_first, methods, derive(seed, f"probe {repeat}"), classes, device))
    values, failures, spread = combined(found)
    return Scores(values, failures, spread, time.perf_counter() - start)


@dataclass(frozen=True)
class Scorer:
    """The scoring of architectures as a value that can be sent to worker processes: `scorer(arch)`.

    Two calls with the same canonical architecture return the same numbers in any process that runs on the same number
    of threads: the weights follow from (seed, canonical architecture) alone.

    batches: (images float32 (N, C, H, W), labels int64 (N,)) pairs. proxies: as in `score`; names travel best.
    repeats: networks built and scored per architecture; scores are means. Repeat r begins at batch 2r, in a circle, so
    twice as many batches as repeats give each its own pair.
    """

    space: SearchSpace
    batches: Sequence[Batch]
    proxies: tuple[Any, ...] = DEFAULT
    seed: int = 0
    repeats: int = 1
    device: str = "cpu"

    def __call__(self, arch: Arch) -> dict[str, dict[str, Any]]:
        """{"scores": proxy -> number, "failures": proxy -> reason, "spread"} of the canonical form of `arch`.

        "spread", of more than one repeat only: proxy -> standard deviation over them.
        """
        arch = self.space.canonical(arch)
        methods = methods_of(self.proxies)
        found = []
        for repeat in range(self.repeats):
            name = f"{self.space.name} {'-'.join(map(str, arch))} {repeat}"
            with seeded(self.seed, name):
                network = self.space.build(arch)
            batches = from_place(self.batches, 2 * repeat)
            found.append(read(network, batches, methods, derive(self.seed, name), self.space.classes, self.device))
        values, failures, spread = combined(found)
        found_all: dict[str, dict[str, Any]] = {"scores": values, "failures": failures}
        return {**found_all, "spread": spread} if self.repeats > 1 else found_all


def from_place(batches: Sequence[Batch], place: int) -> list[Batch]:
    """The same batches, beginning at number `place` of their circle."""
    place %= len(batches)
    return [*batches[place:], *batches[:place]]


def methods_of(proxies: Sequence[Any]) -> dict[str, Proxy]:
    """Word -> Proxy for names, "module:name", Proxy objects and functions; UserError for unknown or repeated words."""
    if isinstance(proxies, str):
        raise UserError(f"proxies is a list of names, got the text '{proxies}': write [\"{proxies}\"]")
    methods: dict[str, Proxy] = {}
    for given in proxies:
        name = word(given)
        if name in methods:
            raise UserError(f"proxy '{name}' is asked for twice")
        methods[name] = as_proxy(find("proxy", given, PROXIES))
    return methods


def read(
    model: nn.Module,
    batches: Sequence[Batch],
    methods: Mapping[str, Proxy],
    seed: int,
    classes: int | None,
    device: str,
) -> tuple[dict[str, float], dict[str, str]]:
    """One reading: (scores, failures) of one network, all proxies over one Probe."""
    needs = [need for method in methods.values() for need in method.needs]
    probe = Probe(model, batches, classes=classes, needs=needs, seed=seed, device=device)
    values: dict[str, float] = {}
    failures: dict[str, str] = {}
    for name, method in methods.items():
        try:
            with seeded(seed, name, device):
                value = float(method.compute(probe))
        except Exception as error:
            failures[name] = reason(error)
        else:
            if math.isfinite(value):
                values[name] = value
            else:
                failures[name] = f"the score is {value}"
    return values, failures


def combined(
    found: Sequence[tuple[dict[str, float], dict[str, str]]],
) -> tuple[dict[str, float], dict[str, str], dict[str, float]]:
    """Means, failures and spreads over readings; a proxy that failed once has failed."""
    failures = {name: why for _, failed in reversed(found) for name, why in failed.items()}
    columns = {name: [values[name] for values, _ in found] for name in found[0][0] if name not in failures}
    means = {name: float(np.mean(column)) for name, column in columns.items()}
    spread = {name: float(np.std(column, ddof=1)) for name, column in columns.items() if len(column) > 1}
    return means, failures, spread


def reinitialised(model: nn.Module, seed: int) -> nn.Module:
    """A copy whose layers with `reset_parameters` are drawn anew; parameters outside such layers stay as given."""
    network = copy.deepcopy(model)
    with seeded(seed, "reset"):
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    return network


def as_images(images: Any, mean: Sequence[float] | None, std: Sequence[float] | None) -> Tensor:
    """Float (N, C, H, W): floats as they are; uint8 with channels last (at most 4) or first, normalised."""
    x = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
    if x.dtype != torch.uint8:
        if mean is not None or std is not None:
            raise UserError("mean and std are for uint8 images: float images are used as they are")
        return x.float() if x.is_floating_point() else x
    if x.ndim != 4:
        raise UserError(f"uint8 images are (N, H, W, C) or (N, C, H, W), got {tuple(x.shape)}: add a channel axis")
    if x.shape[3] <= 4:
        x = x.permute(0, 3, 1, 2)
    pixels = x.float()
    shape, axes = (1, -1, 1, 1), (0, 2, 3)
    channels = pixels.shape[1]
    for given, what in ((mean, "mean"), (std, "std")):
        if given is not None and len(given) != channels:
            raise UserError(f"{what} has {len(given)} values, the images {channels} channels")
    centre = pixels.mean(axes) if mean is None else torch.tensor([float(v) for v in mean])
    scale = pixels.std(axes, correction=0) if std is None else torch.tensor([float(v) for v in std])
    # A constant channel has no scale: it is only centred.
    scale = torch.where(scale > 0, scale, 1.0)
    return (pixels - centre.view(shape)) / scale.view(shape)


def as_labels(labels: Any) -> Tensor:
    """Labels as an int64 tensor."""
    y = labels if isinstance(labels, Tensor) else torch.from_numpy(np.array(labels))
    return y if y.is_floating_point() else y.to(torch.int64)
