"""check_space and check_strategy pass what is right, and see what is wrong."""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import replace
from typing import Any, ClassVar

import mine
import numpy as np
import pytest
import torch
from torch import nn

import archscout.spaces
from archscout.errors import UserError
from archscout.space import SearchSpace
from archscout.spaces import SPACES
from archscout.strategies import STRATEGIES
from archscout.testing import check_space, check_strategy

SMALL = {
    "darts": lambda shape, classes: archscout.spaces.darts(shape, classes, channels=4, layers=3),
    "nasbench201": lambda shape, classes: archscout.spaces.nasbench201(shape, classes, channels=4, cells=1),
}


@pytest.fixture(autouse=True)
def same_randomness() -> Any:
    """What a broken method did to the random states ends with its test."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


# --- spaces


def network(channels: int, classes: int, picks: dict[str, Any]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, picks["width"], picks["kernel"], padding=picks["kernel"] // 2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(picks["width"], classes),
    )


def sound(shape: Any, classes: int, **changes: Any) -> SearchSpace:
    """A space in order: one convolution. The kernel is inactive at the smallest width."""

    def build(picks: dict[str, Any]) -> nn.Module:
        return network(shape[0], classes, {**picks, "kernel": 3} if picks["width"] == 4 else picks)

    space = SearchSpace(
        name="sound",
        input_shape=shape,
        classes=classes,
        choices={"width": (4, 8, 12), "kernel": (3, 5)},
        build_from=build,
        canonical_of=lambda arch: (0, 0) if arch[0] == 0 else arch,
        distinct=5,
        describe=lambda arch: {"kind": "stages", "stages": []},
    )
    return replace(space, **changes)


@pytest.mark.parametrize("name", SPACES)
def test_check_space_passes(name: str) -> None:
    check_space(SMALL.get(name, name), (1, 8, 8), 3)


def test_check_space_takes_names_functions_and_ready_spaces() -> None:
    check_space("mine:chain")
    check_space(mine.chain, (1, 9, 7), 2)
    check_space(sound)
    check_space(sound((1, 8, 8), 2))
    with pytest.raises(UserError, match="did you mean"):
        check_space("plian")


COUNTER = itertools.count()


class Restless(nn.Sequential):
    """Computes something else each time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * (1 + next(COUNTER))


class Detached(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x).detach().requires_grad_(self.training)


SHARED = nn.Conv2d(3, 4, 1)
GLOBAL = torch.Generator().manual_seed(0)


def of_networks(build: Any) -> Any:
    """A factory of the sound space with other networks; without inactive decisions."""
    return lambda shape, classes: sound(shape, classes, build_from=build, canonical_of=None, distinct=None)


def with_numpy(picks: dict[str, Any]) -> nn.Module:
    np.random.rand()
    return network(3, 4, picks)


def weights_of_its_own(picks: dict[str, Any]) -> nn.Module:
    model = network(3, 4, picks)
    for parameter in model.parameters():
        if not parameter.is_meta:
            parameter.data.uniform_(generator=GLOBAL)
    return model


def reads_weights(picks: dict[str, Any]) -> nn.Module:
    model = network(3, 4, picks)
    assert float(model[0].weight.detach().sum()) != 0  # there is no such number on the meta device
    return model


def crashes(picks: dict[str, Any]) -> nn.Module:
    if picks["width"] == 12:
        raise KeyError("too wide")
    return network(3, 4, picks)


def grows(picks: dict[str, Any]) -> nn.Module:
    return nn.Sequential(*(nn.Identity() for _ in range(next(COUNTER) % 2)), *network(3, 4, picks), nn.BatchNorm1d(4))


def infinite(picks: dict[str, Any]) -> nn.Module:
    model = network(3, 4, picks)
    nn.init.constant_(model[-1].bias, torch.inf)
    return model


def drawn_globally(rng: np.random.Generator) -> Any:
    np.random.seed(int(rng.integers(1000)))
    return (int(np.random.randint(1, 3)), int(np.random.randint(2)))


def short_parse(text: str) -> Any:
    if not re.fullmatch(r"\d", text):
        raise UserError("wanted a digit")
    return (int(text), 0)


def loose_parse(text: str) -> Any:
    return tuple(map(int, re.findall(r"\d", text))) or (1, 1)


def changed(**changes: Any) -> Any:
    return lambda shape, classes: sound(shape, classes, **changes)


BROKEN_SPACES = [
    (lambda shape, classes: [shape], "made list instead of a space"),
    (lambda shape, classes: sound((1, 8, 8), classes), r"is for \(1, 8, 8\) and 4 classes: hand on input_shape"),
    (lambda shape, classes: sound(shape, 10), "and 10 classes: hand on"),
    (changed(name="my space"), "wants a name of one word"),
    (changed(choices={"width": (4, 8, 4), "kernel": (3, 5)}), r"has the options \[4\] of 'width' twice"),
    (changed(sample_of=lambda rng: tuple(rng.integers(1, 2, 2))), "draws .* which is not in it: wanted a tuple"),
    (changed(sample_of=lambda rng: (1, 2)), r"draws \(1, 2\), which is not in it"),
    (changed(sample_of=lambda rng: (0, 1)), r"draws \(0, 1\), which is not canonical"),
    (changed(sample_of=lambda rng: (1 + next(COUNTER) // 8 % 2, 0)), "not determined by the generator"),
    (changed(sample_of=lambda rng: 1 / 0), "fails to draw with ZeroDivisionError"),
    (changed(sample_of=drawn_globally), "changed a random state: draw from the given generator"),
    (changed(canonical_of=lambda arch: ((arch[0] + 1) % 3, arch[1])), "canonical is not idempotent"),
    (changed(canonical_of=lambda arch: (3, 0) if arch[0] == 0 else arch), r"has \(3, 0\) as the canonical form of"),
    (changed(format_of=lambda arch: f"{arch[0]} {arch[1]}"), "has a space, comma or quote in the text"),
    (changed(format_of=lambda arch: ""), "has an empty text"),
    (changed(format_of=lambda arch: arch), "instead of a text"),
    (changed(format_of=lambda arch: f"{arch[0]}"), "cannot read its own text"),
    (changed(format_of=lambda arch: f"{arch[0]}", parse_of=short_parse), r"reads its text '\d' of \(\d, 1\) as"),
    (changed(parse_of=lambda text: tuple(map(int, text.split("-")))), "answers the text '' with ValueError, wanted a"),
    (changed(parse_of=loose_parse), r"reads the text '' as \(1, 1\), wanted a UserError"),
    (changed(typical=((0, 2),)), r"calls typical \(0, 2\), which is not in it"),
    (changed(typical=((0, 1),)), r"calls typical \(0, 1\), which is not canonical"),
    (changed(distinct=4), "has 5 distinct ones, not 4"),
    (changed(distinct=9), "of 6 says that 9 are distinct"),
    (changed(canonical_of=lambda arch: (arch[0], 0), distinct=3), "other costs: .*params"),
    (changed(describe=lambda arch: {"kinds": {1, 2}}), "describes .* by what JSON cannot hold"),
    (of_networks(lambda picks: torch.zeros), "wanted a torch.nn.Module"),
    (of_networks(lambda picks: nn.Flatten()), "without parameters"),
    (of_networks(lambda picks: nn.Sequential(SHARED, nn.AdaptiveAvgPool2d(1), nn.Flatten())), "that share weights"),
    (of_networks(weights_of_its_own), "anew with other weights under the same torch seed"),
    (of_networks(lambda picks: network(3, 5, picks)), r"gives \(3, 5\) for .*, wanted logits \(3, 4\)"),
    (of_networks(lambda picks: network(1, 4, picks)), "fails to build or run .* with RuntimeError"),
    (of_networks(infinite), "logits that are not finite"),
    (of_networks(lambda picks: Detached(network(3, 4, picks))), "no gradient reaches weights"),
    (of_networks(crashes), "fails to build or run 2-. with KeyError"),
    (of_networks(reads_weights), "fails to build or run .* meta"),
    (of_networks(with_numpy), "changed a random state of NumPy or Python in building"),
    (of_networks(grows), "anew with other weights under the same torch seed"),
    (of_networks(lambda picks: Restless(network(3, 4, picks))), "computes something else with the same network"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "words"), BROKEN_SPACES, ids=lambda value: value if isinstance(value, str) else "")
def test_check_space_finds_what_is_wrong(bad: Any, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_space(bad)


# --- strategies


@pytest.mark.parametrize("name", [*STRATEGIES, "archscout.predicted:Predictor"])
def test_check_strategy_passes(name: str) -> None:
    check_strategy(name)


class Walk:
    """A strategy in order: mutants of the best architecture so far, or random ones."""

    def __init__(self, space: SearchSpace, *, seed: int, goal: Any) -> None:
        self.space, self.goal, self.draw = space, goal, np.random.default_rng(seed)
        self.best: Any = (-np.inf, None)

    def ask(self, n: int = 1) -> list[Any]:
        return [self.one() for _ in range(n)]

    def one(self) -> Any:
        if self.best[1] is None or self.draw.random() < 0.3:
            return self.space.sample(self.draw)
        return self.space.mutate(self.best[1], self.draw)

    def tell(self, archs: Any, values: Any) -> None:
        for arch, value in zip(archs, values, strict=True):
            if self.goal.reached(value) and value.get("first", -np.inf) > self.best[0]:
                self.best = (value["first"], arch)


class Fewer(Walk):
    def ask(self, n: int = 1) -> list[Any]:
        return super().ask(max(1, n - 1))


class Lazy(Walk):
    def ask(self, n: int = 1) -> Any:
        return (self.one() for _ in range(n))


class Arrays(Walk):
    def one(self) -> Any:
        return tuple(self.draw.integers(0, self.space.widths))


class Texts(Walk):
    def one(self) -> Any:
        return self.space.format(super().one())


class Raw(Walk):
    def one(self) -> Any:
        return tuple(int(self.draw.integers(width)) for width in self.space.widths)


class Seedless(Walk):
    def __init__(self, space: SearchSpace, *, seed: int, goal: Any) -> None:
        super().__init__(space, seed=seed, goal=goal)
        self.draw = np.random.default_rng()


class Globally(Walk):
    def one(self) -> Any:
        np.random.random()
        return super().one()


class Remembers(Walk):
    seen: ClassVar[set[Any]] = set()

    def one(self) -> Any:
        arch = super().one()
        while arch in self.seen and len(self.seen) < 60:
            arch = self.space.sample(self.draw)
        self.seen.add(arch)
        return arch


class Identity(Walk):
    """Knows an architecture by its place in memory."""

    def tell(self, archs: Any, values: Any) -> None:
        self.draw = np.random.default_rng([id(arch) for arch in archs])


class Tells(Walk):
    told = 0

    def tell(self, archs: Any, values: Any) -> None:
        self.told += 1
        self.draw = np.random.default_rng(self.told)


class NeedsScores(Walk):
    def tell(self, archs: Any, values: Any) -> None:
        self.best = max((value["first"], arch) for arch, value in zip(archs, values, strict=True))


class NeedsBoth(Walk):
    def tell(self, archs: Any, values: Any) -> None:
        super().tell(archs, values)
        for value in values:
            assert "first" not in value or value["second"] >= 0


class NeedsCosts(Walk):
    def tell(self, archs: Any, values: Any) -> None:
        super().tell(archs, values)
        self.dearest = max(value["params"] for value in values)


class NeedsOneGood(Walk):
    told = 0

    def tell(self, archs: Any, values: Any) -> None:
        super().tell(archs, values)
        self.told += len(archs)
        if self.told > 40 and self.best[1] is None:
            raise ValueError("nothing is feasible")


class Exhausts(Walk):
    def __init__(self, space: SearchSpace, *, seed: int, goal: Any) -> None:
        super().__init__(space, seed=seed, goal=goal)
        self.left = list(dict.fromkeys(space.canonical(arch) for arch in space))

    def one(self) -> Any:
        return self.left.pop()


class Fills(Walk):
    def tell(self, archs: Any, values: Any) -> None:
        for value in values:
            value.setdefault("first", 0.0)
        super().tell(archs, values)


class NoGoal(Walk):
    def __init__(self, space: SearchSpace, seed: int) -> None:
        super().__init__(space, seed=seed, goal=None)


BROKEN_STRATEGIES = [
    (NoGoal, r"cannot be made as make\(space, seed=3, goal=goal\): TypeError"),
    (Fewer, r"answers ask\(16\) with .* wanted a list of 16"),
    (Lazy, r"answers ask\(16\) with <generator .* wanted a list"),
    (Arrays, "which is not in the space: wanted a tuple of ints below"),
    (Texts, "asks for '.*', which is not in the space"),
    (Raw, "which is not canonical"),
    (Seedless, "is not determined by the seed"),
    (Globally, "changed a random state"),
    (Remembers, "is not determined by the seed"),
    (Identity, "is not determined by the seed"),
    (Tells, "asks something else when outcomes are told one by one"),
    (NeedsScores, "fails in tell 1 with KeyError: 'first'"),
    (NeedsBoth, "fails in tell . with KeyError: 'second'"),
    (NeedsCosts, "fails in tell 1 with KeyError: 'params'"),
    (NeedsOneGood, "fails in tell . with ValueError: nothing is feasible"),
    (Exhausts, "fails in ask 1 with IndexError"),
    (Fills, "changed what it was told"),
]


@pytest.mark.parametrize(("bad", "words"), BROKEN_STRATEGIES, ids=lambda value: getattr(value, "__name__", ""))
def test_check_strategy_finds_what_is_wrong(bad: Any, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_strategy(bad)


def test_check_strategy_passes_what_is_right() -> None:
    check_strategy(Walk)
    check_strategy("test_testing:Walk")
    with pytest.raises(UserError, match="did you mean"):
        check_strategy("evolutoin")
