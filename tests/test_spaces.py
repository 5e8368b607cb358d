"""The spaces mobilenet and plain, and what every space promises."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import archscout.spaces
from archscout.costs import measure
from archscout.errors import UserError
from archscout.space import SearchSpace
from archscout.spaces import SPACES
from archscout.spaces.mobilenet import Block, plan_strides, space_of

SHAPES = [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 7, 9), (3, 132, 130)]
SMALL = {"darts": lambda shape, classes: archscout.spaces.darts(shape, classes, channels=8, layers=3)}
CUT = {
    "resolution": (100, 50),
    "stem": (8,), "halving": ("late", "early", "pool"),
    "kind1": ("depthwise", "fused"), "kernel1": (3,), "expand1": (1, 2), "width1": (8,), "depth1": (1, 2),
    "kind2": ("depthwise", "fused"), "kernel2": (3,), "expand2": (1,), "width2": (8, 16), "depth2": (0, 1),
    "kind3": ("fused",), "kernel3": (3, 5), "expand3": (1,), "width3": (8,), "depth3": (0, 1),
}  # fmt: skip


def cut_space() -> SearchSpace:
    return space_of((1, 16, 16), 3, CUT, [1, 1, 2, 1])


def same_text(model: nn.Module) -> str:
    """All layers with their sizes and the size the image is resized to."""
    return f"{getattr(model, 'size', None)} {model}"


def test_folder_and_registry_agree() -> None:
    files = {path.stem for path in Path(archscout.spaces.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == set(SPACES)
    for name, make in SPACES.items():
        assert make.__name__ == make((3, 32, 32), 10).name == name


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SPACES)
def test_every_space_keeps_its_promises(name: str, shape: tuple[int, int, int]) -> None:
    space, rng = SMALL.get(name, SPACES[name])(shape, 5), np.random.default_rng(1)
    assert space.distinct is not None
    assert space.distinct <= space.size
    for _ in range(2):
        arch = space.sample(rng)
        assert space.canonical(arch) == arch
        assert space.parse(space.format(arch)) == arch
        assert not set(space.format(arch)) & set(" ,\"'")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            first = space.build(arch).eval()
            torch.manual_seed(0)
            second = space.build(arch).eval()
        with torch.inference_mode():
            x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
            assert first(x).shape == (1, 5)
            assert torch.equal(first(x), second(x))
        called: list[int] = []
        for module in first.modules():
            if isinstance(module, nn.ReLU):
                module.register_forward_hook(lambda module, *_, called=called: called.append(id(module)))
        with torch.inference_mode():
            first(x)
        assert len(called) == len(set(called)) == sum(isinstance(m, nn.ReLU) for m in first.modules())
        assert space.describe is not None
        assert space.describe(arch)["kind"] in ("cell", "cells", "stages")


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(SHAPES), st.sampled_from(["mobilenet", "plain"]))
def test_texts_of_raw_architectures_round_trip(data: Any, shape: tuple[int, int, int], name: str) -> None:
    space = SPACES[name](shape, 2)
    arch = tuple(data.draw(st.integers(0, len(options) - 1)) for options in space.choices.values())
    assert space.parse(space.format(arch)) == arch
    assert space.canonical(space.canonical(arch)) == space.canonical(arch)


@pytest.mark.parametrize(
    "wrong",
    ["", "r100", "r100-s8", "r90-s8-f3e1w8x1", "r100-s8-f3e1w8", "r100-s8-f4e1w8x1", "r100-s8-f3e1w8x0",
     "s8-r100-f3e1w8x1",
     "r100-s8-g3e1w8x1", "r100-s8-f3e1w8x1-", "r100-s8" + 9 * "-f3e1w8x1", "r100-s8-f3e1w8x1 ", "r100-s8-f3e1w99999x1",
     "r100-s8-pool", "r100-s8-pool-pool-f3e1w8x1", "r100-pool-s8-f3e1w8x1", "r100-s8-stride-f3e1w8x1"],
)  # fmt: skip
def test_malformed_mobilenet_texts(wrong: str) -> None:
    space = SPACES["mobilenet"]((3, 32, 32), 2)
    assert space.parse_of is not None
    with pytest.raises(UserError, match="wanted"):
        space.parse_of(wrong)


def test_a_wrong_halving_is_told_what_there_is() -> None:
    with pytest.raises(UserError, match="early or pool"):
        SPACES["mobilenet"]((3, 32, 32), 2).parse("r100-s8-stride-f3e1w8x1")
    with pytest.raises(UserError, match="late"):
        SPACES["mobilenet"]((3, 64, 64), 2).parse("r100-s8-pool-f3e1w8x1")


@pytest.mark.parametrize("wrong", ["", "resnet20", "resnet21-w16", "resnet20-w17", "resnet20-w16-", "20-16"])
def test_malformed_plain_texts(wrong: str) -> None:
    with pytest.raises(UserError, match="like resnet20-w16"):
        SPACES["plain"]((3, 32, 32), 2).parse(wrong)


def test_distinct_mobilenets_by_brute_force() -> None:
    space = cut_space()
    chosen = {space.canonical(arch) for arch in space}
    assert len(chosen) == space.distinct < space.size
    with torch.device("meta"):
        networks = {same_text(space.build(arch)) for arch in chosen}
        assert len(networks) == space.distinct
        for arch in list(space)[::37]:
            assert same_text(space.build(arch)) == same_text(space.build(space.canonical(arch)))


def test_an_ended_network_has_no_later_stages() -> None:
    space = SPACES["mobilenet"]((3, 32, 32), 10)
    ended = space.encode(space.decode(space.parse("r100-s8-d3e1w8x1")) | {"width2": 48, "depth3": 2})
    assert space.format(ended) == "r100-s8-d3e1w8x1-d3e1w48x0-d3e1w32x2"
    assert space.format(space.canonical(ended)) == "r100-s8-d3e1w8x1"
    assert len(space.describe(ended)["stages"]) == 2  # stem and one stage
    assert len(space.build(ended).body) == 1


@pytest.mark.parametrize(
    ("side", "strides"),
    [(4, [1, 1, 1, 1]), (8, [1, 1, 2, 1]), (28, [1, 1, 2, 2]), (32, [1, 1, 2, 2, 2]), (64, [1, 2, 2, 2, 2]),
     (96, [2, 2, 2, 2]), (224, [2, 2, 2, 2, 2]), (256, [2, 2, 2, 2, 2, 2]), (512, [2, 2, 2, 2, 2, 2])],
)  # fmt: skip
def test_strides_follow_the_image(side: int, strides: list[int]) -> None:
    assert plan_strides((3, side, side)) == strides


@pytest.mark.parametrize(
    ("side", "sides"),
    [(8, {"late": [8, 4, 4], "early": [4, 4, 4], "pool": [4, 4, 4]}), (7, {"late": [7, 7, 7]}),
     (28, {"late": [28, 14, 7], "early": [14, 7, 7], "pool": [14, 7, 7]}),
     (31, {"late": [31, 16, 8, 4], "early": [16, 8, 4, 4], "pool": [16, 8, 4, 4]}),
     (65, {"late": [17, 9, 5]})],
)  # fmt: skip
def test_where_maps_shrink(side: int, sides: dict[str, list[int]]) -> None:
    space = SPACES["mobilenet"]((3, side, side), 10)
    assert space.choices["halving"] == tuple(sides)
    for halving, wanted in sides.items():
        picks = space.decode((0,) * len(space.choices)) | {f"depth{n}": 2 for n in range(1, len(wanted) + 1)}
        model: Any = space.build(space.encode(picks | {"halving": halving})).eval()
        x, found = model.stem(torch.zeros(1, 3, side, side)), []
        for stage in model.body:
            x = stage(x)
            found.append(x.shape[2])
        assert found == wanted
        pools = [module for module in model.modules() if isinstance(module, nn.MaxPool2d)]
        assert len(pools) == (
            len(set(wanted) - {model.stem(torch.zeros(1, 3, side, side)).shape[2]}) if halving == "pool" else 0
        )


@pytest.mark.parametrize(
    ("kind", "expand", "place"), [("fused", 1, 0), ("fused", 2, 0), ("depthwise", 1, 0), ("depthwise", 4, 3)]
)
def test_a_pool_stands_behind_the_convolution_that_would_halve(kind: str, expand: int, place: int) -> None:
    block = Block(8, 8, kind, 3, expand, 2, "pool").eval()
    strided = Block(8, 8, kind, 3, expand, 2)
    assert [tuple(p.shape) for p in block.parameters()] == [tuple(p.shape) for p in strided.parameters()]
    convolution, pool = block.layers[place], block.layers[place + 1]
    assert (convolution.stride, strided.layers[place].stride) == ((1, 1), (2, 2))
    x = torch.randn(1, convolution.in_channels, 5, 5, generator=torch.Generator().manual_seed(0))
    whole = F.pad(convolution(x), (0, 1, 0, 1), value=-torch.inf)  # an odd side is halved up, as by a stride
    by_hand = torch.stack([whole[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(0)
    torch.testing.assert_close(pool(convolution(x)), by_hand)
    assert block(torch.zeros(1, 8, 5, 5)).shape == (1, 8, 3, 3)


def test_mobilenet_holds_small_and_large_networks() -> None:
    space = SPACES["mobilenet"]((3, 32, 32), 10)
    small = measure(space.build((2, 0) + (0,) * 21), (3, 32, 32))
    assert small["params"] < 600
    large = measure(space.build(tuple(len(o) - 1 for o in space.choices.values())), (3, 32, 32))
    assert large["params"] > 1e7
    assert space.describe((2, 0) + (0,) * 21)["stages"][0]["text"] == "image resized to 16 x 16; 3x3 convolution"


@pytest.mark.parametrize("side", [8, 28, 32, 64, 224])
def test_typical_mobilenets_are_of_every_size(side: int) -> None:
    space = SPACES["mobilenet"]((3, side, side), 10)
    assert len(set(space.typical)) == len(space.typical) >= 40
    sizes = sorted(sum(p.numel() for p in built(space, arch).parameters()) for arch in space.typical)
    assert sizes[-1] / sizes[0] > 50
    assert max(b / a for a, b in pairwise(sizes)) < 3
    texts = set(map(space.format, space.typical))
    if side == 32:  # a plain residual network and one of inverted residuals, as known ones are
        assert {"r100-s16-f3e1w16x1-f3e1w32x2-f3e1w64x2", "r100-s32-d3e4w32x1-d3e4w64x3-d3e4w128x3"} <= texts
        assert "r100-s16-pool-f3e1w32x2-f3e1w64x2-f3e1w128x2" in texts


def built(space: SearchSpace, arch: tuple[int, ...]) -> nn.Module:
    with torch.device("meta"):
        return space.build(arch)


def test_blocks_by_hand() -> None:
    def params(kind: str, kernel: int, expand: int) -> int:
        return sum(p.numel() for p in Block(8, 16, kind, kernel, expand, 1).parameters())

    assert params("depthwise", 3, 1) == (8 * 9 + 16) + (8 * 16 + 32)
    assert params("depthwise", 5, 4) == (8 * 32 + 64) + (32 * 25 + 64) + (32 * 16 + 32)
    assert params("fused", 3, 1) == 8 * 16 * 9 + 32
    assert params("fused", 5, 2) == (8 * 16 * 25 + 32) + (16 * 16 + 32)
    block = Block(8, 8, "depthwise", 3, 2, 1).eval()
    x = torch.randn(1, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(block(x) - x, block.layers(x))
    assert not Block(8, 8, "fused", 3, 1, 2).residual


def test_resnet20_has_the_known_size() -> None:
    space = SPACES["plain"]((3, 32, 32), 10)
    costs = measure(space.build(space.parse("resnet20-w16")), (3, 32, 32))
    projections = (16 * 32 + 64) + (32 * 64 + 128)
    assert costs["params"] - projections == 269_722  # the published network pads its shortcuts with zeros
    assert costs["macs"] == 40_551_040 + 16 * 16 * 16 * 32 + 8 * 8 * 32 * 64


def test_published_resnet20_weights_give_its_function(real_data) -> None:
    """The network with published weights equals a plain re-implementation whose shortcuts pad with zeros."""
    loaded = torch.load(real_data / "models" / "resnet20-12fca82f.th", map_location="cpu", weights_only=True)
    weights = {key.removeprefix("module."): tensor for key, tensor in loaded["state_dict"].items()}
    space = SPACES["plain"]((3, 32, 32), 10)
    model = space.build(space.parse("resnet20-w16"))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all("shortcut" in key for key in missing)
    with torch.no_grad():
        for layer in (model.layer2, model.layer3):
            conv, norm = layer[0].shortcut
            half = conv.in_channels // 2
            conv.weight.zero_()[half : half + conv.in_channels, :, 0, 0] = torch.eye(conv.in_channels)
            norm.running_var.fill_(1 - norm.eps)

    def normed(x: torch.Tensor, key: str) -> torch.Tensor:
        fields = (weights[f"{key}.{field}"] for field in ("running_mean", "running_var", "weight", "bias"))
        return nn.functional.batch_norm(x, *fields)

    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    y = normed(nn.functional.conv2d(x, weights["conv1.weight"], padding=1), "bn1").relu()
    for layer in (1, 2, 3):
        for block in range(3):
            key = f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            inner = normed(
                nn.functional.conv2d(y, weights[f"{key}.conv1.weight"], None, stride, 1), f"{key}.bn1"
            ).relu()
            inner = normed(nn.functional.conv2d(inner, weights[f"{key}.conv2.weight"], padding=1), f"{key}.bn2")
            pad = (inner.shape[1] - y.shape[1]) // 2
            y = (inner + nn.functional.pad(y[:, :, ::stride, ::stride], (0, 0, 0, 0, pad, pad))).relu()
    wanted = nn.functional.linear(y.mean((2, 3)), weights["linear.weight"], weights["linear.bias"])
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(x), wanted, rtol=1e-3, atol=1e-3)
