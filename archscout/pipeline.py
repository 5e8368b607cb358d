"""The main job: rank, shortlist, verify, train, audit, export, report. One readable function over the other modules.

A run is a function of its config and its log. Whatever is measured is an event (`run.once`), so calling `follow` again
on the same folder repeats nothing that was done: that is all there is to resuming.
"""

from __future__ import annotations

import csv
import io
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from archscout.asked import (
    Methods,
    address,
    fits,
    make_space,
    name_methods,
    other_device,
    prove,
    reachable,
    started,
    wanted_costs,
)
from archscout.batches import draw
from archscout.by_accuracy import search_by_accuracy
from archscout.clock import Clock
from archscout.config import Config, check_forms, make_config, read_toml
from archscout.costs import COSTS
from archscout.data import Data, load
from archscout.devices.profile import Profile, measure_profile
from archscout.differentiable import DIFFERENTIABLE
from archscout.differentiable.choice import require_supernet
from archscout.errors import Stopped, UserError
from archscout.execute import executor
from archscout.full_training import entrant_precision, recipe_of, train_winner
from archscout.naming import find, word
from archscout.plan import Plan, baseline_limit, plan_counts, waves
from archscout.planning import make_plan, plan_again, plan_jobs, some_of
from archscout.pretrained import pretrained
from archscout.probe import Batch
from archscout.progress import progress
from archscout.propose import Costing, propose_and_score, require_feasible, require_known, within_limits
from archscout.recipes import EPOCHS, RECIPES
from archscout.result import Result, config_of, require_text
from archscout.reward import reads_scores
from archscout.run import Run, free_folder, versions
from archscout.scoring import Scorer
from archscout.selection.loader import require_makes
from archscout.shortlist import Door, known_networks, known_space, pulled, score_controls, shortlist, various
from archscout.space import Arch, SearchSpace, portable
from archscout.spaces.plain import plain
from archscout.strategies import Evolution
from archscout.strategies.strategy import Goal
from archscout.teachers import choose_teacher, given_teacher, teacher_of
from archscout.trust import code_in, require_trust, sealed
from archscout.verify import Entrant, Trainer, choose, enough_rounds, verify, warn_of_selector

log = logging.getLogger("archscout")

CARRIED = (  # settings of a run that `train` takes over
    "data_root", "size", "group", "metric", "flip", "pretrained", "limits", "device_profile", "device", "threads",
    "teacher",
)  # fmt: skip


def search(
    data: Any,
    *,
    out: str | Path | None = None,
    config: str | Path | None = None,
    trust: bool = False,
    **settings: Any,
) -> Result:
    """Find, verify, train, audit and export the network for some images under limits; the whole main job.

    data: image folder, .npz file, torchvision:NAME, digits, a torch Dataset of (image, label), or a pair (X, y).
    out: the run folder, new; default runs/NAME-N.  settings: the fields of Config (`archscout search --help` explains
    each); `space`, `strategy`, `proxies` and `select` may also be objects of your own.  Takes the budget (20 minutes
    unless given).  trust: import the code that `config` names, where it is of a run that was not made here. Raises
    UserError for what the person can mend.
    """
    given = {**settings, "data": data}
    from_file = {k: v for k, v in (read_toml(config) if config else {}).items() if given.get(k) is None}
    check_forms(from_file)
    require_text(from_file.get("data"), str(config), "search from Python: archscout.search(DATA, config=...)")
    if config and (Path(config).parent / "trials.jsonl").exists():  # of a run, perhaps of somebody else's
        require_trust(Path(config).parent, code_in(from_file), trust)
    merged = {**from_file, **{k: v for k, v in settings.items() if v is not None}}
    if merged.get("recipe", "auto") != "auto":
        raise UserError("search compares networks by its own recipe; then type: archscout train RUN --recipe NAME")
    settings_, methods = name_methods(data if data is not None else merged.pop("data", None), merged, trust)
    settings_["out"] = str(
        out or settings_.get("out") or free_folder(settings_["data"], settings_.get("space", "mobilenet"))
    )
    checked = make_config(settings_)
    if settings.get("share") is not None and merged.get("select") in (None, "full") and not settings.get("select"):
        raise UserError("--share is of a selector of the training images; add --select random, or leave it out")
    fits(checked, methods)
    reachable(checked, methods)
    with begun(checked) as run:
        return follow(run, checked, methods)


@contextmanager
def begun(config: Config) -> Iterator[Run]:
    """A new run; if the person has something to mend before it has a plan, its folder goes and can be used again."""
    run = Run.create(config.out, sealed(config.to_toml(), config.model_dump()))
    planned = True
    try:
        yield run
    except Stopped:
        raise
    except UserError:
        planned = "plan" in run or "trained" in run
        raise
    finally:
        run.close()
        if not planned:
            shutil.rmtree(run.folder, ignore_errors=True)


def resume(folder: str | Path, *, trust: bool = False, **methods: Any) -> Result:
    """Continue a run that was stopped, from its log; nothing that it had computed is computed again.

    methods: `data`, `space`, `strategy`, `proxies`, `select` that were given as objects and cannot be found by name.
    trust: import the code that the run names (module:function), though it was not made here.
    """
    with Run.open(folder) as run:
        values = config_of(folder)
        check_forms(values)
        if methods.get("data") is None:
            mend = f"go on from Python: archscout.resume({str(folder)!r}, data=...)"
            require_text(values["data"], f"run {folder}", mend)
        require_trust(folder, code_in({k: v for k, v in values.items() if methods.get(k) is None}), trust)
        named, found = name_methods(methods.get("data") or values["data"], {**values, **methods}, trust)
        del named
        return follow(run, make_config(values), found)


def train(
    data: Any = None,
    *,
    run: str | Path | None = None,
    space: Any = None,
    arch: str | None = None,
    out: str | Path | None = None,
    trust: bool = False,
    **settings: Any,
) -> Result:
    """Train one architecture fully, audit and export it: the winner of `run` again, or `arch` of `space` on `data`.

    Give `epochs` for a reproducible run or `budget` for a time. `recipe`: "auto", a name of archscout.recipes (with the
    epochs that are published with it if none are given), or a function like those. No search and no verification take
    place. `limits`, on costs of this machine or of `device_profile`, stop nothing: the report says whether they hold.
    Those of `run`, with what is known of its device, count unless others are given. trust: import the code that `run`
    names, though it was not made here.
    """
    settings = {name: value for name, value in settings.items() if value is not None}
    settings["recipe"] = recipe = address(settings.get("recipe", "auto"))
    if recipe in EPOCHS and not {"epochs", "budget"} & set(settings):
        settings["epochs"] = EPOCHS[recipe]
    find("recipe", recipe, RECIPES)  # refuses an unknown one before anything is read
    profile = None
    if run is not None:
        source = Result(run)
        base = source.config
        arch = arch or source.best["arch"]
        if data is None:
            require_text(base["data"], f"run {run}", f"train from Python: archscout.train(run={str(run)!r}, data=...)")
        used = {"data": base["data"] if data is None else None, "space": source.about["factory"] if not space else None}
        require_trust(run, code_in(used), trust)
        if used["space"] != base.get("space"):  # what is sealed is the config
            require_trust(source.folder / "architecture.json", code_in({"space": used["space"]}), trust)
        data, space = used["data"] if data is None else data, space or used["space"]
        if "device_profile" not in settings:
            profile = source.events.get("profile")
        settings = {**{name: base[name] for name in CARRIED if name in base}, **settings}
    if arch is None or data is None:
        raise UserError("train wants a run folder, or --data with --space and --arch; see archscout train --help")
    named, methods = name_methods(data, {**settings, "space": space or "mobilenet"}, trust)
    named["out"] = str(out or free_folder(named["data"], "train"))
    config = make_config(named)
    if "share" in settings and settings.get("select") is None:
        raise UserError("--share is of a selector of the training images; add --select random, or leave it out")
    if methods.select != "full":
        require_makes(methods.select)
    reachable(config, methods, profiled=profile is not None)
    with begun(config) as folder:
        folder.once("only", lambda: {"arch": arch})
        if profile is not None:
            folder.once("profile", lambda: profile)
        return follow(folder, config, methods)


def open_data(run: Run, config: Config, methods: Methods) -> Data:
    """The images, split as the run first split them. Raises UserError if they changed since."""
    data = load(
        methods.source,
        size=config.size,
        seed=config.seed,
        group=config.group,
        data_root=config.data_root,
        strict=config.strict,
    )
    facts = run.once(
        "data",
        lambda: {
            "fingerprint": data.fingerprint,
            "shape": list(data.shape),
            "classes": list(data.classes),
            "images": len(data.labels),
            "counts": {
                name: np.bincount(data.labels[rows], minlength=len(data.classes)).tolist()
                for name, rows in data.parts.items()
            },
            "notes": list(data.notes),
            "mirrors": bool(data.mirrors),
            "mean": list(map(float, data.mean)),
            "std": list(map(float, data.std)),
        },
    )
    if not (run.folder / "split.csv").exists():
        run.write("split.csv", split_table(data))
    if facts["fingerprint"] != data.fingerprint:
        raise UserError("the images changed since this run began; put them back, or start a new run with another --out")
    return data


def split_table(data: Data) -> str:
    """The split as CSV text: image, class, part."""
    place = np.empty(len(data), dtype=object)
    for name, rows in data.parts.items():
        place[rows] = name
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("image", "class", "part"))
    writer.writerows(zip(data.names, (data.classes[label] for label in data.labels), place, strict=True))
    return text.getvalue()


def metric_of(config: Config, data: Data) -> str:
    """The metric that decides: as configured, or balanced accuracy if the largest class is over twice the smallest."""
    if config.metric != "auto":
        return config.metric
    counts = np.bincount(data.part("train").labels, minlength=len(data.classes))
    return "balanced_accuracy" if counts.max() > 2 * max(counts.min(), 1) else "accuracy"


@dataclass
class Work:
    """What the workers of a run do: score an architecture, or train an entrant for a round."""

    scorer: Scorer
    trainer: Trainer

    def __call__(self, item: Any) -> Any:
        return self.trainer(item) if isinstance(item, dict) else self.scorer(item)


def follow(run: Run, config: Config, methods: Methods) -> Result:
    """Do what is left of a run, from its log, and write its report."""
    clock = Clock(run, config.budget, config.device)
    run.once("versions", versions)
    with progress("reading images", None):
        data = open_data(run, config, methods)
    metric = run.once("metric", lambda: metric_of(config, data))
    log.info(
        "%d images %s in %d classes; deciding by %s",
        len(data.labels),
        "x".join(map(str, data.shape)),
        len(data.classes),
        metric,
    )
    for note in data.notes:
        log.warning("%s", note)
    clock.stage_done("read")
    space = known_space(config, data) if methods.space is pretrained else make_space(methods.space, data)
    log.info(
        "space %s: %s architectures%s",
        space.name,
        f"{space.size:,}" if space.size < 10**7 else f"{space.size:.3g}",
        "" if space.distinct is None else f", {space.distinct:,} distinct",
    )
    if methods.strategy in DIFFERENTIABLE.values():
        require_supernet(space, word(methods.strategy))  # before anything is measured
    prove(space, config, methods, data)
    teacher = given_teacher(run, config, methods, data)
    only = run.recall("only")
    if only:
        entrant = given_network(run, config, space, only["arch"])
        plan = plan_counts(config) if config.budget is None or config.epochs is not None else None
        run.once(
            "only_winner",
            lambda: {"space": space.name, "arch": entrant.text, "role": "given", "costs": dict(entrant.costs)},
        )
    else:
        entrant, plan = choose_network(run, config, methods, data, space, metric, clock)
    select = methods.select if only else "full"
    train_winner(run, config, data, metric, entrant, plan, clock, select, teacher or teacher_of(run, config, data))
    from archscout.facts import facts_of
    from archscout.page import write_report

    write_report(facts_of(run.folder), run.folder / "report.html")
    return Result(run.folder)


def given_network(run: Run, config: Config, space: SearchSpace, text: str) -> Entrant:
    """The architecture that is trained without a search, with its costs, predicted ones if the device is another one.

    This machine is measured when the network is trained, and not before.
    """
    if "profile" not in run and (target := other_device(config)) is not None:
        run.record("profile", target.to_json())
    known = run.recall("profile")
    profile = None if known is None else Profile.from_json(known)
    counted = {name: limit for name, limit in config.limits.items() if profile or not COSTS[name].needs_profile}
    costing, arch = Costing(space, counted, profile, patience=config.timeout), space.parse(text)
    entrant = Entrant(space, arch, "given", costing(arch))
    if costing.failures:
        raise UserError(f"{text} of space '{space.name}' cannot be built: {costing.failures.popitem()[1]}")
    return entrant


def choose_network(
    run: Run, config: Config, methods: Methods, data: Data, space: SearchSpace, metric: str, clock: Clock
) -> tuple[Entrant, Plan]:
    """The zero-shot stage and the verification: which network deserves the full training, and the plan followed."""
    limits = dict(config.limits)
    for name in limits:
        if name not in COSTS:
            raise UserError(f"unknown limit '{name}'; limits are on {', '.join(COSTS)}")
    batch = min(64, recipe_of(config, data, metric, 10.0).batch_size)
    with progress("measuring this device", None):
        profile = Profile.from_json(run.once("profile", lambda: device_profile(config, space, batch).to_json()))
    clock.stage_done("profile")
    require_known("objective", config.objectives, profile)
    costing = Costing(space, limits, profile, patience=config.timeout)

    def drawn() -> list[Arch]:
        draws, rng = within_limits(costing), np.random.default_rng([config.seed, 1])
        return require_feasible(costing, some_of(costing, draws, rng))

    sampled = drawn() if getattr(methods.select, "embeds", False) else None  # refused before minutes of embedding
    cache = run.folder / "cache"  # worker processes of this machine map the images from here
    shared = data.share(cache) if isinstance(config.workers, int) and config.workers > 0 else data
    scorer = Scorer(space, batches=scoring_batches(data, config.seed), proxies=methods.given, seed=config.seed)
    rival = portable(plain, (data.shape, len(data.classes)))
    known = known_space(config, data)
    embeddings = prepare_selection(run, config, methods, data.part("train"))
    trainer = Trainer(
        (space, rival, known), shared, metric, methods.select, config.threads, config.device, config.share, embeddings
    )
    workers = config.workers if config.device == "cpu" else 0
    work, new = Work(scorer, trainer), "plan" not in run  # of a run that goes on, workers may have nothing to do
    with executor(workers, work, threads=config.threads, timeout=config.timeout, early=new) as pool:
        sampled = sampled or drawn()
        supernet = methods.strategy in DIFFERENTIABLE.values()
        plan = make_plan(run, config, data, costing, sampled, pool, clock, supernet)
        warn_of_selector(plan, methods.select)
        if plan.training_limit is not None:
            costing = costing.within({**limits, "training": plan.training_limit})
        door = Door(run, config, profile)
        if supernet:
            ranked = train_supernet_of(door, methods, data, costing, plan, embeddings, clock)
        else:
            ranked = score_candidates(run, config, methods, costing, plan, pool, clock)
        if config.reward == "accuracy":
            parallel = max(1, workers) if isinstance(workers, int) else 2
            ranked = train_shortly(run, config, methods, data, metric, costing, plan, pool, clock, ranked, parallel)
        ranking_only = config.reward == "proxies" and not supernet
        first_of_all = various(costing, ranked) if ranking_only else ranked
        if plan.seconds and not supernet:
            plan = plan_again(run, config, data, costing, plan, first_of_all, clock)
        plan = enough_rounds(plan, methods.select)
        slow = baseline_limit(plan, config.budget)
        slack = limits if slow is None else {**limits, "training": slow}
        first, *later = waves(plan.finalists) if ranking_only else [plan.finalists]
        entrants = shortlist(door, costing, Costing(rival, slack, profile), first_of_all, first)
        entrants += known_networks(door, Costing(known, slack, profile), config.pretrained)
        entrants = score_controls(run, space, entrants, pool)
        clock.stage_done("score" if config.reward == "proxies" else "short")
        total = sum(plan_jobs(plan, len(entrants) + sum(later)))
        recipe = recipe_of(config, data, metric, sum(plan.rounds))
        ends = clock.begun("verify") + 1.3 * plan.seconds["verify"] if plan.seconds else None
        with progress("verification", total) as bar:
            records = verify(
                run,
                entrants,
                plan,
                pool,
                recipe=recipe,
                precision=partial(entrant_precision, run, config, recipe, pool),
                seed=config.seed,
                parallel=max(1, workers) if isinstance(workers, int) else 2,
                images=len(data.parts["train"]),
                patient=config.timeout,
                objectives=config.objectives,
                waves=later,
                pull=lambda wave, count, records: pulled(door, costing, methods, ranked, records, wave, count),
                on_progress=lambda n, best: bar.advance(n, best=best),
                out_of_time=lambda: ends is not None and clock.spent() > ends,
            )
    run.once("verified", lambda: records)
    shutil.rmtree(cache, ignore_errors=True)
    best = choose(records)
    home = next(one for one in (space, rival, known) if one.name == best["space"])
    winner = Entrant(home, home.parse(best["arch"]), best["role"], best["costs"])
    if config.teacher is None:
        run.once("teacher", lambda: choose_teacher(config, records, best))
    run.once(
        "winner",
        lambda: {
            "space": winner.space.name,
            "arch": winner.text,
            "role": winner.role,
            "validation": best["validation"],
        },
    )
    clock.stage_done("verify")
    log.info("winner: %s (%s), validation %s %.4f", winner.text, winner.role, metric, best["validation"])
    return winner, plan


def device_profile(config: Config, space: SearchSpace, batch: int = 64) -> Profile:
    """What predicts costs: this machine, measured now, or in latency and energy another device, if one is named.

    batch: images of the training step that is predicted; small data train in small ones, which take longer per image.
    """
    target = other_device(config)
    here = measure_profile(
        space,
        device=config.device,
        threads=config.threads,
        train_threads=config.train_threads,
        batch=batch,
        seconds=min(max(0.02 * (config.budget or 600.0), 4.0), 25.0),
        seed=config.seed,
    )
    return here if target is None else here.aimed(target, target.target)


def score_candidates(
    run: Run, config: Config, methods: Methods, costing: Costing, plan: Plan, pool: Any, clock: Clock
) -> list[Arch]:
    """The architectures that the zero-shot stage scored, in the order of Trials.order."""
    directions = {name: proxy.direction for name, proxy in methods.proxies.items()}
    costs = wanted_costs(config)
    kinds = [name for name in costing.space.kinds if len(costing.space.choices[name]) > 1]
    run.once("goal", lambda: {"directions": directions, "cost_axis": costs[0], "kinds": kinds})
    make = Evolution if reads_scores(methods.strategy) else methods.strategy
    strategy = started(make, within_limits(costing), seed=config.seed, goal=Goal(scores=directions, costs=costs))
    ends = clock.begun("score") + 1.3 * plan.seconds["score"] if plan.seconds else None
    with progress("scoring candidates", plan.candidates) as bar:
        trials = propose_and_score(
            run,
            costing,
            strategy,
            pool,
            plan.candidates,
            directions=directions,
            on_progress=lambda n, best: bar.advance(n, best=best),
            out_of_time=lambda: ends is not None and clock.spent() > ends,
        )
    ranked = trials.order(directions)
    if not ranked:
        why = "; ".join((trials.why() or {"": "no feasible network was proposed"}).values())
        raise UserError(f"none of {len(trials)} proposals could be scored: {why}")
    return ranked


def train_shortly(
    run: Run, config: Config, methods: Methods, data: Data, metric: str, costing: Costing, plan: Plan, pool: Any,
    clock: Clock, ranked: Sequence[Arch], parallel: int,
) -> list[Arch]:  # fmt: skip
    """The ranking after a search by accuracy that begins at it; see by_accuracy."""
    clock.stage_done("score")
    ends = clock.begun("short") + 1.1 * plan.seconds["short"] if plan.seconds else None
    with progress("short trainings", plan.trainings) as bar:
        return search_by_accuracy(
            run,
            costing,
            methods.strategy,
            plan,
            pool,
            ranked,
            recipe=recipe_of(config, data, metric, plan.short),
            directions={name: proxy.direction for name, proxy in methods.proxies.items()},
            objectives=config.objectives,
            seed=config.seed,
            inherit=config.inherit,
            parallel=parallel,
            images=len(data.parts["train"]),
            patient=config.timeout,
            out_of_time=lambda: ends is not None and clock.spent() > ends,
            on_progress=lambda n, best: bar.advance(n, best=best),
        )


def train_supernet_of(
    door: Door, methods: Methods, data: Data, costing: Costing, plan: Plan, embeddings: str | None, clock: Clock
) -> list[Arch]:
    """What a differentiable strategy finds: the best one that the door admits, behind those that it refused."""
    from archscout.differentiable.stage import search_supernet

    run, config, text = door.run, door.config, costing.space.format
    run.once("goal", lambda: {"directions": {}, "cost_axis": wanted_costs(config)[0]})
    tried: list[Arch] = []
    for arch in search_supernet(
        run, config, methods.strategy, data, costing, seconds=plan.seconds.get("score"), select=methods.select,
        embeddings=embeddings, clock=clock,
    ):  # fmt: skip
        tried.append(arch)
        if door.admits(costing, arch):
            break
        log.info("%s measures above the limits", text(arch))
    if len(tried) > 1:
        run.once("supernet-tried", lambda: [text(arch) for arch in tried])
    return tried


def scoring_batches(data: Data, seed: int) -> list[Batch]:
    """Two class-balanced batches of up to 64 normalised training images, the same in every process."""
    return [draw(data, 64, "balanced", 2 * seed + number) for number in (0, 1)]


def prepare_selection(run: Run, config: Config, methods: Methods, part: Any) -> str | None:
    """The folder of the embedding that a selector compares images in, made before the workers need it; or None."""
    if not getattr(methods.select, "embeds", False):
        return None
    folder = str(run.folder / "embeddings")
    with progress("embedding the images", None):
        from archscout.selection.embedding import embed

        embed(part, cache=folder, threads=config.train_threads)
    return folder


def demo(*, out: str | Path | None = None, seed: int = 0) -> Result:
    """The main job on scikit-learn's 1,797 handwritten digits with at most 60,000 parameters; about two minutes."""
    return search("digits", out=out, seed=seed, space="mobilenet", limits={"params": 60_000}, budget=110.0)
