"""The gradient-based proxies against slow versions, closed forms, float64 second derivatives, and published scores."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from archscout.curvature import backward_along, forward_along
from archscout.probe import NotDefined, Probe, layer_weights
from archscout.proxies import PROXIES
from archscout.scoring import Scorer, score
from archscout.spaces.nasbench201 import nasbench201
from archscout.testing import tiny_network

HERE = Path(__file__).parent


def _load(name: str, path: Path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plain = _load("plain", HERE / "reference" / "proxies_plain.py")
slow = _load("slow", HERE / "reference" / "proxies_gradient.py")


def layers_of(model: nn.Sequential) -> list[tuple]:
    """The NumPy twin of a plain torch network."""
    kinds = {
        nn.Conv2d: "conv",
        nn.BatchNorm2d: "bn",
        nn.ReLU: "relu",
        nn.AdaptiveAvgPool2d: "pool",
        nn.Linear: "linear",
    }
    found: list[tuple] = []
    for layer in model:
        if type(layer) in kinds:
            held = layer.parameters() if isinstance(layer, (nn.Conv2d, nn.Linear)) else ()
            found.append((kinds[type(layer)], *(p.detach().double().numpy().copy() for p in held)))
    return found


def batches(n: int = 4, size: int = 4, count: int = 1, channels: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rng = torch.Generator().manual_seed(5)
    return [
        (torch.randn(n, channels, size, size, generator=rng), torch.randint(4, (n,), generator=rng))
        for _ in range(count)
    ]


def value(name: str, model: nn.Module, data=None, **more) -> float:
    return PROXIES[name].compute(Probe(model, data or batches(), needs=PROXIES[name].needs, **more))


def undefined(name: str, model: nn.Module, words: str, data=None) -> None:
    with pytest.raises(NotDefined, match=words):
        value(name, model, data)


# --- independent slow versions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_proxies_of_the_loss_equal_the_slow_versions(seed: int) -> None:
    model, data = tiny_network(seed=seed), batches()
    layers, images, labels = layers_of(model), data[0][0].double().numpy(), data[0][1].numpy()
    gradients = plain.loss_gradients(layers, images, labels)
    assert value("plain", model, data) == pytest.approx(slow.slope_along_weights(plain, layers, gradients), rel=1e-4)
    assert value("grasp", model, data) == pytest.approx(slow.grasp(plain, layers, images, labels, gradients), rel=1e-3)
    assert value("fisher", model, data) == pytest.approx(slow.fisher(plain, layers, images, labels), rel=1e-4)
    assert value("l2_norm", model, data) == pytest.approx(slow.l2_norm(plain, layers), rel=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_synflow_bn_equals_the_slow_version(seed: int) -> None:
    model = tiny_network(seed=seed)
    wanted = slow.synflow_bn(plain, layers_of(model), (3, 4, 4))
    assert value("synflow_bn", model) == pytest.approx(wanted, rel=1e-5)
    assert abs(value("synflow_bn", model) - value("synflow", model)) > 0.1


@pytest.mark.parametrize("seed", [0, 1])
def test_proxies_of_single_images_equal_the_slow_versions(seed: int) -> None:
    model, data = tiny_network(seed=seed), batches()
    layers, images, labels = layers_of(model), data[0][0].double().numpy(), data[0][1].numpy()
    assert len(set(labels)) < len(labels)
    assert value("epe_nas", model, data) == pytest.approx(slow.epe_nas(plain, layers, images, labels), rel=1e-3)
    many = slow.epe_nas(plain, layers, images, labels, many=True)
    assert value("epe_nas", model, data, classes=101) == pytest.approx(many, rel=1e-3)
    assert value("ntk", model, data) == pytest.approx(slow.ntk(plain, layers, images), rel=1e-3)
    assert value("gradsign", model, data) == slow.gradsign(plain, layers, images, labels)


# --- closed forms ----------------------------------------------------------------------------------------------------


def regression(n: int = 6):
    """Softmax regression on 12 pixels: the model, a batch, and its weights, rows and errors in float64."""
    torch.manual_seed(3)
    model, data = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), batches(n=n, size=2)
    images, labels = data[0]
    weight, bias, rows = model[1].weight.detach().double(), model[1].bias.detach().double(), images.flatten(1).double()
    logits = rows @ weight.T + bias
    return model, data, weight, rows, logits, torch.softmax(logits, 1) - F.one_hot(labels, 4)


def test_softmax_regression_in_closed_form() -> None:
    model, data, weight, rows, logits, error = regression()
    gradient = error.T @ rows / 6
    assert value("plain", model, data) == pytest.approx(float((weight * gradient).sum()), rel=1e-5)
    assert value("fisher", model, data) == pytest.approx(
        12 * float((logits * error / 6).square().sum()) / (2 * 6), rel=1e-5
    )
    p, step = torch.softmax(logits, 1), rows @ gradient.T
    curvature = (p * step - p * (p * step).sum(1, keepdim=True)).T @ rows / 6
    assert value("grasp", model, data) == pytest.approx(-float((weight * curvature).sum()), rel=1e-4)
    assert value("l2_norm", model, data) == pytest.approx(float(weight.norm()), rel=1e-6)
    signs = (error.sign()[:, :, None] * rows.sign()[:, None]).sum(0)
    assert value("gradsign", model, data) == float(signs.abs().sum())


def test_the_tangent_kernel_of_a_linear_layer_is_that_of_the_images() -> None:
    model, data, _, rows, *_ = regression(n=20)
    values = torch.linalg.eigvalsh(rows[:8] @ rows[:8].T)
    assert value("ntk", model, [(data[0][0][:8], data[0][1][:8])]) == pytest.approx(
        float(values[-1] / values[0]), rel=1e-4
    )
    # Sixteen of twenty images count, and 16 rows of 12 pixels depend on each other.
    undefined("ntk", model, "singular", data)


def test_epe_nas_of_orthogonal_gradients() -> None:
    # The gradient of a sum of squares is twice the image: centred, orthogonal images have uncorrelated gradients.
    class Squares(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1).square()

    rows = torch.tensor([[1.0, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]).reshape(3, 1, 2, 2)
    pair = 2 * (math.log(1e-5) + math.log(1 + 1e-5))
    assert value("epe_nas", Squares(), [(rows, torch.tensor([0, 0, 2]))]) == pytest.approx(
        abs(pair) + math.log(1 + 1e-5), rel=1e-6
    )


def test_fisher_counts_a_channel_by_its_fan_in() -> None:
    # The same function with every input pixel given twice and half the weight: only the fan-in changes.
    model, data, *_ = regression()
    twice = nn.Sequential(nn.Flatten(), nn.Linear(24, 4))
    with torch.no_grad():
        twice[1].weight.copy_(torch.cat([model[1].weight, model[1].weight], 1) / 2)
        twice[1].bias.copy_(model[1].bias)
    images, labels = data[0]
    doubled = [(torch.cat([images, images], 1), labels)]
    assert value("fisher", twice, doubled) == pytest.approx(2 * value("fisher", model, data), rel=1e-5)


def test_fisher_of_tokens_sums_over_tokens() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x.flatten(2).transpose(1, 2)).mean(1)

    torch.manual_seed(0)
    model, data = Tokens(), batches()
    images, labels = data[0]
    tokens = model.layer(images.flatten(2).transpose(1, 2)).detach().double()
    slope = (torch.softmax(tokens.mean(1), 1) - F.one_hot(labels, 4)) / len(labels) / tokens.shape[1]
    wanted = 3 * float((tokens * slope[:, None]).sum(1).square().sum()) / (2 * len(labels))
    assert value("fisher", model, data) == pytest.approx(wanted, rel=1e-4)


# --- GraSP against second derivatives in float64 ---------------------------------------------------------------------

CELLS = [
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|",
    "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|nor_conv_3x3~2|",
    "|skip_connect~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|none~2|",
    "|avg_pool_3x3~0|+|none~0|nor_conv_3x3~1|+|none~0|none~1|avg_pool_3x3~2|",
]


def second_derivative(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """-w' H g by differentiating twice, backwards, in float64."""
    network = model.double().train()
    weights = [m.weight for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    loss = F.cross_entropy(network(images.double()), labels)
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    square = sum((g * g.detach()).sum() for g in gradients)
    along = torch.autograd.grad(square, weights)
    return -sum(float((w.detach() * h).sum()) for w, h in zip(weights, along, strict=True))


@pytest.mark.parametrize("cell", CELLS)
def test_grasp_is_the_second_derivative(cell: str) -> None:
    space = nasbench201((3, 16, 16), 4, channels=4, cells=1)
    torch.manual_seed(1)
    model = space.build(space.parse(cell))
    images, labels = batches(n=16, size=16)[0]
    found = value("grasp", model, [(images, labels)])
    assert found == pytest.approx(second_derivative(model, images, labels), rel=1e-3)


@pytest.mark.parametrize("cell", CELLS)
def test_the_carried_derivative_is_exact_where_rounding_is_small(cell: str) -> None:
    space = nasbench201((3, 16, 16), 4, channels=4, cells=2)
    torch.manual_seed(1)
    model = space.build(space.parse(cell)).double().train().to(memory_format=torch.channels_last)
    images, labels = batches(n=16, size=16)[0]
    weights = layer_weights(model)
    with forward_ad.dual_level():
        logits = forward_along(model, weights, images.double(), spelled=False)
        pairs = backward_along(logits, lambda z: F.cross_entropy(z, labels), list(weights.values()), keep=False)
    found = -sum(float((gradient * rate).sum()) for gradient, rate in pairs)
    assert found == pytest.approx(second_derivative(model, images, labels), rel=1e-9)


def test_grasp_is_half_the_rate_at_which_the_squared_gradient_falls() -> None:
    model, data = tiny_network(), batches(n=16, size=8)

    def square(scale: float) -> float:
        network = tiny_network().double().train()
        weights = [m.weight for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        with torch.no_grad():
            for weight in weights:
                weight.mul_(scale)
        found = torch.autograd.grad(F.cross_entropy(network(data[0][0].double()), data[0][1]), weights)
        return sum(float(g.square().sum()) for g in found)

    step = 1e-4
    slope = (square(1 + step) - square(1 - step)) / (2 * step)
    assert value("grasp", model, data) == pytest.approx(-slope / 2, rel=1e-3)


def test_grasp_shares_the_pass_of_the_gradient_and_changes_no_neighbour() -> None:
    space = nasbench201((3, 8, 8), 4, channels=4, cells=1)
    torch.manual_seed(1)
    model, (images, labels) = space.build(space.parse(CELLS[1])), batches(n=8, size=8)[0]
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    names = ["grad_norm", "snip", "jacob_cov", "naswot", "fisher", "plain"]
    without = dict(score(model, images, labels, proxies=names))
    calls.clear()
    together = dict(score(model, images, labels, proxies=[*names, "grasp"]))
    assert len(calls) == 1
    assert together.pop("grasp") == score(model, images, labels, proxies=["grasp"])["grasp"]
    assert together == without


# --- where a score does not exist ------------------------------------------------------------------------------------

OF_THE_LOSS = ["grasp", "fisher", "plain", "gradsign"]


def test_undefined_cases_say_why() -> None:
    bare = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for name in ("grasp", "plain", "gradsign", "ntk", "l2_norm", "synflow_bn"):
        undefined(name, bare, "no convolution or linear")
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    for name in ("grasp", "fisher", "plain"):
        undefined(name, narrow, "has no output: the network has 2")
    one = batches(n=1)
    undefined("ntk", tiny_network(), "two images", one)
    undefined("epe_nas", tiny_network(), "two images of one class", [(batches()[0][0], torch.arange(4))])
    undefined("epe_nas", bare, "constant", [(batches()[0][0], torch.zeros(4, dtype=torch.int64))])
    flat = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten())
    undefined("synflow_bn", flat, "one value per channel")


def test_dead_networks_have_no_score() -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0.0 * self.head(self.body(x).mean((2, 3)))

    for name in ("grasp", "plain", "gradsign"):
        undefined(name, Dead(), "every gradient is zero")
    undefined("fisher", Dead(), "no channel matters")
    undefined("synflow_bn", Dead(), "no path")
    undefined("ntk", Dead(), "singular")
    undefined("epe_nas", Dead(), "constant", [(batches()[0][0], torch.zeros(4, dtype=torch.int64))])


@pytest.mark.parametrize("name", [*OF_THE_LOSS, "ntk", "epe_nas", "l2_norm", "synflow_bn"])
def test_nan_is_a_named_failure(name: str) -> None:
    model = tiny_network()
    with torch.no_grad():
        model[3].weight[0, 0, 0, 0] = math.nan
    undefined(name, model, "NaN or infinite")


def test_ntk_is_better_where_it_is_smaller() -> None:
    assert PROXIES["ntk"].direction == "min"
    assert value("ntk", tiny_network()) >= 1


# --- published scores ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_published_scores_of_nas_bench_201_are_reproduced(real_data: Path) -> None:
    pandas = pytest.importorskip("pandas")
    stats = pytest.importorskip("scipy.stats")
    loader = _load("load_cifar", real_data / "images" / "load_cifar.py")
    pixels, labels, *_ = loader.load(real_data / "images" / "cifar10_lossless.zip", "test")
    images = torch.from_numpy(pixels[:64]).permute(0, 3, 1, 2).float() / 255
    images = (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True)

    table = pandas.read_parquet(real_data / "nas" / "nb201_reference_proxies.parquet")
    rows = table.sort_values("cifar10__synflow").iloc[1::800]  # 12 cells over the whole range, without the empty one
    space = nasbench201((3, 32, 32), 10)
    names = ("fisher", "grad_norm", "snip", "epe_nas", "l2_norm", "grasp")
    scorer = Scorer(space, [(images, torch.as_tensor(labels[:64]).long())], names)
    found = [scorer(space.parse(text)) for text in rows["arch_str"]]
    assert not any(each["failures"] for each in found)
    mine = {name: np.array([each["scores"][name] for each in found]) for name in names}
    rho = {name: stats.spearmanr(mine[name], rows[f"cifar10__{name}"]).statistic for name in names}
    assert min(rho["fisher"], rho["grad_norm"], rho["snip"]) > 0.95, rho
    # The rest agrees as well as two draws of the weights or of the images agree with each other.
    assert min(rho["epe_nas"], rho["l2_norm"]) > 0.75, rho
    assert rho["grasp"] > 0.4, rho
    # Not only the order: fisher without the fan-in, or of another sum, would be off by a factor.
    ratio = mine["fisher"] / rows["cifar10__fisher"].to_numpy()
    assert 0.5 < np.median(ratio) < 2
    assert np.abs(mine["l2_norm"] / rows["cifar10__l2_norm"] - 1).max() < 0.02
