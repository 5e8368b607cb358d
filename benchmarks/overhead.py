"""What the machinery costs per candidate: ask, tell and the flushed log, with an objective that costs nothing.

    python benchmarks/overhead.py             about five minutes; writes benchmarks/results/overhead.json
    python benchmarks/overhead.py --quick     under 30 seconds, fewer repeats and candidates
    python benchmarks/overhead.py --minutes 5 stops in time; the next call skips what is done

The space has the size of NAS-Bench-201 (6 decisions, 5 options). Each candidate has ten scores and five costs, and
proposals come in generations of the size a search uses. Times are wall-clock (ms_per_candidate) and of the processor
(cpu_ms_per_candidate), which other programs on the machine disturb less. Memory is what Python holds more after the
search than before (tracemalloc, in repeats of its own, since it slows down), divided by the candidates: the strategy
and the run's index.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import tracemalloc
from pathlib import Path

from results_file import figure, read, write
from torch import nn

from archscout.propose import GENERATION
from archscout.run import Run
from archscout.space import Arch, SearchSpace
from archscout.strategies import STRATEGIES, Goal

SCORES = {f"proxy{i}": 0.1 + i / 7 for i in range(10)}
COSTS = {"params": 1.07e6, "macs": 153.3e6, "flops": 161.2e6, "memory": 5.1e6, "latency": 4.87, "violation": 0.0}
GOAL = Goal(scores=dict.fromkeys(SCORES, "max"), costs=("latency",))


def toy() -> SearchSpace:
    operations = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    return SearchSpace(
        name="toy201",
        input_shape=(3, 32, 32),
        classes=10,
        choices={f"edge{i}": operations for i in range(6)},
        build_from=lambda picks: nn.Identity(),
    )


def search(strategy_name: str, candidates: int, folder: Path, seed: int) -> tuple[Run, object]:
    """A search that logs and tells every candidate, scored or not before; returns what it must keep."""
    space = toy()
    strategy = STRATEGIES[strategy_name](space, seed=seed, goal=GOAL)
    run = Run.create(folder, "")
    for start in range(0, candidates, GENERATION):
        archs: list[Arch] = strategy.ask(min(GENERATION, candidates - start))
        values = []
        for place, arch in enumerate(archs):
            key = f"trial/{space.name}/{start + place}/{space.format(arch)}"
            values.append(run.once(key, lambda: {**COSTS, **SCORES}))
        strategy.tell(archs, values)
    return run, strategy


def milliseconds(strategy_name: str, candidates: int, seed: int) -> tuple[float, float]:
    """Wall-clock and processor milliseconds per candidate."""
    with tempfile.TemporaryDirectory() as folder:
        wall, processor = time.perf_counter(), time.process_time()
        run, _ = search(strategy_name, candidates, Path(folder) / "run", seed)
        run.close()
        spent = time.perf_counter() - wall, time.process_time() - processor
        return spent[0] * 1e3 / candidates, spent[1] * 1e3 / candidates


def kilobytes(strategy_name: str, candidates: int, seed: int) -> tuple[float]:
    with tempfile.TemporaryDirectory() as folder:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        kept = search(strategy_name, candidates, Path(folder) / "run", seed)
        held = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        kept[0].close()
        return (held / candidates / 1e3,)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 30 seconds; writes to a file of its own")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes; what is done is skipped next time")
    parser.add_argument("--out", type=Path, help="results file")
    options = parser.parse_args()
    name = "overhead_quick.json" if options.quick else "overhead.json"
    out = options.out or Path(__file__).parent / "results" / name
    counts, repeats = ((500,), 5) if options.quick else ((1_000, 10_000), 7)
    end = time.monotonic() + options.minutes * 60 if options.minutes else float("inf")
    command = "python benchmarks/overhead.py" + (" --quick" if options.quick else "")
    figures = read(out) if options.minutes else {}
    milliseconds("nsga2", 200, 0)  # imports
    known = "42 to 720 (engines that persist each trial)"
    kinds = (
        (("ms_per_candidate", "cpu_ms_per_candidate"), milliseconds, "ms", known, 1.0),
        (("kb_per_candidate",), kilobytes, "kB", None, 2.0),
    )
    for names, measure, unit, known, reach in kinds:
        for candidates in counts:
            for strategy in ("random", "evolution", "nsga2"):
                cells = [f"{each}/{strategy}/{candidates}" for each in names]
                if all(cell in figures for cell in cells) or time.monotonic() > end:
                    continue
                samples = [measure(strategy, candidates, seed) for seed in range(repeats)]
                for cell, column in zip(cells, zip(*samples, strict=True), strict=True):
                    figures[cell] = figure(cell, column, unit, known=known, reach=reach)
                    value, low, high = (figures[cell][key] for key in ("value", "low", "high"))
                    print(f"{cell:36} {value:8.3f} {unit} ({low:.3f} to {high:.3f})", flush=True)
                headline = figures.get(f"ms_per_candidate/evolution/{counts[-1]}")
                first = [{**headline, "name": "ms_per_candidate"}] if headline else []
                write(out, first + [f for f in figures.values() if f["name"] != "ms_per_candidate"], command)


if __name__ == "__main__":
    main()
