"""The zero-shot stage: proposals, their costs, the limits that reject first, and the scores of what is left."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from archscout.aggregate import rank_among_kinds, rank_rows
from archscout.costs import COSTS, available
from archscout.costs.limits import format_cost, violation
from archscout.costs.trace import Trace, trace
from archscout.devices.profile import Profile
from archscout.errors import UserError
from archscout.execute import Limit, Overdue
from archscout.probe import reason
from archscout.rows import Keyed, Rows
from archscout.run import Run
from archscout.space import Arch, SearchSpace

log = logging.getLogger("archscout")

GENERATION = 16  # proposals asked at once; fixed, so that results never depend on the number of workers
BROKEN = 1e9  # the violation of an architecture whose network cannot be built


@dataclass
class Costing:
    """The costs of architectures of one space, each computed once: counted ones, and predicted ones with a profile.

    Call it with an architecture; the answer also has `violation` (0 = within limits). Predicted costs are held against
    their limits at the safe end of their interval (`Profile.upper`). About 10 to 20 ms for a new one, and 0.2 kB.

    A network that cannot be built, or not within `patience` seconds, has no costs and the violation BROKEN, so that it
    is passed over like one above a limit; `failures` says why.
    """

    space: SearchSpace
    limits: Mapping[str, float]
    profile: Profile | None = None
    known: Keyed[Arch] = field(default_factory=Keyed)
    failures: dict[Arch, str] = field(default_factory=dict)
    patience: float | None = 120.0

    def __post_init__(self) -> None:
        require_known("limit", self.limits, self.profile)

    def within(self, limits: Mapping[str, float]) -> Costing:
        """The same costs under other limits."""
        known: Keyed[Arch] = Keyed()
        for arch, costs in self.known.items():
            over = BROKEN if arch in self.failures else violation(self.upper(costs), limits)
            known[arch] = {**costs, "violation": over}
        made = Costing(self.space, limits, self.profile, known, dict(self.failures), self.patience)
        made.few_shot = self.few_shot  # fitted once: it takes seconds
        return made

    def upper(self, costs: Mapping[str, float]) -> Mapping[str, float]:
        """The costs as they are held against limits: those that are predicted at the safe end of their interval."""
        return costs if self.profile is None else self.profile.upper(costs)

    @cached_property
    def few_shot(self) -> Callable[[Arch], dict[str, float]] | None:
        """What predicts latency and energy of this space from a few measured networks, where the profile has such."""
        return self.profile.predictor(self.space) if self.profile else None

    def trace(self, arch: Arch) -> Trace:
        """What one forward of an architecture's network does, without computing it."""
        import torch

        with torch.device("meta"):
            model = self.space.build(arch)
        return trace(model, self.space.input_shape)

    def __call__(self, arch: Arch) -> dict[str, float]:
        key = self.space.canonical(arch)
        if key not in self.known:
            try:
                with Limit(self.patience):
                    costs = self._computed(key)
                self.known[key] = {**costs, "violation": violation(self.upper(costs), self.limits)}
            except Overdue:
                self.fail(key, f"building it took longer than {self.patience:g} s")
            except Exception as error:
                self.fail(key, reason(error))
        return self.known[key]

    def fail(self, key: Arch, why: str) -> None:
        """Keeps that the network of a canonical architecture cannot be built."""
        self.failures[key] = why
        self.known[key] = {"violation": BROKEN}

    def _computed(self, key: Arch) -> dict[str, float]:
        seen = self.trace(key)
        costs = {name: float(COSTS[name].compute(seen, self.profile)) for name in available(self.profile)}
        if self.few_shot is not None and self.profile is not None:
            costs |= self.few_shot(key)
            if "energy" in costs:
                metered = self.profile.few.get("energies")
                costs["power"] = costs["energy"] / costs["latency"] if metered else float(self.profile.power)
        if self.profile and self.profile.training_terms:
            costs["training"] = float(self.profile.training(seen))
        return costs


def require_known(what: str, names: Iterable[str], profile: Profile | None) -> None:
    """Raises UserError where a cost that a limit or an objective is on cannot be computed with a profile."""
    for name in names:
        if name in COSTS and name not in available(profile):
            source = f"the profile of {profile.target or 'this device'}" if profile else "a run without a profile"
            raise UserError(
                f"{'an' if what[0] in 'aeiou' else 'a'} {what} on {name} needs to know it, and {source} does not; "
                "measure it there, state the watts with archscout device add NAME FILE --power 3W, or drop the "
                f"{what}"
            )


def feasible_sampler(costing: Costing, tries: int = 20, steps: int = 60) -> Callable[[np.random.Generator], Arch]:
    """A way to draw random architectures within the limits: rejection first, then mutations toward the limits.

    Uniform over feasible architectures while rejection succeeds; where feasible ones are rarer than about 1 in `tries`,
    those near the least violating draw are favoured. Returns the least violating one if none is feasible.
    """
    space = costing.space

    def sample(rng: np.random.Generator) -> Arch:
        best: Arch | None = None
        for _ in range(tries):
            arch = space.sample(rng)
            if best is None or costing(arch)["violation"] < costing(best)["violation"]:
                best = arch
            if costing(best)["violation"] <= 0:
                return best
        assert best is not None
        for _ in range(steps):
            child = space.mutate(best, rng)
            if costing(child)["violation"] <= costing(best)["violation"]:
                best = child
            if costing(best)["violation"] <= 0:
                break
        return best

    return sample


def within_limits(costing: Costing) -> SearchSpace:
    """The same space, whose random draws respect the limits where they can."""
    return replace(costing.space, sample_of=feasible_sampler(costing))


def require_feasible(costing: Costing, draws: Sequence[Arch]) -> list[Arch]:
    """The feasible ones of some draws, or a UserError that names the nearest values that the space can reach."""
    feasible = [arch for arch in draws if costing(arch)["violation"] <= 0]
    if feasible:
        return feasible
    seen = [costing.upper(costs) for arch, costs in costing.known.items() if arch not in costing.failures]
    if not seen:
        why = next(iter(costing.failures.values()), "nothing was drawn")
        raise UserError(f"no network of space '{costing.space.name}' could be built here: {why}; take another --space")
    nearest = min(seen, key=lambda costs: costs["violation"])
    wanted = ", ".join(f"{name}={format_cost(name, value)}" for name, value in costing.limits.items())
    found = ", ".join(f"{name}={format_cost(name, nearest[name])}" for name in costing.limits)
    least = ", ".join(f"{name}={format_cost(name, min(costs[name] for costs in seen))}" for name in costing.limits)
    doubts = {name: costing.upper({name: 1.0})[name] - 1 for name in costing.limits}
    safe = "".join(
        f"; {name} is predicted, with {doubt:.0%} on top for its error and slow moments of the machine"
        for name, doubt in doubts.items()
        if doubt
    )
    raise UserError(
        f"no network of space '{costing.space.name}' found within {wanted}; the nearest of {len(costing.known)} has "
        f"{found} (least seen of each: {least}){safe}; raise the limits or take another --space"
    )


class Pool(Protocol):
    """What scores architectures in order; see execute.py."""

    def map(self, items: Any) -> Any: ...


def trial_key(space: SearchSpace, arch: Arch) -> str:
    """The log key under which everything about an architecture's zero-shot trial stands."""
    return f"trial/{space.name}/{space.format(arch)}"


class Trials(Sequence[dict[str, Any]]):
    """What the zero-shot stage met, in the order it was met, at some hundred bytes each.

    A trial is read as a dict: `arch` (text), `costs`, and of feasible ones `scores` and `failures`.
    """

    def __init__(self, costing: Costing) -> None:
        self._costing = costing
        self.archs: list[Arch] = []
        self.scores = Rows()  # one row a trial, empty where there is no score
        self._place: dict[Arch, int] = {}
        self._feasible = bytearray()
        self._failures: dict[int, dict[str, str]] = {}

    def __len__(self) -> int:
        return len(self.archs)

    def __contains__(self, arch: object) -> bool:
        return arch in self._place

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        arch = self.archs[place]
        trial: dict[str, Any] = {"arch": self._costing.space.format(arch), "costs": self._costing.known[arch]}
        if self._feasible[place]:
            trial |= {"scores": self.scores[place], "failures": self._failures.get(place, {})}
        return trial

    def add(self, arch: Arch, trial: Mapping[str, Any]) -> None:
        """Takes a logged trial in; its costs must be known to the costing."""
        self._place[arch] = len(self.archs)
        self.archs.append(arch)
        self._feasible.append("scores" in trial)
        if trial.get("failures"):
            self._failures[self.scores.append(trial.get("scores", {}))] = dict(trial["failures"])
        else:
            self.scores.append(trial.get("scores", {}))

    def feasible(self, arch: Arch) -> bool:
        """Whether scoring a met architecture was tried."""
        return bool(self._feasible[self._place[arch]])

    def told(self, arch: Arch) -> dict[str, float]:
        """Costs and scores of a met architecture, as strategies hear of them."""
        return {**self._costing.known[arch], **self.scores[self._place[arch]]}

    def ranked(self, directions: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray]:
        """Places of the trials that have a score, and their ranks among each other (1 = best)."""
        found = np.isfinite(self.scores.table(self.scores.names)).any(axis=1).nonzero()[0]
        return found, rank_rows(self.scores.table(list(directions))[found], directions)

    def order(self, directions: Mapping[str, str]) -> list[Arch]:
        """The architectures that have a score, best first; ties by parameters, then by text.

        Where the space has several kinds, the best of each come first, then the second of each, and so on: a rank is
        then one among its kind. What is best of all kinds comes first among these.
        """
        space, costing = self._costing.space, self._costing
        places, ranks = self.ranked(directions)
        archs = [self.archs[place] for place in places.tolist()]
        among = np.zeros(len(places), dtype=np.int64)
        if space.kinds:
            table = self.scores.table(list(directions))[places]
            among, _ = rank_among_kinds(table, directions, [space.kind(arch) for arch in archs])

        def key(i: int) -> tuple[int, int, float, str]:
            return int(among[i]), int(ranks[i]), costing(archs[i])["params"], space.format(archs[i])

        return [archs[i] for i in sorted(range(len(archs)), key=key)]

    def why(self) -> dict[str, str] | None:
        """The reasons of the first trial that failed."""
        return next(iter(self._failures.values()), None)


def propose_and_score(
    run: Run,
    costing: Costing,
    strategy: Any,
    pool: Pool,
    candidates: int,
    *,
    directions: Mapping[str, str],
    on_progress: Callable[[int, str], None] = lambda n, best: None,
    out_of_time: Callable[[], bool] = lambda: False,
) -> Trials:
    """Ask, reject by limits, score, log and tell, until enough candidates are scored or nothing new is proposed.

    Each canonical architecture is costed and scored once. Returns the trials in the order they were met. `on_progress`
    hears of each scored one, with the best so far by rank (looked up whenever the pool has grown by a tenth).
    `out_of_time` is asked once a generation; a stop by it is an event, so that a resumed run stops at the same place.
    Costs per candidate, beside its scoring: about half a millisecond, and one kilobyte of memory.
    """
    space = costing.space
    trials = Trials(costing)
    scored = asked = idle = looked = 0
    best = ""
    while scored < candidates and idle < 60:
        generation = [space.canonical(arch) for arch in strategy.ask(GENERATION)]
        stop_key = f"stop/{asked}"
        if run.recall(stop_key) or (scored >= 8 and f"generation/{asked}" not in run and out_of_time()):
            run.once(stop_key, lambda: True)
            break
        asked += len(generation)
        fresh = [arch for arch in dict.fromkeys(generation) if arch not in trials]
        wanted = []
        for arch in fresh:
            key = trial_key(space, arch)
            logged = run.recall(key)
            if logged is None and costing(arch)["violation"] <= 0:
                wanted.append(arch)
                continue
            if logged is None:
                failures = {"failures": {"network": costing.failures[arch]}} if arch in costing.failures else {}
                logged = run.record(key, {"arch": space.format(arch), "costs": costing(arch), **failures})
            elif "failures" in logged and "scores" not in logged:
                costing.fail(arch, logged["failures"]["network"])
            try:
                if arch not in costing.known:
                    costing.known[arch] = logged["costs"]
                trials.add(arch, logged)
            except OverflowError as error:
                raise UserError(
                    f"event '{key}' of {run.folder / 'trials.jsonl'} is damaged ({error}); remove that line"
                ) from None
        for arch, outcome in zip(wanted, pool.map(wanted), strict=True):
            answer = (
                outcome.value if outcome.failure is None else {"scores": {}, "failures": {"network": outcome.failure}}
            )
            logged = run.record(
                trial_key(space, arch),
                {"arch": space.format(arch), "costs": costing(arch), **answer, "seconds": outcome.seconds},
            )
            trials.add(arch, logged)
            on_progress(1, best)
        key = f"generation/{asked - len(generation)}"
        if key not in run:
            run.record(key, asked)
        fresh_scored = sum(trials.feasible(arch) for arch in fresh)
        scored += fresh_scored
        if scored > 1.1 * looked:
            looked = scored
            places, ranks = trials.ranked(directions)
            if len(places):
                best = space.format(trials.archs[int(places[np.argmin(ranks)])])
        idle = 0 if fresh_scored else idle + 1
        strategy.tell(generation, [trials.told(arch) for arch in generation])
    return trials
