"""The full training of the winner, its export and its audit, which opens the test part."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from archscout.audit import audit
from archscout.clock import Clock, keep_deadline, record_shorter
from archscout.config import Config
from archscout.data import Data
from archscout.deploy import export_onnx, load_weights, measure_onnx, save_weights
from archscout.devices.latency import fastest_training, measure_memory, precisions
from archscout.devices.measure import energy_facts
from archscout.distill import Teacher
from archscout.errors import Stopped
from archscout.fit import Fit, Recipe, evaluate, fit
from archscout.naming import find, word
from archscout.plan import Plan, audit_seconds, most_epochs
from archscout.pretrained import fine_tuning
from archscout.probe import reason
from archscout.progress import progress
from archscout.recipes import RECIPES
from archscout.run import Run
from archscout.selection import Selector, make_selector
from archscout.selection.dds import suspects
from archscout.selection.drift import behind, by_class_and_cluster, compare
from archscout.selection.embedding import CLUSTERS, clusters, embed
from archscout.space import Arch, SearchSpace
from archscout.verify import Entrant, initialise

log = logging.getLogger("archscout")

HOPE = 0.8  # a training may turn out this much faster than measured; if it does not, it is shortened under way


def recipe_of(config: Config, data: Data, metric: str, epochs: float) -> Any:
    """How networks of this run are trained; the same recipe for every entrant, the baseline included."""
    flip = bool(data.mirrors) if config.flip == "auto" else config.flip == "yes"
    return find("recipe", config.recipe, RECIPES)(
        data.part("train"),
        data.shape,
        len(data.classes),
        mirrors=flip,
        balanced=metric == "balanced_accuracy",
        epochs=epochs,
    )


def usable(recipe: Recipe, config: Config) -> tuple[str, ...]:
    """The precisions to choose from: those of the device, unless the recipe of a person's own asks for another."""
    among = precisions(config.device)
    return among if recipe.precision == among[0] else (recipe.precision,)


def best_rate(model: torch.nn.Module, data: Data, recipe: Recipe, config: Config) -> dict[str, Any]:
    """Milliseconds per image of a training step, and the fastest way: all threads or one, float32 or bfloat16."""
    seconds = min(max(0.005 * (config.budget or 0.0), 0.5), 3.0)
    counts = sorted({1, config.train_threads})
    ms, threads, precision = fastest_training(
        model, data.shape, len(data.classes), batch=recipe.batch_size, device=config.device,
        turns=2, seconds=seconds / 2,
        among=[(threads, precision) for precision in usable(recipe, config) for threads in counts],
    )  # fmt: skip
    return {"ms": ms, "threads": threads, "precision": precision}


def entrant_precision(run: Run, config: Config, recipe: Recipe, pool: Any, entrant: Entrant) -> str:
    """The precision in which an entrant trains, by a measurement that is logged; float32 without a budget.

    It is measured where entrants train, in `pool`, so that one that hangs or takes all memory costs itself only. A run
    given by counts depends on its seed alone, and so times nothing.
    """
    among = usable(recipe, config)
    if config.budget is None or len(among) < 2:
        return recipe.precision

    def work() -> dict[str, Any]:
        item = {"space": entrant.space.name, "arch": entrant.arch, "recipe": recipe, "seed": config.seed}
        (outcome,) = pool.map([{**item, "among": among}])
        if outcome.failure is not None:  # told by its training
            return {"precision": recipe.precision, "failure": outcome.failure}
        return dict(outcome.value)

    return str(run.once(f"precision/{entrant.key}", work)["precision"])


def train_winner(
    run: Run,
    config: Config,
    data: Data,
    metric: str,
    entrant: Entrant,
    plan: Plan | None,
    clock: Clock,
    select: Any,
    teacher: Teacher | None = None,
) -> None:
    """Full training on train and validation images, export, measurement, and the audit, which opens the test part.

    select: what chooses the training images; "full" for all.  teacher: whose answers it learns too.
    """
    space = entrant.space
    about = {
        "space": space.name,
        "factory": space.name if space.name in ("plain", "pretrained") else config.space,
        "arch": entrant.text,
        **({"notation": space.notation(entrant.arch)} if space.notation_of else {}),
        "input_shape": list(data.shape),
        "classes": list(data.classes),
        "mean": list(map(float, data.mean)),
        "std": list(map(float, data.std)),
    }
    run.write("architecture.json", json.dumps(about, indent=1))
    run.once("network", lambda: drawing(space, entrant.arch))
    model = initialise(space, entrant.arch, config.seed)
    weights = run.folder / "weights.safetensors"
    if "trained" in run and weights.exists():
        load_weights(model, weights)
    else:
        with memory_told(f"the full training of {entrant.text}", run):
            gentle = fine_tuning if entrant.text in config.pretrained and space.name == "pretrained" else None
            fully_train(run, config, data, metric, model, plan, clock, select, teacher, gentle)
        save_weights(model, weights)
    clock.stage_done("train")

    if "deployed" not in run:
        with progress("export and measurement", None):
            run.record("deployed", deploy(run, config, data, model))
    if "audit" not in run:
        with progress("audit", None):
            found = audit(model, data, threads=config.train_threads, device=config.device)
            run.write("pictures.json", json.dumps(pictures_of(data, found)))
            run.record("audit", found)
    clock.stage_done("audit")


def fully_train(
    run: Run,
    config: Config,
    data: Data,
    metric: str,
    model: torch.nn.Module,
    plan: Plan | None,
    clock: Clock,
    select: Any,
    teacher: Teacher | None = None,
    adapt: Callable[[Recipe], Recipe] | None = None,
) -> None:
    """The full training, from a checkpoint if there is one; under a budget its length follows the measured speed.

    Every change of the planned epochs is an event, so that a resumed training follows the same schedule.
    """
    part = data.merge("train", "validation")
    adapt = adapt or (lambda recipe: recipe)
    usual = adapt(recipe_of(config, data, metric, plan.epochs if plan else 10.0))
    timed = config.budget is not None and config.epochs is None
    threads, precision = config.train_threads, usual.precision
    if not timed:
        assert plan is not None
        epochs = plan.epochs
    else:
        budget = config.budget or 0.0
        rate = run.once(
            "training-rate",
            lambda: {**best_rate(model, data, usual, config), "spent": clock.spent()},
        )
        threads, precision = rate["threads"], rate.get("precision", precision)
        extra = (run.recall("teacher") or {}).get("forward_ms", 0.0)
        per_epoch = HOPE * len(part) * (rate["ms"] + extra) / 1000.0
        left = 0.97 * budget - rate["spent"] - audit_seconds(len(data.labels), rate["ms"], budget)
        epochs = float(min(max(left / per_epoch, 2 * usual.batch_size / len(part)), most_epochs(len(part))))
        if plan is None or abs(epochs - plan.epochs) > 0.02 * plan.epochs:
            before = "unplanned" if plan is None else f"{plan.epochs:.3g}"
            run.once(
                "plan-change/epochs",
                lambda: {
                    "time": rate["spent"],
                    "what": f"full training: {before} -> {epochs:.3g} epochs",
                    "why": f"one image takes {rate['ms']:.3g} ms and {max(left, 0.0):.0f} s are left for it",
                },
            )
    recipe = replace(adapt(recipe_of(config, data, metric, epochs)), precision=precision)
    log.info("full training: %.3g epochs of %d images", epochs, len(part))
    if epochs < 1 and timed:
        log.warning(
            "only %.2g epochs of the full training fit into the budget: the network sees a part of the images and will "
            "have learned little; give a longer --budget, or fewer seconds to the rest by --split",
            epochs,
        )
    selector = make_selector(select, part, seed=config.seed, share=config.share, cache=str(run.folder / "embeddings"))
    several = config.devices > 1  # processes of their own, to which the bar and the log cannot travel
    rate_ms = rate["ms"] if timed else 0.0
    with progress("full training", epochs) as bar:

        def shown(step: int, steps: int, loss: float, accuracy: float) -> None:
            bar.advance(epochs / steps, note=f"loss {loss:.3f}, accuracy {accuracy:.3f}")

        fitted = fit(
            model,
            part,
            recipe=recipe,
            epochs=epochs,
            seed=config.seed,
            mean=data.mean,
            std=data.std,
            selector=selector,
            audit_every=None if selector is None else max(1.0, epochs / 5),
            threads=threads,
            device=config.device,
            devices=config.devices,
            checkpoint=run.folder / "checkpoints" / "final.pt",
            on_progress=None if several else shown,
            allow=keep_deadline(run, config, clock, epochs, rate_ms, len(data.labels)),
            teacher=teacher,
        )
        if several:
            for change in fitted.changes:
                record_shorter(run, clock, change["done"], change["epochs"])
    if selector is not None:
        run.once("selection", lambda: selection_facts(selector, model, part, fitted, data, config))
    run.once(
        "trained",
        lambda: {
            "epochs": fitted.epochs,
            "seconds": fitted.seconds,
            "history": fitted.history,
            "recipe": asdict(recipe),
            "images": len(part),
        },
    )


def selection_facts(
    selector: Selector, model: torch.nn.Module, part: Any, fitted: Fit, data: Data, config: Config
) -> dict[str, Any]:
    """What the selector left out, and how all images of the training fare: the audit at the end, with those before.

    selector: the word; rounds, updates, images (of a round at the end), ever (images in any round); audits: Drifts;
    class, cluster: a row per class and per cluster of images whose pixels are alike, see drift.by_class_and_cluster; a
    row of a cluster has the names of three of its images; behind: what these rows of either kind are called where never
    selected images are answered worse. suspects: names of images whose label is doubted.
    Costs a forward pass of all images and 3 s for the clusters of 50,000 of 32 x 32.
    """
    answers = evaluate(model, part, mean=data.mean, std=data.std, threads=config.train_threads, device=config.device)
    right = torch.from_numpy(answers.labels == answers.predictions)
    record = selector.record
    last = compare(record, torch.arange(len(part)), right)
    if last.drifted:
        log.warning("%s", last)
    alike = clusters(embed(part, "pixels", threads=config.train_threads), None, CLUSTERS)
    rows = by_class_and_cluster(record, right, alike)
    for row in rows["cluster"]:
        row["names"] = [data.names[i] for i in np.asarray(part.indices)[np.flatnonzero(alike == row["number"])[:3]]]
    fallen = [f"class {data.classes[row['number']]}" for row in behind(rows["class"])]
    fallen += [f"the cluster of {row['names'][0]}" for row in behind(rows["cluster"])]
    for name in fallen:
        log.warning("in %s never selected images are answered worse than ever selected ones", name)
    doubtful = suspects(record).nonzero().squeeze(1).numpy()
    doubtful = doubtful[np.argsort(record.margin.numpy()[doubtful], kind="stable")][:30]
    return {
        "selector": word(selector),
        "rounds": record.round,
        "updates": len(record.changes) - 1,  # the first round is no change
        "images": record.size,
        "ever": int((record.times > 0).sum()),
        "audits": [*fitted.audits, last.to_json()],
        **rows,
        "behind": fallen,
        "suspects": [data.names[i] for i in np.asarray(part.indices)[doubtful]],
    }


@contextmanager
def memory_told(what: str, run: Run) -> Iterator[None]:
    """Says plainly that memory was short in the block, and what to do; other errors go on as they are."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not re.search(r"out of memory|allocate memory", str(error)):
            raise
        raise Stopped(
            f"{what} needs more memory than there is ({reason(error)[:160]}); free some and type: archscout resume "
            f"{run.folder}; or start anew with --limit training_memory=1GB or a smaller --size"
        ) from None


def pictures_of(data: Data, found: Mapping[str, Any]) -> dict[str, str]:
    """Small pictures of the images that the audit lists, by name, as data URIs."""
    from archscout.page import thumbnail

    place = {name: i for i, name in enumerate(data.names)}
    listed = [one["name"] for one in (*found["worst_test"], *found["suspects"])]
    return {name: thumbnail(np.asarray(data.images[place[name]])) for name in listed}


def drawing(space: SearchSpace, arch: Arch) -> dict[str, Any] | None:
    """What the report draws of an architecture: the space's own description."""
    return space.describe(arch) if space.describe else None


def deploy(run: Run, config: Config, data: Data, model: torch.nn.Module) -> dict[str, Any]:
    """Export the trained network, check the file, and measure latency, energy and memory, alone on the machine."""
    check = data.part("train").batch(np.arange(min(16, len(data.part("train")))))[1]
    exported = export_onnx(
        model,
        run.folder / "model.onnx",
        input_shape=data.shape,
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        check_images=check,
    )
    measured = energy_facts(model, data.shape, config.device, config.threads, seconds=1.0)
    return {
        "max_difference": exported.max_difference,
        "onnx_bytes": exported.bytes,
        "latency": measured.pop("latency"),
        "energy": measured,
        "onnx_latency": measure_onnx(run.folder / "model.onnx", threads=config.threads, seconds=0.5).to_json(),
        "peak_memory": measure_memory(model, data.shape),
    }
