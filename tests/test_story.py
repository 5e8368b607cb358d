"""The verb select: what is noted of each round, the tables, and what a real browser makes of the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chromium import open_page
from PIL import Image

import archscout
from archscout.cli import main
from archscout.page.words import percent
from archscout.selection import SELECTORS
from archscout.selection.hard_random import HardRandom
from archscout.selection.page import tiles, view_of, write_page
from archscout.selection.story import COLUMNS, Story, Watch, begun, select_story, taken_in_turn

pytestmark = pytest.mark.usefixtures("quick_profile")

HOSTILE = "<img src=x onerror=\"document.title='pwned'\">%{x}"
TINY: dict[str, Any] = {"arch": "resnet8-w8", "threads": 1}


class Labels:
    def __init__(self, *counts: int) -> None:
        self.labels = np.repeat(np.arange(len(counts)), counts)

    def __len__(self) -> int:
        return len(self.labels)


def images(folder: Path) -> Path:
    """40 images of 8 x 8 in each of three classes that differ in colour; names are markup, some labels are wrong."""
    draw = np.random.default_rng(0)
    for number, name in enumerate(("red", HOSTILE, "blue & green")):
        (folder / name).mkdir(parents=True)
        for k in range(40):
            pixels = draw.integers(0, 90, (8, 8, 3))
            pixels[..., number if k % 13 else (number + 1) % 3] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{k:02d} <b>.png")
    return folder


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("images")
    return select_story(
        images(folder / "in"), "dds", share=0.3, epochs=6, out=folder / "out", embedding="pixels", mastery=0.1, top=0.2,
        patience=1, doubt=0.0, **TINY,
    )  # fmt: skip


def told_round(selector: HardRandom) -> None:
    """Made-up outcomes of the current round: right with a chance that grows with the round."""
    record = selector.record
    draw = torch.Generator().manual_seed(record.round)
    logits = torch.randn(len(record.subset), 3, generator=draw)
    target = record.labels[record.subset]
    logits[torch.arange(len(target)), target] += 0.3 * record.round
    selector.note(record.subset, torch.nn.functional.cross_entropy(logits, target, reduction="none"), logits, target)


def test_rounds_are_noted_as_they_are_and_nothing_changes() -> None:
    plain, watched = (HardRandom(Labels(30, 30, 30), seed=1, share=0.3, mastery=0.2, top=0.4) for _ in range(2))
    watch = Watch(watched)
    before: set[int] = set()
    ever: set[int] = set()
    for number in range(1, 13):
        mastered = {i for i in before if plain.record.true[i] >= 0.5}
        assert torch.equal(plain.next_round(), watched.next_round())
        now = set(plain.record.subset.tolist())
        noted = watch.rounds[-1]
        assert noted["round"] == number
        assert noted["images"] == len(now) == sum(noted["classes"])
        assert noted["update"] == (number > 1 and now != before)
        assert noted["kept_hard"] == len((now & before) - mastered)
        assert noted["kept_mastered"] == len(now & before & mastered)
        assert noted["replaced"] == len(before - now)
        assert noted["new"] == len(now - ever)
        if noted["update"]:
            assert {swap[1] for swap in watch.swaps() if swap[0] == number} <= before - now
            assert {swap[2] for swap in watch.swaps() if swap[0] == number} <= now - before
        for selector in (plain, watched):
            told_round(selector)
        watch.close()
        hard = [i for i in now if plain.record.true[i] < 0.5]
        assert noted["hard"] == len(hard) == sum(noted["hard_classes"])
        assert noted["mastered"] == pytest.approx(1 - len(hard) / len(now))
        assert noted["seen"] == len(now)
        before, ever = now, ever | now
    assert sum(noted["update"] for noted in watch.rounds) >= 3
    swaps = watch.swaps()
    assert 0 < len(swaps) <= 12
    labels = plain.record.labels
    assert all(labels[left] == labels[came] and left != came and 0 <= true <= 1 for _, left, came, true, _ in swaps)
    assert len({labels[left].item() for _, left, *_ in swaps}) == 3


def test_what_is_shown_is_of_all_classes() -> None:
    assert taken_in_turn([0, 0, 0, 2, 2, 1], 4) == [0, 5, 3, 1]
    assert taken_in_turn([0, 0, 0, 2, 2, 1], 9, first=1) == [5, 3, 0, 4, 1, 2]
    assert taken_in_turn([], 3) == []


def test_tables_agree(story: Story) -> None:
    facts, table = story.facts, story.to_dataframe()
    assert tuple(table.columns) == COLUMNS
    assert len(table) == facts["images"] == sum(facts["counts"])
    assert set(table["class"]) == {"red", HOSTILE, "blue & green"}
    assert table["image"].str.endswith(" <b>.png").all()
    assert (table["times"] > 0).sum() == facts["ever"] == sum(entry["new"] for entry in story.rounds)
    assert table["times"].sum() == sum(entry["images"] for entry in story.rounds)
    assert table["seen"].max() == len(story.rounds) == story.rounds[-1]["round"]
    assert table["true"].isna().sum() == (table["seen"] == 0).sum()
    assert table["suspected"].sum() == facts["suspected"] == len(facts["suspects"]) > 0
    never = table[table["times"] == 0]["class"].value_counts()
    assert [never.get(name, 0) for name in facts["classes"]] == facts["never"]
    assert facts["updates"] > 0
    assert 0 < len(facts["pairs"]) <= 12
    for pair in facts["pairs"]:
        assert pair["left"]["class"] == pair["came"]["class"]
        assert story.rounds[pair["round"] - 1]["update"]
    assert sum(row["images"][k] for row in facts["by_cluster"] for k in range(3)) == facts["images"]
    assert [row["number"] for row in facts["by_class"]] == [0, 1, 2]
    assert facts["audits"]
    assert facts["final"]["n"] == facts["final"]["images"]
    assert {row["stage"] for row in facts["time"]} >= {"embedding, for this page only", "choosing images", "training"}
    assert facts["command"].startswith("archscout select ")
    assert Story(story.folder).rounds == story.rounds


def test_the_cost_of_selecting_has_the_embedding_only_where_it_is_read(story: Story) -> None:
    seconds = {"choosing images": 1.0, "training": 8.0}
    for stage, share, told in (
        ("embedding", 2 / 10, "the embedding included"),
        ("embedding, for this page only", 1 / 9, "no embedding needed"),
    ):
        rows = [{"stage": name, "seconds": value} for name, value in {stage: 1.0, **seconds}.items()]
        tile = tiles({**story.facts, "time": rows})[-1]
        assert tile["name"] == "Cost of selecting"
        assert tile["value"] == percent(share)
        assert told in tile["notes"]
    for among in (1, 2, None):
        part = Labels(5, 5)
        assert SELECTORS["dds"](part, embedding=np.zeros((10, 1)), among=among).embeds == (among != 1)
        assert not SELECTORS["hard_random"](part, among=among).embeds


def test_browser_draws_the_page_and_shows_names_literally(story: Story) -> None:
    text = story.page.read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert "<b>.png" not in text
    opened = open_page(story.page)
    assert opened.console == []
    assert opened.requests == []
    title = re.search(r"<title>(.*?)</title>", opened.dom, re.S)
    assert title is not None
    assert title[1] == "What dds chose"
    figures = re.findall(r'class="figure[^"]*" data-figure="([^"]+)"', opened.dom)
    assert {"rounds", "changes", "classes", "hard_classes", "drift"} <= set(figures)
    assert f'data-drawn="{len(figures)}"' in opened.dom
    for chunk in re.split(r'class="figure[^"]*" data-figure="', opened.dom)[1:]:
        assert 'class="main-svg"' in chunk
    assert len(re.findall(r'<img class="thumb', opened.dom)) >= 2 * len(story.facts["pairs"]) + 12


def test_many_classes_are_a_map_and_plotly_accepts_it(story: Story, tmp_path: Path) -> None:
    import plotly.graph_objects as go

    facts = json.loads(json.dumps(story.facts))
    many = 50
    facts["classes"] = [f"{HOSTILE} {k}" for k in range(many)]
    facts["counts"], facts["never"] = [5] * many, [k % 3 for k in range(many)]
    for entry in facts["rounds"]:
        entry["classes"] = entry["hard_classes"] = [(entry["round"] + k) % 4 for k in range(many)]
    facts["by_class"] = [{**facts["by_class"][0], "number": k} for k in range(many)]
    view = view_of(facts, {})
    assert view["figures"]["classes"]["data"][0]["type"] == "heatmap"
    for figure in view["figures"].values():
        text = json.dumps(figure).replace('"@share"', '"Blues"')
        assert "<img" not in text
        go.Figure(json.loads(re.sub(r'"@\w+"', '"#123456"', text)))
    assert "<img src=x" not in write_page(facts, {1: "javascript:alert(1)"}, tmp_path / "p.html").read_text("utf-8")


@pytest.mark.parametrize("selector", ["full", "fixed", "random", "infobatch"])
def test_any_selector_has_a_page(selector: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    data = (draw.integers(0, 255, (60, 8, 8), dtype=np.uint8), np.arange(60) % 3)
    found = select_story(data, selector, share=0.5, epochs=2, out=tmp_path / "out", **TINY)
    facts = found.facts
    assert facts["pairs"] == []
    assert facts["by_cluster"] == []
    assert (facts["updates"] == 0) == (selector in ("full", "fixed"))
    assert sum(facts["never"]) == (18 if selector == "fixed" else facts["images"] - facts["ever"])
    assert f"What {selector} chose" in found.page.read_text(encoding="utf-8")


def test_what_is_no_selector_is_said(tmp_path: Path) -> None:
    data = (np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8), np.arange(60) % 3)
    for wrong, told in ((lambda part, **settings: 1, "made int"), (SELECTORS["full"](Labels(3)), "not a ready one")):
        with pytest.raises(archscout.UserError, match=told):
            select_story(data, wrong, out=tmp_path / "out", **TINY)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["digits", "--select", "ddss"], "did you mean 'dds'"),
        (["digits", "--share", "1.5"], "share is above 0 and at most 1, got 1.5"),
        (["digits", "--epochs", "0"], "epochs is above 0"),
        (["digits", "--seed", "-1"], "seed is a whole number"),
        (["digits", "--space", "plane"], "did you mean 'plain'"),
        (["digits", "--space", "mobilenet"], "give it with --arch"),
        (["digits", "--select", "random", "--arch", "resnet9"], "resnet20-w16"),
        (["digits", "--select", "random", "--share", "0.001"], "cannot hold 10 classes"),
        (["/no/such/folder"], "does not exist"),
        (["digits", "--out", "FULL"], "is not empty"),
        ([], "Missing argument"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    words = [str(tmp_path / "full") if word == "FULL" else word for word in words]
    out = [] if "--out" in words else ["--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        main(["select", *words, *out])
    shown = capsys.readouterr().err.strip()
    assert stop.value.code == 2, shown
    assert told in shown
    assert len(shown.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_the_command_line_prints_rounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(
        tmp_path / "grey.npz", X=np.random.default_rng(0).integers(0, 255, (40, 8, 8), np.uint8), y=np.arange(40) % 2
    )
    line = ["select", str(tmp_path / "grey.npz"), "--select", "hard_random", "--share", "0.5", "--epochs", "1"]
    line += ["--arch", "resnet8-w8", "--train-threads", "1"]
    main([*line, "--out", str(tmp_path / "one"), "--json"])
    rounds = json.loads(capsys.readouterr().out)
    assert [entry["round"] for entry in rounds] == [1, 2]
    assert rounds == json.loads((tmp_path / "one" / "selection.json").read_text())["rounds"]
    main([*line, "--out", str(tmp_path / "two")])
    assert str(tmp_path / "two" / "selection.html") in capsys.readouterr().out
    again, first = (Story(tmp_path / name).to_dataframe() for name in ("one", "two"))
    assert again.equals(first)


def test_a_folder_that_nothing_was_written_into_goes_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), begun(tmp_path / "new"):
        raise RuntimeError
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(RuntimeError), begun(tmp_path / "empty"):
        raise RuntimeError
    assert (tmp_path / "empty").exists()
    with pytest.raises(archscout.UserError, match="cannot make"), begun(Path("/proc/nothing/here")):
        pass


def test_the_list_of_selectors_is_complete() -> None:
    rows = archscout.methods("select")
    assert {row["name"] for row in rows} == set(SELECTORS)
    assert all(row["what"] for row in rows)
