"""Who enters the verification: finalists of several sizes, controls beside them, and what the predictor names."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
import torch

from archscout.asked import Methods
from archscout.config import Config
from archscout.costs.limits import format_cost
from archscout.data import Data
from archscout.devices.measure import energy_facts, safe_end
from archscout.devices.profile import Profile
from archscout.errors import UserError
from archscout.execute import Limit, Overdue
from archscout.predictor import predict_pool
from archscout.pretrained import pretrained
from archscout.propose import Costing, trial_key, within_limits
from archscout.run import Run
from archscout.space import Arch, SearchSpace, portable
from archscout.verify import Entrant, initialise, largest_within

log = logging.getLogger("archscout")

APART = 1.6  # times the parameters by which finalists differ, see various
PREDICTING = ("params", "macs", "memory", "training")  # costs that the predictor reads beside the proxies
PULLABLE = 1000  # best candidates by the aggregate that the predictor may name


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
    """The ranked architectures with the best of every kind and size first, which is what the ranking says least well.

    Of each kind of the space (SearchSpace.kinds) come, in turn, the best and then those of the better half of that kind
    whose parameters differ from those of all that came before of it by the factor APART; then the others in their
    order. Mutants of one parent would fill the verification otherwise.
    """
    kinds: dict[Any, list[Arch]] = {}
    for arch in ranked:
        kinds.setdefault(costing.space.kind(arch), []).append(arch)
    lanes: list[list[Arch]] = []
    for members in kinds.values():
        lane, sizes = [], list[float]()
        for arch in members[: (len(members) + 1) // 2]:
            size = math.log(max(costing(arch)["params"], 1.0))
            if all(abs(size - other) >= math.log(APART) for other in sizes):
                lane.append(arch)
                sizes.append(size)
        lanes.append(lane)
    first = [arch for turn in zip_longest(*lanes) for arch in turn if arch is not None]
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


def score_controls(run: Run, space: SearchSpace, entrants: Sequence[Entrant], pool: Any) -> list[Entrant]:
    """The entrants, after scoring controls that no strategy proposed, for the correlations in the report.

    The scores decide nothing; but a control whose network fails, hangs or takes all memory is left out.
    """
    missing = [
        e
        for e in entrants
        if e.space is space and trial_key(space, e.arch) not in run and f"control/{e.key}" not in run
    ]
    for entrant, outcome in zip(missing, pool.map([e.arch for e in missing]), strict=True):
        run.record(f"control/{entrant.key}", outcome.value or {"scores": {}, "failures": {"network": outcome.failure}})
    sound = []
    for entrant in entrants:
        trial = run.recall(trial_key(entrant.space, entrant.arch)) or run.recall(f"control/{entrant.key}") or {}
        failure = trial.get("failures", {}).get("network")
        if failure and entrant.role != "finalist":
            log.warning("the %s control %s is left out of the verification: %s", entrant.role, entrant.text, failure)
        else:
            sound.append(entrant)
    return sound


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

    With less evidence than the predictor wants they follow in the order of `ranked`. Who was named, and on what
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
    kinds = [space.kind(arch) for arch in archs]
    evaluated = {}
    for record, trial in known:
        if record["arch"] not in place and trial and trial["scores"]:  # a control: it informs, and cannot enter again
            place[record["arch"]] = len(members)
            kinds.append(space.kind(space.parse(record["arch"])))
            members.append({"costs": record["costs"], **trial})
        if record["arch"] in place:
            evaluated[place[record["arch"]]] = record["rounds"][0]["validation"]
    directions = {name: proxy.direction for name, proxy in methods.proxies.items()}
    values = [{**m["costs"], **m["scores"]} for m in members]
    features = [*directions, *(name for name in PREDICTING if all(name in m for m in values))]
    found = predict_pool(values, directions, evaluated, features=features, kinds=kinds, seed=door.config.seed)
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
