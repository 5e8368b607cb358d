"""The main job: rank, shortlist, verify, train, audit, export, report. One readable function over the other modules.

A run is a function of its config and its log. Whatever is measured is an event (`run.once`), so calling `follow` again
on the same folder repeats nothing that was done: that is all there is to resuming.
"""

from __future__ import annotations

import csv
import hashlib
import inspect
import io
import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from archscout.audit import audit
from archscout.batches import draw
from archscout.by_accuracy import search_by_accuracy
from archscout.config import Config, check_forms, make_config, read_toml
from archscout.costs import COSTS
from archscout.costs.limits import format_cost
from archscout.data import Data, load
from archscout.deploy import export_onnx, load_weights, measure_onnx, save_weights
from archscout.devices.energy import open_meter
from archscout.devices.latency import fastest_training, measure_memory, precisions
from archscout.devices.measure import measure_network, safe_end
from archscout.devices.profile import Profile, measure_profile
from archscout.devices.shelf import find_profile
from archscout.differentiable import DIFFERENTIABLE
from archscout.differentiable.choice import require_supernet
from archscout.differentiable.options import sorted_out
from archscout.distill import Teacher
from archscout.errors import Stopped, UserError
from archscout.execute import Limit, Overdue, executor
from archscout.fit import Fit, Recipe, evaluate, fit
from archscout.naming import calling, find, full, is_own, word
from archscout.plan import (
    Plan,
    Rates,
    audit_seconds,
    baseline_limit,
    most_epochs,
    plan_budget,
    plan_counts,
    waves,
    with_verification,
)
from archscout.predicted import Predictor
from archscout.predictor import predict_pool
from archscout.pretrained import fine_tuning, pretrained
from archscout.probe import Batch, reason
from archscout.progress import progress
from archscout.propose import Costing, propose_and_score, require_feasible, require_known, trial_key, within_limits
from archscout.proxies import DEFAULT
from archscout.readers import OBJECT
from archscout.recipes import EPOCHS, RECIPES
from archscout.result import Result, config_of, require_text
from archscout.reward import reads_scores
from archscout.run import Run
from archscout.scoring import Scorer, methods_of
from archscout.selection import SELECTORS, Selector, make_selector
from archscout.selection.dds import suspects
from archscout.selection.drift import behind, by_class_and_cluster, compare
from archscout.selection.embedding import CLUSTERS, clusters, embed
from archscout.selection.loader import require_makes
from archscout.space import Arch, SearchSpace, portable
from archscout.spaces import SPACES
from archscout.spaces.plain import plain
from archscout.strategies import STRATEGIES, Evolution
from archscout.strategies.strategy import Goal
from archscout.trust import code_in, require_trust, sealed
from archscout.verify import (
    Entrant,
    Trainer,
    checkpoint_name,
    choose,
    enough_rounds,
    initialise,
    largest_within,
    verify,
    warn_of_selector,
)

log = logging.getLogger("archscout")

CARRIED = (  # settings of a run that `train` takes over
    "data_root", "size", "group", "metric", "flip", "pretrained", "limits", "device_profile", "device", "threads",
    "teacher",
)  # fmt: skip
CLOCK, NOTED = "clock", 20.0  # the file of the seconds worked, and how often it is written, in seconds
AFTERWARDS = ("int8", "target_measured")  # events that other verbs add to a run, at any time
APART = 1.6  # times the parameters by which finalists differ, see various
PREDICTING = ("params", "macs", "memory", "training")  # costs that the predictor reads beside the proxies
PULLABLE = 1000  # best candidates by the aggregate that the predictor may name
PACED = 16  # best of the ranking whose training times say how long verification takes
STRATEGY = "what is made from (space, *, seed, goal) and has ask(n) and tell(archs, values)"
DRAWING = 5.0  # seconds after which no more random architectures are drawn before the plan
TAUGHT = 0.5  # of the loss is the teacher's answers
HOPE = 0.8  # a training may turn out this much faster than measured; if it does not, it is shortened under way


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


def search(
    data: Any,
    *,
    out: str | Path | None = None,
    config: str | Path | None = None,
    trust: bool = False,
    **settings: Any,
) -> Result:
    """Find, verify, train, audit and export the network for some images under limits; the whole main job.

    data: image folder, .npz file, torchvision:NAME, digits, a torch Dataset of (image, label), or a pair (X, y).
    out: the run folder, new; default runs/NAME-N.  settings: the fields of Config (`archscout search --help` explains
    each); `space`, `strategy`, `proxies` and `select` may also be objects of your own.  Takes the budget (20 minutes
    unless given).  trust: import the code that `config` names, where it is of a run that was not made here. Raises
    UserError for what the person can mend.
    """
    given = {**settings, "data": data}
    from_file = {k: v for k, v in (read_toml(config) if config else {}).items() if given.get(k) is None}
    check_forms(from_file)
    require_text(from_file.get("data"), str(config), "search from Python: archscout.search(DATA, config=...)")
    if config and (Path(config).parent / "trials.jsonl").exists():  # of a run, perhaps of somebody else's
        require_trust(Path(config).parent, code_in(from_file), trust)
    merged = {**from_file, **{k: v for k, v in settings.items() if v is not None}}
    if merged.get("recipe", "auto") != "auto":
        raise UserError("search compares networks by its own recipe; then type: archscout train RUN --recipe NAME")
    settings_, methods = name_methods(data if data is not None else merged.pop("data", None), merged, trust)
    settings_["out"] = str(
        out or settings_.get("out") or free_folder(settings_["data"], settings_.get("space", "mobilenet"))
    )
    checked = make_config(settings_)
    if settings.get("share") is not None and merged.get("select") in (None, "full") and not settings.get("select"):
        raise UserError("--share is of a selector of the training images; add --select random, or leave it out")
    fits(checked, methods)
    reachable(checked, methods)
    with begun(checked) as run:
        return follow(run, checked, methods)


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


@contextmanager
def begun(config: Config) -> Iterator[Run]:
    """A new run; if the person has something to mend before it has a plan, its folder goes and can be used again."""
    run = Run.create(config.out, sealed(config.to_toml(), config.model_dump()))
    planned = True
    try:
        yield run
    except Stopped:
        raise
    except UserError:
        planned = "plan" in run or "trained" in run
        raise
    finally:
        run.close()
        if not planned:
            shutil.rmtree(run.folder, ignore_errors=True)


def resume(folder: str | Path, *, trust: bool = False, **methods: Any) -> Result:
    """Continue a run that was stopped, from its log; nothing that it had computed is computed again.

    methods: `data`, `space`, `strategy`, `proxies`, `select` that were given as objects and cannot be found by name.
    trust: import the code that the run names (module:function), though it was not made here.
    """
    with Run.open(folder) as run:
        values = config_of(folder)
        check_forms(values)
        if methods.get("data") is None:
            mend = f"go on from Python: archscout.resume({str(folder)!r}, data=...)"
            require_text(values["data"], f"run {folder}", mend)
        require_trust(folder, code_in({k: v for k, v in values.items() if methods.get(k) is None}), trust)
        named, found = name_methods(methods.get("data") or values["data"], {**values, **methods}, trust)
        del named
        return follow(run, make_config(values), found)


def train(
    data: Any = None,
    *,
    run: str | Path | None = None,
    space: Any = None,
    arch: str | None = None,
    out: str | Path | None = None,
    trust: bool = False,
    **settings: Any,
) -> Result:
    """Train one architecture fully, audit and export it: the winner of `run` again, or `arch` of `space` on `data`.

    Give `epochs` for a reproducible run or `budget` for a time. `recipe`: "auto", a name of archscout.recipes (with the
    epochs that are published with it if none are given), or a function like those. No search and no verification take
    place. `limits`, on costs of this machine or of `device_profile`, stop nothing: the report says whether they hold.
    Those of `run`, with what is known of its device, count unless others are given. trust: import the code that `run`
    names, though it was not made here.
    """
    settings = {name: value for name, value in settings.items() if value is not None}
    settings["recipe"] = recipe = address(settings.get("recipe", "auto"))
    if recipe in EPOCHS and not {"epochs", "budget"} & set(settings):
        settings["epochs"] = EPOCHS[recipe]
    find("recipe", recipe, RECIPES)  # refuses an unknown one before anything is read
    profile = None
    if run is not None:
        source = Result(run)
        base = source.config
        arch = arch or source.best["arch"]
        if data is None:
            require_text(base["data"], f"run {run}", f"train from Python: archscout.train(run={str(run)!r}, data=...)")
        used = {"data": base["data"] if data is None else None, "space": source.about["factory"] if not space else None}
        require_trust(run, code_in(used), trust)
        if used["space"] != base.get("space"):  # what is sealed is the config
            require_trust(source.folder / "architecture.json", code_in({"space": used["space"]}), trust)
        data, space = used["data"] if data is None else data, space or used["space"]
        if "device_profile" not in settings:
            profile = source.events.get("profile")
        settings = {**{name: base[name] for name in CARRIED if name in base}, **settings}
    if arch is None or data is None:
        raise UserError("train wants a run folder, or --data with --space and --arch; see archscout train --help")
    named, methods = name_methods(data, {**settings, "space": space or "mobilenet"}, trust)
    named["out"] = str(out or free_folder(named["data"], "train"))
    config = make_config(named)
    if "share" in settings and settings.get("select") is None:
        raise UserError("--share is of a selector of the training images; add --select random, or leave it out")
    if methods.select != "full":
        require_makes(methods.select)
    reachable(config, methods, profiled=profile is not None)
    with begun(config) as folder:
        folder.once("only", lambda: {"arch": arch})
        if profile is not None:
            folder.once("profile", lambda: profile)
        return follow(folder, config, methods)


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


def free_folder(data: str, kind: str) -> Path:
    """The first unused runs/DATA-KIND-N."""
    stem = "".join(c if c.isalnum() or c in "-_" else "-" for c in Path(data.replace(":", "-")).stem) or "data"
    kind = "".join(c if c.isalnum() or c in "-_" else "-" for c in word(kind))
    number = 1
    while (folder := Path("runs") / f"{stem}-{kind}-{number}").exists():
        number += 1
    return folder


class Clock:
    """Seconds that a run has worked, over all its sessions; the gaps between sessions do not count."""

    def __init__(self, run: Run, budget: float | None, device: str = "cpu") -> None:
        self.before, number, began, last = 0.0, 0, None, None
        for event in run.events():
            if event["event"].startswith(AFTERWARDS):
                continue
            at = datetime.fromisoformat(event["time"])
            if event["event"].startswith("session/"):
                if began is not None and last is not None:
                    self.before += (last - began).total_seconds()
                began, number = at, number + 1
            last = at
        if began is not None and last is not None:
            self.before += (last - began).total_seconds()
        run.record(f"session/{number}", {"seconds_before": self.before})
        self.start = time.monotonic()
        self.budget = budget
        self.run = run
        self.noted = self.start
        with suppress(OSError, ValueError):  # what a session did after its last event, see spent
            self.before = max(self.before, float(run.path(CLOCK).read_text()))
        self.meter, self.source = open_meter(device)
        self.last = (self.start, self.meter.read() if self.meter else 0.0)

    def spent(self) -> float:
        """Seconds worked so far; noted in a file now and then, since a long training logs nothing until its end."""
        now = time.monotonic()
        seconds = self.before + now - self.start
        if now - self.noted > NOTED:
            self.noted = now
            with suppress(UserError):  # a full disk shows at the next event
                self.run.write(CLOCK, f"{seconds:.0f}")
        return seconds

    def begun(self, stage: str) -> float:
        """When a stage began, in seconds worked: now, or in an earlier session, so that its time is not given twice."""
        return float(self.run.once(f"begun/{stage}", self.spent))

    def late(self, share: float) -> bool:
        """Whether more than a share of the budget is gone; never without a budget."""
        return self.budget is not None and self.spent() > share * self.budget

    def stage_done(self, name: str) -> None:
        """Log that a stage ended, when, and the mean watts since the last if there is a meter; for the report."""
        now = time.monotonic(), self.meter.read() if self.meter else 0.0
        (since, joules), self.last = self.last, now
        power = (now[1] - joules) / max(now[0] - since, 1e-9) if self.meter else None
        self.run.once(f"stage/{name}", lambda: {"ended": self.spent(), "power": power, "source": self.source})
        log.info("%s done after %.0f s", name, self.spent())


def open_data(run: Run, config: Config, methods: Methods) -> Data:
    """The images, split as the run first split them. Raises UserError if they changed since."""
    data = load(
        methods.source,
        size=config.size,
        seed=config.seed,
        group=config.group,
        data_root=config.data_root,
        strict=config.strict,
    )
    facts = run.once(
        "data",
        lambda: {
            "fingerprint": data.fingerprint,
            "shape": list(data.shape),
            "classes": list(data.classes),
            "images": len(data.labels),
            "counts": {
                name: np.bincount(data.labels[rows], minlength=len(data.classes)).tolist()
                for name, rows in data.parts.items()
            },
            "notes": list(data.notes),
            "mirrors": bool(data.mirrors),
            "mean": list(map(float, data.mean)),
            "std": list(map(float, data.std)),
        },
    )
    if not (run.folder / "split.csv").exists():
        run.write("split.csv", split_table(data))
    if facts["fingerprint"] != data.fingerprint:
        raise UserError("the images changed since this run began; put them back, or start a new run with another --out")
    return data


def split_table(data: Data) -> str:
    """The split as CSV text: image, class, part."""
    place = np.empty(len(data), dtype=object)
    for name, rows in data.parts.items():
        place[rows] = name
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("image", "class", "part"))
    writer.writerows(zip(data.names, (data.classes[label] for label in data.labels), place, strict=True))
    return text.getvalue()


def metric_of(config: Config, data: Data) -> str:
    """The metric that decides: as configured, or balanced accuracy if the largest class is over twice the smallest."""
    if config.metric != "auto":
        return config.metric
    counts = np.bincount(data.part("train").labels, minlength=len(data.classes))
    return "balanced_accuracy" if counts.max() > 2 * max(counts.min(), 1) else "accuracy"


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


@dataclass
class Work:
    """What the workers of a run do: score an architecture, or train an entrant for a round."""

    scorer: Scorer
    trainer: Trainer

    def __call__(self, item: Any) -> Any:
        return self.trainer(item) if isinstance(item, dict) else self.scorer(item)


def follow(run: Run, config: Config, methods: Methods) -> Result:
    """Do what is left of a run, from its log, and write its report."""
    clock = Clock(run, config.budget, config.device)
    run.once("versions", versions)
    with progress("reading images", None):
        data = open_data(run, config, methods)
    metric = run.once("metric", lambda: metric_of(config, data))
    log.info(
        "%d images %s in %d classes; deciding by %s",
        len(data.labels),
        "x".join(map(str, data.shape)),
        len(data.classes),
        metric,
    )
    for note in data.notes:
        log.warning("%s", note)
    clock.stage_done("read")
    space = known_space(config, data) if methods.space is pretrained else make_space(methods.space, data)
    log.info(
        "space %s: %s architectures%s",
        space.name,
        f"{space.size:,}" if space.size < 10**7 else f"{space.size:.3g}",
        "" if space.distinct is None else f", {space.distinct:,} distinct",
    )
    if methods.strategy in DIFFERENTIABLE.values():
        require_supernet(space, word(methods.strategy))  # before anything is measured
    prove(space, config, methods, data)
    teacher = given_teacher(run, config, methods, data)
    only = run.recall("only")
    if only:
        entrant = given_network(run, config, space, only["arch"])
        plan = plan_counts(config) if config.budget is None or config.epochs is not None else None
        run.once(
            "only_winner",
            lambda: {"space": space.name, "arch": entrant.text, "role": "given", "costs": dict(entrant.costs)},
        )
    else:
        entrant, plan = choose_network(run, config, methods, data, space, metric, clock)
    select = methods.select if only else "full"
    train_winner(run, config, data, metric, entrant, plan, clock, select, teacher or teacher_of(run, config, data))
    from archscout.facts import facts_of
    from archscout.page import write_report

    write_report(facts_of(run.folder), run.folder / "report.html")
    return Result(run.folder)


def given_network(run: Run, config: Config, space: SearchSpace, text: str) -> Entrant:
    """The architecture that is trained without a search, with its costs, predicted ones if the device is another one.

    This machine is measured when the network is trained, and not before.
    """
    if "profile" not in run and (target := other_device(config)) is not None:
        run.record("profile", target.to_json())
    known = run.recall("profile")
    profile = None if known is None else Profile.from_json(known)
    counted = {name: limit for name, limit in config.limits.items() if profile or not COSTS[name].needs_profile}
    costing, arch = Costing(space, counted, profile, patience=config.timeout), space.parse(text)
    entrant = Entrant(space, arch, "given", costing(arch))
    if costing.failures:
        raise UserError(f"{text} of space '{space.name}' cannot be built: {costing.failures.popitem()[1]}")
    return entrant


def choose_network(
    run: Run, config: Config, methods: Methods, data: Data, space: SearchSpace, metric: str, clock: Clock
) -> tuple[Entrant, Plan]:
    """The zero-shot stage and the verification: which network deserves the full training, and the plan followed."""
    limits = dict(config.limits)
    for name in limits:
        if name not in COSTS:
            raise UserError(f"unknown limit '{name}'; limits are on {', '.join(COSTS)}")
    with progress("measuring this device", None):
        profile = Profile.from_json(run.once("profile", lambda: device_profile(config, space).to_json()))
    clock.stage_done("profile")
    require_known("objective", config.objectives, profile)
    costing = Costing(space, limits, profile, patience=config.timeout)
    draws = within_limits(costing)
    rng = np.random.default_rng([config.seed, 1])
    sampled = require_feasible(costing, some_of(costing, draws, rng))

    cache = run.folder / "cache"  # worker processes of this machine map the images from here
    shared = data.share(cache) if isinstance(config.workers, int) and config.workers > 0 else data
    scorer = Scorer(space, batches=scoring_batches(data, config.seed), proxies=methods.given, seed=config.seed)
    rival = portable(plain, (data.shape, len(data.classes)))
    known = known_space(config, data)
    embeddings = prepare_selection(run, config, methods, data.part("train"))
    trainer = Trainer(
        (space, rival, known), shared, metric, methods.select, config.threads, config.device, config.share, embeddings
    )
    workers = config.workers if config.device == "cpu" else 0
    with executor(workers, Work(scorer, trainer), threads=config.threads, timeout=config.timeout) as pool:
        supernet = methods.strategy in DIFFERENTIABLE.values()
        plan = make_plan(run, config, data, costing, sampled, pool, clock, supernet)
        warn_of_selector(plan, methods.select)
        if plan.training_limit is not None:
            costing = costing.within({**limits, "training": plan.training_limit})
        door = Door(run, config, profile)
        if supernet:
            ranked = train_supernet_of(door, methods, data, costing, plan, embeddings)
        else:
            ranked = score_candidates(run, config, methods, costing, plan, pool, clock)
        if config.reward == "accuracy":
            parallel = max(1, workers) if isinstance(workers, int) else 2
            ranked = train_shortly(run, config, methods, data, metric, costing, plan, pool, clock, ranked, parallel)
        ranking_only = config.reward == "proxies" and not supernet
        first_of_all = various(costing, ranked) if ranking_only else ranked
        if plan.seconds and not supernet:
            plan = plan_again(run, config, data, costing, plan, first_of_all, clock)
        plan = enough_rounds(plan, methods.select)
        slow = baseline_limit(plan, config.budget)
        slack = limits if slow is None else {**limits, "training": slow}
        first, *later = waves(plan.finalists) if ranking_only else [plan.finalists]
        entrants = shortlist(door, costing, Costing(rival, slack, profile), first_of_all, first)
        entrants += known_networks(door, Costing(known, slack, profile), config.pretrained)
        score_controls(run, space, entrants, pool)
        clock.stage_done("score" if config.reward == "proxies" else "short")
        total = sum(plan_jobs(plan, len(entrants) + sum(later)))
        recipe = recipe_of(config, data, metric, sum(plan.rounds))
        ends = clock.begun("verify") + 1.3 * plan.seconds["verify"] if plan.seconds else None
        with progress("verification", total) as bar:
            records = verify(
                run,
                entrants,
                plan,
                pool,
                recipe=recipe,
                precision=partial(entrant_precision, run, config, data, recipe),
                seed=config.seed,
                parallel=max(1, workers) if isinstance(workers, int) else 2,
                images=len(data.parts["train"]),
                patient=config.timeout,
                objectives=config.objectives,
                waves=later,
                pull=lambda wave, count, records: pulled(door, costing, methods, ranked, records, wave, count),
                on_progress=lambda n, best: bar.advance(n, best=best),
                out_of_time=lambda: ends is not None and clock.spent() > ends,
            )
    run.once("verified", lambda: records)
    shutil.rmtree(cache, ignore_errors=True)
    best = choose(records)
    home = next(one for one in (space, rival, known) if one.name == best["space"])
    winner = Entrant(home, home.parse(best["arch"]), best["role"], best["costs"])
    if config.teacher is None:
        run.once("teacher", lambda: choose_teacher(config, records, best))
    run.once(
        "winner",
        lambda: {
            "space": winner.space.name,
            "arch": winner.text,
            "role": winner.role,
            "validation": best["validation"],
        },
    )
    clock.stage_done("verify")
    log.info("winner: %s (%s), validation %s %.4f", winner.text, winner.role, metric, best["validation"])
    return winner, plan


def device_profile(config: Config, space: SearchSpace) -> Profile:
    """What predicts costs: this machine, measured now, or in latency and energy another device, if one is named."""
    target = other_device(config)
    here = measure_profile(
        space,
        device=config.device,
        threads=config.threads,
        train_threads=config.train_threads,
        seconds=min(max(0.02 * (config.budget or 600.0), 4.0), 25.0),
        seed=config.seed,
    )
    return here if target is None else here.aimed(target, target.target)


def other_device(config: Config) -> Profile | None:
    """What is known of the device that latency and energy are of, by its name; None where that is this machine."""
    if config.device_profile is None:
        return None
    found = find_profile(config.device_profile)
    return found.aimed(found, found.target or Path(config.device_profile).name)


def plan_jobs(plan: Plan, entrants: int) -> list[int]:
    """How many trainings each verification round holds."""
    controls = max(entrants - plan.finalists, 0)
    left, jobs = plan.finalists, []
    for _ in plan.rounds:
        jobs.append(left + controls)
        left = max(1, (left + 1) // 2)
    return jobs


def some_of(
    costing: Costing, draws: SearchSpace, rng: np.random.Generator, most: int = 48, least: int = 8
) -> list[Arch]:
    """Random architectures for the plan and the check that the limits can be met: fewer where drawing takes long.

    A large network takes tenths of a second to count, and under tight limits a draw counts dozens. All are drawn where
    none keeps the limits, so that these are never refused for want of time.
    """
    found: list[Arch] = []
    began, kept = time.monotonic(), False
    while len(found) < most and (len(found) < least or not kept or time.monotonic() - began < DRAWING):
        found.append(draws.sample(rng))
        kept = kept or costing(found[-1])["violation"] <= 0
    return found


def make_plan(
    run: Run,
    config: Config,
    data: Data,
    costing: Costing,
    sampled: Sequence[Arch],
    pool: Any,
    clock: Clock,
    supernet: bool = False,
) -> Plan:
    """The plan: from the counts given, or from the budget at rates measured here and now."""
    if config.budget is None:
        plan = Plan.from_json(run.once("plan", lambda: plan_counts(config).to_json()))
    else:

        def measure() -> dict[str, Any]:
            outcomes = list(pool.map(list(sampled[:1]) * 2 + list(sampled[:6])))[2:]
            good = [o.seconds for o in outcomes if o.failure is None]
            if not good:
                raise UserError(f"no sampled network could be scored: {outcomes[0].failure}")
            training = [costing(arch)["training"] for arch in sampled]
            return {
                "score_seconds": float(np.mean(good)),
                "training_ms": [float(q) for q in np.percentile(training, [10, 50, 90])],
                "spent": clock.spent(),
            }

        rates = run.once("rates", measure)
        plan = Plan.from_json(
            run.once(
                "plan",
                lambda: plan_budget(
                    config,
                    Rates(rates["score_seconds"], tuple(rates["training_ms"]), rates["spent"]),
                    train=len(data.part("train")),
                    final=len(data.part("train")) + len(data.part("validation")),
                    total=len(data.labels),
                    supernet=supernet,
                ).to_json(),
            )
        )
    log.info(
        "plan: %d candidates, %d finalists in rounds of %s epochs, %.3g epochs of full training",
        plan.candidates, plan.finalists, ", ".join(f"{e:.2g}" for e in plan.rounds), plan.epochs,
    )  # fmt: skip
    if plan.trainings:
        log.info("%d short trainings of %.2g epochs", plan.trainings, plan.short)
    if plan.split:
        parts = ", ".join(f"{stage} {share:.0f} %" for stage, share in plan.split.items())
        log.info("split of the time: %s (%s)", parts, plan.why)
    return plan


def plan_again(
    run: Run, config: Config, data: Data, costing: Costing, plan: Plan, ranked: Sequence[Arch], clock: Clock
) -> Plan:
    """The plan with the verification at the pace of the networks that the ranking put first, not of any.

    The pace is the ninetieth percentile of their training times. What changes is an event, shown in the report.
    """

    def work() -> dict[str, Any]:
        times = [costing(arch)["training"] for arch in ranked[:PACED]]
        pace = min(float(np.percentile(times, 90)), plan.training_limit or math.inf)
        new = with_verification(plan, config, pace, train=len(data.part("train")))
        before, after = (
            f"{one.finalists} finalists in rounds of {', '.join(f'{epochs:.2g}' for epochs in one.rounds)} epochs"
            for one in (plan, new)
        )
        return {
            "time": clock.spent(), "what": f"verification: {before} -> {after}",
            "why": f"one image takes the networks that were ranked first {pace:.3g} ms", "plan": new.to_json(),
        }  # fmt: skip

    return Plan.from_json(run.once("plan-change/verification", work)["plan"])


def score_candidates(
    run: Run, config: Config, methods: Methods, costing: Costing, plan: Plan, pool: Any, clock: Clock
) -> list[Arch]:
    """The architectures that the zero-shot stage scored, best first; ties by parameters, then by text."""
    directions = {name: proxy.direction for name, proxy in methods.proxies.items()}
    costs = wanted_costs(config)
    run.once("goal", lambda: {"directions": directions, "cost_axis": costs[0]})
    make = Evolution if reads_scores(methods.strategy) else methods.strategy
    strategy = started(make, within_limits(costing), seed=config.seed, goal=Goal(scores=directions, costs=costs))
    ends = clock.begun("score") + 1.3 * plan.seconds["score"] if plan.seconds else None
    with progress("scoring candidates", plan.candidates) as bar:
        trials = propose_and_score(
            run,
            costing,
            strategy,
            pool,
            plan.candidates,
            directions=directions,
            on_progress=lambda n, best: bar.advance(n, best=best),
            out_of_time=lambda: ends is not None and clock.spent() > ends,
        )
    places, ranks = trials.ranked(directions)
    if not len(places):
        why = "; ".join((trials.why() or {"": "no feasible network was proposed"}).values())
        raise UserError(f"none of {len(trials)} proposals could be scored: {why}")
    scored = zip(ranks.tolist(), (trials.archs[place] for place in places.tolist()), strict=True)
    text = costing.space.format
    return [arch for _, arch in sorted(scored, key=lambda one: (one[0], costing(one[1])["params"], text(one[1])))]


def wanted_costs(config: Config) -> tuple[str, ...]:
    """The costs that are to be small beside good scores, those with a limit first; macs where none is named."""
    return tuple(dict.fromkeys((*config.limits, *config.objectives))) or ("macs",)


def train_shortly(
    run: Run, config: Config, methods: Methods, data: Data, metric: str, costing: Costing, plan: Plan, pool: Any,
    clock: Clock, ranked: Sequence[Arch], parallel: int,
) -> list[Arch]:  # fmt: skip
    """The ranking after a search by accuracy that begins at it; see by_accuracy."""
    clock.stage_done("score")
    ends = clock.begun("short") + 1.1 * plan.seconds["short"] if plan.seconds else None
    with progress("short trainings", plan.trainings) as bar:
        return search_by_accuracy(
            run,
            costing,
            methods.strategy,
            plan,
            pool,
            ranked,
            recipe=recipe_of(config, data, metric, plan.short),
            directions={name: proxy.direction for name, proxy in methods.proxies.items()},
            objectives=config.objectives,
            seed=config.seed,
            inherit=config.inherit,
            parallel=parallel,
            images=len(data.parts["train"]),
            patient=config.timeout,
            out_of_time=lambda: ends is not None and clock.spent() > ends,
            on_progress=lambda n, best: bar.advance(n, best=best),
        )


def train_supernet_of(
    door: Door, methods: Methods, data: Data, costing: Costing, plan: Plan, embeddings: str | None
) -> list[Arch]:
    """What a differentiable strategy finds: the best one that the door admits, behind those that it refused."""
    from archscout.differentiable.stage import search_supernet

    run, config, text = door.run, door.config, costing.space.format
    run.once("goal", lambda: {"directions": {}, "cost_axis": wanted_costs(config)[0]})
    tried: list[Arch] = []
    for arch in search_supernet(
        run, config, methods.strategy, data, costing, seconds=plan.seconds.get("score"), select=methods.select,
        embeddings=embeddings,
    ):  # fmt: skip
        tried.append(arch)
        if door.admits(costing, arch):
            break
        log.info("%s measures above the limits", text(arch))
    if len(tried) > 1:
        run.once("supernet-tried", lambda: [text(arch) for arch in tried])
    return tried


@dataclass
class Door:
    """Who may enter the verification: under a limit on latency, energy or power each network is measured here first.

    The upper end of the measured interval must be within it, and a network that cannot be measured stays out. Not where
    the limit is of another device. `nearest` keeps the least such end of each.
    """

    run: Run
    config: Config
    profile: Profile | None
    nearest: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.timed = [name for name in ("latency", "energy", "power") if name in self.config.limits]
        self.nearest = dict.fromkeys(self.timed, np.inf)

    def admits(self, of: Costing, arch: Arch) -> bool:
        if not self.timed or (self.profile is not None and self.profile.target):
            return True
        space, config = of.space, self.config
        found = self.run.once(
            f"measured/{space.name}/{space.format(arch)}",
            lambda: self._measured(lambda: initialise(space, arch, 0), space.input_shape),
        )
        if "failure" in found:
            return False
        values = {name: safe_end(name, found) for name in self.timed}
        for name in self.timed:
            self.nearest[name] = min(self.nearest[name], values[name])
        return all(values[name] <= config.limits[name] for name in self.timed)

    def _measured(self, make: Callable[[], torch.nn.Module], shape: Any) -> dict[str, Any]:
        """What a network measures, or {"failure"}: controls come here without having been scored in a worker."""
        config = self.config
        try:
            with Limit(config.timeout):
                return energy_facts(make(), shape, config.device, config.threads, seconds=0.4)
        except Overdue:
            return {"failure": f"took longer than {config.timeout:.0f} s"}
        except Exception as error:
            return {"failure": f"{type(error).__name__}: {error}"[:300]}


def various(costing: Costing, ranked: Sequence[Arch]) -> list[Arch]:
    """The ranked architectures with the best of every size first: what the ranking says least well is how large to be.

    After the first come, from the better half and in its order, those whose parameters differ from those of all that
    came before by the factor APART; then the others. Mutants of one parent would fill the verification otherwise.
    """
    first: list[Arch] = []
    sizes: list[float] = []
    for arch in ranked[: (len(ranked) + 1) // 2]:
        size = math.log(max(costing(arch)["params"], 1.0))
        if all(abs(size - other) >= math.log(APART) for other in sizes):
            first.append(arch)
            sizes.append(size)
    chosen = set(first)
    return [*first, *(arch for arch in ranked if arch not in chosen)]


def shortlist(door: Door, costing: Costing, rival: Costing, ranked: Sequence[Arch], finalists: int) -> list[Entrant]:
    """The first finalists of those ranked, best first, and the controls beside them."""
    config = door.config
    entrants: list[Entrant] = []

    def enter(of: Costing, arch: Arch, role: str) -> None:
        if all((e.space, e.arch) != (of.space, arch) for e in entrants):
            entrants.append(Entrant(of.space, arch, role, of(arch)))

    for arch in ranked[: 4 * finalists + 16]:
        if len(entrants) < finalists and door.admits(costing, arch):
            enter(costing, arch, "finalist")
    if not entrants:
        wanted = ", ".join(f"{name}={format_cost(name, config.limits[name])}" for name in door.timed)
        found = ", ".join(f"{name} {format_cost(name, door.nearest[name])}" for name in door.timed)
        raise UserError(
            f"the best {min(len(ranked), 4 * finalists + 16)} candidates all measure above the limit {wanted} "
            f"(least at the safe end: {found}); raise it"
        )
    big = largest_within(costing, ranked, config.seed)
    if big is not None and door.admits(costing, big):
        enter(costing, big, "largest")
    rng = np.random.default_rng([config.seed, 2])
    draws = within_limits(costing)
    for _ in range(12):
        lucky = draws.sample(rng)
        if costing(lucky)["violation"] <= 0 and all(e.arch != lucky for e in entrants) and door.admits(costing, lucky):
            enter(costing, lucky, "random")
            break
    for arch in sorted(rival.space, key=lambda a: -rival(a)["params"]):
        if rival(arch)["violation"] <= 0 and door.admits(rival, arch):
            enter(rival, arch, "baseline")
            break
    else:
        log.warning("no plain baseline network fits the limits; none stands beside the winner")
    return entrants


def known_space(config: Config, data: Data) -> SearchSpace:
    """The networks whose weights are given by files, and all others of torchvision that could be."""
    numbers = (tuple(map(float, values)) for values in (data.mean, data.std))
    return portable(pretrained, (data.shape, len(data.classes), tuple(config.pretrained.items()), *numbers))


def known_networks(door: Door, costing: Costing, names: Iterable[str]) -> list[Entrant]:
    """The pretrained networks: candidates where they keep the limits, else teachers only."""
    space, entrants = costing.space, []
    for name in names:
        arch = space.parse(name)
        space.build(arch)  # refuses a file of another network before anything is trained
        inside = costing(arch)["violation"] <= 0 and door.admits(costing, arch)
        entrants.append(Entrant(space, arch, "pretrained" if inside else "teacher", costing(arch)))
    return entrants


def choose_teacher(config: Config, records: Sequence[dict[str, Any]], best: Mapping[str, Any]) -> dict[str, Any] | None:
    """Which pretrained network teaches the winner, if one does; {arch, key, round, validation}.

    The best of those that verification trained. With teach=auto it must be better than the winner beyond both
    intervals, and its forward pass (a third of its training step) must take no longer than the winner's training step,
    so that the winner still sees at least half of the images.
    """
    able = [
        r for r in records
        if r["space"] == "pretrained" and r["key"] != best["key"] and r["rounds"] and not r["failure"]
    ]  # fmt: skip
    if not able or config.teach == "no":
        return None
    record = max(able, key=lambda r: r["validation"])
    if config.teach == "auto":
        ahead = record["rounds"][-1]["interval"][0] > best["rounds"][-1]["interval"][1]
        costs = [r["costs"].get("training", 0.0) for r in (record, best)]
        if not ahead or costs[0] / 3 > costs[1]:
            return None
    fields = {name: record[name] for name in ("arch", "key", "validation")}
    return {**fields, "round": len(record["rounds"]) - 1, "forward_ms": record["costs"].get("training", 0.0) / 3}


def given_teacher(run: Run, config: Config, methods: Methods, data: Data) -> Teacher | None:
    """The network of the finished run `config.teacher`, or None; with the share and temperature of TAS, see Teacher.

    Raises UserError for a run without trained weights or for other images or classes, and if the weights changed since
    this run first read them.
    """
    if config.teacher is None or ("trained" in run and (run.folder / "weights.safetensors").exists()):
        return None
    taught = Result(config.teacher, trust=methods.trust)
    about = taught.about
    for name, own in (("input_shape", list(data.shape)), ("classes", list(data.classes))):
        if about[name] != own:
            raise UserError(f"the teacher {config.teacher} has {name} {about[name]}, the data {own}; take another one")
    network = taught.model()
    mark = hashlib.sha256((taught.folder / "weights.safetensors").read_bytes()).hexdigest()
    known = run.once(
        "teacher",
        lambda: {
            "arch": about["arch"], "run": config.teacher, "weights": mark,
            "forward_ms": best_rate(network, data, Recipe(batch_size=64), config)["ms"] / 3,
        },
    )  # fmt: skip
    if known["weights"] != mark:
        raise UserError(f"the weights of the teacher {config.teacher} changed since this run began; put them back")
    return Teacher(network, mean=about["mean"], std=about["std"])


def teacher_of(run: Run, config: Config, data: Data) -> Teacher | None:
    """The teacher that the run chose, with the weights that verification left."""
    found = run.recall("teacher")
    if not found or config.teacher is not None:
        return None
    space = known_space(config, data)
    arch = space.parse(found["arch"])
    network = space.build(arch)
    load_weights(network, run.folder / "checkpoints" / checkpoint_name(Entrant(space, arch, "teacher"), found["round"]))
    return Teacher(network, share=TAUGHT)


def pulled(
    door: Door,
    costing: Costing,
    methods: Methods,
    ranked: Sequence[Arch],
    records: Sequence[dict[str, Any]],
    wave: int,
    count: int,
) -> list[Entrant]:
    """The next finalists: the best by the predictor among the PULLABLE best of those ranked, given the first round.

    With less evidence than the predictor wants they follow by the aggregate's rank. Who was named, and on what
    evidence, is the event pulled/WAVE.
    """
    space, run = costing.space, door.run
    if logged := run.recall(f"pulled/{wave}"):  # on another machine the predictor may put near ties otherwise
        return [Entrant(space, arch, "finalist", costing(arch)) for arch in map(space.parse, logged["archs"])]
    archs = list(ranked[:PULLABLE])
    place = {space.format(arch): i for i, arch in enumerate(archs)}
    known = [(r, run.recall(trial_key(space, space.parse(r["arch"]))) or run.recall(f"control/{r['key']}"))
             for r in records if r["space"] == space.name and r["rounds"]]  # fmt: skip
    members = [run.recall(trial_key(space, arch)) for arch in archs]
    evaluated = {}
    for record, trial in known:
        if record["arch"] not in place and trial and trial["scores"]:  # a control: it informs, and cannot enter again
            place[record["arch"]] = len(members)
            members.append({"costs": record["costs"], **trial})
        if record["arch"] in place:
            evaluated[place[record["arch"]]] = record["rounds"][0]["validation"]
    directions = {name: proxy.direction for name, proxy in methods.proxies.items()}
    values = [{**m["costs"], **m["scores"]} for m in members]
    features = [*directions, *(name for name in PREDICTING if all(name in m for m in values))]
    found = predict_pool(values, directions, evaluated, features=features, seed=door.config.seed)
    order = range(len(archs))
    if found.value is not None:
        order = np.argsort(found.ranks[: len(archs)], kind="stable").tolist()
    inside = {r["arch"] for r in records if r["space"] == space.name}
    named: list[int] = []
    for i in [i for i in order if space.format(archs[i]) not in inside][: 4 * count + 16]:
        if len(named) < count and door.admits(costing, archs[i]):
            named.append(i)
    run.record(
        f"pulled/{wave}",
        {
            "by": "aggregate" if found.value is None else "predictor",
            "evidence": found.evidence,
            "archs": [space.format(archs[i]) for i in named],
            "ranks": [i + 1 for i in named],
        },
    )
    return [Entrant(space, archs[i], "finalist", costing(archs[i])) for i in named]


def energy_facts(model: torch.nn.Module, shape: Any, device: str, threads: int, seconds: float) -> dict[str, Any]:
    """Latency, energy in mJ and power in W of a network measured here, what they rest on, and what disturbed them."""
    found = measure_network(model, shape, device=device, threads=threads, seconds=seconds, precision=0.005)
    return {
        "latency": found.latency.to_json(),
        "energy": found.energy,
        "power": found.power,
        "metered": found.metered,
        "source": found.energy_source,
    }


def score_controls(run: Run, space: SearchSpace, entrants: Sequence[Entrant], pool: Any) -> None:
    """The scores of controls that no strategy proposed, for the correlations in the report; they decide nothing."""
    missing = [
        e
        for e in entrants
        if e.space is space and trial_key(space, e.arch) not in run and f"control/{e.key}" not in run
    ]
    for entrant, outcome in zip(missing, pool.map([e.arch for e in missing]), strict=True):
        run.record(f"control/{entrant.key}", outcome.value or {"scores": {}, "failures": {"network": outcome.failure}})


def scoring_batches(data: Data, seed: int) -> list[Batch]:
    """Two class-balanced batches of up to 64 normalised training images, the same in every process."""
    return [draw(data, 64, "balanced", 2 * seed + number) for number in (0, 1)]


def recipe_of(config: Config, data: Data, metric: str, epochs: float) -> Any:
    """How networks of this run are trained; the same recipe for every entrant, the baseline included."""
    flip = bool(data.mirrors) if config.flip == "auto" else config.flip == "yes"
    return find("recipe", config.recipe, RECIPES)(
        data.part("train"),
        data.shape,
        len(data.classes),
        mirrors=flip,
        balanced=metric == "balanced_accuracy",
        epochs=epochs,
    )


def train_winner(
    run: Run,
    config: Config,
    data: Data,
    metric: str,
    entrant: Entrant,
    plan: Plan | None,
    clock: Clock,
    select: Any,
    teacher: Teacher | None = None,
) -> None:
    """Full training on train and validation images, export, measurement, and the audit, which opens the test part.

    select: what chooses the training images; "full" for all.  teacher: whose answers it learns too.
    """
    space = entrant.space
    about = {
        "space": space.name,
        "factory": space.name if space.name in ("plain", "pretrained") else config.space,
        "arch": entrant.text,
        **({"notation": space.notation(entrant.arch)} if space.notation_of else {}),
        "input_shape": list(data.shape),
        "classes": list(data.classes),
        "mean": list(map(float, data.mean)),
        "std": list(map(float, data.std)),
    }
    run.write("architecture.json", json.dumps(about, indent=1))
    run.once("network", lambda: drawing(space, entrant.arch))
    model = initialise(space, entrant.arch, config.seed)
    weights = run.folder / "weights.safetensors"
    if "trained" in run and weights.exists():
        load_weights(model, weights)
    else:
        with memory_told(f"the full training of {entrant.text}", run):
            gentle = fine_tuning if entrant.text in config.pretrained and space.name == "pretrained" else None
            fully_train(run, config, data, metric, model, plan, clock, select, teacher, gentle)
        save_weights(model, weights)
    clock.stage_done("train")

    if "deployed" not in run:
        with progress("export and measurement", None):
            run.record("deployed", deploy(run, config, data, model))
    if "audit" not in run:
        with progress("audit", None):
            found = audit(model, data, threads=config.train_threads, device=config.device)
            run.write("pictures.json", json.dumps(pictures_of(data, found)))
            run.record("audit", found)
    clock.stage_done("audit")


@contextmanager
def memory_told(what: str, run: Run) -> Iterator[None]:
    """Says plainly that memory was short in the block, and what to do; other errors go on as they are."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not re.search(r"out of memory|allocate memory", str(error)):
            raise
        raise Stopped(
            f"{what} needs more memory than there is ({reason(error)[:160]}); free some and type: archscout resume "
            f"{run.folder}; or start anew with --limit training_memory=1GB or a smaller --size"
        ) from None


def pictures_of(data: Data, found: Mapping[str, Any]) -> dict[str, str]:
    """Small pictures of the images that the audit lists, by name, as data URIs."""
    from archscout.page import thumbnail

    place = {name: i for i, name in enumerate(data.names)}
    listed = [one["name"] for one in (*found["worst_test"], *found["suspects"])]
    return {name: thumbnail(np.asarray(data.images[place[name]])) for name in listed}


def drawing(space: SearchSpace, arch: Arch) -> dict[str, Any] | None:
    """What the report draws of an architecture: the space's own description."""
    return space.describe(arch) if space.describe else None


def prepare_selection(run: Run, config: Config, methods: Methods, part: Any) -> str | None:
    """The folder of the embedding that a selector compares images in, made before the workers need it; or None."""
    if not getattr(methods.select, "embeds", False):
        return None
    folder = str(run.folder / "embeddings")
    with progress("embedding the images", None):
        from archscout.selection.embedding import embed

        embed(part, cache=folder, threads=config.train_threads)
    return folder


def fully_train(
    run: Run,
    config: Config,
    data: Data,
    metric: str,
    model: torch.nn.Module,
    plan: Plan | None,
    clock: Clock,
    select: Any,
    teacher: Teacher | None = None,
    adapt: Callable[[Recipe], Recipe] | None = None,
) -> None:
    """The full training, from a checkpoint if there is one; under a budget its length follows the measured speed.

    Every change of the planned epochs is an event, so that a resumed training follows the same schedule.
    """
    part = data.merge("train", "validation")
    adapt = adapt or (lambda recipe: recipe)
    usual = adapt(recipe_of(config, data, metric, plan.epochs if plan else 10.0))
    timed = config.budget is not None and config.epochs is None
    threads, precision = config.train_threads, usual.precision
    if not timed:
        assert plan is not None
        epochs = plan.epochs
    else:
        budget = config.budget or 0.0
        rate = run.once(
            "training-rate",
            lambda: {**best_rate(model, data, usual, config), "spent": clock.spent()},
        )
        threads, precision = rate["threads"], rate.get("precision", precision)
        extra = (run.recall("teacher") or {}).get("forward_ms", 0.0)
        per_epoch = HOPE * len(part) * (rate["ms"] + extra) / 1000.0
        left = 0.97 * budget - rate["spent"] - audit_seconds(len(data.labels), rate["ms"], budget)
        epochs = float(min(max(left / per_epoch, 2 * usual.batch_size / len(part)), most_epochs(len(part))))
        if plan is None or abs(epochs - plan.epochs) > 0.02 * plan.epochs:
            before = "unplanned" if plan is None else f"{plan.epochs:.3g}"
            run.once(
                "plan-change/epochs",
                lambda: {
                    "time": rate["spent"],
                    "what": f"full training: {before} -> {epochs:.3g} epochs",
                    "why": f"one image takes {rate['ms']:.3g} ms and {max(left, 0.0):.0f} s are left for it",
                },
            )
    recipe = replace(adapt(recipe_of(config, data, metric, epochs)), precision=precision)
    log.info("full training: %.3g epochs of %d images", epochs, len(part))
    if epochs < 1 and timed:
        log.warning(
            "only %.2g epochs of the full training fit into the budget: the network sees a part of the images and will "
            "have learned little; give a longer --budget, or fewer seconds to the rest by --split",
            epochs,
        )
    selector = make_selector(select, part, seed=config.seed, share=config.share, cache=str(run.folder / "embeddings"))
    several = config.devices > 1  # processes of their own, to which the bar and the log cannot travel
    rate_ms = rate["ms"] if timed else 0.0
    with progress("full training", epochs) as bar:

        def shown(step: int, steps: int, loss: float, accuracy: float) -> None:
            bar.advance(epochs / steps, note=f"loss {loss:.3f}, accuracy {accuracy:.3f}")

        fitted = fit(
            model,
            part,
            recipe=recipe,
            epochs=epochs,
            seed=config.seed,
            mean=data.mean,
            std=data.std,
            selector=selector,
            audit_every=None if selector is None else max(1.0, epochs / 5),
            threads=threads,
            device=config.device,
            devices=config.devices,
            checkpoint=run.folder / "checkpoints" / "final.pt",
            on_progress=None if several else shown,
            allow=keep_deadline(run, config, clock, epochs, rate_ms, len(data.labels)),
            teacher=teacher,
        )
        if several:
            for change in fitted.changes:
                record_shorter(run, clock, change["done"], change["epochs"])
    if selector is not None:
        run.once("selection", lambda: selection_facts(selector, model, part, fitted, data, config))
    run.once(
        "trained",
        lambda: {
            "epochs": fitted.epochs,
            "seconds": fitted.seconds,
            "history": fitted.history,
            "recipe": asdict(recipe),
            "images": len(part),
        },
    )


def selection_facts(
    selector: Selector, model: torch.nn.Module, part: Any, fitted: Fit, data: Data, config: Config
) -> dict[str, Any]:
    """What the selector left out, and how all images of the training fare: the audit at the end, with those before.

    selector: the word; rounds, updates, images (of a round at the end), ever (images in any round); audits: Drifts;
    class, cluster: a row per class and per cluster of images whose pixels are alike, see drift.by_class_and_cluster; a
    row of a cluster has the names of three of its images; behind: what these rows of either kind are called where never
    selected images are answered worse. suspects: names of images whose label is doubted.
    Costs a forward pass of all images and 3 s for the clusters of 50,000 of 32 x 32.
    """
    answers = evaluate(model, part, mean=data.mean, std=data.std, threads=config.train_threads, device=config.device)
    right = torch.from_numpy(answers.labels == answers.predictions)
    record = selector.record
    last = compare(record, torch.arange(len(part)), right)
    if last.drifted:
        log.warning("%s", last)
    alike = clusters(embed(part, "pixels", threads=config.train_threads), None, CLUSTERS)
    rows = by_class_and_cluster(record, right, alike)
    for row in rows["cluster"]:
        row["names"] = [data.names[i] for i in np.asarray(part.indices)[np.flatnonzero(alike == row["number"])[:3]]]
    fallen = [f"class {data.classes[row['number']]}" for row in behind(rows["class"])]
    fallen += [f"the cluster of {row['names'][0]}" for row in behind(rows["cluster"])]
    for name in fallen:
        log.warning("in %s never selected images are answered worse than ever selected ones", name)
    doubtful = suspects(record).nonzero().squeeze(1).numpy()
    doubtful = doubtful[np.argsort(record.margin.numpy()[doubtful], kind="stable")][:30]
    return {
        "selector": word(selector),
        "rounds": record.round,
        "updates": len(record.changes) - 1,  # the first round is no change
        "images": record.size,
        "ever": int((record.times > 0).sum()),
        "audits": [*fitted.audits, last.to_json()],
        **rows,
        "behind": fallen,
        "suspects": [data.names[i] for i in np.asarray(part.indices)[doubtful]],
    }


def usable(recipe: Recipe, config: Config) -> tuple[str, ...]:
    """The precisions to choose from: those of the device, unless the recipe of a person's own asks for another."""
    among = precisions(config.device)
    return among if recipe.precision == among[0] else (recipe.precision,)


def best_rate(model: torch.nn.Module, data: Data, recipe: Recipe, config: Config) -> dict[str, Any]:
    """Milliseconds per image of a training step, and the fastest way: all threads or one, float32 or bfloat16."""
    seconds = min(max(0.005 * (config.budget or 0.0), 0.5), 3.0)
    counts = sorted({1, config.train_threads})
    ms, threads, precision = fastest_training(
        model, data.shape, len(data.classes), batch=recipe.batch_size, device=config.device, seconds=seconds,
        among=[(threads, precision) for precision in usable(recipe, config) for threads in counts],
    )  # fmt: skip
    return {"ms": ms, "threads": threads, "precision": precision}


def entrant_precision(run: Run, config: Config, data: Data, recipe: Recipe, entrant: Entrant) -> str:
    """The precision in which an entrant trains, by a measurement that is logged; float32 without a budget.

    A run given by counts depends on its seed alone, and so times nothing.
    """
    among = usable(recipe, config)
    if config.budget is None or len(among) < 2:
        return recipe.precision

    def work() -> dict[str, Any]:
        try:
            ms, _, precision = fastest_training(
                initialise(entrant.space, entrant.arch, config.seed), data.shape, len(data.classes),
                batch=recipe.batch_size, device=config.device, seconds=0.1,
                among=[(config.threads, one) for one in among],
            )  # fmt: skip
        except Exception as error:  # told by its training
            return {"precision": recipe.precision, "failure": reason(error)}
        return {"precision": precision, "ms": ms}

    return str(run.once(f"precision/{entrant.key}", work)["precision"])


@dataclass
class Deadline:
    """The `allow` of a training that must end at `ends`, in seconds of time.monotonic: shortens one that is too slow.

    epochs: what is planned; changes with each shortening.  budget: seconds of the whole run; a hundredth is forgiven.
    Holds numbers only, so it travels to the processes of a training on several devices.
    """

    ends: float
    epochs: float
    budget: float
    first: tuple[float, float] | None = None  # epochs and seconds at the first look
    looked: float = 0.0

    def __call__(self, done: float) -> float | None:
        now = time.monotonic()
        if self.first is None:
            self.first, self.looked = (done, now), now
        since = now - self.first[1]
        if now - self.looked < 0.02 * self.budget or done <= self.first[0] or since < 0.05 * self.budget:
            return None
        self.looked = now
        speed, left = since / (done - self.first[0]), self.ends - now
        if (self.epochs - done) * speed <= left + 0.01 * self.budget:
            return None
        self.epochs = done + max(left, 0.0) / speed
        return self.epochs


def keep_deadline(
    run: Run, config: Config, clock: Clock, epochs: float, training_ms: float, images: int
) -> Callable[[float], float | None] | None:
    """The `allow` of the full training: shortens it when, at the speed so far, the budget would be overrun.

    Each shortening is an event at its place in the training; a training resumed from before that place repeats it.
    On several devices the events are written when the training has ended, since a log does not travel.
    """
    timed = config.budget is not None and config.epochs is None
    budget = config.budget or 0.0
    left = 0.985 * budget - audit_seconds(images, training_ms, budget) - clock.spent()
    deadline = Deadline(time.monotonic() + left, epochs, budget)
    if config.devices > 1:
        return deadline if timed else None
    logged = {float(event["value"]["done"]): float(event["value"]["epochs"]) for event in run.events("shorter/")}

    def allow(done: float) -> float | None:
        if done in logged:
            deadline.epochs = logged[done]
            return deadline.epochs
        if not timed or (logged and done <= max(logged)):
            return None
        total = deadline(done)
        if total is not None:
            record_shorter(run, clock, done, total)
        return total

    return allow


def record_shorter(run: Run, clock: Clock, done: float, total: float) -> None:
    """Log that a training was shortened to `total` epochs after `done` of them."""
    run.record(f"shorter/{done!r}", {"done": done, "epochs": total})
    run.record(
        f"plan-change/{done!r}",
        {
            "time": clock.spent(),
            "what": f"full training: {total:.3g} epochs in all",
            "why": "it runs slower than measured",
        },
    )


def deploy(run: Run, config: Config, data: Data, model: torch.nn.Module) -> dict[str, Any]:
    """Export the trained network, check the file, and measure latency, energy and memory, alone on the machine."""
    check = data.part("train").batch(np.arange(min(16, len(data.part("train")))))[1]
    exported = export_onnx(
        model,
        run.folder / "model.onnx",
        input_shape=data.shape,
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        check_images=check,
    )
    measured = energy_facts(model, data.shape, config.device, config.threads, seconds=1.0)
    return {
        "max_difference": exported.max_difference,
        "onnx_bytes": exported.bytes,
        "latency": measured.pop("latency"),
        "energy": measured,
        "onnx_latency": measure_onnx(run.folder / "model.onnx", threads=config.threads, seconds=0.5).to_json(),
        "peak_memory": measure_memory(model, data.shape),
    }


def versions() -> dict[str, Any]:
    """What the run was made with: program, libraries, machine, date."""
    import platform
    from importlib.metadata import version

    return {
        "archscout": version("archscout"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def demo(*, out: str | Path | None = None, seed: int = 0) -> Result:
    """The main job on scikit-learn's 1,797 handwritten digits with at most 60,000 parameters; about two minutes."""
    return search("digits", out=out, seed=seed, space="mobilenet", limits={"params": 60_000}, budget=110.0)
