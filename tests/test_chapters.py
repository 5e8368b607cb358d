"""The report's chapter on a search by a supernet: epochs over stages, alphas, the subset, and collapse."""

from __future__ import annotations

import json
from typing import Any

import pytest

from archscout import page
from archscout.page import supernet

LABELS = [["0->1", ["none", "skip", "conv"]], ["0->2", ["none", "skip", "conv"]]]


def story(stages: int = 3, epochs: int = 4, **more: Any) -> dict[str, Any]:
    history, alphas, audits = [], [], []
    for stage in range(stages):
        for epoch in range(1, epochs + 1):
            row = {"epoch": float(epoch), "step": epoch, "seconds": 1.0, "loss": 1.0, "arch_loss": 1.0, "accuracy": 0.5}
            row |= {"entropy": 0.9, "skips": 1, "arch": [1, 2], "round": epoch, "share": 0.25}
            history.append(row | ({"stage": stage} if stages > 1 else {}))
            alphas.append([[0.2, 0.5, 0.3], [0.1, 0.2, 0.7]])
        audit = {"round": epochs, "images": [5, 5, 10], "n": [5, 5, 10], "accuracy": [0.9, 0.8, None], "gap": None}
        audits.append({**audit, "error": None, "size": 5, "drifted": False, "epoch": float(epochs), "stage": stage})
    return {
        "history": history, "alphas": alphas, "audits": audits, "seconds": 9.0, "stopped": None, "collapsed": None,
        **more,
    }  # fmt: skip


def found(**more: Any) -> dict[str, Any]:
    return {
        "method": "pdarts", "arch": "a", "derived": "a", "epochs": 12.0, "selector": "dds", "labels": LABELS,
        "skips": 1, "story": story(), **more,
    }  # fmt: skip


def test_epochs_go_on_over_the_stages() -> None:
    figures: dict[str, Any] = {}
    shown = supernet.section({"supernet": found()}, figures)
    assert shown is not None
    assert [line["x"] for line in figures["supernet"]["data"]] == [[float(e) for e in range(1, 13)]] * 2
    assert (shown["epochs"], shown["stages"], shown["rounds"], shown["audits"]) == (12.0, 3, 12, 3)
    lines = {line["name"]: line for line in figures["supernet_subset"]["data"]}
    assert lines["accuracy on selected images"]["x"] == [4.0, 8.0, 12.0]
    assert "accuracy on never selected images" not in lines  # nothing to say of them
    assert lines["images in a round, of all"]["y"] == [25.0] * 12


def test_alphas_are_drawn_and_stay_small() -> None:
    many = [[f"edge {k}", [f"op {o}" for o in range(8)]] for k in range(28)]
    row = [0.125] * 8
    long = story(1, 500, alphas=[[row] * 28] * 500)
    figures: dict[str, Any] = {}
    supernet.section({"supernet": found(story=long, labels=many)}, figures)
    (heat,) = figures["alphas"]["data"]
    assert len(heat["z"]) == len(heat["y"]) == len(set(heat["y"])) == 28 * 8 + 27
    assert (heat["x"][0], heat["x"][-1], len(heat["x"])) == (1.0, 500.0, supernet.COLUMNS)
    assert len(json.dumps(figures["alphas"])) < 60_000
    supernet.section({"supernet": found()}, figures)
    (heat,) = figures["alphas"]["data"]
    assert heat["z"][:4] == [[20] * 12, [50] * 12, [30] * 12, [None] * 12]


@pytest.mark.parametrize("collapsed", [None, {"epoch": 2.0, "skips": 3, "edges": 6, "stage": 1}])
def test_collapse_is_said_only_where_it_was(collapsed: dict[str, Any] | None) -> None:
    text = " ".join(page.render({"supernet": found(story=story(collapsed=collapsed))}).split())
    assert ("collapsed into skip connections" in text) == (collapsed is not None)
    if collapsed:
        assert "from epoch 6 on, when skips were 3 of the 6 edges" in text
    assert "from above: none, skip, conv" in text
    assert "<dt>skip connections</dt><dd>1</dd>" in text
    widths = page.render({"supernet": found(skips=None, selector="full", labels=None)})
    assert "<dt>skip connections" not in widths
    assert 'data-figure="supernet_subset"' not in widths
    assert 'data-figure="alphas"' not in widths
