"""Archscout finds the neural network for your images and your hardware. Importing it computes nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from archscout.bench.verb import benchmark as benchmark
    from archscout.devices.kit import bench_kit as bench_kit
    from archscout.devices.shelf import add_device as add_device
    from archscout.devices.shelf import known_devices as known_devices
    from archscout.devices.shelf import remove_device as remove_device
    from archscout.devices.verb import profile as profile
    from archscout.errors import UserError as UserError
    from archscout.pipeline import demo as demo
    from archscout.pipeline import resume as resume
    from archscout.pipeline import search as search
    from archscout.pipeline import train as train
    from archscout.probe import NotDefined as NotDefined
    from archscout.probe import Probe as Probe
    from archscout.probe import Proxy as Proxy
    from archscout.ranking import rank as rank
    from archscout.result import Result as Result
    from archscout.scoring import score as score
    from archscout.selection.loader import select as select
    from archscout.selection.story import Story as Story
    from archscout.selection.story import select_story as select_story
    from archscout.space import Arch as Arch
    from archscout.space import SearchSpace as SearchSpace
    from archscout.verbs import export as export
    from archscout.verbs import methods as methods
    from archscout.verbs import predict as predict
    from archscout.verbs import report as report

HOME = {
    "Arch": "space",
    "NotDefined": "probe",
    "Probe": "probe",
    "Proxy": "probe",
    "Result": "result",
    "SearchSpace": "space",
    "Story": "selection.story",
    "UserError": "errors",
    "add_device": "devices.shelf",
    "bench_kit": "devices.kit",
    "benchmark": "bench.verb",
    "demo": "pipeline",
    "export": "verbs",
    "known_devices": "devices.shelf",
    "methods": "verbs",
    "predict": "verbs",
    "profile": "devices.verb",
    "rank": "ranking",
    "remove_device": "devices.shelf",
    "report": "verbs",
    "resume": "pipeline",
    "score": "scoring",
    "search": "pipeline",
    "select": "selection.loader",
    "select_story": "selection.story",
    "train": "pipeline",
}
__all__ = sorted(HOME)


def __getattr__(name: str) -> Any:
    if name in HOME:
        return getattr(import_module(f"archscout.{HOME[name]}"), name)
    raise AttributeError(f"module 'archscout' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
