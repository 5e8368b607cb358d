"""Make docs/proxies.md: a card for each proxy, from its docstring and from how it orders NAS-Bench-201.

    python benchmarks/proxy_cards.py --data FOLDER   measures, about 15 s per proxy; writes the results and the page
    python benchmarks/proxy_cards.py                 makes the page again from the results that are there
    python benchmarks/proxy_cards.py --quick         a few made-up networks; a test of the script, the page stays

FOLDER holds the tables nas/nb201_accuracy.parquet and nas/nb201_hwnasbench.parquet. The scores are those of
results/ranking_scores.parquet (see ranking.py); a proxy without a column there is not measured.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent))
import results_file
from ranking import aligned, by_pool

from archscout.aggregate import INPUTS
from archscout.bench import Table, evaluate, load_table
from archscout.bench.figures import SETS, at
from archscout.bench.protocol import merged
from archscout.proxies import DEFAULT, PROXIES
from archscout.spaces import SPACES

HERE = Path(__file__).resolve().parent
SCORES = HERE / "results" / "ranking_scores.parquet"
SAMPLE = HERE / "results" / "ranking_sample.parquet"  # fewer networks, for proxies that have no column in SCORES
RESULTS = HERE / "results" / "proxy_cards.json"
PAGE = HERE.parent / "docs" / "proxies.md"
ENERGY = "edgegpu_energy"
DRAWS = 10
FITTED = "Fitted on benchmark accuracies"  # what a docstring says where that is so
NOT_MEASURED = "not measured"
# word of a figure -> where it is in the answer of evaluate, unit, digits, title in the overview, words in a card
FIGURES = {
    "tau": ("all.all.kendall", "Kendall's tau-b", 3, "tau, all", "Kendall's tau-b over all networks"),
    "connected": ("connected.all.kendall", "Kendall's tau-b", 3, "tau, connected", "Kendall's tau-b, connected"),
    "top5": ("connected.top5.spearman", "Spearman's rho", 2, "rho, best 5 %", "Spearman's rho in the best 5 %"),
    "pick": ("connected.picks.top1", "% accuracy", 2, "top network", "accuracy of the top network, %"),
    "regret": (f"connected.under.{ENERGY}.regret.mean", "points", 2, "mean regret", "mean regret, 20 limits, points"),
    "worst": (f"connected.under.{ENERGY}.regret.worst", "points", 2, "worst regret", "worst regret, points"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the tables; without it only the page is made again")
    parser.add_argument("--quick", action="store_true", help="made-up networks; a test of the script")
    parser.add_argument("--out", type=Path, default=RESULTS, help="results file")
    args = parser.parse_args()
    if args.quick:
        results_file.write(args.out, measured(*made_up(), resamples=4))
        page(results_file.read(args.out))
        return
    if args.data:
        tables = args.data / "nas"
        if not SCORES.exists() or not (tables / "nb201_accuracy.parquet").exists():
            raise SystemExit(f"wanted {SCORES} (made by ranking.py) and the tables in {tables}")
        frame = pd.read_parquet(SCORES)
        table = load_table(tables / "nb201_accuracy.parquet", [tables / "nb201_hwnasbench.parquet"])
        found = measured(frame, table)
        if SAMPLE.exists():
            rest = pd.read_parquet(SAMPLE)
            rest = rest[["arch", *(name for name in rest if name != "arch" and name not in frame)]]
            known = {figure["name"] for figure in found}
            found += [figure for figure in measured(rest, table) if figure["name"] not in known]
        results_file.write(
            args.out,
            found,
            command="python benchmarks/proxy_cards.py --data FOLDER",
            interval="95 %, 200 bootstrap samples of the networks; of random: the extremes of 10 draws",
            cells=len(frame),
            scores=settings(SCORES),
        )
    PAGE.write_text(page(results_file.read(args.out)), encoding="utf-8")


# --- measuring -------------------------------------------------------------------------------------------------------


def measured(frame: pd.DataFrame, table: Table, resamples: int = 200) -> list[dict[str, Any]]:
    """The figures `word_set.name` of every proxy with scores, of the aggregate and of random, e.g. tau_c10.naswot.

    frame: `arch` and a column per proxy, NaN where it failed; networks that have no row, nor a twin that has, are left
    out for every proxy.
    """
    kept = np.isfinite(table.align(dict.fromkeys(frame["arch"], 1.0)))
    table = replace(table, accuracies={name: np.where(kept, v, np.nan) for name, v in table.accuracies.items()})
    scores: dict[str, tuple[Any, str]] = {}
    for name, proxy in PROXIES.items():
        if name in frame:
            values = dict(zip(frame["arch"], frame[name].astype(float), strict=True))
            scores[name] = (table.align(values), proxy.direction)
        elif name in ("params", "macs"):
            scores[name] = (table.costs[name], "max")
    if set(INPUTS) <= set(frame):
        scores["aggregate"] = (by_pool(aligned(frame, table)), "min")
    found: list[dict[str, Any]] = []
    options: dict[str, Any] = {"costs": [ENERGY], "ceilings": False}
    for short, accuracy in SETS.items():
        answers = {
            name: evaluate(values, table, accuracy, direction=direction, resamples=resamples, **options)
            for name, (values, direction) in scores.items()
        }
        draws = [np.random.default_rng(draw).random(len(table)) for draw in range(DRAWS)]
        answers["random"] = merged([evaluate(draw, table, accuracy, resamples=0, **options) for draw in draws])
        for name, answer in answers.items():
            for word, (path, unit, *_) in FIGURES.items():
                n = at(answer, path.split(".")[0])["top5" if word == "top5" else "all"]["n"]
                found.append(entry(f"{word}_{short}.{name}", at(answer, path), unit, n))
            if short == "c10":
                failed = dict.fromkeys(("value", "low", "high"), answer["failures"])
                found.append(entry(f"failed.{name}", failed, "share", answer["n"]))
    return found


def entry(name: str, figure: Mapping[str, float], unit: str, n: int) -> dict[str, Any]:
    """A figure in the form of the results files."""
    return {"name": name, "unit": unit, **figure, "n": n, "known": None, "reach": None}


def settings(path: Path) -> Any:
    """What a file of scores says of how they were made."""
    from pyarrow import parquet

    return json.loads((parquet.read_schema(path).metadata or {}).get(b"archscout", b"{}"))


def made_up() -> tuple[pd.DataFrame, Table]:
    """Sixty cells with random accuracies, costs and scores, in the form of the real tables."""
    space = SPACES["nasbench201"]((3, 32, 32), 10)
    rng = np.random.default_rng(0)
    archs = list(dict.fromkeys(space.canonical(space.sample(rng)) for _ in range(100)))[:60]
    table = Table(
        space="nasbench201",
        archs=[space.format(arch) for arch in archs],
        accuracies={name: rng.uniform(50, 95, 60) for name in SETS.values()},
        seeds={},
        costs={name: rng.uniform(1, 10, 60) for name in ("params", "macs", ENERGY)},
        twins=np.arange(60),
        functions=np.arange(60),
        connected=np.arange(60) < 50,
    )
    scores = {name: np.where(rng.random(60) < 0.1, np.nan, rng.random(60)) for name in (*INPUTS, "naswot")}
    return pd.DataFrame({"arch": table.archs, **scores}), table


# --- the page --------------------------------------------------------------------------------------------------------

INTRO = """
# Proxies

<!-- Made by benchmarks/proxy_cards.py from the docstrings in archscout/proxies and the results file: edit those. -->

A proxy is a number read from an untrained network that should predict its accuracy. Here is a table of how well each
proxy of the registry does that where the answers are known, and a card for each: what it is, what it reads, what it
costs, and where it fails. {measured}

| column | meaning |
|---|---|
| proxy | its name on the command line and in Python; **bold** if it is a default |
| reads | none: the network alone; images; or images and labels |
| tau, all | Kendall's tau-b between score and accuracy over {all}: 1 is the same order, 0 is no order |
| tau, connected | the same over {connected} whose operations all lie on a path from input to output |
| rho, best 5 % | Spearman's rho among the most accurate twentieth, where it matters most |
| top network | test accuracy in % of the network with the best score |
| mean regret | accuracy points lost by taking the best-scored network within a limit on energy; mean of 20 limits |
| worst regret | the same under the worst of the 20 limits |
| fails | share of all networks that have no score; they count as the worst, none is dropped |

The columns between *tau, connected* and *fails* are over the connected networks. The limits are the 5th, 10th, ...
100th percentile of the energy on an edge GPU. Each cell holds CIFAR-10 / CIFAR-100; the scores were computed on
CIFAR-10 images for both. The cards add 95 % intervals, from 200 bootstrap samples of the networks in which those that
compute the same are drawn together. The best of a pool is missing from a third of such samples, so the interval of a
top network or a regret need not hold its value: it says what other networks of the space would have given. Of
*random* scores the value is the mean of ten draws.

Accuracies and energies are published, so no figure here depends on the machine, but for the last digits of scores. A
rank correlation over a whole space says little about picks: compare the columns, and with *params* and *random* first.

The defaults are {defaults}: the *aggregate* ranks by them. {fitted} The form of the aggregate, and which proxies it
reads, were chosen by looking at CIFAR-10 accuracies of this space
([how](decisions/005-the-aggregate.md)), so its figures here are development figures, those on CIFAR-100 less so.
"""


OTHERS = {
    "aggregate": "No proxy: the ranking by the defaults (archscout.aggregate), made anew for each pool and limit.",
    "random": "No proxy: scores that say nothing, the mean of ten draws with the smallest and the largest.",
}


def page(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The page in Markdown, from figures by name."""
    fitted = [f"`{name}`" for name, proxy in PROXIES.items() if FITTED in str(proxy.compute.__doc__)]
    text = INTRO.strip().format(
        all=pool_words(figures, "tau"),
        connected=pool_words(figures, "connected"),
        measured="The networks are the cells of NAS-Bench-201."
        if figures
        else f"The networks are the cells of NAS-Bench-201; this is {NOT_MEASURED} yet.",
        defaults=", ".join(f"`{name}`" for name in DEFAULT),
        fitted=f"Fitted on benchmark accuracies, and so never a default: {', '.join(fitted)}."
        if fitted
        else "No proxy has a form or a weight that was fitted on benchmark accuracies.",
    )
    blocks = [block if block.startswith(("#", "<", "|")) else filled(block) for block in text.split("\n\n")]
    others = [f"## {name}\n\n{about}\n\n{figure_table(name, figures)}" for name, about in OTHERS.items()]
    return "\n\n".join([*blocks, overview(figures), *(card(name, figures) for name in PROXIES), *others]) + "\n"


def pool_words(figures: Mapping[str, Mapping[str, Any]], word: str) -> str:
    """How many networks a figure is over."""
    n = next((figure["n"] for name, figure in figures.items() if name.startswith(f"{word}_c10.")), None)
    return f"the {n:,} networks" if n else "the networks"


def overview(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """One row per proxy in the order of the registry, the aggregate first and random scores last."""
    titles = ["proxy", "reads", *(title for *_, title, _ in FIGURES.values()), "fails"]
    lines = ["## Overview", "", f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    most = max((figure["n"] for name, figure in figures.items() if name.startswith("tau_c10.")), default=0)
    fewer = set()
    for name in ("aggregate", *PROXIES, "random"):
        proxy = PROXIES.get(name)
        link = f"[{name}](#{name})" if proxy else f"*[{name}](#{name})*"
        if 0 < (n := figures.get(f"tau_c10.{name}", {}).get("n", 0)) < most:
            link, fewer = link + " †", fewer | {n}
        cells = [f"**{link}**" if name in DEFAULT else link, proxy.data if proxy else ""]
        if f"tau_c10.{name}" in figures:
            cells += [both(figures, word, name) for word in FIGURES] + [share(figures, name)]
        else:
            cells += [NOT_MEASURED] + len(FIGURES) * [""]
        lines.append(f"| {' | '.join(cells)} |")
    if fewer:
        words = " or ".join(f"{n:,}" for n in sorted(fewer))
        lines += [
            "",
            f"† Over a random sample of the networks, {words} of them: a top network and a regret among those.",
        ]
    return "\n".join(lines)


def both(figures: Mapping[str, Mapping[str, Any]], word: str, name: str) -> str:
    """The values on CIFAR-10 and CIFAR-100."""
    return " / ".join(f"{figures[f'{word}_{short}.{name}']['value']:.{FIGURES[word][2]}f}" for short in SETS)


def share(figures: Mapping[str, Mapping[str, Any]], name: str) -> str:
    return f"{100 * figures[f'failed.{name}']['value']:.1f} %"


def card(name: str, figures: Mapping[str, Mapping[str, Any]]) -> str:
    """What a proxy is, in the words of its docstring, and its figures with intervals."""
    proxy = PROXIES[name]
    about = " ".join(str(sys.modules[proxy.compute.__module__].__doc__).split())
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(str(proxy.compute.__doc__)))
    facts = f"Better: {'larger' if proxy.direction == 'max' else 'smaller'}. Reads: {proxy.data}. Passes: {proxy.cost}."
    facts += f" Source: {proxy.paper}." + (" A default." if name in DEFAULT else "")
    parts = [f"## {name}", filled(f"*{escaped(about)}* {escaped(facts)}"), *map(prose, paragraphs)]
    return "\n\n".join([*parts, figure_table(name, figures)])


def figure_table(name: str, figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures of one row of the overview, with intervals."""
    if f"tau_c10.{name}" not in figures:
        return f"Figures on NAS-Bench-201: {NOT_MEASURED}."
    lines = ["| figure | CIFAR-10 | CIFAR-100 |", "|---|---|---|"]
    for word, (_, _, digits, _, words) in FIGURES.items():
        cells = [with_interval(figures[f"{word}_{short}.{name}"], digits) for short in SETS]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join([*lines, f"| networks without a score | {share(figures, name)} | |"])


def with_interval(figure: Mapping[str, Any], digits: int) -> str:
    return f"{figure['value']:.{digits}f} ({figure['low']:.{digits}f} to {figure['high']:.{digits}f})"


def prose(paragraph: str) -> str:
    """A paragraph of a docstring as Markdown: key words bold, names of proxies as links."""
    text = escaped(" ".join(paragraph.split()))
    text = re.sub(r"(?<![\w`])(Data|Scale|Cost):", r"**\1:**", text)
    text = re.sub(r"(?<![\w`])(Larger|Smaller) is better", r"**\1** is better", text)
    text = re.sub(r"(?<=[.)] )(Fails|Undefined|Blind)\b", r"**\1**", text)
    return filled(re.sub(r"`(\w+)`", lambda m: f"[`{m[1]}`](#{m[1]})" if m[1] in PROXIES else m[0], text))


def escaped(text: str) -> str:
    """Text whose signs mean themselves in Markdown, but for code spans."""
    escape: Callable[[str], str] = lambda part: re.sub(r"([*<\[|])|(?<!\w)_|_(?!\w)", r"\\\g<0>", part)  # noqa: E731
    return "".join(part if part.startswith("`") else escape(part) for part in re.split(r"(`[^`]*`)", text))


def filled(text: str) -> str:
    """Lines of at most 120 characters, none of which starts a list or a heading."""
    lines = textwrap.wrap(text, 119, break_long_words=False, break_on_hyphens=False)
    return "\n".join(re.sub(r"^([-+#>=]|\d+[.)])(?=\s|$)", r"\\\1", line) for line in lines)


if __name__ == "__main__":
    main()
