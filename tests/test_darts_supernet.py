"""The supernet of the DARTS space: one-hot it is the discrete network, mixed it is the plain sum; how it derives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import archscout
from archscout.differentiable.choice import chosen, relax, softmax, weights_of
from archscout.differentiable.darts import by_perturbation, darts
from archscout.differentiable.pdarts import SCHEDULES, cap_skips, pdarts, strongest
from archscout.differentiable.stage import expected, linear_costs, within_limits
from archscout.errors import UserError
from archscout.propose import Costing
from archscout.spaces.darts import NODES, NONE, OPS, SKIP, Place, cells_of, operation
from archscout.spaces.darts import darts as darts_space
from archscout.spaces.macro import macro
from archscout.supernets.darts import EDGES, MixedCell, SuperNetwork, copy_convolutions

pytestmark = pytest.mark.usefixtures("quick_profile")

SPACE = darts_space((3, 8, 8), 3, channels=4, layers=3)
TINY = {"cells": 3, "channels": 2}
PLACE = {"mean": (125.0, 125.0, 125.0), "std": (40.0, 40.0, 40.0)}
MAX = OPS.index("max_pool_3x3")


class Images:
    def __init__(self, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.labels = np.arange(n) % 3
        base = rng.integers(60, 190, (n, 3, 8, 8))
        base[self.labels == 1, 0] += 50
        base[self.labels == 2, 1] += 50
        self.pixels = torch.from_numpy(base.astype(np.uint8))

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, positions):
        rows = np.asarray(positions)
        return torch.from_numpy(rows), self.pixels[rows], torch.from_numpy(self.labels[rows])


def made(**options) -> SuperNetwork:
    torch.manual_seed(0)
    return relax(SPACE, "darts", **{**TINY, **options})


def random_archs(n: int, seed: int = 0) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(seed)
    widths = [len(options) for options in SPACE.choices.values()]
    return [tuple(int(rng.integers(width)) for width in widths) for _ in range(n)]


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 9, 7), (3, 96, 100)])
def test_with_one_hot_choices_it_is_the_discrete_network(shape: tuple[int, int, int]) -> None:
    """Both with the statistics of the batch; where nothing is chosen a row is zero, or one at `none`."""
    torch.manual_seed(0)
    supernet = relax(darts_space(shape, 5), "pdarts", cells=4, channels=4).train()
    images = torch.randn(5, *shape)
    for number, arch in enumerate(random_archs(12)):
        choice = supernet.chosen(arch)
        assert choice.sum() == 16
        assert supernet.derive(choice) == arch
        if number % 2:
            choice[choice.sum(1) == 0, NONE] = 1.0
            assert supernet.derive(choice) == arch
        with torch.no_grad():
            wanted, found = supernet.discrete(arch).train()(images), supernet(images, choice)
        assert torch.allclose(found, wanted, atol=1e-5), (arch, (found - wanted).abs().max())


@pytest.mark.parametrize("reduction", [False, True])
def test_what_edges_share_changes_nothing(reduction: bool) -> None:
    """A mixed cell against the plain sum of every operation of every edge, each with a module of its own."""
    torch.manual_seed(0)
    place = Place(4, 8, 4, reduction, False)
    cell = MixedCell(place, [range(len(OPS))] * len(EDGES)).double()
    choice = torch.rand(len(EDGES), len(OPS), dtype=torch.float64).requires_grad_()
    x, y = torch.randn(3, 4, 7, 6).double(), torch.randn(3, 8, 7, 6).double()
    nodes = [cell.before(x), cell.last(y)]
    for node in NODES:
        total = torch.zeros(())
        for edge, (source, target) in enumerate(EDGES):
            for op in range(1, len(OPS)):
                if target == node:
                    module = operation(op, 4, 2 if reduction and source < 2 else 1, normed_pools=True).double().train()
                    if f"{edge}_{op}" in cell.made:
                        with torch.no_grad():
                            copy_convolutions(cell.made[f"{edge}_{op}"], module)
                    total = total + choice[edge, op] * module(nodes[source])
        nodes.append(total)
    wanted, found = torch.cat(nodes[2:], 1), cell(x, y, choice)
    torch.testing.assert_close(found, wanted)
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), [choice, *cell.before.parameters()]),
        torch.autograd.grad(wanted.square().sum(), [choice, *cell.before.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_it_has_the_published_size() -> None:
    """1.930618 million weights with 16 channels and 8 cells for 10 classes, as the code of DARTS logs."""
    with torch.device("meta"):
        supernet = relax(darts_space((3, 32, 32), 10), "darts")
    assert sum(p.numel() for p in weights_of(supernet)) == 1_930_618
    assert supernet.alphas.shape == (28, 8)
    assert supernet.cells_in_all == 8


def test_maps_stay_channels_last_and_every_alpha_learns() -> None:
    supernet = made().to(memory_format=torch.channels_last)
    seen = []
    for cell in supernet.cells:
        cell.register_forward_hook(lambda m, i, o: seen.append(o.is_contiguous(memory_format=torch.channels_last)))
    images = torch.randn(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    supernet(images, softmax(supernet.logits())).square().sum().backward()
    assert seen == [True] * 3
    assert (supernet.alphas.grad != 0).all()
    assert all(p.grad is not None for p in weights_of(supernet))


def test_a_supernet_of_fewer_operations_is_the_same_where_it_has_them() -> None:
    rng = np.random.default_rng(2)
    allowed = [sorted({int(rng.integers(1, 8)), *rng.choice(8, 2, replace=False).tolist()}) for _ in range(28)]
    supernet = made(allowed=allowed)
    assert supernet.allowed == [tuple(ops) for ops in allowed]
    chance = softmax(supernet.logits()).detach()
    for row, ops in zip(chance, allowed, strict=True):
        assert row.nonzero().squeeze(1).tolist() == ops
    whole, arch = made(), supernet.derive(chance)
    for ours, theirs in zip(supernet.cells, whole.cells, strict=True):
        theirs.load_state_dict({**theirs.state_dict(), **ours.state_dict()})
    for part in ("stem", "classifier"):
        getattr(whole, part).load_state_dict(getattr(supernet, part).state_dict())
    images = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        assert torch.allclose(supernet(images, chance), whole(images, chance), atol=1e-5)
        one_hot = supernet.chosen(arch)
        assert torch.allclose(supernet(images, one_hot), supernet.discrete(arch).train()(images), atol=1e-5)
    count = [sum(p.numel() for p in weights_of(net)) for net in (supernet, whole)]
    assert count[0] < 0.6 * count[1]


@pytest.mark.parametrize("wrong", [[[1]] * 27, [[0]] + [[1]] * 27, [[]] + [[1]] * 27, [[8, 1]] + [[1]] * 27])
def test_wrong_operations_and_sizes_are_refused(wrong) -> None:
    with pytest.raises(UserError, match="each with one besides 0"):
        made(allowed=wrong)
    with pytest.raises(UserError, match="cells >= 3"):
        made(cells=2)


# -- from a choice to an architecture --


def by_the_rule(choice: list[list[float]]) -> list[set[tuple[int, int, str]]]:
    """Per cell {(node, source, operation)}: for each node every pair of edges is tried, and the strongest kept."""
    cells = []
    for start in (0, 14):
        found, at = set(), start
        for node in NODES:
            best = [max(range(1, 8), key=lambda op, at=at, s=s: choice[at + s][op]) for s in range(node)]
            strength = [choice[at + s][best[s]] for s in range(node)]
            pairs = [(a, b) for a in range(node) for b in range(a + 1, node)]
            one, other = max(pairs, key=lambda pair, strength=strength: strength[pair[0]] + strength[pair[1]])
            found |= {(node, source, OPS[best[source]]) for source in (one, other)}
            at += node
        cells.append(found)
    return cells


def test_derives_the_two_strongest_inputs() -> None:
    supernet = made()
    for seed in range(40):
        choice = torch.rand(28, 8, generator=torch.Generator().manual_seed(seed))
        choice[:, NONE] *= 3  # never taken, however strong
        arch = supernet.derive(choice)
        found = [
            {(node, source, OPS[op]) for node, edges in zip(NODES, cell, strict=True) for source, op in edges}
            for cell in cells_of(arch)
        ]
        assert found == by_the_rule(choice.tolist())


def test_ties_are_decided_the_same_way_every_time() -> None:
    supernet = made()
    first = ((0, MAX), (1, MAX))
    assert cells_of(supernet.derive(torch.full((28, 8), 1 / 8))) == ((first,) * 4,) * 2
    choice = torch.full((28, 8), 0.1)
    choice[EDGES.index((3, 5)), SKIP] = choice[EDGES.index((4, 5)), SKIP] = choice[EDGES.index((2, 5)), SKIP] = 0.2
    assert cells_of(supernet.derive(choice))[0][3] == ((2, SKIP), (3, SKIP))


def capped(choice: list[list[float]], most: int) -> list[list[float]]:
    """The cap of P-DARTS, slowly: the weakest derived skip of the normal cell goes, and all is derived anew."""
    choice = [list(row) for row in choice]
    while True:
        skips = [(node, source) for node, source, op in by_the_rule(choice)[0] if op == "skip_connect"]
        if len(skips) <= most:
            return choice
        rows = [EDGES.index((source, node)) for node, source in skips]
        choice[min(rows, key=lambda row: choice[row][SKIP])][SKIP] = 0.0


@pytest.mark.parametrize("most", [0, 2])
def test_the_cap_on_skips_derives_anew_after_each(most: int) -> None:
    supernet, moved = made(), 0
    for seed in range(20):
        choice = torch.rand(28, 8, generator=torch.Generator().manual_seed(seed)).double()
        choice[:, SKIP] += 1.0  # all are skips at first
        before, found = supernet.derive(choice), cap_skips(supernet, choice, most)
        assert found.tolist() == capped(choice.tolist(), most)
        after = supernet.derive(found)
        assert supernet.skips(before) == 8
        assert supernet.skips(after) <= most
        assert cells_of(after)[1] == cells_of(before)[1]  # those of the reduction cell are not counted
        sources = [[[source for source, _ in edges] for edges in cells_of(arch)[0]] for arch in (before, after)]
        moved += sources[0] != sources[1]
    assert moved > 5  # other edges came in, which cutting skips alone would not do
    assert torch.equal(cap_skips(supernet, choice, None), choice)


def test_edges_that_have_only_skips_keep_them() -> None:
    supernet = made(allowed=[[NONE, SKIP]] * 14 + [[1, 2, 3]] * 14)
    choice = softmax(supernet.logits()).detach()
    assert supernet.skips(supernet.derive(cap_skips(supernet, choice, 2))) == 8


def test_chosen_is_the_inverse_of_derive() -> None:
    supernet = made()
    for arch in random_archs(20, seed=3):
        rows = chosen(supernet, arch, 8)
        assert supernet.derive(rows) == arch
        assert supernet.skips(arch) == int(rows[:14, SKIP].sum())
        for group in supernet.rivals:
            assert int(rows[list(group)].sum()) == 2
    assert sorted(len(group) for group in supernet.rivals) == [2, 2, 3, 3, 4, 4, 5, 5]


def test_dropout_takes_identities_alone() -> None:
    supernet = made()
    images, choice = torch.randn(4, 3, 8, 8), softmax(supernet.logits()).detach()
    with torch.no_grad():
        kept = supernet(images, choice, [torch.ones(28, 4)] * 3)
        torch.testing.assert_close(kept, supernet(images, choice))
        without = choice.clone()
        without[:14, SKIP] = 0
        for edge, (source, _) in enumerate(EDGES):
            without[14 + edge, SKIP] *= source < 2  # in reduction cells those of the inputs have weights
        dropped = supernet(images, choice, [torch.zeros(28, 4)] * 3)
        torch.testing.assert_close(dropped, supernet(images, without))


def test_perturbation_keeps_two_edges_of_each_node() -> None:
    supernet = made(allowed=[(NONE, SKIP, 4)] * 28)
    choice = by_perturbation(supernet, softmax(supernet.logits()).detach(), Images(6, 0), seed=0, device="cpu", **PLACE)
    assert choice[:, NONE].sum() == 0
    for group in supernet.rivals:
        assert choice[list(group)].sum() == 2
    assert torch.equal(supernet.chosen(supernet.derive(choice)), choice)


# -- searches --


@pytest.mark.parametrize("order", [1, 2])
def test_darts_searches_the_space(order: int) -> None:
    options = {"epochs": 2, "batch_size": 6, "order": order, "supernet": TINY, "seed": 1, **PLACE}
    found = darts(SPACE, Images(6, 0), Images(6, 1), **options)
    assert found.arch in SPACE
    assert len(found.story.history) == 2
    assert found.story.history[-1]["skips"] == found.supernet.skips(found.arch)
    assert found.story.alphas[0] != found.story.alphas[1]
    again = darts(SPACE, Images(6, 0), Images(6, 1), **{**options, "epochs": 1})
    assert again.story.alphas == found.story.alphas[:1]


def tiny(input_shape, classes):
    return darts_space(input_shape, classes, channels=2, layers=3)


@pytest.mark.slow
def test_the_main_job_searches_the_space_within_limits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 2
    pixels = (rng.integers(60, 190, (100, 8, 8, 3)) + 40 * labels[:, None, None, None]).clip(0, 255).astype(np.uint8)
    space = tiny((3, 8, 8), 2)
    relaxed = relax(space, "darts")
    assert relaxed.arguments[2:] == (2, 3)
    result = archscout.search(
        (pixels, labels), space=tiny, strategy="darts", limits={"params": "1.6k"}, finalists=1, epochs=0.5,
        supernet={"epochs": 4}, out=tmp_path / "run", workers=0, threads=1, train_threads=1,
    )  # fmt: skip
    found = result.events["supernet"]
    assert found["method"] == "darts"
    assert Costing(space, {"params": 1600.0})(space.parse(found["arch"]))["violation"] <= 0
    assert len(found["story"]["alphas"][0]) == 28
    again = archscout.train(
        (pixels, labels), run=tmp_path / "run", space=tiny, arch=found["arch"], epochs=0.5, out=tmp_path / "again"
    )
    assert again.best["arch"] == found["arch"]


def test_pdarts_by_its_published_schedule() -> None:
    """5, 11 and 17 cells; 8, 5 and 3 operations; dropout of 0, .4 and .7; at most 2 skips in the normal cell."""
    schedule = SCHEDULES["darts"]
    assert (schedule.depths, schedule.options, schedule.dropout) == ((5, 11, 17), (8, 5, 3), (0.0, 0.4, 0.7))
    found = pdarts(
        SPACE, Images(8, 0), Images(8, 1), epochs=1, batch_size=4, wait=0.5, supernet={"channels": 2}, **PLACE
    )
    assert [entry["stage"] for entry in found.story.history] == [0, 1, 2]
    assert found.story.step == 6
    assert found.supernet.cells_in_all == 17
    assert [len(ops) for ops in found.supernet.allowed] == [3] * 28
    assert found.arch in SPACE
    assert found.supernet.skips(found.arch) <= 2
    allowed = found.supernet.allowed
    for decision, op in found.supernet.chosen(found.arch).nonzero().tolist():
        assert op in allowed[decision]
    kept = strongest(torch.tensor(found.story.alphas[0]), [range(8)] * 28, 5)
    shown = torch.tensor(found.story.alphas[1])
    assert [tuple(row.nonzero().squeeze(1).tolist()) for row in shown] == kept
    with pytest.raises(UserError, match="no schedule for space 'macro'"):
        pdarts(macro((3, 8, 8), 3), Images(8, 0), Images(8, 1), **PLACE)


class Additive:
    """Costs that are exactly a sum over the operations of edges, and a limit on them."""

    def __init__(self, table: torch.Tensor, limit: float) -> None:
        self.space, self.limits, self.table, self.supernet = SPACE, {"params": limit}, table, made()

    def __call__(self, arch: tuple[int, ...]) -> dict[str, float]:
        cost = 100.0 + float((self.supernet.chosen(arch) * self.table).sum())
        return {"params": cost, "violation": max(0.0, cost / self.limits["params"] - 1)}

    def upper(self, costs: dict[str, float]) -> dict[str, float]:
        return costs


def test_limits_steer_and_move_within_the_space() -> None:
    table = 50 * torch.rand(28, 8, generator=torch.Generator().manual_seed(0))
    costing = Additive(table, 1e9)
    supernet = costing.supernet
    model = linear_costs(costing, np.random.default_rng(0), supernet=supernet)["params"]
    assert model[1].shape == (28, 8)
    archs = random_archs(25, seed=5)
    told = [float(expected(model, supernet.chosen(arch))) for arch in archs]
    assert told == pytest.approx([costing(arch)["params"] for arch in archs], rel=0.01)
    choice = torch.rand(28, 8, generator=torch.Generator().manual_seed(0)).softmax(1)
    arch = supernet.derive(choice)
    costing.limits["params"] = 0.85 * costing(arch)["params"]
    moved = within_limits(costing, choice, arch, supernet=supernet)
    assert costing(moved)["violation"] <= 0 < costing(arch)["violation"]
    assert 0 < sum(a != b for a, b in zip(arch, moved, strict=True)) <= 12
    fewer, asked, counted = Additive(table, costing.limits["params"]), [], Additive.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Additive, "__call__", lambda self, arch: asked.append(arch) or counted(self, arch))
        led = within_limits(fewer, choice, arch, supernet=supernet, models={"params": model})
    assert costing(led)["violation"] <= 0
    lost = [float((choice.log() * (supernet.chosen(arch) - supernet.chosen(end))).sum()) for end in (moved, led)]
    assert lost[1] == pytest.approx(lost[0], rel=0.2)  # by the model, which is off by a hundredth
    assert len(asked) < 40  # all single changes are some hundred, per step


def test_real_costs_are_taken_under_the_canonical_form() -> None:
    costing, supernet = Costing(SPACE, {"params": 5200.0}), made()
    choice = torch.rand(28, 8, generator=torch.Generator().manual_seed(1)).softmax(1)
    choice[:, 1] += 0.3  # pools have no parameters: nothing has to move
    arch = supernet.derive(choice)
    assert within_limits(costing, choice, arch, supernet=supernet) == arch
    assert list(costing.known) == [SPACE.canonical(arch)]
