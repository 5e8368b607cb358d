"""The space of shapes, its supernet, and the search for a shape under a target."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from test_darts import PLACE, Images, cut_off
from torch import nn

from archscout.costs import COSTS
from archscout.costs.trace import trace
from archscout.differentiable.choice import one_hot, relax, softmax
from archscout.differentiable.tas import full_macs, into_band, nearness, outside, tas, two_of
from archscout.errors import UserError
from archscout.selection import SELECTORS
from archscout.spaces.plain import plain
from archscout.spaces.resnet_shape import SHARES, Block, macs_of, resnet_shape
from archscout.supernets.resnet_shape import MixedConv, neighbours

SHAPE = (3, 8, 8)
SPACE = resnet_shape(SHAPE, 5, depth=2, width=8)


def test_text_canonical_form_and_building() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        arch = SPACE.sample(rng)
        assert SPACE.parse(SPACE.format(arch)) == arch
        assert SPACE.canonical(SPACE.canonical(arch)) == SPACE.canonical(arch)
        assert SPACE.build(arch)(torch.zeros(2, *SHAPE)).shape == (2, 5)
    for text in ("d1-1-1-w0", "d3-1-1-w0000000000000", "resnet", "d0-1-1-w0000000000000"):
        with pytest.raises(UserError, match="resnet_shape"):
            SPACE.parse(text)
    with pytest.raises(UserError):
        resnet_shape(SHAPE, 5, depth=0)


def test_blocks_that_are_not_there_decide_nothing() -> None:
    arch = [0, 1, 0] + [7] * 13
    other = list(arch)
    other[3 + 3] = 2  # 1.2.a, of a block that a depth of one does not have
    assert SPACE.canonical(tuple(arch)) == SPACE.canonical(tuple(other))


def test_the_largest_is_resnet20() -> None:
    space = resnet_shape((3, 32, 32), 10)
    full = space.build((2, 2, 2, *[7] * 19))
    beside = plain((3, 32, 32), 10)
    # without the two projections of `plain`: 16 x 32 + 64 and 32 x 64 + 128 parameters
    wanted = sum(p.numel() for p in beside.build(beside.parse("resnet20-w16")).parameters()) - 2752
    assert sum(p.numel() for p in full.parameters()) == wanted == 269_722


def test_of_a_sum_of_unequal_widths_the_wider_one_stays() -> None:
    """Written out: a narrower block leaves the last channels as they came, a wider one adds some."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 6)
    for inputs, outputs in ((4, 3), (4, 6)):
        block = Block(inputs, 2, outputs, 1).eval()
        y = block.norm_b(block.b(torch.relu(block.norm_a(block.a(x)))))
        found = block(x)
        both = min(inputs, outputs)
        assert found.shape[1] == max(inputs, outputs)
        assert torch.equal(found[:, :both], torch.relu(x[:, :both] + y[:, :both]))
        assert torch.equal(found[:, both:], torch.relu((x if inputs > outputs else y)[:, both:]))
    wide = SPACE.parse("d2-1-1-w7700000000000")
    assert SPACE.describe(wide)["stages"][0]["width"] == 8
    assert next(iter(SPACE.build(wide).blocks[1].parameters())).shape[1] == 8  # the stem's channels are still there


def test_multiply_adds_three_ways() -> None:
    """By hand from the shapes, by the tracer on the built network, and by the supernet with a one-hot choice."""
    rng = np.random.default_rng(1)
    torch.manual_seed(0)
    supernet = SPACE.relax_of["tas"]()
    for _ in range(10):
        arch = SPACE.sample(rng)
        picks = SPACE.decode(arch)
        by_hand = macs_of(picks, SHAPE, 5, 8)
        assert COSTS["macs"].compute(trace(SPACE.build(arch), SHAPE), None) == by_hand
        assert float(supernet.expected_macs(one_hot(arch, 8))) == pytest.approx(by_hand)
    assert full_macs(supernet) == macs_of(SPACE.decode((1, 1, 1, *[7] * 13)), SHAPE, 5, 8)


def test_channelwise_interpolation_is_a_mean_of_neighbours() -> None:
    x = torch.randn(2, 5, 3, 4)
    for channels in (5, 8, 3, 1):
        found = torch.einsum("oc,nchw->nohw", neighbours(5, channels), x)
        for c in range(channels):
            low, high = int(np.floor(c * 5 / channels)), int(np.ceil((c + 1) * 5 / channels))
            assert torch.allclose(found[:, c], x[:, low:high].mean(1), atol=1e-6)


def test_two_of_draws_two_that_sum_to_one() -> None:
    logits = torch.tensor([[0.0, 2.0, -1.0], [0.0, -torch.inf, -torch.inf]]).expand(500, 2, 3)
    found = two_of(logits, 1.0, torch.Generator().manual_seed(0))
    assert torch.allclose(found.sum(-1), torch.ones(500, 2))
    assert ((found[:, 0] > 0).sum(-1) == 2).all()
    assert (found[:, 1, 0] == 1).all()
    assert (found[:, 0, 1] > 0).float().mean() > 0.9


def test_the_band_is_reached_from_both_sides() -> None:
    torch.manual_seed(0)
    supernet = SPACE.relax_of["tas"]()
    whole = full_macs(supernet)
    for start in (7, 0):
        logits = torch.full_like(supernet.alphas, 0.0)
        logits[3:, start] = 1.0
        logits[:3, 1 if start else 0] = 1.0
        choice = softmax(logits + supernet.barred)
        arch = into_band(supernet, choice.clamp(min=1e-12).log(), 0.38 * whole, 0.42 * whole)
        assert 0.38 * whole <= macs_of(SPACE.decode(arch), SHAPE, 5, 8) <= 0.42 * whole


def test_the_penalty_pulls_towards_the_band_from_both_sides() -> None:
    """The logarithm of the share of the target above it, minus that below, nothing inside; and its slopes."""
    for share, value, slope in ((1.5, np.log(1.5), 1 / 1.5), (0.8, -np.log(0.8), -1 / 0.8), (1.04, 0, 0), (0.96, 0, 0)):
        x = torch.tensor(share, requires_grad=True)
        found = outside(x, 0.05)
        found.backward()
        assert found.item() == pytest.approx(value)
        assert x.grad.item() == pytest.approx(slope)


def test_the_expected_cost_of_a_search_follows_its_target() -> None:
    """What is derived is brought into the band in any case; so this looks at the alphas."""
    shares = {}
    for target, strength in ((0.25, 20.0), (0.8, 20.0), (0.25, 0.0)):
        found = tas(
            SPACE, Images(64, 0, side=8), Images(64, 1, side=8), target=target, strength=strength, epochs=6,
            batch_size=16, arch_lr=0.1, **PLACE,
        )  # fmt: skip
        cost = found.supernet.expected_macs(softmax(found.supernet.logits())).detach()
        shares[target, strength] = float(cost) / full_macs(found.supernet)
    assert shares[0.25, 20.0] == pytest.approx(0.25, rel=0.15)
    assert shares[0.8, 20.0] == pytest.approx(0.8, rel=0.15)
    assert shares[0.25, 0.0] > 0.3


def test_where_no_step_leads_into_the_band_it_ends_below(caplog: pytest.LogCaptureFixture) -> None:
    """A band between two neighbours, one below the smallest network, and one above the largest."""
    torch.manual_seed(0)
    supernet = SPACE.relax_of["tas"]()
    whole = full_macs(supernet)
    shallow = softmax(torch.zeros_like(supernet.alphas) + supernet.barred + torch.eye(8)[7] * 2)
    deep = softmax(torch.log(shallow) + torch.tensor([0.0, 5, 0, 0, 0, 0, 0, 0]) * (torch.arange(16) < 3)[:, None])
    for choice, low, high in ((deep, 0.4002, 0.4004), (deep, 0.6001, 0.6002), (shallow, 0.6001, 0.6002)):
        arch = into_band(supernet, choice, low * whole, high * whole)
        share = macs_of(SPACE.decode(arch), SHAPE, 5, 8) / whole
        assert 0.9 * low < share <= high
    assert "no step leads between" in caplog.text
    with pytest.raises(UserError, match=r"smallest network that tas can reach has .* raise the target"):
        into_band(supernet, choice, 1e-4 * whole, 2e-4 * whole)


def test_where_rising_past_the_band_leads_nowhere_it_goes_back() -> None:
    """A deep choice costs 100 and a shallow one 10, a wide one 2 and a narrow one 1: nothing is between 50 and 60."""

    class Coarse:
        def logits(self) -> torch.Tensor:
            return torch.zeros(2, 2)

        def expected_macs(self, choice: torch.Tensor) -> torch.Tensor:
            return (choice * torch.tensor([[10.0, 100.0], [1.0, 2.0]])).sum()

        def derive(self, choice: torch.Tensor) -> tuple[int, ...]:
            return tuple(choice.argmax(1).tolist())

    for chances in ([[0.9, 0.1], [0.1, 0.9]], [[0.1, 0.9], [0.1, 0.9]]):
        assert into_band(Coarse(), torch.tensor(chances), 50.0, 60.0)[0] == 0
    assert into_band(Coarse(), torch.tensor([[0.9, 0.1], [0.1, 0.9]]), 50.0, 60.0) == (0, 1)


def test_what_is_derived_is_the_option_nearest_to_the_mean_or_that_of_the_largest_weight() -> None:
    """Two peaks far apart: the larger one is at the end, the mean is between them."""
    logits = torch.tensor([[0.0, 0.0, 1.0, -torch.inf], [3.0, -9.0, -9.0, 3.2]])
    shares = logits.exp() / logits.exp().sum(1, keepdim=True)
    mean = [float(sum(place * share for place, share in enumerate(row))) for row in shares]
    found = nearness(logits)
    assert torch.isinf(found[0, 3])
    for row, options in ((0, 3), (1, 4)):
        assert found[row, :options].tolist() == pytest.approx([-((place - mean[row]) ** 2) for place in range(options)])
    assert found.argmax(1).tolist() == [1, 2]
    options = {"target": None, "epochs": 1, "batch_size": 16, "arch_lr": 0.5, **PLACE}
    one, other = (
        tas(SPACE, Images(64, 0, side=8), Images(64, 1, side=8), decide=decide, **options)
        for decide in ("expected", "largest")
    )
    means = (other.choice * torch.arange(8.0)).sum(1)  # both trained the same supernet
    torch.testing.assert_close(one.choice.argmax(1), means.round().long())
    assert one.arch == SPACE.canonical(tuple(means.round().int().tolist()))
    assert other.arch == SPACE.canonical(tuple(other.choice.argmax(1).tolist())) != one.arch
    for found in (one, other):  # on the way, too
        assert tuple(found.story.history[-1]["arch"]) == found.arch
    with pytest.raises(UserError, match="expected or largest, got most"):
        tas(SPACE, Images(8, 0), Images(8, 1), decide="most", **options)


def test_a_search_ends_near_its_target() -> None:
    found = tas(SPACE, Images(64, 0, side=8), Images(64, 1, side=8), target=0.5, epochs=2, batch_size=16, **PLACE)
    share = macs_of(SPACE.decode(found.arch), SHAPE, 5, 8) / full_macs(found.supernet)
    assert 0.475 <= share <= 0.525
    assert found.arch == SPACE.canonical(found.arch)
    with pytest.raises(UserError, match="target"):
        tas(SPACE, Images(8, 0), Images(8, 1), target=1.5, **PLACE)
    with pytest.raises(UserError, match="temperature"):
        tas(SPACE, Images(8, 0), Images(8, 1), target=0.5, temperature=(0.1, 5.0), **PLACE)


@pytest.mark.parametrize("order", [2, "difference"])
def test_of_second_order_too_although_some_widths_are_not_drawn(order) -> None:
    options = {"target": 0.5, "epochs": 1, "batch_size": 16, "order": order, "arch_lr": 0.05, **PLACE}
    found = tas(SPACE, Images(64, 0, side=8), Images(64, 1, side=8), **options)
    moved = (found.supernet.alphas - relax(SPACE, "tas").alphas).detach().abs()
    assert torch.isfinite(found.supernet.alphas).all()
    assert float(moved.max()) > 0.01


def test_it_resumes_bit_exactly_and_is_audited_by_what_it_derives(tmp_path: Path) -> None:
    one, other = Images(64, 0, side=8), Images(64, 1, side=8)
    options = {"target": 0.5, "epochs": 2, "batch_size": 16, "flip": True, "audit_every": 0.5, **PLACE}

    def go(**more):
        return tas(SPACE, one, other, selector=SELECTORS["dds"](one, seed=0, share=0.5), **options, **more)

    path = tmp_path / "search.pt"
    whole, rest = go(), cut_off(go, path)
    assert rest.story.alphas == whole.story.alphas
    assert rest.arch == whole.arch
    assert rest.story.audits == whole.story.audits
    assert len(whole.story.audits) >= 2
    with pytest.raises(UserError, match="another training"):
        tas(SPACE, one, other, selector=SELECTORS["dds"](one, seed=0, share=0.25), checkpoint=path, **options)


def interpolated(x, channels):
    n, c, h, w = x.shape
    pooled = nn.functional.adaptive_avg_pool1d(x.permute(0, 2, 3, 1).reshape(-1, 1, c), channels)
    return pooled.view(n, h, w, channels).permute(0, 3, 1, 2)


def test_depths_are_interpolated_as_widths_are() -> None:
    """Two depths of a stage whose blocks end with different widths, against the sum written out; and one depth."""
    torch.manual_seed(0)
    supernet = SPACE.relax_of["tas"]().eval()
    images = torch.randn(4, *SHAPE)
    choice = one_hot((0, 0, 0, *[5] * 13), 8)
    place = {name: 3 + row for row, name in enumerate(supernet.names)}
    for name, option in (("1.1.b", 2), ("1.2.b", 6)):
        choice[place[name]] = one_hot([option], 8)[0]
    ends = {}
    heard: list[torch.Tensor] = []
    supernet.layers["2_1_a"].register_forward_pre_hook(lambda module, given: heard.append(given[0]))
    for name, weights in (("1.1", (1.0, 0.0)), ("1.2", (0.0, 1.0)), ("both", (0.3, 0.7))):
        choice[0, :2] = torch.tensor(weights)
        supernet(images, choice)
        ends[name] = heard[-1]
    assert ends["1.1"].shape[1] < ends["1.2"].shape[1]
    wanted = 0.3 * interpolated(ends["1.1"], ends["1.2"].shape[1]) + 0.7 * ends["1.2"]
    torch.testing.assert_close(ends["both"], wanted, rtol=1e-5, atol=1e-6)


class Whole(MixedConv):
    """The same as its definition reads: all channels computed, each width normalised and interpolated by itself."""

    def forward(self, x, weights):
        y = self.conv(nn.functional.pad(x, (0, 0, 0, 0, 0, self.conv.in_channels - x.shape[1])))
        used = [i for i in range(len(SHARES)) if float(weights[i].detach()) > 0]
        most = max(self.widths[i] for i in used)
        return sum(weights[i] * interpolated(self.norms[i](y[:, : self.widths[i]]), most) for i in used)


def test_a_mixed_convolution_is_what_its_definition_says() -> None:
    """Answers, gradients and running statistics of training, then answers with these statistics."""
    torch.manual_seed(0)
    supernet = SPACE.relax_of["tas"]()
    for name, p in supernet.named_parameters():
        if ".norms." in name:
            nn.init.normal_(p, 1.0, 0.3)
    other = copy.deepcopy(supernet)
    for layer in other.layers.values():
        layer.__class__ = Whole
    images = torch.randn(4, *SHAPE)
    for seed in range(8):
        drawn = two_of(supernet.logits().detach(), 1.0, torch.Generator().manual_seed(seed))
        choices, found = [], []
        for net in (supernet, other):
            choices.append(drawn.clone().requires_grad_())
            net.zero_grad()
            net.train()
            found.append(net(images, choices[-1]))
            found[-1].square().sum().backward()
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
        used = drawn > 0
        torch.testing.assert_close(*(choice.grad[used] for choice in choices), rtol=1e-3, atol=1e-4)
        for name, p in supernet.named_parameters():
            twin = dict(other.named_parameters())[name].grad
            assert (p.grad is None) == (twin is None), name
            if twin is not None:
                torch.testing.assert_close(p.grad, twin, rtol=1e-3, atol=1e-4, msg=name)
        torch.testing.assert_close(dict(supernet.named_buffers()), dict(other.named_buffers()), rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            answers = [net.eval()(images, drawn) for net in (supernet, other)]
        torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-5)


def test_a_penalty_steers_where_there_is_no_target() -> None:
    """The chance of a second block in the first stage as the cost: a strong penalty takes it down."""
    chances = []
    for strength in (0.0, 100.0):
        found = tas(
            SPACE, Images(64, 0, side=8), Images(64, 1, side=8), target=None, epochs=8, batch_size=16, arch_lr=0.1,
            penalty=lambda choice, strength=strength: strength * choice[0, 1], **PLACE,
        )  # fmt: skip
        chances.append(softmax(found.supernet.logits())[0, 1].item())
    assert chances[1] < 0.25 < chances[0]


def test_shares_are_what_the_paper_has() -> None:
    assert pytest.approx([0.3 + 0.1 * i for i in range(8)]) == SHARES
