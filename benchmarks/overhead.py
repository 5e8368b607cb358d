"""What the machinery costs per candidate, from 100 to 100,000 of them, with costs and scores that cost nothing.

    python benchmarks/overhead.py             about thirty minutes; writes benchmarks/results/overhead.json
    python benchmarks/overhead.py --quick     under a minute, fewer repeats and candidates
    python benchmarks/overhead.py --minutes 5 --fresh begins anew and stops in time
    python benchmarks/overhead.py --minutes 5 goes on; what is done with this code is skipped

The zero-shot stage of a search as it is: proposals in generations, limits, the flushed log, the pool of trials, ranks
for the progress bar, tells. Only costs and scores are made up: five and ten numbers that differ between networks. The
space has twelve decisions of five options. Then the same run is read back: resumed from its log, and reported.

    ms_per_candidate, cpu_ms_per_candidate   wall-clock, and of the processor, which other programs disturb less
    resume_ms_per_candidate                  opening the log and going through all of it without a measurement (cpu)
    report_ms_per_candidate                  the page of the run, from the log to the written file (cpu)
    page_mb                                  size of that page, of which 4.9 MB is the library that draws
    kb_per_candidate, report_kb_per_candidate  the most memory that the search and the report hold beyond what they
                                             held before (tracemalloc, in repeats of its own, since it slows down)

A strategy that settles proposes nothing new after a while, and its search ends with fewer candidates than asked for:
all is divided by those that were scored, and what it spent on proposals that were no longer new counts. Every figure
has `asked`, `scored` (the mean of the repeats) and `scored_least`, and a `note` where they differ: that the cell of
so many candidates is not one. Every figure also has the `code` (see results_file.code_of_program), the versions and the
processor it was measured with; going on drops those of others, and says so on stderr.

A search holds some 0.1 MB and a page 40 MB (and half a second) whatever the run. Memory per candidate, and the time of
the page, are therefore the difference to a run with as few as 16, divided by the candidates.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from results_file import code_of_program, figure, machine, read, versions, write
from torch import nn

from archscout.execute import Outcome
from archscout.facts import facts_of
from archscout.page import write_report
from archscout.propose import Costing, propose_and_score
from archscout.run import Run
from archscout.space import Arch, SearchSpace
from archscout.strategies import STRATEGIES, Goal

NAMES = tuple(f"proxy{i}" for i in range(10))
COSTS = {"params": 1.07e6, "macs": 153.3e6, "flops": 161.2e6, "memory": 5.1e6, "latency": 4.87}
GOAL = Goal(scores=dict.fromkeys(NAMES, "max"), costs=("params",))
CONFIG = 'data = "digits"\nspace = "toy"\n'
CONSIDERED = ("random", "evolution", "nsga2", "prune", "reinforce")
KNOWN = "42 to 720 (engines that persist each trial)"


def toy() -> SearchSpace:
    operations = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    return SearchSpace(
        name="toy",
        input_shape=(3, 32, 32),
        classes=10,
        choices={f"edge{i}": operations for i in range(12)},
        build_from=lambda picks: nn.Identity(),
    )


class Free(Costing):
    """Costs that differ between architectures and take no time to compute."""

    def _computed(self, key: Arch) -> dict[str, float]:
        return {**COSTS, "params": 1e4 * sum(key) + key[0]}


class Pool:
    """Scores that differ between architectures and take no time to compute."""

    def map(self, items: Iterable[Arch], timeout: float | None = None) -> Iterator[Outcome]:
        for arch in items:
            scores = {name: sum(arch[: i + 1]) / 7 + hash((arch, i)) % 997 / 997 for i, name in enumerate(NAMES)}
            yield Outcome({"scores": scores, "failures": {}}, None, 0.0123)


def search(strategy: str, candidates: int, folder: Path, seed: int) -> tuple[Any, ...]:
    """A search in a new folder, or what is left of it in an old one; returns what a run holds at its end."""
    run = Run.open(folder) if folder.exists() else Run.create(folder, CONFIG)
    if "goal" not in run:
        run.record("goal", {"directions": dict(GOAL.scores), "cost_axis": "params"})
    costing = Free(toy(), {"params": 3.6e5})
    proposer = STRATEGIES[strategy](costing.space, seed=seed, goal=GOAL)
    trials = propose_and_score(run, costing, proposer, Pool(), candidates, directions=GOAL.scores)
    return run, costing, proposer, trials


def report(folder: Path) -> Any:
    return write_report(facts_of(folder), folder.parent / "report.html")


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall-clock and processor milliseconds, and the result."""
    gc.collect()
    wall, processor = time.perf_counter(), time.process_time()
    found = work()
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - processor) * 1e3, found


def most_held(work: Callable[[], Any]) -> tuple[float, Any]:
    """The most kilobytes beyond what was held before, and the result."""
    gc.collect()
    tracemalloc.start()
    found = work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / 1e3, found


def scored(kept: tuple[Any, ...], candidates: int) -> int:
    """How many candidates a search has scored, of those that it was to score."""
    return min(candidates, sum(bool(trial.get("scores")) for trial in kept[3]))


def milliseconds(strategy: str, candidates: int, seed: int) -> tuple[float, float, int]:
    with tempfile.TemporaryDirectory() as folder:
        wall, processor, kept = timed(partial(search, strategy, candidates, Path(folder) / "run", seed))
        kept[0].close()
        count = scored(kept, candidates)
        return wall / count, processor / count, count


def kilobytes(strategy: str, candidates: int, seed: int) -> tuple[float, int]:
    held, count = {}, 0
    for asked in (16, candidates):
        with tempfile.TemporaryDirectory() as folder:
            most, kept = most_held(partial(search, strategy, asked, Path(folder) / "run", seed))
            kept[0].close()
            held[asked], count = most, scored(kept, candidates)
    return (held[candidates] - held[16]) / count, count


def read_back(strategy: str, candidates: int, seed: int) -> tuple[float, float, float, int]:
    with tempfile.TemporaryDirectory() as folder:
        runs = {count: Path(folder) / f"run-{count}" for count in (16, candidates)}
        for count, place in runs.items():
            search(strategy, count, place, seed)[0].close()
        _, resumed, kept = timed(partial(search, strategy, candidates, runs[candidates], seed))
        kept[0].close()
        made = scored(kept, candidates)
        del kept
        paged = {count: timed(partial(report, place))[1] for count, place in runs.items()}
        size = (Path(folder) / "report.html").stat().st_size / 1e6
        return resumed / made, (paged[candidates] - paged[16]) / made, size, made


def kilobytes_of_page(strategy: str, candidates: int, seed: int) -> tuple[float, int]:
    with tempfile.TemporaryDirectory() as folder:
        held, made = {}, 0
        for count in (16, candidates):
            kept = search(strategy, count, Path(folder) / f"run-{count}", seed)
            kept[0].close()
            made = scored(kept, candidates)
            del kept
            held[count] = most_held(partial(report, Path(folder) / f"run-{count}"))[0]
        return (held[candidates] - held[16]) / made, made


def measured_with() -> dict[str, str]:
    """What a figure depends on beside its repeats: the package's code, the versions of what it uses, the processor."""
    used = {name: version for name, version in versions().items() if name != "archscout"}  # that is the code
    return {
        "code": code_of_program(),
        "with": ", ".join(f"{name} {version}" for name, version in used.items()),
        "processor": machine()["processor"],
    }


def of_now(figures: dict[str, dict[str, Any]], now: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The figures that were measured with what is there `now`; says on stderr which others are dropped, and why.

    figures: name -> figure.  now: see `measured_with`. A figure that does not say what it was measured with is dropped.
    """
    kept: dict[str, dict[str, Any]] = {}
    dropped: dict[str, int] = {}
    for name, found in figures.items():
        other = [key for key, value in now.items() if found.get(key) != value]
        if other:
            reason = "no code named" if "code" not in found else f"another {' and another '.join(other)}"
            dropped[reason] = dropped.get(reason, 0) + 1
        else:
            kept[name] = found
    for reason, count in dropped.items():
        print(f"dropped and to be measured again: {count} of the figures ({reason})", file=sys.stderr)
    return kept


def how_many(asked: int, made: Sequence[int]) -> dict[str, Any]:
    """How many candidates the repeats were asked for and have scored, with a note where these are fewer.

    made: of each repeat.
    """
    found: dict[str, Any] = {"asked": asked, "scored": sum(made) / len(made), "scored_least": min(made)}
    if min(made) < asked:
        found["note"] = (
            f"no cell of {asked:,} candidates: the searches found nothing new after {found['scored']:,.0f} on average "
            f"(from {min(made):,} to {max(made):,}), by which all is divided"
        )
    return found


def warm_up() -> None:
    """Imports, caches and compiled templates."""
    for strategy in CONSIDERED:
        milliseconds(strategy, 200, 0)
    read_back("evolution", 32, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under a minute; writes to a file of its own")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes; what is done is skipped next time")
    parser.add_argument("--fresh", action="store_true", help="with --minutes: measure again what the file holds")
    parser.add_argument("--out", type=Path, help="results file")
    options = parser.parse_args()
    name = "overhead_quick.json" if options.quick else "overhead.json"
    out = options.out or Path(__file__).parent / "results" / name
    repeated = {100: (2, 1), 300: (1, 1)} if options.quick else {100: (7, 3), 1_000: (7, 3), 10_000: (7, 3)}
    repeated |= {} if options.quick else {100_000: (3, 2)}  # of time, and of memory, which hardly varies
    end = time.monotonic() + options.minutes * 60 if options.minutes else float("inf")
    command = "python benchmarks/overhead.py" + (" --quick" if options.quick else "")
    figures = read(out) if options.minutes and not options.fresh else {}
    figures.pop("ms_per_candidate", None)
    now = measured_with()
    figures = of_now(figures, now)
    warm_up()
    kinds: tuple[tuple[tuple[str, ...], Callable[..., tuple[float, ...]], tuple[str, ...], float | None], ...] = (
        (("ms_per_candidate", "cpu_ms_per_candidate"), milliseconds, CONSIDERED, 1.0),
        (("resume_ms_per_candidate", "report_ms_per_candidate", "page_mb"), read_back, ("evolution",), 1.0),
        (("kb_per_candidate",), kilobytes, CONSIDERED, 2.0),
        (("report_kb_per_candidate",), kilobytes_of_page, ("evolution",), 2.0),
    )
    for candidates, (of_time, of_memory) in repeated.items():
        for names, measure, strategies, reach in kinds:
            for strategy in strategies:
                cells = [f"{each}/{strategy}/{candidates}" for each in names]
                if all(cell in figures for cell in cells) or time.monotonic() > end:
                    continue
                repeats = of_memory if "kb" in names[0] else of_time
                *columns, made = zip(*(measure(strategy, candidates, seed) for seed in range(repeats)), strict=True)
                noted = {**how_many(candidates, [int(count) for count in made]), **now}
                noted |= {"date": datetime.now(UTC).date().isoformat(), "load": machine()["load"]}
                for each, cell, column in zip(names, cells, columns, strict=True):
                    unit = "MB" if each == "page_mb" else "kB" if "kb" in each else "ms"
                    known, wanted = (KNOWN if each == "ms_per_candidate" else None), (reach if unit != "MB" else None)
                    figures[cell] = found = figure(cell, column, unit, known=known, reach=wanted, **noted)
                    low, high = found["low"], found["high"]
                    few = f", {found['scored']:,.0f} scored" if "note" in found else ""
                    print(f"{cell:44} {found['value']:8.3f} {unit} ({low:.3f} to {high:.3f}){few}", flush=True)
                done = [f"ms_per_candidate/evolution/{count}" for count in repeated]
                headline = next((figures[cell] for cell in reversed(done) if cell in figures), None)
                first = [{**headline, "name": "ms_per_candidate"}] if headline else []
                write(out, first + list(figures.values()), command)


if __name__ == "__main__":
    main()
