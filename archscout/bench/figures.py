"""The named figures of a ranking, in the form of the results files, with what stands beside each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archscout.bench.protocol import beside, evaluate
from archscout.bench.table import Table
from archscout.errors import UserError

SETS = {"c10": "cifar10", "c100": "cifar100"}
UNITS = {"tau": "Kendall's tau-b", "top5": "Spearman's rho", "regret": "points", "hv": "share", "pick": "% accuracy"}


def figures_of(
    scores: Any,
    table: Table,
    *,
    scores_c100: Any = None,
    macro_scores: Any = None,
    macro_table: Table | None = None,
    direction: str = "max",
    pool: str = "connected",
    energy: str = "edgegpu_energy",
    latency: str = "edgegpu_latency",
    resamples: int = 200,
    seed: int = 0,
    known: Mapping[str, Any] | None = None,
    reach: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """The figures of one ranking on NAS-Bench-201 (and NAS-Bench-Macro), each with a bootstrap interval.

    scores, direction:  as for `evaluate`. scores_c100: for CIFAR-100, where the scores differ with the images.
    macro_scores, macro_table:  the same for NAS-Bench-Macro; without them there is no tau_macro.
    pool:      "connected" or "all" networks of NAS-Bench-201, for all but tau.  energy, latency: costs of `table`.
    known, reach:  figure name -> what others report, what is to be reached.

    tau_c10, tau_c100      Kendall's tau-b with the accuracy on CIFAR-10 and CIFAR-100, over all networks, whatever the
                           pool
    top5_c10, top5_c100    Spearman's rho within the best 5 % of the pool by accuracy; with `ceiling`, what noise lets a
                           score reach
    pick_c10, pick_c100    accuracy of the best-scored network; with `best`, that of the best
    regret_energy_c10, regret_energy_c100   mean regret under 20 limits on energy
    worst_pick             the largest regret under any of these limits, on either set of images
    hv_latency_c10, hv_latency_c100   hypervolume ratio of the front by score and latency
    tau_macro              Kendall's tau-b on NAS-Bench-Macro

    Each has the fields of a results file and `beside`: what params, macs and random scores give.
    """
    found: list[dict[str, Any]] = []
    worst: list[dict[str, Any]] = []
    options: dict[str, Any] = {"resamples": resamples, "seed": seed}

    def add(name: str, answers: Mapping[str, Mapping[str, Any]], path: str, into: Any = found, **more: Any) -> None:
        value, *others = (at(answer, path) for answer in answers.values())
        into.append(
            {
                "name": name,
                "value": value["value"],
                "unit": UNITS[name.split("_")[0] if name != "worst_pick" else "regret"],
                "low": value["low"],
                "high": value["high"],
                "n": next(iter(answers.values()))["n"],
                "known": (known or {}).get(name),
                "reach": (reach or {}).get(name),
                "interval": f"95 %, {resamples} bootstrap samples of the networks",
                "beside": dict(zip(list(answers)[1:], others, strict=True)),
                **more,
            }
        )

    for short, accuracy in SETS.items():
        given = scores if accuracy == "cifar10" or scores_c100 is None else scores_c100
        settings = {**options, "costs": [energy, latency], "pools": list(dict.fromkeys(["all", pool]))}
        full = {"scores": evaluate(given, table, accuracy, direction=direction, **settings)}
        full |= beside(table, accuracy, **settings)
        answers = {name: {**answer[pool], "n": answer[pool]["all"]["n"]} for name, answer in full.items()}
        mine = answers["scores"]
        whole = {name: {**answer["all"], "n": answer["all"]["all"]["n"]} for name, answer in full.items()}
        add(f"tau_{short}", whole, "all.kendall")
        ceiling = mine["top5"]["ceiling"]
        limits = {end: ceiling[end] and ceiling[end]["spearman"] for end in ("low", "high")} if ceiling else None
        add(f"top5_{short}", answers, "top5.spearman", ceiling=limits)
        found[-1]["n"] = mine["top5"]["n"]
        add(f"regret_energy_{short}", answers, f"under.{energy}.regret.mean")
        add("worst_pick", answers, f"under.{energy}.regret.worst", worst, images=accuracy)
        add(f"hv_latency_{short}", answers, f"under.{latency}.hypervolume")
        add(f"pick_{short}", answers, "picks.top1", best=mine["picks"]["best"])
    found.append(max(worst, key=lambda figure: figure["value"]))
    if (macro_scores is None) != (macro_table is None):
        raise UserError("tau_macro wants both macro_scores and macro_table")
    if macro_table is not None:
        settings = {**options, "pools": ["all"]}
        full = {"scores": evaluate(macro_scores, macro_table, direction=direction, **settings)}
        full |= beside(macro_table, **settings)
        answers = {name: {**answer["all"], "n": answer["n"]} for name, answer in full.items()}
        add("tau_macro", answers, "all.kendall")
    return found


def at(answer: Any, path: str) -> Any:
    """The entry at a path of keys joined by dots."""
    for key in path.split("."):
        answer = answer[key]
    return answer
