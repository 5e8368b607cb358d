"""The command line: exit codes, one-line errors, help, JSON, and what Ctrl-C leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from archscout.cli import main

HERE = Path(__file__).parent


def run(*words: object) -> int:
    """Exit code of a command line in this process."""
    try:
        main([str(word) for word in words])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["search"], "no data given"),
        (["search", "--data", "/no/such/folder"], "does not exist"),
        (["search", "--data", "digits", "--space", "mobilnet"], "did you mean 'mobilenet'"),
        (["search", "--data", "digits", "--limit", "latency=fast"], "latency"),
        (["search", "--data", "digits", "--limit", "lateny=5ms"], "did you mean 'latency'"),
        (["search", "--data", "digits", "--budget", "whenever"], "20m"),
        (["search", "--data", "digits", "--config", "/no/such.toml"], "cannot read the config file"),
        (["search", "--wrong"], "No such option"),
        (["resume", "/no/such/run"], "no run"),
        (["report", "/no/such/run"], "no run"),
        (["predict", "/no/such/run", "a.png"], "finish the run first"),
        (["export", "/no/such/run"], "no run"),
        (["train"], "train wants a run folder"),
        (["list", "spaec"], "did you mean 'space'"),
        (["rank", "--archs", "/no/such/file"], "cannot read"),
        (["rank", "--space", "nasbench201", "--proxies", "sinflow"], "did you mean 'synflow'"),
        (["nothing"], "nothing"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(*words)
    shown = capsys.readouterr().err.strip()
    assert code == 2, shown
    assert told in shown
    assert len(shown.splitlines()) == 1
    assert "Traceback" not in shown


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    code = run("search", "--data", "/no/such/folder", "--debug")
    assert code == 2
    assert "Traceback" in capsys.readouterr().err


def test_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"mobilenet", "nasbench201"} <= {row["name"] for row in rows if row["kind"] == "space"}
    assert all(row["what"] for row in rows)


def test_help_needs_no_torch() -> None:
    code = "import sys; from archscout.cli import app, register; register(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_rank_writes_a_table_and_continues_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pandas as pd

    archs = [
        "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|",
        "|none~0|+|nor_conv_1x1~0|none~1|+|nor_conv_1x1~0|avg_pool_3x3~1|none~2|",
        "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|",
    ]
    file, out = tmp_path / "archs.txt", tmp_path / "scores.csv"
    file.write_text("\n".join(archs[:2]) + "\n")
    line = ["rank", "--space", "nasbench201", "--archs", file, "--proxies", "params,naswot", "--batch-size", 8]
    assert run(*line, "--workers", 0, "--out", out) == 0
    first = pd.read_csv(out)
    assert list(first.columns) == ["arch", "params", "naswot", "failures", "rank"]
    assert list(first["arch"]) == archs[:2]
    file.write_text("\n".join(archs) + "\n")
    assert run(*line, "--workers", 0, "--out", out) == 0
    second = pd.read_csv(out)
    pd.testing.assert_frame_equal(second.iloc[:2].drop(columns="rank"), first.drop(columns="rank"))
    assert list(second["arch"]) == archs
    assert second["params"][0] == second["params"][2]  # the convolution reaches nothing: one canonical form
    assert second["rank"][0] == second["rank"][2]
    assert sorted(set(second["rank"])) == [1, 2]
    file.write_text("no architecture\n")
    capsys.readouterr()
    assert run(*line, "--out", tmp_path / "other.csv") == 2
    assert "line 1" in capsys.readouterr().err
    file.write_text(archs[0] + "\n")
    assert run(*line, "--seed", 1, "--out", out) == 2
    assert "seed was 0, is 1" in capsys.readouterr().err


def test_config_file_and_flags(tmp_path: Path) -> None:
    from archscout.config import make_config, read_toml

    path = tmp_path / "run.toml"
    path.write_text('data = "digits"\nepochs = 3\nseed = 4\n[limits]\nlatency = "5ms"\n')
    config = make_config({**read_toml(path), "seed": 9})
    assert (config.seed, config.epochs, config.limits) == (9, 3.0, {"latency": 5.0})
    path.write_text("data = [unclosed")
    assert run("search", "--config", path) == 2
    path.write_text('data = "digits"\nspcae = "mobilenet"\n')
    assert run("search", "--config", path) == 2


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_computed(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    found = load_digits()
    np.savez(tmp_path / "d.npz", X=(found.images[:300] * 15).astype(np.uint8), y=found.target[:300])
    out = tmp_path / "run"
    line = [
        sys.executable, "-m", "archscout", "search", "--data", str(tmp_path / "d.npz"), "--out", str(out),
        "--workers", "2", "--candidates", "400", "--finalists", "1", "--epochs", "1", "--proxies", "macs,synflow",
    ]  # fmt: skip
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"})
    log = out / "trials.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count('"event":"trial/') > 20):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 1, told
    assert "archscout resume" in told.splitlines()[-1]
    assert "Traceback" not in told
    assert log.read_text().endswith("\n")
    assert all(json.loads(text) for text in log.read_text().splitlines())
