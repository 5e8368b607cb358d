"""Another device: the kit that measures it, the files that come back, and the predictions that they give."""

from __future__ import annotations

import ast
import csv
import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archscout.cli import main
from archscout.costs.trace import Trace
from archscout.devices import bench, kit
from archscout.devices import measured as measured_module
from archscout.devices.kit import bench_kit, choose, design
from archscout.devices.latency import interval, median_interval
from archscout.devices.measured import input_shape_of, read_measured
from archscout.devices.profile import Profile, trace_of
from archscout.devices.shelf import add_device, check_device, find_profile, fit_device, known_devices
from archscout.errors import UserError
from archscout.propose import Costing
from archscout.result import last
from archscout.run import Run
from archscout.spaces import SPACES

SHAPE = (1, 8, 8)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What archscout keeps of a person lies in a folder of the test."""
    monkeypatch.setenv("ARCHSCOUT_CONFIG", str(tmp_path / "config"))
    return tmp_path / "config" / "devices"


@pytest.fixture
def few_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kits of eight tiny networks."""
    monkeypatch.setattr(kit, "SOURCES", (("plain", SHAPE, 12), ("mobilenet", SHAPE, 12)))
    monkeypatch.setattr(kit, "LEAST", 8)


def law(seen: Trace) -> float:
    """Milliseconds on a device that is linear in operations and multiply-adds."""
    return 0.2 + 0.03 * (len(seen.ops) - len(seen.folded)) + 2e-6 * seen.macs


def rows_of(name: str, count: int, value: Callable[[Trace], float] = law, seed: int = 0) -> list[dict[str, Any]]:
    """Networks of a space as a kit's file has them, with the latency of a law."""
    space, rng = SPACES[name](SHAPE, 10), np.random.default_rng(seed)
    archs = list(dict.fromkeys(space.sample(rng) for _ in range(2 * count)))[:count]
    return [
        {
            "file": f"net{i}.onnx", "space": name, "input_shape": list(SHAPE), "classes": 10,
            "arch": space.format(arch), "latency": value(trace_of(space, arch)), "energy": None,
        }
        for i, arch in enumerate(archs)
    ]  # fmt: skip


def measured(rows: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """A file as the script of a kit writes it."""
    return {
        "format": bench.FORMAT, "device": "a board", "runtime": "onnxruntime", "threads": 2, "batch": 1,
        "units": {"latency": "ms", "energy": "mJ"}, "energy_source": None, "networks": rows, **changes,
    }  # fmt: skip


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def table(path: Path, rows: list[dict[str, Any]], header: tuple[str, ...] = ("arch", "ms")) -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows((row["arch"], row["latency"]) for row in rows)
    return path


# --- the script of the kit ---


def test_the_script_needs_only_numpy_and_onnxruntime(few_networks: None, tmp_path: Path) -> None:
    """Every other package is refused at import; what it writes can be added, and predicts what it measured."""
    told = bench_kit(tmp_path / "kit", networks=8)
    assert told["networks"] == 8
    assert told["bytes"] == sum(path.stat().st_size for path in (tmp_path / "kit").iterdir())
    (tmp_path / "kit" / "guard.py").write_text(
        "import sys, runpy, importlib.abc\n"
        "allowed = sys.stdlib_module_names | {'numpy', 'onnxruntime'}\n"
        "class Guard(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] not in allowed:\n"
        "            raise ModuleNotFoundError(f'{name} is not on this device', name=name)\n"
        "sys.meta_path.insert(0, Guard())\n"
        "sys.argv = ['bench.py', '--seconds', '0.02', '--out', 'back.json']\n"
        "runpy.run_path('bench.py', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path += {sys.path[1:]!r}; exec(open('guard.py').read())"],
        cwd=tmp_path / "kit",
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert "archscout device add NAME back.json" in done.stdout
    found = json.loads((tmp_path / "kit" / "back.json").read_text())
    assert len(found["networks"]) == 8
    assert sum(row["check"] for row in found["networks"]) == 3
    for row in found["networks"]:
        assert 0 < row["low"] <= row["latency"] <= row["high"]
        assert row["repeats"] >= 1
    row = add_device("board", tmp_path / "kit" / "back.json", power="2W")
    assert (row["networks"], row["threads"], row["power"]) == (8, 1, "2 W")
    profile = find_profile("board")
    space = SPACES[found["networks"][0]["space"]](SHAPE, 10)
    seen = trace_of(space, space.parse(found["networks"][0]["arch"]))
    assert profile.energy(seen) == pytest.approx(2 * profile.latency(seen))


@pytest.mark.slow
def test_the_script_runs_in_a_clean_environment(few_networks: None, tmp_path: Path) -> None:
    """A virtual environment that holds numpy and onnxruntime with what they ask for, and nothing of this project."""
    bench_kit(tmp_path / "kit", networks=8)
    venv.create(tmp_path / "clean", with_pip=True)
    python = tmp_path / "clean" / ("Scripts" if os.name == "nt" else "bin") / "python"
    got = subprocess.run([python, "-m", "pip", "install", "-q", "numpy", "onnxruntime"], capture_output=True, text=True)
    if got.returncode:
        pytest.skip(f"no package registry: {got.stderr.strip().splitlines()[-1:]}")
    done = subprocess.run(
        [python, "-I", "bench.py", "--seconds", "0.02", "--threads", "2"],
        cwd=tmp_path / "kit",
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert read_measured(tmp_path / "kit" / "measured.json").threads == 2


def test_a_network_that_fails_there_costs_itself_only(
    few_networks: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "kit"
    folder.mkdir()
    rows = [{**row, "file": f"net{i}.onnx"} for i, row in enumerate(rows_of("plain", 2))]
    from archscout.deploy import bare_onnx

    space = SPACES["plain"](SHAPE, 10)
    (folder / "net0.onnx").write_bytes(bare_onnx(space.build(space.parse(rows[0]["arch"])), SHAPE))
    (folder / "net1.onnx").write_text("no network")
    for row in rows:
        del row["latency"], row["energy"]
    written(folder / "kit.json", {"networks": rows})
    (folder / "bench.py").write_text(Path(bench.__file__).read_text())
    done = subprocess.run(
        [sys.executable, "bench.py", "--seconds", "0.01"], cwd=folder, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    first, second = json.loads((folder / "measured.json").read_text())["networks"]
    assert first["latency"] > 0
    assert second["failure"]
    for words, told in (
        (["--threads", "0"], "at least 1"),
        (["--provider", "NoSuchProvider"], "onnxruntime here has no NoSuchProvider; it has"),
    ):
        assert bench.main(words) == 2
        assert told in capsys.readouterr().err


@pytest.fixture
def kit_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the script finds a kit of eight networks, which take as many milliseconds as their number."""
    rows = [{name: row[name] for name in ("file", "space", "input_shape", "classes", "arch")}
            for row in rows_of("plain", 8)]  # fmt: skip
    written(tmp_path / "kit.json", {"networks": rows})
    monkeypatch.setattr(bench, "HERE", str(tmp_path))
    return tmp_path


def timed(stop_after: int) -> Callable[..., dict[str, Any]]:
    """A measurement of the script that is stopped by Ctrl-C, or by a disk that is full, after some networks."""
    count = 0

    def measure(path: str, *given: Any) -> dict[str, Any]:
        nonlocal count
        if count == stop_after:
            raise KeyboardInterrupt
        count += 1
        value = 1.0 + count % 8
        return {"latency": value, "low": value, "high": value, "repeats": 20, "noise": 0.0, "energy": None}

    return measure


@pytest.mark.parametrize("stop_after", [0, 1, 7, 9])
def test_a_stop_keeps_what_was_measured(
    stop_after: int, kit_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the first pass the networks so far, in the second all."""
    out = kit_folder / "back.json"
    monkeypatch.setattr(bench, "measure", timed(stop_after))
    code = bench.main(["--out", str(out)])
    shown = capsys.readouterr()
    if stop_after == 0:
        assert code == 2
        assert "no network could be measured; it was stopped" in shown.err
        assert not out.exists()
        return
    count = min(stop_after, 8)
    assert code == 130
    assert f"back.json holds {count} of 8 networks" in shown.out
    assert len(json.loads(out.read_text())["networks"]) == count
    assert sorted(path.name for path in kit_folder.iterdir()) == ["back.json", "kit.json"]
    if count < 6:
        with pytest.raises(UserError, match="has 1 measured networks; wanted 6"):
            add_device("board", out)
        return
    row = add_device("board", out)
    assert row["networks"] == count
    assert any(f"{count} of the 8 networks of the kit were measured" in note for note in row["notes"]) == (count < 8)


def test_a_power_cut_keeps_a_whole_file(kit_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is whole after each network: it is looked at when the next one begins."""
    out, seen, measure = kit_folder / "back.json", [], timed(99)

    def looking(path: str, *given: Any) -> dict[str, Any]:
        seen.append(len(json.loads(out.read_text())["networks"]) if out.exists() else 0)
        return measure(path, *given)

    monkeypatch.setattr(bench, "measure", looking)
    assert bench.main(["--out", str(out)]) == 0
    assert seen == [0, 1, 2, 3, 4, 5, 6, 7] + [8] * 8


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot read kit.json beside bench.py (No such file or directory); copy the whole folder"),
        ('{"networks": []}', "kit.json lists no networks; copy the whole folder"),
        ("{", "kit.json is damaged"),
        ("[]", "kit.json is damaged"),
        ('{"networks": [{"arch": "resnet8-w8"}]}', "kit.json is damaged"),
        ('{"networks": 3}', "kit.json is damaged"),
    ],
)
def test_a_kit_that_did_not_come_whole(
    content: str | None, told: str, kit_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (kit_folder / "kit.json").unlink()
    if content is not None:
        written(kit_folder / "kit.json", content)
    assert bench.main(["--out", str(kit_folder / "back.json")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line


def test_a_place_that_cannot_be_written_is_said_before_anything_is_measured(
    kit_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "measure", lambda *given: pytest.fail("it was measured"))
    for out in (kit_folder / "absent" / "back.json", kit_folder):
        assert bench.main(["--out", str(out)]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert f"cannot write {out} (" in line
        assert "--out" in line
    written(kit_folder / "back.json", "of before")
    monkeypatch.setattr(bench, "measure", timed(0))
    assert bench.main(["--out", str(kit_folder / "back.json")]) == 2
    assert (kit_folder / "back.json").read_text() == "of before"


def test_the_script_is_python_3_8() -> None:
    ast.parse(Path(bench.__file__).read_text(), feature_version=(3, 8))


def test_a_missing_runtime_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert bench.main([]) == 2
    assert "pip install numpy onnxruntime" in capsys.readouterr().err


@pytest.mark.parametrize("n", [1, 2, 5, 6, 19, 20, 100, 501])
def test_the_script_has_the_interval_of_the_program(n: int) -> None:
    samples = np.random.default_rng(n).exponential(size=n).tolist()
    assert bench.median_interval(samples) == pytest.approx(median_interval(samples))
    drifting = (np.array(samples) + np.linspace(0, 5, n)).tolist()
    for each in (samples, drifting):
        assert bench.interval(each) == pytest.approx(interval(each))


def test_the_faster_pass_counts_and_the_interval_reaches_to_the_slower() -> None:
    fast = {"latency": 2.0, "low": 1.9, "high": 2.1}
    slow = {"latency": 3.0, "low": 2.9, "high": 3.2}
    failed = {"failure": "no"}
    assert bench.better(fast, slow) == bench.better(slow, fast) == {"latency": 2.0, "low": 1.9, "high": 3.0}
    assert bench.better({}, failed) == bench.better(failed, failed) == failed
    assert bench.better(failed, slow) == bench.better(slow, failed) == slow


def test_the_script_reads_counters_over_their_end(tmp_path: Path) -> None:
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    for name, value in (("name", "package-0"), ("max_energy_range_uj", "1000000"), ("energy_uj", "900000")):
        (zone / name).write_text(value)
    meter = bench.EnergyMeter([str(zone)])
    (zone / "energy_uj").write_text("100000")
    assert meter.joules() == pytest.approx(0.2)
    assert bench.counts(str(zone))


# --- what is in the kit ---


def test_chosen_networks_are_a_greedy_d_optimal_design() -> None:
    """Each network is the one that raises the determinant most, by computing all determinants."""
    space, rng = SPACES["mobilenet"](SHAPE, 10), np.random.default_rng(3)
    drawn = [(space, arch, trace_of(space, arch)) for arch in dict.fromkeys(space.sample(rng) for _ in range(14))]
    matrix = design([seen for *_, seen in drawn])
    assert matrix.sum(1) == pytest.approx(1)
    picked: list[int] = []
    for _ in range(6):
        rest = [i for i in range(len(drawn)) if i not in picked]

        def volume(i: int) -> float:
            rows = matrix[[*picked, i]]
            return float(np.linalg.slogdet(rows.T @ rows + 1e-6 * np.eye(rows.shape[1]))[1])

        picked.append(max(rest, key=volume))
    assert {arch for _, arch, _ in choose(drawn, 6)} == {drawn[i][1] for i in picked}


@pytest.mark.slow
def test_the_kit_tells_all_operations_apart() -> None:
    """With its chosen networks the features have full rank: a linear device is found exactly, whatever its rates."""
    chosen = choose(kit.candidates(), 20)
    matrix = design([seen for *_, seen in chosen])
    scaled = matrix / np.linalg.norm(matrix, axis=0)
    assert np.linalg.matrix_rank(scaled) == scaled.shape[1] >= 16
    assert np.linalg.cond(scaled) < 1000


def test_kits_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="wanted 24 or more"):
        bench_kit(tmp_path / "kit", networks=5)
    written(tmp_path / "taken", "x")
    with pytest.raises(UserError, match="wanted 6 or more"):
        bench_kit(tmp_path / "kit", networks=5, space="plain")
    with pytest.raises(UserError, match="name one"):
        bench_kit(tmp_path / "kit", input_shape="3x32x32")
    with pytest.raises(UserError, match="did you mean 'plain'"):
        bench_kit(tmp_path / "kit", space="plian")
    with pytest.raises(UserError, match="not empty"):
        bench_kit(tmp_path / "taken")
    assert not (tmp_path / "kit").exists()


def test_the_run_of_a_kit_is_looked_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a network is chosen and a folder made."""
    monkeypatch.setattr(kit, "mixed", lambda *given: pytest.fail("networks were chosen"))
    run = tmp_path / "run"
    with pytest.raises(UserError, match="is no run"):
        bench_kit(tmp_path / "kit", run=run)
    with Run.create(run, 'data = "digits"\n'):
        pass
    with pytest.raises(UserError, match="has no winner yet"):
        bench_kit(tmp_path / "kit", run=run)
    about = {"factory": "plain", "arch": "resnet8-w8", "input_shape": SHAPE, "classes": ["a"], "mean": [0], "std": [1]}
    written(run / "architecture.json", about)
    with pytest.raises(UserError, match="has no winner yet"):
        bench_kit(tmp_path / "kit", run=run)
    with Run.open(run) as opened:
        opened.record("only_winner", {"space": "plain", "arch": "resnet8-w8", "role": "given", "costs": {}})
    with pytest.raises(UserError, match=r"has no model.onnx yet"):
        bench_kit(tmp_path / "kit", run=run)
    written(run / "architecture.json", "{}")
    with pytest.raises(UserError, match="is damaged"):
        bench_kit(tmp_path / "kit", run=run)
    assert not (tmp_path / "kit").exists()


def test_a_kit_of_one_space_needs_ten_networks_and_then_predicts_the_others(tmp_path: Path) -> None:
    """Ten chosen networks of nasbench201, timed by a law, and another device beside: few_shot predicts the others."""
    space = SPACES["nasbench201"](SHAPE, 10)
    other = written(tmp_path / "other.json", measured(rows_of("nasbench201", 80, lambda seen: 3 * law(seen), seed=5)))
    add_device("other", other)
    told = bench_kit(tmp_path / "kit", space="nasbench201", input_shape="1x8x8")
    assert told["networks"] == 10
    rows = json.loads((tmp_path / "kit" / "kit.json").read_text())["networks"]
    assert {(row["space"], tuple(row["input_shape"]), row["check"]) for row in rows} == {("nasbench201", SHAPE, False)}
    assert len({row["arch"] for row in rows}) == 10
    assert all((tmp_path / "kit" / row["file"]).stat().st_size > 0 for row in rows)
    for row in rows:
        row |= {"latency": law(trace_of(space, space.parse(row["arch"]))), "energy": None}
    row = add_device("board", written(tmp_path / "back.json", measured(rows)))
    assert any("1 other device" in note for note in row["notes"])
    profile = find_profile("board")
    costing = Costing(space, {}, profile)
    asked = [space.canonical(space.sample(np.random.default_rng(seed))) for seed in range(30)]
    wanted = np.array([law(trace_of(space, arch)) for arch in asked])
    found = np.array([costing(arch)["latency"] for arch in asked])
    high = np.array([costing(arch)["latency_high"] for arch in asked])
    assert np.median(np.abs(found / wanted - 1)) < 0.1
    assert (wanted <= high).mean() > 0.85


# --- what comes back ---


def test_a_linear_device_is_found_from_its_file(tmp_path: Path) -> None:
    """Networks that were not measured, of a space that was, are predicted as the law of the device says."""
    rows = rows_of("mobilenet", 40)
    add_device("board", written(tmp_path / "m.json", measured(rows)))
    profile = find_profile("board")
    assert (profile.target, profile.device, profile.runtime, profile.threads) == ("board", "a board", "onnxruntime", 2)
    assert profile.half_width < 0.1
    for row in rows_of("mobilenet", 20, seed=5):
        space = SPACES["mobilenet"](SHAPE, 10)
        assert profile.latency(trace_of(space, space.parse(row["arch"]))) == pytest.approx(row["latency"], rel=0.1)


def test_energies_are_fitted_of_their_own(tmp_path: Path) -> None:
    """A device that draws more where it computes more: energy is no constant times latency."""
    rows = rows_of("mobilenet", 40)
    space = SPACES["mobilenet"](SHAPE, 10)

    def joules(arch: str) -> float:
        return 1.0 + 5e-6 * trace_of(space, space.parse(arch)).macs

    rows = [{**row, "energy": joules(row["arch"])} for row in rows]
    add_device("board", written(tmp_path / "m.json", measured(rows, energy_source="measured by RAPL")))
    profile = find_profile("board")
    for row in rows_of("mobilenet", 10, seed=5):
        seen = trace_of(space, space.parse(row["arch"]))
        assert profile.energy(seen) == pytest.approx(joules(row["arch"]), rel=0.1)
    assert profile.power == pytest.approx(sum(r["energy"] for r in rows) / sum(r["latency"] for r in rows))


def test_random_networks_of_a_kit_state_the_error(tmp_path: Path) -> None:
    """The half-width is the largest error of ten checks under a fit that has not seen them (rank ceil(0.9 x 11))."""
    rows = rows_of("mobilenet", 40)
    for place, row in enumerate(rows):
        row["check"] = place >= 30
        row["latency"] *= 1.5 if place == 35 else 1.0
    found = fit_device(read_measured(written(tmp_path / "m.json", measured(rows))))
    assert found.half_width == pytest.approx(0.5, abs=0.1)
    for row in rows:
        row["check"] = False
    assert fit_device(read_measured(written(tmp_path / "m.json", measured(rows)))).half_width < 0.1


def test_a_csv_of_another_tool(tmp_path: Path) -> None:
    rows = rows_of("plain", 8)
    path = table(tmp_path / "phone.csv", rows)
    found = read_measured(path, space="plain", input_shape=SHAPE, classes=10, runtime="tflite", threads=4)
    assert (found.device, found.runtime, found.threads) == ("phone", "tflite", 4)
    assert found.latencies == pytest.approx([row["latency"] for row in rows])
    for name, factor in (("us", 1e3), ("latency_s", 1e-3), ("latency_us", 1e3)):
        other = [{**row, "latency": factor * row["latency"]} for row in rows]
        again = read_measured(
            table(tmp_path / "o.csv", other, ("arch", name)), space="plain", input_shape=SHAPE, classes=10
        )
        assert again.latencies == pytest.approx(found.latencies)


@pytest.mark.parametrize("seed", range(4))
def test_networks_that_repeat_become_one_with_their_medians(seed: int, tmp_path: Path) -> None:
    """In whatever order they come, and under whatever name; energies that are missing do not count."""
    rng = np.random.default_rng(seed)
    rows = rows_of("plain", 8)
    wanted: dict[str, tuple[float, float | None]] = {}
    listed = []
    for row in rows:
        times, joules = rng.uniform(1, 9, rng.integers(1, 5)).tolist(), rng.choice([1.0, 2.0, 5.0, -1.0], 4).tolist()
        known = [value for value in joules[: len(times)] if value > 0]
        wanted[row["arch"]] = float(np.median(times)), float(np.median(known)) if known else None
        listed += [{**row, "latency": t, "energy": e} for t, e in zip(times, joules, strict=False)]
    listed = [listed[i] for i in rng.permutation(len(listed))]
    found = read_measured(written(tmp_path / "m.json", measured(listed)))
    assert len(found.archs) == 8
    texts = [space.format(arch) for space, arch in found.archs]
    assert dict(zip(texts, found.latencies, strict=True)) == pytest.approx({k: v for k, (v, _) in wanted.items()})
    assert dict(zip(texts, found.energies, strict=True)) == {k: v for k, (_, v) in wanted.items()}
    assert found.notes == (f"{len(listed)} rows are of 8 networks: of those that repeat, the medians count",)


def test_twins_are_one_network(tmp_path: Path) -> None:
    """Cells of nasbench201 that compute the same; the numbers of networks that are wanted are of different ones."""
    space = SPACES["nasbench201"](SHAPE, 10)
    twins: dict[Any, list[str]] = {}
    for arch in list(space)[::7]:
        twins.setdefault(space.canonical(arch), []).append(space.format(arch))
    groups = [texts[:8] for texts in twins.values() if len(texts) >= 8][:9]
    assert len(groups) >= 6
    row = {"file": "n.onnx", "space": "nasbench201", "input_shape": list(SHAPE), "classes": 10, "energy": None}
    rows = [{**row, "arch": text, "latency": 1.0 + i} for i, texts in enumerate(groups) for text in texts]
    path = written(tmp_path / "m.json", measured(rows))
    assert read_measured(path).latencies == tuple(1.0 + i for i in range(len(groups)))
    told = add_device("board", path)
    assert told["networks"] == len(groups)
    assert find_profile("board").few["samples"]  # more rows than make many networks, and still few
    with pytest.raises(UserError, match="has 5 measured networks; wanted 6 or more"):
        read_measured(written(tmp_path / "m.json", measured(rows[: 5 * 8])))


def test_no_more_networks_are_taken_than_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_module, "MOST", 8)
    rows = rows_of("plain", 8)
    found = read_measured(written(tmp_path / "m.json", measured([*rows, *rows])))
    assert sorted(found.latencies) == sorted(row["latency"] for row in rows)
    assert len(found.notes) == 1


def test_a_random_network_that_was_also_chosen_is_no_check(tmp_path: Path) -> None:
    rows = [{**row, "check": True} for row in rows_of("plain", 8)]
    twice = [*rows, {**rows[3], "file": "winner.onnx", "check": False}, rows[5]]
    assert read_measured(written(tmp_path / "m.json", measured(twice))).checks == (0, 1, 2, 4, 5, 6, 7)


def test_winners_of_every_space_come_back(tmp_path: Path) -> None:
    """A known network is one of a space with a name; a space that was an object of Python has none."""
    winner = {"file": "winner.onnx", "input_shape": list(SHAPE), "classes": 10, "latency": 3.0, "energy": None}
    known = {**winner, "space": "pretrained", "arch": "resnet18"}
    found = read_measured(written(tmp_path / "m.json", measured([*rows_of("plain", 8), known])))
    assert [space.name for space, _ in found.archs] == ["plain"] * 8 + ["pretrained"]
    assert fit_device(found).networks == 9
    nameless = {**winner, "space": "chain", "arch": "1-2"}
    found = read_measured(written(tmp_path / "m.json", measured([*rows_of("plain", 8), nameless])))
    assert len(found.archs) == 8
    assert found.notes == ("winner.onnx is of the space 'chain', which has no name here, and was left out",)
    path = written(tmp_path / "m.json", measured([*rows_of("plain", 8), {**nameless, "file": "net9.onnx"}]))
    with pytest.raises(UserError, match="unknown space 'chain'"):
        read_measured(path)


@pytest.mark.parametrize("runtime", [None, "", "missing"])
def test_a_runtime_that_is_not_said_is_unknown(runtime: str | None, tmp_path: Path) -> None:
    content = measured(rows_of("plain", 8), runtime=runtime)
    if runtime == "missing":
        del content["runtime"]
    assert read_measured(written(tmp_path / "m.json", content)).runtime == "unknown"


def test_minus_one_is_missing_and_said(tmp_path: Path) -> None:
    rows = rows_of("plain", 10)
    rows[2]["latency"], rows[5]["latency"], rows[7]["latency"] = -1, "", "nan"
    found = read_measured(table(tmp_path / "a.csv", rows), space="plain", input_shape=SHAPE, classes=10)
    assert len(found.latencies) == 7
    assert found.notes == ("3 of 10 networks have no latency and were left out",)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: "{", "it is no JSON"),
        (lambda m: {**m, "format": "other/1"}, "wanted the format 'archscout-measured/1', got 'other/1'"),
        (lambda m: {**m, "units": {"latency": "s", "energy": "mJ"}}, "wanted latency in ms and energy in mJ"),
        (lambda m: {k: v for k, v in m.items() if k != "units"}, "has the units None"),
        (lambda m: {**m, "batch": 32}, "wanted batch 1"),
        (lambda m: {**m, "networks": m["networks"][:3]}, "has 3 measured networks; wanted 6 or more"),
        (lambda m: {**m, "networks": [{**m["networks"][0], "latency": -4}]}, r"network 1 of .*latency -4 is not above"),
        (lambda m: {**m, "networks": [{**m["networks"][0], "latency": "3"}]}, "is not above zero"),
        (lambda m: {**m, "networks": [{**m["networks"][0], "arch": "resnet8"}]}, "network 1 of .*resnet8"),
        (lambda m: {**m, "networks": [{**m["networks"][0], "space": "plane"}]}, "did you mean 'plain'"),
        (lambda m: {**m, "networks": [{"latency": 3}]}, "KeyError"),
        (lambda m: {k: v for k, v in m.items() if k != "threads"}, "it does not say its threads"),
        (lambda m: {k: v for k, v in m.items() if k != "device"}, "it does not say its device"),
        (lambda m: {**m, "networks": 3}, "it lists no networks"),
        (lambda m: {**m, "networks": [3]}, "it lists no networks"),
        *(
            (lambda m, value=value: {**m, "threads": value}, "threads of .* is .*; wanted a whole number from 1 to 65")
            for value in (0, -1, 2.5, "2", True, None, 10**400)
        ),
        *(
            (lambda m, value=value: {**m, "networks": [{**m["networks"][0], "classes": value}]}, "classes of network 1")
            for value in (0, 2.5, "2", 10**400)
        ),
        *(
            (lambda m, v=value: {**m, "networks": [{**m["networks"][0], "input_shape": v}]}, "input_shape of network 1")
            for value in ([1, 8], [1, 8, 8.5], [1, 8, -8], [1, 8, 10**6], [1, 8, 10**400], "188", [])
        ),
    ],
)
def test_bad_files_of_a_kit(change: Callable[[dict[str, Any]], Any], told: str, tmp_path: Path, home: Path) -> None:
    path = written(tmp_path / "m.json", change(measured(rows_of("plain", 8))))
    with pytest.raises(UserError, match=told) as raised:
        add_device("board", path)
    assert "\n" not in str(raised.value)
    assert not home.exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("arch,latency\nresnet8-w8,3\n", "names no unit of latency; wanted us, ms or s, like latency_ms"),
        ("arch,latency_min\nresnet8-w8,3\n", "names no unit of latency"),
        ("arch,ms,energy_kWh\nresnet8-w8,3,1\n", "names no unit of energy; wanted uJ, mJ, J or kJ"),
        ("arch,ms,energy_MJ\nresnet8-w8,3,1\n", "column 'energy_MJ' .*names no unit of energy"),
        ("arch,ms,us\nresnet8-w8,3,3000\n", "several columns of latency: ms, us; keep one, or choose: --latency ms:ms"),
        ("network,ms\nresnet8-w8,3\n", "has the columns network, ms; wanted arch"),
        (
            "arch,ms\nresnet8-w8,-2\n",
            "line 2 of .*latency -2.0 is not above zero; wanted us, ms or s, or -1 where it is",
        ),
        ("arch,ms\nresnet8-w8,0\n", "not above zero"),
        ("arch,ms\nresnet8-w8,fast\n", "line 2 of .*'fast' is no latency"),
        ("arch,ms\nresnet8-w8,inf\n", "not above zero"),
        ("arch,ms\nresnet8-w8\n", "line 2 of .* has 1 values, the first line 2"),
        ("arch,ms\nresnet9-w8,3\n", "line 2 of .*resnet9-w8"),
        ("arch,ms\nresnet8-w8,3\n", "has 1 measured networks; wanted 6 or more"),
        ("", "has the columns none"),
    ],
)
def test_bad_tables(text: str, told: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", text)
    with pytest.raises(UserError, match=told):
        add_device("board", path, space="plain", input_shape="1x8x8", classes=10)


def test_a_table_needs_to_say_whose_it_is(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", rows_of("plain", 8))
    with pytest.raises(UserError, match="--space NAME --input-shape 3x32x32 --classes 10"):
        add_device("board", path)
    with pytest.raises(UserError, match="no shape of an image"):
        add_device("board", path, space="plain", input_shape="8x8", classes=10)
    with pytest.raises(UserError, match="cannot read"):
        add_device("board", tmp_path / "absent.json")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="no text file"):
        add_device("board", tmp_path / "b.json")
    assert input_shape_of("3x32x64") == (3, 32, 64)
    for text in ("3x\u00b2x8", "3x8x99999999", "3x8x" + "9" * 5000, "3x8x0"):
        with pytest.raises(UserError, match="no shape of an image"):
            input_shape_of(text)
    good: dict[str, Any] = {"space": "plain", "input_shape": SHAPE, "classes": 10}
    changes = ({"classes": 0}, {"classes": 10**9}, {"threads": 0}, {"input_shape": (1, 8)}, {"input_shape": (1, 8, 0)})
    for change in changes:
        with pytest.raises(UserError, match=r"wanted a whole number|has channels"):
            read_measured(path, **{**good, **change})


def test_ten_networks_are_helped_by_other_devices(tmp_path: Path) -> None:
    """A few networks of a space: their own values come back, others are ordered as on the device, intervals hold."""
    fast = table(tmp_path / "fast.csv", rows_of("mobilenet", 70, lambda seen: law(seen) / 3))
    add_device("fast", fast, space="mobilenet", input_shape=SHAPE, classes=10)
    rows = rows_of("mobilenet", 10, seed=9)
    row = add_device("slow", table(tmp_path / "slow.csv", rows), space="mobilenet", input_shape=SHAPE, classes=10)
    assert any("10 networks are few" in note and "1 other device" in note for note in row["notes"])
    space = SPACES["mobilenet"](SHAPE, 10)
    costing = Costing(space, {"latency": 1e6}, find_profile("slow"))
    truth, found, held = [], [], 0
    for other in rows_of("mobilenet", 25, seed=4):
        costs = costing(space.parse(other["arch"]))
        truth.append(other["latency"])
        found.append(costs["latency"])
        assert costs["latency_high"] > costs["latency"]
        held += other["latency"] <= costing.upper(costs)["latency"]
    assert np.corrcoef(np.argsort(np.argsort(truth)), np.argsort(np.argsort(found)))[0, 1] > 0.9
    assert held >= 20
    again = Profile.from_json(json.loads(json.dumps(find_profile("slow").to_json())))
    assert Costing(space, {}, again)(space.parse(rows[0]["arch"]))["latency"] == pytest.approx(
        Costing(space, {}, find_profile("slow"))(space.parse(rows[0]["arch"]))["latency"]
    )
    rival = SPACES["plain"](SHAPE, 10)  # another space has no such predictor, and still a prediction
    assert "latency_high" not in Costing(rival, {}, again)(next(iter(rival)))


def test_few_energies_are_predicted_of_their_own(tmp_path: Path) -> None:
    """A board whose energy follows the multiply-adds, not the time: ten measured energies order the rest."""
    space = SPACES["mobilenet"](SHAPE, 10)

    def joules(arch: str) -> float:
        return 0.5 + 1e-4 * trace_of(space, space.parse(arch)).macs

    rows = rows_of("mobilenet", 12, lambda seen: 1.0 + 0.05 * len(seen.ops), seed=9)
    for row in rows:
        row["energy"] = joules(row["arch"])
    add_device("board", written(tmp_path / "m.json", measured(rows, energy_source="measured by RAPL")))
    costing = Costing(space, {"energy": 1e6}, find_profile("board"))
    truth, found, held = [], [], 0
    for other in rows_of("mobilenet", 25, seed=4):
        costs = costing(space.parse(other["arch"]))
        most = costing.upper(costs)
        truth.append(joules(other["arch"]))
        found.append(costs["energy"])
        held += truth[-1] <= most["energy"]
        assert most["energy"] == costs["energy_high"] > costs["energy"]
        assert costs["power"] == pytest.approx(costs["energy"] / costs["latency"])
        assert most["power"] == pytest.approx(costs["energy_high"] / costs["latency"])
    assert np.corrcoef(np.argsort(np.argsort(truth)), np.argsort(np.argsort(found)))[0, 1] > 0.9
    assert held >= 20


def test_a_parquet_table_and_one_that_names_its_rows(tmp_path: Path) -> None:
    """The forms of published tables: columns of many devices, -1 where missing, architectures in another file."""
    import pandas

    rows = rows_of("plain", 10)
    indices = [list(SPACES["plain"](SHAPE, 10).parse(row["arch"])) for row in rows]
    latencies = [row["latency"] for row in rows[:-1]] + [-1.0]
    pandas.DataFrame({"index": range(10), "lat_a": latencies, "J": 0.001, "mJ_b": 7.0}).to_parquet(
        tmp_path / "t.parquet"
    )
    pandas.DataFrame({"index": range(9, -1, -1), "arch_str": [r["arch"] for r in rows[::-1]]}).to_csv(
        tmp_path / "names.csv", index=False
    )
    about: dict[str, Any] = {"space": "plain", "input_shape": SHAPE, "classes": 10}
    found = read_measured(tmp_path / "t.parquet", names=tmp_path / "names.csv", latency="lat_a:ms", **about)
    assert found.device == "lat_a"
    assert found.latencies == pytest.approx(latencies[:-1])
    assert found.energies == pytest.approx([1.0] * 9)
    assert [space.format(arch) for space, arch in found.archs] == [row["arch"] for row in rows[:-1]]
    chosen = read_measured(
        tmp_path / "t.parquet", names=tmp_path / "names.csv", latency="lat_a:s", energy="mJ_b:mJ", **about
    )
    assert chosen.latencies == pytest.approx([1e3 * value for value in latencies[:-1]])
    assert chosen.energies == pytest.approx([7.0] * 9)
    pandas.DataFrame({"arch_idx": [json.dumps(i) for i in indices], "ms": latencies}).to_parquet(tmp_path / "i.parquet")
    by_number = read_measured(tmp_path / "i.parquet", **about).archs
    assert [arch for _, arch in by_number] == [arch for _, arch in found.archs]
    pandas.DataFrame({"arch_idx": ["[99]"] * 10, "ms": latencies}).to_parquet(tmp_path / "bad.parquet")
    for path, more, told in (
        ("t.parquet", {"latency": "lat_a:ms"}, "wanted arch and one of latency.*--names FILE"),
        ("i.parquet", {"latency": "lat_a"}, "'--latency lat_a' names no unit of latency; wanted COLUMN:UNIT"),
        ("i.parquet", {"latency": "ms:kg"}, "names no unit of latency"),
        ("i.parquet", {"latency": "mss:ms"}, "unknown column 'mss'; did you mean 'ms'"),
        ("i.parquet", {"names": tmp_path / "names.csv"}, "cannot be joined; wanted the column index"),
        ("bad.parquet", {}, "line 2 of .*is no architecture of space 'plain'"),
        ("absent.parquet", {}, "there is no file"),
    ):
        with pytest.raises(UserError, match=told):
            read_measured(tmp_path / path, **about, **more)
    written(tmp_path / "names.csv", "index,arch\n3,resnet8-w8\n")
    with pytest.raises(UserError, match=r"line 2 of .* has no network of index '0'"):
        read_measured(tmp_path / "t.parquet", names=tmp_path / "names.csv", latency="lat_a:ms", **about)


def test_the_mark_before_a_text_is_no_part_of_it(tmp_path: Path) -> None:
    """Spreadsheet programs write three bytes before a CSV in UTF-8."""
    lines = "\n".join(["arch,ms", *(f"{row['arch']},{row['latency']}" for row in rows_of("plain", 8))])
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert len(read_measured(tmp_path / "a.csv", space="plain", input_shape=SHAPE, classes=10).latencies) == 8


@pytest.mark.parametrize(
    ("words", "device"),
    [
        (["nb201_hwnasbench.parquet", "--latency", "cifar10__edgegpu_latency:ms", "--energy",
          "cifar10__edgegpu_energy:mJ", "--names", "nb201_accuracy.parquet", "--space", "nasbench201"], "edgegpu"),
        (["nb201_hwnasbench.parquet", "--latency", "cifar10__edgetpu_latency:ms", "--names", "nb201_accuracy.parquet",
          "--space", "nasbench201"], "edgetpu"),
        (["help_fbnet_latency.parquet", "--latency", "lat_gold_6240:ms", "--space", "fbnet"], "gold"),
    ],
)  # fmt: skip
def test_published_tables_are_devices(
    words: list[str],
    device: str,
    real_data: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """HW-NAS-Bench (Li et al. 2021) and HELP (Lee et al. 2021) from the command line."""
    monkeypatch.setattr(measured_module, "MOST", networks := 70)
    main(
        ["device", "add", device, "--input-shape", "3x32x32", "--classes", "10"]
        + [str(real_data / "nas" / word) if word.endswith(".parquet") else word for word in words]
    )
    assert f"{networks} of " in capsys.readouterr().out
    profile = find_profile(device)
    assert profile.networks == networks
    assert bool(profile.energy_terms) == (device == "edgegpu")
    if device == "edgegpu":  # a Jetson TX2 draws a few watts
        assert 2 < profile.power < 8


def test_published_latencies(real_data: Path, tmp_path: Path) -> None:
    """Sixty cells of NAS-Bench-201 as measured on a Xeon for HELP predict sixty others (Lee et al. 2021)."""
    import pandas
    from scipy.stats import spearmanr

    path = real_data / "nas" / "nb201_help_latency.parquet"
    column = pandas.read_parquet(path, columns=["help_silver_4210r"])["help_silver_4210r"]
    names = pandas.read_parquet(real_data / "nas" / "nb201_accuracy.parquet", columns=["arch_str"])["arch_str"]
    space, distinct = SPACES["nasbench201"]((3, 32, 32), 10), {}
    for place in np.random.default_rng(0).permutation(len(names))[:300]:
        distinct.setdefault(space.canonical(space.parse(names[place])), place)
    places = list(distinct.values())[:120]
    lines = ["arch,ms", *(f"{names[i]},{column[i]}" for i in places[:60])]
    add_device(
        "xeon", written(tmp_path / "x.csv", "\n".join(lines)), space="nasbench201", input_shape="3x32x32", classes=10
    )
    profile = find_profile("xeon")
    assert not profile.few
    found = np.array([profile.latency(trace_of(space, space.canonical(space.parse(names[i])))) for i in places[60:]])
    truth = column[places[60:]].to_numpy()
    assert spearmanr(found, truth).statistic > 0.85
    assert np.median(np.abs(truth / found - 1)) < 0.1
    assert np.mean(truth <= found * (1 + profile.half_width)) > 0.8


# --- the shelf ---


def test_devices_are_kept_listed_and_removed(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "m.json", measured(rows_of("plain", 8)))
    assert known_devices() == []
    main(["device", "add", "pi-4", str(path), "--power", "3W"])
    assert "--device-profile pi-4" in capsys.readouterr().out
    assert [p.name for p in home.iterdir()] == ["pi-4.json"]
    main(["device", "list", "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["networks"], row["power"]) == ("pi-4", 8, "3 W")
    with pytest.raises(UserError, match="--replace"):
        add_device("pi-4", path)
    add_device("pi-4", path, replace=True)
    assert known_devices()[0]["power"] == "unknown"
    main(["device", "remove", "pi-4"])
    assert known_devices() == []
    for words, told in (
        (["device", "remove", "pi-4"], "unknown device 'pi-4'"),
        (["device", "add", "../up", str(path)], "no name of a device"),
        (
            ["device", "add", "x", str(path), "--power", "3kg"],
            "'3kg' is no power: wanted a positive number",
        ),
    ):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
        assert told in capsys.readouterr().err


def test_the_users_config_folder_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARCHSCOUT_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    if sys.platform.startswith("linux"):
        add_device("pi", written(tmp_path / "m.json", measured(rows_of("plain", 8))))
        assert (tmp_path / "xdg" / "archscout" / "devices" / "pi.json").exists()


def test_profiles_are_found_and_not_found(tmp_path: Path, home: Path) -> None:
    add_device("pixel", written(tmp_path / "m.json", measured(rows_of("plain", 8))))
    profile = find_profile("pixel")
    assert find_profile(profile) is profile
    assert find_profile(home / "pixel.json").latency_terms == profile.latency_terms
    bare = written(tmp_path / "bare.json", profile.to_json())
    assert find_profile(bare) == profile
    for source, told in (
        ("pixle", "did you mean 'pixel'"),
        (tmp_path / "absent.json", "cannot read the device profile"),
        (written(tmp_path / "other.json", {"a": 1}), "no device profile"),
        (written(tmp_path / "list.json", "[1]"), "no device profile"),
    ):
        with pytest.raises(UserError, match=told):
            find_profile(source)
    kept = json.loads((home / "pixel.json").read_text())
    for content in (
        "{}", "[" * 100_000, {k: v for k, v in kept.items() if k != "profile"}, {**kept, "added": None},
        {**kept, "profile": {**kept["profile"], "half_width": -1}}, {**kept, "profile": []},
        {**kept, "profile": {**kept["profile"], "few": {"space": "plain"}}},
    ):  # fmt: skip
        written(home / "broken.json", content)
        for work in (lambda: find_profile("broken"), known_devices, lambda: add_device("new", tmp_path / "m.json")):
            with pytest.raises(UserError, match=r"broken\.json is no device file"):
                work()
    (home / "broken.json").unlink()
    assert [row["name"] for row in known_devices()] == ["pixel"]


# --- limits ---


def test_limits_hold_at_the_safe_end(tmp_path: Path) -> None:
    """With a half-width of 50 %, what is predicted at 4 ms breaks a limit of 5 ms and meets one of 7 ms."""
    rows = rows_of("mobilenet", 40)
    add_device("board", written(tmp_path / "m.json", measured(rows)), power="2W")
    import dataclasses

    few = find_profile("board")  # forty networks of one space: each prediction has an interval of its own
    sure = dataclasses.replace(few, few={})
    doubtful = dataclasses.replace(sure, half_width=0.5)
    space = SPACES["mobilenet"](SHAPE, 10)
    arch = space.parse(rows[3]["arch"])
    latency = Costing(space, {}, sure)(arch)["latency"]
    for profile, limit, feasible in ((sure, 1.2, True), (doubtful, 1.2, False), (doubtful, 1.6, True)):
        for name, unit in (("latency", 1.0), ("energy", 2.0)):
            costs = Costing(space, {name: limit * latency * unit}, profile)(arch)
            assert (costs["violation"] <= 0) == feasible
            assert costs[name] == pytest.approx(latency * unit)
    assert Costing(space, {"power": 2.0}, doubtful)(arch)["violation"] == 0  # a stated power has no error
    alone = Costing(space, {}, few)(arch)
    for share, feasible in ((0.5, False), (1.01, True)):
        limit = alone["latency"] + share * (alone["latency_high"] - alone["latency"])
        assert (Costing(space, {"latency": limit}, few)(arch)["violation"] <= 0) == feasible
    add_device("board", tmp_path / "m.json", power="3.3W", replace=True)
    few = find_profile("board")  # a stated power has no error there either, to the last digit
    for profile in (few, dataclasses.replace(few, few={})):
        costing = Costing(space, {"power": 3.3}, profile)
        for row in rows:
            costs = costing(space.parse(row["arch"]))
            assert (costs["violation"], costs["power"]) == (0, 3.3)
            assert costing.upper(costs)["power"] == 3.3
    within = Costing(space, {}, doubtful)
    within(arch)
    assert within.within({"latency": 1.2 * latency})(arch)["violation"] > 0


def test_limits_that_a_profile_cannot_judge(tmp_path: Path) -> None:
    add_device("board", written(tmp_path / "m.json", measured(rows_of("plain", 8))))
    space = SPACES["plain"](SHAPE, 10)
    with pytest.raises(UserError, match="limit on energy needs to know it, and the profile of board does not"):
        Costing(space, {"energy": 5.0}, find_profile("board"))
    with pytest.raises(UserError, match="a run without a profile"):
        Costing(space, {"latency": 5.0})
    with pytest.raises(UserError, match="knows no power"):
        find_profile("board").energy(trace_of(space, next(iter(space))))


def test_rank_takes_a_device_by_its_name(tmp_path: Path) -> None:
    from archscout.ranking import rank

    add_device("board", written(tmp_path / "m.json", measured(rows_of("plain", 20))), power="1W")
    archs = ["resnet8-w8", "resnet20-w64"]
    small = {"space": "plain", "proxies": ["params"], "input_shape": SHAPE, "batch_size": 4, "workers": 0}
    found = rank(archs=archs, limits={"latency": "1us"}, device_profile="board", **small)
    assert found["failures"].str.contains("latency").all()
    found = rank(archs=archs, limits={"energy": "1J", "ram_int8": "1kB"}, device_profile="board", **small)
    assert [("ram_int8" in text, "energy" in text) for text in found["failures"]] == [(True, False)] * 2


def test_what_the_winner_measures_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run whose limits are of another device: predicted first, then measured there, and its verdict follows."""
    import archscout
    from archscout.facts import facts_of

    add_device(
        "board", written(tmp_path / "m.json", measured(rows_of("plain", 20) + rows_of("mobilenet", 20))), power="1W"
    )
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (120, 8, 8)).astype(np.uint8), np.arange(120) % 3
    np.savez(tmp_path / "data.npz", X=images + 20 * labels[:, None, None].astype(np.uint8), y=labels)
    result = archscout.search(
        str(tmp_path / "data.npz"), out=tmp_path / "run", device_profile="board", workers=0, candidates=4, finalists=1,
        epochs=0.5, train_threads=1, proxies=("macs", "synflow"),
        limits={"latency": "2ms", "energy": "2mJ", "ram_int8": "40kB"},
    )  # fmt: skip
    summary = facts_of(result.folder)["summary"]
    assert summary["target"]["name"] == "board"
    assert summary["target"]["most"]["latency"] <= 2
    assert summary["target"]["most"]["energy"] <= 2
    assert result.best["costs"]["ram_int8"] <= 40_000
    assert "predicted" in summary["verdict"]
    assert f"bench-kit --run {result.folder}" in summary["verdict"]
    assert "predicted, at most" in result.report.read_text()
    assert result.report.read_text().count("<td>predicted, not measured</td>") == 2  # latency and energy
    assert summary["energy"]["energy"] > 0
    spent = facts_of(result.folder)["spent"]
    assert spent["energy"] == pytest.approx(sum(row["energy"] for row in facts_of(result.folder)["time"]))
    assert spent["every_candidate"]["candidates"] == sum(bool(c["scores"]) for c in result.candidates)

    about = json.loads((result.folder / "architecture.json").read_text())
    winner = {
        "file": "winner.onnx", "space": about["factory"], "input_shape": about["input_shape"],
        "classes": len(about["classes"]), "arch": about["arch"], "latency": 2.5, "energy": 1.25,
    }  # fmt: skip
    path = written(tmp_path / "back.json", measured([*rows_of("plain", 8), winner]))
    assert check_device(result.folder, path)["limits"] == {"latency": False, "energy": True}
    verdict = facts_of(result.folder)["summary"]["verdict"]
    assert "Measured on board its latency is 2.5 ms, ABOVE the limit of 2 ms" in verdict
    assert "its energy is 1.25 mJ, within the limit" in verdict
    assert "predicted" not in verdict
    with pytest.raises(UserError, match="no time of this run's winner"):
        check_device(result.folder, written(tmp_path / "m.json", measured(rows_of("plain", 8))))
    close = {**winner, "latency": 1.9, "high": 2.1, "energy": None}
    found = check_device(result.folder, written(tmp_path / "back.json", measured([*rows_of("plain", 8), close])))
    assert found["limits"] == {"latency": False, "energy": False}  # the upper end of its interval counts
    assert found["energy"] == pytest.approx(1.9)  # at the watt that was stated of the board
    verdict = facts_of(result.folder)["summary"]["verdict"]
    assert "just below the limit of 2 ms: the interval reaches to 2.1 ms" in verdict
    assert "Estimated from its latency measured on board its energy is 1.9 mJ, just below" in verdict
    assert "just below, the interval reaches 2.10\u00a0ms" in result.report.read_text()
    main(["device", "check", str(result.folder), str(tmp_path / "back.json")])
    assert "1.9 ms on" in (said := capsys.readouterr().out)
    assert "just below the limit: the interval reaches to 2.1 ms" in said
    assert "ABOVE" not in said
    for change, told in (
        ({"latency": -1}, "no time of this run's winner"),
        ({"latency": "fast"}, "latency 'fast' is not above zero"),
        ({"latency": 2.5, "energy": -3}, "energy -3 is not above zero"),
    ):
        path = written(tmp_path / "back.json", measured([*rows_of("plain", 8), {**winner, **change}]))
        with pytest.raises(UserError, match=told):
            check_device(result.folder, path)
    with pytest.raises(UserError, match="is no measurement of a bench kit"):
        check_device(result.folder, written(tmp_path / "t.csv", "arch,ms\n"))
    for change, told in (
        ({"threads": 1}, "by onnxruntime with 1 thread; 'board', .* by onnxruntime with 2: .*bench.py --threads 2"),
        ({"runtime": "tflite"}, "by tflite with 2 threads; 'board', .* by onnxruntime with 2"),
        ({"threads": 0}, "wanted a whole number"),
    ):
        path = written(tmp_path / "back.json", measured([winner], **change))
        with pytest.raises(UserError, match=told):
            check_device(result.folder, path)
    for change in ({"space": "mine:chain"}, {"classes": 4}, {"input_shape": [3, 8, 8]}):
        path = written(tmp_path / "back.json", measured([{**winner, **change}]))
        with pytest.raises(UserError, match="no time of this run's winner"):
            check_device(result.folder, path)
    other = written(tmp_path / "back.json", measured([winner], device="another board", runtime=None))
    found = check_device(result.folder, other)
    assert found["notes"] == [
        "the runtime is unknown here and onnxruntime where 'board' was measured",
        "measured on 'another board'; 'board' was added from 'a board'",
    ]
    kept = last(archscout.Result(result.folder).events, "target_measured")
    assert (kept["device"], kept["runtime"], kept["threads"]) == ("another board", "unknown", 2)
    assert kept["notes"] == found["notes"]
    main(["device", "check", str(result.folder), str(other)])
    assert "note: measured on 'another board'" in capsys.readouterr().out
    nameless = {**about, "factory": "a_space_of_python"}  # which nobody could build from here
    written(result.folder / "architecture.json", nameless)
    path = written(tmp_path / "back.json", measured([{**winner, "space": "a_space_of_python"}]))
    assert check_device(result.folder, path)["latency"] == 2.5
