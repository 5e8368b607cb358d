"""From a time budget to counts: how many candidates, finalists and epochs a run affords at measured rates."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from archscout.config import Config
from archscout.errors import UserError

STAGES = ("score", "verify", "train")
SHARES = {"score": 0.05, "verify": 0.15, "train": 0.80}  # of the time left after start-up and before the audit
LEAST_TRAIN = 0.30  # of that time for the full training, however little data there are
SUPERNET = {"score": 0.40, "verify": 0.08, "train": 0.52}  # the same where a supernet is trained instead of scoring
#: images that a full training of so many seconds should see of so many images, where a training step of the reference
#: network takes so many milliseconds for an image; by the square root of the seconds more or less in other times, and
#: as in fewer seconds on a slower machine, so that more work is of more images and of a larger network alike; and by a
#: power of the images where there are fewer, which are seen more often but not in equal number (decisions 002, 013 and
#: 016)
IMAGES, IMAGES_SECONDS, IMAGES_OF, IMAGES_POWER, REFERENCE_MS = 420_000, 200.0, 50_000, 0.42, 0.5
LEAST_EPOCHS = 2.0  # of a full training, however many the images
KNOWN = 40.0  # epochs after which more time means more epochs, and no larger network
LEAST_VERIFIED = 6_000  # images that a training of the first verification round should see
LEAST_OF_KINDS = 3_000  # or so many, where networks are of several kinds and up to TWICE of each are finalists
TWICE = 2
LEAST_PASSES = 30.0  # or as many epochs, where those are fewer images
FINALISTS = (48, 32, 24, 16, 12, 8, 6, 4, 3, 2)
TRAINING = 0.75  # of the time of verification; the rest is evaluation and the measuring of latencies
CONTROLS = 3
UNCHOSEN = ("random", "largest")  # controls that win beyond chance only, see verify.choose
MOST_KINDS = 4  # of which the shortest verification holds a finalist each
SHORT = 0.5  # of the time of verification, for the short trainings of a search by accuracy
SHORT_IMAGES, SHORT_PASSES = 6_000, 4.0  # images that one of them should see, or passes where those are fewer images
TOGETHER = 4  # of them train at once and are told together, whatever the workers, so that results are the same
SHORT_MANY = 32  # trainings beyond which more time goes half into more of them, half into longer ones
WAVE = 6  # finalists that train before the predictor has a say


@dataclass(frozen=True)
class Rates:
    """What was measured when the run started; all that a plan depends on besides the config.

    score_seconds: one worker scoring one candidate.  training_ms: one image of one training step, at the tenth,
    fiftieth and ninetieth percentile of feasible architectures.  spent: seconds already gone.  reference_ms: one image
    of one training step of the reference network, see planning.reference_ms: how fast this machine is.
    """

    score_seconds: float
    training_ms: tuple[float, float, float]
    spent: float
    reference_ms: float = REFERENCE_MS


@dataclass(frozen=True)
class Plan:
    """The counts a run follows. `rounds` are the epochs of each verification round.

    training_limit: largest allowed training milliseconds per image, so that a full training fits; None in a run given
    by counts.  seconds: planned seconds per stage, for the report.  why: how the time was split, in words.
    trainings, short: how many short trainings a search by accuracy makes, and their epochs; 0 in a search by proxies.
    """

    candidates: int
    finalists: int
    epochs: float
    rounds: tuple[float, ...]
    training_limit: float | None
    seconds: dict[str, float]
    why: str = ""
    trainings: int = 0
    short: float = 0.0

    @property
    def split(self) -> dict[str, float]:
        """Per cent of the planned time for ranking, short trainings if there are any, verification and full training.

        Empty in a run given by counts.
        """
        planned = {
            stage: self.seconds[stage] for stage in ("score", "short", "verify", "train") if stage in self.seconds
        }
        return {stage: 100 * seconds / sum(planned.values()) for stage, seconds in planned.items()}

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "rounds": list(self.rounds)}

    @staticmethod
    def from_json(values: dict[str, Any]) -> Plan:
        return Plan(**{**values, "rounds": tuple(values["rounds"])})


def halvings(finalists: int) -> int:
    """Number of verification rounds: one up to six finalists; after each the better half goes on, to four or fewer."""
    return 1 if finalists <= 6 else math.ceil(math.log2(finalists)) - 1


def plan_counts(config: Config) -> Plan:
    """The plan of a run given by counts; it depends on the config alone, so its seed reproduces the run."""
    finalists = config.finalists or 4
    candidates = max(config.candidates or 300, finalists)
    epochs = config.epochs or 20.0
    count = halvings(finalists)
    unit = 0.25 * epochs / (2**count - 1)
    plan = Plan(candidates, finalists, epochs, tuple(unit * 2**r for r in range(count)), None, {})
    return replace(plan, trainings=config.trainings or 24, short=unit) if config.reward == "accuracy" else plan


def most_epochs(images: int) -> float:
    """Epochs beyond which training longer is not worth the time for this many images (decision 011)."""
    return min(max(4_000_000 / images, 30.0), 500.0)


def first_epochs(images: int) -> float:
    """Epochs of the full training that come before more verification; the others up to `most_epochs` come behind.

    Also the most that all rounds of verification are of.
    """
    return min(most_epochs(images), 150.0)


def wanted_epochs(seconds: float, images: int, reference_ms: float = REFERENCE_MS) -> float:
    """Epochs of so many images that a full training of so many seconds should have, from LEAST_EPOCHS to `most_epochs`.

    reference_ms: as in Rates. Beyond KNOWN of them, more time is for more of them alone: few images are not better
    learned by a larger network.
    """
    work = seconds / IMAGES_SECONDS * REFERENCE_MS / reference_ms
    seen = IMAGES * math.sqrt(work) * (images / IMAGES_OF) ** IMAGES_POWER
    epochs = max(seen / images, LEAST_EPOCHS)
    return min(epochs * max(1.0, epochs / KNOWN), most_epochs(images))


def audit_seconds(images: int, training_ms: float, budget: float) -> float:
    """Seconds to keep for export, measurement, audit and report at the end of a run."""
    return min(6.5 + 0.01 * budget + images * training_ms / 3000.0, 0.2 * budget)


def baseline_limit(plan: Plan, budget: float | None) -> float | None:
    """Largest training time per image of the plain baseline: what a person could train in the whole of the budget."""
    if plan.training_limit is None or budget is None:
        return None
    return plan.training_limit * 0.9 * budget / plan.seconds["train"]


def affordable_finalists(images: float, train: int, kinds: int = 1) -> int:
    """The most finalists whose first round still shows enough images when `images` are seen in all of verification.

    Enough is LEAST_VERIFIED, or LEAST_PASSES epochs of the `train` images if that is less; twice that for 16 finalists,
    three times for 24, and so on: time without end goes half into more networks and half into longer trainings. For two
    finalists of each of several `kinds` half of it is enough: what the ranking cannot compare differs much.
    """
    for finalists in FINALISTS[:-1]:
        few = kinds > 1 and finalists <= TWICE * kinds
        least = min(LEAST_OF_KINDS if few else LEAST_VERIFIED, LEAST_PASSES * train)
        enough = least * max(1.0, finalists / 8)
        if images / halvings(finalists) / (finalists + CONTROLS) >= enough:
            return finalists
    return FINALISTS[-1]


def short_trainings(images: float, train: int, asked: int | None) -> tuple[int, float]:
    """How many short trainings, and of how many epochs, if all of them may see so many `images`.

    Each sees SHORT_IMAGES, or SHORT_PASSES epochs of the `train` images if that is less, unless so many are `asked`;
    beyond SHORT_MANY trainings more time goes half into more of them and half into longer ones.
    """
    least = min(SHORT_IMAGES, SHORT_PASSES * train)
    many = images / least
    if many > SHORT_MANY:
        many = SHORT_MANY * (many / SHORT_MANY) ** 0.5
    trainings = asked or max(1, int(many))
    return trainings, max(images / trainings, 1.0) / train


def waves(finalists: int) -> list[int]:
    """How many finalists train at a time in the first round; the predictor may choose those of all waves but the first.

    Up to 7 are one wave. More begin with WAVE, and the others follow in at most three waves of like size.
    """
    if finalists <= WAVE + 1:
        return [finalists]
    size = max(2, math.ceil((finalists - WAVE) / 3))
    rest = finalists - WAVE
    return [WAVE, *(min(size, rest - start) for start in range(0, rest, size))]


def shares_of(config: Config, usable: float, training_ms: float, final: int) -> tuple[dict[str, float], str]:
    """The shares of the usable seconds for the stages, and why.

    As the config says; else SHARES, but where so few images are to be learned that the full training of a middling
    network (half as long again as `training_ms` says) ends before its share does, what it leaves goes to verification,
    and a tenth of that to the ranking. LEAST_TRAIN of the time is always kept for it.
    """
    if config.split is not None:
        whole = sum(config.split)
        return {stage: part / whole for stage, part in zip(STAGES, config.split, strict=True)}, "as set"
    needed = 1.5e-3 * first_epochs(final) * final * training_ms / usable
    train = min(SHARES["train"], max(needed, LEAST_TRAIN))
    spare = SHARES["train"] - train
    if spare < 0.01:
        return SHARES, "all that the full training can get, it can use"
    shares = {"score": SHARES["score"] + 0.1 * spare, "verify": SHARES["verify"] + 0.9 * spare, "train": train}
    first = f"{first_epochs(final):.0f} epochs of {final} images"
    return shares, f"after {first} verification is worth more; the rest goes there"


def plan_budget(
    config: Config, rates: Rates, *, train: int, final: int, total: int, supernet: bool = False, kinds: int = 1
) -> Plan:
    """The plan that fits a budget. `train`, `final`, `total`: images in train, in train and validation, in all.

    supernet: whether the search trains a supernet; its seconds are those of "score".  kinds: see with_verification.

    Raises UserError where the budget is too short for this data on this machine.
    """
    assert config.budget is not None
    low, middle, high = rates.training_ms
    left = 0.96 * config.budget - rates.spent
    pace = middle
    for _ in range(3):  # the audit is of a network within the limit on training, which depends on what the audit leaves
        reserve = audit_seconds(total, pace, config.budget)
        usable = left - reserve
        shares, why = shares_of(config, max(usable, 1e-3), middle, final)
        if supernet and config.split is None:
            shares, why = SUPERNET, "a supernet is trained instead of a ranking"
        seconds = {stage: share * usable for stage, share in shares.items()}
        wanted = wanted_epochs(max(seconds["train"], 0.0), final, rates.reference_ms)
        limit = max(1000.0 * seconds["train"] / (final * wanted), low)
        pace = min(middle, limit)
    if usable < 0.2 * config.budget:
        need = math.ceil((rates.spent + reserve) * 1.6 / 60.0)
        raise UserError(
            f"a budget of {config.budget:.0f} s is too short here: start-up took {rates.spent:.0f} s and the audit "
            f"needs about {reserve:.0f} s; try --budget {need}m"
        )
    workers = config.workers if isinstance(config.workers, int) else 2
    affordable = seconds["score"] * max(workers, 1) / max(rates.score_seconds, 1e-4)
    candidates = config.candidates or int(min(max(affordable // 8 * 8, 16), 4000))
    epochs = config.epochs or min(1000.0 * seconds["train"] / (final * limit), most_epochs(final))
    trainings, short = 0, 0.0
    pace = min(limit, high)
    if config.reward == "accuracy":
        seconds["short"] = SHORT * seconds["verify"]
        seconds["verify"] -= seconds["short"]
        busy = min(max(workers, 1), TOGETHER) * config.threads / config.train_threads if config.device == "cpu" else 1.0
        images = min(busy, 1.0) * 1000.0 * TRAINING * seconds["short"] / pace
        trainings, short = short_trainings(images, train, config.trainings)
        short = min(short, SHORT_PASSES * max(1.0, trainings / SHORT_MANY))
    seconds = {**seconds, "start": rates.spent, "audit": reserve}
    plan = Plan(candidates, 1, epochs, (), limit, seconds, why, trainings, short)
    return with_verification(plan, config, pace, train=train, kinds=kinds)


def with_verification(plan: Plan, config: Config, pace: float, *, train: int, kinds: int = 1) -> Plan:
    """The plan with as many finalists and epochs as its seconds of verification afford.

    pace: training milliseconds per image of the slower ones among the finalists. train: images in train. kinds: of
    networks (SearchSpace.kinds), which the ranking cannot compare: up to MOST_KINDS of them have a finalist each in the
    shortest verification too. All rounds together are of at most `first_epochs`, and not of less than an image.
    """
    seconds = plan.seconds["verify"]
    images = 1000.0 * TRAINING * seconds / pace
    affordable = max(affordable_finalists(images, train, kinds), min(kinds, MOST_KINDS))
    finalists = min(config.finalists or affordable, plan.candidates)
    count = halvings(finalists)
    entrants = [max(1, finalists // 2**r) + CONTROLS for r in range(count)]
    rounds = [images / count / many / train for many in entrants]
    most = min(1.0, first_epochs(train) / sum(rounds))
    return replace(plan, finalists=finalists, rounds=tuple(max(epochs * most, 1.0 / train) for epochs in rounds))
