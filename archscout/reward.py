"""Search by accuracy: what a strategy proposes trains shortly, and the strategy hears how accurate it became."""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import save as save_tensors

from archscout.aggregate import rank_among_kinds, score_table
from archscout.checkpoint import left_behind, npy, read_answers, read_weights
from archscout.plan import TOGETHER
from archscout.propose import GENERATION, Costing, trial_key
from archscout.space import Arch, SearchSpace
from archscout.stopping import front_order
from archscout.strategies.strategy import Goal

log = logging.getLogger("archscout")

POOL = 1000  # of what was scored first, among which proposals are ranked; all of 100,000 would take half a second
CHILDREN = 4  # proposals of which the best by the aggregate, among its kind, trains
IDLE = 60 * GENERATION  # proposals in a row that bring nothing new to train, after which a search ends
COMPARED = 16  # best networks so far whose answers the selector of the next ones compares
RELATED = 1 / 3  # of the decisions may differ where weights are inherited


class Log(Protocol):
    """The log of a run; see run.Run."""

    folder: Any

    def __contains__(self, key: object) -> bool: ...

    def recall(self, key: str) -> Any: ...

    def record(self, key: str, value: Any, seconds: float = 0.0) -> Any: ...

    def write(self, name: str, content: bytes) -> Any: ...


@dataclass
class Search:
    """The search by accuracy over one space, with everything it has met so far; call it once.

    It asks a strategy for proposals, one after another. Those beyond the limits are told as such, and what has trained
    before is told again as it came out. Of each `children` that may train and have not yet, the best of its kind by the
    aggregate of scores trains, and the others are told as `skipped`; what the strategy was given to start with trains
    unfiltered. After TOGETHER trainings the strategy is told all outcomes, in the order of asking; and before, once
    GENERATION proposals in a row brought nothing to train, so that it hears of limits that it does not meet.

    run:         the log. A training is the event short/SPACE/ARCH, a zero-shot score trial/SPACE/ARCH as always, so a
                 resumed search computes nothing twice and ends alike. What a training left in `checkpoints/` and
                 cannot be read back, until the event `short` says that all is done, is trained again as it was.
    score:       scores architectures, outcomes in order; value {"scores", "failures"}.
    train:       trains items {"arch", "state", "answers", "ask", "changes"}, outcomes in order; value with
                 "validation", and "state" as bytes. `answers` (networks, images) are those of the best so far that said
                 theirs, None for fewer than two; where `ask` holds, more trainings follow, and the value may have what
                 this network answers, as `said` (images,). `changes` are the shortenings of the same training made
                 before, which the value may have; None for a new one.
    scores:      architecture -> its scores, of all that were scored before; grows.
    start:       what the strategy was given to start with.
    inherit:     whether a network begins with the weights of the nearest trained one, by name and shape.
    make:        architecture -> its freshly initialised network, for `inherit`.
    """

    run: Log
    costing: Costing
    strategy: Any
    directions: Mapping[str, str]
    score: Callable[[Sequence[Arch]], Iterable[Any]]
    train: Callable[[Sequence[dict[str, Any]]], Iterable[Any]]
    scores: dict[Arch, dict[str, float]] = field(default_factory=dict)
    start: Sequence[Arch] = ()
    children: int = CHILDREN
    together: int = TOGETHER
    inherit: bool = False
    make: Callable[[Arch], torch.nn.Module] | None = None
    trained: dict[Arch, dict[str, Any]] = field(default_factory=dict)  # in the order of training
    ended: str = ""  # why fewer were trained than asked for: "time", "idle" where nothing new came, or ""

    def __call__(
        self,
        trainings: int,
        *,
        out_of_time: Callable[[], bool] = lambda: False,
        on_progress: Callable[[int, str], None] = lambda n, best: None,
    ) -> dict[Arch, dict[str, Any]]:
        """Trains up to so many networks; architecture -> its record, in the order of training.

        A record: arch (text), costs, validation (None if it failed), failure, epochs, seconds, heir_of (text or None)
        and what else `train` told. Ends sooner, with a warning, where nothing new is proposed; see `ended`.
        `out_of_time` is asked before each TOGETHER; a stop by it is an event.
        """
        run, idle = self.run, 0  # idle: the last proposals, in a row, that brought nothing
        while len(self.trained) < trainings and idle < IDLE:
            place = f"{len(self.trained)}/{idle}" if idle else str(len(self.trained))
            stop, begun = f"short-stop/{place}", f"short-begin/{place}"
            if run.recall(stop) or (self.trained and begun not in run and out_of_time()):
                if stop not in run:
                    run.record(stop, True)
                self.ended = "time"
                break
            if begun not in run:
                run.record(begun, True)
            asked, chosen, barren = self._choose(min(self.together, trainings - len(self.trained)))
            idle = barren if chosen else idle + barren
            self._train(chosen, len(self.trained) + len(chosen) < trainings, on_progress)
            self.strategy.tell(asked, [self._told(arch) for arch in asked])
        if len(self.trained) < trainings:
            self.ended = self.ended or "idle"
            why = "time was over" if self.ended == "time" else f"{idle} proposals in a row were not new or not feasible"
            log.warning("the search by accuracy trained %d of %d networks: %s", len(self.trained), trainings, why)
        return self.trained

    def ranked(self, objectives: Sequence[str] = ()) -> list[Arch]:
        """The trained architectures that did not fail, the most accurate first; ties by fewer parameters.

        objectives: costs that count beside accuracy; the order is then by fronts, see stopping.front_order.
        """
        fine = [arch for arch, record in self.trained.items() if record["validation"] is not None]
        fine.sort(key=lambda arch: (-self.trained[arch]["validation"], self.costing(arch).get("params", 0.0)))
        costs = np.array([[self.costing(arch).get(name, np.nan) for name in objectives] for arch in fine])
        return [fine[i] for i in front_order([self.trained[arch]["validation"] for arch in fine], costs)]

    def _choose(self, wanted: int) -> tuple[list[Arch], list[Arch], int]:
        """The proposals asked, those of them that are to train, at most `wanted`, and how many of the last are idle."""
        asked: list[Arch] = []
        chosen: list[Arch] = []
        group: list[Arch] = []
        first, idle = set(self.start), 0
        while len(chosen) < wanted and idle < GENERATION:
            (arch,) = self.strategy.ask(1)
            arch = self.costing.space.canonical(arch)
            asked.append(arch)
            if arch in self.trained or arch in chosen or arch in group or not self._fits(arch):
                idle += 1
                continue
            idle = 0
            if arch in first or self.children == 1:
                chosen.append(arch)
                continue
            group.append(arch)
            if len(group) == self.children:
                chosen.append(self._best(group))
                group = []
        if group and len(chosen) < wanted:  # hardly more comes: the best of what there is
            chosen.append(self._best(group))
        return asked, chosen, idle

    def _fits(self, arch: Arch) -> bool:
        """Whether a proposal is within the limits; that its network cannot be built is logged, as it may take time."""
        costing, key = self.costing, trial_key(self.costing.space, arch)
        logged = self.run.recall(key)
        if logged is not None and "failures" in logged and "scores" not in logged:
            costing.fail(arch, logged["failures"]["network"])
        fits = costing(arch)["violation"] <= 0
        if logged is None and arch in costing.failures:
            told = {"arch": costing.space.format(arch), "costs": costing(arch)}
            self.run.record(key, {**told, "failures": {"network": costing.failures[arch]}})
        return fits

    def _best(self, group: Sequence[Arch]) -> Arch:
        """The best of some proposals: by the aggregate among what was scored first of its kind, or by the strategy."""
        run, space = self.run, self.costing.space
        missing = []
        for arch in group:
            if arch in self.scores:
                continue
            logged = run.recall(trial_key(space, arch))
            if logged is None:
                missing.append(arch)
            else:
                self.scores[arch] = logged.get("scores", {})
        for arch, outcome in zip(missing, self.score(missing) if missing else (), strict=True):
            answer = outcome.value if outcome.failure is None else {"failures": {"network": outcome.failure}}
            logged = run.record(
                trial_key(space, arch),
                {
                    "arch": space.format(arch), "costs": self.costing(arch), "scores": {}, "failures": {}, **answer,
                    "seconds": outcome.seconds,
                },
            )  # fmt: skip
            self.scores[arch] = logged["scores"]
        if best_of := getattr(self.strategy, "best_of", None):
            return best_of({arch: self.scores[arch] for arch in group})
        pool = dict.fromkeys((*group, *islice(self.scores, POOL)))
        table = score_table([self.scores[arch] for arch in pool], list(self.directions))
        ranks, sizes = rank_among_kinds(table, self.directions, [self.costing.space.kind(arch) for arch in pool])
        places = dict(zip(pool, ((ranks - 0.5) / sizes).tolist(), strict=True))
        return min(group, key=places.__getitem__)

    def _train(self, chosen: Sequence[Arch], more: bool, on_progress: Callable[[int, str], None]) -> None:
        run, space = self.run, self.costing.space
        keys = {arch: f"short/{space.name}/{space.format(arch)}" for arch in chosen}
        known = {arch: run.recall(keys[arch]) or {} for arch in chosen}
        to_train = [arch for arch in chosen if not known[arch] or not self._left_behind(arch, known[arch])]
        answers = self._answers() if to_train else None
        items: list[dict[str, Any]] = []
        heirs: dict[Arch, str | None] = {}
        for arch in to_train:
            heir, state = self._heritage(arch)
            heirs[arch] = None if heir is None else space.format(heir)
            changes = known[arch].get("changes")
            items.append({"arch": arch, "state": state, "answers": answers, "ask": more, "changes": changes})
        for item, outcome in zip(items, self.train(items) if items else (), strict=True):
            arch = item["arch"]
            answer = dict(outcome.value) if outcome.failure is None else {"failure": outcome.failure}
            state, said = answer.pop("state", None), answer.pop("said", None)
            about: dict[str, Any] = {
                "arch": space.format(arch), "costs": self.costing(arch), "heir_of": heirs[arch],
            }  # fmt: skip
            if self.inherit and state is not None:
                run.write(f"checkpoints/{weights_name(space, arch)}", state)
                about["kept"] = True
            if said is not None:
                run.write(f"checkpoints/{answers_name(space, arch)}", npy(said))
                about["answered"] = len(said)
            if known[arch]:
                if answer.get("failure"):  # its event holds; whoever needs its weights says that they are lost
                    log.warning("training %s again failed: %s", keys[arch], answer["failure"])
                continue
            run.record(keys[arch], {**about, "validation": None, "failure": None, **answer}, outcome.seconds)
            best = max((r["validation"] or 0.0 for r in self.trained.values()), default=0.0)
            on_progress(1, f"{max(best, answer.get('validation') or 0.0):.3f}")
        for arch in chosen:
            self.trained[arch] = run.recall(keys[arch])

    def _left_behind(self, arch: Arch, record: Mapping[str, Any]) -> bool:
        """Whether what a logged training left can be read back, or is needed no more."""
        if "short" in self.run or not (record.get("kept") or record.get("answered")):
            return True
        folder, space = self.run.folder / "checkpoints", self.costing.space
        return left_behind(
            folder / weights_name(space, arch) if record.get("kept") else None,
            folder / answers_name(space, arch) if record.get("answered") else None,
            record.get("answered"),
        )

    def _heritage(self, arch: Arch) -> tuple[Arch | None, bytes | None]:
        """From which trained architecture weights are taken, and the state to begin with; None for a fresh start.

        A fresh start too where scoring its network failed, which may hang here or take all memory.
        """
        failed = (self.run.recall(trial_key(self.costing.space, arch)) or {}).get("failures", {}).get("network")
        if not self.inherit or self.make is None or failed:
            return None, None
        near = nearest(arch, [one for one, record in self.trained.items() if record["validation"] is not None])
        stored = None if near is None else self.run.folder / "checkpoints" / weights_name(self.costing.space, near)
        if near is None or stored is None or not (self.trained[near].get("kept") or stored.exists()):
            return None, None
        return near, save_tensors(inherited(self.make(arch).state_dict(), read_weights(stored)[1]))

    def _answers(self) -> np.ndarray | None:
        """What the COMPARED best of those that were asked answered (networks, images); None for fewer than two."""
        asked = [(arch, record) for arch, record in self.trained.items() if record.get("answered")]
        best = sorted(asked, key=lambda one: -one[1]["validation"])[:COMPARED]
        if len(best) < 2:
            return None
        folder, space = self.run.folder / "checkpoints", self.costing.space
        return np.stack([read_answers(folder / answers_name(space, arch), told["answered"]) for arch, told in best])

    def _told(self, arch: Arch) -> dict[str, float]:
        """Costs, scores and accuracy of a proposal, as strategies hear of them."""
        told = {**self.costing(arch), **self.scores.get(arch, {})}
        if told["violation"] > 0:
            return told
        if arch not in self.trained:
            return {**told, "skipped": 1.0}
        value = self.trained[arch]["validation"]
        return told if value is None else {**told, "validation": value}


def population_of(trainings: int) -> int:
    """How many members a population has that so many trainings are to improve: a quarter of them, 4 to 50."""
    return min(max(trainings // 4, 4), 50)


def begin(
    make: Callable[..., Any],
    space: SearchSpace,
    *,
    seed: int,
    start: Mapping[Arch, Mapping[str, float]],
    trainings: int,
    proxies: Mapping[str, Any],
    costs: tuple[str, ...] = (),
) -> Any:
    """A strategy whose reward is accuracy, begun at a zero-shot ranking; a strategy of your own gets what it accepts.

    start: the ranked candidates and their scores, best first. Populations are as `population_of` says and begin with
    the best; `predictor` gets all. One that takes no `start` is asked once the best have been proposed, and hears
    nothing of them. Whatever else a strategy does with its goal is its own.
    """
    accepted = inspect.signature(make).parameters
    size = population_of(trainings)
    more: dict[str, Any] = {"population": size, "tournament": max(2, size // 4)}
    more["start"] = start if reads_scores(make) else list(start)[:size]
    goal = Goal(scores={"validation": "max"}, costs=costs, proxies=proxies)
    strategy = make(space, seed=seed, goal=goal, **{name: value for name, value in more.items() if name in accepted})
    return strategy if "start" in accepted else After(list(start)[:size], strategy)


class After:
    """Proposes some architectures first, and then what a strategy proposes that knows of no beginning."""

    def __init__(self, first: Sequence[Arch], strategy: Any) -> None:
        self.waiting, self.open, self.strategy = list(first), 0, strategy

    def ask(self, n: int = 1) -> list[Arch]:
        """`n` architectures; those to begin with come first."""
        taken, self.waiting = self.waiting[:n], self.waiting[n:]
        self.open += len(taken)
        return taken + (self.strategy.ask(n - len(taken)) if len(taken) < n else [])

    def tell(self, archs: Sequence[Arch], values: Sequence[Mapping[str, float]]) -> None:
        """Hands on the outcomes of what the strategy itself proposed."""
        known = min(self.open, len(archs))
        self.open -= known
        if archs[known:]:
            self.strategy.tell(archs[known:], values[known:])


def reads_scores(make: Any) -> bool:
    """Whether a strategy, perhaps with some arguments given, learns accuracies from scores, as the predictor does."""
    while isinstance(make, partial):
        make = make.func
    return bool(getattr(make, "reads_scores", False))


def nearest(arch: Arch, others: Sequence[Arch]) -> Arch | None:
    """The one of `others` that differs in the fewest decisions, the last of equals; None beyond RELATED."""
    if not others:
        return None
    distances = (np.array(others) != np.array(arch)).sum(1)
    least = int(distances.min())
    return others[int(np.flatnonzero(distances == least)[-1])] if least <= RELATED * len(arch) else None


def inherited(fresh: Mapping[str, torch.Tensor], parent: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state of a network, taken from `parent` wherever it has a tensor of the same name and shape."""
    return {
        name: (parent[name] if name in parent and parent[name].shape == tensor.shape else tensor)
        .detach()
        .clone(memory_format=torch.contiguous_format)
        for name, tensor in fresh.items()
    }


def weights_name(space: SearchSpace, arch: Arch) -> str:
    """The file name of the weights after a short training; a digest, since architecture texts are no file names."""
    return f"short-{hashlib.sha256(f'{space.name}/{space.format(arch)}'.encode()).hexdigest()[:16]}.safetensors"


def answers_name(space: SearchSpace, arch: Arch) -> str:
    """The file name of what a network answered after its short training."""
    return weights_name(space, arch).replace(".safetensors", ".npy")
