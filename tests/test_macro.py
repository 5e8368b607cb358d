"""The space macro against counts by hand and against the published table."""

from __future__ import annotations

import random
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import nn

from archscout.blocks import blocks_of
from archscout.costs import measure
from archscout.errors import UserError
from archscout.spaces.macro import canonical, macro, parse_text

SPACE = macro((3, 32, 32), 10)
ARCHS = list(SPACE)
CHANGES = [(32, 64), (64, 64), (64, 128), (128, 128), (128, 128), (128, 256), (256, 256), (256, 256)]
OUTPUTS = [16, 16, 8, 8, 8, 4, 4, 4]  # side of the map behind each layer
INPUTS = [32, 16, 16, 8, 8, 8, 4, 4]


def count(arch: tuple[int, ...]) -> tuple[int, int]:
    """Parameters and multiply-adds, from the sentence that describes the network."""
    params, macs = 3 * 9 * 32 + 64, 3 * 9 * 32 * 32 * 32
    for option, (a, b), before, after in zip(arch, CHANGES, INPUTS, OUTPUTS, strict=True):
        if option == 0 and a != b:
            params, macs = params + a * b + 2 * b, macs + a * b * after**2
        elif option:
            kernel, hidden = (3, 3 * a) if option == 1 else (5, 6 * a)
            params += a * hidden + 2 * hidden + kernel**2 * hidden + 2 * hidden + hidden * b + 2 * b
            macs += a * hidden * before**2 + (kernel**2 * hidden + hidden * b) * after**2
    return params + 256 * 1280 + 2 * 1280 + 1280 * 10 + 10, macs + 256 * 1280 * 4 * 4 + 1280 * 10


def test_networks_have_the_sizes_counted_by_hand() -> None:
    for arch in [(0,) * 8, (2,) * 8, *random.Random(0).sample(ARCHS, 12)]:
        found = measure(SPACE.build(arch), (3, 32, 32), ["params", "macs"])
        assert (found["params"], found["macs"]) == count(arch), arch


def test_sizes_are_the_published_ones(real_data) -> None:
    """All 6,561 rows by the count above, which the networks themselves are held to."""
    table = pytest.importorskip("pandas").read_parquet(real_data / "nas" / "nas_bench_macro_cifar10.parquet")
    assert len(table) == len(ARCHS) == 6_561
    for text, params, flops in zip(table.arch, table.params, table.flops, strict=True):
        assert count(SPACE.parse(text)) == (params, flops), text


def test_published_accuracies_of_twins_are_equal(real_data) -> None:
    table = pytest.importorskip("pandas").read_parquet(real_data / "nas" / "nas_bench_macro_cifar10.parquet")
    groups = defaultdict(set)
    for text, accuracies in zip(table.arch, table[[f"acc_seed{i}" for i in range(3)]].to_numpy(), strict=True):
        groups[canonical(SPACE.parse(text))].add(tuple(accuracies))
    assert all(len(group) == 1 for group in groups.values())
    assert len({next(iter(group)) for group in groups.values()}) == len(groups)  # and nobody else's are


def test_canonical_forms() -> None:
    assert canonical((0, 0, 0, 0, 1, 0, 0, 2)) == (0, 0, 0, 1, 0, 0, 2, 0)
    assert canonical((0, 1, 0, 1, 2, 2, 0, 0)) == (0, 1, 0, 1, 2, 2, 0, 0)  # other widths, other order: other networks
    assert canonical((0, 1, 0, 2, 1, 2, 0, 0)) != canonical((0, 1, 0, 1, 2, 2, 0, 0))
    chosen = {canonical(arch) for arch in ARCHS}
    assert len(chosen) == SPACE.distinct == 3_969
    assert all(canonical(arch) == arch for arch in chosen)
    with torch.device("meta"):
        some = [random.Random(2).choice(ARCHS) for _ in range(60)]
        layers = {arch: str(SPACE.build(arch)) for arch in some}
    for one in some:
        assert all((layers[one] == layers[two]) == (canonical(one) == canonical(two)) for two in some)


def test_twins_compute_the_same() -> None:
    """Twins that are built from one random state have the same output; a network of other blocks has not."""
    outputs = []
    for text in ("10101021", "10110021", "10110210"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = SPACE.build(SPACE.parse(text)).eval()
        with torch.inference_mode():
            outputs.append(model(torch.ones(2, 3, 32, 32)))
    assert torch.equal(outputs[0], outputs[1])  # 0-1 and 1-0 in the second stage
    assert not torch.allclose(outputs[0], outputs[2])


def test_a_network_computes_what_its_description_says() -> None:
    """Against the same weights applied by hand, in the order of the published encoding, no-ops included."""
    arch = (0, 1, 2, 0, 1, 0, 2, 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = SPACE.build(arch).double().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean):
                    tensor.data.normal_()
        x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    weights = iter(
        [(m.weight, n) for m, n in zip(
            [m for m in model.modules() if isinstance(m, nn.Conv2d)],
            [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)], strict=True)]
    )  # fmt: skip

    def step(y: torch.Tensor, stride: int, groups: int, relu: bool) -> torch.Tensor:
        weight, n = next(weights)
        y = nn.functional.conv2d(y, weight, None, stride, weight.shape[-1] // 2, 1, groups)
        scale = (n.weight / torch.sqrt(n.running_var + n.eps)).view(1, -1, 1, 1)
        y = (y - n.running_mean.view(1, -1, 1, 1)) * scale + n.bias.view(1, -1, 1, 1)
        return y.clamp(min=0) if relu else y

    with torch.inference_mode():
        y = step(x, 1, 1, True)
        for option, (a, b) in zip(arch, CHANGES, strict=True):
            stride = 1 if a == b else 2
            if option:
                hidden = a * 3 * option
                inner = step(step(y, 1, 1, True), stride, hidden, True)
                inner = step(inner, 1, 1, False)
                y = y + inner if a == b else inner
            elif a != b:
                y = step(y, stride, 1, False)
        y = step(y, 1, 1, True).mean((2, 3))
        wanted = y @ model.classifier.weight.T + model.classifier.bias
        torch.testing.assert_close(model(x), wanted)
    assert next(weights, None) is None


def test_texts() -> None:
    assert all(parse_text(SPACE.format(arch)) == arch for arch in ARCHS)
    assert SPACE.format((0, 1, 2, 1, 0, 2, 0, 1)) == "01210201"
    for wrong in ("", "0121020", "012102011", "01210203", "0-1-2-1-0-2-0-1", " 01210201 x", "\uff101210201"):
        with pytest.raises(UserError, match="like 01210201"):
            SPACE.parse(wrong)


def test_description_holds_what_is_built() -> None:
    for arch in ((0,) * 8, (0, 1, 2, 0, 1, 0, 2, 0)):
        stages = SPACE.describe(arch)["stages"]
        assert len(stages) == 2 + len(blocks_of(SPACE.build(arch)))
        assert [s["width"] for s in stages if s["stride"] == 2] == [64, 128, 256]


def test_sampling_covers_the_space() -> None:
    rng = np.random.default_rng(0)
    drawn = {SPACE.sample(rng) for _ in range(3_000)}
    assert len(drawn) > 1_500
    assert {option for arch in drawn for option in arch} == {0, 1, 2}
