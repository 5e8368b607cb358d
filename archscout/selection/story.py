"""The verb select: a short training that shows which images a selector chose, and why."""

from __future__ import annotations

import csv
import inspect
import json
import logging
import shlex
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from archscout.asked import address, make_space, where
from archscout.config import cores
from archscout.data import Data, Part, load
from archscout.errors import UserError
from archscout.fit import Evaluation, Fit, evaluate, fit, recipe_for
from archscout.naming import find, require_settings
from archscout.progress import progress
from archscout.run import free_folder, versions
from archscout.selection import SELECTORS
from archscout.selection.dds import DOUBT, PATIENCE, Dds, hard_scores, suspects
from archscout.selection.drift import GROUPS, audit_selection, by_class_and_cluster
from archscout.selection.loader import made_by, require_makes
from archscout.selection.selector import Selector
from archscout.spaces import SPACES
from archscout.verify import initialise

if TYPE_CHECKING:
    import pandas

log = logging.getLogger("archscout")
PICKED = 12  # pairs, images chosen most often and images never chosen that are shown
SUSPECTS = 30  # images with a doubtful label that are shown
NUMBERS = ("times", "seen", "loss", "true", "margin")
COLUMNS = ("image", "class", *NUMBERS, "suspected")


def select_story(
    data: Any,
    selector: Any = "dds",
    *,
    share: float = 0.2,
    epochs: float = 4.0,
    space: Any = "plain",
    arch: str | None = None,
    seed: int = 0,
    size: int | None = None,
    group: str | None = None,
    data_root: str | Path | None = None,
    out: str | Path | None = None,
    device: str = "cpu",
    threads: int | None = None,
    **settings: Any,
) -> Story:
    """Train a small network on images that a selector chooses, and show what it chose, as a page and as tables.

    Use it before a long training, to see whether a selector suits your images: what it keeps and drops, whom it
    neglects, and which labels it doubts. Training is on the train part; the test part stays unopened.

    data:      as in `search`.
    selector:  a name (`archscout list select`), "module:name", or what is called as make(part, seed=..., share=...).
    share:     part of the train images in a round.
    epochs:    passes over as many images as the train part has; there are about epochs / share rounds.
    space, arch:  the network; default the smallest usual one, resnet8-w16 of plain.
    out:       the folder, new; default runs/DATA-SELECTOR-N.
    device, threads:  where the network is trained; threads default to all cores.
    settings:  of the selector.

    Costs the training, an embedding if the selector takes one (the page has clusters of it even where the selector does
    not read it), and two forward passes of the train images. Raises UserError for unknown names, a share or seed out of
    range, data that cannot be used, and a folder in use.
    """
    make = find("selector", selector, SELECTORS)
    factory = find("space", space, SPACES)
    if isinstance(make, Selector):
        raise UserError("select makes the selector itself: give its name, its class or a function, not a ready one")
    require_makes(make)
    require_settings("selector", make, settings, ("epochs", "space", "arch"))
    if not epochs > 0:
        raise UserError(f"epochs is above 0, got {epochs}")
    if not 0 < share <= 1:
        raise UserError(f"share is above 0 and at most 1, got {share}")
    if not 0 <= seed < 2**31:
        raise UserError(f"seed is a whole number from 0 to 2147483647, got {seed}")
    if arch is None and space != "plain":
        raise UserError(f"select wants an architecture of space '{address(space)}': give it with --arch")
    name = address(selector)
    with begun(Path(out) if out else free_folder(where(data), name)) as folder:
        started = time.monotonic()
        with progress("reading images", None):
            images = load(data, size=size, seed=seed, group=group, data_root=data_root)
        for remark in images.notes:
            log.warning("%s", remark)
        part, clock = images.part("train"), {"reading images": time.monotonic() - started}
        network = make_space(factory, images)
        picks = network.parse(arch or "resnet8-w16")
        points, settings = embedded(make, part, settings, clock, threads=threads or cores(), device=device)
        chosen = made_by(make, part, seed=seed, share=share, **settings)
        balanced = bool(part.counts.max() > 2 * max(part.counts.min(), 1))
        if "embedding" in clock and isinstance(chosen, Dds) and not chosen.embeds:
            clock["embedding, for this page only"] = clock.pop("embedding")
        watch = Watch(chosen)
        model = initialise(network, picks, seed)
        recipe = recipe_for(
            part, images.shape, len(images.classes), mirrors=images.mirrors, balanced=balanced, epochs=epochs
        )
        place: dict[str, Any] = {
            "mean": images.mean, "std": images.std, "threads": threads or cores(), "device": device,
        }  # fmt: skip
        with progress(f"training with {name}", epochs) as bar:

            def shown(step: int, steps: int, loss: float, accuracy: float) -> None:
                bar.advance(epochs / steps, note=f"round {chosen.record.round}, loss {loss:.3f}")

            fitted = fit(
                model, part, recipe=recipe, epochs=epochs, seed=seed, selector=chosen, on_progress=shown,
                audit_every=max(epochs / 5, 1e-9), **place,
            )  # fmt: skip
        watch.close()
        clock["choosing images"] = watch.seconds
        clock["training"] = max(0.0, fitted.seconds - watch.seconds)
        began = time.monotonic()
        with progress("looking at all images", None):
            answers = evaluate(model, part, **place)
            held = evaluate(model, images.part("validation"), **place)
        clock["looking at all images"] = time.monotonic() - began
        options = {
            "select": name, "share": f"{share:g}", "epochs": f"{epochs:g}", "space": address(space),
            "arch": network.format(picks), "seed": seed, "size": size, "group": group, "data-root": data_root,
        }  # fmt: skip
        words = ["archscout", "select", where(data)]
        words += [f"--{key}={value}" for key, value in options.items() if value is not None]
        facts = {
            "selector": name,
            "what": (inspect.getdoc(type(chosen)) or "").partition("\n")[0],
            "share": share,
            "network": network.format(picks),
            "command": shlex.join(words),
            "seed": seed,
            "versions": versions(),
            "source": where(data),
            **told(images, part, watch, fitted, answers, held, balanced, points),
            "time": [{"stage": stage, "seconds": seconds} for stage, seconds in clock.items()],
        }
        pictures = pictures_of(part, facts)
        write_table(folder / "selection.csv", part, watch)
        (folder / "selection.json").write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        from archscout.selection.page import write_page

        write_page(facts, pictures, folder / "selection.html")
    return Story(folder)


@contextmanager
def begun(folder: Path) -> Iterator[Path]:
    """A new folder, which goes again if nothing was written into it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"folder '{folder}' is not empty: give another one with --out")
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder '{folder}' ({error.strerror}): give another one with --out") from None
    try:
        yield folder
    finally:
        if new and not any(folder.iterdir()):
            folder.rmdir()


def embedded(
    make: Any, part: Part, settings: Mapping[str, Any], clock: dict[str, float], **place: Any
) -> tuple[np.ndarray | None, dict[str, Any]]:
    """The embedding (n, d) of a part for a selector that takes one, with the settings that hand it over."""
    known = inspect.signature(make).parameters
    if "embedding" not in known:
        return None, dict(settings)
    from archscout.selection.embedding import embed

    kind = settings.get("embedding", known["embedding"].default)
    kind = "autoencoder" if kind is None or kind is inspect.Parameter.empty else kind
    began = time.monotonic()
    with progress("comparing images", None):
        points = embed(part, kind, cache=settings.get("cache"), **place)
    clock["embedding"] = time.monotonic() - began
    return points, {**settings, "embedding": points}


def told(
    data: Data,
    part: Part,
    watch: Watch,
    fitted: Fit,
    answers: Evaluation,
    held: Evaluation,
    balanced: bool,
    points: np.ndarray | None,
) -> dict[str, Any]:
    """Everything that the record of a training tells, as plain values. Positions are of the part."""
    selector, record = watch.selector, watch.selector.record
    right = torch.from_numpy(answers.predictions == answers.labels)
    final = audit_selection(selector, lambda positions: right[positions], most=None, widen=1.0)
    groups: np.ndarray | None = None
    if points is not None:
        from archscout.selection.embedding import CLUSTERS, clusters

        groups = clusters(points, None, CLUSTERS)
    tables = by_class_and_cluster(record, right, groups)
    for row in tables.get("cluster", ()):
        row["images_shown"] = [about(part, watch, i) for i in spread_out(np.flatnonzero(groups == row["number"]), 4)]
    doubtful = watch.doubtful()
    listed = doubtful.nonzero().squeeze(1)
    listed = listed[record.margin[listed].argsort(stable=True)][:SUSPECTS]
    chosen = (record.times > 0).nonzero().squeeze(1).numpy()
    often = chosen[np.lexsort((record.true[chosen].numpy(), -record.times[chosen].numpy()))][:PICKED]
    never = (record.times == 0).nonzero().squeeze(1)
    metric = "balanced_accuracy" if balanced else "accuracy"
    labels = record.labels[never].numpy()
    return {
        "classes": list(data.classes),
        "shape": list(data.shape),
        "images": len(part),
        "counts": part.counts.tolist(),
        "notes": list(data.notes),
        "hardness": watch.hardness,
        "furthest": isinstance(selector, Dds) and selector.embeds,
        "epochs": fitted.epochs,
        "seconds": fitted.seconds,
        "validation": {"metric": metric, "value": held.metric(metric), "n": len(held.labels)},
        "rounds": watch.rounds,
        "updates": sum(entry["update"] for entry in watch.rounds),
        "ever": len(chosen),
        "pairs": [
            {
                "round": number,
                "left": {**about(part, watch, left), "true": true},
                "came": {**about(part, watch, came), "seen": seen},
            }
            for number, left, came, true, seen in watch.swaps()
        ],
        "often": [about(part, watch, i) for i in often.tolist()],
        "never": np.bincount(labels, minlength=len(data.classes)).tolist(),
        "never_shown": [about(part, watch, int(never[i])) for i in taken_in_turn(labels, PICKED)],
        "audits": fitted.audits,
        "final": final.to_json(),
        "groups": list(GROUPS),
        "by_class": tables["class"],
        "by_cluster": tables.get("cluster", []),
        "suspected": int(doubtful.sum()),
        "suspects": [
            {
                **about(part, watch, i),
                "said": data.classes[answers.predictions[i]],
                "confidence": float(answers.confidence[i]),
            }
            for i in listed.tolist()
        ],
    }


def about(part: Part, watch: Watch, position: int) -> dict[str, Any]:
    """What is recorded of one image."""
    record = watch.selector.record
    return {
        "position": position,
        "name": part.data.names[part.indices[position]],
        "class": part.data.classes[part.labels[position]],
        "times": int(record.times[position]),
        "seen": int(record.seen[position]),
        "true": float(record.true[position]) if record.observed[position] else None,
        "margin": float(record.margin[position]) if record.observed[position] else None,
    }


def taken_in_turn(labels: Any, most: int, first: int = 0) -> list[int]:
    """Up to `most` places in `labels`, one of each class in turn from class `first` on, first places first."""
    labels = np.asarray(labels, dtype=np.int64)
    order = np.argsort(labels, kind="stable")
    count = np.bincount(labels, minlength=1)
    turn = np.empty(len(labels), dtype=np.int64)
    turn[order] = np.arange(len(labels)) - (np.cumsum(count) - count)[labels[order]]
    return np.lexsort(((labels - first) % len(count), turn))[:most].tolist()


def spread_out(places: np.ndarray, most: int) -> list[int]:
    """Up to `most` of some places, at even distances."""
    return places[np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int)].tolist()


def listed_images(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Every image that the facts show."""
    found = [*facts["often"], *facts["never_shown"], *facts["suspects"]]
    found += [pair[side] for pair in facts["pairs"] for side in ("left", "came")]
    return found + [one for row in facts["by_cluster"] for one in row["images_shown"]]


def pictures_of(part: Part, facts: Mapping[str, Any]) -> dict[int, str]:
    """Small pictures of the images that the facts show, by position, as data URIs."""
    from archscout.page import thumbnail

    positions = sorted({one["position"] for one in listed_images(facts)})
    return {i: thumbnail(np.asarray(part.data.images[part.indices[i]])) for i in positions}


def write_table(path: Path, part: Part, watch: Watch) -> None:
    """One row an image as CSV: image, class, times, seen, loss, true, margin, suspected; empty where not trained on."""
    record, doubtful = watch.selector.record, watch.doubtful().tolist()
    known = (record.observed > 0).tolist()
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for i, there in enumerate(known):
            outcomes = [f"{float(getattr(record, name)[i]):.6g}" if there else "" for name in NUMBERS[2:]]
            name, kind = part.data.names[part.indices[i]], part.data.classes[part.labels[i]]
            writer.writerow((name, kind, int(record.times[i]), int(record.seen[i]), *outcomes, int(doubtful[i])))


@dataclass(frozen=True)
class Story:
    """What a selector chose in a short training, read from its folder. `select_story` makes it.

    folder:  holds selection.html, selection.json and selection.csv.
    """

    folder: Path

    @property
    def page(self) -> Path:
        """The page, which opens offline."""
        return self.folder / "selection.html"

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Everything that the page shows, as plain values."""
        try:
            found: dict[str, Any] = json.loads((self.folder / "selection.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"'{self.folder}' holds no selection.json that can be read ({error})") from None
        return found

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """One {round, images, update, kept_hard, kept_mastered, replaced, new, mastered, ...} per round; see Watch."""
        return list(self.facts["rounds"])

    def to_dataframe(self) -> pandas.DataFrame:
        """One row an image: image, class, times chosen, round last seen, last loss, true-class confidence, margin,
        suspected."""
        import pandas as pd

        table = pd.read_csv(self.folder / "selection.csv", dtype=str, keep_default_na=False)
        for name in (*NUMBERS, "suspected"):
            table[name] = pd.to_numeric(table[name])
        return table.astype({"suspected": bool})


class Watch:
    """Notes what each choice of a selector changes; stands in front of its `next_round`, which stays as it is.

    rounds:   one entry a round, all counts of images.
                round, epoch (at its begin), images; update: whether it began with other images than the one before
                kept_hard, kept_mastered: of the round before, by how they ended it; replaced: those that left
                new: never chosen before; suspected: how many labels were doubted at its begin
                classes: images of each class
                seen: images trained on (the last round may be cut short); mastered: the share of these whose score is
                at least `hardness`; hard: the others; hard_classes: these by class; accuracy, loss: means of these
                asked: the share of mastered images from which the selector updates; None if it has no such rule
                seconds: that the choice took
    seconds:  that all choices took.
    """

    def __init__(self, selector: Selector) -> None:
        self.selector, self.inner = selector, selector.next_round
        self.rounds: list[dict[str, Any]] = []
        self.seconds = 0.0
        self.hardness = float(getattr(selector, "hardness", 0.5))
        self.score: Any = getattr(selector, "score", "true")
        self.classes = int(selector.record.labels.max()) + 1
        self.pairs: deque[tuple[int, list[Tensor]]] = deque(maxlen=3)  # of the last updates
        vars(selector)["next_round"] = self
        if isinstance(selector, Dds):
            vars(selector)["_successors"] = self.paired(selector._successors)

    def __call__(self) -> Tensor:
        record = self.selector.record
        self.close()
        before, doubted = record.subset, int(self.doubtful().sum())
        mastered = hard_scores(record, self.score)[before] >= self.hardness
        was = torch.zeros(len(record.labels), dtype=torch.bool)
        was[before] = True
        began = time.monotonic()
        chosen = self.inner()
        seconds = time.monotonic() - began
        self.seconds += seconds
        here = torch.zeros_like(was)
        here[chosen] = True
        stays = here[before]
        self.rounds.append(
            {
                "round": record.round,
                "epoch": record.before / len(was),
                "images": len(chosen),
                "update": record.round > 1 and not torch.equal(was, here),
                "kept_hard": int((stays & ~mastered).sum()),
                "kept_mastered": int((stays & mastered).sum()),
                "replaced": int((~stays).sum()),
                "new": int((record.times[chosen] == 1).sum()),
                "suspected": doubted,
                "classes": torch.bincount(record.labels[chosen], minlength=self.classes).tolist(),
                "seconds": seconds,
            }
        )
        return chosen

    def close(self) -> None:
        """Notes how the current round ended."""
        record = self.selector.record
        if not self.rounds or "seen" in self.rounds[-1]:
            return
        seen = record.subset[record.seen[record.subset] == record.round]
        mastered = hard_scores(record, self.score)[seen] >= self.hardness
        hard = record.labels[seen[~mastered]]
        self.rounds[-1] |= {
            "seen": len(seen),
            "mastered": float(mastered.float().mean()),
            "hard": len(hard),
            "hard_classes": torch.bincount(hard, minlength=self.classes).tolist(),
            "accuracy": float((record.true[seen] >= record.confidence[seen]).float().mean()),
            "loss": float(record.loss[seen].mean()),
            "asked": asked(self.selector),
        }

    def doubtful(self) -> Tensor:
        """Bool (n,): images whose label is probably wrong, by the selector's own rule or the usual one."""
        selector = self.selector
        patience, doubt = getattr(selector, "patience", PATIENCE), getattr(selector, "doubt", DOUBT)
        return suspects(selector.record, patience, doubt)

    def paired(self, successors: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`successors` with its pairs noted: round, who leaves, who comes, the score of one, the last round of the
        other."""
        record = self.selector.record

        def noted(leaving: Tensor, *rest: Any) -> Tensor:
            coming = successors(leaving, *rest)
            there = coming >= 0
            left, came = leaving[there], coming[there].clone()
            if not self.pairs or self.pairs[-1][0] != record.round:
                self.pairs.append((record.round, [torch.zeros(4, 0, dtype=torch.double)]))
            self.pairs[-1][1].append(
                torch.stack([left.double(), came.double(), record.true[left].double(), record.seen[came].double()])
            )
            return coming

        return noted

    def swaps(self) -> list[tuple[int, int, int, float, int]]:
        """Up to a dozen of the last pairs, of all classes: (round, who left, who came, true-class confidence of the one
        that left, round in which the one that came was last trained on, 0 for never), the latest round first."""
        rows: list[tuple[int, int, int, float, int]] = []
        updates = [(number, torch.cat(parts, 1)) for number, parts in reversed(self.pairs)]
        updates = [(number, table) for number, table in updates if table.shape[1]]
        for place, (number, table) in enumerate(updates):
            most = -(-(PICKED - len(rows)) // (len(updates) - place))
            labels = self.selector.record.labels[table[0].long()]
            for column in taken_in_turn(labels, most, len(rows)):
                left, came, true, seen = table[:, column].tolist()
                rows.append((number, int(left), int(came), true, int(seen)))
        return rows


def asked(selector: Selector) -> float | None:
    """The share of mastered images from which Dds updates after the current round; None for other selectors."""
    record = selector.record
    if not isinstance(selector, Dds):
        return None
    way = min(1.0, record.spent / record.total) if record.total else 0.0
    return selector.mastery + (selector.top - selector.mastery) * way
