"""Checks for methods of your own: what archscout expects of them, as functions to call in your tests."""

from __future__ import annotations

import copy
import io
import math
import random
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from archscout.data import Part
    from archscout.selection import Record, Selector


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


def tiny_part(counts: tuple[int, ...] = (40, 20, 9, 2, 1), seed: int = 0) -> Part:
    """Colour images of 8 x 8, so many of each class, in random order; those of a class are alike."""
    from archscout.data import Data, Part

    draw = np.random.default_rng(seed)
    labels = draw.permutation(np.repeat(np.arange(len(counts)), counts))
    colours = draw.integers(30, 226, (len(counts), 1, 1, 3))
    images = (colours[labels] + draw.integers(-30, 31, (len(labels), 8, 8, 3))).clip(0, 255).astype(np.uint8)
    rows = np.arange(len(labels))
    data = Data(
        images=images,
        labels=labels,
        classes=tuple(f"class {label}" for label in range(len(counts))),
        names=tuple(f"image {row}" for row in rows),
        groups=None,
        parts={"train": rows},
        notes=(),
        fingerprint=f"tiny part of {counts}, seed {seed}",
        mean=tuple(images.mean((0, 1, 2)).tolist()),
        std=tuple(images.std((0, 1, 2)).clip(1).tolist()),
        mirrors=False,
    )
    return Part(data, rows, "train")


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


ROUNDS = 16  # of a check
RESUMED = (1, 2, 6)  # rounds in whose middle a check saves and restores


def check_selector(make: Any) -> None:
    """Check a selector of your own: a name, "module:name", or what is called as make(part, seed=..., share=...).

    Call it in a test; makes seven selectors of 72 images in five classes, of which one has a single image, and runs up
    to 16 rounds of each with made-up outcomes: of all images of a round, of some, or of none. Raises AssertionError,
    with what is wrong, unless

    * each round holds some images, each once, and no class is lost, from the first round on, of which nothing is known;
    * weights are finite, not negative, and of mean one over the round; `len` is the number of images;
    * the seed, the share and the outcomes determine everything, and another seed gives another order;
    * a state saved in the middle of a round, read with weights_only=True and put into a new selector, goes on exactly
      as the saved one does;
    * `choose` changes nothing in the Record but `size`; the part and the random states of torch, NumPy and Python stay
      as they were.
    """
    from archscout.fit import threads_set
    from archscout.naming import find, word
    from archscout.selection import SELECTORS, Selector

    build, part = find("selector", make, SELECTORS), tiny_part()
    labels, images = part.labels.copy(), part.data.images.copy()
    randomness = _randomness()

    def new(seed: int = 3) -> Selector:
        """A new selector; what it must leave alone is looked at then, and at the next call, after it was used."""
        selector = build(part, seed=seed, share=0.4)
        assert isinstance(selector, Selector), (
            f"made {type(selector).__name__} instead of a selector: subclass archscout.selection.Selector"
        )
        unchanged = np.array_equal(part.labels, labels) and np.array_equal(part.data.images, images)
        assert unchanged, f"selector '{word(selector)}' changed the part"
        assert _same(randomness, _randomness()), (
            f"selector '{word(selector)}' changed a random state: draw from record.generator"
        )
        return selector

    with threads_set(1):
        first = new()
        name = word(first)
        _watch(first, name)
        first.expect(8 * len(part))
        told, states = _play(first, name, part, ROUNDS)

        again = new()
        again.expect(8 * len(part))
        assert _same(told, _play(again, name, part, ROUNDS)[0]), (
            f"selector '{name}' is not determined by the seed: draw from record.generator only"
        )
        others = [_play(new(seed), name, part, 2)[0] for seed in (4, 5)]  # nobody says how long the training is
        assert any(not _same(other, told[: len(other)]) for other in others), (
            f"selector '{name}' does the same under any seed: hand seed=... to Selector.__init__"
        )
        for begun in RESUMED:
            resumed = new()
            try:
                resumed.load_state_dict(torch.load(io.BytesIO(states[begun]), weights_only=True))
            except Exception as error:
                raise AssertionError(f"selector '{name}' has a state that cannot be loaded: {error}") from error
            _observe(resumed, part, begun, 1)
            rest, _ = _play(resumed, name, part, ROUNDS)
            alike = len(rest) == 2 * (ROUNDS - begun) and _same(rest, told[-len(rest) :])
            assert alike, (
                f"selector '{name}' goes on differently when it is restored in round {begun}: keep no state of your own"
            )


def _play(selector: Selector, name: str, part: Part, rounds: int) -> tuple[list[Any], dict[int, bytes]]:
    """Runs a selector to the end of a round: the images and weights of each, and its state in the middle of some."""
    told: list[Any] = []
    states: dict[int, bytes] = {}
    record, n = selector.record, len(part)
    assert 0 < len(selector) <= n, f"selector '{name}' has {len(selector)} of {n} images before a round"
    for began in range(record.round + 1, rounds + 1):
        try:
            subset = selector.next_round()
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(
                f"selector '{name}' fails in round {began} with {type(error).__name__}: {error}"
            ) from error
        assert len(subset) > 0, f"selector '{name}' has an empty round {began}"
        outside = sorted(set(subset.tolist()) - set(range(n)))
        assert not outside, f"selector '{name}' chose the images {outside}, which are not there, in round {began}"
        assert len(subset.unique()) == len(subset), f"selector '{name}' has an image twice in round {began}"
        lost = sorted(set(part.labels.tolist()) - set(part.labels[subset.numpy()].tolist()))
        assert not lost, f"selector '{name}' lost the classes {lost} in round {began}"
        assert torch.equal(record.subset, subset), (
            f"selector '{name}' returned another round than is in its record: write choose, not next_round"
        )
        weights = record.weights[subset]
        sound = weights.isfinite() & (weights >= 0)
        assert sound.all(), f"selector '{name}' has the weights {weights[~sound].tolist()} in round {began}"
        assert math.isclose(float(weights.mean()), 1, abs_tol=1e-4), (
            f"selector '{name}' has weights of mean {float(weights.mean()):.4g} in round {began}, not of one"
        )
        assert len(selector) == len(subset), f"selector '{name}' has length {len(selector)} for {len(subset)} images"
        assert 0 < record.size <= n, f"selector '{name}' wants rounds of {record.size} of {n} images"
        told += [subset.clone(), weights.clone()]
        _observe(selector, part, began, 0)
        states[began] = _saved(selector, name) if began in RESUMED else b""
        _observe(selector, part, began, 1)
    return told, states


def _observe(selector: Selector, part: Part, began: int, half: int) -> None:
    """Half of a round's outcomes: made up, better from round to round. Some rounds have the first half, some none."""
    if began % 4 == 2 or (began % 4 == 1 and half == 1):
        return
    subset = selector.record.subset
    positions = subset[: len(subset) // 2] if half == 0 else subset[len(subset) // 2 :]
    draw = torch.Generator().manual_seed(began)
    labels = torch.tensor(part.labels)
    logits = torch.randn(len(part), int(labels.max()) + 1, generator=draw)
    ease = torch.rand(len(part), generator=torch.Generator().manual_seed(0))
    logits[torch.arange(len(part)), labels] += ease * began
    logits, target = logits[positions], labels[positions]
    selector.observe(positions, F.cross_entropy(logits, target, reduction="none"), logits, target)


def _saved(selector: Selector, name: str) -> bytes:
    file = io.BytesIO()
    try:
        torch.save(selector.state_dict(), file)
    except Exception as error:
        raise AssertionError(f"selector '{name}' has a state that cannot be saved: {error}") from error
    return file.getvalue()


def _watch(selector: Selector, name: str) -> None:
    """Has every choice of a selector looked at: what it changes in the Record."""
    choose = selector.choose

    def watched(record: Record) -> Any:
        kept = [field.name for field in fields(record) if field.name not in ("size", "generator")]
        before = copy.deepcopy([getattr(record, field) for field in kept])
        chosen = choose(record)
        for field, value in zip(kept, before, strict=True):
            assert _same([value], [getattr(record, field)]), (
                f"selector '{name}' changed record.{field} in round {record.round}: choose may set record.size only"
            )
        return chosen

    vars(selector)["choose"] = watched


def _state(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> list[Any]:
    """Everything that scoring must not change."""
    return [
        *(value.detach().clone() for value in model.state_dict().values()),
        *(None if p.grad is None else p.grad.clone() for p in model.parameters()),
        [p.requires_grad for p in model.parameters()],
        [m.training for m in model.modules()],
        [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        images.clone(),
        images.requires_grad,
        labels.clone(),
        *_randomness(),
    ]


def _randomness() -> list[Any]:
    """The random states of torch, NumPy and Python."""
    numpy: Any = np.random.get_state()
    return [
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
