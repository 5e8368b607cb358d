"""Budgets into counts: the counts fit the time, follow the data, and given counts depend on the config alone."""

from __future__ import annotations

import pytest

from archscout.config import Config, make_config, parse_seconds
from archscout.errors import UserError
from archscout.plan import (
    CONTROLS,
    FINALISTS,
    LEAST_EPOCHS,
    REFERENCE_MS,
    Plan,
    Rates,
    affordable_finalists,
    audit_seconds,
    first_epochs,
    halvings,
    most_epochs,
    plan_budget,
    plan_counts,
    wanted_epochs,
    waves,
    with_verification,
)

RATES = Rates(score_seconds=0.4, training_ms=(0.5, 1.0, 3.0), spent=20.0)


def planned(budget: float, images: int, **settings: object) -> Plan:
    config = Config(data="digits", budget=budget, workers=2, **settings)
    return plan_budget(config, RATES, train=int(0.6 * images), final=int(0.8 * images), total=images)


def seconds_of(plan: Plan, epoch: float) -> float:
    """Seconds of the trainings of verification, where an epoch takes so many."""
    alive, verifying = plan.finalists, 0.0
    for epochs in plan.rounds:
        verifying += (alive + CONTROLS) * epochs * epoch
        alive = max(1, alive // 2)
    return verifying


def test_much_time_is_used_at_the_speed_of_the_networks_and_not_of_the_slowest_allowed() -> None:
    """In a day a full training of 60,000 images may take 7 ms an image, but the networks take 3."""
    plan = planned(86_400.0, 60_000)
    assert plan.training_limit > 2 * RATES.training_ms[2]
    assert plan.finalists >= 24
    assert planned(7_200.0, 60_000).finalists > planned(1_200.0, 60_000).finalists
    some = [planned(budget, 60_000, reward="accuracy") for budget in (1_200.0, 7_200.0)]
    assert some[1].trainings > some[0].trainings >= 4


@pytest.mark.parametrize("middle", [3.0, 30.0])
def test_the_reserve_for_the_audit_is_that_of_a_network_within_the_limit(middle: float) -> None:
    config = Config(data="digits", budget=600.0, workers=2)
    plan = plan_budget(config, Rates(0.3, (0.3, middle, 60.0), 20.0), train=30_000, final=40_000, total=50_000)
    assert plan.training_limit < middle
    assert plan.seconds["audit"] == pytest.approx(audit_seconds(50_000, plan.training_limit, 600.0), rel=0.05)
    assert plan.seconds["audit"] < 0.7 * audit_seconds(50_000, middle, 600.0)


@pytest.mark.parametrize("pace", [0.5, 3.0, 20.0])
@pytest.mark.parametrize("images", [1_500, 60_000])
def test_verification_is_planned_again_at_another_pace(pace: float, images: int) -> None:
    config = Config(data="digits", budget=1200.0, workers=2)
    train = int(0.6 * images)
    plan = with_verification(planned(1200.0, images), config, pace, train=train)
    used = seconds_of(plan, train * pace / 1000)
    full = sum(plan.rounds) == pytest.approx(first_epochs(train))
    assert used <= 0.76 * plan.seconds["verify"]
    assert full or used == pytest.approx(0.75 * plan.seconds["verify"])
    assert len(plan.rounds) == halvings(plan.finalists)
    least = with_verification(plan, config, 1000 * pace, train=train, kinds=3)
    assert (least.finalists, len(least.rounds)) == (3, 1)
    assert with_verification(plan, config, 1000 * pace, train=train).finalists == 2
    assert with_verification(plan, config.model_copy(update={"finalists": 3}), pace, train=train).finalists == 3


@pytest.mark.parametrize("budget", [120.0, 600.0, 1200.0, 7200.0])
@pytest.mark.parametrize("images", [1_500, 60_000, 1_000_000])
def test_the_planned_work_fits_the_budget(budget: float, images: int) -> None:
    plan = planned(budget, images)
    limit = plan.training_limit
    assert limit is not None
    scoring = plan.candidates * RATES.score_seconds / 2
    pace = min(limit, RATES.training_ms[2])
    verifying = seconds_of(plan, 0.6 * images * pace / 1000)
    training = plan.epochs * 0.8 * images * limit / 1000
    assert scoring <= 1.05 * plan.seconds["score"] + 16 * RATES.score_seconds
    assert verifying <= 1.01 * plan.seconds["verify"] + 1
    if sum(plan.rounds) < 0.99 * first_epochs(int(0.6 * images)):
        assert verifying > 0.7 * plan.seconds["verify"]
    assert training <= 1.01 * plan.seconds["train"]
    assert sum(plan.seconds.values()) <= budget
    assert plan.finalists in FINALISTS
    assert len(plan.rounds) == halvings(plan.finalists)


def test_longer_trainings_are_of_more_images_and_larger_networks_alike() -> None:
    short, long = planned(600.0, 60_000), planned(2400.0, 60_000)
    times = long.seconds["train"] / short.seconds["train"]
    assert long.epochs / short.epochs == pytest.approx(times**0.5)
    assert long.training_limit / short.training_limit == pytest.approx(times**0.5)
    assert wanted_epochs(200.0, 25_000) == pytest.approx(16.8 / 2**0.42)
    assert wanted_epochs(200.0, 10**7) == LEAST_EPOCHS
    assert wanted_epochs(10**6, 60_000) == most_epochs(60_000)


def test_a_slower_machine_has_fewer_images_and_larger_networks_for_its_speed() -> None:
    """A quarter of the speed is as a quarter of the time: else slow machines would be left with tiny networks."""
    config = Config(data="digits", budget=1200.0, workers=2)

    def plan_at(speed: float) -> Plan:
        rates = Rates(0.4, tuple(ms / speed for ms in (0.1, 0.2, 0.6)), 20.0, reference_ms=REFERENCE_MS / speed)
        return plan_budget(config, rates, train=36_000, final=48_000, total=60_000)

    usual, slow = plan_at(1.0), plan_at(0.25)
    assert slow.epochs / usual.epochs == pytest.approx(0.5, rel=0.06)  # the audit takes longer too
    assert slow.training_limit / usual.training_limit == pytest.approx(2.0, rel=0.06)
    assert wanted_epochs(200.0, 50_000, REFERENCE_MS / 0.7) == pytest.approx(wanted_epochs(140.0, 50_000))


def test_few_images_are_seen_more_often_but_fewer_in_all() -> None:
    sizes = (1_000, 5_000, 50_000)
    for seconds in (25.0, 200.0):
        passes = [wanted_epochs(seconds, images) for images in sizes]
        assert passes == sorted(passes, reverse=True)
        assert max(epochs * images for epochs, images in zip(passes, sizes, strict=True)) == passes[2] * sizes[2]
    assert wanted_epochs(800.0, 1_000) == pytest.approx(4 * wanted_epochs(200.0, 1_000), rel=0.3)  # no larger network
    assert 20 < wanted_epochs(25.0, 1_100) < 40  # a minute's run on a thousand images, most of it start and search


def test_a_minute_leaves_most_of_it_to_the_search_and_the_training() -> None:
    plan = planned(60.0, 1_300)
    assert plan.seconds["audit"] < 0.14 * 60.0
    assert plan.training_limit > RATES.training_ms[0]


@pytest.mark.parametrize(("finalists", "rounds"), [(1, 1), (2, 1), (4, 1), (6, 1), (8, 2), (16, 3), (48, 5)])
def test_up_to_six_have_one_round_and_more_end_with_four(finalists: int, rounds: int) -> None:
    assert halvings(finalists) == rounds
    assert finalists / 2 ** (rounds - 1) <= (6 if rounds == 1 else 4)


def test_two_finalists_of_each_kind_need_fewer_images() -> None:
    images = 9 * 3_100  # for six finalists and three controls
    assert affordable_finalists(images, 40_000, kinds=3) == 6
    assert affordable_finalists(images, 40_000, kinds=2) == 4
    assert affordable_finalists(images, 40_000) == 2
    assert affordable_finalists(20 * images, 40_000, kinds=3) == affordable_finalists(20 * images, 40_000) > 8
    assert affordable_finalists(images, 50, kinds=3) == affordable_finalists(images, 50)  # enough is thirty passes


def test_more_time_means_more_of_everything() -> None:
    short, long = planned(300.0, 50_000), planned(3000.0, 50_000)
    assert long.candidates > short.candidates
    assert long.finalists >= short.finalists
    assert long.training_limit > short.training_limit


def test_what_a_small_data_set_leaves_goes_to_verification() -> None:
    small, large = planned(1200.0, 1_500), planned(1200.0, 60_000)
    assert large.split == pytest.approx({"score": 5, "verify": 15, "train": 80})
    assert small.split["train"] == pytest.approx(30)
    assert small.split["verify"] == pytest.approx(15 + 0.9 * 50)
    assert sum(small.split.values()) == pytest.approx(100)
    assert "verification" in small.why
    assert small.finalists > large.finalists


def test_a_split_can_be_set() -> None:
    plan = planned(1200.0, 1_500, split="10,30,60")
    assert plan.split == pytest.approx({"score": 10, "verify": 30, "train": 60})
    assert plan.why == "as set"
    assert planned(1200.0, 1_500, split=(1, 3, 6)).seconds == pytest.approx(plan.seconds)
    with pytest.raises(UserError, match="like 5,15,80"):
        make_config({"data": "x", "split": "5,15"})
    with pytest.raises(UserError, match="like 5,15,80"):
        make_config({"data": "x", "split": "5,0,80"})
    with pytest.raises(UserError, match="no cost"):
        make_config({"data": "x", "objectives": ["lateness"]})


@pytest.mark.parametrize("finalists", [1, 2, 7, 8, 12, 16, 24, 32, 48])
def test_waves_hold_all_finalists(finalists: int) -> None:
    found = waves(finalists)
    assert sum(found) == finalists
    assert min(found) >= 1
    assert len(found) <= 4
    assert finalists <= 7 or found[0] == 6


def test_given_counts_are_kept_under_a_budget() -> None:
    plan = planned(600.0, 50_000, candidates=40, finalists=3, epochs=2.5)
    assert (plan.candidates, plan.finalists, plan.epochs) == (40, 3, 2.5)


def test_a_budget_that_start_up_eats_is_refused_with_a_better_one() -> None:
    with pytest.raises(UserError, match=r"try --budget \d+m"):
        plan_budget(Config(data="x", budget=60.0), Rates(1.0, (1, 1, 1), 50.0), train=100, final=120, total=150)


def test_counts_need_no_measurement() -> None:
    config = make_config({"data": "digits", "candidates": 500, "finalists": 4, "epochs": 8})
    assert config.budget is None
    plan = plan_counts(config)
    assert (plan.candidates, plan.finalists, plan.epochs, len(plan.rounds)) == (500, 4, 8.0, 1)
    assert sum(plan.rounds) == pytest.approx(2.0)
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(("text", "seconds"), [("20m", 1200), ("90s", 90), ("1.5h", 5400), (75, 75), ("120", 120)])
def test_durations(text: str | int, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-3m", "5 days", "nan", "1e3s", "10"])
def test_no_durations(text: str) -> None:
    with pytest.raises(UserError):
        parse_seconds(text)


def test_config_survives_toml() -> None:
    import tomllib

    config = make_config(
        {
            "data": "a b",
            "limits": ["latency=5ms", "params=300k"],
            "proxies": "macs,naswot",
            "workers": "2",
            "budget": "3m",
            "split": "5,15,80",
            "objectives": ["latency"],
        }
    )
    assert config.limits == {"latency": 5.0, "params": 300_000.0}
    assert make_config(tomllib.loads(config.to_toml())) == config
