"""The main job as a whole: what it leaves, that it resumes, that workers do not matter, that test stays closed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import mine
import numpy as np
import pytest

import archscout
from archscout.clock import Deadline
from archscout.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_profile")

COUNTS = {"candidates": 12, "finalists": 2, "epochs": 2.0, "train_threads": 1, "proxies": ("macs", "naswot", "synflow")}


@pytest.fixture(scope="module")
def finished(npz: Path, tmp_path_factory: pytest.TempPathFactory) -> archscout.Result:
    out = tmp_path_factory.mktemp("runs") / "whole"
    return archscout.search(str(npz), out=out, workers=0, limits={"params": "40k"}, **COUNTS)


def essence(folder: Path) -> dict:
    """What two equal runs share: proposals and scores in order, the verification, the winner, the weights."""
    events = archscout.Result(folder).events
    return {
        "trials": [
            (key, value.get("scores"), value.get("failures"))
            for key, value in events.items()
            if key.startswith("trial/")
        ],
        "verified": [
            (r["key"], r["role"], r["validation"], r["eliminated_after"], [x["epochs"] for x in r["rounds"]])
            for r in events["verified"]
        ],
        "winner": events["winner"],
        "test": events["audit"]["parts"]["test"],
        "weights": hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest(),
    }


def test_a_run_leaves_everything_behind(finished: archscout.Result) -> None:
    names = {path.name for path in finished.folder.iterdir()}
    assert names >= {
        "config.toml", "trials.jsonl", "architecture.json", "weights.safetensors", "model.onnx", "report.html",
        "run.log", "split.csv",
    }  # fmt: skip
    assert finished.finished
    best = finished.best
    assert best["costs"]["params"] <= 40_000 or best["role"] == "baseline"
    assert best["test"]["n"] > 0
    assert 0 <= best["test"]["accuracy"] <= 1
    assert {r["role"] for r in finished.events["verified"]} == {"finalist", "largest", "random", "baseline"}
    assert all(r["costs"]["params"] <= 40_000 for r in finished.events["verified"])
    assert finished.events["deployed"]["max_difference"] < 1e-3
    frame = finished.to_dataframe()
    assert len(frame) == len(finished.candidates)
    assert frame.loc[frame["rank"].notna(), "params"].max() <= 40_000
    assert frame["rank"].min() == 1
    assert finished.front
    about = json.loads((finished.folder / "architecture.json").read_text())
    assert about["arch"] == best["arch"]


def test_the_trained_network_comes_back(finished: archscout.Result, images: tuple, tmp_path: Path) -> None:
    import torch

    about = json.loads((finished.folder / "architecture.json").read_text())
    pixels = torch.from_numpy(images[0][:50]).float()[:, None]
    mean, std = (torch.tensor(about[k]).view(1, -1, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        labels = finished.model()((pixels - mean) / std).argmax(1).numpy()
    exported = finished.export_onnx(tmp_path / "again.onnx")
    from PIL import Image

    files = []
    for i, image in enumerate(images[0][:50]):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(files[-1])
    found = archscout.predict(exported, files)
    assert [p.label for p in found] == [about["classes"][k] for k in labels]
    assert all(0 < p.confidence <= 1 for p in found)


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "archscout", *map(str, words)]


def flags(npz: Path, out: Path) -> list[str]:
    counts = ["--candidates", "12", "--finalists", "2", "--epochs", "2", "--train-threads", "1"]
    return ["--data", str(npz), "--limit", "params=40k", "--proxies", "macs,naswot,synflow", *counts, "--out", str(out)]


@pytest.mark.slow
def test_killed_anywhere_and_resumed_equals_uninterrupted(
    finished: archscout.Result, npz: Path, tmp_path: Path
) -> None:
    """kill -9 at random moments, again and again, until the run gets through; then compare with the whole run."""
    rng = random.Random(time.time_ns())
    out, kills = tmp_path / "killed", 0
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    start = [*command("search"), *flags(npz, out), "--workers", "0"]
    for _ in range(5):
        line = start if not (out / "trials.jsonl").exists() else command("resume", out)
        before = (out / "trials.jsonl").stat().st_size if (out / "trials.jsonl").exists() else 0
        process = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:  # let it get somewhere before it is killed
            if (out / "trials.jsonl").exists() and (out / "trials.jsonl").stat().st_size > before + 200:
                break
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 6))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        else:
            break
    if not (out / "config.toml").exists():
        pytest.fail("the run never began")
    resumed = archscout.resume(out)
    assert kills >= 2
    assert essence(out) == essence(finished.folder)
    assert resumed.finished


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, "ray"])
def test_any_number_of_workers_gives_the_same_run(
    workers: int | str, finished: archscout.Result, npz: Path, tmp_path: Path
) -> None:
    if workers == "ray":
        pytest.importorskip("ray", reason="Ray is an optional extra")
    archscout.search(str(npz), out=tmp_path / "run", workers=workers, limits={"params": "40k"}, **COUNTS)
    assert essence(tmp_path / "run") == essence(finished.folder)


@pytest.mark.slow
def test_the_test_part_decides_nothing(finished: archscout.Result, images: tuple, tmp_path: Path) -> None:
    """Every test image replaced by noise: only the audit of the test part may change."""
    import csv

    with open(finished.folder / "split.csv", encoding="utf-8") as file:
        parts = np.array([row["part"] for row in csv.DictReader(file)])
    pixels = images[0].copy()
    rng = np.random.default_rng(0)
    keep = parts != "test"
    pixels[~keep] = rng.integers(0, 256, pixels[~keep].shape)
    poisoned, clean = tmp_path / "poisoned.npz", tmp_path / "clean.npz"
    for path, x in ((poisoned, pixels), (clean, images[0])):
        np.savez(path, X=x[keep], y=images[1][keep], X_test=x[~keep], y_test=images[1][~keep])
    found = {}
    for path in (poisoned, clean):
        archscout.search(str(path), out=tmp_path / path.stem, workers=0, limits={"params": "40k"}, **COUNTS)
        found[path.stem] = essence(tmp_path / path.stem)
    assert found["poisoned"].pop("test") != found["clean"].pop("test")
    assert found["poisoned"] == found["clean"]


def test_the_test_part_is_opened_once_and_last(finished: archscout.Result) -> None:
    order = list(finished.events)
    assert order.index("trained") < order.index("audit")
    assert not [key for key in order[: order.index("audit")] if "test" in key]


def test_own_methods_by_value_and_by_name(npz: Path, tmp_path: Path) -> None:
    few = {"candidates": 6, "finalists": 1, "epochs": 0.5, "workers": 0, "train_threads": 1}
    by_value = archscout.search(
        str(npz), out=tmp_path / "value", space=mine.chain, strategy=mine.Sweep, proxies=("macs", mine.slowness), **few
    )
    by_name = archscout.search(
        str(npz),
        out=tmp_path / "name",
        space="mine:chain",
        strategy="mine:Sweep",
        proxies="macs,mine:slowness",
        **few,
    )
    assert essence(by_value.folder) == essence(by_name.folder)
    assert "slowness" in by_value.to_dataframe().columns
    ready = mine.chain((1, 8, 8), 10)
    as_space = archscout.search(str(npz), out=tmp_path / "space", space=ready, proxies=(mine.slowness,), **few)
    assert as_space.best["arch"]
    assert archscout.resume(by_name.folder).best == by_name.best


def test_own_proxy_scores_a_model() -> None:
    import torch

    model = mine._network(3, 4, {"depth": 2, "width": 8})
    found = archscout.score(model, torch.randn(8, 3, 8, 8), torch.randint(4, (8,)), proxies=(mine.slowness, "params"))
    assert found["slowness"] == -float(sum(1 for _ in model.modules()))
    assert found["params"] == sum(p.numel() for p in model.parameters())


def test_limits_that_nothing_meets_name_the_nearest(npz: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nearest"):
        archscout.search(str(npz), out=tmp_path / "none", workers=0, limits={"params": 10}, **COUNTS)
    assert not (tmp_path / "none").exists()  # so that the same command can be tried with other limits


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"space": "mobilnet"}, "did you mean 'mobilenet'"),
        ({"strategy": "evolutoin"}, "did you mean 'evolution'"),
        ({"proxies": "sinflow"}, "did you mean 'synflow'"),
        ({"limits": {"latncy": "5ms"}}, "did you mean 'latency'"),
        ({"budget": "soon"}, "no duration"),
        ({"budget": "2s"}, "too short"),
        ({"candidates": -3}, "candidates"),
        ({"devise": "cpu"}, "did you mean 'device'"),
        ({"device": "tpu"}, "cpu"),
        ({"workers": "rya"}, "ray"),
        ({"space": "nowhere_at_all:chain"}, "cannot import"),
        ({"select": "fulll"}, "did you mean 'full'"),
    ],
)
def test_mistakes_are_told_plainly(settings: dict, words: str, npz: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        archscout.search(str(npz), out=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_a_taken_folder_is_refused(finished: archscout.Result, npz: Path) -> None:
    with pytest.raises(UserError, match="archscout resume"):
        archscout.search(str(npz), out=finished.folder)


def test_changed_images_are_noticed(finished: archscout.Result, images: tuple, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(finished.folder, tmp_path / "run")
    other = images[0].copy()
    other[0] = 255 - other[0]
    np.savez(tmp_path / "other.npz", X=other, y=images[1])
    with pytest.raises(UserError, match="changed since"):
        archscout.resume(tmp_path / "run", data=str(tmp_path / "other.npz"))


def test_train_repeats_the_winner(finished: archscout.Result, tmp_path: Path) -> None:
    again = archscout.train(run=finished.folder, out=tmp_path / "again", epochs=1.0, train_threads=1)
    assert again.best["arch"] == finished.best["arch"]
    assert again.finished
    assert (again.folder / "report.html").stat().st_size > 10_000


def test_the_report_opens_offline_without_errors(finished: archscout.Result) -> None:
    from chromium import open_page

    page = open_page(finished.report)
    assert not page.console
    assert not page.requests
    assert finished.best["arch"] in page.dom
    assert page.dom.count("main-svg") >= 3


def test_a_deadline_travels_and_shortens_a_training_that_runs_too_slow() -> None:
    import pickle

    deadline = pickle.loads(pickle.dumps(Deadline(ends=time.monotonic() - 1.0, epochs=8.0, budget=0.001)))
    assert deadline(0.0) is None  # the first look only starts its clock
    time.sleep(0.01)
    assert deadline(2.0) == 2.0  # nothing is left: it ends here
    relaxed = Deadline(ends=time.monotonic() + 100.0, epochs=8.0, budget=0.001)
    assert relaxed(0.0) is None
    time.sleep(0.01)
    assert relaxed(2.0) is None
