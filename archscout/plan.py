"""From a time budget to counts: how many candidates, finalists and epochs a run affords at measured rates."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from archscout.config import Config
from archscout.errors import UserError

SHARES = {"score": 0.05, "verify": 0.15, "train": 0.80}  # of the time left after start-up and before the audit
SUPERNET = {"score": 0.40, "verify": 0.08, "train": 0.52}  # the same where a supernet is trained instead of scoring
LEAST_IMAGES = 400_000  # images that a full training should see, so that big data get few epochs and small data many
LEAST_VERIFIED = 12_000  # images that a training of the first verification round should see
TRAINING = 0.75  # of the time of verification; the rest is evaluation and the measuring of latencies
CONTROLS = 3


@dataclass(frozen=True)
class Rates:
    """What was measured when the run started; all that a plan depends on besides the config.

    score_seconds: one worker scoring one candidate.  training_ms: one image of one training step, at the tenth,
    fiftieth and ninetieth percentile of feasible architectures.  spent: seconds already gone.
    """

    score_seconds: float
    training_ms: tuple[float, float, float]
    spent: float


@dataclass(frozen=True)
class Plan:
    """The counts a run follows. `rounds` are the epochs of each verification round.

    training_limit: largest allowed training milliseconds per image, so that a full training fits; None in a run given
    by counts.  seconds: planned seconds per stage, for the report.
    """

    candidates: int
    finalists: int
    epochs: float
    rounds: tuple[float, ...]
    training_limit: float | None
    seconds: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "rounds": list(self.rounds)}

    @staticmethod
    def from_json(values: dict[str, Any]) -> Plan:
        return Plan(**{**values, "rounds": tuple(values["rounds"])})


def halvings(finalists: int) -> int:
    """Number of verification rounds: after each one the better half goes on, until one is left."""
    return max(1, math.ceil(math.log2(max(finalists, 1))))


def plan_counts(config: Config) -> Plan:
    """The plan of a run given by counts; it depends on the config alone, so its seed reproduces the run."""
    finalists = config.finalists or 4
    candidates = max(config.candidates or 300, finalists)
    epochs = config.epochs or 20.0
    count = halvings(finalists)
    unit = 0.25 * epochs / (2**count - 1)
    return Plan(candidates, finalists, epochs, tuple(unit * 2**r for r in range(count)), None, {})


def most_epochs(images: int) -> float:
    """Epochs beyond which training longer is not worth the time for this many images."""
    return min(max(4_000_000 / images, 30.0), 150.0)


def audit_seconds(images: int, training_ms: float, budget: float) -> float:
    """Seconds to keep for export, measurement, audit and report at the end of a run."""
    return min(8.0 + 0.015 * budget + images * training_ms / 3000.0, 0.2 * budget)


def baseline_limit(plan: Plan, budget: float | None) -> float | None:
    """Largest training time per image of the plain baseline: what a person could train in the whole of the budget."""
    if plan.training_limit is None or budget is None:
        return None
    return plan.training_limit * 0.9 * budget / plan.seconds["train"]


def affordable_finalists(images: float) -> int:
    """The most finalists, 2 to 8, whose first round still shows enough images when `images` are seen in all."""
    for finalists in (8, 6, 4, 3):
        if images / halvings(finalists) / (finalists + CONTROLS) >= LEAST_VERIFIED:
            return finalists
    return 2


def plan_budget(config: Config, rates: Rates, *, train: int, final: int, total: int, supernet: bool = False) -> Plan:
    """The plan that fits a budget. `train`, `final`, `total`: images in train, in train and validation, in all.

    supernet: whether the search trains a supernet; its seconds are those of "score".

    Raises UserError where the budget is too short for this data on this machine.
    """
    assert config.budget is not None
    low, middle, _ = rates.training_ms
    left = 0.96 * config.budget - rates.spent
    reserve = audit_seconds(total, middle, config.budget)
    usable = left - reserve
    if usable < 0.2 * config.budget:
        need = math.ceil((rates.spent + reserve) * 1.6 / 60.0)
        raise UserError(
            f"a budget of {config.budget:.0f} s is too short here: start-up took {rates.spent:.0f} s and the audit "
            f"needs about {reserve:.0f} s; try --budget {need}m"
        )
    seconds = {stage: share * usable for stage, share in (SUPERNET if supernet else SHARES).items()}
    workers = config.workers if isinstance(config.workers, int) else 2
    affordable = seconds["score"] * max(workers, 1) / max(rates.score_seconds, 1e-4)
    candidates = config.candidates or int(min(max(affordable // 8 * 8, 16), 4000))
    wanted = min(max(LEAST_IMAGES / final, 6.0), 100.0)
    limit = max(1000.0 * seconds["train"] / (final * wanted), low)
    epochs = config.epochs or min(1000.0 * seconds["train"] / (final * limit), most_epochs(final))
    finalists = min(config.finalists or affordable_finalists(1000.0 * TRAINING * seconds["verify"] / limit), candidates)
    count = halvings(finalists)
    rounds = []
    for r in range(count):
        entrants = max(1, finalists // 2**r) + CONTROLS
        rounds.append(max(1000.0 * TRAINING * seconds["verify"] / count / entrants / (train * limit), 1.0 / train))
    seconds = {**seconds, "start": rates.spent, "audit": reserve}
    return Plan(candidates, finalists, epochs, tuple(rounds), limit, seconds)
