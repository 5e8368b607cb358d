"""The top of the page: the verdict, its figures, and how they stand to the limits and the plain baseline."""

# ruff: noqa: RUF001 (typographic minus, dash and times are meant)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archscout.facts import TIMED, standing
from archscout.page.words import count, digits, duration, in_bytes, is_number, percent, quantity


def section(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    summary = facts.get("summary")
    if not summary:
        return None
    metric = summary.get("metric") or "accuracy"
    word = metric.replace("_", " ")
    test, latency = summary.get("test") or {}, summary.get("latency") or {}
    onnx, baseline = summary.get("onnx_latency") or {}, summary.get("baseline") or {}
    limits = summary.get("limits") or {}
    energy, target = summary.get("energy") or {}, summary.get("target") or {}
    notes = {} if energy.get("metered") else dict.fromkeys(("energy", "power"), "estimate")
    if target:
        words = {"stated": "estimated from its measured latency", "predicted": "predicted, at most"}
        for name in [name for name in TIMED if name in limits]:
            notes[name] = f"on {target.get('name')}, {words.get(source := standing(name, summary)['source'], source)}"
    checks = [_check(name, summary, notes.get(name, "")) for name in limits]
    tiles: list[dict[str, Any]] = []

    def tile(name: str, value: str, *notes: str) -> None:
        if value != "–":
            tiles.append({"name": name, "value": value, "notes": [note for note in notes if note]})

    tile(
        f"Test {word}",
        percent(test.get("value")),
        f"95 % interval {percent(test['low'])} to {percent(test['high'])}" if is_number(test.get("low")) else "",
        f"on {test['n']:,} images, looked at once" if is_number(test.get("n")) else "",
    )
    gain = None
    itself = summary.get("winner_role") == "baseline"
    if not itself and is_number(summary.get("validation")) and is_number(baseline.get("validation")):
        gain = 100 * (summary["validation"] - baseline["validation"])
    tile(
        f"Validation {word}",
        percent(summary.get("validation")),
        f"plain baseline {percent(baseline.get('validation'))}" if gain is not None else "",
        f"{'+' if gain >= 0 else '−'}{abs(gain):.1f} points" if gain is not None else "",
    )
    tile("Latency", quantity(latency.get("median"), "latency"), *_timing(latency))
    tile("Latency of the ONNX file", quantity(onnx.get("median"), "latency"), *_timing(onnx))
    for name, title in (("latency", "Latency"), ("energy", "Energy")):
        there, most = (target.get("measured") or {}).get(name), (target.get("most") or {}).get(name)
        said = (
            "measured there" if is_number(there) else f"predicted, at most {quantity(most, name)}; not measured there"
        )
        value = there if is_number(there) else (target.get("predicted") or {}).get(name)
        tile(f"{title} on {target.get('name')}", quantity(value, name), said)
    tile("Energy for one image", quantity(energy.get("energy"), "energy"), *_metering(energy))
    peak = summary.get("peak_memory_measured")
    tile(
        "Memory",
        in_bytes(summary.get("memory_bytes")),
        "weights and live activations, one image",
        f"measured peak {in_bytes(peak)}" if is_number(peak) else "",
    )
    small = summary.get("int8") or {}
    tile(
        "Accuracy in int8",
        percent(small.get("accuracy")),
        f"before {percent(small.get('float_accuracy'))}, on {count(small.get('images'))} test images",
        f"{in_bytes(small.get('bytes'))}, before {in_bytes(small.get('float_bytes'))}",
    )
    tile("Parameters", quantity(summary.get("params"), "params"), "trainable numbers")
    tile("Multiply-adds", quantity(summary.get("macs"), "macs"), "for one image")
    tile("Wall-clock time", duration(summary.get("seconds")), "of the whole run")
    rows = [
        row
        for row in (
            (f"Validation {word}", percent(summary.get("validation")), percent(baseline.get("validation"))),
            ("Latency", quantity(latency.get("median"), "latency"), quantity(baseline.get("latency"), "latency")),
            ("Parameters", quantity(summary.get("params"), "params"), quantity(baseline.get("params"), "params")),
        )
        if row[2] != "–" and not itself
    ]
    return {
        "verdict": summary.get("verdict") or _verdict(summary, word),
        "winner": summary.get("winner"),
        "winner_role": summary.get("winner_role"),
        "space": summary.get("space"),
        "tiles": tiles,
        "checks": checks,
        "baseline": baseline,
        "rows": rows,
    }


def _check(name: str, summary: Mapping[str, Any], note: str) -> dict[str, Any]:
    """A row of the limits: what the winner takes, and how that stands to the limit; see facts.standing."""
    found, limit = standing(name, summary), summary["limits"][name]
    got = found["most"] if found["state"] == "predicted" else found["value"]
    known = is_number(got) and limit > 0
    return {
        "name": name,
        "note": note,
        "limit": limit,
        "got": got,
        "most": found["most"],
        "share": got / limit if known else None,
        "state": found["state"] if known else "unknown",
    }


def _metering(energy: Mapping[str, Any]) -> list[str]:
    return [f"at {quantity(energy.get('power'), 'power')}", str(energy.get("source") or "")]


def _timing(timing: Mapping[str, Any]) -> list[str]:
    spread = ""
    if is_number(timing.get("low")) and is_number(timing.get("high")):
        spread = f"{digits(timing['low'])} to {digits(timing['high'])} ms"
    if is_number(timing.get("p95")):
        spread += (", " if spread else "") + f"95th percentile {digits(timing['p95'])} ms"
    threads = timing.get("threads")
    where = [timing.get("device"), timing.get("runtime"), threads and f"{threads} thread{'s' if threads != 1 else ''}"]
    return [spread, ", ".join(str(word) for word in where if word)]


def _verdict(summary: Mapping[str, Any], word: str) -> str:
    test, name = summary.get("test") or {}, summary.get("winner")
    if not name:
        return "No winner yet."
    if not is_number(test.get("value")):
        return f"The winner so far is {name}; it has not been tested."
    return f"{name} reaches {percent(test['value'])} test {word}."
