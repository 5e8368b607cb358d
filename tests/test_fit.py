"""Training and evaluation against closed forms, slow versions, and against themselves after a kill."""

from __future__ import annotations

import json
import math
import random
from copy import deepcopy
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn

from archscout.data import load
from archscout.distill import Teacher
from archscout.errors import UserError
from archscout.fit import (
    Diverged,
    Evaluation,
    Recipe,
    evaluate,
    fit,
    learning_rate,
    log_priors,
    normaliser,
    recipe_for,
    replay,
    training_losses,
)
from archscout.selection import SELECTORS

PLAIN = Recipe(lr=0.1, batch_size=16, label_smoothing=0.0)


class Pictures:
    """A part in memory: noise whose class is its brightest quarter."""

    def __init__(self, n: int = 60, classes: int = 3, side: int = 8, seed: int = 0, labels=None) -> None:
        rng = np.random.default_rng(seed)
        self.labels = rng.integers(classes, size=n) if labels is None else np.asarray(labels)
        pixels = rng.integers(0, 120, size=(n, side, side, 2))
        half = side // 2
        for i, label in enumerate(self.labels):
            row, column = divmod(int(label), 2)
            pixels[i, row * half : (row + 1) * half, column * half : (column + 1) * half] += 100
        self.images = pixels.astype(np.uint8)
        self.indices = np.arange(n) + 1000

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, positions):
        rows = np.asarray(positions)
        images = torch.from_numpy(self.images[rows]).permute(0, 3, 1, 2)
        return torch.from_numpy(self.indices[rows]), images, torch.from_numpy(self.labels[rows])


SCALE = {"mean": (80.0, 90.0), "std": (50.0, 40.0)}


def network(classes: int = 3, seed: int = 0, dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
            nn.Flatten(), nn.Dropout(dropout), nn.Linear(24, classes),
        )  # fmt: skip


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return all(torch.equal(left[name], right[name]) for name in left)


# -- recipe and schedule ----------------------------------------------------------------------------


def test_learning_rate_rises_and_falls_linearly():
    recipe = Recipe(lr=0.4, warmup=0.25)
    assert [learning_rate(recipe, p) for p in (0.0, 0.125, 0.25, 0.625, 1.0)] == pytest.approx([0, 0.2, 0.4, 0.2, 0])
    assert learning_rate(Recipe(lr=0.4, warmup=0.0), 0.0) == pytest.approx(0.4)


def test_learning_rates_of_a_run_are_those_of_the_schedule():
    recipe = replace(PLAIN, lr=0.08, warmup=0.5)
    done = fit(network(), Pictures(48), recipe=recipe, epochs=10 / 3, seed=0, **SCALE)
    assert done.steps == 10
    assert [entry["step"] for entry in done.history] == list(range(1, 11))
    up = [0.08 * (i + 0.5) / 5 for i in range(5)]
    assert [entry["lr"] for entry in done.history] == pytest.approx(up + up[::-1])


def test_recipe_is_plain_values():
    recipe = recipe_for(Pictures(), (2, 8, 8), 3, mirrors=True, balanced=True, epochs=5)
    assert Recipe(**json.loads(json.dumps(asdict(recipe)))) == recipe
    assert recipe.flip
    assert recipe.balanced
    assert recipe.shift < 8


def test_recipe_takes_smaller_batches_for_fewer_images():
    def of(n: int, epochs: float = 3.0) -> Recipe:
        part = type("Sized", (), {"labels": np.zeros(n), "__len__": lambda self: n})()
        return recipe_for(part, (3, 32, 32), 10, mirrors=False, balanced=False, epochs=epochs)

    some = [of(n) for n in (40, 1000, 50_000, 100_000)]
    sizes = [recipe.batch_size for recipe in some]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    assert of(1_500, epochs=150.0).batch_size == 16  # however long
    assert [recipe.lr for recipe in some] == pytest.approx([0.3 / 8**0.75, 0.3 / 8**0.75, 0.3, 0.3], rel=0.01)
    assert of(12_000, epochs=150.0).batch_size == 128


def test_recipe_moves_images_only_where_they_are_seen_often():
    def of(epochs: float, side: int = 32) -> int:
        return recipe_for(Pictures(), (2, side, side), 3, mirrors=False, balanced=False, epochs=epochs).shift

    assert [of(epochs) for epochs in (0.3, 10, 100)] == [0, 2, 4]
    assert [of(100, side=side) for side in (16, 64, 224)] == [2, 4, 14]
    assert of(100, side=4) == 0


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"warmup": 1.0}, {"label_smoothing": 1.0}, {"ema": 1.0}, {"clip": 0}])
def test_recipe_refuses_what_cannot_be(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Recipe(**wrong)


# -- loss -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("balanced", [False, True])
def test_losses_are_the_closed_form(smoothing, balanced):
    logits, labels = torch.randn(7, 4, generator=torch.Generator().manual_seed(1)), np.array([0, 0, 0, 0, 1, 1, 3])
    priors = log_priors(labels, 4) if balanced else None
    found = training_losses(logits, torch.from_numpy(labels), Recipe(label_smoothing=smoothing), priors)
    share = np.array([4, 2, 1, 1]) / 8  # a class without images counts as one
    for row, label, loss in zip(logits.double().numpy(), labels, found.numpy(), strict=True):
        weight = np.exp(row) * (share if balanced else 1)
        target = np.full(4, smoothing / 4) + (1 - smoothing) * np.eye(4)[label]
        assert loss == pytest.approx(-(target * np.log(weight / weight.sum())).sum(), rel=1e-5)


def test_balanced_training_finds_rare_classes():
    """On inputs without information the adjusted network says all classes alike, the plain one the frequent class."""
    part = Pictures(80, labels=[0] * 60 + [1] * 20)
    part.images[:] = 100
    answers = {}
    for balanced in (False, True):
        model = nn.Sequential(nn.Flatten(), nn.Linear(128, 2))
        nn.init.zeros_(model[1].weight)
        fit(model, part, recipe=replace(PLAIN, balanced=balanced, lr=0.05, weight_decay=0), epochs=40, seed=0, **SCALE)
        answers[balanced] = model(normaliser(**SCALE)(part.batch([0])[1])).softmax(1)[0, 1].item()
    assert answers[False] == pytest.approx(0.25, abs=0.05)
    assert answers[True] == pytest.approx(0.5, abs=0.08)


def test_priors_are_those_of_the_images_that_a_selector_chose():
    """In a round with equally many of each class they shift all logits alike, which changes nothing."""
    part = Pictures(80, classes=2, labels=[0] * 60 + [1] * 20)
    found = []
    for balanced in (False, True):
        model = network(2)
        chosen = SELECTORS["random"](part, size=40, balanced=True)
        fit(model, part, recipe=replace(PLAIN, balanced=balanced), epochs=2, seed=0, selector=chosen, **SCALE)
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)


# -- the loop ---------------------------------------------------------------------------------------


def test_equals_a_loop_written_by_hand():
    part, recipe = Pictures(32), replace(PLAIN, lr=0.05, batch_size=8, weight_decay=0.01, clip=1e9)
    model, other = network(), network()
    fit(model, part, recipe=recipe, epochs=2, seed=3, **SCALE)

    selector = SELECTORS["full"](part, seed=3)
    momentum = {name: torch.zeros_like(p) for name, p in other.named_parameters()}
    other.train()
    for step in range(8):
        if step % 4 == 0:
            order = selector.next_round()
        rows = order[step % 4 * 8 : step % 4 * 8 + 8].numpy()
        images = (part.images[rows].astype(np.float64) - SCALE["mean"]) / SCALE["std"]
        logits = other(torch.from_numpy(images).float().permute(0, 3, 1, 2))
        loss = -logits.log_softmax(1)[torch.arange(8), torch.from_numpy(part.labels[rows])].mean()
        gradients = torch.autograd.grad(loss, list(other.parameters()))
        position = (step + 0.5) / 8
        lr = 0.05 * (position / 0.25 if position < 0.25 else (1 - position) / 0.75)
        with torch.no_grad():
            for (name, p), g in zip(other.named_parameters(), gradients, strict=True):
                g = g + (0.01 * p if p.ndim >= 2 else 0)
                momentum[name] = 0.9 * momentum[name] + g
                p -= lr * (g + 0.9 * momentum[name])
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=2e-5)


def test_gradient_is_clipped():
    part, recipe = Pictures(16), replace(PLAIN, clip=1e-3, lr=1.0, momentum=0.0, weight_decay=0.0, warmup=0.0)
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    fit(model, part, recipe=recipe, epochs=1, seed=0, **SCALE)
    moved = math.sqrt(sum(((p - q) ** 2).sum().item() for p, q in zip(model.parameters(), before, strict=True)))
    assert moved == pytest.approx(0.5e-3, rel=1e-2)  # one step, in the middle of a fall from 1.0


def test_overfits_a_tiny_set():
    part, model = Pictures(24), network()
    done = fit(model, part, recipe=replace(PLAIN, batch_size=8), epochs=40, seed=0, **SCALE)
    assert evaluate(model, part, **SCALE).accuracy == 1.0
    assert done.history[-1]["accuracy"] == 1.0
    assert done.history[-1]["loss"] < 0.2 * done.history[0]["loss"]
    assert done.steps == 120
    assert done.epochs == 40


@pytest.mark.parametrize(("n", "batch", "sizes"), [(10, 4, [5, 5]), (11, 4, [3, 4, 4]), (5, 16, [5]), (1, 16, [1])])
def test_batches_of_an_epoch_are_even_and_hold_every_image_once(n, batch, sizes):
    part, seen = Pictures(n), []
    kept = part.batch
    part.batch = lambda positions: (seen.append(np.asarray(positions)), kept(positions))[1]
    fit(network(), part, recipe=replace(PLAIN, batch_size=batch), epochs=1, seed=0, **SCALE)
    assert sorted(map(len, seen)) == sizes
    assert sorted(np.concatenate(seen)) == list(range(n))


def test_epochs_may_be_a_fraction():
    part = Pictures(60)
    recipe = replace(PLAIN, batch_size=6)
    assert [fit(network(), part, recipe=recipe, epochs=e, seed=0, **SCALE).steps for e in (0.01, 0.3, 1.5)] == [
        1,
        3,
        15,
    ]


def test_history_has_an_entry_an_epoch_or_a_tenth_and_means_over_images():
    part, recipe = Pictures(40), replace(PLAIN, batch_size=2)
    seen = []
    done = fit(network(), part, recipe=recipe, epochs=2, seed=0, on_progress=lambda *a: seen.append(a), **SCALE)
    assert [entry["step"] for entry in done.history] == [4 * i for i in range(1, 11)]
    assert done.history[3]["loss"] == pytest.approx(np.mean([a[2] for a in seen[12:16]]))
    assert done.history[3]["accuracy"] == pytest.approx(np.mean([a[3] for a in seen[12:16]]))
    assert [a[:2] for a in seen] == [(i, 40) for i in range(1, 41)]
    long = fit(network(), part, recipe=recipe, epochs=13, seed=0, **SCALE)
    assert [entry["epoch"] for entry in long.history] == list(range(1, 14))
    assert json.loads(json.dumps(long.history)) == long.history


def test_seed_decides():
    def trained(seed: int) -> nn.Module:
        model = network(dropout=0.3)
        fit(model, Pictures(), recipe=replace(PLAIN, flip=True, shift=1), epochs=1, seed=seed, **SCALE)
        return model

    assert same(trained(1), trained(1))
    assert not same(trained(1), trained(2))


@pytest.mark.parametrize("fails", [False, True])
def test_leaves_random_state_threads_and_modes_as_found(fails):
    def stop(*_):
        if fails:
            raise KeyboardInterrupt

    model = network(dropout=0.5)
    model[1].eval()
    modes = [m.training for m in model.modules()]
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate(), torch.get_num_threads()
    recipe = replace(PLAIN, flip=True, shift=1)
    try:
        fit(model, Pictures(), recipe=recipe, epochs=1, seed=0, threads=before[3] + 1, on_progress=stop, **SCALE)
    except KeyboardInterrupt:
        assert fails
    evaluate(model, Pictures(), threads=before[3] + 1, **SCALE)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]
    assert torch.get_num_threads() == before[3]
    assert [m.training for m in model.modules()] == modes


def test_does_not_depend_on_the_global_random_state():
    models = [network(dropout=0.4) for _ in range(2)]
    for model, state in zip(models, (1, 2), strict=True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(state)
            fit(model, Pictures(), recipe=replace(PLAIN, flip=True, cutout=2), epochs=1, seed=0, **SCALE)
    assert same(*models)


def test_divergence_names_its_step():
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 3))
    steps = []
    with pytest.raises(Diverged, match="diverged") as caught:
        fit(model, Pictures(), recipe=replace(PLAIN, lr=1e30, clip=1e30), epochs=20, seed=0,
            on_progress=lambda *a: steps.append(a[0]), **SCALE)  # fmt: skip
    assert caught.value.step == len(steps) + 1
    assert not math.isfinite(caught.value.loss)


def test_frozen_weights_stay():
    model = network()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    fit(model, Pictures(), recipe=PLAIN, epochs=1, seed=0, **SCALE)
    assert torch.equal(model[0].weight, before)


def test_averaged_weights_are_the_closed_form():
    part, trail = Pictures(32), []
    model = network()
    fit(model, part, recipe=replace(PLAIN, batch_size=8, ema=0.6), epochs=2, seed=0,
        on_progress=lambda *_: trail.append(deepcopy(model.state_dict())), **SCALE)  # fmt: skip
    average = {name: value.double() for name, value in trail[0].items()}
    for count, state in enumerate(trail[1:], start=1):
        decay = min(0.6, (1 + count) / (10 + count))
        average = {name: decay * average[name] + (1 - decay) * value.double() for name, value in state.items()}
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value.double(), average[name], atol=1e-6), name
    assert model[1].num_batches_tracked == 8


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"epochs": math.nan}, {"std": (1.0, 0.0)}])
def test_refuses_what_cannot_be(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        fit(network(), Pictures(), **{"recipe": PLAIN, "epochs": 1, "seed": 0, **SCALE, **wrong})
    with pytest.raises(UserError, match="empty"):
        fit(network(), Pictures(0), recipe=PLAIN, epochs=1, seed=0, **SCALE)


# -- checkpoints ------------------------------------------------------------------------------------


class Killed(Exception):
    pass


def killer(at: int):
    def stop(step, *_):
        if step == at:
            raise Killed

    return stop


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("selector", ["full", "random"])
@pytest.mark.parametrize("kills", [(1,), (5, 6), (4, 9, 13), (14,)])
def test_a_killed_training_goes_on_as_if_nothing_had_happened(tmp_path, kills, selector, ema):
    part = Pictures(61)
    recipe = replace(PLAIN, batch_size=10, flip=True, shift=1, cutout=2, ema=ema, balanced=True)

    def train(model, **extra):
        chosen = SELECTORS[selector](part, seed=5, share=0.7)
        done = fit(model, part, recipe=recipe, epochs=2.4, seed=5, selector=chosen, **SCALE, **extra)
        return done, chosen

    whole = network(dropout=0.3)
    expected, chosen = train(whole)
    assert expected.steps == 14
    path = tmp_path / "deep" / "fit.pt"
    for number, kill in enumerate(kills):  # the first weights come from the caller, later ones from the checkpoint
        with pytest.raises(Killed):
            train(network(seed=number, dropout=0.3), checkpoint=path, every=0.0, on_progress=killer(kill))
    resumed = network(seed=8, dropout=0.3)
    found, again = train(resumed, checkpoint=path)
    assert same(resumed, whole)
    assert found.history == expected.history
    assert found.steps == expected.steps
    for name, value in chosen.state_dict().items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(again.state_dict()[name])), name
    assert [p.name for p in path.parent.iterdir()] == ["fit.pt"]


def test_a_killed_training_with_a_teacher_goes_on_too(tmp_path):
    part, path, teacher = Pictures(40), tmp_path / "fit.pt", Teacher(network(seed=9))
    job = {"recipe": PLAIN, "epochs": 2, "seed": 5, "teacher": teacher, **SCALE}
    whole, resumed = network(), network()
    expected = fit(whole, part, **job)
    with pytest.raises(Killed):
        fit(network(), part, **job, checkpoint=path, every=0.0, on_progress=killer(3))
    found = fit(resumed, part, **job, checkpoint=path)
    assert same(resumed, whole)
    assert found.history == expected.history
    with pytest.raises(UserError, match=r"teacher was .*, now None"):
        fit(network(), part, **{**job, "teacher": None}, checkpoint=path)


@pytest.mark.parametrize("size", [23, 24, 40, 100])
def test_small_rounds_are_as_many_steps_as_they_have_images(size):
    """Rounds of a few batches: the training sees as many images as its epochs say, whatever the rounds' size."""
    part = Pictures(100)
    selector = SELECTORS["random"](part, seed=0, size=size)
    done = fit(network(), part, recipe=replace(PLAIN, batch_size=16), epochs=12, seed=0, selector=selector, **SCALE)
    assert done.epochs == 12
    assert abs(selector.record.spent - 1200) <= size
    assert selector.record.progress >= 1 - 2 * size / 1200


def test_checkpoints_between_which_steps_are_lost(tmp_path):
    """Only every third step is saved; a kill after the fifth goes on from the third."""
    part, path, copies = Pictures(64), tmp_path / "fit.pt", []
    recipe = replace(PLAIN, batch_size=8, shift=1)

    def watch(step, *_):
        if step == 4:
            copies.append(path.read_bytes())
        if step == 7:
            raise Killed

    with pytest.raises(Killed):
        fit(network(), part, recipe=recipe, epochs=2, seed=0, checkpoint=path, every=0.0, on_progress=watch, **SCALE)
    path.write_bytes(copies[0])
    steps: list[int] = []
    resumed, whole = network(seed=3), network()
    fit(resumed, part, recipe=recipe, epochs=2, seed=0, checkpoint=path,
        on_progress=lambda *a: steps.append(a[0]), **SCALE)  # fmt: skip
    fit(whole, part, recipe=recipe, epochs=2, seed=0, **SCALE)
    assert steps == list(range(5, 17))
    assert same(resumed, whole)


def test_a_finished_checkpoint_is_not_trained_again(tmp_path):
    part, path, steps = Pictures(), tmp_path / "fit.pt", []
    first, second = network(), network(seed=4)
    job = {"recipe": replace(PLAIN, ema=0.9), "epochs": 1, "seed": 0, "checkpoint": path, **SCALE}
    a = fit(first, part, **job)
    b = fit(second, part, **job, on_progress=lambda *x: steps.append(x))
    assert steps == []
    assert same(first, second)
    assert a.history == b.history
    assert b.seconds == pytest.approx(a.seconds, abs=0.5)


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    part, path = Pictures(), tmp_path / "fit.pt"
    job = {"recipe": PLAIN, "epochs": 1, "seed": 0, "checkpoint": path, **SCALE}
    fit(network(), part, **job)
    with pytest.raises(UserError, match="seed was 0, now 1"):
        fit(network(), part, **{**job, "seed": 1})
    with pytest.raises(UserError, match="another network"):
        fit(nn.Sequential(nn.Flatten(), nn.Linear(128, 3)), part, **job)
    for content in (b"", b"no checkpoint at all", path.read_bytes()[:-500]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="delete"):
            fit(network(), part, **job)


# -- a training that is shortened -------------------------------------------------------------------


def test_shortening_decays_over_what_is_left_and_can_be_replayed(tmp_path):
    part, recipe = Pictures(40), replace(PLAIN, lr=1e-3, batch_size=4, warmup=0.2, shift=1)
    asked: list[float] = []

    def allow(done: float) -> float | None:
        asked.append(done)
        return 1.4 if len(asked) == 10 else (9.0 if len(asked) == 3 else None)

    model = network()
    done = fit(model, part, recipe=recipe, epochs=2, seed=0, allow=allow, **SCALE)
    assert asked == pytest.approx([i / 10 for i in range(1, 15)])
    assert (done.steps, done.epochs) == (14, 1.4)
    assert done.changes == [{"done": 1.0, "epochs": 1.4}]
    plain = [learning_rate(recipe, (i + 0.5) / 20) for i in range(10)]
    here = learning_rate(recipe, 0.5)
    rates = {entry["step"]: entry["lr"] for entry in done.history}
    assert rates[10] == pytest.approx(plain[9])
    assert [rates[s] for s in (12, 14)] == pytest.approx([here * (1 - 1.5 / 4), here * (1 - 3.5 / 4)])

    changes = json.loads(json.dumps(done.changes))
    again = network()
    repeated = fit(again, part, recipe=recipe, epochs=2, seed=0, allow=replay(changes), **SCALE)
    assert same(model, again)
    assert repeated.changes == changes
    for kill in (9, 10, 12):
        path = tmp_path / f"{kill}.pt"
        job = {"recipe": recipe, "epochs": 2, "seed": 0, "checkpoint": path, "every": 0.0, **SCALE}
        with pytest.raises(Killed):
            fit(network(), part, **job, allow=replay(changes), on_progress=killer(kill))
        resumed = network(seed=2)
        assert fit(resumed, part, **job, allow=replay(changes)).changes == changes
        assert same(model, resumed)


def test_shortening_to_the_past_stops_at_once():
    done = fit(network(), Pictures(40), recipe=replace(PLAIN, batch_size=4), epochs=3, seed=0,
               allow=lambda d: 0.1 if d >= 0.5 else None, **SCALE)  # fmt: skip
    assert done.steps == 5
    assert done.history[-1]["step"] == 5


# -- Lightning Fabric -------------------------------------------------------------------------------


def test_mixed_precision_learns_and_resumes_exactly(tmp_path):
    recipe, part = replace(PLAIN, precision="bf16-mixed", batch_size=8, ema=0.8), Pictures(24)
    model, resumed, path = network(), network(), tmp_path / "fit.pt"
    fit(model, part, recipe=recipe, epochs=30, seed=0, **SCALE)
    assert evaluate(model, part, **SCALE).accuracy > 0.9
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    job = {"recipe": recipe, "epochs": 30, "seed": 0, "checkpoint": path, "every": 0.0, **SCALE}
    with pytest.raises(Killed):
        fit(resumed, part, **job, on_progress=killer(7))
    resumed = network(seed=1)
    fit(resumed, part, **job)
    assert same(model, resumed)


def test_plain_training_does_not_import_fabric():
    import subprocess
    import sys

    code = "import sys, archscout.fit; sys.exit('lightning_fabric' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_two_processes_train_the_same_network(tmp_path):
    part = Pictures(48)
    recipe = replace(PLAIN, batch_size=8, weight_decay=0.0)

    def plain() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            # More than 64 kB of weights: as much as a pipe between processes holds.
            body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 160), nn.ReLU())
            return nn.Sequential(*body, nn.Linear(160, 3))

    one, two = plain(), plain()
    a = fit(one, part, recipe=recipe, epochs=1.5, seed=0, **SCALE)
    path = tmp_path / "fit.pt"
    selector = SELECTORS["full"](part, seed=0)
    b = fit(two, part, recipe=recipe, epochs=1.5, seed=0, devices=2, selector=selector, checkpoint=path, **SCALE)
    assert b.steps == a.steps == 9
    for left, right in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.allclose(left, right, atol=1e-5)
    assert [entry["loss"] for entry in b.history] == pytest.approx([entry["loss"] for entry in a.history], abs=1e-4)
    assert selector.record.round == 2
    assert (selector.record.seen > 0).all()
    assert path.exists()


# -- evaluation -------------------------------------------------------------------------------------


def test_evaluation_against_a_loop_over_images():
    part, model = Pictures(33), network(dropout=0.5)
    found = evaluate(model, part, batch_size=8, **SCALE)
    model.eval()
    for i in range(33):
        pixels = (part.images[i].astype(np.float64) - SCALE["mean"]) / SCALE["std"]
        logits = model(torch.from_numpy(pixels).float().permute(2, 0, 1)[None])[0].double().detach().numpy()
        chances = np.exp(logits) / np.exp(logits).sum()
        assert found.predictions[i] == chances.argmax()
        assert found.confidence[i] == pytest.approx(chances.max(), rel=1e-4)
        assert found.losses[i] == pytest.approx(-np.log(chances[part.labels[i]]), rel=1e-4)
    assert (found.labels == part.labels).all()


@pytest.mark.parametrize("absent", [False, True])
def test_metrics_are_those_of_scikit_learn(absent):
    rng = np.random.default_rng(4)
    truth, said = rng.integers(5, size=200), rng.integers(5, size=200)
    said[said == 2] = 1
    if absent:
        truth[truth == 3] = 0
    found = Evaluation(truth, said, np.ones(200), np.ones(200), 5)
    assert found.accuracy == pytest.approx(metrics.accuracy_score(truth, said))
    present = np.unique(truth)
    recalls = metrics.recall_score(truth, said, labels=present, average=None)
    assert found.balanced_accuracy == pytest.approx(recalls.mean())
    assert (found.confusion == metrics.confusion_matrix(truth, said, labels=range(5))).all()
    precision = metrics.precision_score(truth, said, labels=range(5), average=None, zero_division=0)
    for c, row in enumerate(found.per_class):
        assert row["n"] == (truth == c).sum()
        assert row["recall"] == (pytest.approx(recalls[list(present).index(c)]) if c in present else None)
        assert row["precision"] == (None if c == 2 else pytest.approx(precision[c]))
    assert json.dumps(found.per_class)


def test_hand_count():
    found = Evaluation(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), np.ones(4), np.array([1.0, 2, 3, 4]), 2)
    assert (found.accuracy, found.balanced_accuracy, found.loss) == (0.75, pytest.approx(5 / 6), 2.5)
    assert found.confusion.tolist() == [[2, 1], [0, 1]]
    assert found.metric("balanced_accuracy") == found.balanced_accuracy
    with pytest.raises(UserError, match="did you mean 'accuracy'"):
        found.metric("acuracy")


def test_evaluation_fails_by_name():
    with pytest.raises(UserError, match="empty"):
        evaluate(network(), Pictures(0), **SCALE)
    broken = network()
    nn.init.constant_(broken[6].bias, math.nan)
    with pytest.raises(ArithmeticError, match="not finite"):
        evaluate(broken, Pictures(), **SCALE)


# -- real images ------------------------------------------------------------------------------------


def test_digits_are_learnt():
    data = load("digits")
    recipe = recipe_for(data.part("train"), data.shape, 10, mirrors=data.mirrors, balanced=False, epochs=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10),
        )  # fmt: skip
    fit(model, data.part("train"), recipe=recipe, epochs=4, seed=0, mean=data.mean, std=data.std)
    assert evaluate(model, data.part("validation"), mean=data.mean, std=data.std).accuracy > 0.93
