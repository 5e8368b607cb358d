"""The verification stage: a shortlist and its controls train shortly, the better half longer, and so on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from archscout.data import Data, Part
from archscout.errors import UserError
from archscout.fit import Diverged, Recipe, evaluate, fit
from archscout.plan import TRAINING, Plan
from archscout.propose import Costing
from archscout.run import Run
from archscout.selection import make_selector
from archscout.space import Arch, SearchSpace

log = logging.getLogger("archscout")

JUDGES = 4000  # validation images that judge an entrant; a standard error of at most 0.8 points


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
        torch.manual_seed(seed)
        return space.build(arch)


@dataclass
class Trainer:
    """The work of one verification round, for a worker: continue (or start) an entrant and evaluate it.

    Called with an item {space: int, arch, recipe, epochs, seconds, seed, round, state: bytes | None}; answers
    {validation, accuracy, balanced_accuracy, epochs, seconds, history, state: bytes} or {failure}. Weights travel as
    safetensors bytes, so workers need no common file system.
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
        space = self.spaces[item["space"]]
        model = initialise(space, tuple(item["arch"]), item["seed"])
        if item["state"] is not None:
            model.load_state_dict(load_tensors(item["state"]))
        train, validation = self.data.part("train"), at_most(self.data.part("validation"), JUDGES)
        selector = make_selector(
            self.select, train, seed=item["seed"] + item["round"], share=self.share, cache=self.cache
        )
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
                allow=within_seconds(item["seconds"]),
            )
        except Diverged as error:
            return {"failure": str(error)}
        found = evaluate(
            model, validation, mean=self.data.mean, std=self.data.std, threads=self.threads, device=self.device
        )
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        return {
            "validation": found.metric(self.metric),
            "accuracy": found.accuracy,
            "balanced_accuracy": found.balanced_accuracy,
            "epochs": fitted.epochs,
            "seconds": fitted.seconds,
            "history": fitted.history,
            "state": save_tensors(state),
        }


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
    """The part, or a fixed random choice of `most` of its images that keeps the shares of the classes."""
    if len(part) <= most:
        return part
    order = np.random.default_rng(0).permutation(len(part))
    by_class = order[np.argsort(part.labels[order], kind="stable")]
    picked = by_class[(np.arange(most) * len(part)) // most]
    return replace(part, indices=np.sort(part.indices[picked]))


def within_seconds(seconds: float | None) -> Callable[[float], float | None]:
    """The `allow` of a verification training: shortens it once it would take 1.3 times its planned seconds."""
    begun: list[tuple[float, float]] = []
    shorter: list[float] = []

    def allow(done: float) -> float | None:
        now = time.monotonic()
        if not begun:
            begun.append((done, now))
        first, start = begun[0]
        if seconds is None or shorter or now - start < 0.3 * seconds or done <= first:
            return None
        affordable = first + 1.1 * seconds * (done - first) / (now - start)
        shorter.append(max(affordable, done))
        return shorter[0]

    return allow


def patience(planned: float | None, predicted: float, patient: float) -> float | None:
    """After how many seconds a training is given up as hanging: far more than planned, or than is predicted for it.

    None where neither is known.
    """
    if planned is not None:
        return patient + 5 * planned
    return patient + 20 * predicted if predicted > 0 else None


def slowness(entrant: Entrant, plan: Plan) -> float:
    """How much longer than the plan allows an entrant needs per image; 1 for all but a baseline of its own limit."""
    if plan.training_limit is None:
        return 1.0
    return max(1.0, entrant.costs.get("training", 0.0) / plan.training_limit)


def verify(
    run: Run,
    entrants: Sequence[Entrant],
    plan: Plan,
    pool: Any,
    *,
    recipe: Recipe,
    seed: int,
    parallel: int = 1,
    images: int = 0,
    patient: float = 120.0,
    on_progress: Callable[[int, str], None] = lambda n, best: None,
    out_of_time: Callable[[], bool] = lambda: False,
) -> list[dict[str, Any]]:
    """Successive halving over finalists; controls train through every round beside them.

    Under a budget a training that would take 1.3 times its share of the round is shortened; `parallel` is how many run
    at once. One that hangs is given up after `patient` seconds and many times what it should take (`images`: those of
    an epoch).

    Each (entrant, round) is one event and is recalled on resume; weights between rounds lie in `checkpoints/`. Returns
    one record an entrant: key, role, costs, `rounds` (epochs, validation, seconds, history), `validation` of its last
    round, `eliminated_after` (round number or None) and `failure`. Source of the halving: Jamieson and Talwalkar 2016,
    arXiv:1502.07943.
    """
    records: dict[str, dict[str, Any]] = {
        e.key: {
            "key": e.key, "space": e.space.name, "arch": e.text, "role": e.role, "costs": dict(e.costs), "rounds": [],
            "validation": None, "eliminated_after": None, "failure": None,
        }
        for e in entrants
    }  # fmt: skip
    spaces = list(dict.fromkeys(e.space for e in entrants))
    alive, top = list(entrants), 0.0
    for number, epochs in enumerate(plan.rounds):
        if not alive:
            break
        if number and (run.recall(f"verify-stop/{number}") or (f"verify-done/{number}" not in run and out_of_time())):
            run.once(f"verify-stop/{number}", lambda: True)
            break
        jobs = []
        share = TRAINING * plan.seconds["verify"] / len(plan.rounds) if plan.seconds else 0.0
        job_seconds = share * parallel / len(alive) if plan.seconds else None
        for entrant in alive:
            name = f"verify/{number}/{entrant.key}"
            stored = run.folder / "checkpoints" / f"{checkpoint_name(entrant, number)}"
            if name in run and (run.recall(name).get("failure") or stored.exists()):
                continue
            before = run.folder / "checkpoints" / checkpoint_name(entrant, number - 1)
            jobs.append(
                (name, stored, {
                    "space": spaces.index(entrant.space), "arch": entrant.arch, "recipe": recipe,
                    "seed": seed, "round": number, "epochs": epochs,
                    "seconds": job_seconds and job_seconds * slowness(entrant, plan),
                    "state": before.read_bytes() if number else None,
                })
            )  # fmt: skip
        slowest = max(entrant.costs.get("training", 0.0) for entrant in alive)  # ms per image
        limit = patience(job_seconds and 3 * job_seconds, 1e-3 * slowest * epochs * images, patient)
        for (name, stored, _), outcome in zip(jobs, pool.map([job for *_, job in jobs], timeout=limit), strict=True):
            answer = dict(outcome.value) if outcome.failure is None else {"failure": outcome.failure}
            state = answer.pop("state", None)
            if state is not None:
                run.write(f"checkpoints/{stored.name}", state)
            if name not in run:
                run.record(name, answer)
            top = max(top, answer.get("validation") or 0.0)
            on_progress(1, f"{top:.3f}")
        run.once(f"verify-done/{number}", lambda: True)
        for entrant in alive:
            record, answer = records[entrant.key], run.recall(f"verify/{number}/{entrant.key}")
            if answer.get("failure"):
                record["failure"], record["eliminated_after"] = answer["failure"], number
            else:
                record["rounds"].append(answer)
                record["validation"] = answer["validation"]
        alive = [e for e in alive if records[e.key]["failure"] is None]
        finalists = sorted(
            (e for e in alive if e.role == "finalist"), key=lambda e: -records[e.key]["validation"]
        )  # stable: ties keep the order of the shortlist
        if number + 1 < len(plan.rounds):
            for loser in finalists[max(1, (len(finalists) + 1) // 2) :]:
                records[loser.key]["eliminated_after"] = number
                alive.remove(loser)
    return list(records.values())


def checkpoint_name(entrant: Entrant, number: int) -> str:
    """The file name of an entrant's weights after a round; a digest, since architecture texts are no file names."""
    import hashlib

    return f"verify-{hashlib.sha256(entrant.key.encode()).hexdigest()[:16]}-{number}.safetensors"


def choose(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The winner: the best validation metric among entrants that trained through the last round they could."""
    standing = [r for r in records if r["failure"] is None and r["rounds"] and r["eliminated_after"] is None]
    if not standing:
        reasons = "; ".join(sorted({str(r["failure"]) for r in records if r["failure"]}))
        raise UserError(f"every network that was to be verified failed ({reasons}); start anew with other settings")
    return max(standing, key=lambda r: (r["validation"], -r["costs"].get("params", 0)))
