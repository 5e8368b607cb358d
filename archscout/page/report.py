"""The page of a run: its sections in order, filled in or with a line that says why there is nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archscout.files import write_whole
from archscout.page import (
    audit,
    data,
    failures,
    front,
    network,
    plan,
    proxies,
    reproduce,
    selection_audit,
    short,
    summary,
    supernet,
    time,
    training,
    use,
    verification,
)
from archscout.page.html import fill
from archscout.page.shape import Facts, Figures


def write_report(facts: Facts | Mapping[str, Any], path: str | Path) -> Path:
    """Write the page of a run to `path` and return the path; opens offline in any browser.

    facts: see `Facts`; any part may be missing. Costs about a second for 100,000 candidates; the file has about
    5 MB (plotly.js) plus at most 1 MB of points. Of more than 4,000 candidates an even share by rank is drawn, with
    every finalist, every member of a front and the best ranks, and the page says so.
    """
    path = Path(path)
    write_whole(path, render(facts))
    return path


def render(facts: Facts | Mapping[str, Any]) -> str:
    """The HTML text of a run's page; `write_report` is the same into a file."""
    return fill("report.html", view_of(facts))


def view_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows and plotly draws: every section, whose file draws it, or why there is nothing."""
    figures: Figures = {}
    unfinished = facts.get("state") == "unfinished"
    sections = []
    for key, title, build in (
        ("network", "The network", network.section),
        ("front", "What it was chosen from", front.section),
        ("verification", "Verification: trainings side by side", verification.section),
        ("proxies", "Did the proxies predict it?", proxies.section),
        ("training", "Full training", training.section),
        ("audit", "Audit of the trained network", audit.section),
        ("time", "Where the time went", time.section),
        ("data", "The images", data.section),
        ("plan", "The plan and its changes", plan.section),
        ("use", "How to use it", use.section),
        ("reproduce", "How to get it again", reproduce.section),
        ("failures", "Failures", failures.section),
    ):
        shown = build(facts, figures)
        absent = ""
        if isinstance(shown, str):
            absent, shown = shown + (" The run is not finished." if unfinished else ""), {}
        sections.append({"key": key, "title": title, "absent": absent, **shown})
    for key, title, before, chapter in (
        ("supernet", "The search by a supernet", "front", supernet.section(facts, figures)),
        ("short", "The search by accuracy", "verification", short.section(facts, figures)),
        ("selection_audit", "Images it was not trained on", "audit", selection_audit.section(facts, figures)),
    ):
        if chapter is not None:
            place = next(i for i, section in enumerate(sections) if section["key"] == before)
            sections.insert(place, {"key": key, "title": title, "absent": "", **chapter})
    return {
        "title": str(facts.get("title") or "archscout report"),
        "version": facts.get("version"),
        "created": facts.get("created"),
        "unfinished": unfinished,
        "notes": list((facts.get("data") or {}).get("notes") or ()),
        "summary": summary.section(facts),
        "sections": sections,
        "figures": figures,
    }
