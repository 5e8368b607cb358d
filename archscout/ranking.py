"""The verb rank: score a list of architectures with proxies, rank them by the aggregate, and keep it in a CSV file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from archscout.errors import UserError
from archscout.files import write_whole
from archscout.naming import find, word

if TYPE_CHECKING:
    import pandas

    from archscout.devices.profile import Profile
    from archscout.probe import Batch
    from archscout.space import Arch, SearchSpace

LOG = ".log"  # what is appended to the name of the CSV file for the scores so far


def rank(
    space: Any = "nasbench201",
    archs: str | Path | Sequence[Any] = "all",
    *,
    proxies: Any = None,
    data: Any = None,
    limits: Any = None,
    device_profile: Any = None,
    batch_size: int = 64,
    images: str = "balanced",
    seeds: int = 1,
    seed: int = 0,
    device: str = "cpu",
    workers: int | str | None = None,
    data_root: str | None = None,
    size: int | None = None,
    out: str | Path | None = None,
    input_shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
) -> pandas.DataFrame:
    """Scores and ranks of many architectures: a table with `arch`, a column per proxy, `failures` and `rank`.

    archs: a file with one architecture per line, a sequence of texts or tuples, or "all" of the space.
    proxies: names, "all", or objects; what the table shows. `rank` is the aggregate of its own inputs whatever is shown
    (see archscout.aggregate): 1 is best, ties share the smallest number, and what failed comes last in one tie.
    data: as in search; without it the images are random noise of `input_shape` with random labels of `classes` classes.
    images: which images the proxies see, see archscout.batches.
    limits: like search's; a network over a limit is not scored: its failure names the limit, and it ranks last.
    device_profile: what predicts latency and energy, if they are limited: the name of a device that was added, a run
    folder, a JSON file of Profile.to_json, or a Profile; without it this machine is measured.
    seeds: initialisations and pairs of batches that each score averages; above 1 each proxy has a column `NAME_spread`,
    the standard deviation over them.
    out: a CSV file, written whole at the end. Scores go to `out`.log as they come (JSON lines): a stopped call goes on
    from there, and a later call with more proxies computes only those.

    Architectures with one canonical form are scored once. `failures` is JSON (name -> reason), empty if there is none.
    Costs a forward and a backward of the batch and some cheap passes per network with the default proxies.
    Raises UserError for an unknown name or an architecture that is not of the space.
    """
    import pandas as pd
    from scipy.stats import rankdata

    from archscout.aggregate import INPUTS, aggregate
    from archscout.costs.limits import parse_limits
    from archscout.proxies import DEFAULT, PROXIES
    from archscout.scoring import methods_of

    if isinstance(proxies, str):
        proxies = list(PROXIES) if proxies == "all" else [p.strip() for p in proxies.split(",") if p.strip()]
    shown = methods_of(tuple(proxies or DEFAULT))
    given = {word(p): p for p in (*(proxies or DEFAULT), *(name for name in INPUTS if name not in shown))}
    if batch_size < 2 or seeds < 1:
        raise UserError(f"wanted --batch-size 2 or more and --seeds 1 or more, got {batch_size} and {seeds}")
    bounds = parse_limits(limits)
    batches, input_shape, classes, source = seen_batches(
        data, batch_size, images, seeds, seed, data_root, size, input_shape, classes
    )
    ready = ready_space(space, input_shape, classes)
    texts = list(listed(ready, archs))
    keys = [ready.canonical(ready.parse(text)) for text in texts]
    settings = {
        "space": ready.name,
        "input_shape": list(input_shape),
        "classes": classes,
        "images": source,
        "batch_size": batch_size,
        "seed": seed,
        "seeds": seeds,
    }
    log = ScoreLog(None if out is None else Path(f"{out}{LOG}"), settings, ready)
    if out is not None and Path(out).exists() and not log.known:
        raise UserError(f"{out} exists, and {out}{LOG} with its scores does not; give another --out")
    with log:
        over = over_limits(ready, dict.fromkeys(keys), bounds, device_profile, device, seed)
        score_missing(
            log, ready, [k for k in dict.fromkeys(keys) if k not in over], given, batches, seeds, seed, device, workers
        )

        places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        values: list[Mapping[str, float]] = [{} if key in over else log.known[key]["scores"] for key in places]
        order = aggregate(values)
    # Twins are one member of the pool that is ranked, but each row counts where rows are numbered.
    ranks = rankdata([order[places[key]] for key in keys], method="min").astype(int)
    rows = []
    for text, key, place in zip(texts, keys, ranks.tolist(), strict=True):
        found = {"failures": {"limits": over[key]}} if key in over else log.known[key]
        scores = {} if key in over else found["scores"]
        failures = {name: why for name, why in found["failures"].items() if name in (*shown, "network", "limits")}
        row: dict[str, Any] = {"arch": text, **{name: scores.get(name) for name in shown}}
        if seeds > 1:
            row |= {f"{name}_spread": found.get("spread", {}).get(name) for name in shown}
        rows.append(row | {"failures": json.dumps(failures) if failures else "", "rank": place})
    spread = [f"{name}_spread" for name in shown] if seeds > 1 else []
    frame = pd.DataFrame(rows, columns=["arch", *shown, *spread, "failures", "rank"])
    for name in (*shown, *spread):
        frame[name] = pd.to_numeric(frame[name], errors="coerce")
    if out is not None:
        write_csv(Path(out), list(frame.columns), rows)
    return frame


def ready_space(space: Any, input_shape: tuple[int, int, int], classes: int) -> SearchSpace:
    """The space for some images, from its name, its factory, or a ready space of the same shape."""
    from archscout.space import SearchSpace, portable
    from archscout.spaces import SPACES

    factory = find("space", space, SPACES)
    return factory if isinstance(factory, SearchSpace) else portable(factory, (input_shape, classes))


def seen_batches(
    data: Any,
    batch_size: int,
    images: str,
    seeds: int,
    seed: int,
    data_root: str | None,
    size: int | None,
    input_shape: tuple[int, int, int],
    classes: int,
) -> tuple[list[Batch], tuple[int, int, int], int, str]:
    """Two batches for each of `seeds` repeats, the shape and classes of their images, and a text that names them."""
    from archscout.batches import draw
    from archscout.data import load

    if data is not None:
        loaded = load(data, size=size, seed=seed, data_root=data_root)
        batches = [draw(loaded, batch_size, images, 2 * seed + i) for i in range(2 * seeds)]
        return batches, loaded.shape, len(loaded.classes), f"{loaded.fingerprint} {images}"
    noise = torch.Generator().manual_seed(seed)
    drawn = [
        (torch.randn(batch_size, *input_shape, generator=noise), torch.randint(classes, (batch_size,), generator=noise))
        for _ in range(2 * seeds)
    ]
    return drawn, input_shape, classes, "noise"


def score_missing(
    log: ScoreLog,
    space: SearchSpace,
    keys: Sequence[Arch],
    given: Mapping[str, Any],
    batches: Sequence[Batch],
    seeds: int,
    seed: int,
    device: str,
    workers: int | str | None,
) -> None:
    """Score what the log lacks: afterwards it has, for every one of `keys` and every proxy, a score or a reason."""
    from archscout.config import cores
    from archscout.execute import executor
    from archscout.progress import progress
    from archscout.scoring import Scorer

    groups: dict[tuple[str, ...], list[Arch]] = {}
    for key in keys:
        if missing := tuple(name for name in given if not log.has(key, name)):
            groups.setdefault(missing, []).append(key)
    count = cores() if workers is None else int(workers) if str(workers).isdigit() else workers
    with progress("scoring", sum(map(len, groups.values()))) as bar:
        for names, todo in groups.items():
            scorer = Scorer(space, batches, tuple(given[name] for name in names), seed, seeds, device)
            with executor(count if device == "cpu" else 0, scorer, threads=1) as pool:
                for key, outcome in zip(todo, pool.map(todo), strict=True):
                    failed = {"scores": {}, "failures": dict.fromkeys(names, outcome.failure)}
                    log.add(key, {**(outcome.value or failed), "seconds": outcome.seconds})
                    bar.advance()


def over_limits(
    space: SearchSpace,
    keys: Any,
    limits: Mapping[str, float],
    device_profile: Any,
    device: str,
    seed: int,
) -> dict[Arch, str]:
    """Canonical architecture -> which limits it is over, for those that are."""
    from archscout.costs import COSTS
    from archscout.costs.limits import format_cost
    from archscout.progress import progress
    from archscout.propose import Costing

    if not limits:
        return {}
    predicted = any(COSTS[name].needs_profile for name in limits if name in COSTS)
    profile = profile_of(device_profile, space, device, seed) if predicted else None
    costing, found = Costing(space, limits, profile), {}
    keys = list(keys)
    with progress("costs", len(keys)) as bar:
        for key in keys:
            costs = costing(key)
            if costs["violation"] > 0:
                most = costing.upper(costs)
                found[key] = ", ".join(
                    f"{name} {format_cost(name, most[name])} is over {format_cost(name, limit)}"
                    for name, limit in limits.items()
                    if most[name] > limit
                )
            bar.advance()
    return found


def profile_of(source: Any, space: SearchSpace, device: str, seed: int) -> Profile:
    """The device profile: as given, found by name or file, or measured here and now."""
    from archscout.devices.profile import measure_profile
    from archscout.devices.shelf import find_profile
    from archscout.progress import progress

    if source is None:
        with progress("measuring this device", None):
            return measure_profile(space, device=device, seed=seed)
    return find_profile(source, space)


class ScoreLog:
    """The scores of canonical architectures as JSON lines: a first line with the settings, then one per scoring.

    known: canonical architecture -> {"scores", "failures", "spread", "seconds"}, all of its lines together.
    Lines are flushed one by one; a torn last line is cut off. Raises UserError for a log of other settings.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any], space: SearchSpace) -> None:
        self.known: dict[Arch, dict[str, Any]] = {}
        self._space, self._file = space, None
        if path is None:
            return
        found = read_lines(path)
        if found and found[0] != {"settings": settings}:
            before = found[0].get("settings", {}) if isinstance(found[0], dict) else {}
            other = [
                f"{name} was {before.get(name)!r}, is {v!r}" for name, v in settings.items() if before.get(name) != v
            ]
            raise UserError(f"{path} holds the scores of other settings ({'; '.join(other)}); give another --out")
        for line in found[1:]:
            self._take(space.parse(line["arch"]), line)
        try:
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror}); give another --out") from None
        if not found:
            self._write({"settings": dict(settings)})

    def __enter__(self) -> ScoreLog:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file:
            self._file.close()

    def has(self, key: Arch, name: str) -> bool:
        """Whether there is a score, or a reason why not."""
        line = self.known.get(key, {"scores": {}, "failures": {}})
        return name in line["scores"] or name in line["failures"]

    def add(self, key: Arch, answer: Mapping[str, Any]) -> None:
        """Write what a scoring found, and know it."""
        self._take(key, answer)
        self._write({"arch": self._space.format(key), **answer})

    def _take(self, key: Arch, answer: Mapping[str, Any]) -> None:
        line = self.known.setdefault(key, {"scores": {}, "failures": {}, "spread": {}, "seconds": 0.0})
        for part in ("scores", "failures", "spread"):
            line[part].update(answer.get(part, {}))
        line["seconds"] += answer.get("seconds", 0.0)

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()


def read_lines(path: Path) -> list[Any]:
    """The whole lines of a file of JSON lines, none if it does not exist; a torn last line is cut off the file."""
    if not path.exists():
        return []
    raw = path.read_bytes()
    if raw and not raw.endswith(b"\n"):
        raw = raw[: raw.rfind(b"\n") + 1]
        path.write_bytes(raw)
    try:
        return [json.loads(line) for line in raw.decode("utf-8").splitlines()]
    except ValueError:
        raise UserError(f"{path} is no log of scores; move it away, or give another --out") from None


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV file, whole or not at all; empty cells where a score is missing."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if value is None else value for name, value in row.items()} for row in rows)
    write_whole(path, text.getvalue())


def listed(space: SearchSpace, archs: str | Path | Sequence[Any]) -> Iterator[str]:
    """The texts of the asked architectures, each checked to be of the space; errors name the line."""
    if isinstance(archs, str) and archs == "all":
        if space.size > 1_000_000:
            raise UserError(f"space '{space.name}' has {space.size:.3g} architectures; give a file with --archs")
        yield from (space.format(arch) for arch in space)
        return
    if isinstance(archs, str | Path):
        try:
            lines = Path(archs).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UserError(
                f"cannot read {archs} ({error.strerror}); give a file with one architecture per line"
            ) from None
        except UnicodeDecodeError:
            raise UserError(f"{archs} is no text file; give one with one architecture per line") from None
        entries: Sequence[Any] = lines
    else:
        entries = archs
    count = 0
    for number, entry in enumerate(entries, 1):
        if isinstance(entry, str) and not entry.strip():
            continue
        try:
            arch = space.parse(entry) if isinstance(entry, str) else space.require(tuple(entry))
        except UserError as error:
            raise UserError(
                f"line {number} of {archs if isinstance(archs, str | Path) else 'archs'}: {error}"
            ) from None
        count += 1
        yield entry.strip() if isinstance(entry, str) else space.format(arch)
    if not count:
        raise UserError("no architectures given; write one per line")
