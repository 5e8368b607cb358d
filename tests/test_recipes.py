"""The published training of DARTS: its values, its schedule, auxiliary loss and dropped paths against closed forms."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import archscout
from archscout import pipeline
from archscout.drop_path import DropPath
from archscout.errors import UserError
from archscout.fit import Recipe, fit, learning_rate
from archscout.recipes import EPOCHS, RECIPES
from archscout.spaces.darts import PUBLISHED, darts, write_genotype

pytestmark = pytest.mark.usefixtures("quick_profile")

SCALE = {"mean": (100.0, 100.0), "std": (50.0, 50.0)}
PLAIN = Recipe(
    lr=0.1, momentum=0.0, weight_decay=0.0, batch_size=12, label_smoothing=0.0, warmup=0.0, clip=1e9, schedule="cosine"
)


class Pictures:
    def __init__(self, n: int = 12) -> None:
        rng = np.random.default_rng(0)
        self.labels = np.arange(n) % 3
        self.pixels = torch.from_numpy(rng.integers(0, 256, (n, 2, 8, 8)).astype(np.uint8))

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, positions):
        rows = np.asarray(positions)
        return torch.from_numpy(rows), self.pixels[rows], torch.from_numpy(self.labels[rows])


class Toy(nn.Module):
    """Linear, with a head on its hidden values and one path that may be dropped."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.last, self.drop = nn.Linear(128, 4), nn.Linear(4, 3), DropPath()
        self.register_module("auxiliary", None)
        self.rates: list[float] = []

    def forward(self, x):
        self.rates.append(self.drop.rate)
        hidden = self.hidden(x.flatten(1))
        logits = self.last(hidden + self.drop(hidden))
        return (logits, self.auxiliary(hidden)) if self.auxiliary is not None and self.training else logits

    def make_auxiliary(self) -> nn.Module:
        return nn.Linear(4, 3)


def tiny(input_shape, classes):
    return darts(input_shape, classes, channels=2, layers=3)


def test_the_published_values() -> None:
    """Section 3.2 and the appendix of arXiv:1806.09055: 600 epochs, batches of 96, cutout, paths dropped at .2, .4."""
    recipe = RECIPES["darts"](Pictures(), (3, 32, 32), 10, mirrors=True, balanced=False)
    assert (recipe.lr, recipe.momentum, recipe.weight_decay, recipe.batch_size) == (0.025, 0.9, 3e-4, 96)
    assert (recipe.shift, recipe.border, recipe.cutout, recipe.fill, recipe.flip) == (4, "zero", 16, "data", True)
    assert (recipe.auxiliary, recipe.drop_path, recipe.clip, recipe.warmup) == (0.4, 0.2, 5.0, 0.0)
    assert (recipe.schedule, recipe.nesterov, recipe.decay_all, recipe.label_smoothing) == ("cosine", False, True, 0.0)
    assert EPOCHS["darts"] == EPOCHS["pdarts"] == 600
    assert set(EPOCHS) < set(RECIPES)
    assert Recipe(**json.loads(json.dumps(asdict(recipe)))) == recipe


def test_the_published_values_of_others() -> None:
    """P-DARTS: section 4.3 of arXiv:1904.12760; NAS-Bench-201: table 1 of arXiv:2001.00326; TAS."""
    options = {"mirrors": True, "balanced": False}
    usual, deeper = (RECIPES[name](Pictures(), (3, 32, 32), 10, **options) for name in ("darts", "pdarts"))
    assert (deeper.batch_size, deeper.lr, deeper.drop_path) == (128, 0.025, 0.3)
    assert (deeper.cutout, deeper.auxiliary) == (16, 0.4)
    assert replace(deeper, batch_size=96, drop_path=0.2) == usual
    cells = RECIPES["nasbench201"](Pictures(), (3, 32, 32), 10, **options)
    assert (cells.lr, cells.momentum, cells.nesterov, cells.weight_decay) == (0.1, 0.9, True, 5e-4)
    assert (cells.batch_size, cells.schedule, cells.warmup, cells.label_smoothing) == (256, "cosine", 0.0, 0.0)
    assert (cells.shift, cells.border, cells.cutout, cells.flip, cells.auxiliary) == (4, "zero", 0, True, 0.0)
    assert EPOCHS["nasbench201"] == 200
    shapes = RECIPES["tas"](Pictures(), (3, 32, 32), 10, **options)  # arXiv:1905.09717 and its code
    assert replace(shapes, warmup=0.0) == cells
    assert shapes.warmup * EPOCHS["tas"] == pytest.approx(5)
    assert EPOCHS["tas"] == 305


def test_the_cosine_schedule() -> None:
    recipe = replace(PLAIN, lr=0.4)
    for position in (0.0, 0.25, 0.5, 0.9, 1.0):
        assert learning_rate(recipe, position) == pytest.approx(0.2 * (1 + math.cos(math.pi * position)))
    warm = replace(recipe, warmup=0.2)
    assert learning_rate(warm, 0.1) == pytest.approx(0.2)
    assert learning_rate(warm, 0.2) == pytest.approx(0.4)
    assert learning_rate(warm, 0.6) == pytest.approx(0.2)
    done = fit(Toy(), Pictures(), recipe=recipe, epochs=4, seed=0, **SCALE)
    rates = [0.2 * (1 + math.cos(math.pi * (step + 0.5) / 4)) for step in range(4)]
    assert [entry["lr"] for entry in done.history] == pytest.approx(rates)


def step_by_hand(model: Toy, head: nn.Module, recipe: Recipe, rate: float) -> dict[str, torch.Tensor]:
    """The weights after one step of SGD on the mean of the loss and 0.4 times that of the head."""
    part = Pictures()
    x = ((part.pixels.float() - 100) / 50).flatten(1)
    y = torch.from_numpy(part.labels)
    hidden = model.hidden(x)
    loss = nn.functional.cross_entropy(model.last(2 * hidden), y)
    loss = loss + recipe.auxiliary * nn.functional.cross_entropy(head(hidden), y)
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, list(named.values()))
    return {
        name: p.detach() - rate * (g + recipe.weight_decay * p.detach() * (p.ndim > 1 or recipe.decay_all))
        for (name, p), g in zip(named.items(), gradients, strict=True)
    }


@pytest.mark.parametrize("everything", [True, False])
def test_the_auxiliary_loss_has_its_weight(everything: bool) -> None:
    """One step against gradients by hand, with weight decay on everything or on weights alone."""
    recipe = replace(PLAIN, auxiliary=0.4, weight_decay=0.3, decay_all=everything)
    model, heads = Toy(), []
    make = model.make_auxiliary
    model.make_auxiliary = lambda: heads.append(make()) or heads[-1]
    before = deepcopy(model)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        untouched = torch.get_rng_state()
        fit(model, Pictures(), recipe=recipe, epochs=1, seed=0, **SCALE)
        assert torch.equal(torch.get_rng_state(), untouched)
        again = Toy()
        first = []
        again.make_auxiliary = lambda: first.append(deepcopy(make())) or first[-1]
        fit(again, Pictures(), recipe=replace(recipe, lr=1e-12), epochs=1, seed=0, **SCALE)
    wanted = step_by_hand(before, first[0], recipe, 0.05)  # half of the peak in the middle of the only step
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), wanted[name], msg=name, rtol=1e-4, atol=1e-5)
    assert model.auxiliary is None
    assert set(model.state_dict()) == set(before.state_dict())
    without = fit(Toy(), Pictures(), recipe=replace(recipe, auxiliary=0.0), epochs=1, seed=0, **SCALE)
    assert without.history[0]["accuracy"] == pytest.approx(float((Toy()(
        (Pictures().pixels.float() - 100) / 50).argmax(1).numpy() == Pictures().labels).mean()))  # fmt: skip


def test_the_rate_of_dropped_paths_rises_linearly() -> None:
    model = Toy()
    fit(model, Pictures(24), recipe=replace(PLAIN, drop_path=0.2), epochs=5, seed=0, **SCALE)
    assert model.rates == pytest.approx([0.2 * step / 10 for step in range(10)])
    assert model.drop.rate == 0


def test_dropped_paths_leave_the_expectation_of_the_output() -> None:
    model = Toy().train()
    model.drop.rate = 0.3
    x = torch.randn(1, 2, 8, 8)
    torch.manual_seed(0)
    answers = model(x.expand(20_000, 2, 8, 8))
    spread = answers.std(0) / 20_000**0.5
    assert ((answers.mean(0) - model.eval()(x)[0]).abs() < 4 * spread).all()
    assert len(answers.detach().unique(dim=0)) == 2  # whole images keep a path or lose it


def test_a_training_with_all_of_it_resumes_exactly(tmp_path: Path) -> None:
    space = tiny((2, 8, 8), 3)
    recipe = replace(RECIPES["darts"](Pictures(), (2, 8, 8), 3, mirrors=True, balanced=False), batch_size=8, ema=0.9)

    def fresh() -> nn.Module:
        torch.manual_seed(0)
        return space.build(space.parse("PDARTS"))

    def go(model: nn.Module, **more):
        return fit(model, Pictures(24), recipe=recipe, epochs=2, seed=3, **SCALE, **more)

    whole, model = fresh(), fresh()
    done = go(whole)

    def kill(step: int, *_: object) -> None:
        if step == 4:
            raise KeyboardInterrupt

    path = tmp_path / "training.pt"
    with pytest.raises(KeyboardInterrupt):
        go(model, checkpoint=path, every=0.0, on_progress=kill)
    assert model.auxiliary is None
    assert all(m.rate == 0 for m in model.modules() if isinstance(m, DropPath))
    rest = go(model, checkpoint=path)
    assert rest.history == done.history
    for name, value in whole.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert set(whole.state_dict()) == set(fresh().state_dict())


def test_a_network_without_such_parts_is_refused() -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(128, 3))
    with pytest.raises(UserError, match=r"no paths to drop \(drop_path=0.2\) and no place for an auxiliary head"):
        fit(plain, Pictures(), recipe=replace(PLAIN, auxiliary=0.4, drop_path=0.2), epochs=1, seed=0, **SCALE)
    with pytest.raises(UserError, match=r"no place for an auxiliary head \(auxiliary=0.4\), which"):
        fit(plain, Pictures(), recipe=replace(PLAIN, auxiliary=0.4), epochs=1, seed=0, **SCALE)


@pytest.mark.parametrize(
    "wrong", [{"schedule": "step"}, {"border": "wrap"}, {"fill": "noise"}, {"auxiliary": -1.0}, {"drop_path": 1.0}]
)
def test_wrong_values_are_refused(wrong: dict) -> None:
    with pytest.raises(UserError, match=f"a recipe wants {next(iter(wrong))}"):
        replace(PLAIN, **wrong)


def test_train_takes_a_genotype_and_the_published_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    pixels = (rng.integers(60, 190, (60, 8, 8, 3)) + 40 * labels[:, None, None, None]).clip(0, 255).astype(np.uint8)
    arch = tiny((3, 8, 8), 2).parse("PDARTS")
    found = archscout.train(
        (pixels, labels), space=tiny, arch=write_genotype(arch), recipe="darts", epochs=1, out=tmp_path / "run"
    )
    assert found.best["arch"] == PUBLISHED["PDARTS"]
    assert found.events["trained"]["recipe"]["auxiliary"] == 0.4
    about = json.loads((found.folder / "architecture.json").read_text())
    assert about["notation"] == write_genotype(arch)
    assert found.events["network"]["kind"] == "cells"
    page = (found.folder / "report.html").read_text()
    assert "Normal cell" in page
    assert "Reduction cell" in page
    seen = []
    monkeypatch.setattr(pipeline, "follow", lambda run, config, methods: seen.append(config))
    for number, more in enumerate(({"epochs": None}, {"budget": "5m"}, {"epochs": 3.0})):
        options = {"space": tiny, "arch": "PDARTS", "recipe": "darts", "out": tmp_path / str(number), **more}
        archscout.train((pixels, labels), **options)
    assert [(config.epochs, config.budget) for config in seen] == [(600.0, None), (None, 300.0), (3.0, None)]
    with pytest.raises(UserError, match="unknown recipe 'dart'; did you mean 'darts'"):
        archscout.train((pixels, labels), space=tiny, arch="PDARTS", recipe="dart", out=tmp_path / "x")
    with pytest.raises(UserError, match="archscout train RUN --recipe"):
        archscout.search((pixels, labels), space=tiny, recipe="darts", out=tmp_path / "x")
