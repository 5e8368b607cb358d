"""The verification stage: a shortlist and its controls train shortly, the better half longer, and so on."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median_low
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from archscout.audit import group_interval, mean_interval, wilson
from archscout.checkpoint import left_behind, npy, read_answers, read_weights
from archscout.data import Data, Part
from archscout.devices.latency import fastest_training
from archscout.errors import UserError
from archscout.fit import Diverged, Evaluation, Recipe, evaluate, fit, replay
from archscout.naming import find, word
from archscout.plan import TOGETHER, TRAINING, UNCHOSEN, Plan
from archscout.pretrained import fine_tuning
from archscout.propose import Costing
from archscout.run import Run
from archscout.selection import SELECTORS, make_selector
from archscout.space import Arch, SearchSpace
from archscout.stopping import dominators, front_order

log = logging.getLogger("archscout")

ASKED = 4000  # training images that entrants answer where the selector compares networks
JUDGES = 4000  # validation images that judge an entrant; a standard error of at most 0.8 points
LEAST = 50  # images of each class among them, or all that there are; for up to half of them
OVER = 1.3  # times its planned seconds that a training may take


@dataclass(frozen=True)
class Entrant:
    """One network in verification: an architecture of a space and the role it plays there."""

    space: SearchSpace
    arch: Arch
    role: str
    costs: Mapping[str, float] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return self.space.format(self.arch)

    @property
    def key(self) -> str:
        return f"{self.space.name}/{self.text}"


def initialise(space: SearchSpace, arch: Arch, seed: int) -> torch.nn.Module:
    """The network of an architecture with weights drawn from `seed`; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return space.build(arch)


@dataclass
class Trainer:
    """The work of one verification round, for a worker: continue (or start) an entrant and evaluate it.

    Called with an item {space: its name, arch, recipe, epochs, seconds, seed, round, state: bytes | None}; answers
    {validation, interval, accuracy, balanced_accuracy, epochs, seconds, history, changes, state: bytes} or {failure}.
    Weights travel as safetensors bytes, so workers need no common file system. A selector begins anew in every round;
    one that compares networks takes what several said before, `answers` (networks, images) of the item, and with `ask`
    this network says its own in `said` (images,). With `changes`, those of the same training made before, its
    shortenings are repeated and `seconds` do not count: the same weights come out.

    An item {space, arch, recipe, seed, among: precisions} is timed instead; answers {precision: the fastest, ms: of a
    training step, per image}.
    """

    spaces: tuple[SearchSpace, ...]
    data: Data
    metric: str
    select: Any = "full"
    threads: int = 1
    device: str = "cpu"
    share: float = 0.2
    cache: str | None = None

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        space = next(space for space in self.spaces if space.name == item["space"])
        model = initialise(space, tuple(item["arch"]), item["seed"])
        if "among" in item:
            ms, _, precision = fastest_training(
                model, self.data.shape, len(self.data.classes), batch=item["recipe"].batch_size, device=self.device,
                seconds=0.1, among=[(self.threads, one) for one in item["among"]],
            )  # fmt: skip
            return {"precision": precision, "ms": ms}
        if item["state"] is not None:
            model.load_state_dict(load_tensors(item["state"]))
        train, validation = self.data.part("train"), at_most(self.data.part("validation"), JUDGES)
        given = None
        if item.get("answers") is not None:
            given = {"answers": item["answers"], "asked": places_at_most(train, ASKED)}
        selector = make_selector(
            self.select, train, seed=item["seed"] + item["round"], share=self.share, cache=self.cache, answers=given
        )
        before = item.get("changes")
        try:
            fitted = fit(
                model,
                train,
                recipe=item["recipe"],
                epochs=item["epochs"],
                seed=item["seed"] + item["round"],
                mean=self.data.mean,
                std=self.data.std,
                selector=selector,
                threads=self.threads,
                device=self.device,
                allow=within_seconds(item["seconds"]) if before is None else replay(before),
            )
        except Diverged as error:
            return {"failure": str(error)}
        found = evaluate(
            model, validation, mean=self.data.mean, std=self.data.std, threads=self.threads, device=self.device
        )
        state = {  # copies, since safetensors refuses tensors that a network shares
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in model.state_dict().items()
        }
        said = None
        if item.get("ask") and getattr(selector, "compares", False):
            asked = evaluate(
                model, at_most(train, ASKED), mean=self.data.mean, std=self.data.std, threads=self.threads,
                device=self.device,
            )  # fmt: skip
            said = asked.predictions.astype(np.uint16)
        groups = None if self.data.groups is None else np.asarray(self.data.groups)[validation.indices]
        return {
            **({} if said is None else {"said": said}),
            "validation": found.metric(self.metric),
            "interval": interval_of(found, self.metric, groups),
            "accuracy": found.accuracy,
            "balanced_accuracy": found.balanced_accuracy,
            "epochs": fitted.epochs,
            "seconds": fitted.seconds,
            "history": fitted.history,
            "changes": fitted.changes,
            "state": save_tensors(state),
        }


def interval_of(found: Evaluation, metric: str, groups: np.ndarray | None = None) -> list[float]:
    """The 95 % interval [low, high] of the metric of an evaluation, over its images or their groups (n,); see audit."""
    if groups is not None:
        strata = found.labels if metric == "balanced_accuracy" else np.zeros_like(found.labels)
        return list(group_interval(found.labels == found.predictions, strata, groups))
    counts = found.confusion.sum(1)
    right = found.confusion.diagonal()
    low, high = (
        mean_interval(right[counts > 0], counts[counts > 0])
        if metric == "balanced_accuracy"
        else wilson(right.sum(), counts.sum())
    )
    return [float(low), float(high)]


def largest_within(costing: Costing, start: Sequence[Arch], seed: int, tries: int = 150) -> Arch | None:
    """The architecture with the most parameters within the limits that a short climb from `start` finds."""
    feasible = [arch for arch in start if costing(arch)["violation"] <= 0]
    if not feasible:
        return None
    rng = np.random.default_rng(seed)
    best = max(feasible, key=lambda arch: costing(arch)["params"])
    for _ in range(tries):
        child = costing.space.mutate(best, rng)
        costs = costing(child)
        if costs["violation"] <= 0 and costs["params"] > costing(best)["params"]:
            best = child
    return best


def at_most(part: Part, most: int) -> Part:
    """The part, or a fixed random choice of `most` of its images; see places_at_most."""
    return part if len(part) <= most else replace(part, indices=part.indices[places_at_most(part, most)])


def places_at_most(part: Part, most: int) -> np.ndarray:
    """The positions in a part, sorted, of all its images or of `most` of them, always the same.

    First come LEAST images of each class, or all that it has, so that rare classes are judged too; fewer where those
    would be more than half of all. The rest is a random choice that keeps the shares of what is left of the classes.
    """
    if len(part) <= most:
        return np.arange(len(part))
    counts = np.bincount(part.labels)
    least = next(n for n in range(LEAST, -1, -1) if np.minimum(counts, n).sum() <= most // 2)
    order = np.random.default_rng(0).permutation(len(part))
    by_class = order[np.argsort(part.labels[order], kind="stable")]
    number = np.arange(len(part)) - np.repeat(np.cumsum(counts) - counts, counts)  # within its class, from 0
    first, rest = by_class[number < least], by_class[number >= least]
    wanted = most - len(first)
    return np.sort(np.concatenate([first, rest[(np.arange(wanted) * len(rest)) // wanted]]))


def within_seconds(
    seconds: float | None, clock: Callable[[], float] = time.monotonic
) -> Callable[[float], float | None]:
    """The `allow` of a verification training: shortens it if it would take more than OVER times its planned seconds.

    It looks after each tenth of these seconds, and decides from the fifth on. The pace is that of all epochs so far
    or, if that is faster, the median of the last five looks, so that one slow moment shortens nothing.
    """
    looks: list[tuple[float, float]] = []  # (epochs, moment): the first step, and each look

    def allow(done: float) -> float | None:
        now = clock()
        if not looks:
            looks.append((done, now))
        (first, start), (last, before) = looks[0], looks[-1]
        if seconds is None or now - before < 0.1 * seconds or done <= last:
            return None
        looks.append((done, now))
        if now - start < 0.5 * seconds:
            return None
        paces = [(t - s) / (e - d) for (d, s), (e, t) in pairwise(looks[-6:])]
        pace = min((now - start) / (done - first), median_low(paces))
        return done + max(0.0, OVER * seconds - (now - start)) / pace

    return allow


def enough_rounds(plan: Plan, select: Any) -> Plan:
    """The plan, with two rounds of verification instead of one where the selector compares networks.

    Two of half the length, since it can compare only what answered in the round before.
    """
    compares = select != "full" and getattr(find("selector", select, SELECTORS), "compares", False)
    if not compares or len(plan.rounds) > 1:
        return plan
    half = plan.rounds[0] / 2
    log.info("verification in two rounds of %.2g epochs, since %s compares networks", half, word(select))
    return replace(plan, rounds=(half, half))


def warn_of_selector(plan: Plan, select: Any) -> None:
    """Logs where a selector cannot choose: too few short trainings to compare, or none longer than its warm-up."""
    make = None if select == "full" else find("selector", select, SELECTORS)
    if getattr(make, "compares", False) and 0 < plan.trainings <= TOGETHER:
        log.warning(
            "%s has nothing to compare in %d short trainings, which begin together: their images are random; ask for "
            "more than %d with --trainings", word(make), plan.trainings, TOGETHER,
        )  # fmt: skip
    first, lengths = warmup_of(make), [*([plan.short] if plan.trainings else []), *plan.rounds]
    if brief := [epochs for epochs in lengths if epochs <= first]:
        log.warning(
            "%s begins a training with %d round%s of all images, and %s of the search are no longer (%s epochs): there "
            "it chooses nothing; take another --select, or more --epochs or --budget",
            word(make), first, "s" * (first > 1), "all trainings" if len(brief) == len(lengths) else "some trainings",
            ", ".join(f"{epochs:.2g}" for epochs in brief),
        )  # fmt: skip


def warmup_of(make: Any) -> int:
    """The rounds of all images with which a selector begins; none where it was given the scores to choose by."""
    try:
        usual = {name: one.default for name, one in inspect.signature(make).parameters.items()}
    except (TypeError, ValueError):  # none, or written in C
        return 0
    warmup = usual.get("warmup", 0)
    return warmup if isinstance(warmup, int) and usual.get("scores") is None else 0


def patience(planned: float | None, predicted: float, patient: float) -> float | None:
    """After how many seconds a training is given up as hanging: far more than planned, or than is predicted for it.

    None where neither is known.
    """
    if planned is not None:
        return patient + 5 * planned
    return patient + 20 * predicted if predicted > 0 else None


def slowness(entrant: Entrant, plan: Plan) -> float:
    """How much longer than the plan allows an entrant needs per image, at most 4; 1 for finalists and other controls.

    By so much shorter its full training would be than that of any other, and so are those of verification.
    """
    if plan.training_limit is None:
        return 1.0
    return min(max(1.0, entrant.costs.get("training", 0.0) / plan.training_limit), 4.0)


def verify(
    run: Run,
    entrants: Sequence[Entrant],
    plan: Plan,
    pool: Any,
    *,
    recipe: Recipe,
    seed: int,
    precision: Callable[[Entrant], str] | None = None,
    parallel: int = 1,
    images: int = 0,
    patient: float = 120.0,
    objectives: Sequence[str] = (),
    waves: Sequence[int] = (),
    pull: Callable[[int, int, Sequence[dict[str, Any]]], list[Entrant]] = lambda number, count, records: [],
    on_progress: Callable[[int, str], None] = lambda n, best: None,
    out_of_time: Callable[[], bool] = lambda: False,
) -> list[dict[str, Any]]:
    """Successive halving over finalists, in rounds; controls train beside them, and what is surely beaten stops early.

    Under a budget a training that would take OVER times its share of the round is shortened, and what needs longer per
    image than the plan allows trains for fewer epochs, see slowness; `parallel` is how many run at once. One that hangs
    is given up after `patient` seconds and many times what it should take (`images`: those of an epoch).

    precision:   what each entrant trains in; default: what the recipe says.
    waves:       more finalists that train in the first round when the entrants have, so many at a time.
    pull:        names those of a wave from (number of the wave, how many, the records so far); see shortlist.pulled.
    objectives:  costs that count beside the metric. After each round but the last an entrant, finalist or control, is
                 stopped whose metric's interval lies below that of another that costs no more in any of them (see
                 stopping.dominators), and of the finalists the better half goes on, two at least, by fronts of metric
                 and costs. With none the metric alone decides.

    Each (entrant, round) is one event and is recalled on resume; weights between rounds lie in `checkpoints/`, and what
    cannot be read back there is trained again, as it was trained before, with the event left as it is. Returns one
    record an entrant: key, role, costs, `rounds` (epochs, validation, interval, seconds, history), `validation` of
    its last round, `eliminated_after` (round number or None), `stopped_by` (key of what dominated it, or None) and
    `failure`. Source of the halving: Jamieson and Talwalkar 2016, arXiv:1502.07943.
    """
    records: dict[str, dict[str, Any]] = {}
    alive: list[Entrant] = []
    top = 0.0

    def admit(newcomers: Sequence[Entrant]) -> None:
        for e in newcomers:
            records[e.key] = {
                "key": e.key, "space": e.space.name, "arch": e.text, "role": e.role, "costs": dict(e.costs),
                "rounds": [], "validation": None, "eliminated_after": None, "stopped_by": None, "failure": None,
            }  # fmt: skip
            alive.append(e)

    def train(some: Sequence[Entrant], number: int, among: int) -> None:
        """A round of some entrants; under a budget each has the share of one of `among`."""
        nonlocal top
        epochs, jobs = plan.rounds[number], []
        recipes = {"pretrained": fine_tuning(recipe)}
        answers = said_before(run, some, number)
        share = TRAINING * plan.seconds["verify"] / len(plan.rounds) if plan.seconds else 0.0
        job_seconds = share * parallel / among if plan.seconds else None
        for entrant in some:
            name = f"verify/{number}/{entrant.key}"
            stored, known = run.checkpoints / checkpoint_name(entrant, number), run.recall(name) or {}
            said = stored.with_suffix(".npy") if known.get("answered") else None
            if known and (known.get("failure") or left_behind(stored, said, known.get("answered"))):
                continue
            before = run.checkpoints / checkpoint_name(entrant, number - 1)
            own = recipes.get(entrant.space.name, recipe)
            if precision is not None:
                own = replace(own, precision=precision(entrant))
            jobs.append(
                (name, stored, {
                    "space": entrant.space.name, "arch": entrant.arch,
                    "recipe": own, "seed": seed, "round": number, "epochs": epochs / slowness(entrant, plan),
                    "seconds": job_seconds,
                    "state": read_weights(before)[0] if number else None, "answers": answers,
                    "ask": number + 1 < len(plan.rounds), "changes": known.get("changes"),
                })
            )  # fmt: skip
        slowest = max((entrant.costs.get("training", 0.0) for entrant in some), default=0.0)  # ms per image
        limit = patience(job_seconds and 3 * job_seconds, 1e-3 * slowest * epochs * images, patient)
        for (name, stored, _), outcome in zip(jobs, pool.map([job for *_, job in jobs], timeout=limit), strict=True):
            answer = dict(outcome.value) if outcome.failure is None else {"failure": outcome.failure}
            state, said = answer.pop("state", None), answer.pop("said", None)
            if said is not None:
                run.write(f"checkpoints/{stored.stem}.npy", npy(said))
                answer["answered"] = len(said)
            if state is not None:
                run.write(f"checkpoints/{stored.name}", state)
            if name not in run:
                run.record(name, answer)
            elif answer.get("failure"):  # its event holds; whoever needs its weights says that they are lost
                log.warning("training %s again failed: %s", name, answer["failure"])
            top = max(top, answer.get("validation") or 0.0)
            on_progress(1, f"{top:.3f}")
        for entrant in some:
            record, answer = records[entrant.key], run.recall(f"verify/{number}/{entrant.key}")
            if answer.get("failure"):
                record["failure"], record["eliminated_after"] = answer["failure"], number
                alive.remove(entrant)
            else:
                record["rounds"].append(answer)
                record["validation"] = answer["validation"]

    admit(entrants)
    for number in range(len(plan.rounds)):
        if not alive:
            break
        if number and (run.recall(f"verify-stop/{number}") or (f"verify-done/{number}" not in run and out_of_time())):
            run.once(f"verify-stop/{number}", lambda: True)
            break
        among = len(alive) + (0 if number else sum(waves))
        train(list(alive), number, among)
        for wave, count in enumerate(() if number else waves):
            newcomers = pull(wave, count, list(records.values()))
            admit(newcomers)
            train(newcomers, number, among)
        run.once(f"verify-done/{number}", lambda: True)
        if number + 1 < len(plan.rounds):
            drop_beaten(alive, records, number, objectives)
    return list(records.values())


def said_before(run: Run, entrants: Sequence[Entrant], number: int) -> np.ndarray | None:
    """What the entrants answered after the round before (networks, images), where they were asked; else None.

    Raises UserError where answers are missing or damaged.
    """
    found = []
    for entrant in entrants if number else ():
        file = (run.checkpoints / checkpoint_name(entrant, number - 1)).with_suffix(".npy")
        answered = (run.recall(f"verify/{number - 1}/{entrant.key}") or {}).get("answered")
        if answered or file.exists():
            found.append(read_answers(file, answered))
    if len(found) == 1:
        log.warning("round %d compares nothing: one network alone is left, and its images are random", number + 1)
    return np.stack(found) if len(found) > 1 else None


def drop_beaten(
    alive: list[Entrant], records: Mapping[str, dict[str, Any]], number: int, objectives: Sequence[str]
) -> None:
    """Takes out of `alive` what does not go on after round `number`, and notes in its record why."""
    standing = [records[e.key] for e in alive]
    costs = np.array([[r["costs"].get(name, np.nan) for name in objectives] for r in standing], dtype=float)
    costs = costs.reshape(len(alive), len(objectives))
    ends = np.array([r["rounds"][-1].get("interval") or (r["validation"], r["validation"]) for r in standing])
    ends = ends.reshape(len(alive), 2)
    rivals = np.array([e.role != "teacher" for e in alive])
    stopped = dominators(np.where(rivals, ends[:, 0], -np.inf), ends[:, 1], costs)
    finalists = [i for i, e in enumerate(alive) if e.role == "finalist"]
    best = front_order([standing[i]["validation"] for i in finalists], costs[finalists])
    beyond = {finalists[i] for i in best[max(2, (len(finalists) + 1) // 2) :]}  # the last round is of two
    for i, (entrant, by) in enumerate(zip(list(alive), stopped, strict=True)):
        if by is not None or i in beyond:
            records[entrant.key]["eliminated_after"] = number
            records[entrant.key]["stopped_by"] = None if by is None else standing[by]["key"]
            alive.remove(entrant)


def checkpoint_name(entrant: Entrant, number: int) -> str:
    """The file name of an entrant's weights after a round; a digest, since architecture texts are no file names."""
    import hashlib

    return f"verify-{hashlib.sha256(entrant.key.encode()).hexdigest()[:16]}-{number}.safetensors"


def choose(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The winner: the best validation metric among entrants that trained through the last round they could.

    A teacher, a known network beyond the limits, cannot win. A control that nobody would have chosen (UNCHOSEN) wins
    only beyond chance: where the 95 % interval of its metric lies above the metric of the best other entrant.
    Short trainings judged by few images say little, and the best of many is often the luckiest (decision 016).
    """
    standing = [
        r for r in records
        if r["failure"] is None and r["rounds"] and r["eliminated_after"] is None and r["role"] != "teacher"
    ]  # fmt: skip
    if not standing:
        reasons = "; ".join(sorted({str(r["failure"]) for r in records if r["failure"]}))
        raise UserError(f"every network that was to be verified failed ({reasons}); start anew with other settings")
    best = max(standing, key=lambda r: (r["role"] not in UNCHOSEN, r["validation"], -r["costs"].get("params", 0)))
    surer = [
        r for r in standing
        if r["role"] in UNCHOSEN and (r["rounds"][-1].get("interval") or [r["validation"]])[0] > best["validation"]
    ]  # fmt: skip
    return max([best, *surer], key=lambda r: (r["validation"], -r["costs"].get("params", 0)))
