"""The verification stage: who judges an entrant, how surely, when a training is shortened, what selectors need."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from test_funnel import Scripted, entrant, trained
from torch import nn

from archscout import verify as stage
from archscout.audit import group_interval
from archscout.checkpoint import Lost, npy, read_answers, read_weights
from archscout.data import load
from archscout.errors import UserError
from archscout.execute import Outcome
from archscout.fit import Evaluation, Recipe, fit
from archscout.plan import TOGETHER, Plan
from archscout.run import Run
from archscout.selection import SELECTORS
from archscout.selection.disagreement import Disagreement
from archscout.selection.el2n import El2n
from archscout.spaces.plain import plain
from archscout.verify import (
    LEAST,
    OVER,
    Trainer,
    enough_rounds,
    interval_of,
    places_at_most,
    said_before,
    verify,
    warmup_of,
    warn_of_selector,
    within_seconds,
)


def clustered(groups: int = 30, each: int = 20) -> tuple[Evaluation, np.ndarray]:
    """Answers that are right or wrong for whole groups, in three classes; and the groups."""
    rng = np.random.default_rng(0)
    labels, group = np.arange(groups * each) % 3, np.repeat(np.arange(groups), each)
    right = np.repeat(rng.random(groups) < 0.7, each)
    return Evaluation(labels, np.where(right, labels, (labels + 1) % 3), np.ones(len(labels)), labels * 0.0, 3), group


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy"])
def test_intervals_count_groups_where_images_stand_or_fall_together(metric: str) -> None:
    found, groups = clustered()
    alone, together = interval_of(found, metric), interval_of(found, metric, groups)
    hits = found.labels == found.predictions
    strata = found.labels if metric == "balanced_accuracy" else np.zeros(len(hits), dtype=int)
    assert together == list(group_interval(hits, strata, groups))
    assert together[0] < alone[0] < found.metric(metric) < alone[1] < together[1]
    assert together[1] - together[0] > 3 * (alone[1] - alone[0])  # of 20 images a group counts as one: sqrt(20) wider


def images(count: int, **more: Any) -> Any:
    rng = np.random.default_rng(0)
    return load((rng.integers(0, 256, (count, 8, 8, 3)).astype(np.uint8), np.arange(count) % 3), **more)


def item(**more: Any) -> dict[str, Any]:
    return {"space": "plain", "arch": (0, 0), "recipe": Recipe(batch_size=16), "epochs": 0.5, "seconds": None,
            "seed": 0, "round": 0, "state": None, **more}  # fmt: skip


def test_the_trainer_counts_the_groups_of_the_data() -> None:
    data = images(150, group=[k // 10 for k in range(150)])
    assert data.groups is not None
    space = plain(data.shape, 3)
    grouped = Trainer((space,), data, "accuracy")(item())
    plainly = Trainer((space,), SimpleNamespace(**{**vars(data), "part": data.part, "groups": None}), "accuracy")(
        item()
    )  # type: ignore[arg-type]
    assert grouped["validation"] == plainly["validation"]
    assert grouped["interval"] != plainly["interval"]


@pytest.mark.parametrize(
    ("counts", "most", "judged"),
    [
        ((12_000, 7_990, 6, 4), 4000, (2387, 1603, 6, 4)),
        ((300,) * 10, 1000, (100,) * 10),
        ((9_000, 40, 60), 1000, None),
        ((50,) * 200, 4000, (20,) * 200),  # 10 of each first: half of all
        ((3,) * 100, 20, None),  # more classes than images
        ((5, 0, 5), 20, (5, 0, 5)),
    ],
)
def test_rare_classes_are_judged_too(counts: tuple[int, ...], most: int, judged: tuple[int, ...] | None) -> None:
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    part: Any = type("Part", (), {"labels": labels, "__len__": lambda self: len(labels)})()
    places = places_at_most(part, most)
    assert len(places) == min(most, len(labels))
    assert (np.diff(places) > 0).all()
    assert (places == places_at_most(part, most)).all()
    had = np.bincount(labels[places], minlength=len(counts))
    if judged is not None:
        assert np.abs(had - judged).max() <= 1
    if np.minimum(counts, LEAST).sum() <= most // 2:
        assert (had >= np.minimum(counts, LEAST)).all()


class Clock:
    """A clock that a training moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run_under(seconds: float, pace: Callable[[float], float], epochs: float = 10.0, step: float = 0.1) -> Any:
    """A training by `within_seconds`, of `pace(done)` seconds an epoch: epochs made, seconds, shortenings."""
    clock = Clock()
    allow, total, done, changes = within_seconds(seconds, clock), epochs, 0.0, []
    while done < total - 1e-9:
        clock.now += step * pace(done)
        done += step
        wanted = allow(done)
        if wanted is not None and wanted < total - 1e-9:
            total = max(done, wanted)
            changes.append((done, wanted))
    return done, clock.now - 100.0, changes


@pytest.mark.parametrize("slower", [0.5, 1.0, 1.2, 1.29])
def test_a_training_that_is_hardly_late_is_not_shortened(slower: float) -> None:
    done, seconds, changes = run_under(10.0, lambda done: slower)
    assert (done, changes) == (pytest.approx(10.0), [])
    assert seconds == pytest.approx(10 * slower)


@pytest.mark.parametrize("slower", [1.4, 2.0, 5.0])
def test_one_that_would_take_too_long_ends_in_time(slower: float) -> None:
    done, seconds, changes = run_under(10.0, lambda done: slower)
    assert seconds == pytest.approx(OVER * 10, rel=0.08)
    assert done == pytest.approx(OVER * 10 / slower, rel=0.08)
    assert changes[0][0] * slower >= 5  # not before half of the time


def test_it_looks_again_as_the_training_goes_on() -> None:
    late = run_under(10.0, lambda done: 1.0 if done < 5 else 4.0)  # slow from the middle on
    assert late[1] == pytest.approx(OVER * 10, rel=0.08)
    assert late[0] < 10
    assert len(late[2]) >= 1
    assert late[2][0][0] > 5
    for begin in (0.2, 1.0, 2.0, 3.3, 4.0, 6.0, 9.0):  # a fifth of the time lost, by a moment that is over
        assert run_under(10.0, lambda done, begin=begin: 11.0 if begin <= done < begin + 0.2 else 1.0)[2] == []
    worse = run_under(10.0, lambda done: 1.5 if done < 5 else 4.0)  # shortened, and then again
    assert len(worse[2]) >= 2
    assert worse[1] == pytest.approx(OVER * 10, rel=0.1)
    assert run_under(10.0, lambda done: 1.0, step=10.0)[2] == []  # a single step
    assert within_seconds(None)(1.0) is None


def test_what_it_shortens_is_repeated_exactly() -> None:
    """The changes of a training that was shortened twice give the same weights without a clock."""
    from archscout.fit import replay

    data, clock = images(160), Clock()
    allow = within_seconds(1.0, clock)

    def slow(done: float) -> float | None:
        clock.now += 0.25 if done < 0.5 else 0.6
        return allow(done)

    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 3))

    train = partial(
        fit, part=data.part("train"), recipe=Recipe(batch_size=16), epochs=4.0, seed=0, mean=data.mean, std=data.std
    )
    first, again = network(), network()
    fitted = train(first, allow=slow)
    assert fitted.epochs < 4
    repeated = train(again, allow=replay(fitted.changes))
    assert (repeated.epochs, repeated.changes) == (fitted.epochs, fitted.changes)
    assert all((a == b).all() for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_a_training_made_again_is_shortened_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The changes come back and, given again, leave the same weights whatever the clock says."""
    data = images(150)
    trainer = Trainer((plain(data.shape, 3),), data, "accuracy")
    whole = trainer(item(epochs=1.5))
    monkeypatch.setattr(stage, "within_seconds", lambda seconds: lambda done: 0.6 if done > 0.4 else None)
    cut = trainer(item(epochs=1.5, seconds=1.0))
    monkeypatch.setattr(stage, "within_seconds", lambda seconds: lambda done: 1.0 if done > 0.9 else None)
    again = trainer(item(epochs=1.5, seconds=1.0, changes=cut["changes"]))
    assert cut["epochs"] < 0.7 < whole["epochs"]
    assert cut["changes"][0]["epochs"] == 0.6
    assert (again["state"], again["epochs"], again["changes"]) == (cut["state"], cut["epochs"], cut["changes"])
    assert trainer(item(epochs=1.5, seconds=1.0, changes=[]))["state"] == whole["state"] != cut["state"]


class Counting(Scripted):
    """Trainings whose weights and answers follow from what they began with, and which keep what they were asked."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__(lambda n: 0.5 + 0.001 * n)
        self.items: list[dict] = []
        self.fails = fails

    def map(self, items: list[dict], timeout: Any = None) -> list[Outcome]:
        self.items += items
        return [Outcome(None, "no memory", 1.0)] * len(items) if self.fails else super().map(items)

    def answer(self, item: dict) -> dict:
        number = item["arch"][0]
        before = load_tensors(item["state"])["w"] if item["state"] else torch.zeros(1)
        heard = 0 if item["answers"] is None else int(item["answers"].sum())
        said = {"said": np.array([number, 7, 7], dtype=np.uint16)} if item["ask"] else {}
        found = super().answer(item)
        state = save_tensors({"w": before + number + 100 * heard + item["epochs"]})
        return {**found, **said, "state": state, "changes": [{"done": 0.5, "epochs": 0.1 * number}]}


def left(run: Run) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in run.checkpoints.iterdir()}


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, dict[str, bytes]]:
    """A run of three networks and two rounds: its folder, its records and the files that it left."""
    folder = tmp_path_factory.mktemp("verified") / "run"
    with Run.create(folder, "") as run:
        return folder, trained(run, Counting(), [entrant(0), entrant(1), entrant(2, "random")]), left(run)


DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "noise": lambda content: b"\x93NUMPY\x01\x00" + bytes(range(256)),
}


@pytest.mark.parametrize("how", ["missing", *DAMAGE])
@pytest.mark.parametrize("kind", ["safetensors", "npy"])
@pytest.mark.parametrize("again", ["the last round", "nothing"])
def test_what_cannot_be_read_back_is_trained_again_as_it_was(
    kind: str, how: str, again: str, verified: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, records, files = verified
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    if again == "the last round":
        lines = (out / "trials.jsonl").read_text().splitlines(keepends=True)
        (out / "trials.jsonl").write_text("".join(lines[: [i for i, x in enumerate(lines) if "verify/1/" in x][1]]))
    broken = out / "checkpoints" / f"{Path(stage.checkpoint_name(entrant(1), 0)).stem}.{kind}"
    if how == "missing":
        broken.unlink()
    else:
        broken.write_bytes(DAMAGE[how](broken.read_bytes()))
    pool = Counting()
    with Run.open(out) as run, caplog.at_level(logging.WARNING, "archscout"):
        assert trained(run, pool, [entrant(0), entrant(1), entrant(2, "random")]) == records
        assert left(run) == files
    assert [(item["round"], item["arch"][0]) for item in pool.items] == [
        (0, 1), *([(1, 1), (1, 2)] if again == "the last round" else []),
    ]  # fmt: skip
    assert pool.items[0]["changes"] == [{"done": 0.5, "epochs": 0.1}]
    assert all(item["changes"] is None for item in pool.items[1:])
    assert f"checkpoint '{broken}' {'is missing' if how == 'missing' else 'cannot be read'}" in caplog.text


def test_weights_that_cannot_be_made_again_are_told_to_whom_needs_them(verified: Any, tmp_path: Path) -> None:
    whole, records, _ = verified
    for name, round_ in (("first", 0), ("last", 1)):
        out = Path(shutil.copytree(whole, tmp_path / name))
        (out / "checkpoints" / stage.checkpoint_name(entrant(1), round_)).unlink()
        lines = (out / "trials.jsonl").read_text().splitlines(keepends=True)
        kept = [line for line in lines if not line.startswith('{"event":"verify/1/') or name == "last"]
        (out / "trials.jsonl").write_text("".join(kept))
        with Run.open(out) as run:
            if name == "last":  # nobody begins with those
                assert trained(run, Counting(fails=True), [entrant(0), entrant(1), entrant(2, "random")]) == records
                continue
            with pytest.raises(UserError, match=rf"is missing; put it back, or type archscout resume {out}"):
                trained(run, Counting(fails=True), [entrant(0), entrant(1), entrant(2, "random")])


def test_damaged_files_are_told_plainly_and_no_pickle_is_read(tmp_path: Path) -> None:
    """Whatever bytes are lost or turned: an answer of whole numbers, or Lost."""
    rng, files = np.random.default_rng(0), {}
    files["answers.npy"], read = (
        npy(np.arange(50, dtype=np.uint16)),
        {".npy": read_answers, ".safetensors": read_weights},
    )
    files["weights.safetensors"] = save_tensors({"a": torch.ones(3, 2), "b": torch.zeros(4, dtype=torch.int64)})
    for name, content in files.items():
        path = tmp_path / name
        for number in range(300):
            some = bytearray(content)
            for place in rng.integers(0, len(some), 3) if number % 3 else ():
                some[place] = int(rng.integers(256))
            path.write_bytes(bytes(some[: int(rng.integers(len(some)))] if number % 2 else some))
            with suppress(Lost):
                read[path.suffix](path)  # type: ignore[operator]

    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "sprung",)

    np.save(tmp_path / "trap.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    (tmp_path / "shorter.npy").write_bytes(npy(np.arange(2, dtype=np.uint16)))
    for name in ("trap", "shorter"):
        with pytest.raises(Lost, match="cannot be read"):
            read_answers(tmp_path / f"{name}.npy", 50)
    assert not (tmp_path / "sprung").exists()


PLAN = Plan(10, 2, 4.0, (3.0,), None, {})


def test_a_selector_that_compares_has_two_rounds_and_others_are_left_alone() -> None:
    assert enough_rounds(PLAN, "disagreement").rounds == enough_rounds(PLAN, Disagreement).rounds == (1.5, 1.5)
    for select in ("full", "random", El2n):
        assert enough_rounds(PLAN, select) is PLAN
    longer = Plan(10, 4, 4.0, (1.0, 2.0), None, {})
    assert enough_rounds(longer, "disagreement") is longer


def test_both_of_two_finalists_train_in_the_second_round_and_nobody_is_asked_in_the_last(tmp_path: Path) -> None:
    class Asking(Scripted):
        def answer(self, item: dict) -> dict:
            asked.append((item["round"], item["ask"], None if item["answers"] is None else len(item["answers"])))
            return {**super().answer(item), **({"said": np.array([item["arch"][0]])} if item["ask"] else {})}

    asked: list[Any] = []
    with Run.create(tmp_path / "run", "") as run:
        found = trained(run, Asking(lambda n: 0.5), [entrant(0), entrant(1), entrant(2, "random")])
        assert asked == [(0, True, None)] * 3 + [(1, False, 3)] * 3
        assert all(r["eliminated_after"] is None for r in found.values())
        assert len(list(run.checkpoints.glob("*-0.npy"))) == 3
        assert not list(run.checkpoints.glob("*-1.npy"))


def test_a_network_too_slow_for_the_plan_trains_for_fewer_epochs(tmp_path: Path) -> None:
    """As it would in the full training, where all have the same seconds."""
    plan = Plan(10, 2, 8.0, (2.0,), 1.5, {"verify": 60.0})
    entrants = [entrant(0, training=0.5), entrant(1, training=1.5), entrant(2, "baseline", training=3.0)]
    entrants.append(entrant(3, "baseline", training=90.0))
    pool = Scripted(lambda n: 0.5)
    with Run.create(tmp_path / "run", "") as run:
        verify(run, entrants, plan, pool, recipe=Recipe(), seed=0)
    assert pool.jobs == [(0, 0, 2.0), (0, 1, 2.0), (0, 2, 1.0), (0, 3, 0.5)]


def test_a_network_alone_has_nothing_to_compare_with(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Run.create(tmp_path / "run", "") as run, caplog.at_level(logging.WARNING, "archscout"):
        assert said_before(run, [entrant(0)], 1) is None
        assert not caplog.records
        pool = Scripted(lambda n: 0.5)
        pool.answer = lambda item, answer=pool.answer: {**answer(item), "said": np.array([1])}  # type: ignore[method-assign]
        trained(run, pool, [entrant(0)])
    assert "compares nothing" in caplog.text


@pytest.mark.parametrize(
    ("select", "plan", "words"),
    [
        ("entropy", Plan(10, 2, 4.0, (0.3, 1.0), None, {}), "entropy begins a training with 1 round of all images"),
        ("el2n", Plan(10, 2, 4.0, (0.3, 2.0), None, {}), "some trainings of the search are no longer (0.3 epochs)"),
        ("el2n", Plan(10, 2, 4.0, (3.0,), None, {}, trainings=9, short=0.5), "no longer (0.5 epochs)"),
        (partial(El2n, warmup=3), Plan(10, 2, 4.0, (2.0, 3.0), None, {}), "3 rounds of all images, and all trainings"),
        ("disagreement", Plan(10, 2, 4.0, (1.0,), None, {}, trainings=TOGETHER, short=1.0), "more than 4"),
        ("el2n", Plan(10, 2, 4.0, (1.1, 3.0), None, {}), ""),
        ("random", Plan(10, 2, 4.0, (0.1,), None, {}), ""),
        ("full", Plan(10, 2, 4.0, (0.1,), None, {}), ""),
        ("disagreement", Plan(10, 2, 4.0, (1.0,), None, {}, trainings=9, short=1.0), ""),
    ],
)
def test_a_selector_that_cannot_choose_is_warned_of_once(
    select: Any, plan: Plan, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "archscout"):
        warn_of_selector(plan, select)
    assert len(caplog.records) == bool(words)
    assert words in caplog.text


def test_the_warmup_of_selectors() -> None:
    assert {name for name, make in SELECTORS.items() if warmup_of(make)} == {"el2n", "entropy"}
    assert warmup_of(partial(El2n, scores=np.zeros(3))) == 0
    assert warmup_of(lambda part, **settings: El2n(part, **settings)) == warmup_of(None) == 0
