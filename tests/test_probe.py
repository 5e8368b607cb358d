"""The Probe: shared passes, isolation, seeds, and quantities and proxies of one's own."""

from __future__ import annotations

import contextlib
import gc
import random
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from archscout.errors import UserError
from archscout.probe import NotDefined, Pass, Probe, Proxy, Quantity, as_proxy, derive, seeded
from archscout.proxies import DEFAULT, PROXIES
from archscout.scoring import score
from archscout.testing import check_proxy, tiny_network


def batches(n: int = 6, count: int = 2) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rng = torch.Generator().manual_seed(5)
    return [(torch.randn(n, 3, 8, 8, generator=rng), torch.randint(4, (n,), generator=rng)) for _ in range(count)]


class Counting(nn.Module):
    """Counts its forwards over all copies of it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.calls = tiny_network(), _Shared()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append(tuple(x.shape))
        return self.inner(x)


class _Shared(list):
    def __deepcopy__(self, memo: dict) -> _Shared:
        return self


def test_all_proxies_together_run_each_pass_once() -> None:
    model = Counting()
    needs = [need for proxy in PROXIES.values() for need in proxy.needs]
    probe = Probe(model, batches(), needs=needs)
    for proxy in PROXIES.values():
        for _ in range(2 if proxy.needs else 0):
            with contextlib.suppress(NotDefined):  # dss, for want of attention
                proxy.compute(probe)
    assert sorted(n for n, *_ in model.calls) == [1, 1, 6, 6, 6, 16, 16, 16, 16, 32, 32]


def test_default_proxies_run_one_forward_of_the_batch() -> None:
    model = Counting()
    score(model, *batches()[0], proxies=[name for name in DEFAULT if name != "macs"])
    assert [n for n, *_ in model.calls].count(6) == 1


def test_a_quantity_that_was_not_planned_is_computed_on_first_use() -> None:
    probe = Probe(tiny_network(), batches())
    planned = Probe(tiny_network(), batches(), needs=["relu_kernel@batch0", "gradients@batch0"])
    assert torch.equal(probe["relu_kernel@batch0"], planned["relu_kernel@batch0"])
    for one, other in zip(probe["gradients@batch0"], planned["gradients@batch0"], strict=True):
        assert one.name == other.name
        assert torch.equal(one.gradient, other.gradient)


def test_scores_do_not_depend_on_the_order_or_company() -> None:
    model, (images, labels) = tiny_network(), batches(n=12, count=1)[0]
    names = list(PROXIES)
    forward = score(model, images, labels, proxies=names, batch_size=6)
    backward = score(model, images, labels, proxies=names[::-1], batch_size=6)
    alone = {name: score(model, images, labels, proxies=[name], batch_size=6)[name] for name in forward}
    assert dict(forward) == dict(backward) == alone
    assert "dss" in forward.failures
    assert forward.failures == backward.failures


def test_dropout_and_noise_follow_the_seed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 4))
    data = batches()[0]
    names = ["snip", "zen"]
    first, second, other = (dict(score(model, *data, proxies=names, seed=seed)) for seed in (1, 1, 2))
    assert first == second
    assert all(first[name] != other[name] for name in names)


def test_seeded_restores_every_random_state() -> None:
    def draw() -> tuple[float, float, float]:
        return float(torch.rand(())), float(np.random.rand()), random.random()

    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    with seeded(1, "a"):
        first = draw()
    with seeded(1, "a"):
        assert draw() == first
    with seeded(1, "b"):
        assert all(x != y for x, y in zip(draw(), first, strict=True))
    with contextlib.suppress(ZeroDivisionError), seeded(1, "a"):
        draw()
        _ = 1 / 0
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()
    assert before[2] == random.getstate()
    # The same on every machine: the first four bytes of sha256("0:"), least significant first.
    assert derive(0, "") == int.from_bytes(bytes.fromhex("ba768b33"), "little")
    assert derive(0, "noise") != derive(1, "noise")


def test_it_works_without_gradients_and_in_inference_mode() -> None:
    wanted = dict(score(tiny_network(), *batches()[0], proxies=["snip", "jacob_cov"]))
    model, data = tiny_network(), batches()[0]
    with torch.no_grad():
        assert dict(score(model, *data, proxies=["snip", "jacob_cov"])) == wanted
    with torch.inference_mode():
        assert dict(score(model, *data, proxies=["snip", "jacob_cov"])) == wanted


def test_a_frozen_network_in_half_precision_is_scored_like_any_other() -> None:
    model = tiny_network().requires_grad_(False).to(torch.bfloat16)
    assert "snip" in score(model, *batches()[0], proxies=["snip"])
    assert next(model.parameters()).dtype == torch.bfloat16


def test_shared_weights_count_once_and_unused_weights_as_zero() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.unused = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x.mean((2, 3))))

    data = [(x, y.clamp(max=2)) for x, y in batches()]
    found = Probe(Odd(), data)["gradients@batch0"]
    assert [w.name for w in found] == ["a.weight", "unused.weight"]
    assert found[0].gradient.abs().sum() > 0
    assert found[1].gradient.abs().sum() == 0


def test_one_failing_quantity_leaves_the_others_of_its_pass() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    probe = Probe(model, batches(), needs=["relu_kernel@batch0", "gradients@batch0"])
    with pytest.raises(NotDefined, match="no ReLU"):
        probe["relu_kernel@batch0"]
    assert len(probe["gradients@batch0"]) == 1


@pytest.mark.parametrize("output", ["tuple", "map"])
def test_wrong_outputs_are_named(output: str) -> None:
    class Wrong(nn.Module):
        def forward(self, x: torch.Tensor):
            return (x, x) if output == "tuple" else x

    with pytest.raises(NotDefined, match=r"wanted logits \(6, classes\)"):
        Probe(Wrong(), batches())["input_gradient@batch0"]


@pytest.mark.parametrize(
    ("need", "words"),
    [
        ("gradient@batch0", "did you mean 'gradients'"),
        ("gradients@bach0", "did you mean 'batch'"),
        ("gradients", "unknown pass"),
    ],
)
def test_unknown_needs_are_named(need: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Probe(tiny_network(), batches(), needs=[need])


# --- quantities and proxies of one's own -----------------------------------------------------------------------------


def channel_energy(run: Pass) -> Callable[[], float]:
    """The mean square of every convolution's output, and of the loss's gradient by it."""
    forward, backward = [], []

    def hook(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        forward.append(float(output.detach().square().mean()))
        output.register_hook(lambda g: backward.append(float(g.square().mean())) if run.stage == "objective" else None)

    run.after(hook, nn.Conv2d)

    def finish() -> tuple[float, float]:
        assert run.gradients
        return sum(forward), sum(backward)

    return finish


ENERGY = (Quantity(channel_energy, derivative=True), "batch0")


def energy(probe: Probe) -> float:
    return probe[ENERGY][1] / probe[ENERGY][0]


def test_a_proxy_may_bring_its_own_quantity_into_a_shared_pass() -> None:
    check_proxy(Proxy(energy, (ENERGY,)))
    model = Counting()
    mine = Proxy(energy, (ENERGY,))
    together = score(model, *batches()[0], proxies=["jacob_cov", "snip", mine, "naswot"])
    assert len(together) == 4
    assert len(model.calls) == 1
    # The hook on the outputs' gradients ignores the backward of the input gradient.
    assert together["energy"] == score(tiny_network(), *batches()[0], proxies=[mine])["energy"]


def test_a_hook_that_asks_for_the_stage_does_not_keep_the_graph() -> None:
    runs: list[weakref.ref] = []

    def quantity(run: Pass) -> Callable[[], int]:
        runs.append(weakref.ref(run))

        def hook(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
            output.register_hook(lambda gradient: None if run.stage else gradient)

        run.after(hook, nn.Conv2d)
        return lambda: len(run.gradients)

    assert Probe(tiny_network(), batches())[(Quantity(quantity, derivative=True), "batch0")] == 3
    gc.collect()
    assert runs[0]() is None


def test_the_graph_goes_after_the_last_derivative_that_was_announced() -> None:
    kept: list[bool] = []

    def late(run: Pass) -> Callable[[], float]:
        def finish() -> float:
            found = run.gradients[0].gradient, run.input_gradient
            try:
                torch.autograd.grad(run.logits.sum(), [run.images])
            except RuntimeError:
                kept.append(False)
            else:
                kept.append(True)
            return sum(float(each.abs().sum()) for each in found)

        return finish

    def read(reads: tuple[str, ...]) -> float:
        return Probe(tiny_network(), batches())[(Quantity(late, derivative=True, reads=reads), "batch0")]

    assert read(()) == read(("gradients", "input_gradient"))
    assert kept == [True, False]


def test_plain_functions_are_proxies() -> None:
    def depth(probe: Probe) -> float:
        return sum(1 for _ in probe.copy().modules())

    check_proxy(depth)
    assert as_proxy(depth).direction == "max"
    assert score(tiny_network(), *batches()[0], proxies=[depth, "test_probe:energy"])["depth"] == 10
    with pytest.raises(UserError, match="'max' or 'min'"):
        Proxy(depth, direction="up")  # type: ignore[arg-type]


def test_check_proxy_finds_what_is_wrong() -> None:
    def restless(probe: Probe) -> float:
        with torch.no_grad():
            next(probe.model.parameters()).add_(1)
        return 1.0

    counter = iter(range(100))

    def drifting(probe: Probe) -> float:
        return float(next(counter))

    def never(probe: Probe) -> float:
        raise NotDefined("not here")

    def absorbing(probe: Probe) -> float:
        return sum(float(p.detach().abs().sum()) for p in probe.copy().parameters() if p.isfinite().all())

    def careless(probe: Probe) -> float:
        probe.batches[0][0].zero_()
        return 1.0

    for bad, words in [
        (restless, "changed the network"),
        (drifting, "not determined"),
        (never, "not here"),
        (careless, "changed the network, the batch"),
        (Proxy(absorbing, ("gradients@batch0",)), "scored a network of NaN"),
    ]:
        with pytest.raises(AssertionError, match=words):
            check_proxy(bad)
