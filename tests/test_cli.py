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


def unread(data: object, **settings: object) -> None:
    """In place of reading images: what is told before is not worth waiting for."""
    from archscout.data import load

    assert data != "digits", "the images were read"
    load(data, **settings)  # type: ignore[arg-type]


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
        (["search", "digits", "--data", "digits"], "named twice"),
        (["search", "digits", "--share", "0.3"], "add --select random"),
        (["search", "digits", "--select", "random", "--share", "2"], "'share': wanted a number above 0 and at most 1"),
        (["search", "digits", "--metric", "f1"], "wanted auto, accuracy or balanced_accuracy (got 'f1')"),
        (["search", "digits", "--seed", "-1"], "wanted a number at least 0 and below 2147483648, like 0"),
        (["search", "digits", "--budget", "20"], "20 was read as seconds; for minutes type 20m"),
        (["search", "digits", "--split", "1,2,3", "--epochs", "1"], "--split divides a --budget; add --budget 20m"),
        (["search", "digits", "--strategy", "darts"], "error: add --space nasbench201: darts cannot search space"),
        (["search", "digits", "--device-profile", "pi9"], "unknown device 'pi9'"),
        (["search", "digits", "--teacher", "/no/such/run"], "no run"),
        (["search", "--data", "torchvision:CIFAR10"], "--data-root FOLDER"),
        (["train", "--data", "digits", "--arch", "0", "--share", "0.3"], "add --select random"),
        (["train", "--data", "digits", "--arch", "0", "--teacher", "/no/such/run"], "no run"),
        (
            ["profile", "resnet8-w8", "--space", "plain", "--input-shape", "3x8x8", "--power", "5ms"],
            "'5ms' is no power",
        ),
        (["rank", "--limit", "params=300", "--archs", "ARCHS"], "no architecture is within params=300; of the first"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ARCHS").write_text("|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|\n")
    monkeypatch.setattr("archscout.pipeline.load", unread)
    code = run(*words)
    assert not list(Path("runs").glob("*"))
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


def test_rank_on_a_terminal_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from archscout.cli.rank import in_words

    row = {"arch": "0-1", "params": None, "failures": '{"limits": "params 9 k is over 5 k"}', "rank": 2}
    assert in_words(row) == {"arch": "0-1", "params": "-", "failures": "params 9 k is over 5 k", "rank": "-"}
    row = {"arch": "0-1", "params": 9.0, "naswot": None, "failures": '{"naswot": "no ReLU"}', "rank": 2}
    assert in_words(row) == {**row, "naswot": "-", "failures": "naswot: no ReLU"}


def test_methods_of_the_working_folder_are_found_from_the_console_script(tmp_path: Path) -> None:
    (tmp_path / "near.py").write_text(
        "def f(probe):\n    return -float(sum(p.numel() for p in probe.model.parameters()))\n"
    )
    (tmp_path / "numpy.py").write_text("raise SystemExit('the working folder hides what is installed')\n")
    (tmp_path / "archs.txt").write_text("|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|\n")
    script = Path(sys.executable).with_name("archscout")
    line = [script, "rank", "--archs", "archs.txt", "--proxies", "near:f", "--batch-size", "4", "--workers", "1"]
    done = subprocess.run([*line, "--json"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["f"] < 0  # a worker process found it too
    assert row["failures"] == ""


def test_no_file_of_the_working_folder_passes_for_an_optional_package(tmp_path: Path) -> None:
    """pynvml, which reads the power of a GPU, need not be installed; a file of its name may be anybody's."""
    (tmp_path / "pynvml.py").write_text("open('ran', 'w').close()\n")
    code = (
        "import sys\nfrom archscout.cli import main\n"
        "sys.path[:] = [place for place in sys.path if place]\n"  # as the console script has it
        "try:\n    main(['list', 'space'])\nexcept SystemExit:\n    pass\n"
        "from archscout.devices.energy import open_meter\nopen_meter('cuda')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "mobilenet" in done.stdout, done.stderr
    assert not (tmp_path / "ran").exists()


def test_help_shows_defaults_and_flags_of_any_verb(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rich.console.Console.width", 200, raising=False)
    shown = {}
    for verb in ("", "search", "train"):
        assert run(*([verb] if verb else []), "--help") == 0
        shown[verb] = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--debug" in shown[""]
    assert "--quiet" in shown[""]
    for default in ("(default: mobilenet)", "(default: 20m,", "(default: 0.2)", "(default: 120)", "TIME (not of the"):
        assert default in shown["search"]
    assert "runs/DATA-train-N" in shown["train"]
    assert "nasbench201 (200)" in shown["train"]


def test_bench_kit_names_the_next_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("archscout.devices.kit.bench_kit", lambda *a, **k: {"folder": "kit", "networks": 1, "bytes": 0})
    assert run("bench-kit") == 0
    assert "archscout device add NAME measured.json" in capsys.readouterr().out
    assert run("bench-kit", "--run", tmp_path) == 0
    assert f"archscout device check {tmp_path} measured.json" in capsys.readouterr().out


def test_report_wants_a_folder_that_exists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("archscout.facts.facts_of", lambda run: {})
    assert run("report", tmp_path, "--out", tmp_path / "nofolder" / "x.html") == 2
    assert f"there is no folder {tmp_path / 'nofolder'}; make it, or give another --out" in capsys.readouterr().err
    assert run("report", tmp_path, "--out", tmp_path) == 2
    assert "is a folder; give the name of a file" in capsys.readouterr().err


def test_plurals_of_the_kinds_of_methods(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("selectors", "selector", "select"):
        assert run("list", words, "--json") == 0
        assert {row["kind"] for row in json.loads(capsys.readouterr().out)} == {"select"}


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
