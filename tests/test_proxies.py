"""Every proxy against an independent slow version, closed forms, published scores, and its undefined cases."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import archscout.proxies
from archscout.errors import UserError
from archscout.probe import NotDefined, Probe, gaussian, noise
from archscout.proxies import DEFAULT, PROXIES
from archscout.scoring import Scorer, score
from archscout.testing import check_proxy, tiny_network

_spec = importlib.util.spec_from_file_location("plain", Path(__file__).parent / "reference" / "proxies_plain.py")
plain = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(plain)


def layers_of(model: nn.Sequential) -> list[tuple]:
    """The NumPy twin of a plain torch network."""
    found: list[tuple] = []
    for layer in model:
        if isinstance(layer, nn.Conv2d):
            found.append(("conv", layer.weight.detach().double().numpy().copy()))
        elif isinstance(layer, nn.BatchNorm2d):
            found.append(("bn",))
        elif isinstance(layer, nn.ReLU):
            found.append(("relu",))
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            found.append(("pool",))
        elif isinstance(layer, nn.Linear):
            found.append(("linear", *(p.detach().double().numpy().copy() for p in (layer.weight, layer.bias))))
    return found


def batches(n: int = 5, size: int = 5, count: int = 2, channels: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rng = torch.Generator().manual_seed(5)
    return [
        (torch.randn(n, channels, size, size, generator=rng), torch.randint(4, (n,), generator=rng))
        for _ in range(count)
    ]


def value(name: str, model: nn.Module, data=None) -> float:
    return PROXIES[name].compute(Probe(model, data or batches(), needs=PROXIES[name].needs))


def undefined(name: str, model: nn.Module, words: str, data=None) -> None:
    with pytest.raises(NotDefined, match=words):
        value(name, model, data)


# --- the registry ----------------------------------------------------------------------------------------------------


def test_registry_names_every_file() -> None:
    files = {p.stem for p in Path(archscout.proxies.__file__).parent.glob("*.py")} - {"__init__"}
    assert set(PROXIES) == files
    assert set(DEFAULT) <= files
    for name, proxy in PROXIES.items():
        assert proxy.name == name
        assert proxy.paper
        assert proxy.cost
        assert proxy.data in ("none", "images", "images and labels")
        assert len(proxy.compute.__doc__) > 200


@pytest.mark.parametrize("name", PROXIES)
def test_conformance(name: str) -> None:
    check_proxy(name)


# --- independent slow versions ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slow_gradients() -> list[list[np.ndarray]]:
    """Of two batches, per layer: the loss gradient of the tiny network by central differences."""
    layers = layers_of(tiny_network())
    return [plain.loss_gradients(layers, x.numpy(), y.numpy()) for x, y in batches(n=4, size=4)]


def test_gradient_proxies_equal_the_slow_versions(slow_gradients: list[list[np.ndarray]]) -> None:
    model, data = tiny_network(), batches(n=4, size=4)
    assert value("grad_norm", model, data) == pytest.approx(plain.grad_norm(slow_gradients[0]), rel=1e-4)
    assert value("snip", model, data) == pytest.approx(plain.snip(layers_of(model), slow_gradients[0]), rel=1e-4)
    assert value("zico", model, data) == pytest.approx(plain.zico(slow_gradients), rel=1e-3)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ["naswot", "jacob_cov"])
def test_label_free_proxies_equal_the_slow_version(name: str, seed: int) -> None:
    model, data = tiny_network(seed=seed), batches(n=4, size=4)
    wanted = getattr(plain, name)(layers_of(model), data[0][0].numpy())
    assert value(name, model, data) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_synflow_equals_the_slow_version(seed: int) -> None:
    model = tiny_network(seed=seed)
    assert value("synflow", model, batches(size=4)) == pytest.approx(
        plain.synflow(layers_of(model), (3, 4, 4)), rel=1e-6
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_zen_equals_the_slow_version(seed: int) -> None:
    model = tiny_network(seed=seed)
    probe = Probe(model, batches(), seed=seed, needs=PROXIES["zen"].needs)
    layers = layers_of(probe.prepared(gaussian))
    wanted = plain.zen(layers, noise(probe, 0)[0].numpy(), noise(probe, 1)[0].numpy())
    assert PROXIES["zen"].compute(probe) == pytest.approx(wanted, rel=1e-3)


# --- closed forms ----------------------------------------------------------------------------------------------------


def linear(classes: int = 4, pixels: int = 12) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes))


def test_one_linear_layer_has_the_gradient_of_softmax_regression() -> None:
    model, data = linear(), batches(n=6, size=2)
    images, labels = data[0]
    weight = model[1].weight.detach().double()
    rows = images.flatten(1).double()
    error = torch.softmax(rows @ weight.T + model[1].bias.detach().double(), 1) - nn.functional.one_hot(labels, 4)
    gradient = error.T @ rows / 6
    assert value("grad_norm", model, data) == pytest.approx(float(gradient.norm()), rel=1e-5)
    assert value("snip", model, data) == pytest.approx(float((weight * gradient).abs().sum()), rel=1e-5)


def test_synflow_of_linear_layers_counts_every_path_once_per_layer() -> None:
    one = linear()
    assert value("synflow", one, batches(size=2)) == pytest.approx(
        math.log(float(one[1].weight.detach().double().abs().sum())), rel=1e-9
    )
    two = nn.Sequential(nn.Flatten(), nn.Linear(12, 7, bias=False), nn.ReLU(), nn.Linear(7, 4, bias=False))
    flow = two[3].weight.detach().double().abs() @ two[1].weight.detach().double().abs()
    assert value("synflow", two, batches(size=2)) == pytest.approx(math.log(2 * float(flow.sum())), rel=1e-9)


def test_synflow_is_blind_to_signs_and_to_normalisation() -> None:
    model = tiny_network()
    flipped = tiny_network()
    with torch.no_grad():
        for p in flipped.parameters():
            p.neg_()
        flipped[1].running_var.fill_(9.0)
    assert value("synflow", model) == value("synflow", flipped)


def test_synflow_survives_a_depth_that_overflows_float32() -> None:
    deep = nn.Sequential(
        *(nn.Conv2d(3, 3, 1) for _ in range(60)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)
    )
    with torch.no_grad():
        for p in deep.parameters():
            p.fill_(3.0)
    assert value("synflow", deep) > math.log(3e38)


def test_naswot_of_known_signs() -> None:
    # Four images, one unit per image that is on for it alone: K = 4 on the diagonal, 2 elsewhere.
    model = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(4, 4))
    images = (2 * torch.eye(4) - 1).reshape(4, 1, 2, 2)
    kernel = 2 * np.eye(4) + 2
    data = [(images, torch.arange(4))]
    assert value("naswot", model, data) == pytest.approx(math.log(np.linalg.det(kernel)), rel=1e-6)


def test_jacob_cov_of_uncorrelated_gradients_is_minus_n() -> None:
    # The gradient of a sum of squares is twice the image, so orthogonal centred images have uncorrelated gradients.
    class Squares(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1).square()

    rows = torch.tensor([[1.0, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]).reshape(3, 1, 2, 2)
    found = value("jacob_cov", Squares(), [(rows, torch.arange(3))])
    assert found == pytest.approx(-3 * (math.log(1 + 1e-5) + 1 / (1 + 1e-5)), rel=1e-6)


def test_zen_of_one_linear_convolution_grows_with_the_norm_of_its_weights() -> None:
    # Without a nonlinearity and a norm the score is log E||w * 0.01 e||_1 = log(0.01 outputs sqrt(2/pi) |w|).
    model = nn.Sequential(nn.Conv2d(3, 64, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4))
    probe = Probe(model, batches(size=40), needs=PROXIES["zen"].needs)
    rows = probe.prepared(gaussian)[0].weight.detach().flatten(1).norm(dim=1)
    wanted = math.log(0.01 * 40 * 40 * math.sqrt(2 / math.pi) * float(rows.sum()))
    assert PROXIES["zen"].compute(probe) == pytest.approx(wanted, abs=0.02)


def test_counts_of_a_hand_counted_network() -> None:
    model = tiny_network()
    weights = 6 * 3 * 9 + 8 * 6 * 9
    assert value("params", model) == weights + 2 * 6 + 2 * 8 + 8 * 4 + 4
    assert value("macs", model) == weights * 25 + 8 * 4
    assert value("flops", model) > value("macs", model)


# --- where a score does not exist ------------------------------------------------------------------------------------


def test_undefined_cases_say_why() -> None:
    plain_net = linear(pixels=75)
    undefined("naswot", plain_net, "no ReLU")
    undefined("zen", plain_net, "feature map")
    undefined("zico", tiny_network(), "needs 2 batches, got 1", batches(count=1))
    undefined("zico", tiny_network(), "no gradient differs", batches(count=1) * 2)
    same = (torch.ones(4, 3, 5, 5), torch.zeros(4, dtype=torch.int64))
    undefined("naswot", tiny_network(), "singular", [same])
    one = batches(n=1)
    undefined("naswot", tiny_network(), "two images", one)
    undefined("jacob_cov", tiny_network(), "two images", one)
    undefined("grad_norm", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), "no convolution or linear")
    undefined("grad_norm", nn.Sequential(nn.Flatten(), nn.Linear(75, 2)), "has no output: the network has 2")
    undefined("jacob_cov", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), "constant")


def test_dead_networks_have_no_score() -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0.0 * self.head(self.body(x).mean((2, 3)))

    undefined("grad_norm", Dead(), "every gradient is zero")
    undefined("snip", Dead(), "every gradient is zero")
    undefined("synflow", Dead(), "no path")
    undefined("jacob_cov", Dead(), "constant")
    undefined("zico", Dead(), "no gradient differs")


@pytest.mark.parametrize("name", ["grad_norm", "snip", "synflow", "naswot", "jacob_cov", "zico"])
def test_nan_is_a_named_failure(name: str) -> None:
    model = tiny_network()
    with torch.no_grad():
        model[3].weight[0, 0, 0, 0] = math.nan
    undefined(name, model, "NaN or infinite")


def test_zen_without_norms_and_with_a_dead_branch() -> None:
    bare = nn.Sequential(*(layer for layer in tiny_network() if not isinstance(layer, nn.BatchNorm2d)))
    assert math.isfinite(value("zen", bare))


# --- score -----------------------------------------------------------------------------------------------------------


def test_score_takes_uint8_in_either_order_and_floats() -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (16, 8, 8, 3), dtype=np.uint8), rng.integers(0, 4, 16)
    mean, std = images.mean((0, 1, 2)), images.std((0, 1, 2))
    floats = ((images - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    wanted = score(tiny_network(), floats, labels)
    for given in (images, images.transpose(0, 3, 1, 2), torch.from_numpy(images)):
        for stats in ({}, {"mean": mean, "std": std}):
            found = score(tiny_network(), given, labels, **stats)
            assert dict(found) == pytest.approx(dict(wanted), rel=1e-3)
    assert set(wanted) == set(DEFAULT)
    assert not wanted.spread
    assert wanted.seconds > 0


def test_score_collects_failures_and_never_crashes() -> None:
    def broken(probe: Probe) -> float:
        raise ValueError("on purpose")

    def hungry(probe: Probe) -> float:
        raise torch.OutOfMemoryError("out of memory")

    def infinite(probe: Probe) -> float:
        return math.inf

    def tensor(probe: Probe) -> float:
        return probe["gradients@batch0"][0].gradient.abs().sum()

    data = batches(n=8)[0]
    found = score(tiny_network(), *data, proxies=[broken, hungry, infinite, tensor, "zico", "naswot"])
    assert set(found) == {"tensor", "naswot"}
    assert isinstance(found["tensor"], float)
    assert found.failures["broken"] == "ValueError: on purpose"
    assert found.failures["hungry"].startswith("OutOfMemoryError")
    assert found.failures["infinite"] == "the score is inf"
    assert "2 batches" in found.failures["zico"]


def test_score_of_a_network_that_cannot_run() -> None:
    found = score(nn.Sequential(nn.Flatten(), nn.Linear(7, 4)), *batches()[0])
    assert not found
    assert "RuntimeError" in found.failures["jacob_cov"]


def test_repeats_average_new_weights_and_state_the_spread() -> None:
    model, data = tiny_network(), batches(n=8)[0]
    found = score(model, *data, proxies=["snip", "params"], repeats=5)
    assert found.spread["snip"] > 0
    assert found.spread["params"] == 0
    assert dict(found) == dict(score(tiny_network(seed=9), *data, proxies=["snip", "params"], repeats=5))


def test_more_images_than_a_batch_leave_the_first_batch_alone() -> None:
    model, (images, labels) = tiny_network(), batches(n=40)[0]
    assert dict(score(model, images, labels, batch_size=16)) == dict(score(model, images[:16], labels[:16]))
    assert "zico" in score(model, images, labels, proxies=["zico"], batch_size=16)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"proxies": ["sinflow"]}, "did you mean 'synflow'"),
        ({"proxies": "synflow"}, "list of names"),
        ({"proxies": ["zen", "zen"]}, "twice"),
        ({"proxies": [3]}, "a proxy is a name"),
        ({"proxies": ["nowhere_at_all:thing"]}, "cannot import"),
        ({"images": torch.zeros(8, 3, 5)}, "float tensor"),
        ({"images": np.zeros((8, 5, 5), dtype=np.uint8)}, "add a channel axis"),
        ({"images": torch.zeros(8, 3, 5, 5, dtype=torch.int32)}, "float tensor"),
        ({"labels": torch.zeros(7, dtype=torch.int64)}, "labels are"),
        ({"labels": torch.zeros(8)}, "labels are"),
        ({"labels": -torch.ones(8, dtype=torch.int64)}, "from 0"),
        ({"repeats": 0}, "at least 1"),
    ],
)
def test_wrong_input_is_a_user_error(change: dict, words: str) -> None:
    images, labels = batches(n=8)[0]
    with pytest.raises(UserError, match=words):
        score(tiny_network(), **{"images": images, "labels": labels, **change})


def test_scorer_is_the_same_in_every_process() -> None:
    import pickle

    from archscout.space import portable
    from archscout.spaces.nasbench201 import nasbench201

    space = portable(nasbench201, ((3, 8, 8), 4, 4, 1))
    scorer = Scorer(space, batches(n=8, size=8), ("macs", "naswot", "zico", "zen"), seed=7)
    arch = space.parse("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|skip_connect~0|none~1|nor_conv_1x1~2|")
    state = torch.get_rng_state()
    first = scorer(arch)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    assert pickle.loads(pickle.dumps(scorer))(space.canonical(arch)) == first
    assert set(first["scores"]) == {"macs", "naswot", "zico", "zen"}
    assert Scorer(space, scorer.batches, scorer.proxies, seed=8)(arch)["scores"]["naswot"] != first["scores"]["naswot"]


# --- published scores ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_published_scores_of_nas_bench_201_are_reproduced(real_data: Path) -> None:
    pandas = pytest.importorskip("pandas")
    stats = pytest.importorskip("scipy.stats")
    from archscout.spaces.nasbench201 import nasbench201

    spec = importlib.util.spec_from_file_location("load_cifar", real_data / "images" / "load_cifar.py")
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    pixels, labels, *_ = loader.load(real_data / "images" / "cifar10_lossless.zip", "test")
    images = torch.from_numpy(pixels[:64]).permute(0, 3, 1, 2).float() / 255
    images = (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True)

    table = pandas.read_parquet(real_data / "nas" / "nb201_reference_proxies.parquet")
    # 12 cells over the whole range of the published synflow, without the cell of nothing, which has no scores.
    rows = table.sort_values("cifar10__synflow").iloc[1::800]
    space = nasbench201((3, 32, 32), 10)
    names = {"synflow": "synflow", "naswot": "nwot", "jacob_cov": "jacov", "snip": "snip", "grad_norm": "grad_norm"}
    counts = {"params": "params", "flops": "flops"}
    scorer = Scorer(space, [(images, torch.as_tensor(labels[:64]).long())], (*names, *counts))
    found = [scorer(space.parse(text)) for text in rows["arch_str"]]
    assert not any(each["failures"] for each in found)
    rho = {
        mine: stats.spearmanr([each["scores"][mine] for each in found], rows[f"cifar10__{theirs}"]).statistic
        for mine, theirs in (names | counts).items()
    }
    assert rho["synflow"] > 0.98, rho
    assert min(rho[name] for name in names) > 0.9, rho
    assert min(rho[name] for name in counts) > 0.999, rho
