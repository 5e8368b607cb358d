"""The verb rank: score a list of architectures with proxies, and keep what is done in a CSV file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from archscout.errors import UserError
from archscout.naming import find

if TYPE_CHECKING:
    import pandas

    from archscout.space import Arch, SearchSpace

CHUNK = 64  # architectures between two flushes of the CSV


def rank(
    space: Any = "nasbench201",
    archs: str | Path | Sequence[Any] = "all",
    *,
    proxies: Any = None,
    data: Any = None,
    batch_size: int = 64,
    seed: int = 0,
    device: str = "cpu",
    workers: int | str | None = None,
    data_root: str | None = None,
    size: int | None = None,
    out: str | Path | None = None,
    input_shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
) -> pandas.DataFrame:
    """Scores of many architectures: a table with `arch`, a column per proxy, and `failures` (JSON: proxy -> reason).

    archs: a file with one architecture per line, a sequence of texts or tuples, or "all" of the space.  data: as in
    search; without it the batch is random noise of `input_shape` with random labels of `classes` classes.  out: a CSV
    file, flushed as it grows; if it exists, what it holds is kept and only the rest is scored. Architectures with one
    canonical form are scored once. Raises UserError for an unknown name or an architecture that is not of the space.
    """
    import pandas as pd

    from archscout.config import cores
    from archscout.data import load
    from archscout.execute import executor
    from archscout.progress import progress
    from archscout.proxies import DEFAULT, PROXIES
    from archscout.scoring import Scorer, as_images, methods_of
    from archscout.space import SearchSpace, portable
    from archscout.spaces import SPACES

    if isinstance(proxies, str):
        proxies = list(PROXIES) if proxies == "all" else [p.strip() for p in proxies.split(",") if p.strip()]
    given = tuple(proxies or DEFAULT)
    named = methods_of(given)
    if batch_size < 2:
        raise UserError(f"a batch of {batch_size} is too small; --batch-size takes 2 or more")
    factory = find("space", space, SPACES)
    if data is not None:
        images = load(data, size=size, seed=seed, data_root=data_root)
        input_shape, classes = images.shape, len(images.classes)
        part = images.part("train")
        drawn = [part.balanced_batch(min(batch_size, len(part)), 2 * seed + i) for i in (0, 1)]
        batches = [(as_images(x, images.mean, images.std), y) for _, x, y in drawn]
    else:
        noise = torch.Generator().manual_seed(seed)
        batches = [
            (
                torch.randn(batch_size, *input_shape, generator=noise),
                torch.randint(classes, (batch_size,), generator=noise),
            )
            for _ in (0, 1)
        ]
    ready: SearchSpace = factory if isinstance(factory, SearchSpace) else portable(factory, (input_shape, classes))
    texts = list(listed(ready, archs))
    columns = ["arch", *named, "failures"]
    done = read_done(Path(out), columns) if out is not None and Path(out).exists() else {}

    by_canonical: dict[Arch, dict[str, str]] = {}
    for text, row in done.items():
        by_canonical.setdefault(ready.canonical(ready.parse(text)), row)
    todo = [text for text in dict.fromkeys(texts) if text not in done]
    fresh = list(dict.fromkeys(c for t in todo if (c := ready.canonical(ready.parse(t))) not in by_canonical))

    rows: list[dict[str, str]] = []
    with ExitStack() as stack:
        file = None
        if out is not None:
            file = stack.enter_context(open(out, "a" if done else "w", newline="", encoding="utf-8"))
        writer = csv.DictWriter(file, columns) if file else None
        if writer and not done:
            writer.writeheader()
        pending = iter(todo)
        waiting: str | None = next(pending, None)

        def flush_known() -> None:
            nonlocal waiting
            while waiting is not None and (row := by_canonical.get(ready.canonical(ready.parse(waiting)))) is not None:
                rows.append({**row, "arch": waiting})
                if writer:
                    writer.writerow(rows[-1])
                waiting = next(pending, None)
            if file:
                file.flush()

        flush_known()
        if fresh:
            scorer = Scorer(ready, batches=batches, proxies=given, seed=seed)
            count = cores() if workers is None else int(workers) if str(workers).isdigit() else workers
            with (
                executor(count if device == "cpu" else 0, scorer, threads=1) as pool,
                progress("scoring", len(fresh)) as bar,
            ):
                for number, (arch, outcome) in enumerate(zip(fresh, pool.map(fresh), strict=True), 1):
                    answer = outcome.value or {"scores": {}, "failures": {"network": outcome.failure}}
                    by_canonical[arch] = {
                        **{name: repr(v) for name, v in answer["scores"].items()},
                        "failures": json.dumps(answer["failures"]) if answer["failures"] else "",
                    }
                    bar.advance()
                    if number % CHUNK == 0:
                        flush_known()
            flush_known()
    table = {**{text: {**row, "arch": text} for text, row in done.items()}, **{row["arch"]: row for row in rows}}
    frame = pd.DataFrame([table[text] for text in texts], columns=columns)
    for name in named:
        frame[name] = pd.to_numeric(frame[name], errors="coerce")
    frame["failures"] = frame["failures"].fillna("")
    return frame


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


def read_done(path: Path, columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """The rows that a CSV already holds, by architecture; a torn last line is cut off the file."""
    raw = path.read_bytes()
    if raw and not raw.endswith(b"\n"):
        raw = raw[: raw.rfind(b"\n") + 1]
        path.write_bytes(raw)
    lines = list(csv.reader(raw.decode("utf-8", errors="replace").splitlines()))
    if not lines:
        return {}
    if lines[0] != list(columns):
        raise UserError(f"{path} holds the columns {lines[0]}, not {list(columns)}; give another --out")
    return {row[0]: dict(zip(columns, row, strict=True)) for row in lines[1:] if len(row) == len(columns)}
