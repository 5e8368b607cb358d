"""What was measured of a device, and the latency and training time of unmeasured networks predicted from it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn

from archscout.costs.trace import Op, Trace, trace
from archscout.devices.amounts import amount, whole_number
from archscout.devices.energy import open_meter, stated_power
from archscout.devices.latency import (
    _waiter,
    checked_device,
    device_name,
    fastest_training,
    measure_latency,
    precisions,
)
from archscout.devices.speed import Reference
from archscout.errors import UserError
from archscout.execute import Limit, Overdue
from archscout.probe import reason
from archscout.space import Arch, SearchSpace

DRAWS = 200  # architectures traced to learn the range of a space
LEAST = 6  # networks that are trained for a moment even when the time is up
FREE = 0.8  # share of its core that one thread must get, or the machine is too busy to time several threads
LANES = 8  # channels that processors compute at once; convolutions of other counts are slower
FOLDS = 60  # most parts that are left out of a fit in turn, to see how far it errs
HANGING = 10.0  # seconds after which building or measuring one network is given up, or twice all the time if longer
SLOW = 2.0  # times its part of the time that the training of one network may be measured
PAIRS = 4  # networks whose training is timed with one thread and with all
# Fields of a profile by what they may be in a file.
TEXTS = ("device", "runtime", "torch", "space", "power_source", "target")
WHOLE = ("threads", "train_threads", "batch", "step", "networks")
AMOUNTS = ("speedup", "half_width", "training_half_width", "power", "energy_half_width", "restless")


@dataclass(frozen=True)
class Profile:
    """Predicts milliseconds on the device it was measured on, for networks of the space it was measured with.

    latency_terms, training_terms: milliseconds per unit of each feature (see `features`), none below zero.
    half_width, training_half_width: relative; nine of ten measured networks lay this near to the prediction of a fit
        that had not seen them. 1.0 where fewer than three networks were measured.
    batch: images of the training step that is predicted.  step: the fewest images of those that were timed.
    networks: how many were measured.
    speedup: how many times faster training steps are with `train_threads` threads than with one; in training_terms.
    measured: of each network its text, macs, latency (ms), training (ms per image of a step of its own `step`
        images, None where time was short) and energy (mJ, None where there is no meter).
    power: mean watts of the device while a network runs, 0 where nothing is known.  power_source: what that rests on.
    energy_terms, energy_half_width: as for latency, in millijoules; empty where energies were not measured, and then
        energy is latency x power.
    restless: how much slower than usual the device may be at another time, relative, by earlier measurements on it (see
        `speed`); 0 where nothing is known.
    target: the name of the other device that latency and energy are of, "" where all was measured on this machine.
    few: where only a few networks of one space were measured: the space, input_shape and classes, the `samples`
        (text -> ms), `energies` (text -> mJ, empty where not measured) and what other devices measured as `sources`
        (device -> text -> cost), from which `few_shot` predicts latency and energy of networks of that space; empty
        otherwise.
    """

    device: str
    runtime: str
    torch: str
    threads: int
    train_threads: int
    batch: int
    step: int
    space: str
    input_shape: tuple[int, int, int]
    networks: int
    speedup: float
    latency_terms: Mapping[str, float]
    training_terms: Mapping[str, float]
    half_width: float
    training_half_width: float
    measured: tuple[Mapping[str, Any], ...]
    power: float = 0.0
    power_source: str = ""
    energy_terms: Mapping[str, float] = field(default_factory=dict)
    energy_half_width: float = 0.0
    restless: float = 0.0
    target: str = ""
    few: Mapping[str, Any] = field(default_factory=dict)

    def latency(self, trace: Trace) -> float:
        """Predicted milliseconds of one image at batch 1, with `threads` threads."""
        return _predicted(features(trace, self.runtime), self.latency_terms)

    def energy(self, trace: Trace) -> float:
        """Predicted millijoules of one image at batch 1. UserError where the profile knows no power."""
        if self.energy_terms:
            return _predicted(features(trace, self.runtime), self.energy_terms)
        if not self.power:
            raise UserError(
                f"the profile of {self.target or self.device} knows no power, so no energy; measure energies there, or "
                "state the watts: archscout device add NAME FILE --power 3W"
            )
        return self.latency(trace) * self.power

    def upper(self, costs: Mapping[str, float]) -> dict[str, float]:
        """The same costs, those that are predicted at the safe end of their interval: what limits are held against.

        Nine of ten networks that were measured lay within `half_width` of their prediction, and at least so many lie
        below this end; how much slower the machine may be at another time (`restless`) is added, as errors that know
        nothing of each other add up. Costs `latency_high` and `energy_high` are the ends of costs that
        have intervals of their own. A stated power has no error.
        """
        if "latency_high" in costs:
            most = {name.removesuffix("_high"): value for name, value in costs.items() if name.endswith("_high")}
            if "energy_high" in costs:
                measured = self.few.get("energies")
                doubt = costs["energy_high"] / costs["energy"] - 1 if measured else self.energy_half_width
                most["power"] = costs.get("power", 0.0) * (1 + doubt)
            return {name: most.get(name, value) for name, value in costs.items()}
        doubts = {
            "latency": math.hypot(self.half_width, self.restless),
            "energy": math.hypot(self.energy_half_width if self.energy_terms else self.half_width, self.restless),
            "power": self.energy_half_width,
        }
        return {name: value * (1 + doubts.get(name, 0.0)) for name, value in costs.items()}

    def aimed(self, other: Profile, name: str) -> Profile:
        """This profile with the latency and energy of another device, called `name`; training stays of this machine."""
        return replace(
            self,
            device=other.device,
            runtime=other.runtime,
            threads=other.threads,
            networks=other.networks,
            latency_terms=other.latency_terms,
            half_width=other.half_width,
            power=other.power,
            power_source=other.power_source,
            energy_terms=other.energy_terms,
            energy_half_width=other.energy_half_width,
            restless=other.restless,
            target=name,
            few=other.few,
        )

    def predictor(self, space: SearchSpace) -> Callable[[Arch], dict[str, float]] | None:
        """What gives latency and energy of an architecture, and their safe ends, from `few`; None in another space.

        Costs by name in ms and mJ: latency, latency_high, and energy, energy_high where energies were measured or the
        power is known.
        """
        if not self.few or (space.name, space.input_shape, space.classes) != (
            self.few["space"], tuple(self.few["input_shape"]), self.few["classes"]
        ):  # fmt: skip
            return None
        from archscout.devices.few_shot import few_shot

        def table(values: Mapping[str, float]) -> dict[Arch, float]:
            return {space.canonical(space.parse(text)): float(value) for text, value in values.items()}

        sources = {name: table(values) for name, values in self.few["sources"].items()}
        latency = few_shot(space, sources, table(self.few["samples"]))
        energies = self.few.get("energies")
        energy = few_shot(space, sources, table(energies)) if energies else None

        def predict(arch: Arch) -> dict[str, float]:
            found: dict[str, float] = {}
            for name, of in (("latency", latency), ("energy", energy)):
                if of is not None:
                    mean, half = of.predict([arch])
                    found |= {name: float(mean[0]), f"{name}_high": float(mean[0] + half[0])}
            if energy is None and self.power:
                found |= {f"energy{end}": found[f"latency{end}"] * self.power for end in ("", "_high")}
            return found

        return predict

    def training(self, trace: Trace) -> float:
        """Predicted milliseconds per image of one training step at `batch` images, with `train_threads` threads."""
        return _predicted(features(trace), self.training_terms)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values; `from_json` is the exact inverse."""
        found = asdict(self)
        found["input_shape"] = list(self.input_shape)
        found["measured"] = [dict(row) for row in self.measured]
        return found

    @classmethod
    def from_json(cls, mapping: Mapping[str, Any]) -> Profile:
        """The profile that `to_json` described, which may come from anybody; UserError if it is none."""

        def terms(name: str, found: Mapping[str, Any]) -> dict[str, float]:
            return {str(key): amount(value, f"{name} {key}") for key, value in found.items()}

        try:
            for name in TEXTS:
                if not isinstance(mapping.get(name, ""), str):
                    raise UserError(f"{name} is {mapping[name]!r:.40}; wanted a text")
            channels, height, width = (whole_number(side, "a side of input_shape") for side in mapping["input_shape"])
            return cls(
                **{
                    **mapping,
                    "input_shape": (channels, height, width),
                    **{name: whole_number(mapping[name], name) for name in WHOLE},
                    **{name: amount(mapping[name], name) for name in AMOUNTS if name in mapping},
                    **{name: terms(name, mapping[name]) for name in ("latency_terms", "training_terms")},
                    "energy_terms": terms("energy_terms", mapping.get("energy_terms", {})),
                    "measured": tuple(_measured_row(row) for row in mapping["measured"]),
                    "few": _few(mapping.get("few", {})),
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
            why = str(error) if isinstance(error, UserError) else repr(error)
            raise UserError(f"this is no device profile ({why}); measure one with measure_profile(space)") from None


def _measured_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `Profile.measured` from a file; UserError, or what Python raises, where it is none."""
    if not isinstance(row["arch"], str):
        raise UserError(f"a measured network is {row['arch']!r:.40}; wanted a text")
    amount(row["latency"], f"the latency of {row['arch']:.40}", positive=True)
    for name in ("macs", "training", "step", "energy"):
        if row.get(name) is not None:
            amount(row[name], f"the {name} of {row['arch']:.40}")
    return dict(row)


def _few(few: Mapping[str, Any]) -> dict[str, Any]:
    """`Profile.few` from a file; UserError, or what Python raises, where it is none."""
    if not few:
        return {}
    if not isinstance(few["space"], str) or len(few["input_shape"]) != 3 or len(few["samples"]) < 2:
        raise UserError("few is damaged; wanted a space, three sides of an image, and two samples or more")
    for value in (*few["input_shape"], few["classes"]):
        whole_number(value, "a side or the classes of few")
    for table in (few["samples"], few.get("energies", {}), *few["sources"].values()):
        for text, value in table.items():
            amount(value, f"what {text:.40} costs", positive=True)
    return dict(few)


def measure_profile(
    space: SearchSpace,
    *,
    device: str = "cpu",
    threads: int = 1,
    train_threads: int = 2,
    networks: int = 14,
    batch: int = 64,
    seed: int = 0,
    seconds: float = 20.0,
    limits: Mapping[str, float] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Profile:
    """Measure some networks of a space on this device, and fit what predicts all others. Takes about `seconds`.

    Up to 200 random architectures are traced, and `networks` measured, from the least to the most macs: half of them
    random ones and half typical ones, since a search begins there, or all random where the space names no typical ones.
    Latency is timed in two separate rounds, each beside a reference network; the mean of the two ratios is brought to
    the usual speed of the machine (see `speed`).
    Training is predicted for steps of `batch` images. The slower a network is, the fewer images its step is timed with:
    the time per operation is then spread over more of them; those far too slow are left out of it. On a CPU steps are
    timed with one thread, which other programs disturb least, and divided by the speed-up that a few networks show with
    `train_threads` threads (at least 1, and 1 on a machine whose cores are taken). `limits` (cost -> largest value)
    keeps the measured networks within the limits on counted costs, where enough are. Energy is read meanwhile where the
    machine has a meter, otherwise its power is a stated one, see `energy.stated_power`.
    `on_progress(done, total)` is called along the way. A network that cannot be built or run here, or hangs, is left
    out; UserError if none can.

    The time is fitted as a sum of non-negative terms (see `features`): least squares of relative errors with Huber's
    weights. Predictions are for networks of this space; they state their error as `half_width`.
    """
    where, usable = checked_device(device), precisions(device)
    if networks < 1 or batch < 1 or seconds <= 0:
        raise UserError(f"a profile needs networks, batch and seconds above 0, got {networks}, {batch} and {seconds}")
    begin = time.perf_counter()
    drawn, usual = _drawn(space, seed, limits or {}, 0.15 * seconds, networks)
    share = min(max(networks // 2, networks - len(drawn)), len(usual))
    mixed = zip_longest(spread(drawn, networks - share), spread(usual, share) if share else [])
    chosen = [one for pair in mixed for one in pair if one is not None]
    count = len(chosen)
    total, done = 3 * count, 0

    def advance() -> None:
        nonlocal done
        done = min(done + 1, total)
        if on_progress:
            on_progress(done, total)

    def late(part: float) -> bool:
        return time.perf_counter() - begin > part * seconds

    def time_step(model: nn.Module, with_threads: int, size: int) -> float:
        return fastest_training(
            model, space.input_shape, space.classes, among=[(with_threads, one) for one in usable], batch=size,
            device=device, seconds=0.01, min_repeats=1,
        )[0]  # fmt: skip

    meter, source = open_meter(device)
    power, stated = stated_power(device, threads)
    joules, busy = np.zeros(count), np.zeros(count)

    reference = Reference(where, threads, device_name(where), _waiter(where))
    latencies, paces = np.full((2, count), np.nan), np.full((2, count), np.nan)
    failures: dict[int, str] = {}
    for turn in (0, 1):
        for i, (arch, _) in enumerate(chosen):
            if turn == 1 and late(0.6):
                break
            if i in failures:
                continue
            before, since = meter.read() if meter else 0.0, time.perf_counter()
            with _kept(failures, i, seconds):
                found = measure_latency(
                    _model(space, arch), space.input_shape, device=device, threads=threads,
                    seconds=0.1 * seconds / count, min_repeats=5, on_begin=reference.begin, after=reference.tick,
                )  # fmt: skip
                latencies[turn, i], paces[turn, i] = found.median, reference.now()
                reference.remember(found.interrupted)
            joules[i] += meter.read() - before if meter else 0.0
            busy[i] += time.perf_counter() - since
            advance()
    good = [i for i in range(count) if i not in failures]
    if not good:
        raise UserError(f"no network of space '{space.name}' could be measured here: {next(iter(failures.values()))}")
    chosen, joules, busy = [chosen[i] for i in good], joules[good], busy[good]
    count = len(good)
    speed = reference.speed()
    millis = np.exp(np.nanmean(np.log(latencies[:, good] / paces[:, good]), axis=0)) * speed.usual * reference.now()
    sizes, slow = _step_sizes(batch, millis, 1000 * 0.4 * seconds, 2 * len(usable))
    alone = 1 if where.type == "cpu" else train_threads
    trainings, failures = np.full(count, np.inf), {}
    wall, core = time.perf_counter(), time.process_time()
    for i, (arch, _) in enumerate(chosen):
        if slow[i]:
            continue
        if np.isfinite(trainings).sum() >= LEAST and late(0.95):
            break
        with _kept(failures, i, seconds):
            trainings[i] = time_step(_model(space, arch), alone, sizes[i])
        advance()
    if not np.isfinite(trainings).any():
        raise UserError(f"no network of space '{space.name}' could be trained here: {next(iter(failures.values()))}")
    got = (time.process_time() - core) / (time.perf_counter() - wall)  # share of a core that this process was given
    ratios: list[float] = []
    if train_threads != alone and got > FREE:
        work = np.where(np.isfinite(trainings), trainings * sizes, 0.0)  # what threads share best, as in a training
        for i in np.argsort(-work)[: min(PAIRS, int((work > 0).sum()))].tolist():
            if ratios and (late(1.0) or ratios[-1] < 0.5):  # then the cores are taken, and every step may last seconds
                break
            with _kept(failures, i, seconds):
                ratios.append(float(trainings[i]) / time_step(_model(space, chosen[i][0]), train_threads, sizes[i]))
    speedup = max(1.0, float(np.median(ratios))) if ratios else 1.0
    if on_progress:
        on_progress(total, total)
    return fit_profile(
        [seen for _, seen in chosen],
        millis.tolist(),
        [float(value) / speedup if np.isfinite(value) else None for value in trainings],
        names=[space.format(arch) for arch, _ in chosen],
        device=device_name(where),
        threads=threads,
        train_threads=train_threads,
        batch=batch,
        step=sizes,
        speedup=speedup,
        space=space.name,
        input_shape=space.input_shape,
        energies=(millis * joules / busy).tolist() if meter else None,
        power=float(joules.sum() / busy.sum()) if meter else power,
        power_source=source if meter else stated,
        restless=speed.restless,
    )


def fit_profile(
    traces: Sequence[Trace],
    latencies: Sequence[float],
    trainings: Sequence[float | None],
    *,
    names: Sequence[str],
    device: str,
    threads: int,
    train_threads: int,
    batch: int,
    space: str,
    input_shape: tuple[int, int, int],
    runtime: str = "torch",
    speedup: float = 1.0,
    step: int | Sequence[int] | None = None,
    energies: Sequence[float | None] | None = None,
    power: float = 0.0,
    power_source: str = "",
    restless: float = 0.0,
    checks: Sequence[int] = (),
) -> Profile:
    """The profile that fits measured milliseconds. Use it for timings that come from elsewhere, such as a phone.

    `trainings` are milliseconds per image of steps of `step` images, alike or one number for each network (default
    `batch`), None where there is none.
    `energies` are millijoules, None where there is none; they are fitted where at least three are known.
    `checks` are places of at least nine networks that were drawn at random while the others were chosen; the
    half-widths then rest on them, under a fit of the others, and not on leaving out one network after another.
    """
    trained = [i for i, value in enumerate(trainings) if value is not None]
    steps = [step or batch] * len(traces) if step is None or isinstance(step, int) else list(step)
    all_features = [features(seen, runtime) for seen in traces]
    latency_terms, half_width = _fit(all_features, list(latencies), checks)
    training_terms, training_half_width = _fit(
        [_per_step(features(traces[i]), batch / steps[i]) for i in trained],
        [value for value in trainings if value is not None],
    )
    energies = list(energies) if energies is not None else [None] * len(traces)
    metered = [place for place, value in enumerate(energies) if value]
    energy_terms, energy_half_width = (
        _fit(
            [all_features[place] for place in metered],
            [energies[place] or 0.0 for place in metered],
            [at for at, place in enumerate(metered) if place in set(checks)],
        )
        if len(metered) > 2
        else ({}, 0.0)
    )
    if energy_terms and not power:
        spent = [(value, ms) for value, ms in zip(energies, latencies, strict=True) if value]
        power = sum(value for value, _ in spent) / sum(ms for _, ms in spent)
    return Profile(
        device=device,
        runtime=runtime,
        torch=torch.__version__,
        threads=threads,
        train_threads=train_threads,
        batch=batch,
        step=min((steps[i] for i in trained), default=batch),
        space=space,
        input_shape=input_shape,
        networks=len(traces),
        speedup=speedup,
        latency_terms=latency_terms,
        training_terms=training_terms,
        half_width=half_width,
        training_half_width=training_half_width,
        measured=tuple(
            {"arch": name, "macs": seen.macs, "latency": latency, "training": training, "step": size, "energy": energy}
            for name, seen, latency, training, size, energy in zip(
                names, traces, latencies, trainings, steps, energies, strict=True
            )
        ),
        power=power,
        power_source=power_source,
        restless=restless,
        energy_terms=energy_terms,
        energy_half_width=energy_half_width,
    )


def features(trace: Trace, runtime: str = "torch") -> dict[str, float]:
    """What the time of a network is a sum of: per family of operations their count, macs, and numbers moved.

    Convolutions are dense, pointwise (1x1), depthwise (any grouped one) or ragged (neither depthwise nor of channels
    that fill the vectors of a processor, multiples of 8); linear layers and matrix products are one family; pools and
    resizes are two; all else is element-wise. Any runtime but "torch" does what it can fold (see `costs.trace.trace`)
    within the operation before, where it costs nothing, and normalisations and functions that stay are a family.
    """
    found: dict[str, float] = {"network": 1.0}

    def add(name: str, value: float) -> None:
        found[name] = found.get(name, 0.0) + value

    folded = set() if runtime == "torch" else set(trace.folded)
    for place, op in enumerate(trace.ops):
        if place in folded:
            continue
        family = family_of(op)
        if runtime != "torch" and op.kind in ("bn", "other"):
            family = "function"
        elif family in ("dense", "pointwise") and (
            op.channels_out % LANES or (op.channels_in % LANES and op.channels_in > 4)
        ):
            family = "ragged"
        add(f"count/{family}", 1.0)
        if op.macs:
            add(f"macs/{family}", float(op.macs))
        moved = op.inputs + op.outputs + op.weights
        add("moved/weighted" if op.macs else f"moved/{family}", float(moved))
    return found


def family_of(op: Op) -> str:
    """The family of an operation, within which the time of a multiply-add is taken as constant."""
    if op.kind == "conv":
        return "depthwise" if op.groups > 1 else "pointwise" if op.kernel == 1 else "dense"
    if op.kind in ("linear", "matmul"):
        return "linear"
    return op.kind if op.kind in ("pool", "resize") else "elementwise"


def spread(drawn: Sequence[tuple[Arch, Trace]], count: int) -> list[tuple[Arch, Trace]]:
    """`count` of the drawn networks at even ranks of macs, the least and the most included; those two come first.

    The order halves the gaps, so that any beginning of the list is spread too.
    """
    ordered = sorted(drawn, key=lambda pair: (pair[1].macs, len(pair[1].ops), pair[0]))
    picked = sorted({round(rank) for rank in np.linspace(0, len(ordered) - 1, min(count, len(ordered)))})
    order = [0, len(picked) - 1] if len(picked) > 1 else [0]
    while len(order) < len(picked):
        gaps = [(b - a, a) for a, b in zip(sorted(order), sorted(order)[1:], strict=False)]
        width, start = max(gaps, key=lambda gap: (gap[0], -gap[1]))
        order.append(start + width // 2)
    return [ordered[picked[i]] for i in order]


def _drawn(
    space: SearchSpace, seed: int, limits: Mapping[str, float], seconds: float, least: int
) -> tuple[list[tuple[Arch, Trace]], list[tuple[Arch, Trace]]]:
    """Distinct random architectures with their traces, and typical ones that are not among them.

    Those within the limits on counted costs, if `least` of the random ones are.
    """
    from archscout.costs import COSTS
    from archscout.costs.limits import violation

    rng = np.random.default_rng([seed, 7])
    begin = time.perf_counter()
    drawn: dict[Arch, Trace] = {}
    usual: dict[Arch, Trace] = {}
    failures: dict[int, str] = {}

    def room() -> bool:
        return time.perf_counter() - begin <= seconds

    for draw in range(DRAWS):
        arch = space.sample(rng)
        if arch not in drawn:
            with _kept(failures, draw, seconds):
                drawn[arch] = trace_of(space, arch)
        if not drawn and len(failures) >= 20:
            break
        if len(drawn) >= least and draw >= least and not room():
            break
        if draw < len(space.typical) and (draw < least or room()):
            with _kept(failures, DRAWS + draw, seconds):
                usual[space.typical[draw]] = trace_of(space, space.typical[draw])
    if not drawn:
        raise UserError(f"no network of space '{space.name}' could be built here: {next(iter(failures.values()))}")
    usual = {arch: seen for arch, seen in usual.items() if arch not in drawn}
    counted = {name: value for name, value in limits.items() if name in COSTS and not COSTS[name].needs_profile}
    if counted:

        def within(some: Mapping[Arch, Trace]) -> dict[Arch, Trace]:
            costs = {arch: {n: float(COSTS[n].compute(seen, None)) for n in counted} for arch, seen in some.items()}
            return {arch: seen for arch, seen in some.items() if violation(costs[arch], counted) <= 0}

        if len(inside := within(drawn)) >= least:
            drawn, usual = inside, within(usual)
    return list(drawn.items()), list(usual.items())


def trace_of(space: SearchSpace, arch: Arch) -> Trace:
    """The trace of an architecture's network, which is built without weights; about 20 ms."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = space.build(arch)
    return trace(model, space.input_shape)


def _model(space: SearchSpace, arch: Arch) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return space.build(arch)


@contextmanager
def _kept(failures: dict[int, str], place: int, seconds: float) -> Iterator[None]:
    """Notes why the block failed, or that it took far too long, and goes on."""
    most = max(HANGING, 2 * seconds)
    try:
        with Limit(most):
            yield
    except Overdue:
        failures[place] = f"it took longer than {most:g} s"
    except Exception as error:
        failures[place] = reason(error)


def _step_sizes(batch: int, latencies: np.ndarray, allowed: float, steps: int) -> tuple[list[int], list[bool]]:
    """Images of a training step of each network, 8 to `batch`, so that `steps` of each take its part of `allowed` ms.

    An image in a training step is taken to cost as much as a single inference, which is slow for its work. The second
    answer is which networks take more than SLOW times their part even so, of those that are not the LEAST fastest.
    """
    part, sizes = allowed / len(latencies), []
    for value in latencies:
        size = batch
        while size > 8 and steps * value * size > part:
            size = max(8, size // 2)
        sizes.append(size)
    takes = steps * latencies * np.array(sizes)
    slow = takes > max(SLOW * part, float(np.sort(takes)[min(LEAST, len(takes)) - 1]))
    return sizes, slow.tolist()


def _per_step(found: Mapping[str, float], ratio: float) -> dict[str, float]:
    """The features of an image in a step `ratio` times smaller, which bears more of what a step costs once."""
    once = ("network", "count/")
    return {name: value * ratio if name.startswith(once) else value for name, value in found.items()}


def _predicted(found: Mapping[str, float], terms: Mapping[str, float]) -> float:
    """The sum of the terms. A feature that no measured network had costs as much as the dearest of its sort."""
    total = 0.0
    for name, size in found.items():
        rate = terms.get(name)
        if rate is None:
            sort = name.split("/")[0] + "/"
            rate = max((value for other, value in terms.items() if other.startswith(sort)), default=0.0)
        total += rate * size
    return total


def _fit(
    rows: Sequence[Mapping[str, float]], times: Sequence[float], checks: Sequence[int] = ()
) -> tuple[dict[str, float], float]:
    """Milliseconds per unit of each feature, and the relative half-width that covers 90 % when each row is left out.

    More than 60 rows are left out in 60 parts. With nine or more `checks` all of them are left out at once, and no
    other: the half-width is the error of rank ceil(0.9 (n + 1)), by which 90 % of further networks drawn alike are
    covered (split conformal prediction, Papadopoulos et al. 2002, doi 10.1007/3-540-36755-1_29).
    """
    if not rows:
        return {}, 1.0
    terms = _solve(rows, times)
    if len(rows) < 3:
        return terms, 1.0
    errors = []
    if len(checks) >= 9:
        others = [j for j in range(len(rows)) if j not in set(checks)]
        without = _solve([rows[j] for j in others], [times[j] for j in others])
        values = [max(_predicted(rows[i], without), 1e-9) for i in checks]
        off = sorted(abs(times[i] - value) / value for i, value in zip(checks, values, strict=True))
        return terms, off[math.ceil(0.9 * (len(off) + 1)) - 1]
    parts = min(len(rows), FOLDS)
    for part in range(parts):
        others = [j for j in range(len(rows)) if j % parts != part]
        without = _solve([rows[j] for j in others], [times[j] for j in others])
        for i in range(part, len(rows), parts):
            foretold = _predicted(rows[i], without)
            errors.append(abs(times[i] - foretold) / max(foretold, 1e-9))
    return terms, float(np.quantile(errors, 0.9, method="higher"))


def _solve(rows: Sequence[Mapping[str, float]], times: Sequence[float]) -> dict[str, float]:
    """Non-negative least squares of relative errors; Huber's weights make a disturbed time count less."""
    names = sorted({name for row in rows for name in row})
    wanted = np.asarray(times, dtype=np.float64)
    matrix = np.array([[row.get(name, 0.0) for name in names] for row in rows]) / wanted[:, None]
    scale = matrix.max(0)
    scale[scale == 0] = 1.0
    matrix = matrix / scale
    weights = np.ones(len(rows))
    for _ in range(5):
        found, _ = nnls(matrix * weights[:, None], weights)
        off = np.abs(matrix @ found - 1)
        usual = max(1.5 * 1.48 * float(np.median(off)), 0.02)
        weights = np.sqrt(np.minimum(1.0, usual / np.maximum(off, 1e-12)))
    return {name: float(value) for name, value in zip(names, found / scale, strict=True)}
