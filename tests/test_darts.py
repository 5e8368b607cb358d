"""Differentiable searches: gradients against brute force, planted choices, resume, collapse, and bad settings."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from archscout.aggregate import INPUTS, aggregate
from archscout.batches import balanced
from archscout.differentiable import bilevel
from archscout.differentiable.bilevel import Settings, architecture_gradient, train_supernet
from archscout.differentiable.choice import gumbel, relax, softmax, weights_of
from archscout.differentiable.darts import by_perturbation, darts, falling, gumbel_chooser
from archscout.differentiable.pdarts import PUBLISHED, cap_skips, pdarts, skip_dropout, strongest
from archscout.differentiable.several import on_several
from archscout.differentiable.stage import excess_of
from archscout.differentiable.zero_shot import by_zero_shot, settled_among
from archscout.errors import UserError
from archscout.fit import normaliser
from archscout.scoring import Scorer
from archscout.selection import SELECTORS
from archscout.space import SearchSpace, portable
from archscout.spaces.nasbench201 import nasbench201


class Images:
    def __init__(self, n: int, seed: int, classes: int = 2, side: int = 6) -> None:
        rng = np.random.default_rng(seed)
        self.labels = np.arange(n) % classes
        base = rng.integers(60, 190, (n, 3, side, side))
        base[self.labels == 1, 0] += 50  # the classes differ in their first channel
        self.pixels = torch.from_numpy(base.astype(np.uint8))

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, positions):
        rows = np.asarray(positions)
        return torch.from_numpy(rows), self.pixels[rows], torch.from_numpy(self.labels[rows])


PLACE = {"mean": (125.0, 125.0, 125.0), "std": (40.0, 40.0, 40.0)}


class Toy(nn.Module):
    """Two decisions of three options: options scale the answer of a small smooth network."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.alphas = nn.Parameter(torch.tensor([[0.3, -0.2, 0.1], [0.0, 0.2, -0.4]]))
        self.register_buffer("size", torch.tensor([0.2, 1.0, 2.0]), persistent=False)

    def logits(self):
        return self.alphas

    def forward(self, images, choice):
        x = images.mean((2, 3)) if images.ndim == 4 else images
        hidden = torch.tanh(self.first(x)) * (choice[0] * self.size).sum()
        return self.second(hidden) * (choice[1] * self.size).sum()

    def derive(self, choice):
        return tuple(int(i) for i in choice.argmax(1))


def toy_space() -> SearchSpace:
    return SearchSpace(
        "toy", (3, 6, 6), 2, {"a": (0, 1, 2), "b": (0, 1, 2)}, lambda p: nn.Flatten(), relax_of={"darts": Toy}
    )


@pytest.mark.parametrize("order", [1, 2, "difference"])
def test_the_architecture_gradient_against_brute_force(order) -> None:
    """By central differences of L_val(w - rate * step(alpha), alpha) in float64, momentum and decay included."""
    torch.manual_seed(0)
    net = Toy().double()
    train_x, train_y = torch.randn(20, 3).double(), torch.randint(2, (20,))
    val_x, val_y = torch.randn(20, 3).double(), torch.randint(2, (20,))
    weights = [p for n, p in net.named_parameters() if n != "alphas"]
    optimizer = torch.optim.SGD(weights, 0.1, 0.9, weight_decay=3e-4)
    for _ in range(3):  # so that there is momentum
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(train_x, softmax(net.logits())), train_y).backward()
        optimizer.step()
    net.alphas.grad = None
    rate, settings = 0.4, Settings(order=order)

    def arch_loss(choice, parameters):
        answers = torch.func.functional_call(net, dict(parameters), (val_x, choice))
        losses = nn.functional.cross_entropy(answers, val_y, reduction="none")
        return losses.mean(), losses, answers

    def weight_loss(choice, parameters):
        return nn.functional.cross_entropy(
            torch.func.functional_call(net, dict(parameters), (train_x, choice)), train_y
        )

    architecture_gradient(
        net,
        lambda: softmax(net.logits()),
        arch_loss,
        weight_loss,
        lambda: net.alphas.sum() * 0,
        optimizer,
        settings,
        rate,
    )
    found = net.alphas.grad.clone()

    def after(alphas: torch.Tensor) -> float:
        other = copy.deepcopy(net)
        other.alphas.data = alphas
        moved = other
        if order != 1:
            loss = nn.functional.cross_entropy(other(train_x, softmax(other.logits())), train_y)
            mine = [p for n, p in other.named_parameters() if n != "alphas"]
            with torch.no_grad():
                for p, mirror, g in zip(mine, weights, torch.autograd.grad(loss, mine), strict=True):
                    p -= rate * (g + 3e-4 * p + 0.9 * optimizer.state[mirror]["momentum_buffer"])
        with torch.no_grad():
            return float(nn.functional.cross_entropy(moved(val_x, softmax(moved.logits())), val_y))

    wanted = torch.zeros_like(found)
    for place in np.ndindex(*found.shape):
        step = torch.zeros_like(found)
        step[place] = 1e-6
        wanted[place] = (after(net.alphas.data + step) - after(net.alphas.data - step)) / 2e-6
    assert (found - wanted).abs().max() < (1e-3 if order == "difference" else 1e-7)
    if order == 2:  # and the second order is really there
        first = torch.autograd.grad(nn.functional.cross_entropy(net(val_x, softmax(net.logits())), val_y), net.alphas)[
            0
        ]
        assert (first - wanted).abs().max() > 1e-3


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    _, images, labels = Images(16, seed).batch(range(16))
    return normaliser(*PLACE.values())(images), labels


def as_it_is(net: Any, images: Any, choice: Any, training: bool, step: int) -> torch.Tensor:
    return net(images, choice)


def step_of(net: nn.Module, settings: Settings, rate: float = 0.3, progress: float = 1.0, **more: Any) -> torch.Tensor:
    """The gradient of the alphas in one architecture step on two batches, weighed by 1 and 2 in turns."""
    weigh = 1.0 + torch.arange(16) % 2
    optimizer = torch.optim.SGD(weights_of(net), 0.1, settings.momentum)
    net.alphas.grad = None
    bilevel.architecture_step(
        net, more.pop("run", as_it_is), settings,
        *((*batch(seed), lambda losses: (weigh * losses).mean()) for seed in (0, 1)),
        optimizer, step=0, progress=progress, rate=rate, exact=as_it_is,
        **{"draw": torch.Generator().manual_seed(0), "chooser": bilevel.plain_softmax, "penalty": None, **more},
    )  # fmt: skip
    return net.alphas.grad.clone()


@pytest.mark.parametrize("order", [1, 2])
def test_an_architecture_step_by_hand(order: int) -> None:
    """With the losses weighed as selectors want it, beta at its share of the way, and a penalty of the softmax."""
    torch.manual_seed(0)
    net, prices = Toy(), torch.tensor([0.0, 1.0, 3.0])
    settings = Settings(order=order, beta=0.8)
    found = step_of(net, settings, progress=0.25, penalty=lambda choice: (choice * prices).sum())
    weigh, choice = 1.0 + torch.arange(16) % 2, softmax(net.alphas)
    named = {name: p for name, p in net.named_parameters() if name != "alphas"}

    def loss(parameters: Any, seed: int) -> torch.Tensor:
        images, labels = batch(seed)
        answers = torch.func.functional_call(net, parameters, (images, choice))
        return (weigh * nn.functional.cross_entropy(answers, labels, reduction="none")).mean()

    moved = named
    if order == 2:
        slopes = torch.autograd.grad(loss(named, 0), list(named.values()), create_graph=True)
        moved = {n: p - 0.3 * (g + 3e-4 * p) for (n, p), g in zip(named.items(), slopes, strict=True)}
    whole = loss(moved, 1) + 0.8 * 0.25 * torch.logsumexp(net.alphas, -1).mean() + (choice * prices).sum()
    (wanted,) = torch.autograd.grad(whole, net.alphas)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_a_penalty_is_of_the_softmax_although_options_are_drawn() -> None:
    """A draw of what is never derived leaves a row of zeros, whose division would have gradients without bounds."""
    space = nasbench201((3, 6, 6), 2, channels=4, cells=1)
    net = relax(space, "darts")
    table = torch.tensor([0.0, 0.0, 10.0, 90.0, 0.0]).expand(6, 5)
    penalty = excess_of({"params": (40.0, table)}, {"params": 100.0}, net)
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        images = {"run": lambda net, images, choice, training, step: net(images, choice).detach() + choice.sum() * 0}
        found = step_of(net, Settings(), chooser=gumbel_chooser((1.0, 1.0)), draw=draw, penalty=penalty, **images)
        (wanted,) = torch.autograd.grad(penalty(softmax(net.logits())), net.alphas)
        torch.testing.assert_close(found, wanted)
        assert float(found.abs().max()) > 0.01


def test_a_temperature_falls_geometrically_and_is_that_of_the_draws() -> None:
    assert [falling((10.0, 0.1))(at) for at in (0.0, 0.5, 1.0)] == pytest.approx([10.0, 1.0, 0.1])
    alphas = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for progress, heat in ((0.0, 5.0), (0.5, 1.0), (1.0, 0.2)):
        slopes = []
        for make in (
            lambda draw, progress=progress: gumbel_chooser((5.0, 0.2))(alphas, draw, progress),
            lambda draw, heat=heat: gumbel(alphas, heat, draw, hard=True),
        ):
            chosen = make(torch.Generator().manual_seed(1))
            slopes.append(torch.autograd.grad((chosen * torch.arange(3)).sum(), alphas)[0])
        torch.testing.assert_close(*slopes)


def test_finds_the_planted_options_and_leaves_the_global_state() -> None:
    before = torch.get_rng_state()
    found = darts(toy_space(), Images(128, 0), Images(128, 1), epochs=12, batch_size=16, arch_lr=0.1, lr=0.05, **PLACE)
    assert torch.equal(before, torch.get_rng_state())
    assert found.arch == (2, 2)  # the largest scale learns fastest
    assert len(found.story.history) == len(found.story.alphas) == 12
    assert found.story.history[-1]["entropy"] < found.story.history[0]["entropy"]
    again = darts(toy_space(), Images(128, 0), Images(128, 1), epochs=12, batch_size=16, arch_lr=0.1, lr=0.05, **PLACE)
    assert again.story.alphas == found.story.alphas


def cut_off(go: Any, path: Path) -> Any:
    """What a search finds that was stopped at its second report and goes on from its checkpoint."""
    calls = iter([False, True])
    assert go(checkpoint=path, ends=lambda: next(calls)).story.stopped == "told to"
    content = torch.load(path, weights_only=True)
    content["story"]["stopped"] = None
    torch.save(content, path)
    return go(checkpoint=path)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("sample", ["softmax", "gumbel"])
def test_searches_nasbench201_with_selected_data_and_resumes_bit_exactly(order, sample, tmp_path: Path) -> None:
    space = nasbench201((3, 6, 6), 2, channels=4, cells=1)
    one, other = Images(64, 0), Images(64, 1)
    options = {"epochs": 3, "batch_size": 16, "order": order, "sample": sample, "flip": True, "shift": 1, **PLACE}

    def go(**more):
        selector = SELECTORS["hard_random"](one, seed=0, share=0.5)
        return darts(space, one, other, selector=selector, **options, **more)

    path = tmp_path / "search.pt"
    whole, rest = go(), cut_off(go, path)
    assert rest.story.alphas == whole.story.alphas
    assert rest.arch == whole.arch
    for name, value in whole.supernet.state_dict().items():
        assert torch.equal(value, rest.supernet.state_dict()[name]), name
    with pytest.raises(UserError, match="another training"):
        darts(space, one, other, checkpoint=path, **{**options, "epochs": 4})


def test_killed_in_the_middle_of_an_epoch_it_goes_on_alike(tmp_path: Path) -> None:
    one, other = Images(96, 0), Images(96, 1)
    options = {"seed": 0, **PLACE}
    settings = Settings(epochs=3, batch_size=16, arch_lr=0.1, patience=2)

    def go(**more):
        torch.manual_seed(0)
        net = Toy()
        selector = SELECTORS["random"](one, seed=0, share=0.5)
        return train_supernet(net, one, other, settings, selector=selector, audit_every=0.5, **options, **more), net

    whole, net = go()
    path = tmp_path / "search.pt"

    def killed(net, images, choice, training, step):
        if step == 8:  # the third of six steps of the second epoch
            raise KeyboardInterrupt
        return net(images, choice)

    with pytest.raises(KeyboardInterrupt):
        go(checkpoint=path, every_seconds=0.0, forward=killed)
    rest, again = go(checkpoint=path)
    assert torch.equal(net.alphas, again.alphas)
    assert len(whole.audits) > 1
    for name in ("alphas", "stopped", "step", "audits"):
        assert getattr(rest, name) == getattr(whole, name)
    for mine, theirs in zip(rest.history, whole.history, strict=True):
        assert {**mine, "seconds": 0} == {**theirs, "seconds": 0}
    path.write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="cannot be read"):
        go(checkpoint=path)


def test_two_processes_find_what_one_finds() -> None:
    """The toy has no BN, so that a batch shared by two processes gives the gradient of the whole batch."""
    space = portable(toy_space, ())
    options = {"settings": Settings(epochs=4, batch_size=16, arch_lr=0.1, lr=0.05), "seed": 3, **PLACE}

    def selectors():
        return {
            "selector": SELECTORS["hard_random"](Images(64, 0), seed=0, share=0.5),
            "arch_selector": SELECTORS["random"](Images(64, 1), seed=1, share=0.5),
        }

    parts = (Images(64, 0), Images(64, 1))
    alone = darts(space, *parts, **selectors(), **options)
    heard: list[Any] = []
    both = on_several(darts, 2, space, *parts, on_progress=heard.append, **selectors(), **options)
    assert both.arch == alone.arch
    assert heard == both.story.history
    assert np.allclose(both.story.alphas, alone.story.alphas, atol=1e-5)
    for name, value in alone.supernet.state_dict().items():
        assert torch.allclose(both.supernet.state_dict()[name], value, atol=1e-5), name
    keys = ("epoch", "step", "loss", "accuracy", "arch_loss")
    for mine, theirs in zip(both.story.history, alone.story.history, strict=True):
        assert [mine[k] for k in keys] == pytest.approx([theirs[k] for k in keys], abs=1e-5)
    assert on_several(darts, 1, space, *parts, **selectors(), **options).story.alphas == alone.story.alphas
    with pytest.raises(UserError, match="the kind alone"):
        on_several(darts, 2, space, *parts, device="cuda:1")
    with pytest.raises(UserError, match="99 GPUs"):
        on_several(darts, 99, space, *parts, device="cuda")
    with pytest.raises(UserError, match="no setting 'nonsense'"):  # found in the processes only
        on_several(darts, 2, space, *parts, nonsense=1, **options)


@pytest.mark.parametrize("order", [1, 2, "difference"])
def test_in_bfloat16_it_is_nearly_the_same(order) -> None:
    """One gradient of the alphas points the same way; differences of weights, too small for bfloat16, are not in it."""
    space = nasbench201((3, 6, 6), 2, channels=4, cells=1)
    torch.manual_seed(0)
    net = relax(space, "darts")
    settings = Settings(order=order, precision="bf16-mixed")
    lower = bilevel.in_precision(as_it_is, settings, torch.device("cpu"))
    one, other = step_of(net, settings, rate=0.1), step_of(net, settings, rate=0.1, run=lower)
    assert not torch.equal(one, other)
    assert float(nn.functional.cosine_similarity(one.flatten(), other.flatten(), 0)) > 0.9
    options = {"epochs": 1, "batch_size": 16, "order": order, "arch_lr": 0.01, **PLACE}
    rough = darts(space, Images(64, 0), Images(64, 1), precision="bf16-mixed", **options)
    assert all(p.dtype == torch.float32 for p in rough.supernet.parameters())


def test_pdarts_killed_in_its_second_stage_goes_on_alike(tmp_path: Path) -> None:
    space = nasbench201((3, 6, 6), 2, channels=4, cells=1)
    options = {"epochs": 1, "batch_size": 16, "depths": (1, 1, 1), "report": 0.5, **PLACE}
    seen: list[int] = []

    def go(**more):
        return pdarts(
            space, Images(48, 0), Images(48, 1), audit_every=0.5,
            make_selector=lambda part, stage: SELECTORS["random"](part, seed=stage, share=0.5), **options, **more,
        )  # fmt: skip

    def killed(entry):
        seen.append(entry["step"])
        if len(seen) == 4:
            raise KeyboardInterrupt

    whole = go()
    path = tmp_path / "search.pt"
    with pytest.raises(KeyboardInterrupt):
        go(checkpoint=path, on_progress=killed)
    assert [file.name for file in tmp_path.iterdir()] == ["search-stage0.pt"]
    rest = go(checkpoint=path)
    assert len(list(tmp_path.iterdir())) == 3
    assert rest.arch == whole.arch
    assert rest.story.alphas == whole.story.alphas
    assert rest.story.audits == whole.story.audits
    assert len(whole.story.audits) >= 3


def test_collapse_into_skips_ends_a_search_that_asks_for_it() -> None:
    space = nasbench201((3, 6, 6), 2, channels=4, cells=1)
    options = {"epochs": 12, "batch_size": 16, **PLACE}
    found = darts(space, Images(32, 0), Images(32, 1), stop_skips=0, **options)
    assert found.story.stopped == f"{found.story.history[-1]['skips']} skips"
    assert found.story.step == bilevel.SETTLED  # not by how the alphas were drawn
    fewer = darts(space, Images(32, 0), Images(32, 1), stop_skips=7, **options)
    assert (fewer.story.stopped, fewer.story.step) == (None, 24)
    calm = darts(space, Images(32, 0), Images(32, 1), epochs=9, batch_size=16, arch_lr=1e-9, patience=2, **PLACE)
    assert "same architecture" in calm.story.stopped
    assert len(calm.story.history) == 3


def test_stop_rules_look_only_at_what_comes_after_the_wait() -> None:
    space = nasbench201((3, 6, 6), 2, channels=4, cells=1)
    options = {"epochs": 9, "batch_size": 16, "wait": 4, **PLACE}
    calm = darts(space, Images(32, 0), Images(32, 1), arch_lr=1e-9, patience=2, **options)
    assert calm.story.stopped == "the same architecture for 2 epochs"
    assert calm.story.history[-1]["epoch"] == 6
    assert [row["arch_loss"] > 0 for row in calm.story.history] == [False] * 4 + [True] * 2
    early = darts(space, Images(32, 0), Images(32, 1), stop_skips=0, **{**options, "epochs": 16})
    assert early.story.history[-1]["epoch"] == 4 + bilevel.SETTLED / 2
    assert early.story.stopped == f"{early.story.history[-1]['skips']} skips"


class Skipping(Toy):
    """Counts its first decision's options as skips of three edges."""

    edges = 3

    def skips(self, arch):
        return arch[0]


def test_collapse_is_told_once_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    """The largest scale, which the search finds, counts as two skips of three."""
    torch.manual_seed(0)
    settings = Settings(epochs=12, batch_size=16, arch_lr=0.1, lr=0.05)
    story = train_supernet(Skipping(), Images(128, 0), Images(128, 1), settings, seed=0, **PLACE)
    first = next(row for row in story.history if row["skips"] >= 1.5 and row["step"] >= 20)
    assert story.collapsed == {"epoch": first["epoch"], "skips": 2, "edges": 3}
    told = [record.getMessage() for record in caplog.records if "collapses" in record.getMessage()]
    assert told == [f"the search collapses into skip connections: 2 of 3 edges in epoch {first['epoch']:g}"]
    plain = train_supernet(Toy(), Images(128, 0), Images(128, 1), settings, seed=0, **PLACE)
    assert plain.collapsed is None


def test_a_checkpoint_of_another_search_is_refused(tmp_path: Path) -> None:
    """Another way to draw, temperature, selector, share, options or space; and a supernet of other weights."""
    one, other = Images(48, 0), Images(48, 1)
    space = nasbench201((3, 6, 6), 2, channels=4, cells=1)

    def go(space=space, select=None, share=0.5, **more):
        selector = None if select is None else SELECTORS[select](one, seed=0, share=share)
        return darts(space, one, other, selector=selector, epochs=1, batch_size=16, **more, **PLACE)

    path = tmp_path / "search.pt"
    go(checkpoint=path, sample="gumbel", select="random")
    go(checkpoint=path, sample="gumbel", select="random", decide="perturbation")  # the same training
    for more in (
        {"sample": "softmax"}, {"temperature": (5.0, 0.1)}, {"select": "hard_random"}, {"select": None}, {"share": 0.6},
        {"supernet": {"channels": 2}}, {"space": toy_space()},
    ):  # fmt: skip
        with pytest.raises(UserError, match="of another training"):
            go(**{"checkpoint": path, "sample": "gumbel", "select": "random", **more})
    plain = tmp_path / "plain.pt"
    settings = Settings(epochs=1, batch_size=16)
    train_supernet(Toy(), one, other, settings, seed=0, checkpoint=plain, **PLACE)
    wide = Toy()
    wide.first = nn.Linear(3, 5)
    with pytest.raises(UserError, match=r"(?s)of another supernet \(.*delete"):
        train_supernet(wide, one, other, settings, seed=0, checkpoint=plain, **PLACE)


def test_perturbation_keeps_what_is_needed() -> None:
    net = Toy()
    with torch.no_grad():
        net.first.weight.fill_(0.0)
        net.first.weight[:, 0] = 1.0
        net.first.bias.fill_(0.0)
        net.second.weight[0] = -0.05  # unsure, so that a larger scale is always better
        net.second.weight[1] = 0.05
        net.second.bias.fill_(0.0)
    choice = by_perturbation(net, softmax(net.logits()), Images(128, 0), seed=0, device="cpu", **PLACE)
    assert choice.sum(1).tolist() == [1.0, 1.0]
    assert net.derive(choice) == (2, 2)


def test_pdarts_narrows_and_deepens() -> None:
    space = nasbench201((3, 6, 6), 2, channels=4, cells=1)
    found = pdarts(
        space, Images(48, 0), Images(48, 1), epochs=2, batch_size=16, depths=(1, 1, 2), options=(5, 3, 2),
        dropout=(0.0, 0.3, 0.5), most_skips=1, **PLACE,
    )  # fmt: skip
    assert [entry["stage"] for entry in found.story.history] == [0, 0, 1, 1, 2, 2]
    assert found.supernet.cells_in_all == 6
    assert all(len(ops) == 2 for ops in found.supernet.allowed)
    assert all(op in ops for op, ops in zip(found.arch, found.supernet.allowed, strict=True))
    assert found.supernet.skips(found.arch) <= 1
    assert found.supernet.derive(found.choice) == found.arch
    with pytest.raises(UserError, match="as many depths"):
        pdarts(space, Images(8, 0), Images(8, 1), depths=(1,), **PLACE)
    with pytest.raises(UserError, match="first stage"):
        pdarts(space, Images(8, 0), Images(8, 1), depths=(1, 2), options=(3, 2), dropout=(0, 0), **PLACE)


def test_the_dropout_of_skips_falls_along_a_stage() -> None:
    """Of 40 images and 4 steps of 16: the share of skips left out, and what is left scaled, in each step."""
    net = relax(nasbench201((3, 6, 6), 2, channels=4, cells=2), "pdarts")
    heard: list[Any] = []
    forward = skip_dropout(net, 0.8, 0, Settings(epochs=2, batch_size=20), 40)

    def hear(images: torch.Tensor, choice: torch.Tensor, keep: Any = None) -> None:
        heard.append(keep)

    for step in range(5):
        forward(hear, torch.zeros(500, 3, 6, 6), torch.ones(6, 5), True, step)
    for step, keep in enumerate(heard[:4]):
        now = 0.8 * (1 - step / 4)
        assert len(keep) == 6  # cells
        dropped = torch.stack(keep)
        assert float((dropped == 0).float().mean()) == pytest.approx(now, abs=0.02)
        assert dropped.max().item() == pytest.approx(1 / (1 - now))
    assert heard[4] is None
    forward(hear, torch.zeros(5, 3, 6, 6), torch.ones(6, 5), False, 0)
    assert heard[5] is None


def test_a_skip_that_is_dropped_is_not_there() -> None:
    """On nasbench201, of one image of two, against the same cell without the edge."""
    net = relax(nasbench201((3, 6, 6), 2, channels=4, cells=1), "pdarts", cells=1).eval()
    cell = net.body[0]
    x, choice = torch.randn(2, 4, 6, 6), torch.zeros(6, 5)
    choice[[0, 4], [3, 3]] = 1.0  # from the input through the first node to the last
    without = cell(x, choice)
    choice[3, 1] = 1.0  # and past it
    keep = torch.ones(6, 2)
    keep[3] = torch.tensor([0.0, 2.0])
    given = cell(x, choice, keep)
    both = cell(x, choice)
    torch.testing.assert_close(given[0], without[0])
    torch.testing.assert_close(given[1] - without[1], 2 * (both[1] - without[1]))
    assert float((both - without).detach().abs().max()) > 0.1


def test_pdarts_by_its_published_settings_on_other_channels() -> None:
    """Section 4.2 of arXiv:1904.12760: 25 epochs a stage, batches of 96, 6e-4 on the alphas."""
    assert (PUBLISHED.epochs, PUBLISHED.batch_size, PUBLISHED.lr, PUBLISHED.lr_end) == (25, 96, 0.025, 0)
    assert (PUBLISHED.arch_lr, PUBLISHED.arch_decay, PUBLISHED.arch_betas) == (6e-4, 1e-3, (0.5, 0.999))
    space = nasbench201((3, 6, 6), 2, channels=4, cells=1)
    found = pdarts(space, Images(32, 0), Images(32, 1), epochs=0.5, supernet={"channels": 8}, **PLACE)
    assert found.supernet.arguments[2:] == (8, 3)
    with pytest.raises(UserError, match="channels >= 1"):
        pdarts(space, Images(8, 0), Images(8, 1), supernet={"channels": 0}, **PLACE)


def test_strongest_and_the_cap_on_skips() -> None:
    choice = torch.tensor([[0.1, 0.5, 0.2, 0.15, 0.05]] * 6)
    choice[2, 1] = 0.4
    assert strongest(choice[:1], [range(5)], 3) == [(1, 2, 3)]
    net = nasbench201((3, 6, 6), 2, channels=4, cells=1).relax_of["pdarts"]()
    capped = net.derive(cap_skips(net, choice, 2))
    assert net.skips(capped) == 2
    assert capped[2] == 2  # the weakest skip went first
    assert net.derive(cap_skips(net, choice, None)) == (1,) * 6


def test_none_is_derived_only_where_nothing_else_has_weight() -> None:
    net = nasbench201((3, 8, 8), 4, channels=4, cells=1).relax_of["darts"]()
    choice = torch.tensor([[0.9, 0.02, 0.05, 0.02, 0.01]]).repeat(6, 1)
    assert net.derive(choice) == (2,) * 6
    choice[3] = torch.tensor([1.0, 0, 0, 0, 0])
    assert net.derive(choice) == (2, 2, 2, 0, 2, 2)


def test_a_penalty_moves_the_choice() -> None:
    found = darts(
        toy_space(), Images(128, 0), Images(128, 1), epochs=12, batch_size=16, arch_lr=0.1,
        penalty=lambda choice: 10 * (choice * torch.tensor([0.0, 1.0, 2.0])).sum(), **PLACE,
    )  # fmt: skip
    assert found.arch == (0, 0)


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"order": 3}, {"every": 0}, {"lr": 0}, {"beta": -1}, {"batchsize": 4}])
def test_bad_settings_are_refused(bad: dict) -> None:
    with pytest.raises(UserError):
        darts(toy_space(), Images(8, 0), Images(8, 1), **bad, **PLACE)


def test_parts_that_share_images_are_refused() -> None:
    from archscout.data import load

    data = load(
        (np.zeros((40, 8, 8, 3), np.uint8) + np.arange(40, dtype=np.uint8)[:, None, None, None], np.arange(40) % 2)
    )
    part = data.part("train")
    with pytest.raises(UserError, match="both in the weight data"):
        train_supernet(Toy(), part, part, Settings(), seed=0, **PLACE)


def test_the_proxies_have_the_last_word_among_what_a_search_settled_on() -> None:
    """The same training; of what the second half of its history derived, each once, the best by the aggregate."""
    one, other = Images(48, 0), Images(48, 1)
    space = nasbench201((3, 6, 6), 2, channels=4, cells=1)
    settings = {"epochs": 6, "batch_size": 8, "lr": 0.1, "arch_lr": 0.1, "report": 0.17}
    plain = darts(space, one, other, **settings, **PLACE)
    rows = [tuple(row["arch"]) for row in plain.story.history]
    late = {space.canonical(arch) for arch in rows[len(rows) // 2 :]}
    among = settled_among(space, plain.story, plain.arch)
    assert among[0] == plain.arch
    assert len(among) == len(late) > 2
    assert {space.canonical(arch) for arch in among} == late
    found = darts(space, one, other, decide="zero-shot", **settings, **PLACE)
    assert found.choice.tolist() == plain.choice.tolist()
    picked, ranks = by_zero_shot(space, among, other, **PLACE)
    assert found.arch == picked == among[int(np.argmin(ranks))]
    rows = other.batch(balanced(other, 48, np.random.default_rng([0, 5])))
    batch = (normaliser(PLACE["mean"], PLACE["std"])(rows[1]), rows[2])
    scorer = Scorer(space, [batch], INPUTS)
    assert ranks == aggregate([scorer(arch)["scores"] for arch in among]).tolist()
    assert len(by_zero_shot(space, among, other, **PLACE, ends=lambda: True)[1]) == 2


class Bright(nn.Module):
    """Classes 0 to 3 by how bright the first channel is, after a batch normalisation of it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        light = images[:, 0].mean((1, 2))
        light = (light - light.mean()) / light.std()
        return -(light[:, None] - torch.tensor([-1.34, -0.45, 0.45, 1.34])).abs()


@pytest.mark.parametrize("mixed", [False, True])
def test_an_audit_answers_alike_in_any_order_of_images(mixed) -> None:
    """In the order of their classes too, as folders are read, where neighbours are of one class."""
    part = Images(600, 0, classes=4)
    draw = np.random.default_rng(1)
    part.labels = draw.permutation(np.arange(600) % 4) if mixed else np.repeat(np.arange(4), 150)
    light = draw.normal(60 + 40 * part.labels[:, None, None, None], 15, (600, 3, 6, 6))
    part.pixels = torch.from_numpy(light.clip(0, 255).astype(np.uint8))
    run = lambda net, images, *_: net(images)  # noqa: E731
    right = bilevel._right(Bright(), part, normaliser(**PLACE), torch.ones(1), run, 3)
    assert right(torch.arange(600)).float().mean() > 0.95
