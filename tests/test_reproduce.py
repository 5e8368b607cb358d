"""The command that a report prints: what the command line makes of it is the run's config again."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from archscout.cli import app, register
from archscout.config import Config, make_config
from archscout.facts import reproduce

RUNS: list[dict[str, Any]] = [
    {},
    {"budget": "20m", "limits": ["latency=2.5ms", "flash_int8=1.5MB"], "space": "plain", "seed": 3},
    {"epochs": 0.5, "candidates": 8, "finalists": 2, "proxies": "macs,naswot", "objectives": ["latency", "params"]},
    {"epochs": 8, "reward": "accuracy", "trainings": 5, "inherit": True, "strategy": "predictor", "strict": True},
    {
        "split": "5,15,80",
        "select": "dds",
        "share": 0.3,
        "pretrained": ["resnet18=a b.pth"],
        "teach": "no",
        "workers": 0,
    },
    {"strategy": "darts", "supernet": ["beta=0.3", "order=2", "sample=gumbel", "lr=1.0"], "teacher": "/runs/a b"},
    {"data": "my photos/x", "group": r"([^/]+)_\d+", "device": "cuda:1", "devices": 2, "metric": "accuracy"},
]


def parsed(line: str) -> dict[str, Any]:
    """The settings that a command line stands for, as the verb hands them on."""
    register()
    program, verb, *words = shlex.split(line)
    assert program == "archscout"
    given = get_command(app).commands[verb].make_context(verb, words).params  # type: ignore[attr-defined]
    renamed = {"limit": "limits", "objective": "objectives"}
    found = {renamed.get(name, name): value for name, value in given.items() if value not in (None, [], ())}
    return {name: value for name, value in found.items() if name in Config.model_fields}


@pytest.mark.parametrize("settings", RUNS)
def test_the_command_of_a_search_is_the_search(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b.pth").write_bytes(b"weights")
    config = make_config({"data": "digits", **settings})
    line = reproduce(tomllib.loads(config.to_toml()))
    assert make_config(parsed(line)) == config
    assert "--recipe" not in line


def test_only_what_is_not_usual_is_said() -> None:
    assert reproduce(tomllib.loads(make_config({"data": "digits"}).to_toml())) == (
        "archscout search --data digits --budget 1200"
    )


def test_the_command_of_a_training_is_the_training() -> None:
    config = make_config(
        {"data": "digits", "space": "plain", "epochs": 3, "recipe": "darts", "limits": ["latency=2ms"], "workers": 2}
    )
    line = reproduce(tomllib.loads(config.to_toml()), "resnet8-w16")
    assert line.startswith("archscout train --data digits --space plain --arch resnet8-w16")
    found = parsed(line)
    assert make_config(found).model_dump(exclude={"workers"}) == config.model_dump(exclude={"workers"})
    assert (
        get_command(app).commands["train"].make_context("train", shlex.split(line)[2:]).params["arch"] == "resnet8-w16"
    )  # type: ignore[attr-defined]
