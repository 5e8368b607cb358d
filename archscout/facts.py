"""From the log of a run to the facts that its report shows. Reads only; an unfinished run gives fewer facts."""

from __future__ import annotations

import copy
import json
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau, spearmanr

from archscout.aggregate import rank_pool
from archscout.costs.limits import format_cost
from archscout.devices.energy import CARD_WATTS, CORE_WATTS, stated_power
from archscout.devices.measure import safe_end
from archscout.result import Result, last
from archscout.trust import unsealed

UNMETERED = f"estimate: {CORE_WATTS:g} W for each busy core, {CARD_WATTS:g} W for a card"
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
        "command": reproduce(config),
        "versions": {k: v for k, v in (events.get("versions") or {}).items() if k not in ("date", "machine")},
        "machine": (events.get("versions") or {}).get("machine", ""),
        "folder": str(result.folder),
        "time": spent,
        "spent": search_cost(events, result.candidates, spent),
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
        facts["plan"] = {k: v for k, v in plan.items() if k not in ("seconds", "why")}
        facts["plan"] |= {"split": split} if (split := split_of(plan)) else {}
        facts["plan"]["budget_seconds"] = config.get("budget")
        facts["plan_changes"] = [events[k] for k in events if k.startswith("plan-change/")]
    if result.candidates:
        finalists = {r["arch"] for r in records if r["role"] != "baseline"}
        facts["candidates"] = shown = copy.copy(result.candidates)
        shown.finalists = finalists
        facts["cost_axis"] = (events.get("goal") or {}).get("cost_axis", "macs")
        facts["directions"] = (events.get("goal") or {}).get("directions", {})
        facts["failures"] = [
            {"arch": arch, "reason": f"{name}: {reason}"} for arch, name, reason in result.candidates.reasons(200)
        ]
    if records:
        verified = {r["arch"] for r in records}
        by_arch = {c["arch"]: c for c in result.candidates if c["arch"] in verified}
        won = events.get("winner") or {}
        pulls = [events[key] for key in events if key.startswith("pulled/")]
        space = next((r["space"] for r in records if r["role"] == "finalist"), "")
        facts["entrants"] = [
            {
                **{k: r[k] for k in ("arch", "space", "role", "costs", "failure", "validation")},
                "eliminated_after": None if r["eliminated_after"] is None else r["eliminated_after"] + 1,
                "stopped_by": (r.get("stopped_by") or "").partition("/")[2],
                "pulled": next((p["by"] for p in pulls if r["space"] == space and r["arch"] in p["archs"]), ""),
                "winner": (r["space"], r["arch"]) == (won.get("space"), won.get("arch")),
                "rounds": [
                    {"epochs": total, "validation": x["validation"], "seconds": x["seconds"]}
                    for x, total in zip(
                        r["rounds"], np.cumsum([x["epochs"] for x in r["rounds"]]).tolist(), strict=True
                    )
                ],
                "measured_latency": measured_latency(events, r["key"]),
                "rank": by_arch.get(r["arch"], {}).get("rank"),
                "scores": by_arch.get(r["arch"], {}).get("scores")
                or (events.get(f"control/{r['key']}") or {}).get("scores", {}),
            }
            for r in records
        ]
        facts["correlation"] = correlations(facts["entrants"], facts.get("directions", {}))
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
        parts.append("The winner is the random control, so the proxies did not help here.")
    parts.append(found["known_networks"])
    timed = [name for name in ("latency", "energy", "power") if name in found["limits"]]
    parts += [held(name, found) for name in timed]
    if found["target"] and any(found["target"]["measured"].get(name) is None for name in timed):
        parts.append(
            f"What is predicted is not proven; to measure it there: archscout bench-kit --run {found['folder']}"
        )
    return " ".join(part for part in parts if part)


def known_networks(events: Mapping[str, Any]) -> str:
    """A sentence on the pretrained networks: that there were none, how the best did, and whether it taught the winner.

    Empty for a training without a search.
    """
    records = events.get("verified") or []
    if not records:
        return ""
    known = [r for r in records if r["space"] == "pretrained"]
    if not known:
        return "Pretrained networks were not in the comparison."
    trained = [r for r in known if r["validation"] is not None]
    if not trained:
        return f"No pretrained network could be trained ({known[0]['failure']})."
    best = max(trained, key=lambda r: r["validation"])
    beyond = " It is beyond the limits." if best["role"] == "teacher" else ""
    taught = f" {events['teacher']['arch']} taught the winner." if events.get("teacher") else ""
    return (
        f"The pretrained {best['arch']} reached {100 * best['validation']:.1f} % in verification, fine-tuned beside "
        f"the others.{beyond}{taught}"
    )


def split_of(plan: Mapping[str, Any]) -> str | None:
    """How a plan splits its time, in words; None for one given by counts."""
    from archscout.plan import Plan

    words = {"score": "ranking", "verify": "verification", "train": "full training"}
    split = Plan.from_json(dict(plan)).split
    if not split:
        return None
    return ", ".join(f"{words[stage]} {part:.0f} %" for stage, part in split.items()) + f" ({plan.get('why', '')})"


def held(name: str, found: dict[str, Any]) -> str:
    """A sentence on whether the limit on a cost of a device holds: measured, or predicted where it could not be."""
    limit, target = format_cost(name, found["limits"][name]), found["target"]
    if target and target["measured"].get(name) is None:
        low, high = (format_cost(name, target[part].get(name, 0.0)) for part in ("predicted", "most"))
        return f"On {target['name']} its {name} is predicted to be {low}, at most {high}; the limit is {limit}."
    if target:
        stated = name != "latency" and target["measured"].get("stated_power")
        value = target["measured"][name]
        where = f"{'Estimated from its latency measured' if stated else 'Measured'} on {target['name']}"
        most = target["measured"].get(f"{name}_high") or value
    else:
        measured = {**(found["energy"] or {}), "latency": found["latency"]}
        value = (found["latency"] or {}).get("median") if name == "latency" else measured.get(name)
        metered = name == "latency" or measured.get("metered")
        where = "Measured alone at the end" if metered else "Estimated from its measured latency"
        most = value if value is None or not found["latency"] else safe_end(name, measured)
    if value is None:
        return ""
    said = f"{where} its {name} is {format_cost(name, value)}, "
    if most <= found["limits"][name]:
        return f"{said}within the limit of {limit}."
    if value <= found["limits"][name]:
        return f"{said}just below the limit of {limit}: the interval reaches to {format_cost(name, most)}."
    return f"{said}ABOVE the limit of {limit}{'' if target else ' (when it was admitted it measured below)'}."


def measured_latency(events: Mapping[str, Any], key: str) -> float | None:
    """The milliseconds that an entrant measured before verification, None where no limit asked for it."""
    found = events.get(f"measured/{key}")
    return (
        found["latency"]["median"]
        if found and "latency" in found
        else (events.get(f"latency/{key}") or {}).get("median")
    )


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
        "most": profile.upper(predicted),
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
    many = max(workers, 1) if isinstance(workers, int) and stage in ("score", "verify") and device == "cpu" else 1
    return {
        "device": device if stage in ("profile", "score", "verify") else "cpu",
        "threads": many * config.get("threads", 1),
    }


def search_cost(
    events: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]], spent: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """The energy of a run (mJ), whether all of it was metered, and what training every candidate would have cost.

    every_candidate: seconds of training each scored candidate for as many epochs and images as the winner: the
    predicted milliseconds per image, times what the winner's training really took over what was predicted of it; and
    their energy at the mean power of that training. Left out where the winner is not trained yet.
    """
    if not spent:
        return None
    metered = all(row["metered"] for row in spent)
    out: dict[str, Any] = {
        "energy": sum(row["energy"] for row in spent),
        "metered": metered,
        "source": spent[-1]["source"] if metered else f"{UNMETERED} ({spent[-1]['source'] or 'no meter'})",
    }
    trained, training = events.get("trained"), next((row for row in spent if row["stage"] == "train"), None)
    rates = [c["costs"]["training"] for c in candidates if c["scores"] and "training" in c["costs"]]
    won = events.get("winner") or {}
    records = {(r["space"], r["arch"]): r["costs"] for r in events.get("verified") or []}
    predicted = records.get((won.get("space"), won.get("arch")), {}).get("training")
    if trained and training and rates and predicted:
        shown = trained["epochs"] * trained["images"]
        really = trained["seconds"] / (1e-3 * predicted * shown)
        seconds = really * 1e-3 * sum(rates) * shown
        energy = seconds * training["energy"] / max(training["seconds"], 1e-9)
        out["every_candidate"] = {"candidates": len(rates), "seconds": seconds, "energy": energy}
    return out


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


def reproduce(config: dict[str, Any]) -> str:
    """The command line that asks for the same run."""
    words = ["archscout", "search", "--data", config["data"]]
    for key, value in config.items():
        flag = "--" + key.replace("_", "-")
        if key in ("data", "out") or value in ("", [], {}, False):
            continue
        if key == "limits":
            words += [w for name, limit in value.items() for w in ("--limit", f"{name}={limit:g}")]
        elif key == "proxies":
            words += ["--proxies", ",".join(value)]
        elif value is True:
            words.append(flag)
        else:
            words += [flag, f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join(words)


def pictures(folder: Path) -> dict[str, str]:
    """The small pictures of failing images by name, as data URIs; none where the run kept none."""
    path = folder / "pictures.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def facts_json(folder: str | Path) -> str:
    """The facts as JSON text."""
    return json.dumps(facts_of(folder), indent=1, default=list)
