"""What a run says of its cost and its limits: beside full data and every candidate, by stage, met or not."""

# ruff: noqa: RUF001 (typographic minus and dash are meant)

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_page import fake_facts

import archscout
from archscout import page
from archscout.cli.options import conclude
from archscout.differentiable import stage
from archscout.facts import (
    THOUSAND,
    busy,
    facts_of,
    held,
    judged,
    networks_of_space,
    passes,
    search_cost,
    spent_by_stage,
    standing,
    units_of,
)
from archscout.selection import SELECTORS
from archscout.spaces.nasbench201 import nasbench201


def stage_row(name: str, seconds: float, watts: float = 10.0) -> dict[str, Any]:
    return {"stage": name, "seconds": seconds, "energy": 1e3 * watts * seconds, "metered": False, "source": "none"}


SPENT = [stage_row("read", 5), stage_row("score", 100), stage_row("verify", 60, 20), stage_row("train", 200)]


def events_of(**more: Any) -> dict[str, Any]:
    rounds = [{"epochs": 2.0, "seconds": 10.0}, {"epochs": 4.0, "seconds": 20.0}]
    verified = [
        {"space": "s", "arch": arch, "costs": {"training": 0.5}, "rounds": rounds[: k + 1]}
        for k, arch in enumerate(("one", "two"))
    ]
    return {
        "verified": verified,
        "winner": {"space": "s", "arch": "two"},
        "trained": {"epochs": 10.0, "images": 4000, "seconds": 160.0},
        "data": {"shape": [3, 8, 8], "classes": ["a", "b"]},
        **more,
    }


@pytest.mark.parametrize("name", sorted(SELECTORS))
@pytest.mark.parametrize("epochs", [0.5, 2.0, 6.0])
def test_passes_are_the_rounds_that_a_selector_makes(name: str, epochs: float) -> None:
    """Counted as the training loop counts: rounds until so many images as the epochs have were seen."""
    labels = np.arange(200) % 4
    part: Any = type("Part", (), {"labels": labels, "__len__": lambda self: len(labels)})()
    more = {"embedding": np.random.default_rng(0).normal(size=(200, 3))} if name == "kcentre" else {}
    selector = SELECTORS[name](part, seed=0, share=0.2, **more)
    selector.expect(round(200 * epochs))
    seen, rounds = 0.0, 0.0
    while seen < 200 * epochs - 0.5:
        chosen = selector.next_round()
        part_of = min(1.0, (200 * epochs - seen) / len(chosen))
        logits = torch.randn(len(chosen), 4, generator=torch.Generator().manual_seed(int(seen)))
        target = torch.as_tensor(labels)[chosen]
        selector.note(chosen, torch.nn.functional.cross_entropy(logits, target, reduction="none"), logits, target)
        seen, rounds = seen + part_of * len(chosen), rounds + part_of
    if name == "infobatch":
        assert epochs <= rounds <= passes(name, epochs, 0.2) + 0.2
    else:
        assert rounds == pytest.approx(passes(name, epochs, 0.2), rel=0.02)


def test_full_data_costs_what_it_cost_when_all_images_were_used() -> None:
    found = search_cost(events_of(), [], SPENT, {"select": "full", "share": 0.2})
    assert found is not None
    full = found["full_data"]
    assert (full["seconds"], full["energy"], full["times"]) == (found["seconds"], found["energy"], 1.0)
    assert found["seconds"] == 365
    assert "every_candidate" not in found  # neither candidates nor a supernet
    assert search_cost({}, [], [], {}) is None


def test_full_data_by_hand() -> None:
    """Verification trained for 40 s in two workers, a fifth of the images a round: 20 s more for each further fifth."""
    config = {"select": "random", "share": 0.2, "workers": 2}
    found = search_cost(events_of(), [], SPENT, config)
    assert found is not None
    full = found["full_data"]
    assert full["seconds"] == pytest.approx(365 + 4 * 40 / 2)
    assert full["energy"] == pytest.approx(found["energy"] + 4 * 20 * 20e3)  # at the 20 W of that stage
    assert full["times"] == pytest.approx(full["seconds"] / 365)
    assert (full["share"], full["held"], full["at_most"]) == (pytest.approx(0.2), "passes", False)
    one = search_cost(events_of(), [], SPENT, {**config, "workers": 0})
    assert one is not None
    assert one["full_data"]["seconds"] == pytest.approx(365 + 4 * 40)

    story = {"seconds": 90.0, "audits": [], "audited": 0}
    supernet = {"method": "darts", "epochs": 25.0, "story": story}
    both = search_cost(events_of(supernet=supernet), [], SPENT, config)
    assert both is not None
    assert both["full_data"]["seconds"] == pytest.approx(365 + 4 * 90 + 4 * 20)
    widened = {"audits": [{"round": 50, "images": [250, 250, 500]}], "audited": 20_000}  # 400 of 1,000 images a round
    wide = search_cost(events_of(supernet={**supernet, "story": {**story, **widened}}), [], SPENT, config)
    assert wide is not None
    assert wide["full_data"]["seconds"] == pytest.approx(365 + 1.5 * 90 + 4 * 20)

    short = {f"short/s/{k}": {"seconds": 8.0, "epochs": 1.0, "validation": 0.5} for k in range(3)}
    short["short/s/failed"] = {"failure": "diverged", "validation": None}  # type: ignore[dict-item]
    spent = [*SPENT[:2], stage_row("short", 20), *SPENT[2:]]
    by_accuracy = search_cost(events_of(**short), [], spent, config)
    assert by_accuracy is not None
    assert by_accuracy["full_data"]["seconds"] == pytest.approx(385 + 4 * 12 + 4 * 20)
    many = {**config, "workers": 16}  # of the short trainings four at most run at once
    crowded = search_cost(events_of(**short), [], spent, many)
    assert crowded is not None
    assert crowded["full_data"]["seconds"] == pytest.approx(385 + 4 * 24 / 4 + 4 * 40 / 16)
    bounded = search_cost(events_of(**short), [], [*SPENT[:2], stage_row("short", 6), *SPENT[2:]], config)
    assert bounded is not None
    assert bounded["full_data"]["seconds"] == pytest.approx(371 + 4 * 6 + 4 * 20)  # no more trained than the stage took

    only = {"selection": {"rounds": 40}, "trained": {"epochs": 10.0, "images": 4000, "seconds": 160.0}}
    alone = search_cost(only, [], [SPENT[0], SPENT[3]], config)
    assert alone is not None
    assert alone["full_data"]["seconds"] == pytest.approx(205 + 3 * 160)


@pytest.mark.parametrize(("workers", "short", "verify"), [(16, 8, 32), (4, 8, 8), (2, 4, 4), (0, 2, 2), ("ray", 2, 2)])
def test_the_threads_that_a_stage_keeps_busy(workers: Any, short: int, verify: int) -> None:
    config = {"workers": workers, "threads": 2, "train_threads": 5}
    assert busy("short", config) == {"device": "cpu", "threads": short}
    assert busy("verify", config) == busy("score", config) == {"device": "cpu", "threads": verify}
    assert busy("train", config)["threads"] == 5
    assert busy("short", {**config, "device": "cuda"}) == {"device": "cuda", "threads": 2}


def test_every_candidate_of_a_supernet() -> None:
    story = {"seconds": 90.0, "audits": [], "audited": 0}
    supernet = {"method": "darts", "epochs": 25.0, "story": story}
    config = {"select": "full", "space": "nasbench201", "limits": {}}
    rates = {"training_ms": [0.2, 0.25, 0.9]}
    found = search_cost(events_of(supernet=supernet, rates=rates), [], SPENT, config)
    assert found is not None
    every = found["every_candidate"]
    space = nasbench201((3, 8, 8), 2)
    assert every["candidates"] == space.distinct
    assert (every["of"], every["rate"]) == ("space", "sampled")
    assert every["seconds"] == pytest.approx(space.distinct * 160 * 0.25 / 0.5)  # half as slow as the winner
    assert every["energy"] == pytest.approx(every["seconds"] * 10e3)
    by_counts = search_cost(events_of(supernet=supernet), [], SPENT, {**config, "limits": {"params": 1e5}})
    assert by_counts is not None
    assert by_counts["every_candidate"] == {
        "candidates": THOUSAND, "of": "thousand", "rate": "winner", "seconds": pytest.approx(1000 * 160),
        "energy": pytest.approx(1000 * 160 * 10e3),
    }  # fmt: skip
    assert networks_of_space(events_of(), {"space": "darts"}) == (THOUSAND, "thousand")
    assert networks_of_space(events_of(), {"space": "mine:space"}) == (THOUSAND, "thousand")
    candidates = [{"scores": {"macs": 1.0}, "costs": {"training": ms}} for ms in (0.1, 0.4)]
    ranked = search_cost(events_of(), [*candidates, {"scores": {}, "costs": {"training": 9.0}}], SPENT, config)
    assert ranked is not None
    assert ranked["every_candidate"]["seconds"] == pytest.approx(160 / 0.5 * (0.1 + 0.4))
    assert (ranked["every_candidate"]["candidates"], ranked["every_candidate"]["of"]) == (2, "scored")


def said(facts: dict[str, Any]) -> str:
    html = page.render(facts)
    html = html[html.index('<section id="time"') : html.index('<section id="data"')]
    return " ".join(re.sub(r"<[^>]+>", " ", html).replace("\u00a0", " ").split())


def test_the_page_states_both_beside_the_run() -> None:
    facts = fake_facts(40)
    full = {"seconds": 13_686.0, "energy": 2e9, "times": 2.0, "share": 0.2, "selector": "dds", "at_most": False}
    every = {"candidates": 6466, "of": "space", "rate": "sampled", "seconds": 1e6, "energy": 3e9}
    spent = {"energy": 1e9, "metered": False, "source": "stated", "full_data": full, "every_candidate": every}
    text = said({**facts, "spent": spent})
    assert "this run 1 h 54 min 1 MJ 1 " in text
    assert "the same on full data 3 h 48 min 2 MJ 2.00" in text
    assert "training all 6,466 networks of the space as fully as the winner 277 h 46 min 3 MJ" in text
    assert "dds had rounds of 20 % of the images. Held fixed is the number of passes" in text
    assert "With as many images instead of as many passes full data cost the same" in text
    plain = {**spent, "full_data": {**full, "seconds": 6843.0, "times": 1.0, "selector": "full", "share": 1.0}}
    text = said({**facts, "spent": plain})
    assert "every training went over all images, so this is what the run cost" in text
    assert "Held fixed" not in text
    free = {**spent, "full_data": {**full, "selector": "infobatch", "at_most": True}}
    assert "the same on full data, at most" in said({**facts, "spent": free})
    scored = {**spent, "every_candidate": {**every, "of": "scored", "rate": "scored", "candidates": 300}}
    assert "training every one of the 300 candidates as fully as the winner" in said({**facts, "spent": scored})


def target(**measured: Any) -> dict[str, Any]:
    there = {"name": "pi4", "predicted": {"latency": 4.0}, "most": {"latency": 4.8}, "measured": measured}
    return {"target": there}


@pytest.mark.parametrize(
    ("found", "state", "words", "told"),
    [
        ({"latency": {"median": 4.0, "high": 4.9}}, "met", "within the limit", "✓ met"),
        ({"latency": {"median": 4.0, "high": 5.5}}, "near", "just below the limit of 5 ms: the interval reaches to 5.5",
         "just below, the interval reaches 5.50"),
        ({"latency": {"median": 6.0, "high": 6.1}}, "over", "ABOVE the limit", "✗ over by 20.0"),
        (target(), "predicted", "predicted to be 4 ms, at most 4.8 ms", "predicted, not measured"),
        (target(latency=4.0, latency_high=4.5), "met", "within the limit", "✓ met"),
        (target(latency=4.0, latency_high=5.5), "near", "just below the limit of 5 ms: the interval reaches to 5.5",
         "just below, the interval reaches 5.50"),
        (target(latency=6.0, latency_high=6.0), "over", "ABOVE the limit", "✗ over by 20.0"),
        ({"latency": None}, "unknown", "", "not measured"),
    ],
)  # fmt: skip
def test_the_table_of_limits_says_what_the_verdict_says(
    found: dict[str, Any], state: str, words: str, told: str
) -> None:
    summary = {"winner": "a", "limits": {"latency": 5.0}, "latency": None, "energy": None, "target": None, **found}
    assert standing("latency", summary)["state"] == state
    assert words in held("latency", summary)
    assert bool(words) == bool(held("latency", summary))
    html = page.render({"summary": summary})
    html = html[html.index("<caption>Limits") :]
    html = html[: html.index("</table>")].replace("\u00a0", " ")
    marks = ("✓ met", "just below", "✗ over", "predicted, not", "not measured</td><td>–")
    assert told in html
    assert sum(mark in html for mark in marks) == 1


def test_what_is_predicted_beyond_a_limit_says_so() -> None:
    """A training without a search may have limits that its network is predicted to break."""
    summary = {"winner": "a", "limits": {"latency": 4.0}, **target()}
    assert "predicted, not measured, and over by 20.0" in page.render({"summary": summary})


def test_energy_follows_the_interval_of_the_latency() -> None:
    summary = {
        "limits": {"energy": 5.0, "power": 2.0, "params": 10.0},
        "latency": {"median": 2.0, "high": 3.0}, "energy": {"energy": 4.0, "power": 2.0, "metered": True}, "params": 11,
    }  # fmt: skip
    assert standing("energy", summary) == {"value": 4.0, "most": 6.0, "source": "measured", "state": "near"}
    assert standing("power", summary)["state"] == "met"
    assert standing("params", summary) == {"value": 11, "most": 11, "source": "counted", "state": "over"}
    assert judged(float("nan"), 1.0, 2.0) == "unknown"


def numbers(found: Any, path: tuple[str, ...] = ()) -> list[str]:
    """The paths of all numbers in plain values."""
    if isinstance(found, dict):
        return [one for name, value in found.items() for one in numbers(value, (*path, name))]
    if isinstance(found, list):
        return sorted({one for value in found for one in numbers(value, path)})
    return [".".join(path)] if isinstance(found, (int, float)) and not isinstance(found, bool) else []


def test_a_search_by_a_supernet_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A whole run on half of the images: its cost beside full data, by stage, with units."""
    monkeypatch.setattr(stage, "EPOCHS", 2.0)
    labels = np.arange(160) % 2
    rng = np.random.default_rng(0)
    images = rng.integers(60, 190, (160, 8, 8, 3)) + 40 * labels[:, None, None, None]
    result = archscout.search(
        (images.clip(0, 255).astype(np.uint8), labels), space=small, strategy="darts", select="random", share=0.5,
        finalists=1, epochs=1, out=tmp_path / "run", workers=0, limits={"params": "6k", "latency": "1s"},
    )  # fmt: skip
    facts = facts_of(result.folder)
    spent = facts["spent"]
    trained = result.events["supernet"]["story"]["seconds"]
    assert spent["full_data"]["seconds"] > spent["seconds"] + 0.9 * trained  # each pass over twice the images
    assert spent["full_data"]["share"] == pytest.approx(0.5, abs=0.05)
    assert (spent["every_candidate"]["of"], spent["every_candidate"]["rate"]) == ("thousand", "winner")
    assert facts["cost_axis"] == "params"
    entrant = next(e for e in facts["entrants"] if e["winner"])
    assert entrant["timed"]["latency"] == {
        "value": result.best["latency"]["median"], "most": result.best["latency"]["high"], "measured": True,
    }  # fmt: skip
    assert "Accuracy against params" in result.report.read_text()
    assert "the same on full data" in result.report.read_text()

    conclude(result, True)
    told = json.loads(capsys.readouterr().out)
    assert told["spent"] == json.loads(json.dumps(spent_by_stage(facts)))
    stages = told["spent"]["stages"]
    assert set(stages) == {"read", "profile", "score", "verify", "train", "audit"}
    assert sum(row["seconds"] for row in stages.values()) == pytest.approx(told["seconds"])
    assert sum(row["energy"] for row in stages.values()) == pytest.approx(told["spent"]["energy"])
    assert {row["energy_is"] for row in stages.values()} <= {"estimate", "measured"}
    units = told.pop("units")
    assert sorted(units) == sorted(numbers(told))
    assert "number" not in units.values()
    for path, unit in (
        ("spent.stages.train.energy", "mJ"), ("spent.stages.train.seconds", "s"), ("latency.high", "ms"),
        ("latency.threads", "count"), ("limits.params", "count"), ("limits.latency", "ms"), ("test.low", "share"),
        ("energy.power", "W"), ("costs.memory", "bytes"), ("spent.full_data.times", "ratio"), ("test.n", "images"),
    ):  # fmt: skip
        assert units[path] == unit, path


def small(input_shape: Any, classes: int) -> Any:
    return nasbench201(input_shape, classes, channels=4, cells=1)


def test_units_follow_the_path() -> None:
    there = {"measured": {"energy_high": 2.0, "stated_power": True}}
    found = {"target": there, "int8": {"accuracy_interval": [0.1, 0.2]}}
    assert units_of(found) == {"target.measured.energy_high": "mJ", "int8.accuracy_interval": "share"}
