"""The plan of a run: from the counts given, or from its budget at rates measured here and now."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from archscout.clock import Clock
from archscout.config import Config
from archscout.data import Data
from archscout.devices.latency import fastest_training, precisions
from archscout.errors import UserError
from archscout.plan import Plan, Rates, plan_budget, plan_counts, with_verification
from archscout.propose import Costing
from archscout.run import Run
from archscout.space import Arch, SearchSpace
from archscout.spaces.plain import plain
from archscout.verify import initialise

log = logging.getLogger("archscout")

PACED = 16  # best of the ranking whose training times say how long verification takes
DRAWING = 5.0  # seconds after which no more random architectures are drawn before the plan


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


def reference_ms(config: Config) -> float:
    """Milliseconds per image of a training step of the reference network: how fast this machine trains.

    It is ResNet-8 of 16 channels on 64 images of 32 x 32 pixels, whatever the data are, since the images that a plan
    wants to be seen are for this network's speed on one machine. Takes about a second of an old processor.
    """
    shape, classes = (3, 32, 32), 10
    space = plain(shape, classes)
    ms, _, _ = fastest_training(
        initialise(space, space.parse("resnet8-w16"), 0), shape, classes, batch=64, device=config.device, seconds=0.3,
        among=[(config.train_threads, precision) for precision in precisions(config.device)],
    )  # fmt: skip
    return ms


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
                "reference_ms": reference_ms(config),
                "spent": clock.spent(),
            }

        rates = run.once("rates", measure)
        plan = Plan.from_json(
            run.once(
                "plan",
                lambda: plan_budget(
                    config,
                    Rates(**{**rates, "training_ms": tuple(rates["training_ms"])}),
                    train=len(data.part("train")),
                    final=len(data.part("train")) + len(data.part("validation")),
                    total=len(data.labels),
                    supernet=supernet,
                    kinds=len({costing.space.kind(arch) for arch in sampled}),
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
        kinds = len({costing.space.kind(arch) for arch in ranked})
        new = with_verification(plan, config, pace, train=len(data.part("train")), kinds=kinds)
        before, after = (
            f"{one.finalists} finalists in rounds of {', '.join(f'{epochs:.2g}' for epochs in one.rounds)} epochs"
            for one in (plan, new)
        )
        return {
            "time": clock.spent(), "what": f"verification: {before} -> {after}",
            "why": f"one image takes the networks that were ranked first {pace:.3g} ms", "plan": new.to_json(),
        }  # fmt: skip

    return Plan.from_json(run.once("plan-change/verification", work)["plan"])
