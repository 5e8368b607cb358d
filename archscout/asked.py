"""What a person asked for: the objects that a config names, found and checked before an image is read."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from archscout.config import Config, check_forms
from archscout.data import Data
from archscout.devices.profile import Profile
from archscout.devices.shelf import find_profile
from archscout.differentiable import DIFFERENTIABLE
from archscout.differentiable.choice import require_supernet
from archscout.differentiable.options import sorted_out
from archscout.errors import UserError
from archscout.naming import calling, find, full, is_own, word
from archscout.predicted import Predictor
from archscout.pretrained import pretrained
from archscout.proxies import DEFAULT
from archscout.readers import OBJECT
from archscout.result import Result
from archscout.reward import reads_scores
from archscout.scoring import methods_of
from archscout.selection import SELECTORS, make_selector
from archscout.selection.loader import require_makes
from archscout.space import SearchSpace, portable
from archscout.spaces import SPACES
from archscout.strategies import STRATEGIES
from archscout.strategies.strategy import Goal

STRATEGY = "what is made from (space, *, seed, goal) and has ask(n) and tell(archs, values)"


@dataclass(frozen=True)
class Methods:
    """The objects that a config names: what was given by value, or found by name."""

    source: Any
    space: Any
    strategy: Any
    proxies: Mapping[str, Any]
    given: tuple[Any, ...]
    select: Any
    trust: bool = False  # whether the code that the run of a teacher names may be imported


def name_methods(data: Any, settings: Mapping[str, Any], trust: bool = False) -> tuple[dict[str, Any], Methods]:
    """Settings with every method as text, and the objects behind them. Unknown names raise UserError with a guess."""
    if data is None:
        raise UserError("no data given; name an image folder, an .npz file, torchvision:NAME or digits with --data")
    check_forms(settings, ("proxies", "teacher"))
    proxies = settings.get("proxies") or DEFAULT
    if isinstance(proxies, str):
        proxies = [part.strip() for part in proxies.split(",") if part.strip()]
    found = methods_of(tuple(proxies))
    space = settings.get("space") or "mobilenet"
    strategy = settings.get("strategy") or "evolution"
    select = settings.get("select") or "full"
    methods = Methods(
        source=data,
        space=find("space", space, {**SPACES, "pretrained": pretrained}),
        strategy=find("strategy", strategy, {**STRATEGIES, **DIFFERENTIABLE, "predictor": Predictor}),
        proxies=found,
        given=tuple(proxies),
        select=select if select == "full" else find("selector", select, SELECTORS),
        trust=trust,
    )
    text = {
        **settings,
        "data": where(data),
        "space": address(space),
        "strategy": address(strategy),
        "select": address(select),
        "proxies": [address(p) for p in proxies],
    }
    if teacher := settings.get("teacher"):
        text["teacher"] = str(Path(teacher).expanduser().absolute())
    return text, methods


def where(data: Any) -> str:
    """The text under which data can be found again from any folder; objects of Python have none."""
    if not isinstance(data, str | Path):
        return f"{OBJECT}{type(data).__name__}"
    if data == "digits" or str(data).startswith("torchvision:"):
        return str(data)
    path = Path(data).expanduser()
    return str(path.resolve()) if os.path.exists(path) else str(data)  # path.exists() raises for an impossible name


def address(method: Any) -> str:
    """The text under which a method can be found again: its name, or module:name where it can be imported."""
    if isinstance(method, str):
        return method
    module, name = getattr(method, "__module__", None), getattr(method, "__qualname__", None)
    return f"{module}:{name}" if module and name and "<" not in name else word(method)


def fits(config: Config, methods: Methods) -> None:
    """Raises UserError where the reward is none that the strategy can be told, or settings are of another reward."""
    name = word(methods.strategy)
    if config.reward == "accuracy" and methods.strategy in DIFFERENTIABLE.values():
        raise UserError(f"{name} trains a supernet and proposes no networks to train; leave --reward out")
    if methods.strategy in DIFFERENTIABLE.values():
        sorted_out(name, config.supernet)
        if config.supernet.get("aim") == "target" and not config.limits:
            raise UserError("aim=target draws costs up to their limits; add one, like --limit latency=5ms")
    elif config.supernet:
        raise UserError(f"{config.strategy} trains no supernet; leave --supernet out, or search with --strategy darts")
    if config.reward == "proxies":
        if reads_scores(methods.strategy):
            raise UserError(f"the strategy {name} learns from accuracies; add --reward accuracy")
        if config.trainings is not None or config.inherit:
            raise UserError("--trainings and --inherit are of a search by accuracy; add --reward accuracy")
    if config.split is not None and config.budget is None:
        raise UserError("--split divides a --budget; add --budget 20m, or leave it out")
    own = is_own(methods.strategy)
    if own and (not callable(methods.strategy) or (inspect.isclass(methods.strategy) and lacking(methods.strategy))):
        raise UserError(f"strategy '{full(methods.strategy)}' is none: wanted {STRATEGY}")
    if methods.select != "full":
        require_makes(methods.select)


def lacking(strategy: Any) -> bool:
    """Whether an object or class has not what a strategy has."""
    return not all(callable(getattr(strategy, name, None)) for name in ("ask", "tell"))


def reachable(config: Config, methods: Methods, *, profiled: bool = False) -> None:
    """Raises UserError where a supernet, the device, its profile or the teacher is not there, before an image is read.

    profiled: whether the profile is known already.
    """
    if methods.strategy in DIFFERENTIABLE.values() and methods.space in SPACES.values():
        require_supernet(methods.space((3, 32, 32), 10), word(methods.strategy))  # of one's own: when shapes are known
    if config.device != "cpu":
        number = int(config.device.partition(":")[2] or 0)
        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if max(number, config.devices - 1) >= there:
            wanted = config.device if config.devices == 1 else f"{config.devices} x {config.device}"
            raise UserError(f"there is no {wanted}: torch sees {there} GPUs here; leave --device out for the CPU")
    if not profiled:
        other_device(config)
    if config.teacher is not None:
        taught = Result(config.teacher, trust=methods.trust)
        if taught.about and not (taught.folder / "weights.safetensors").exists():
            raise UserError(f"the teacher {config.teacher} has no weights yet; type: archscout resume {config.teacher}")


def other_device(config: Config) -> Profile | None:
    """What is known of the device that latency and energy are of, by its name; None where that is this machine."""
    if config.device_profile is None:
        return None
    found = find_profile(config.device_profile)
    return found.aimed(found, found.target or Path(config.device_profile).name)


def prove(space: SearchSpace, config: Config, methods: Methods, data: Data) -> None:
    """Make the strategy and the selector once, if they are a person's own, so that one that fails does so at once."""
    supernet = methods.strategy in DIFFERENTIABLE.values()
    if is_own(methods.strategy) and not supernet and not reads_scores(methods.strategy):
        directions = {name: proxy.direction for name, proxy in methods.proxies.items()}
        started(methods.strategy, space, seed=config.seed, goal=Goal(scores=directions, costs=wanted_costs(config)))
    if methods.select != "full" and is_own(methods.select) and not getattr(methods.select, "embeds", False):
        make_selector(methods.select, data.part("train"), seed=config.seed, share=config.share)


def started(make: Any, space: SearchSpace, **settings: Any) -> Any:
    """A strategy for a space. Raises UserError where a person's own cannot be made, or is none."""
    with calling("strategy", make, STRATEGY):
        strategy = make(space, **settings)
    if lacking(strategy):
        raise UserError(f"strategy '{full(make)}' made {type(strategy).__name__}; wanted {STRATEGY}")
    return strategy


def wanted_costs(config: Config) -> tuple[str, ...]:
    """The costs that are to be small beside good scores, those with a limit first; macs where none is named."""
    return tuple(dict.fromkeys((*config.limits, *config.objectives))) or ("macs",)


def make_space(factory: Any, data: Data) -> SearchSpace:
    """The space for some data, from a factory of (input_shape, classes) or a ready space, which must fit."""
    if isinstance(factory, SearchSpace):
        if factory.input_shape != data.shape or factory.classes != len(data.classes):
            raise UserError(
                f"space '{factory.name}' is for images {factory.input_shape} and {factory.classes} classes; "
                f"the data have {data.shape} and {len(data.classes)}"
            )
        return factory
    made = portable(factory, (data.shape, len(data.classes)))
    if is_own(factory):
        with calling("space", factory, "choices, and texts of architectures that parse reads back"):
            made.parse(made.format(made.sample(np.random.default_rng(0))))
    return made
