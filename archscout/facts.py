"""From the log of a run to the facts that its report shows. Reads only; an unfinished run gives fewer facts."""

from __future__ import annotations

import copy
import json
import math
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau, spearmanr

from archscout.aggregate import rank_pool
from archscout.candidates import Candidates
from archscout.config import Config
from archscout.costs.limits import format_cost
from archscout.devices.energy import CARD_WATTS, CORE_WATTS, stated_power
from archscout.devices.measure import safe_end
from archscout.naming import word
from archscout.plan import TOGETHER, UNCHOSEN
from archscout.result import Result, last
from archscout.trust import unsealed

UNMETERED = f"estimate: {CORE_WATTS:g} W for each busy core, {CARD_WATTS:g} W for a card"
OF_TRAIN = (  # settings of a training without a search
    "data_root", "size", "group", "strict", "select", "share", "limits", "device_profile", "budget", "epochs", "recipe",
    "pretrained", "teacher", "metric", "flip", "seed", "device", "devices", "train_threads",
)  # fmt: skip
TIMED = ("latency", "energy", "power")  # costs of a device, which are measured or predicted; others are counted
WARM = ("el2n", "entropy")  # selectors whose first round is of all images
WHOLE, THOUSAND = 100_000, 1000  # a space up to so many networks is counted whole, of a larger one a thousand
FILES = {
    "config.toml": "what was asked for, with every default filled in",
    "trials.jsonl": "the log: proposals, scores, measurements, changes of plan",
    "architecture.json": "the winner, its input and its classes",
    "weights.safetensors": "its trained weights",
    "model.onnx": "the network to deploy, normalisation inside",
    "model.int8.onnx": "the same with 8-bit weights and activations",
    "report.html": "this page",
    "run.log": "messages",
}


def facts_of(folder: str | Path) -> dict[str, Any]:
    """The facts of a run for `page.write_report`; everything in it is JSON."""
    result = Result(folder)
    events = result.events
    text = (result.folder / "config.toml").read_text(encoding="utf-8")
    config = tomllib.loads(text)
    audit, deployed, trained = (events.get(k) or {} for k in ("audit", "deployed", "trained"))
    records = events.get("verified") or []
    data = events.get("data") or {}
    spent = stages(events, config)
    facts: dict[str, Any] = {
        "title": f"archscout: {Path(config['data']).name}",
        "version": version("archscout"),
        "created": (events.get("versions") or {}).get("date", ""),
        "state": "finished" if result.finished else "unfinished",
        "command": reproduce(config, (events.get("only") or {}).get("arch")),
        "versions": {k: v for k, v in (events.get("versions") or {}).items() if k not in ("date", "machine")},
        "machine": (events.get("versions") or {}).get("machine", ""),
        "folder": str(result.folder),
        "time": spent,
        "spent": search_cost(events, result.candidates, spent, config),
        "files": [
            {"name": name, "what": what, "bytes": (result.folder / name).stat().st_size}
            for name, what in FILES.items()
            if (result.folder / name).exists()
        ],
        "config": unsealed(text),
        "seed": config.get("seed", 0),
    }
    if data:
        facts["data"] = {
            "source": config["data"],
            "images": data["images"],
            "shape": data["shape"],
            "classes": data["classes"],
            "counts": data["counts"],
            "notes": data["notes"],
            "split": "as listed in split.csv; the test part is opened by the audit at the end and by nothing else",
        }
    if plan := events.get("plan"):
        facts["plan"] = {k: v for k, v in plan.items() if k not in ("seconds", "why", "trainings", "short")}
        if plan.get("trainings"):
            facts["plan"] |= {"short_trainings": plan["trainings"], "epochs_of_a_short_training": plan["short"]}
        facts["plan"] |= {"split": split} if (split := split_of(plan)) else {}
        facts["plan"]["budget_seconds"] = config.get("budget")
        facts["plan_changes"] = [events[k] for k in events if k.startswith("plan-change/")]
    profile = profile_of(events)
    if result.candidates or records:
        facts["cost_axis"] = (events.get("goal") or {}).get("cost_axis", "macs")
    if result.candidates:
        finalists = {r["arch"] for r in records if r["role"] != "baseline"}
        facts["candidates"] = shown = copy.copy(result.candidates)
        shown.finalists = finalists
        facts["directions"] = (events.get("goal") or {}).get("directions", {})
        facts["kinds"] = (events.get("goal") or {}).get("kinds", [])
        facts["safe_ends"] = safe_ends(result.candidates, profile)
        facts["failures"] = [
            {"arch": arch, "reason": f"{name}: {reason}"} for arch, name, reason in result.candidates.reasons(200)
        ] + failed_controls(events)
    if records:
        verified = {r["arch"] for r in records}
        by_arch = {c["arch"]: c for c in result.candidates if c["arch"] in verified}
        won = events.get("winner") or {}
        best = (won.get("space"), won.get("arch"))
        pulls = [events[key] for key in events if key.startswith("pulled/")]
        space = next((r["space"] for r in records if r["role"] == "finalist"), "")
        facts["shortlist"] = "accuracy" if "short" in events else "supernet" if "supernet" in events else "rank"
        facts["entrants"] = [
            {
                **{k: r[k] for k in ("arch", "space", "role", "costs", "failure", "validation")},
                "eliminated_after": None if r["eliminated_after"] is None else r["eliminated_after"] + 1,
                "stopped_by": (r.get("stopped_by") or "").partition("/")[2],
                "pulled": next((p["by"] for p in pulls if r["space"] == space and r["arch"] in p["archs"]), ""),
                "winner": (r["space"], r["arch"]) == best,
                "rounds": [
                    {"epochs": total, "validation": x["validation"], "seconds": x["seconds"]}
                    for x, total in zip(
                        r["rounds"], np.cumsum([x["epochs"] for x in r["rounds"]]).tolist(), strict=True
                    )
                ],
                "measured_latency": measured_latency(events, r["key"]),
                "timed": timed_costs(events, profile, r, (r["space"], r["arch"]) == best),
                "rank": by_arch.get(r["arch"], {}).get("rank"),
                "scores": by_arch.get(r["arch"], {}).get("scores")
                or (events.get(f"control/{r['key']}") or {}).get("scores", {}),
            }
            for r in records
        ]
        facts["correlation"] = correlations(facts["entrants"], facts.get("directions", {}))
    if short := events.get("short"):
        facts["short"] = short_facts(short, events, config)
    if trained:
        facts["training"] = trained
    facts |= {name: events[name] for name in ("supernet", "selection") if events.get(name)}
    if audit:
        facts["audit"] = audit_facts(audit, pictures(result.folder))
    if drawing := events.get("network"):
        facts["network"] = drawing
    if "winner" in events or "only_winner" in events:
        facts["summary"] = summary(result, config, spent)
    facts["deployed"] = deployed
    return facts


def failed_controls(events: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Controls that failed when they were scored, as rows of the failures; they stay out of the verification."""
    return [
        {"arch": key.split("/", 2)[2], "reason": f"network of a control: {reason}"}
        for key in events if key.startswith("control/")
        if (reason := events[key].get("failures", {}).get("network"))
    ]  # fmt: skip


def short_facts(short: Mapping[str, Any], events: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The search by accuracy: each short training in order, with what its network costs."""
    rows = []
    for one in short["trained"]:
        found = events[f"short/{short['space']}/{one['arch']}"]
        rows.append(
            {
                "arch": one["arch"],
                "begun": one["begun"],
                "heir_of": found.get("heir_of"),
                "validation": found["validation"],
                "failure": found["failure"],
                "params": format_cost("params", found["costs"].get("params", 0)),
                "seconds": found.get("seconds"),
            }
        )
    strategy, selector = config.get("strategy", "evolution"), config.get("select", "full")
    return {**short, "strategy": word(strategy), "selector": word(selector), "trained": rows}


def audit_facts(audit: dict[str, Any], pictures: dict[str, str]) -> dict[str, Any]:
    """The audit as the page wants it: the interval of the accuracy beside each part, pictures beside failing images."""
    return {
        "parts": {
            name: {**part, "low": part["accuracy_interval"][0], "high": part["accuracy_interval"][1]}
            for name, part in audit["parts"].items()
        },
        "per_class": audit["classes"],
        "confusion": audit["confusion"],
        "worst": [
            {**one, "image": pictures[one["name"]]} if one["name"] in pictures else one
            for one in audit["worst_test"] + audit["suspects"]
        ],
        "calibration_error": audit["parts"]["test"]["calibration_error"],
    }


def summary(result: Result, config: dict[str, Any], spent: list[dict[str, Any]]) -> dict[str, Any]:
    """The headline: what was found, how good, beside what, how fast, and whether the limits hold."""
    best, events = result.best, result.events
    metric = events.get("metric") or "accuracy"
    deployed = events.get("deployed") or {}
    baseline = next((r for r in events.get("verified") or [] if r["role"] == "baseline"), None)
    test = best["test"]
    out: dict[str, Any] = {
        "space": best["space"],
        "winner": best["arch"],
        "winner_role": best["role"],
        "metric": metric,
        "validation": best.get("validation"),
        "test": None
        if test is None
        else {
            "value": test[metric],
            "low": test[f"{metric}_interval"][0],
            "high": test[f"{metric}_interval"][1],
            "n": test["n"],
        },
        "baseline": None
        if baseline is None
        else {
            "arch": baseline["arch"],
            "validation": baseline["validation"],
            "params": baseline["costs"].get("params"),
            "latency": measured_latency(events, baseline["key"]) or baseline["costs"].get("latency"),
        },
        "latency": deployed.get("latency"),
        "onnx_latency": deployed.get("onnx_latency"),
        "peak_memory_measured": deployed.get("peak_memory"),
        "memory_bytes": best["costs"].get("memory"),
        "params": best["costs"].get("params"),
        "macs": best["costs"].get("macs"),
        "costs": best["costs"],
        "energy": deployed.get("energy"),
        "int8": best["int8"],
        "target": target_facts(events, best["costs"]),
        "limits": config.get("limits", {}),
        "seconds": sum(stage["seconds"] for stage in spent),
    }
    out["folder"] = str(result.folder)
    out["passed_over"] = passed_over(events)
    out["known_networks"] = known_networks(events)
    out["verdict"] = verdict(out, deployed)
    return out


def verdict(found: dict[str, Any], deployed: dict[str, Any]) -> str:
    """One honest sentence or two: was the winner better than the baseline, and do the measured limits hold."""
    parts = []
    test, metric = found["test"], found["metric"].replace("_", " ")
    if test:
        parts.append(f"The network found has a test {metric} of {100 * test['value']:.1f} %.")
    baseline, validation = found["baseline"], found["validation"]
    if found["winner_role"] == "baseline":
        parts.append(
            "The plain baseline was best in verification: the search found nothing better for this data and budget."
        )
    elif baseline and baseline["validation"] is not None and validation is not None:
        gap = 100 * (validation - baseline["validation"])
        parts.append(
            f"In verification it stood {gap:+.1f} points against the plain baseline, trained in the same stage."
        )
    if found["winner_role"] == "random":
        parts.append("The winner is the random control, so the search did not help here.")
    parts.append(found["passed_over"])
    parts.append(found["known_networks"])
    timed = [name for name in ("latency", "energy", "power") if name in found["limits"]]
    parts += [held(name, found) for name in timed]
    if found["target"] and any(found["target"]["measured"].get(name) is None for name in timed):
        parts.append(
            f"What is predicted is not proven; to measure it there: archscout bench-kit --run {found['folder']}"
        )
    return " ".join(part for part in parts if part)


def passed_over(events: Mapping[str, Any]) -> str:
    """A sentence on a control that did better than the winner in verification, but not beyond chance; else empty."""
    records, won = events.get("verified") or [], events.get("winner") or {}
    at = next(
        (r["validation"] for r in records if (r["space"], r["arch"]) == (won.get("space"), won.get("arch"))), None
    )
    better = [
        r for r in records
        if at is not None and r["role"] in UNCHOSEN and r["eliminated_after"] is None and (r["validation"] or 0.0) > at
    ]  # fmt: skip
    if not better:
        return ""
    best = max(better, key=lambda r: r["validation"])
    return (
        f"The {best['role']} control stood {100 * (best['validation'] - at):.1f} points higher in verification, which "
        "can be chance, and was passed over."
    )


def known_networks(events: Mapping[str, Any]) -> str:
    """A sentence on the pretrained networks: that there were none, how the best did; and which network taught.

    Of a training without a search only the last.
    """
    records = events.get("verified") or []
    teacher = events.get("teacher") or {}
    taught = f" {teacher['arch']}{' of another run' if 'run' in teacher else ''} taught the winner." if teacher else ""
    if not records:
        return taught.strip()
    known = [r for r in records if r["space"] == "pretrained"]
    if not known:
        return f"Pretrained networks were not in the comparison.{taught}"
    trained = [r for r in known if r["validation"] is not None]
    if not trained:
        return f"No pretrained network could be trained ({known[0]['failure']}).{taught}"
    best = max(trained, key=lambda r: r["validation"])
    beyond = " It is beyond the limits." if best["role"] == "teacher" else ""
    return (
        f"The pretrained {best['arch']} reached {100 * best['validation']:.1f} % in verification, fine-tuned beside "
        f"the others.{beyond}{taught}"
    )


def split_of(plan: Mapping[str, Any]) -> str | None:
    """How a plan splits its time, in words; None for one given by counts."""
    from archscout.plan import Plan

    words = {"score": "ranking", "short": "short trainings", "verify": "verification", "train": "full training"}
    split = Plan.from_json(dict(plan)).split
    if not split:
        return None
    return ", ".join(f"{words[stage]} {part:.0f} %" for stage, part in split.items()) + f" ({plan.get('why', '')})"


def judged(value: float | None, most: float | None, limit: float) -> str:
    """How a known cost stands to its limit: met, near (only its upper end, `most`, is beyond), over, or unknown."""
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return "unknown"
    if (value if most is None else most) <= limit:
        return "met"
    return "near" if value <= limit else "over"


def standing(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """How the winner of a summary stands to its limit on a cost: {value, most, source, state}.

    most: the upper end, which the limit is held against.  source: counted, measured, stated (from a measured latency
    and a stated power) or predicted.  state: as `judged` says, or predicted, which is not yet known to hold.
    """
    limit, target = found["limits"][name], found.get("target") or {}
    if name not in TIMED:
        value = found.get("memory_bytes" if name == "memory" else name)
        value = (found.get("costs") or {}).get(name) if value is None else value
        return {"value": value, "most": value, "source": "counted", "state": judged(value, value, limit)}
    if target:
        there = target.get("measured") or {}
        value, most = there.get(name), there.get(f"{name}_high")
        if value is None:
            value, most = ((target.get(part) or {}).get(name) for part in ("predicted", "most"))
            state = "unknown" if value is None else "predicted"
            return {"value": value, "most": value if most is None else most, "source": "predicted", "state": state}
        stated = name != "latency" and there.get("stated_power")
    else:
        latency, energy = found.get("latency") or {}, found.get("energy") or {}
        value = latency.get("median") if name == "latency" else energy.get(name)
        known = value is not None and {"median", "high"} <= set(latency)
        most = safe_end(name, {**energy, "latency": latency}) if known else value
        stated = name != "latency" and not energy.get("metered")
    most = value if most is None else most
    return {
        "value": value,
        "most": most,
        "source": "stated" if stated else "measured",
        "state": judged(value, most, limit),
    }


def held(name: str, found: Mapping[str, Any]) -> str:
    """A sentence on whether the limit on a cost of a device holds: measured, or predicted where it could not be."""
    limit, at, target = format_cost(name, found["limits"][name]), standing(name, found), found.get("target") or {}
    if at["state"] == "unknown":
        return ""
    value, most = format_cost(name, at["value"]), format_cost(name, at["most"])
    if at["source"] == "predicted":
        return f"On {target['name']} its {name} is predicted to be {value}, at most {most}; the limit is {limit}."
    if target:
        where = "Measured" if at["source"] == "measured" else "Estimated from its latency measured"
        where = f"{where} on {target['name']}"
    else:
        where = "Measured alone at the end" if at["source"] == "measured" else "Estimated from its measured latency"
    said = f"{where} its {name} is {value}, "
    if at["state"] == "met":
        return f"{said}within the limit of {limit}."
    if at["state"] == "near":
        return f"{said}just below the limit of {limit}: the interval reaches to {most}."
    admitted = not target and found.get("winner_role") != "given"
    return f"{said}ABOVE the limit of {limit}{' (when it was admitted it measured below)' if admitted else ''}."


def measured_latency(events: Mapping[str, Any], key: str) -> float | None:
    """The milliseconds that an entrant measured before verification, None where no limit asked for it."""
    found = events.get(f"measured/{key}")
    return (
        found["latency"]["median"]
        if found and "latency" in found
        else (events.get(f"latency/{key}") or {}).get("median")
    )


def profile_of(events: Mapping[str, Any]) -> Any:
    """The profile that a run predicts with, None before there is one."""
    from archscout.devices.profile import Profile

    return Profile.from_json(events["profile"]) if events.get("profile") else None


def safe_ends(candidates: Candidates, profile: Any) -> dict[str, np.ndarray]:
    """The costs of a device of all candidates, (n,) each, at the safe end of what is predicted; in one go for all."""
    names = [name for name in candidates.costs.names if name.removesuffix("_high") in TIMED]
    ends = {} if profile is None else profile.upper({name: candidates.costs.column(name) for name in names})
    return {name: end for name, end in ends.items() if name in TIMED}


def timed_costs(
    events: Mapping[str, Any], profile: Any, record: Mapping[str, Any], won: bool
) -> dict[str, dict[str, Any]]:
    """What an entrant takes on the device that limits are of: cost -> {value, most, measured}, `most` the safe end.

    Measured where it was: before the verification, the winner at the end, or on the other device.
    """
    costs = record["costs"]
    ends = costs if profile is None else profile.upper(costs)
    out = {name: {"value": costs[name], "most": ends[name], "measured": False} for name in TIMED if name in costs}
    if profile is not None and profile.target:
        there = (last(events, "target_measured") or {}) if won else {}
        return out | {
            name: {"value": there[name], "most": there.get(f"{name}_high") or there[name], "measured": True}
            for name in TIMED
            if there.get(name) is not None
        }
    found = events.get(f"measured/{record['key']}") or {}
    deployed = events.get("deployed") or {}
    if won and deployed.get("latency"):
        found = {**(deployed.get("energy") or {}), "latency": deployed["latency"]}
    for name in TIMED if found.get("latency") else ():
        value = found["latency"]["median"] if name == "latency" else found.get(name)
        if value is not None:
            out[name] = {"value": value, "most": safe_end(name, found), "measured": True}
    return out


def target_facts(events: Mapping[str, Any], costs: dict[str, Any]) -> dict[str, Any] | None:
    """The other device that the limits are of: its name, what is predicted of the winner, and what was measured there.

    predicted, most: costs, and the safe end of their intervals.  measured: costs, empty until `archscout device check`.
    """
    if not (events.get("profile") or {}).get("target"):
        return None
    from archscout.devices.profile import Profile

    profile = Profile.from_json(events["profile"])
    predicted: dict[str, float] = {name: costs[name] for name in ("latency", "energy", "power") if name in costs}
    return {
        "name": profile.target,
        "device": profile.device,
        "runtime": profile.runtime,
        "threads": profile.threads,
        "power_source": profile.power_source,
        "predicted": predicted,
        "most": {name: end for name, end in profile.upper(costs).items() if name in predicted},
        "measured": last(events, "target_measured") or {},
    }


def stages(events: Mapping[str, Any], config: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Seconds and energy (mJ) of each stage, from the moments at which they ended and the power meanwhile.

    Where no meter was read, the power is that of as many busy cores as the stage had threads; see devices.energy.
    """
    out, before = [], 0.0
    for key in events:
        if key.startswith("stage/"):
            value = events[key]
            name, seconds = key.removeprefix("stage/"), max(value["ended"] - before, 0.0)
            power = value.get("power") or stated_power(**busy(name, config or {}))[0]
            metered = value.get("power") is not None
            row = {"stage": name, "seconds": seconds, "energy": 1e3 * seconds * power, "metered": metered}
            out.append({**row, "source": value.get("source", "")})
            before = value["ended"]
    return out


def busy(stage: str, config: dict[str, Any]) -> dict[str, Any]:
    """The device that a stage keeps busy, and with how many threads."""
    workers, device = config.get("workers", 1), config.get("device", "cpu")
    if stage in ("train", "audit"):
        return {"device": device, "threads": config.get("train_threads", 1)}
    parallel = isinstance(workers, int) and stage in ("score", "short", "verify") and device == "cpu"
    many = at_once(stage, workers) if parallel else 1
    return {
        "device": device if stage in ("profile", "score", "short", "verify") else "cpu",
        "threads": many * config.get("threads", 1),
    }


def at_once(stage: str, workers: int) -> int:
    """How many jobs of a stage run at once: as many as there are workers, of the short trainings TOGETHER at most."""
    return max(1, min(workers, TOGETHER) if stage == "short" else workers)


def search_cost(
    events: Mapping[str, Any],
    candidates: Sequence[Mapping[str, Any]],
    spent: list[dict[str, Any]],
    config: Mapping[str, Any],
) -> dict[str, Any] | None:
    """The seconds and energy (mJ) of a run, whether all of it was metered, and what it would have cost otherwise.

    full_data: see `on_full_data`.  every_candidate: see `of_every_candidate`; left out where the winner is not trained.
    """
    if not spent:
        return None
    metered = all(row["metered"] for row in spent)
    out: dict[str, Any] = {
        "seconds": sum(row["seconds"] for row in spent),
        "energy": sum(row["energy"] for row in spent),
        "metered": metered,
        "source": spent[-1]["source"] if metered else f"{UNMETERED} ({spent[-1]['source'] or 'no meter'})",
        "full_data": on_full_data(events, spent, config),
    }
    every = of_every_candidate(events, candidates, spent, config)
    return out if every is None else {**out, "every_candidate": every}


def passes(selector: str, epochs: float, share: float) -> float:
    """How many rounds a training makes whose selector chooses a share of the images.

    Epochs count images and not rounds: one is as many images as there are, whatever is chosen. Of `infobatch`, which
    chooses how many by itself, the most that it can make.
    """
    if selector == "full":
        return epochs
    if selector == "infobatch":
        less = max(0.0, 0.875 * epochs - 1)  # the first round and the last eighth are of all images
        return epochs + less
    first = min(epochs, 1.0) if selector in WARM else 0.0
    return first + (epochs - first) / share


def selected_trainings(events: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[tuple[str, float, float]]:
    """Every training that a selector had a say in: stage, seconds, and how many times larger full rounds would be.

    The last as `passes` counts it, or from the rounds that were logged, which an audit may have widened.
    """
    selector, share = word(config.get("select", "full")), config.get("share", 0.2)

    def times(epochs: float) -> float:
        return passes(selector, epochs, share) / epochs if epochs > 0 else 1.0

    if found := events.get("supernet"):
        story, stages = found["story"], 3 if found["method"] == "pdarts" else 1
        history, audits, images = story.get("history") or [], story.get("audits") or [], story.get("audited", 0)
        numbers = {row.get("stage", 0): row["round"] for row in history if "round" in row}
        logged = sum(audits[-1]["images"]) * audits[-1]["round"] / images if audits and images else None
        if numbers:
            logged = sum(numbers.values()) / history[-1]["epoch"]
        yield "score", story["seconds"], logged or times(found["epochs"] / stages)
    short = [events[key] for key in events if key.startswith("short/")]
    rounds = [done for record in events.get("verified") or [] for done in record["rounds"]]
    for stage, trainings in (("short", short), ("verify", rounds)):
        for one in trainings:
            if one.get("seconds") and one.get("epochs"):
                yield stage, one["seconds"], times(one["epochs"])
    chosen, trained = events.get("selection"), events.get("trained")
    if chosen and trained:
        yield "train", trained["seconds"], max(1.0, chosen["rounds"] / max(trained["epochs"], 1e-9))


def on_full_data(events: Mapping[str, Any], spent: list[dict[str, Any]], config: Mapping[str, Any]) -> dict[str, Any]:
    """What the same run would have cost on full data: seconds, energy (mJ), and `times` the seconds of the run.

    Held fixed is the number of passes: as many rounds, each over all images, at the seconds per image that each
    training took. With `select` full, and for all that no selector has a say in, that is what it cost.
    share: of the images that a pass went over, the mean by time.  at_most: whether the selector chooses how many by
    itself, so that this is the most.
    """
    parallel = config.get("workers", 1) if config.get("device", "cpu") == "cpu" else 1
    parallel = parallel if isinstance(parallel, int) else 2  # as many trainings ran at once
    rows = {row["stage"]: row for row in spent}
    seconds, energy = (sum(row[name] for row in spent) for name in ("seconds", "energy"))
    total = seconds
    seen = whole = 0.0
    found: dict[str, list[tuple[float, float]]] = {}
    for stage, lasted, times in selected_trainings(events, config):
        found.setdefault(stage, []).append((lasted, times))
        seen, whole = seen + lasted, whole + lasted * times
    for stage in set(found) & set(rows):
        row, many = rows[stage], at_once(stage, parallel) if stage in ("short", "verify") else 1
        lasted = sum(one for one, _ in found[stage]) / many
        more = sum(one * (times - 1) for one, times in found[stage]) / many
        more *= min(1.0, row["seconds"] / max(lasted, 1e-9))
        seconds += more
        energy += more * row["energy"] / max(row["seconds"], 1e-9)
    selector = word(config.get("select", "full"))
    return {
        "seconds": seconds,
        "energy": energy,
        "times": seconds / total if total else 1.0,
        "share": seen / whole if whole else 1.0,
        "selector": selector,
        "held": "passes",
        "at_most": selector == "infobatch",
    }


def of_every_candidate(
    events: Mapping[str, Any],
    candidates: Sequence[Mapping[str, Any]],
    spent: list[dict[str, Any]],
    config: Mapping[str, Any],
) -> dict[str, Any] | None:
    """What training every candidate for as many epochs and images as the winner would have cost: seconds, energy (mJ).

    The predicted milliseconds per image of each scored candidate, times what the winner's training really took over
    what was predicted of it; the energy at the mean power of that training. A search by a supernet scores none: there
    it is the middle one of the networks that were sampled for the plan, or the winner in a run given by counts, times
    the networks of the space, or a thousand.
    of: scored, space or thousand.  rate: scored, sampled or winner.
    """
    trained, training = events.get("trained"), next((row for row in spent if row["stage"] == "train"), None)
    if not trained or not training:
        return None
    won = events.get("winner") or {}
    records = {(r["space"], r["arch"]): r["costs"] for r in events.get("verified") or []}
    predicted = records.get((won.get("space"), won.get("arch")), {}).get("training")
    rates = [c["costs"]["training"] for c in candidates if c["scores"] and "training" in c["costs"]]
    if rates and predicted:
        count, of, rate, each = len(rates), "scored", "scored", sum(rates) / len(rates) / predicted
    elif events.get("supernet"):
        count, of = networks_of_space(events, config)
        sampled = (events.get("rates") or {}).get("training_ms")
        rate, each = ("sampled", sampled[1] / predicted) if sampled and predicted else ("winner", 1.0)
    else:
        return None
    seconds = count * each * trained["seconds"]
    energy = seconds * training["energy"] / max(training["seconds"], 1e-9)
    return {"candidates": count, "of": of, "rate": rate, "seconds": seconds, "energy": energy}


def networks_of_space(events: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[int, str]:
    """How many networks the space of a run has, if it is ours, not too large and not limited; else a thousand of them.

    Under limits nobody knows how many are left.
    """
    from archscout.spaces import SPACES

    data, make = events.get("data") or {}, SPACES.get(str(config.get("space", "mobilenet")))
    if make is None or not data:
        return THOUSAND, "thousand"
    space = make(tuple(data["shape"]), len(data["classes"]))
    count = space.distinct or space.size
    if count <= (THOUSAND if config.get("limits") else WHOLE):
        return count, "space"
    return THOUSAND, "thousand"


UNITS = {
    "seconds": "s",
    **dict.fromkeys(("latency", "onnx_latency", "float_latency", "median", "p95", "usual"), "ms"),
    "training": "ms per image",
    "energy": "mJ",
    "power": "W",
    **dict.fromkeys(("memory", "memory_bytes", "peak_memory_measured", "ram_int8", "flash_int8"), "bytes"),
    **dict.fromkeys(("training_memory", "bytes", "float_bytes"), "bytes"),
    **dict.fromkeys(("params", "macs", "flops", "candidates", "repeats", "batch", "threads"), "count"),
    **dict.fromkeys(("n", "images", "calibration"), "images"),
    **dict.fromkeys(("accuracy", "balanced_accuracy", "float_accuracy", "float_balanced_accuracy"), "share"),
    **dict.fromkeys(("test", "validation", "agreement", "share", "noise", "interrupted", "slowdown"), "share"),
    "violation": "share",
    "times": "ratio",
}


def units_of(found: Any, path: tuple[str, ...] = ()) -> dict[str, str]:
    """The unit of every number in plain values, by its path like "latency.median"; shares are from 0 to 1.

    It is that of the last word of the path that has one: ends of an interval have the unit of what they are ends of.
    """
    if isinstance(found, Mapping):
        return {k: unit for name, value in found.items() for k, unit in units_of(value, (*path, str(name))).items()}
    if isinstance(found, (list, tuple)):
        return units_of(found[0], path) if found else {}
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return {}
    words = [name.removesuffix("_high").removesuffix("_interval") for name in reversed(path)]
    return {".".join(path): next((UNITS[name] for name in words if name in UNITS), "number")}


def spent_by_stage(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The seconds and the energy (mJ) of a run in all and by stage; `energy_is` says whether that was measured."""

    def said(row: Mapping[str, Any]) -> dict[str, Any]:
        label = "measured" if row["metered"] else "estimate"
        return {"seconds": row["seconds"], "energy": row["energy"], "energy_is": label}

    spent = facts.get("spent")
    if not spent:
        return {}
    more = {name: spent[name] for name in ("full_data", "every_candidate") if spent.get(name)}
    return {
        **said(spent),
        "energy_source": spent["source"],
        "stages": {row["stage"]: said(row) for row in facts["time"]},
        **more,
    }


def correlations(entrants: list[dict[str, Any]], directions: dict[str, str]) -> dict[str, Any]:
    """Rank correlation of each proxy, and of the aggregate rank, with the first-round validation of the entrants.

    The first round is the one in which every entrant trained for the same share. Signs are such that positive is good.
    """
    usable = [e for e in entrants if e["rounds"] and e["scores"]]
    if len(usable) < 3:
        return {}
    truth = np.array([e["rounds"][0]["validation"] for e in usable])
    columns: dict[str, list[float]] = {}
    scores = [e["scores"] for e in usable]
    columns["rank"] = (-rank_pool(scores, directions, filter=0.0)).tolist()
    for name, direction in directions.items():
        if all(name in e["scores"] for e in usable):
            columns[name] = [e["scores"][name] * (1 if direction == "max" else -1) for e in usable]
    out = {}
    for name, column in columns.items():
        if len(set(column)) > 1 and len(set(truth)) > 1:
            out[name] = {
                "spearman": float(spearmanr(column, truth).statistic),
                "kendall": float(kendalltau(column, truth).statistic),
                "n": len(usable),
            }
    return out


def reproduce(config: Mapping[str, Any], arch: str | None = None) -> str:
    """The command line that asks for the same run; `arch` is what was given to `train` instead of searched."""
    words = ["archscout", "search" if arch is None else "train", "--data", str(config["data"])]
    if arch is not None:
        words += ["--space", str(config["space"]), "--arch", arch]
    named = {"limits": "--limit", "objectives": "--objective", "pretrained": "--pretrained", "supernet": "--supernet"}
    for key, field in Config.model_fields.items():
        value = config.get(key)
        usual = field.get_default(call_default_factory=True)
        if value is None or key in ("data", "out") or value == usual or (value in ([], {}) and not usual):
            continue
        if arch is not None and key not in OF_TRAIN:
            continue
        flag = named.get(key, "--" + key.replace("_", "-"))
        if isinstance(value, Mapping):
            words += [word for name, part in value.items() for word in (flag, f"{name}={_plain(part)}")]
        elif key in named:
            words += [word for part in value for word in (flag, str(part))]
        elif isinstance(value, list | tuple):
            words += [flag, ",".join(_plain(part) for part in value)]
        else:
            words += [flag] if value is True else [flag, _plain(value)]
    return shlex.join(words)


def _plain(value: Any) -> str:
    """A value as it is typed; numbers exactly."""
    return repr(int(value) if value == int(value) else value) if isinstance(value, float) else str(value)


def pictures(folder: Path) -> dict[str, str]:
    """The small pictures of failing images by name, as data URIs; none where the run kept none."""
    path = folder / "pictures.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def facts_json(folder: str | Path) -> str:
    """The facts as JSON text."""
    return json.dumps(facts_of(folder), indent=1, default=list)
