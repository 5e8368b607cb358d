"""The verb rank as a function: limits, seeds, what is computed once, and what a stopped call leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archscout.aggregate import INPUTS, aggregate
from archscout.errors import UserError
from archscout.probe import Probe
from archscout.ranking import rank
from archscout.spaces.nasbench201 import nasbench201

SPACE = nasbench201((3, 8, 8), 4, channels=4, cells=1)
CELLS = [
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|",
    "|nor_conv_1x1~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|",
    "|skip_connect~0|+|none~0|nor_conv_3x3~1|+|nor_conv_1x1~0|none~1|nor_conv_1x1~2|",
    "|nor_conv_3x3~0|+|avg_pool_3x3~0|none~1|+|none~0|nor_conv_3x3~1|skip_connect~2|",
    "|avg_pool_3x3~0|+|none~0|none~1|+|skip_connect~0|nor_conv_1x1~1|none~2|",
    "|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|nor_conv_3x3~0|nor_conv_1x1~1|nor_conv_1x1~2|",
]
SMALL: dict[str, Any] = {
    "space": SPACE, "input_shape": (3, 8, 8), "classes": 4, "batch_size": 8, "workers": 0,
    "proxies": ["params", "snip"],
}  # fmt: skip


def test_the_rank_is_the_aggregate_of_its_own_inputs() -> None:
    table = rank(archs=CELLS, **SMALL)
    inputs = rank(archs=CELLS, **{**SMALL, "proxies": list(INPUTS)})
    scores = [{name: row[name] for name in INPUTS} for row in inputs.to_dict("records")]
    assert table["rank"].tolist() == aggregate(scores).tolist()
    assert list(table.columns) == ["arch", "params", "snip", "failures", "rank"]


def test_twins_share_a_rank_and_the_next_row_comes_after_all_of_them() -> None:
    best, other = rank(archs=CELLS, **SMALL).sort_values("rank")["arch"][:2]
    table = rank(archs=[best, other, best, best], **SMALL)
    assert table["rank"].tolist() == [1, 4, 1, 1]


def test_what_is_over_a_limit_is_not_scored_and_comes_last(tmp_path: Path) -> None:
    free = rank(archs=CELLS, **SMALL)
    middle = int(free["params"].median())
    calls: list[int] = []

    def counting(probe: Probe) -> float:
        calls.append(1)
        return 1.0

    table = rank(archs=CELLS, limits=[f"params={middle}"], **{**SMALL, "proxies": ["params", counting]})
    over = (free["params"] > middle).to_numpy()
    assert 0 < over.sum() < len(over)
    assert len(calls) == (~over).sum()
    assert table["params"].isna().tolist() == over.tolist()
    assert (table["rank"][over] == (~over).sum() + 1).all()
    assert (table["rank"][~over] <= (~over).sum()).all()
    assert "is over" in json.loads(table["failures"][over].iloc[0])["limits"]


def test_seeds_average_and_state_their_spread() -> None:
    table = rank(archs=CELLS[:2], seeds=3, **SMALL)
    assert list(table.columns) == ["arch", "params", "snip", "params_spread", "snip_spread", "failures", "rank"]
    assert (table["params_spread"] == 0).all()
    assert (table["snip_spread"] > 0).all()
    assert not np.allclose(table["snip"], rank(archs=CELLS[:2], **SMALL)["snip"])


def test_a_stopped_call_goes_on_and_a_torn_line_is_cut(tmp_path: Path) -> None:
    out, seen = tmp_path / "scores.csv", []

    def watched(probe: Probe) -> float:
        seen.append(1)
        return float(len(seen))

    options = {**SMALL, "proxies": [watched], "out": out}
    whole = rank(archs=CELLS, **options)
    assert len(seen) == len(CELLS)
    log = Path(f"{out}.log")
    lines = log.read_text().splitlines(keepends=True)
    out.unlink()
    log.write_text("".join(lines[:3]) + lines[3][:20])  # the settings, two scorings, and half a line
    again = rank(archs=CELLS, **options)
    assert len(seen) == 2 * len(CELLS) - 2
    assert again["watched"][:2].tolist() == whole["watched"][:2].tolist()
    assert rank(archs=CELLS, **options).equals(again)
    assert len(seen) == 2 * len(CELLS) - 2


def test_more_proxies_later_compute_only_those(tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    first = rank(archs=CELLS, out=out, **SMALL)
    more = rank(archs=CELLS, out=out, **{**SMALL, "proxies": ["params", "snip", "zen"]})
    assert more[["params", "snip", "rank"]].equals(first[["params", "snip", "rank"]])
    last = json.loads(Path(f"{out}.log").read_text().splitlines()[-1])
    assert set(last["scores"]) == {"zen"}


def test_a_profile_predicts_latency_for_a_limit(tmp_path: Path) -> None:
    from archscout.devices.profile import measure_profile

    profile = measure_profile(SPACE, networks=4, seconds=1.0)
    path = tmp_path / "device.json"
    path.write_text(json.dumps(profile.to_json()))
    table = rank(archs=CELLS, limits={"latency": "1us"}, device_profile=path, **SMALL)
    assert table["failures"].str.contains("latency").all()
    assert (table["rank"] == 1).all()
    assert rank(archs=CELLS, limits={"latency": "10s"}, device_profile=profile, **SMALL)["failures"].eq("").all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 1}, "2 or more"),
        ({"seeds": 0}, "1 or more"),
        ({"limits": {"latency": "5ms"}, "device_profile": "/no/such/file"}, "cannot read the device profile"),
        ({"limits": {"parms": 3}}, "did you mean 'params'"),
        ({"proxies": ["sinflow"]}, "did you mean 'synflow'"),
        ({"data": "digits", "images": "hrad", "space": "nasbench201"}, "did you mean 'hard'"),
    ],
)
def test_mistakes_are_told_plainly(change: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        rank(archs=CELLS[:1], **{**SMALL, **change})


def test_a_csv_without_its_log_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    out.write_text("arch\n")
    with pytest.raises(UserError, match="give another --out"):
        rank(archs=CELLS[:1], out=out, **SMALL)
    assert out.read_text() == "arch\n"
