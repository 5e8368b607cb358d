"""The stage of a run that searches by accuracy: proposals train shortly, and the strategy learns from how they do."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from archscout.errors import UserError
from archscout.execute import Outcome
from archscout.fit import Recipe
from archscout.plan import TOGETHER, TRAINING, Plan
from archscout.propose import Costing, trial_key, within_limits
from archscout.reward import Search, begin, population_of
from archscout.run import Run
from archscout.space import Arch
from archscout.verify import initialise, patience

log = logging.getLogger("archscout")


def search_by_accuracy(
    run: Run,
    costing: Costing,
    make: Any,
    plan: Plan,
    pool: Any,
    ranked: Sequence[Arch],
    *,
    recipe: Recipe,
    directions: Mapping[str, Any],
    objectives: tuple[str, ...] = (),
    seed: int = 0,
    inherit: bool = False,
    parallel: int = 1,
    images: int = 0,
    patient: float = 120.0,
    out_of_time: Any = lambda: False,
    on_progress: Any = lambda n, best: None,
) -> list[Arch]:
    """Architectures, the best after a short training first, then those of the ranking that did not train.

    A strategy begins at the zero-shot ranking and proposes; of every four proposals the best by the proxies trains for
    `plan.short` epochs, `plan.trainings` networks in all, on the images that the run's selector chooses; one that
    compares networks has the answers of those that trained before. Use it where a training of some thousand images
    tells more than the proxies do, and there is time for dozens of them.

    make:      the strategy, or the learned predictor (archscout.predicted).  ranked: the zero-shot ranking, best first.
    recipe, images, patient: as verification has them.  parallel: how many trainings run at once.
    objectives: costs that a strategy with several objectives weighs; the best are then ordered by fronts.
    inherit: begin with the weights of the nearest network that has trained.

    Each training is an event short/SPACE/ARCH and is recalled on resume; a summary is the event `short`.
    """
    space = costing.space
    scores = {arch: (run.recall(trial_key(space, arch)) or {}).get("scores", {}) for arch in ranked}
    strategy = begin(
        make, within_limits(costing), seed=seed, start=scores, trainings=plan.trainings, proxies=directions,
        costs=objectives,
    )  # fmt: skip
    parallel = min(parallel, TOGETHER)
    seconds = TRAINING * plan.seconds["short"] * parallel / plan.trainings if plan.seconds else None

    def train(items: Sequence[Mapping[str, Any]]) -> Iterator[Outcome]:
        jobs = [
            {
                "space": space.name, "arch": item["arch"], "recipe": recipe, "epochs": plan.short, "seconds": seconds,
                "seed": seed, "round": 0, **{name: item[name] for name in ("state", "answers", "ask", "changes")},
            }
            for item in items
        ]  # fmt: skip
        slowest = max((costing(item["arch"]).get("training", 0.0) for item in items), default=0.0)  # ms per image
        limit = patience(seconds and 3 * seconds, 1e-3 * slowest * plan.short * images, patient)
        for outcome in pool.map(jobs, timeout=limit):
            if outcome.failure is None:
                kept = {name: value for name, value in outcome.value.items() if name != "history"}
                outcome = Outcome(kept, None, outcome.seconds)
            yield outcome

    search = Search(
        run,
        costing,
        strategy,
        directions,
        score=lambda archs: pool.map(list(archs)),
        train=train,
        scores=dict(scores),
        start=list(ranked[: population_of(plan.trainings)]),
        inherit=inherit,
        make=lambda arch: initialise(space, arch, seed),
    )
    records = search(plan.trainings, out_of_time=out_of_time, on_progress=on_progress)
    best = search.ranked(objectives)
    run.once(
        "short",
        lambda: {
            "space": space.name,
            "epochs": plan.short,
            "asked": plan.trainings,
            "ended": search.ended,
            "trained": [{"arch": space.format(arch), "begun": arch in scores} for arch in records],
            "failed": sum(record["validation"] is None for record in records.values()),
        },
    )
    if records and not best:
        why = next(iter(records.values()))["failure"]
        raise UserError(f"all {len(records)} short trainings failed: {why}")
    if best:
        log.info(
            "%d short trainings: best %s, %.4f", len(records), space.format(best[0]), records[best[0]]["validation"]
        )
    return [*best, *(arch for arch in ranked if arch not in records)]
