"""How good the ranking is where every network's trained accuracy is known: NAS-Bench-201 and NAS-Bench-Macro.

    python benchmarks/ranking.py --data FOLDER [--minutes 60] [--seeds 10] [--quick]

FOLDER holds images/cifar10_lossless.zip and the tables nas/*.parquet. Five stages, each in pieces that are kept in
`--work` and skipped when done:

1. cells: every canonical cell of NAS-Bench-201 (6,040) is scored once by all proxies of SHOWN, on CIFAR-10 images.
   What is done is also written to results/ranking_scores.parquet.
2. macro: 1,000 random networks of NAS-Bench-Macro are scored by the inputs of the aggregate.
3. reference: 500 of the 9,445 cells with published scores (NAS-Bench-Suite-Zero), stratified by the published synflow,
   are scored on 64 test images, as there; Spearman's rho with the published scores, per proxy.
4. sample: the first 250 cells are scored by all proxies, for the cards (results/ranking_sample.parquet).
5. picks: for each of `--seeds` seeds (weights and images) a search of its own, ageing evolution over 400 scored cells,
   chooses one cell by the aggregate.

The form of the aggregate was compared on CIFAR-10. CIFAR-100 and NAS-Bench-Macro decided nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import results_file
from main_job import cifar10

from archscout.aggregate import INPUTS, rank_rows
from archscout.batches import draw
from archscout.bench import Table, evaluate, figures_of, load_table
from archscout.data import load
from archscout.execute import executor
from archscout.propose import Costing, propose_and_score
from archscout.proxies import PROXIES
from archscout.ranking import rank
from archscout.run import Run
from archscout.scoring import Scorer
from archscout.space import SearchSpace, portable
from archscout.spaces import SPACES
from archscout.strategies import STRATEGIES
from archscout.strategies.strategy import Goal

HERE = Path(__file__).resolve().parent
SHOWN = (
    "params", "macs", "flops", "layers", "synflow", "naswot", "jacob_cov", "zen", "expressivity", "progressivity",
    "trainability", "variance_growth", "short_path",
)  # fmt: skip
SAMPLE = 250  # cells that all proxies score
PIECE = 250  # architectures of one call of rank
REFERENCE = {  # ours -> the name of the published score
    "synflow": "synflow", "naswot": "nwot", "jacob_cov": "jacov", "snip": "snip", "grad_norm": "grad_norm",
    "fisher": "fisher", "l2_norm": "l2_norm", "params": "params", "flops": "flops",
}  # fmt: skip
CANDIDATES = 400  # of one search for a pick
SETTINGS = {"batch_size": 64, "images": "balanced", "seed": 0, "seeds": 1, "data": "CIFAR-10, training part"}
KNOWN = {
    "tau_c10": ".776, AZ-NAS with SynFlow (published)",
    "tau_c100": ".758, AZ-NAS with SynFlow (published)",
    "top5_c10": ".39",
    "top5_c100": ".39",
    "regret_energy_c10": ".46, log-rank of five proxies",
    "regret_energy_c100": "1.19, log-rank of five proxies",
    "hv_latency_c10": ".97, synflow",
    "hv_latency_c100": ".96, synflow",
    "pick_c10": "94.00 (one network), 94.15 with a supernet",
    "pick_c100": "71.99 (one network), 72.77 with a supernet",
}
REACH = {
    "tau_c10": 0.80,
    "tau_c100": 0.78,
    "top5_c10": 0.50,
    "top5_c100": 0.45,
    "regret_energy_c10": 0.30,
    "regret_energy_c100": 0.80,
    "worst_pick": 3.0,
    "hv_latency_c10": 0.985,
    "hv_latency_c100": 0.985,
    "pick_c10": 94.2,
    "pick_c100": 72.8,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ARCHSCOUT_DATA"), help="folder of real data")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no new piece after this many minutes")
    parser.add_argument("--seeds", type=int, default=10, help="searches for the picks")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, default=HERE / "pieces" / "ranking", help="where pieces are kept")
    parser.add_argument("--quick", action="store_true", help="a few cells on noise; a test of the script")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "ranking.json")
    args = parser.parse_args()
    ends = time.monotonic() + 60 * args.minutes
    if args.quick:
        quick(args.out)
        return
    if not args.data or not (args.data / "nas" / "nb201_accuracy.parquet").exists():
        raise SystemExit("the tables are absent: give --data FOLDER, which holds nas/ and images/")
    args.work.mkdir(parents=True, exist_ok=True)
    images = args.work / "cifar10.npz"
    if not images.exists():
        cifar10(args.work, args.data)

    kept = HERE / "results" / "ranking_scores.parquet"
    cells = score_pieces(
        canonical_texts("nasbench201"), "nasbench201", SHOWN, images, args.work, args.workers, ends, kept
    )
    write_scores(cells, kept)
    macro = score_pieces(canonical_texts("macro")[:1000], "macro", INPUTS, images, args.work, args.workers, ends)
    reference = reference_figures(args.data, args.work, args.workers, ends)
    everything = [name for name in PROXIES if name not in ("dss",)]  # attention alone has that
    sample = score_pieces(
        canonical_texts("nasbench201")[:SAMPLE], "nasbench201", everything, images, args.work, args.workers, ends,
        name="sample",
    )  # fmt: skip
    if len(sample):
        write_scores(sample, HERE / "results" / "ranking_sample.parquet")
    picked = {seed: pick(seed, images, args.work, args.workers, ends) for seed in range(args.seeds)}
    table = load_table(args.data / "nas" / "nb201_accuracy.parquet", [args.data / "nas" / "nb201_hwnasbench.parquet"])
    macro_table = load_table(args.data / "nas" / "nas_bench_macro_cifar10.parquet") if len(macro) else None
    found = figures(cells, table, macro, macro_table, {s: text for s, text in picked.items() if text})
    results_file.write(
        args.out,
        found + reference,
        command="python benchmarks/ranking.py --data FOLDER",
        settings={**SETTINGS, "inputs": list(INPUTS), "cells": len(cells), "macro": len(macro)},
        picks=picked,
    )


def canonical_texts(space: str) -> list[str]:
    """One text for each canonical architecture, in an order drawn with seed 0: any first part is a random sample."""
    made = SPACES[space]((3, 32, 32), 10)
    texts = [made.format(arch) for arch in dict.fromkeys(made.canonical(arch) for arch in made)]
    np.random.default_rng(0).shuffle(texts)
    return texts


def score_pieces(
    texts: list[str],
    space: str,
    proxies: Any,
    images: Path,
    work: Path,
    workers: int,
    ends: float,
    kept: Path | None = None,
    name: str | None = None,
) -> pd.DataFrame:
    """The scores of the first texts, as many as are done by `ends`: arch and a column per proxy.

    `kept`: scores of an earlier run, which are taken over where the folder `work` has none.
    """
    out = work / f"{name or space}.csv"
    log = Path(f"{out}.log")
    options: dict[str, Any] = {"proxies": list(proxies), "data": images, "out": out, "batch_size": 64}
    if not log.exists() and kept is not None and kept.exists():
        rank(space, texts[:1], workers=0, **options)
        with open(log, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in kept_lines(kept))
    done = 0
    while done < len(texts):
        there = log.exists() and log.read_text().count("\n") > min(done + PIECE, len(texts))
        if time.monotonic() > ends and not there:
            break
        done = min(done + PIECE, len(texts))
        if not there:
            rank(space, texts[:done], workers=workers, **options)
    if not done:
        return pd.DataFrame(columns=["arch", *proxies])
    return rank(space, texts[:done], workers=0, **options)[["arch", *proxies]]


def kept_lines(path: Path) -> list[dict[str, Any]]:
    """The scores of a file of `write_scores` as lines of the log of rank."""
    frame, lines = pd.read_parquet(path), []
    for row in frame.to_dict("records"):
        arch = row.pop("arch")
        scores = {name: float(value) for name, value in row.items() if np.isfinite(value)}
        failures = {name: "no score; the reason was not kept" for name in row if name not in scores}
        lines.append({"arch": arch, "scores": scores, "failures": failures, "seconds": 0.0})
    return lines


def write_scores(frame: pd.DataFrame, path: Path) -> None:
    """The scores as one compact file, with their settings in its metadata."""
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.Table.from_pandas(
        frame.astype({c: np.float32 for c in frame.columns if c != "arch"}), preserve_index=False
    )
    about = {b"archscout": json.dumps({**SETTINGS, "versions": results_file.versions()}).encode()}
    parquet.write_table(
        table.replace_schema_metadata({**(table.schema.metadata or {}), **about}), path, compression="zstd"
    )


def reference_figures(data: Path, work: Path, workers: int, ends: float) -> list[dict[str, Any]]:
    """Agreement with published scores of 500 cells: rho per proxy, with a bootstrap interval over the cells.

    The published networks were initialised otherwise, and each score is of one draw of the weights.
    """
    from scipy.stats import spearmanr

    table = pd.read_parquet(data / "nas" / "nb201_reference_proxies.parquet").sort_values("cifar10__synflow")
    strata = np.array_split(np.arange(1, len(table)), 500)  # the first is the cell of nothing, which has no scores
    draw = np.random.default_rng(0)
    rows = table.iloc[[int(draw.choice(stratum)) for stratum in strata]]
    images = work / "reference.npz"
    if not images.exists():
        with np.load(work / "cifar10.npz", allow_pickle=False) as stored:
            np.savez(images, images=stored["X_test"][:64], labels=stored["y_test"][:64])
    if time.monotonic() > ends and not (work / "reference.json").exists():
        return []
    with np.load(images, allow_pickle=False) as stored:
        pixels = torch.from_numpy(stored["images"]).permute(0, 3, 1, 2).float() / 255
        labels = torch.from_numpy(stored["labels"]).long()
    pixels = (pixels - pixels.mean((0, 2, 3), keepdim=True)) / pixels.std((0, 2, 3), keepdim=True)
    space: SearchSpace = portable(SPACES["nasbench201"], ((3, 32, 32), 10))
    kept = work / "reference.json"
    scores: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.exists() else {}
    missing = [text for text in rows["arch_str"] if text not in scores]
    with executor(workers, Scorer(space, [(pixels, labels)], tuple(REFERENCE))) as pool:
        for start in range(0, len(missing), 50):
            some = missing[start : start + 50]
            for text, outcome in zip(some, pool.map([space.parse(text) for text in some]), strict=True):
                scores[text] = outcome.value["scores"] if outcome.value else {}
            kept.write_text(json.dumps(scores))
    found = []
    for mine, theirs in REFERENCE.items():
        ours = np.array([scores[text].get(mine, np.nan) for text in rows["arch_str"]])
        known = rows[f"cifar10__{theirs}"].to_numpy(float)
        both = np.isfinite(ours) & np.isfinite(known)
        ours, known = ours[both], known[both]
        draws = [draw.integers(0, len(ours), len(ours)) for _ in range(500)]
        spread = [float(spearmanr(ours[at], known[at]).statistic) for at in draws]
        found.append(
            {
                "name": f"reference_{mine}", "value": float(spearmanr(ours, known).statistic), "unit": "Spearman's rho",
                "low": float(np.percentile(spread, 2.5)), "high": float(np.percentile(spread, 97.5)), "n": len(ours),
                "known": None, "reach": {"synflow": 0.98, "params": 1.0, "flops": 1.0}.get(mine, 0.95),
            }
        )  # fmt: skip
    return found


def pick(seed: int, images: Path, work: Path, workers: int, ends: float) -> str | None:
    """The cell that a search with weights and images of its own seed chooses; None if the time is up."""
    folder = work / f"pick-{seed}"
    if not (folder / "trials.jsonl").exists() and time.monotonic() > ends:
        return None
    data = load(images)
    space: SearchSpace = portable(SPACES["nasbench201"], (data.shape, len(data.classes)))
    scorer = Scorer(space, [draw(data, 64, "balanced", 2 * seed + i) for i in (0, 1)], INPUTS, seed=seed)
    directions = {name: PROXIES[name].direction for name in INPUTS}
    strategy = STRATEGIES["evolution"](space, seed=seed, goal=Goal(scores=directions))
    with Run.open(folder) if folder.exists() else Run.create(folder, f"seed = {seed}\n") as run:
        if "pick" not in run:
            with executor(workers, scorer) as pool:
                trials = propose_and_score(run, Costing(space, {}), strategy, pool, CANDIDATES, directions=directions)
            scored = [trial for trial in trials if trial.get("scores")]
            table = np.array([[t["scores"].get(name, np.nan) for name in INPUTS] for t in scored])
            run.record("pick", scored[int(np.argmin(rank_rows(table, directions)))]["arch"])
        return str(run.recall("pick"))


def by_pool(columns: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Rows of the table -> their ranks by the aggregate within those rows, each canonical network counted once."""
    directions = {name: PROXIES[name].direction for name in INPUTS}

    def ranked(rows: np.ndarray) -> np.ndarray:
        distinct, back = np.unique(np.nan_to_num(columns[rows], nan=np.inf), axis=0, return_inverse=True)
        ranks = rank_rows(np.where(np.isinf(distinct), np.nan, distinct), directions)
        return ranks[back.ravel()].astype(float)

    return ranked


def aligned(frame: pd.DataFrame, table: Table) -> np.ndarray:
    """(n, inputs) scores of every row of the table, NaN where there is none."""
    return np.column_stack(
        [table.align(dict(zip(frame["arch"], frame[name].astype(float), strict=True))) for name in INPUTS]
    )


def scored_part(table: Table, frame: pd.DataFrame) -> Table:
    """The table with the accuracies of those networks alone that were scored, or tried, so far."""
    tried = np.isfinite(table.align(dict.fromkeys(frame["arch"], 1.0)))
    known = {name: np.where(tried, values, np.nan) for name, values in table.accuracies.items()}
    return replace(table, accuracies=known)


def figures(
    cells: pd.DataFrame,
    table: Table,
    macro: pd.DataFrame,
    macro_table: Table | None,
    picked: dict[int, str],
) -> list[dict[str, Any]]:
    """The figures of results/ranking.json."""
    options: dict[str, Any] = {"direction": "min", "known": KNOWN, "reach": REACH}
    columns = aligned(cells, table)
    table = scored_part(table, cells)
    found = figures_of(by_pool(columns), table, **options)
    if macro_table is not None:
        columns, part = aligned(macro, macro_table), scored_part(macro_table, macro)
        tau = evaluate(by_pool(columns), part, direction="min", pools=["all"])["all"]["all"]
        beside = {
            name: evaluate(part.costs[name], part, pools=["all"], resamples=0)["all"]["all"]["kendall"]
            for name in ("params", "macs")
        }
        found.append(
            {
                "name": "tau_macro", "unit": "Kendall's tau-b", **tau["kendall"], "n": int(tau["n"]), "known": None,
                "reach": None, "beside": beside, "interval": "95 %, 200 bootstrap samples of the networks",
            }
        )  # fmt: skip
    for short, name in (("c10", "cifar10"), ("c100", "cifar100")):
        if picked:
            place = {text: i for i, text in enumerate(table.archs)}
            got = [float(table.accuracies[name][place[text]]) for text in picked.values()]
            place_of = next(i for i, figure in enumerate(found) if figure["name"] == f"pick_{short}")
            exhaustive = found[place_of]["value"]
            found[place_of] = results_file.figure(
                f"pick_{short}", got, "% accuracy", known=KNOWN[f"pick_{short}"], reach=REACH[f"pick_{short}"],
                beside={**found[place_of]["beside"], "best of all cells by the scores of seed 0": exhaustive},
                interval="95 %, Student's t over searches that differ in weights, images and proposals",
            )  # fmt: skip
    return found


def quick(out: Path) -> None:
    """Twelve cells on noise, without tables: that the stages run and the figures have their form."""
    texts = canonical_texts("nasbench201")[:12]
    with tempfile.TemporaryDirectory() as work:
        frame = rank("nasbench201", texts, proxies=list(INPUTS), workers=0, batch_size=8, out=Path(work) / "quick.csv")
    ranks = by_pool(frame[list(INPUTS)].to_numpy())(np.arange(12))
    agree = float((ranks == frame["rank"]).mean())
    results_file.write(out, [results_file.figure("ranks_equal_to_the_verb", [agree], "share")])


if __name__ == "__main__":
    main()
