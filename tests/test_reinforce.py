"""The policy gradient: against the exact gradient of what it climbs, and what it learns from."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from test_strategies import SCORES, search, space

from archscout.errors import UserError
from archscout.strategies.prune import score_row
from archscout.strategies.reinforce import Policy, Reinforce

WIDTHS = (2, 3, 4)


def policy(depends: bool) -> Policy:
    found, rng = Policy(WIDTHS, depends), np.random.default_rng(0)
    found.bias[:] = rng.normal(size=found.bias.shape)
    if found.pairs is not None:
        found.pairs[:] = rng.normal(size=found.pairs.shape)
    return found


def everything() -> list[tuple[int, ...]]:
    return list(product(*(range(width) for width in WIDTHS)))


@pytest.mark.parametrize("depends", [False, True])
def test_probabilities_are_a_distribution_and_draws_follow_it(depends: bool) -> None:
    found = policy(depends)
    shares = np.exp([found.log_probability(arch) for arch in everything()])
    assert shares.sum() == pytest.approx(1)
    rng = np.random.default_rng(1)
    drawn = [found.draw(rng) for _ in range(4000)]
    counts = np.array([drawn.count(arch) for arch in everything()])
    assert counts.sum() == 4000  # nothing outside the options
    assert ((counts - 4000 * shares) ** 2 / (4000 * shares)).sum() < 49  # chi square, 23 degrees: p about .001


def test_an_independent_policy_has_the_gradient_of_the_text_book() -> None:
    """Of independent softmaxes: one-hot minus probability."""
    found = policy(False)
    rows, pairs = found.gradient((1, 0, 3), advantage=2.0, entropy=0.0)
    assert pairs is None
    for decision, option in enumerate((1, 0, 3)):
        shares = found.probabilities(decision, ())
        expected = 2.0 * (np.arange(4) == option) - 2.0 * shares
        assert rows[decision] == pytest.approx(expected)


@pytest.mark.parametrize("depends", [False, True])
def test_the_mean_gradient_is_that_of_the_expected_reward(depends: bool) -> None:
    """Williams's theorem by enumeration: the mean of (R - b) grad log p over all draws is grad E[R], whatever b."""
    found = policy(depends)
    rewards = dict(zip(everything(), np.random.default_rng(2).normal(size=24), strict=True))

    def expected() -> float:
        return sum(np.exp(found.log_probability(arch)) * reward for arch, reward in rewards.items())

    tables = [found.bias] if found.pairs is None else [found.bias, found.pairs]
    mean = [np.zeros_like(table) for table in tables]
    for arch, reward in rewards.items():
        share = np.exp(found.log_probability(arch))
        for total, slope in zip(mean, found.gradient(arch, reward - 0.7, entropy=0.0), strict=False):
            total += share * slope
    for table, slope in zip(tables, mean, strict=True):
        numeric = np.zeros_like(table)
        for place in np.ndindex(table.shape):
            kept, ends = table[place], []
            for step in (1e-5, -1e-5):
                table[place] = kept + step
                ends.append(expected())
            table[place] = kept
            numeric[place] = (ends[0] - ends[1]) / 2e-5
        assert slope == pytest.approx(numeric, abs=1e-8)


def test_the_bonus_is_the_gradient_of_the_entropy() -> None:
    found = policy(False)

    def entropy() -> float:
        shares = [found.probabilities(decision, ()) for decision in range(3)]
        return float(-sum((p[p > 0] * np.log(p[p > 0])).sum() for p in shares))

    rows, _ = found.gradient((0, 0, 0), advantage=0.0, entropy=1.0)
    for place in np.ndindex(rows.shape):
        kept, ends = found.bias[place], []
        for step in (1e-5, -1e-5):
            found.bias[place] = kept + step
            ends.append(entropy())
        found.bias[place] = kept
        assert rows[place] == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-8)


@pytest.mark.parametrize("depends", [False, True])
def test_the_policy_settles_on_the_best(depends: bool) -> None:
    """4**6 architectures; the reward is highest where all decisions are 2."""
    toy = space(6, 4)
    controller = Reinforce(toy, seed=0, goal=SCORES, depends=depends, retries=0)
    search(controller, 800, 8, lambda arch: {"total": -float(sum(abs(index - 2) for index in arch))})
    assert np.exp(controller.policy.log_probability((2,) * 6)) > 0.5


def test_dependent_decisions_are_learned_only_by_a_policy_that_depends() -> None:
    """The reward wants equal neighbours and no option in particular: independent softmaxes cannot hold that."""

    def evaluate(arch: tuple[int, ...]) -> dict[str, float]:
        return {"total": float(sum(a == b for a, b in pairwise(arch)))}

    controller = Reinforce(space(4, 3), seed=0, goal=SCORES, depends=True, entropy=0.3, retries=0)
    search(controller, 1500, 10, evaluate)
    kept = [evaluate(controller.policy.draw(np.random.default_rng(seed)))["total"] for seed in range(200)]
    assert np.mean(kept) > 2.0  # by chance 1.0
    assert controller.policy.probabilities(0, ()).max() < 0.9  # no option was preferred for that


def test_tells_in_parts_are_the_same_as_at_once() -> None:
    one, other = (Reinforce(space(), seed=0, goal=SCORES) for _ in range(2))
    archs = one.ask(12)
    assert other.ask(12) == archs
    values = [{"violation": 0.0, "total": float(sum(arch))} for arch in archs]
    one.tell(archs, values)
    for start in range(0, 12, 5):
        other.tell(archs[start : start + 5], values[start : start + 5])
    assert np.array_equal(one.policy.bias, other.policy.bias)
    assert one.ask(5) == other.ask(5)


def test_what_was_left_untrained_teaches_nothing_and_what_failed_does() -> None:
    controller = Reinforce(space(3, 3), seed=0, goal=SCORES)
    archs = controller.ask(4)
    controller.tell(archs[:2], [{"violation": 0.0, "total": 1.0}, {"violation": 0.0, "total": 2.0}])
    before = controller.policy.bias.copy()
    controller.tell(archs[2:3], [{"violation": 0.0, "skipped": 1.0}])
    assert np.array_equal(controller.policy.bias, before)
    controller.tell(archs[3:], [{"violation": 0.4}])
    assert not np.array_equal(controller.policy.bias, before)
    values = [{}, {"violation": 0.5}, {"violation": 0.4}, {"violation": 0.1}, {"total": 1.5}, {"total": 3.0}]
    rewards = [controller._reward(score_row(value, SCORES), ()) for value in values]
    assert rewards == pytest.approx([0, 0, 1 / 6, 1 / 3, 2 / 3, 1])  # failed, infeasible, scored


def test_it_starts_where_it_is_told_to() -> None:
    good = [(0, 1, 2), (0, 1, 0), (0, 2, 2)]
    controller = Reinforce(space(3, 3), seed=0, goal=SCORES, start=good)
    shares = [controller.policy.probabilities(decision, ()) for decision in range(3)]
    assert np.stack(shares) == pytest.approx(np.array([[4, 1, 1], [1, 3, 2], [2, 1, 3]]) / 6)
    assert controller.ask(3) == good


def test_arguments_are_checked() -> None:
    with pytest.raises(UserError, match="lr above 0"):
        Reinforce(space(), seed=0, goal=SCORES, lr=0.0)
    with pytest.raises(UserError, match="memory"):
        Reinforce(space(), seed=0, goal=SCORES, memory=0)
