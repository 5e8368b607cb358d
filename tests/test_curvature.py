"""The derivative along the weights against PyTorch's own second derivatives, layer by layer, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from archscout.curvature import Rules, backward_along, forward_along
from archscout.probe import Probe, layer_weights
from archscout.scoring import score
from archscout.testing import tiny_network, tiny_transformer


class Residual(nn.Module):
    """Two readers of one map, and a sum of a normalised and a bare branch."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.side = nn.Conv2d(6, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.body(x) + self.side(x), x], 1)


class Shared(nn.Module):
    """One layer that runs twice, once on zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.layer(x)) + self.norm(self.layer(0 * x))


def closed(*layers: nn.Module, width: int = 6) -> nn.Module:
    stem = nn.Conv2d(3, 6, 3, bias=False)
    return nn.Sequential(stem, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))


NETWORKS = {
    "bare": lambda: closed(nn.ReLU()),
    "norm": lambda: closed(nn.BatchNorm2d(6), nn.ReLU()),
    "in place": lambda: closed(nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 6, 1), nn.ReLU(inplace=True)),
    "plain norm": lambda: closed(nn.BatchNorm2d(6, affine=False), nn.ReLU()),
    "norm without statistics": lambda: closed(nn.BatchNorm2d(6, track_running_stats=False), nn.ReLU()),
    "cumulative norm": lambda: closed(nn.BatchNorm2d(6, momentum=None), nn.ReLU()),
    "bias before a norm": lambda: closed(nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
    "groups": lambda: closed(nn.Conv2d(6, 6, 3, groups=3, padding=1), nn.BatchNorm2d(6), nn.ReLU()),
    "depthwise": lambda: closed(nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.ReLU()),
    "strides": lambda: closed(nn.Conv2d(6, 6, 3, stride=2, dilation=2, padding=(1, 2)), nn.Tanh()),
    "named padding": lambda: closed(nn.Conv2d(6, 6, 3, padding="same"), nn.BatchNorm2d(6), nn.ReLU()),
    "reflected padding": lambda: closed(nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect"), nn.ReLU()),
    "transposed": lambda: closed(nn.ConvTranspose2d(6, 6, 2, stride=2), nn.BatchNorm2d(6), nn.ReLU()),
    "pools": lambda: closed(nn.BatchNorm2d(6), nn.AvgPool2d(3, 1, 1), nn.Conv2d(6, 6, 1), nn.MaxPool2d(2), nn.ReLU()),
    "smooth": lambda: closed(nn.BatchNorm2d(6), nn.GELU(), nn.InstanceNorm2d(6), nn.Conv2d(6, 6, 1), nn.Softplus()),
    "residual": lambda: closed(nn.BatchNorm2d(6), Residual(), nn.ReLU(), width=12),
    "shared": lambda: closed(nn.BatchNorm2d(6), nn.ReLU(), Shared(), nn.ReLU()),
    "norm of vectors": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(147, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 4)
    ),
    "rows": lambda: nn.Sequential(
        nn.Flatten(2), nn.Conv1d(3, 6, 5, 2), nn.BatchNorm1d(6), nn.ReLU(), nn.Flatten(), nn.Linear(138, 4)
    ),
    "volumes": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 6, 3), nn.BatchNorm3d(6), nn.ReLU(), nn.Flatten(), nn.Linear(150, 4)
    ),
}


def data(n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(5)
    return torch.randn(n, 3, 7, 7, generator=rng, dtype=torch.float64), torch.randint(4, (n,), generator=rng)


def carried(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, spelled: bool = False):
    weights = layer_weights(model)
    with forward_ad.dual_level():
        logits = forward_along(model, weights, images, spelled)
        return backward_along(logits, lambda z: F.cross_entropy(z, labels), list(weights.values()), False)


def twice(model: nn.Module, images: torch.Tensor, labels: torch.Tensor):
    """(g, H w) by differentiating g . w once more."""
    weights = list(layer_weights(model).values())
    first = torch.autograd.grad(F.cross_entropy(model(images), labels), weights, create_graph=True)
    along = sum((g * w.detach()).sum() for g, w in zip(first, weights, strict=True))
    return [g.detach() for g in first], torch.autograd.grad(along, weights)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_and_their_rates_are_exact(name: str) -> None:
    torch.manual_seed(2)
    model = NETWORKS[name]().double().train()
    for module in model.modules():  # other than their ones and zeros
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias)
    images, labels = data()
    found = carried(model, images, labels)
    for (gradient, rate), first, second in zip(found, *twice(model, images, labels), strict=True):
        torch.testing.assert_close(gradient, first, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(rate, second, rtol=1e-7, atol=1e-10)
    assert any(rate.abs().max() > 1e-4 for _, rate in found)


def test_behind_a_norm_the_gradient_falls_as_the_weight_grows() -> None:
    # Nothing depends on the scale of such a weight, so its gradient is of degree -1 in it.
    torch.manual_seed(2)
    model = closed(nn.BatchNorm2d(6, eps=1e-13), nn.ReLU()).double().train()
    images, labels = data()
    with forward_ad.dual_level():
        logits = forward_along(model, {"0.weight": model[0].weight}, images, False)
        ((gradient, rate),) = backward_along(logits, lambda z: F.cross_entropy(z, labels), [model[0].weight], False)
    torch.testing.assert_close(rate, -gradient, rtol=1e-9, atol=1e-12)


WRITTEN = {
    nn.Hardsigmoid: lambda x: (x + 3).clamp(0, 6) / 6,
    nn.SiLU: lambda x: x / (1 + (-x).exp()),
    nn.Mish: lambda x: x * torch.tanh(torch.log1p(x.exp())),
}


class Formula(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


@pytest.mark.parametrize("kind", WRITTEN)
def test_activations_are_written_out_where_they_must(kind: type[nn.Module]) -> None:
    torch.manual_seed(2)
    model = closed(nn.BatchNorm2d(6), kind(inplace=True), nn.Conv2d(6, 6, 1), nn.ReLU()).double().train()
    images, labels = data()
    with pytest.raises(NotImplementedError):
        carried(model, images, labels)
    found = carried(model, images, labels, spelled=True)
    model[2] = Formula(WRITTEN[kind])
    for (_, rate), second in zip(found, twice(model, images, labels)[1], strict=True):
        torch.testing.assert_close(rate, second, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("affine", [False, True])
def test_group_normalisation_is_written_out(affine: bool) -> None:
    torch.manual_seed(2)
    model = closed(nn.GroupNorm(2, 6, affine=affine), nn.GELU(), nn.Conv2d(6, 6, 1)).double().train()
    images, labels = data()
    found = carried(model, images, labels, spelled=True)
    for (_, rate), second in zip(found, twice(model, images, labels)[1], strict=True):
        torch.testing.assert_close(rate, second, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("kind", ["hard", "transformer"])
def test_a_pass_of_its_own_leaves_the_neighbours_alone(kind: str) -> None:
    torch.manual_seed(2)
    model = tiny_transformer() if kind == "transformer" else closed(nn.BatchNorm2d(6), nn.Hardswish(), nn.Hardsigmoid())
    rng = torch.Generator().manual_seed(1)
    batch = torch.randn(8, 3, 8, 8, generator=rng), torch.randint(4, (8,), generator=rng)
    names = ["grad_norm", "jacob_cov"]
    together = dict(score(model, *batch, proxies=[*names, "grasp"]))
    assert together.pop("grasp") == score(model, *batch, proxies=["grasp"])["grasp"]
    assert together == dict(score(model, *batch, proxies=names))


def test_rules_change_no_value() -> None:
    torch.manual_seed(2)
    images, _ = data()
    for make in NETWORKS.values():
        model = make().float().train()
        plain = model(images.float())
        with Rules(spelled=False):
            assert torch.equal(model(images.float()), plain)


def test_a_pass_that_does_not_carry_it_says_so() -> None:
    from archscout.probe import NotDefined, Pass, Quantity

    def rates(run: Pass):
        return lambda: run.rates

    images, labels = data()
    with pytest.raises(NotDefined, match="along=True"):
        Probe(tiny_network(), [(images, labels)])[(Quantity(rates, derivative=True), "batch0")]
