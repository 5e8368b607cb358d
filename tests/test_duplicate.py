"""`duplicate` against `copy.deepcopy`."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from archscout.duplicate import duplicate
from archscout.spaces.nasbench201 import nasbench201
from archscout.testing import tiny_network, tiny_transformer


class Own(nn.Module):
    """Says itself how it is copied."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[int] = []

    def __deepcopy__(self, memo: dict) -> Own:
        made = Own()
        made.log = self.log
        return made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Odd(nn.Module):
    """Tied weights, one module in two places, state outside the usual tables, and a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.own = nn.Linear(3, 3), nn.Linear(3, 3), Own()
        self.second.weight = self.first.weight
        self.again = self.first
        self.table = {"layers": [self.first, self.second], "sizes": (1, (2, 3)), "empty": {}}
        self.ring = [self.table]
        self.register_buffer("seen", torch.arange(3.0))
        self.alias = self.seen
        self.register_forward_hook(self.mark)

    @staticmethod
    def mark(module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        return output + 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.own(self.second(self.again(x.mean((2, 3)))) + self.alias)


@pytest.mark.parametrize(
    "make",
    [
        tiny_network,
        tiny_transformer,
        Odd,
        lambda: nasbench201((3, 8, 8), 4, 4, 1).build((3, 2, 4, 1, 0, 3)),
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.Flatten(), nn.LazyLinear(4)
        ),
    ],
)
def test_a_duplicate_is_an_independent_equal(make: Callable[[], nn.Module]) -> None:
    model, images = make(), torch.randn(4, 3, 8, 8)
    model(images)
    model.eval()
    next(model.parameters()).requires_grad_(False)
    made, wanted = duplicate(model), copy.deepcopy(model)
    assert torch.equal(made(images), model(images))
    assert str(made) == str(model)
    assert [type(m).__dict__.keys() for m in made.modules()] == [type(m).__dict__.keys() for m in model.modules()]
    for module, other in zip(made.modules(), wanted.modules(), strict=True):
        assert module.__dict__.keys() == other.__dict__.keys()
        assert module.training == other.training
    for mine, theirs in zip(made.parameters(), wanted.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.requires_grad == theirs.requires_grad
        assert mine.stride() == theirs.stride()
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for tensor in made.state_dict().values():
            tensor.zero_()
    for module in made.modules():
        module.register_forward_hook(lambda *_: None)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [len(m._forward_hooks) for m in model.modules()] == [len(m._forward_hooks) for m in wanted.modules()]


def test_what_is_shared_stays_shared_inside_and_only_there() -> None:
    model = Odd()
    made = duplicate(model)
    assert made.second.weight is made.first.weight
    assert made.again is made.first
    assert made.table["layers"][0] is made.first
    assert made.ring[0] is made.table
    assert made.alias is made.seen
    assert made.first is not model.first
    assert made.table["empty"] is not model.table["empty"]
    assert made.own.log is model.own.log
