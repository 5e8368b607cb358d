"""The relaxation: with one-hot choices a supernet is the discrete network, and what the choices are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from archscout.differentiable.choice import (
    Progressive,
    Supernet,
    chosen,
    entropy,
    gumbel,
    one_hot,
    relax,
    softmax,
    supported,
    weights_of,
)
from archscout.errors import UserError
from archscout.spaces import SPACES

SHAPE = (3, 12, 12)


SIZES = {"nasbench201": {"channels": 4, "cells": 1}, "darts": {"channels": 4, "layers": 3}}  # where the usual is large


def small(name: str):
    return SPACES[name](SHAPE, 5, **SIZES.get(name, {}))


PAIRS = [
    ("darts", "nasbench201"), ("pdarts", "nasbench201"), ("darts", "darts"), ("pdarts", "darts"),
    ("tas", "resnet_shape"),
]  # fmt: skip


def test_the_pairs_are_all_there_are() -> None:
    there = {(method, name) for name, make in SPACES.items() for method in make((3, 32, 32), 10).relax_of or {}}
    assert set(PAIRS) == there
    for method, name in PAIRS:
        assert isinstance(relax(small(name), method), Progressive if method == "pdarts" else Supernet)


@pytest.mark.parametrize(("method", "name"), PAIRS)
def test_with_one_hot_choices_it_is_the_discrete_network(method: str, name: str) -> None:
    space = small(name)
    torch.manual_seed(0)
    supernet = relax(space, method)
    rng = np.random.default_rng(0)
    images = torch.randn(6, *SHAPE)
    widths = [len(options) for options in space.choices.values()]
    archs = [tuple(int(rng.integers(w)) for w in widths) for _ in range(25)]
    for arch in archs:
        choice = chosen(supernet, arch, max(widths))
        assert space.canonical(supernet.derive(choice)) == space.canonical(arch)
        with torch.no_grad():
            wanted = supernet.discrete(arch).train()(images)
            found = supernet.train()(images, choice)
        assert torch.allclose(found, wanted, atol=2e-4), (arch, (found - wanted).abs().max())


def test_a_supernet_of_fewer_operations_is_the_same_where_it_has_them() -> None:
    space = small("nasbench201")
    torch.manual_seed(0)
    allowed = [(1, 3), (0, 2), (3, 4), (1, 2), (0, 3), (2, 3)]
    supernet = relax(space, "pdarts", allowed=allowed)
    images = torch.randn(4, *SHAPE)
    for arch in (tuple(ops[0] for ops in allowed), tuple(ops[1] for ops in allowed)):
        choice = one_hot(arch, 5)
        with torch.no_grad():
            assert torch.allclose(supernet(images, choice), supernet.discrete(arch).train()(images), atol=2e-4)
    chance = softmax(supernet.logits()).detach()
    for row, ops in zip(chance, allowed, strict=True):
        assert sorted(row.nonzero().squeeze(1).tolist()) == sorted(ops)
        assert row.sum() == pytest.approx(1.0)


def test_a_mixture_is_between_and_has_gradients_for_every_alpha() -> None:
    supernet = relax(small("nasbench201"), "darts")
    supernet(torch.randn(4, *SHAPE), softmax(supernet.logits())).square().sum().backward()
    assert (supernet.alphas.grad[:, 1:] != 0).all()
    assert all(p.grad is not None for p in weights_of(supernet))
    assert all(p is not supernet.alphas for p in weights_of(supernet))


def test_gumbel_draws_as_often_as_the_softmax_says() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0, -torch.inf]]).expand(4000, 4)
    draw = torch.Generator().manual_seed(0)
    hard = gumbel(logits, 1.0, draw, hard=True)
    assert torch.allclose(hard.mean(0), softmax(logits[:1])[0], atol=0.03)
    assert ((hard > 0.5).sum(1) == 1).all()
    one = logits[:1].clone().requires_grad_()
    (gumbel(one, 1.0, draw, hard=True) * torch.tensor([1.0, 2.0, 3.0, 0.0])).sum().backward()
    assert (one.grad[0, :3] != 0).all()
    assert one.grad[0, 3] == 0


def test_entropy_is_a_share() -> None:
    assert entropy(torch.full((3, 5), 0.2)) == pytest.approx(1.0)
    assert entropy(one_hot([1, 2], 5)) == pytest.approx(0.0)
    assert entropy(torch.tensor([[0.5, 0.5, 0.0]])) == pytest.approx(1.0)


def test_an_unsupported_pair_is_refused_with_those_there_are() -> None:
    assert "nasbench201" in supported("darts")
    with pytest.raises(UserError, match="nasbench201"):
        relax(SPACES["vit"](SHAPE, 5), "darts")
