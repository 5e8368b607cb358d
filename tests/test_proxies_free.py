"""The proxies that read no gradient of a loss, against slow versions, closed forms, and where they are undefined."""

from __future__ import annotations

import importlib.util
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from archscout.blocks import blocks_of, mean_jacobian_norm, spectral_entropy
from archscout.information import FISHER, weights_of
from archscout.probe import NotDefined, Probe, arc, derive, frozen, kaiming, noise, noise_batch
from archscout.proxies import PROXIES
from archscout.proxies.swap import reg_swap
from archscout.scoring import score
from archscout.spaces import SPACES
from archscout.testing import tiny_network

_spec = importlib.util.spec_from_file_location("free", Path(__file__).parent / "reference" / "proxies_free.py")
free = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(free)


class Block(nn.Module):
    """A residual block that begins with an operation in place, as some networks do."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.short = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(x)
        return self.norm(self.conv(x)) + self.short(x)


def residual(classes: int = 4) -> nn.Sequential:
    torch.manual_seed(3)
    stages = nn.Sequential(nn.Sequential(Block(6, 6, 1), Block(6, 6, 1)), nn.Sequential(Block(6, 9, 2), Block(9, 9, 1)))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, classes))
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), stages, *head)


class Stem(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0


class Around(nn.Module):
    """A network of blocks between a stem that changes nothing and a head: maps (N, C, H, W) to (N, classes)."""

    def __init__(self, *body: nn.Module, channels: int = 3) -> None:
        super().__init__()
        self.blocks, self.body = list(body), nn.Sequential(Stem(), *body)
        self.head = nn.Linear(1, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((1, 2, 3))[:, None])


def batches(n: int = 6, size: int = 6, channels: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rng = torch.Generator().manual_seed(5)
    return [(torch.randn(n, channels, size, size, generator=rng), torch.arange(n) % 3)]


def value(name: str, model: nn.Module, data=None) -> float:
    return PROXIES[name].compute(Probe(model, data or batches(), needs=PROXIES[name].needs))


def undefined(name: str, model: nn.Module, words: str, data=None) -> None:
    with pytest.raises(NotDefined, match=words):
        value(name, model, data)


def outputs_of(model: nn.Module, images: torch.Tensor, *kinds: type[nn.Module]) -> list[np.ndarray]:
    """What the modules of these kinds put out, in order of execution."""
    found: list[np.ndarray] = []
    hooks = [
        m.register_forward_hook(lambda m, i, o: found.append(o.detach().double().numpy().copy()))
        for m in model.modules()
        if isinstance(m, kinds)
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return found


# --- which modules are blocks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "kinds"),
    [
        (
            "nasbench201",
            "|skip_connect~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|",
            ["Cell", "Reduction", "Cell", "Reduction", "Cell"],
        ),
        ("mobilenet", "r100-s8-f3e1w8x2-d3e2w16x1", ["Block"] * 3),
    ],
)
def test_blocks_of_the_spaces(name: str, text: str, kinds: list[str]) -> None:
    arguments = ((3, 16, 16), 4, 4, 1) if name == "nasbench201" else ((3, 16, 16), 4)
    space = SPACES[name](*arguments)
    assert [type(block).__name__ for block in blocks_of(space.build(space.parse(text)))] == kinds


def test_blocks_by_structure() -> None:
    net = residual()
    assert blocks_of(net) == [*net[1][0], *net[1][1]]
    tiny = tiny_network()
    assert blocks_of(tiny) == [tiny[0], tiny[3]]

    class Net(nn.Module):
        def __init__(self, wrap: bool) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 6, 3)
            if wrap:
                self.backbone = Net(False)
            else:
                self.one, self.two = Block(6, 6, 1), Block(6, 9, 2)
            self.classifier = nn.Sequential(nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 3))

    flat, wrapped = Net(False), Net(True)
    assert blocks_of(flat) == [flat.one, flat.two]
    assert blocks_of(wrapped) == [wrapped.backbone.one, wrapped.backbone.two]
    flat.blocks = [flat.stem, flat.two]
    assert blocks_of(flat) == [flat.stem, flat.two]


def test_layers_of_a_transformer_are_blocks() -> None:
    space = SPACES["vit"]((3, 8, 8), 4)
    net = space.build(space.parse("p2-w64-d2-h2r1-h2r1"))
    assert blocks_of(net) == list(net.layers)
    for name in ("expressivity", "progressivity", "trainability"):
        assert math.isfinite(value(name, net, batches(size=8)))


# --- the terms of AZ-NAS ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_expressivity_and_progressivity_equal_the_slow_versions(seed: int) -> None:
    probe = Probe(residual(), batches(), seed=seed)
    net, images = probe.prepared(kaiming), noise_batch(probe, 0)[0]
    stem = outputs_of(net[0], images, nn.Conv2d)
    entropies = [free.spectral_entropy(map_) for map_ in (*stem, *outputs_of(net, images, Block))]
    assert PROXIES["expressivity"].compute(probe) == pytest.approx(sum(entropies[1:]), rel=1e-5)
    gains = min(after - before for before, after in pairwise(entropies))
    assert PROXIES["progressivity"].compute(probe) == pytest.approx(gains, rel=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_trainability_equals_the_slow_version(seed: int) -> None:
    probe = Probe(residual(), batches(), seed=seed)
    net, x = probe.prepared(kaiming), noise_batch(probe, 0)[0]
    bytes_ = torch.randint(
        256, (32 * 9 * 36, 1), generator=torch.Generator().manual_seed(derive(seed, "kaiming")), dtype=torch.uint8
    )
    signs = ((bytes_ >> torch.arange(8)) & 1).flatten().float() * 2 - 1
    x, norms = net[0](x), []
    for block in blocks_of(net):
        leaf = x.detach().requires_grad_(True)
        x = block(leaf * 1)
        n, channels, height, width = x.shape
        outer = signs[: x.numel()].reshape(n, height, width, channels).permute(0, 3, 1, 2)
        (inner,) = torch.autograd.grad((x * outer).sum(), [leaf])
        norms.append(free.jacobian_norm(inner.double().numpy(), outer.double().numpy()))
    assert len(norms) == 4
    assert PROXIES["trainability"].compute(probe) == pytest.approx(free.trainability(norms), rel=1e-4)


def test_entropy_of_a_known_spectrum() -> None:
    # Channels are different columns of a Hadamard matrix: uncorrelated, centred, with variances of our choice.
    hadamard = torch.tensor([[1.0, 1], [1, -1]])
    for _ in range(3):
        hadamard = torch.kron(hadamard, torch.tensor([[1.0, 1], [1, -1]]))
    maps = hadamard[:, 1:9].reshape(4, 2, 2, 8).permute(0, 3, 1, 2)
    assert spectral_entropy(maps) == pytest.approx(math.log(8), rel=1e-6)
    assert spectral_entropy(maps + 100) == pytest.approx(math.log(8), rel=1e-4)
    variances = torch.tensor([1.0, 3] + 6 * [0.0])
    scaled = maps * variances.sqrt()[:, None, None]
    assert spectral_entropy(scaled) == pytest.approx(free.entropy([1, 3]), rel=1e-6)
    assert spectral_entropy(maps[:, :1].expand(-1, 5, -1, -1)) == pytest.approx(0, abs=1e-6)
    # More channels than places: the other Gram matrix.
    wide = torch.randn(1, 12, 2, 3, generator=torch.Generator().manual_seed(0))
    assert spectral_entropy(wide) == pytest.approx(free.spectral_entropy(wide.numpy()), rel=1e-5)
    assert math.isnan(spectral_entropy(torch.full((2, 3, 4, 4), 7.7)))


def conv(weight: torch.Tensor, **keywords: int) -> nn.Module:
    """A convolution that keeps its weight when weights are drawn anew."""

    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.conv2d(x, weight, **keywords)

    return Fixed()


def test_trainability_of_blocks_that_keep_lengths_is_zero() -> None:
    one = Around(conv(torch.ones(1, 1, 1, 1)), conv(-torch.ones(1, 1, 1, 1)))
    assert value("trainability", one, batches(channels=1)) == pytest.approx(0, abs=1e-6)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))[0]
    found = value("trainability", Around(conv(rotation[:, :, None, None])), batches(size=40))
    assert -1e-3 < found <= 0


def test_trainability_of_linear_blocks_is_that_of_their_weight() -> None:
    rng = torch.Generator().manual_seed(2)
    data = batches(size=40)
    centre = torch.randn(4, 3, 3, 3, generator=rng)
    s = float(torch.linalg.matrix_norm(centre[:, :, 1, 1], 2))
    assert value("trainability", Around(conv(centre, padding=1)), data) == pytest.approx(2 - s - 1 / s, rel=0.05)
    patches = torch.randn(5, 3, 2, 2, generator=rng)
    s = float(torch.linalg.matrix_norm(patches.flatten(1), 2))
    assert value("trainability", Around(conv(patches, stride=2)), data) == pytest.approx(2 - s - 1 / s, rel=0.05)
    # Both blocks: the mean.
    both = Around(conv(torch.eye(3)[:, :, None, None] * 2), conv(torch.eye(3)[:, :, None, None] * 0.25))
    assert value("trainability", both, data) == pytest.approx((-0.5 + 2 - 0.25 - 4) / 2, rel=0.05)


@pytest.mark.parametrize(("inner", "outer"), [((2, 3, 8, 8), (2, 5, 4, 4)), ((3, 2, 5, 5), (3, 4, 5, 5))])
def test_mean_jacobian_norm_equals_the_slow_version(inner: tuple[int, ...], outer: tuple[int, ...]) -> None:
    rng = torch.Generator().manual_seed(0)
    h, g = torch.randn(inner, generator=rng), torch.randn(outer, generator=rng).sign()
    wanted = free.jacobian_norm(h.double().numpy(), g.double().numpy())
    assert mean_jacobian_norm(h, g) == pytest.approx(wanted, rel=1e-5)


def test_odd_maps_are_padded_to_whole_strides() -> None:
    h, g = torch.ones(1, 1, 5, 5), torch.ones(1, 1, 3, 3)
    padded = nn.functional.pad(h, (0, 1, 0, 1))
    assert mean_jacobian_norm(h, g) == pytest.approx(free.jacobian_norm(padded.numpy(), g.numpy()))


def test_terms_of_az_nas_are_undefined() -> None:
    class Dead(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 0

    class Detached(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.detach() + 1

    one = conv(torch.ones(1, 3, 1, 1))
    for name in ("expressivity", "progressivity"):
        undefined(name, Around(one, Dead()), "constant")
    undefined("trainability", Around(one, Dead()), "zero")
    undefined("trainability", Around(one, Detached()), "zero")
    undefined("trainability", Around(one, nn.Upsample(scale_factor=2)), "enlarges")
    undefined("trainability", Around(one, nn.Identity()), "unchanged")
    assert math.isfinite(value("expressivity", Around(one, nn.Identity())))
    for name in ("expressivity", "progressivity", "trainability"):
        undefined(name, nn.Sequential(nn.Flatten(), nn.Linear(108, 3)), "no blocks")
    # A failing term leaves the others of the pass their scores.
    found = score(Around(one, nn.Identity()), *batches()[0], proxies=["trainability", "expressivity"])
    assert set(found) == {"expressivity"}


def test_az_nas_does_not_depend_on_the_images() -> None:
    names = ["expressivity", "progressivity", "trainability", "meco", "participation", "linear_regions", "vkdnw"]
    few = score(tiny_network(), *batches(n=3)[0], proxies=names)
    assert dict(few) == dict(score(tiny_network(), *batches(n=9)[0], proxies=names))
    assert len(few) == len(names)


# --- Fisher information ----------------------------------------------------------------------------------------------


def chain(classes: int = 3) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3, stride=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(5, 6, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, classes),
    )


@pytest.mark.parametrize("seed", [0, 4])
def test_fisher_information_and_vkdnw_equal_the_slow_version(seed: int) -> None:
    probe = Probe(chain(), batches(), seed=seed)
    net, images = probe.prepared(frozen), noise(probe, 0)[0]
    layers, arrays = [], {}
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            arrays[layer] = layer.weight.detach().double().numpy().copy()
        if isinstance(layer, nn.Conv2d):
            layers.append(("conv", arrays[layer], layer.stride[0], layer.padding[0]))
        elif isinstance(layer, nn.BatchNorm2d):
            layers.append(("norm", layer.running_mean.double().numpy(), layer.running_var.double().numpy()))
        elif isinstance(layer, nn.ReLU):
            layers.append(("relu",))
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            layers.append(("pool",))
        elif isinstance(layer, nn.Linear):
            layers.append(("linear", arrays[layer], np.zeros(len(arrays[layer]))))
    # The statistics are those of the images themselves.
    first = net[0](images).detach()
    assert torch.allclose(net[1].running_mean, first.mean((0, 2, 3)), atol=1e-6)
    sample = weights_of(net, torch.Generator().manual_seed(derive(seed, "frozen")))
    spots = [(arrays[layer], tuple(spot)) for layer, spot in sample]
    information = free.fisher(layers, images.double().numpy(), spots)
    assert len(information) == 4
    assert np.abs(information).max() > 1e-6
    np.testing.assert_allclose(probe[FISHER].numpy(), information, rtol=1e-3, atol=1e-6 * np.abs(information).max())
    assert PROXIES["vkdnw"].compute(probe) == pytest.approx(free.vkdnw(information), rel=1e-3)


def test_fisher_information_of_grouped_and_shifted_convolutions() -> None:
    # The derivative by a weight, against autograd image by image.
    torch.manual_seed(0)
    convs = [
        nn.Conv2d(3, 6, 3, padding=2, dilation=2),
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.Conv2d(6, 4, 5, stride=2, padding=2, groups=2, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, padding="same"),
    ]
    net = nn.Sequential(*convs, nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    probe = Probe(net, batches(size=9), seed=1)
    twin, images = probe.prepared(frozen), noise(probe, 0)[0]
    sample = weights_of(twin, torch.Generator().manual_seed(derive(1, "frozen")))
    twin = twin.double()
    for p in twin.parameters():
        p.requires_grad_(True)
    wanted = torch.zeros(5, 5, dtype=torch.float64)
    for image in images.double():
        logits = twin(image[None])[0]
        p = torch.softmax(logits.detach(), 0)
        rows = []
        for c in range(2):
            found = torch.autograd.grad(logits[c], [layer.weight for layer, _ in sample], retain_graph=True)
            rows.append([float(g[tuple(spot)]) for g, (_, spot) in zip(found, sample, strict=True)])
        j = torch.tensor(rows, dtype=torch.float64)
        wanted += j.T @ (torch.diag(p) - p[:, None] * p) @ j / len(images)
    fresh = Probe(net, batches(size=9), seed=1)
    torch.testing.assert_close(fresh[FISHER], wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))


def test_random_directions_leave_the_information_right_on_average() -> None:
    # 40 classes are more than the ten directions; the trace is a mean over seeds of an unbiased estimate.
    def trace(directions: int, seed: int) -> float:
        import archscout.information as information

        kept, information.DIRECTIONS = information.DIRECTIONS, directions
        try:
            return float(Probe(chain(40), batches(), seed=seed)[FISHER].trace())
        finally:
            information.DIRECTIONS = kept

    exact = np.array([trace(1000, seed) for seed in range(12)])
    estimated = np.array([trace(10, seed) for seed in range(12)])
    assert not np.allclose(exact, estimated, rtol=1e-3)
    assert np.mean(estimated / exact) == pytest.approx(1, abs=0.15)


def test_vkdnw_of_known_spectra(monkeypatch: pytest.MonkeyPatch) -> None:
    class Given(dict):
        pass

    def of(values: list[float]) -> float:
        return PROXIES["vkdnw"].compute({FISHER: torch.diag(torch.tensor(values, dtype=torch.float64))})

    assert of([2.0] * 20) == pytest.approx(math.log(9))
    # Eleven eigenvalues: the deciles are the inner nine.
    assert of([float(v) for v in range(11)]) == pytest.approx(free.entropy(range(1, 10)))
    with pytest.raises(NotDefined, match="saturated"):
        of([0.0] * 5)


def test_vkdnw_is_undefined() -> None:
    undefined("vkdnw", nn.Sequential(nn.Flatten(), nn.Linear(108, 3)), "two convolutions")


def test_layers_counts_convolutions_and_linear_layers() -> None:
    assert value("layers", chain()) == 4
    assert value("layers", residual()) == 1 + 4 + 1 + 1
    undefined("layers", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), "no convolution")


# --- activation patterns ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 12, 40])
def test_swap_equals_the_slow_version(n: int) -> None:
    data = batches(n=n)
    net = chain().train()
    outputs = outputs_of(net, data[0][0], nn.ReLU)
    assert value("swap", chain(), data) == free.swap([output[:32] for output in outputs])


def test_swap_of_known_patterns() -> None:
    # Units 0 and 2 switch alike, 1 never, 3 always.
    images = torch.tensor([[1.0, -1, 2, 1], [-1, -1, -3, 1], [2, -1, 5, 1]]).reshape(3, 1, 2, 2)
    net = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(4, 3))
    assert value("swap", net, [(images, torch.arange(3))]) == 3


def test_reg_swap_prefers_its_target() -> None:
    probe = Probe(chain(), batches())
    plain, size = PROXIES["swap"].compute(probe), probe.trace.params
    assert reg_swap(size, 1.0).compute(probe) == plain
    assert reg_swap(size + 10, 50.0).compute(probe) == pytest.approx(plain * math.exp(-2))
    assert reg_swap(size, 1.0).name == "reg_swap"


@pytest.mark.parametrize("seed", [0, 1])
def test_linear_regions_equals_the_slow_version(seed: int) -> None:
    probe = Probe(chain(), batches(), seed=seed)
    images = arc(probe, 0)[0]
    outputs = outputs_of(probe.prepared(frozen), images, nn.ReLU)
    assert PROXIES["linear_regions"].compute(probe) == pytest.approx(free.linear_regions(outputs))


def test_linear_regions_of_an_arc_are_known_for_the_images_themselves() -> None:
    # a cos + b sin changes its sign on the quarter circle where a and b differ in sign: half of all pixels.
    net = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    probe = Probe(net, batches(size=40))
    ends = arc(probe, 0)[0][[0, -1]]
    wanted = int((ends[0].sign() != ends[1].sign()).sum())
    assert abs(wanted / ends[0].numel() - 0.5) < 0.03
    assert PROXIES["linear_regions"].compute(probe) == pytest.approx(math.log(wanted))


def test_patterns_are_undefined() -> None:
    for name in ("swap", "linear_regions"):
        undefined(name, nn.Sequential(nn.Flatten(), nn.Linear(108, 3)), "no ReLU")
    for name in ("swap", "near"):
        undefined(name, chain(), "two images", batches(n=1))

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.head = nn.ReLU(), nn.Linear(108, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.relu(x + 100).flatten(1))

    undefined("linear_regions", Shifted(), "no unit switches")


# --- channels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["meco", "participation"])
@pytest.mark.parametrize("seed", [0, 1])
def test_channel_proxies_equal_the_slow_versions(name: str, seed: int) -> None:
    probe = Probe(residual(), batches(), seed=seed)
    outputs = outputs_of(probe.prepared(kaiming), noise_batch(probe, 0)[0], nn.Conv2d)
    assert len(outputs) == 6
    assert PROXIES[name].compute(probe) == pytest.approx(getattr(free, name)(outputs), rel=1e-4)


class Fixed(nn.Conv2d):
    """A convolution whose weight is not drawn anew: the weight is an attribute beside the drawn one."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__(weight.shape[1], weight.shape[0], 1, bias=False)
        self.kept = weight[:, :, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, self.kept)


def headed(*layers: nn.Module, channels: int) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))


def test_channels_of_known_correlation() -> None:
    # Of white noise x, y: channels x and (x + y)/sqrt(2) correlate by 1/sqrt(2); 2x - y and x + 2y do not.
    data = batches(size=60, channels=2)
    pair = headed(Fixed(torch.tensor([[1.0, 0], [0.5**0.5, 0.5**0.5]])), channels=2)
    assert value("meco", pair, data) == pytest.approx(1 - 0.5**0.5, abs=0.02)
    assert value("participation", pair, data) == pytest.approx(math.log(4 / (2 + 2 * 0.5)), abs=0.02)
    free_pair = headed(Fixed(torch.tensor([[2.0, -1], [1, 2]])), channels=2)
    assert value("meco", free_pair, data) == pytest.approx(1, abs=0.02)
    assert value("participation", free_pair, data) == pytest.approx(math.log(2), abs=0.02)
    # One direction three times, and a channel that is constant.
    copies = headed(Fixed(torch.tensor([[1.0, 1], [2, 2], [-1, -1]])), channels=3)
    assert value("meco", copies, data) == 0
    assert value("participation", copies, data) == pytest.approx(0, abs=1e-5)
    dead = headed(Fixed(torch.tensor([[1.0, 0], [0, 0]])), channels=2)
    assert value("meco", dead, data) == 0
    assert value("participation", dead, data) == pytest.approx(0, abs=1e-6)


def test_channels_are_undefined() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(108, 3))
    for name in ("meco", "participation"):
        undefined(name, linear, "no convolution")
    undefined("participation", headed(Fixed(torch.zeros(2, 3)), channels=2), "constant")
    assert value("meco", headed(Fixed(torch.zeros(2, 3)), channels=2)) == 0


def test_near_equals_the_slow_version_where_nothing_is_drawn() -> None:
    # Four images of one pixel: fewer places than channels, so that the whole matrices are read.
    net = headed(nn.Conv2d(3, 7, 1), nn.ReLU(), nn.Conv2d(7, 5, 1), nn.GELU(), channels=5)
    net[-1] = nn.Linear(5, 6)
    data = batches(n=4, size=1)
    maps = outputs_of(net, data[0][0], nn.Conv2d, nn.ReLU, nn.GELU, nn.Linear)
    assert len(maps) == 5
    wanted = sum(free.effective_rank(output.reshape(4, -1)) for output in maps)
    assert value("near", net, data) == pytest.approx(wanted, rel=1e-5)


def test_near_of_known_ranks() -> None:
    # Channels that are multiples of one: rank 1. A wide linear layer of two different images: at most 2.
    line = headed(Fixed(torch.tensor([[1.0, 1], [2, 2], [-1, -1]])), channels=3)
    found = value("near", line, batches(n=2, channels=2))
    assert 2 <= found <= 1 + 2 + 1e-6
    # A square part of white noise: well below full rank, and the same from seed to seed within its noise.
    noise_net = headed(Fixed(torch.eye(64)), channels=64)
    data = batches(n=8, size=8, channels=64)
    reference = np.mean([free.effective_rank(np.random.default_rng(i).normal(size=(64, 64))) for i in range(20)])
    head = value("near", headed(nn.Identity(), channels=64), data)
    assert value("near", noise_net, data) - head == pytest.approx(reference, rel=0.05)


def test_near_reads_at_most_256_channels() -> None:
    net = headed(Fixed(torch.randn(300, 3, generator=torch.Generator().manual_seed(0))), nn.ReLU(), channels=300)
    assert math.isfinite(value("near", net, batches(n=16)))


def test_near_without_activations_is_undefined() -> None:
    net = headed(Fixed(torch.zeros(2, 3)), channels=2)
    with torch.no_grad():
        net[-1].bias.zero_()
    undefined("near", net, "not zero")
