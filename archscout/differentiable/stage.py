"""A differentiable search as a stage of the main job: a supernet is trained, and architectures derived from it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from archscout.clock import Clock
from archscout.config import Config
from archscout.costs import COSTS
from archscout.data import Data, Part
from archscout.differentiable.bilevel import Settings
from archscout.differentiable.choice import chosen, labels_of, relax
from archscout.differentiable.darts import Found
from archscout.differentiable.options import sorted_out
from archscout.differentiable.several import on_several
from archscout.differentiable.tas import full_macs
from archscout.differentiable.zero_shot import by_zero_shot, settled_among
from archscout.errors import UserError
from archscout.naming import word
from archscout.progress import progress
from archscout.propose import Costing
from archscout.run import Run
from archscout.selection import make_selector
from archscout.space import Arch, SearchSpace
from archscout.split import split

log = logging.getLogger("archscout")
Models = Mapping[str, tuple[float, Tensor]]  # of each cost, see linear_costs
EPOCHS = 25.0  # of a search given by counts: passes over all images, or rounds of those that a selector chose
MOST_ENTRIES = 200  # of its history
ENOUGH = 400  # steps that a search by rounds has at least, though no more than one by passes has
#: darts on chosen images ends when its architecture has been the same for so many rounds, and for so many steps; as
#: measured in docs/plans/dds_search.md. The others tell by what is derived too little before their end.
PATIENCE, PATIENT_STEPS = 6, 100
#: what a person does not set: the last word of darts, see there; measured in docs/plans/dds_search.md
DECIDES = {"darts": "zero-shot"}
DECIDING = 0.05  # of the seconds of a search may go to that
COUNTING = 0.2  # and so much to the networks whose costs are counted for a linear model of them, see linear_costs
LEAST = 0.3  # of the seconds of a search goes to its training, whatever the rest took
TRIES = 4  # architectures that one supernet may give
LIKELY = 20  # changes that a model foretells to help are tried before all are
TIMED = 6  # steps that a timing takes
CHEAPER = 0.8  # of what an architecture costs on the device may the next one cost
#: a search of minutes has hundreds of steps, the published ones tens of thousands; measured: docs/plans/dds_search.md
RATES: dict[str, dict[str, Any]] = {
    "darts": {"lr": 0.1, "arch_lr": 1e-2},
    "pdarts": {"lr": 0.1, "arch_lr": 1e-2},
    "tas": {"lr": 0.1, "weight_decay": 5e-4, "arch_lr": 3e-2},
}


def search_supernet(
    run: Run,
    config: Config,
    method: Callable[..., Any],
    data: Data,
    costing: Costing,
    *,
    seconds: float | None,
    select: Any,
    embeddings: str | None,
    clock: Clock | None = None,
) -> Iterator[Arch]:
    """The architectures that a differentiable method finds within the limits, best first, each found when asked for.

    The train part is cut into two halves, one for the weights and one for the architecture. Limits enter the
    architecture loss by a linear model of each cost, and what is derived is moved within them, see `within_limits`.
    The others are for a device on which the first is slower than predicted, see `cheaper`. The training and what came
    of it are one event, which is read if it is in the log.
    seconds: time for the training of the supernet; None in a run given by counts, which has 25 epochs, or as many
    rounds of a selector. What the person set of the supernet (config.supernet) goes before. clock: of the run, by which
    the seconds of earlier sessions count too.
    """
    space, name = costing.space, word(method)
    supernet = relax(space, name)  # refuses an unsupported pair before anything is computed
    part = data.part("train")
    weight_part, arch_part = halves(part, config.seed)
    settings = settings_of(config, data, len(weight_part), name)
    options: dict[str, Any] = {
        "seed": config.seed, "mean": data.mean, "std": data.std, "threads": config.train_threads,
        "device": config.device,
    }  # fmt: skip
    asked = sorted_out(name, config.supernet)
    own = dict(asked.arguments)
    settings = replace(settings, **asked.fields)
    if zero_shot := own.get("decide", DECIDES.get(name)) == "zero-shot":
        own.pop("decide", None)  # here, where the limits are known
    options |= own
    if name == "tas":
        options["target"] = tas_target(space, costing.limits)
    choosing = partial(selector_of, select=select, seed=config.seed, share=config.share, cache=embeddings)
    arch_choosing = choosing if asked.arch_images == "chosen" else partial(choosing, select="full")
    per_step = settings.batch_size / len(weight_part)
    began = time.monotonic()
    selector, arch_selector = choosing(weight_part, 0), arch_choosing(arch_part, 1)
    making = time.monotonic() - began  # some embed the images at once
    round_ = 1.0 if selector is None else selector.record.size / len(weight_part)
    count, spent = None, 0.0
    if seconds is not None and costing.limits:
        spare = COUNTING * seconds
        samples = run.once("supernet-samples", lambda: affordable(costing, spare, supernet))
        count, spent = samples["count"], samples["seconds"]
    if "epochs" in asked.fields:
        epochs = asked.fields["epochs"]
    elif seconds is None:
        epochs = epochs_of(round_, per_step)
    else:
        began = time.monotonic()
        rate = run.once(
            "supernet-rate",
            lambda: {
                "seconds": step_seconds(method, space, weight_part, arch_part, settings, options),
                "spent": making + time.monotonic() - began,
            },
        )
        left = max(seconds - spent - rate.get("spent", 0.0), LEAST * seconds)
        epochs = max(left / rate["seconds"], 4) * per_step
    stages = 3 if name == "pdarts" else 1
    each = epochs / stages
    if name == "darts" and settings.patience is None:
        settings = replace(settings, patience=patience_of(round_, per_step))
    options |= {
        "settings": replace(settings, epochs=each, report=max(min(1.0, each / 10, round_), each / MOST_ENTRIES)),
        "checkpoint": run.folder / "checkpoints" / "supernet.pt",
        "audit_every": None if select == "full" else max(1.0, each / 5),
    }  # fmt: skip
    if name == "pdarts":
        options |= {"make_selector": choosing, "make_arch_selector": arch_choosing}
    else:
        options |= {"selector": selector, "arch_selector": arch_selector}

    @cache
    def models() -> Models:  # the same whenever it is asked for, also in a session that resumes
        return linear_costs(costing, np.random.default_rng([config.seed, 3]), count, supernet=supernet)

    def work() -> dict[str, Any]:
        with progress(f"{name}: training the supernet", epochs) as bar:
            seen = [0.0]

            def text_of(arch: list[int]) -> str:
                text = space.format(tuple(arch))
                return text if len(text) <= 64 else f"{text[:61]}..."

            def skips_in(entry: dict[str, Any]) -> str:
                edges = getattr(supernet, "edges", 0)
                return f", {entry['skips']} of {edges} edges skip" if edges else ""

            def shown(entry: dict[str, Any]) -> None:
                step = entry["epoch"] - seen[0]
                bar.advance(
                    step if step > 0 else entry["epoch"],  # a stage of pdarts begins at 0 again
                    note=f"entropy {entry['entropy']:.2f}{skips_in(entry)}, now {text_of(entry['arch'])}",
                )
                seen[0] = entry["epoch"]

            options["penalty"] = excess_of(models(), costing.limits, supernet, asked.aim)
            if seconds is not None:
                before = clock.spent() - clock.begun("supernet") if clock else 0.0
                options["ends"] = Deadline(time.monotonic() + 1.1 * seconds - before)
            found = on_several(
                method, config.devices, space, weight_part, arch_part, on_progress=shown, **options
            )  # fmt: skip
            if name != "pdarts":
                found.story.seconds += making
        derived_arch, decided = found.arch, None
        if zero_shot:
            derived_arch, decided = last_word(costing, found, arch_part, config, data, seconds)
        arch = within_limits(
            costing, found.choice, derived_arch, supernet=supernet, most_skips=found.most_skips, models=models()
        )
        derived, moved = (space.format(space.canonical(one)) for one in (derived_arch, arch))
        return {
            "method": name, "arch": moved, "derived": derived, "epochs": epochs, "story": asdict(found.story),
            "selector": "full" if select == "full" else word(select), "choice": found.choice.tolist(),
            "options": list(arch), "decided": decided, "most_skips": found.most_skips,
            "labels": labels_of(space, supernet),
            "skips": supernet.skips(arch) if hasattr(supernet, "skips") else None,
        }  # fmt: skip

    found = run.once("supernet", work)
    if "options" not in found:  # a log from before they were kept
        yield space.parse(found["arch"])
        return
    first = tuple(found["options"])
    yield space.canonical(first)
    for arch in cheaper(costing, torch.tensor(found["choice"]), first, supernet, found["most_skips"], models):
        yield space.canonical(arch)


def last_word(
    costing: Costing, found: Found, part: Part, config: Config, data: Data, seconds: float | None
) -> tuple[Arch, dict[str, Any] | None]:
    """What `by_zero_shot` takes of the architectures that a search settled among, and how: {among, ranks, largest}.

    Those within the limits where there are such. Where there is one only, it is that, and nothing is scored.
    """
    space = costing.space
    among = settled_among(space, found.story, found.arch)
    among = [arch for arch in among if costing(arch)["violation"] <= 0] or among
    if len(among) < 2:
        return among[0], None
    ends = Deadline(time.monotonic() + DECIDING * seconds) if seconds is not None else lambda: False
    arch, ranks = by_zero_shot(
        space, among, part, mean=data.mean, std=data.std, seed=config.seed, device=config.device, ends=ends
    )
    texts = [space.format(space.canonical(one)) for one in (*among[: len(ranks)], found.arch)]
    return arch, {"among": texts[:-1], "ranks": ranks, "largest": texts[-1]}


def epochs_of(round_: float, per_step: float) -> float:
    """The epochs of a search given by counts whose rounds and steps are such shares of all images."""
    return min(EPOCHS, max(EPOCHS * round_, ENOUGH * per_step))


def patience_of(round_: float, per_step: float) -> float | None:
    """For how many epochs an architecture must have been the same to end a search on rounds; None for all images."""
    return max(PATIENCE * round_, PATIENT_STEPS * per_step) if round_ < 1 else None


def settings_of(config: Config, data: Data, images: int, name: str) -> Settings:
    """How a method trains its supernet on so many images, but for the epochs."""
    return Settings(
        flip=bool(data.mirrors) if config.flip == "auto" else config.flip == "yes",
        batch_size=64 if images >= 640 else 16,
        precision="bf16-mixed" if config.device.startswith("cuda") else "32-true", **RATES.get(name, {}),
    )  # fmt: skip


def cheaper(
    costing: Costing,
    choice: Tensor,
    arch: Arch,
    supernet: Any = None,
    most_skips: int | None = None,
    models: Callable[[], Models | None] = lambda: None,
) -> Iterator[Arch]:
    """What the same choice gives when less and less is allowed of the limited costs of a device; at most TRIES - 1.

    Each costs at most CHEAPER of the one before, at the safe end of what is predicted, and is moved as little as that
    takes, see `within_limits`. Counted costs keep their limits, and so does power where it is the same for all.
    """
    metered = costing.profile is not None and bool(costing.profile.energy_terms)
    names = [
        name for name in costing.limits if name in COSTS and COSTS[name].needs_profile and (name != "power" or metered)
    ]
    for _ in range(TRIES - 1 if names else 0):
        costs = costing.upper(costing(arch))
        costing = costing.within({**costing.limits, **{name: CHEAPER * costs[name] for name in names}})
        try:
            arch = within_limits(costing, choice, arch, supernet=supernet, most_skips=most_skips, models=models())
        except UserError:
            return
        yield arch


def selector_of(part: Part, number: int, *, select: Any, seed: int, share: float, cache: str | None) -> Any:
    """The selector of one half, or of one stage, of a search; None for all images."""
    return make_selector(select, part, seed=seed + number, share=share, cache=cache)


@dataclass(frozen=True)
class Excess:
    """A penalty: twice the sum of the shares by which expected costs exceed their limits.

    target: whether the limits are targets: costs below them are penalised by the share that is missing, too.
    models: of each cost, see linear_costs.  never, rivals: of the supernet, see choice.Supernet. What is never derived
    takes no part in the expectation, and of rivals two are counted. A class, so that it travels to other processes.
    """

    models: Mapping[str, tuple[float, Tensor]]
    limits: Mapping[str, float]
    never: int | None = None
    rivals: tuple[tuple[int, ...], ...] = ()
    target: bool = False

    def derivable(self, choice: Tensor) -> Tensor:
        """The choice (decisions, options) among what can be derived; rows of rivals have the chance to be kept."""
        if self.never is not None:
            kept = torch.ones_like(choice)
            kept[:, self.never] = 0.0
            choice = choice * kept
            choice = choice / choice.sum(1, keepdim=True).clamp(min=1e-12)
        stays = torch.ones(len(choice), 1, device=choice.device)
        for decisions in self.rivals:
            stays[list(decisions)] = min(1.0, 2 / len(decisions))
        return choice * stays

    def signature(self) -> list[Any]:
        """What tells it from the penalty of other limits, see bilevel.signature_of."""
        return ["excess", dict(self.limits), self.target]

    def __call__(self, choice: Tensor) -> Tensor:
        choice = self.derivable(choice)
        over = [expected(self.models[key], choice) / limit - 1 for key, limit in self.limits.items()]
        over = [one.abs() if self.target else torch.relu(one) for one in over]
        return 2.0 * torch.stack(over).sum() if over else choice.sum() * 0


def excess_of(models: Models, limits: Mapping[str, float], supernet: Any, aim: str = "limit") -> Excess:
    """The penalty of the limits on costs that have a model, for the choice of a supernet; for the aim see options."""
    known = {name: limit for name, limit in limits.items() if name in models}
    never, rivals = getattr(supernet, "never", None), tuple(getattr(supernet, "rivals", ()))
    return Excess(models, known, never, rivals, aim == "target")


@dataclass(frozen=True)
class Deadline:
    """Whether a moment of time.monotonic, in seconds, has passed."""

    ends: float

    def __call__(self) -> bool:
        return time.monotonic() > self.ends


def halves(part: Part, seed: int) -> tuple[Part, Part]:
    """Two disjoint halves of a part, stratified, groups kept together."""
    groups = part.data.groups
    units = np.arange(len(part)) if groups is None else groups[part.indices]
    _, labels = np.unique(part.labels, return_inverse=True)
    place = split(labels, units, (0.5, 0.5), seed)
    found = [replace(part, indices=part.indices[place == number]) for number in (0, 1)]
    if not all(len(one) for one in found):
        raise UserError(
            "a differentiable search wants images for the weights and for the architecture; give more images"
        )
    return found[0], found[1]


def step_seconds(
    method: Callable[..., Any],
    space: SearchSpace,
    weight_part: Part,
    arch_part: Part,
    settings: Settings,
    options: Mapping[str, Any],
) -> float:
    """Seconds of one step of weights and architecture: the method itself, for TIMED steps or as many in each stage.

    Steps with and without an architecture step are apart, and so are stages, of each the median; the first of a stage
    is left out. Steps before `wait`, which have none, are timed as if it were over: that errs to the safe side.
    """
    batches = max(1, round(len(weight_part) / settings.batch_size))
    few = replace(settings, epochs=TIMED / batches, report=1 / batches, wait=0.0)
    found = method(space, weight_part, arch_part, settings=few, **options)
    times: dict[tuple[int, bool], list[float]] = {}
    for before, row in pairwise(found.story.history):
        if row["step"] > 1:
            kind = (row.get("stage", 0), row["arch_loss"] > 0)
            times.setdefault(kind, []).append(row["seconds"] - before["seconds"])
    count = sum(len(some) for some in times.values())
    return sum(len(some) * float(np.median(some)) for some in times.values()) / count if count else 1.0


def tas_target(space: SearchSpace, limits: Mapping[str, float]) -> float | None:
    """The share of the full network's multiply-adds that the limit on them allows; half where nothing is limited.

    None where other costs are limited alone: these steer then.
    """
    if "macs" not in limits:
        return None if limits else 0.5
    return float(min(max(limits["macs"] / full_macs(relax(space, "tas")) * 0.95, 0.02), 0.98))


def samples_of(costing: Costing, supernet: Any) -> tuple[int, int]:
    """How many networks a linear model of a cost needs at least, and how many it is given by default."""
    widths = [len(options) for options in costing.space.choices.values()]
    unknown = chosen(supernet, (0,) * len(widths), max(widths)).numel()
    most = max(150, int(1.5 * unknown))
    return min(most, 2 * unknown), most


def affordable(costing: Costing, seconds: float, supernet: Any = None) -> dict[str, float]:
    """How many networks `linear_costs` may count in so many seconds, and the seconds that this takes: {count, seconds}.

    As many as it wants, or what it needs at least.
    """
    draw, began, tried = np.random.default_rng(0), time.perf_counter(), 3
    for _ in range(tried):
        costing(costing.space.sample(draw))
    each = (time.perf_counter() - began) / tried
    least, most = samples_of(costing, supernet)
    count = min(most, max(least, int(seconds / each)))
    return {"count": count, "seconds": count * each}


def linear_costs(
    costing: Costing, rng: np.random.Generator, count: int | None = None, supernet: Any = None
) -> dict[str, tuple[float, Tensor]]:
    """For each limited cost a base and a table (decisions, options) that add up to it, fitted to random networks.

    A predicted cost is taken at the safe end of its interval, which is what its limit is held against.
    Least squares over `count` random architectures (default 150, or 1.5 per unknown), about 15 ms each, 0.1 s on darts.
    supernet: whose choice the table belongs to, where its rows are not the decisions of the space. The model ignores
    that operations run in parallel or are removed with others; it only steers, and what is derived is counted exactly.
    """
    space = costing.space
    widths = [len(options) for options in space.choices.values()]
    count = count or samples_of(costing, supernet)[1]
    archs = [tuple(int(rng.integers(w)) for w in widths) for _ in range(count)] if costing.limits else []
    found = {}
    for name in costing.limits:
        values = np.array([costing.upper(costing(arch)).get(name, np.nan) for arch in archs])
        good = np.isfinite(values)
        if good.sum() < 2:
            continue
        columns = np.stack([chosen(supernet, arch, max(widths)).numpy() for arch in archs]).astype(np.float64)
        flat = np.hstack([np.ones((count, 1)), columns.reshape(count, -1)])[good]
        ridge = 1e-3 * np.eye(flat.shape[1])
        ridge[0, 0] = 0.0
        solved = np.linalg.solve(flat.T @ flat + ridge, flat.T @ values[good])
        table = torch.from_numpy(solved[1:].reshape(columns.shape[1:])).float()
        found[name] = (float(solved[0]), table)
    return found


def expected(model: tuple[float, Tensor], choice: Tensor) -> Tensor:
    """The cost that a linear model expects of a choice (decisions, options)."""
    base, table = model
    return base + (choice[:, : table.shape[1]] * table.to(choice)).sum()


def within_limits(
    costing: Costing,
    choice: Tensor,
    arch: Arch,
    steps: int = 60,
    supernet: Any = None,
    most_skips: int | None = None,
    models: Models | None = None,
) -> Arch:
    """The architecture, moved within the limits where it is not: per step the change that loses least log weight.

    What a change loses is held against how much of the violation it takes away. With linear `models` of the costs the
    changes are tried in the order that these foretell, and the first that really helps is taken, which asks for few
    exact costs; without them, and where none helps, all changes are counted.

    It is not in canonical form, whose nodes may be other ones than those that the rows of the choice name.
    supernet: whose choice it is, where its rows are not the decisions of the space. most_skips: how many skips it may
    end with, more only where it begins with more. Raises UserError if no sequence of single changes that lower the
    violation leads there.
    """
    logs = choice.detach().clamp(min=1e-12).log().cpu().numpy()
    widths = [len(options) for options in costing.space.choices.values()]
    most = None if most_skips is None else max(most_skips, skips_of(supernet, arch))

    def weight(picked: Arch) -> float:
        return float((logs * chosen(supernet, picked, logs.shape[1]).numpy()).sum())

    def exact(picked: Arch) -> float:
        return float(costing(picked)["violation"])

    def foretold(picked: Arch) -> float:
        hot = chosen(supernet, picked, logs.shape[1])
        pairs = [(models[name], limit) for name, limit in costing.limits.items() if name in models] if models else []
        return sum(max(float(expected(model, hot)) / limit - 1, 0.0) for model, limit in pairs)

    def moves(violation: Callable[[Arch], float]) -> list[Arch]:
        """Single changes that lower the violation, that of the least price first."""
        now, rated = violation(arch), []
        for decision, width in enumerate(widths):
            for option in range(width):
                trial = (*arch[:decision], option, *arch[decision + 1 :])
                if trial == arch or (most is not None and skips_of(supernet, trial) > most):
                    continue
                gain = now - violation(trial)
                if gain > 1e-12:
                    rated.append((max(weight(arch) - weight(trial), 1e-3) / gain, trial))
        return [trial for _, trial in sorted(rated)]

    for _ in range(steps):
        now = exact(arch)
        if now <= 0:
            return arch
        likely = moves(foretold)[:LIKELY] if models else []
        better = next((trial for trial in likely if now - exact(trial) > 1e-12), None)
        if better is None:
            better = next(iter(moves(exact)), None)
        if better is None:
            break
        arch = better
    if costing(arch)["violation"] <= 0:
        return arch
    capped = "" if most is None else f", of those with at most {most} skip connections"
    raise UserError(
        f"the search ended at {costing.space.format(costing.space.canonical(arch))}, which exceeds the limits and has "
        f"no neighbour nearer to them{capped} ({math.ceil(100 * costing(arch)['violation'])} % over); raise the limits"
    )


def skips_of(supernet: Any, arch: Arch) -> int:
    """How many skips an architecture has by the count of its supernet; 0 where that counts none."""
    return int(supernet.skips(arch)) if hasattr(supernet, "skips") else 0
