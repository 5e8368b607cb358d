"""What goes wrong costs itself only: candidates that fail, hang or take all memory, dead workers, torn logs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import faulty
import pytest
from mine import Sweep
from test_pipeline import COUNTS, essence

import archscout
from archscout import full_training
from archscout.errors import Stopped, UserError
from archscout.execute import Limit, Outcome, Overdue, executor
from archscout.fit import Recipe
from archscout.propose import BROKEN, Costing, require_feasible
from archscout.space import SearchSpace

unix = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarm signal here")


def spin() -> None:
    while True:
        try:
            sum(range(1000))
        except Exception:
            continue


@unix
def test_what_hangs_here_is_stopped_and_another_alarm_goes_on() -> None:
    rung: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(time.monotonic()))
    left = signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        began = time.monotonic()
        with pytest.raises(Overdue), Limit(0.2):
            spin()
        assert 0.1 < time.monotonic() - began < 0.9
        assert not rung
        while not rung and time.monotonic() - began < 5:
            time.sleep(0.01)
        assert 0.9 < rung[0] - began < 2  # the alarm that was set before
        with Limit(5.0), Limit(None):
            pass
        with Limit(0.05):
            pass
        time.sleep(0.1)  # no alarm is left behind
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *left)


@unix
def test_an_import_is_not_cut_in_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_module.py").write_text("import time\ntime.sleep(0.4)\nwhole = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def load() -> None:
        __import__("slow_module")
        spin()

    with pytest.raises(Overdue), Limit(0.1):
        load()
    assert __import__("slow_module").whole


def test_a_limit_in_another_thread_does_nothing() -> None:
    import threading

    done: list[bool] = []

    def work() -> None:
        with Limit(0.01):
            time.sleep(0.05)
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


def go(item: Any) -> Any:
    if item == "forever":
        spin()
    return item


@unix
def test_without_workers_an_item_that_hangs_costs_itself_only() -> None:
    with executor(0, go, timeout=0.3) as pool:
        outcomes = list(pool.map([1, "forever", 2]))
        longer = list(pool.map([3], timeout=None))
    assert [o.value for o in (*outcomes, *longer)] == [1, None, 2, 3]
    assert outcomes[1].failure == "took longer than 0.3 s"


class KilledOnce:
    """Kills its process the first time it sees a "kill", as the kernel does where another one took the memory."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __call__(self, item: Any) -> Any:
        if item == "kill" and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if item == "kill always":
            os.kill(os.getpid(), signal.SIGKILL)
        return item


def test_the_item_of_a_killed_worker_is_tried_again(tmp_path: Path) -> None:
    items = [1, "kill", 2, "kill always", *range(20)]
    with executor(1, KilledOnce(tmp_path / "mark")) as pool:
        outcomes = list(pool.map(items))
    assert [o.value for o in outcomes] == [1, "kill", 2, None, *range(20)]
    assert outcomes[3].failure == "the worker process died"


def broken_space(build: Any) -> SearchSpace:
    return SearchSpace("odd", (1, 8, 8), 2, {"kind": ("good", "odd")}, build)


@unix
def test_costs_of_what_cannot_be_built_are_above_every_limit() -> None:
    def hang(picks: dict[str, Any]) -> Any:
        if picks["kind"] == "odd":
            spin()
        return faulty._network(1, 2, {"width": 4, "depth": 1})

    def fail(picks: dict[str, Any]) -> Any:
        raise ZeroDivisionError("by zero")

    costing = Costing(broken_space(hang), {"params": 1e6}, patience=2.0)
    assert costing((0,))["violation"] == 0
    assert costing((1,)) == {"violation": BROKEN}
    assert costing.failures == {(1,): "building it took longer than 2 s"}
    tighter = costing.within({"params": 1.0})
    assert tighter((0,))["violation"] > 0
    assert tighter((1,))["violation"] == BROKEN
    assert require_feasible(costing, [(1,), (0,)]) == [(0,)]
    with pytest.raises(UserError, match="could be built here: ZeroDivisionError: by zero"):
        require_feasible(Costing(broken_space(fail), {}), [(0,), (1,)])


@unix
def test_a_device_is_measured_by_the_networks_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from archscout.devices import profile
    from archscout.devices.profile import measure_profile

    def build(picks: dict[str, Any]) -> Any:
        import torch

        if torch.get_default_device().type == "meta" or picks["kind"] < 12:
            return faulty._network(1, 2, {"width": 2 + picks["kind"], "depth": 1})
        if picks["kind"] == 13:
            spin()
        raise MemoryError("none is left")

    monkeypatch.setattr(profile, "HANGING", 0.5)
    space = SearchSpace("odd", (1, 8, 8), 2, {"kind": tuple(range(15))}, build)
    found = measure_profile(space, seconds=0.25, networks=15, train_threads=1)
    assert 6 <= found.networks <= 12
    bad = SearchSpace("bad", (1, 8, 8), 2, {"kind": (12, 14)}, build)
    with pytest.raises(UserError, match="could be measured here: MemoryError: none is left"):
        measure_profile(bad, seconds=0.25, networks=2)


@pytest.mark.slow
@pytest.mark.alone  # two workers must start within a timeout of seconds
def test_a_search_survives_every_kind_of_bad_candidate(npz: Path, tmp_path: Path) -> None:
    result = archscout.search(
        str(npz), space=faulty.faulty, strategy=Sweep, proxies=("macs", "synflow"), candidates=14, finalists=2,
        epochs=1.0, timeout=4.0, workers=2, train_threads=1, out=tmp_path / "run",
    )  # fmt: skip
    space = faulty.faulty((1, 8, 8), 10)
    kinds = {c["arch"]: space.decode(space.parse(c["arch"]))["kind"] for c in result.candidates}
    why = {kinds[c["arch"]]: c["failures"].get("network") for c in result.candidates}
    assert set(why) == set(faulty.KINDS)
    assert why["good"] is why["fine"] is None
    assert why["broken"] == "ValueError: no such layer"
    assert "MemoryError" in why["array"]
    assert "allocate" in why["tensor"]
    assert "allocate" in why["limit"]
    assert why["killed"] == "the worker process died"
    assert why["forever"] == "took longer than 4 s"
    assert kinds.get(result.best["arch"], "good") in ("good", "fine") or result.best["role"] == "baseline"
    ranked = {kinds[c["arch"]] for c in result.candidates if c["rank"] is not None}
    assert ranked == {"good", "fine"}
    assert all(c["feasible"] == (kinds[c["arch"]] != "broken") for c in result.candidates)
    entered = [space.parse(r["arch"]) for r in result.events["verified"] if r["space"] == "faulty"]
    assert {space.decode(arch)["kind"] for arch in entered} <= {"good", "fine"}  # controls too
    page = (tmp_path / "run" / "report.html").read_text()
    assert "the worker process died" in page
    again = archscout.resume(tmp_path / "run")
    assert again.best == result.best


@unix
@pytest.mark.parametrize("kind", ["array", "forever"])
def test_a_control_that_cannot_be_measured_stays_out(
    kind: str, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Controls are measured in the main process, which no pool protects."""
    from archscout.config import make_config
    from archscout.propose import Costing
    from archscout.run import Run
    from archscout.shortlist import Door

    monkeypatch.setattr(faulty.multiprocessing, "parent_process", lambda: 1)  # as if it was a worker
    space = faulty.faulty((1, 8, 8), 10)
    arch = (faulty.KINDS.index(kind), 0)
    config = make_config({"data": str(npz), "epochs": 1, "limits": {"latency": "1s"}, "timeout": 1.0})
    with Run.create(tmp_path / "run", config.to_toml()) as run:
        door = Door(run, config, None)
        assert not door.admits(Costing(space, {}), arch)
        why = run.recall(f"measured/faulty/{space.format(arch)}")["failure"]
        assert "took longer than 1 s" in why if kind == "forever" else "MemoryError" in why
        assert door.admits(Costing(space, {}), (0, 0))


@unix
def test_the_precision_of_a_network_that_hangs_is_timed_where_a_limit_holds(
    npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor with bfloat16 and a budget: every entrant is timed, in the pool that trains it."""
    from archscout.config import make_config
    from archscout.data import load
    from archscout.full_training import entrant_precision
    from archscout.run import Run
    from archscout.verify import Entrant, Trainer

    def build(picks: dict[str, Any]) -> Any:
        if picks["kind"] == "odd":
            spin()
        return faulty._network(1, 10, {"width": 4, "depth": 1})

    monkeypatch.setattr(full_training, "precisions", lambda device: ("32-true", "bf16-mixed"))
    space, data = broken_space(build), load(str(npz))
    config, recipe = make_config({"data": str(npz), "budget": "60s"}), Recipe(batch_size=8)
    good, odd = (Entrant(space, arch, "random") for arch in ((0,), (1,)))
    with Run.create(tmp_path / "run", "") as run:
        with executor(0, Trainer((space,), data, "accuracy"), timeout=2.0) as pool, Limit(60.0):
            found = entrant_precision(run, config, recipe, pool, good)
            assert found in ("32-true", "bf16-mixed")
            assert entrant_precision(run, config, recipe, pool, odd) == "32-true"
        assert run.recall(f"precision/{good.key}")["ms"] > 0
        assert run.recall(f"precision/{odd.key}")["failure"] == "took longer than 2 s"
        nothing: Any = None
        assert entrant_precision(run, config, recipe, nothing, good) == found
        by_counts = make_config({"data": str(npz), "epochs": 1})
        assert entrant_precision(run, by_counts, recipe, nothing, Entrant(space, (1,), "largest")) == "32-true"


def test_controls_that_fail_or_hang_are_left_out(tmp_path: Path) -> None:
    from archscout.facts import failed_controls
    from archscout.propose import trial_key
    from archscout.run import Run
    from archscout.shortlist import score_controls
    from archscout.verify import Entrant

    class Half:
        def map(self, archs: Any) -> Any:
            asked.extend(archs)
            good = {"scores": {"macs": 1.0}, "failures": {"naswot": "undefined"}}
            return [Outcome(good, None, 1.0) if a[0] < 2 else Outcome(None, "took longer than 4 s", 4.0) for a in archs]

    asked: list[Any] = []
    space = SearchSpace("odd", (1, 8, 8), 2, {"kind": tuple(range(6))}, lambda picks: None)
    other = SearchSpace("plain", (1, 8, 8), 2, {"kind": (0, 1)}, lambda picks: None)
    entrants = [
        Entrant(space, (0,), "finalist"), Entrant(space, (1,), "largest"), Entrant(space, (2,), "largest"),
        Entrant(space, (3,), "finalist"), Entrant(space, (4,), "random"), Entrant(other, (1,), "baseline"),
    ]  # fmt: skip
    with Run.create(tmp_path / "run", "") as run:
        run.record(trial_key(space, (4,)), {"failures": {"network": "the worker process died"}})  # once a proposal
        for _ in range(2):  # the second time from the log
            sound = score_controls(run, space, entrants, Half())
            assert [e.arch for e in sound] == [(0,), (1,), (3,), (1,)]
        assert asked == [(0,), (1,), (2,), (3,)]
        told = failed_controls({event["event"]: event["value"] for event in run.events()})
        assert [row["reason"] for row in told] == ["network of a control: took longer than 4 s"] * 2
        assert [row["arch"] for row in told] == [space.format((2,)), space.format((3,))]


def test_all_candidates_bad_is_told(npz: Path, tmp_path: Path) -> None:
    def nothing(input_shape: Any, classes: int) -> SearchSpace:
        def build(picks: dict[str, Any]) -> Any:
            raise ValueError("never")

        return SearchSpace("nothing", input_shape, classes, {"width": (1, 2)}, build)

    with pytest.raises(UserError, match="no network of space 'nothing' could be built here: ValueError: never"):
        archscout.search(str(npz), space=nothing, out=tmp_path / "run", workers=0, **COUNTS)
    assert not (tmp_path / "run").exists()


class Noting:
    """A pool that notes the time limits it is given, and whose items all fail."""

    def __init__(self) -> None:
        self.limits: list[float | None] = []

    def map(self, items: Any, timeout: float | None = -1.0) -> Any:
        self.limits.append(timeout)
        return [Outcome(None, "took longer than that", 1.0) for _ in items]


def test_trainings_that_hang_are_given_up_with_and_without_a_budget(tmp_path: Path) -> None:
    from archscout.plan import Plan
    from archscout.run import Run
    from archscout.verify import Entrant, choose, verify

    space = broken_space(lambda picks: None)
    entrants = [Entrant(space, (0,), "finalist", {"training": 2.0}), Entrant(space, (1,), "random", {"training": 5.0})]
    seconds = {"verify": 80.0}
    for number, (plan, limit) in enumerate(
        [
            (Plan(2, 1, 1.0, (3.0,), None, {}), 7.0 + 20 * 3 * 100 * 5e-3),
            (Plan(2, 1, 1.0, (3.0,), None, seconds), 7.0 + 5 * 3 * (0.75 * 80 / 2)),
        ]
    ):
        pool = Noting()
        with Run.create(tmp_path / str(number), "") as run:
            records = verify(run, entrants, plan, pool, recipe=Recipe(), seed=0, images=100, patient=7.0)
        assert pool.limits == [pytest.approx(limit)]
        with pytest.raises(UserError, match="took longer than that"):
            choose(records)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes")])
def test_too_little_memory_for_the_full_training_keeps_the_run(
    error: Exception, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(full_training, "fit", short)
    out = tmp_path / "run"
    with pytest.raises(Stopped, match=f"more memory than there is.*archscout resume {out}"):
        archscout.train(str(npz), space="plain", arch="resnet8-w8", epochs=0.2, train_threads=1, out=out)
    monkeypatch.undo()
    assert archscout.resume(out).finished

    def other(*_: Any, **__: Any) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(full_training, "fit", other)
    with pytest.raises(RuntimeError, match="something else"):
        archscout.train(str(npz), space="plain", arch="resnet8-w8", epochs=0.2, train_threads=1, out=tmp_path / "b")


@pytest.mark.slow
def test_a_log_torn_at_any_stage_is_resumed_to_the_same_end(npz: Path, tmp_path: Path) -> None:
    """The log ends in the middle of a line, as a power cut leaves it; files that were written later may be there."""
    whole = archscout.search(str(npz), out=tmp_path / "whole", workers=0, limits={"params": "40k"}, **COUNTS)
    expected = essence(whole.folder)
    lines = (whole.folder / "trials.jsonl").read_bytes().splitlines(keepends=True)
    keys = [json.loads(line)["event"] for line in lines]
    trials = [i for i, key in enumerate(keys) if key.startswith("trial/")]
    for name, cut in {
        "trial": trials[7],
        "verify": keys.index("verify-done/0"),
        "winner": keys.index("winner"),
    }.items():
        torn = Path(shutil.copytree(whole.folder, tmp_path / name))
        (torn / "trials.jsonl").write_bytes(b"".join(lines[:cut]) + lines[cut][: len(lines[cut]) // 2])
        (torn / "weights.safetensors").unlink()
        shutil.rmtree(torn / "checkpoints")
        assert archscout.resume(torn).finished
        assert essence(torn) == expected, name


def test_a_full_disk_before_the_plan_keeps_the_run(npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_run import Full

    from archscout.run import Run

    record = Run.record

    def filling(self: Run, key: str, value: Any, seconds: float = 0.0) -> Any:
        if key == "metric":
            self._file = Full(self._file, 10)
        return record(self, key, value, seconds)

    monkeypatch.setattr(Run, "record", filling)
    out = tmp_path / "run"
    with pytest.raises(Stopped, match=f"disk full: free space, then archscout resume {out}"):
        archscout.train(str(npz), space="plain", arch="resnet8-w8", epochs=0.2, train_threads=1, out=out)
    monkeypatch.undo()
    assert (out / "trials.jsonl").read_bytes().endswith(b"\n")
    assert archscout.resume(out).finished


FILLING = """
import contextlib, io, os, subprocess, sys
place, data = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", place], check=True)
from archscout.cli import main
from archscout import pipeline
measure = pipeline.measure_profile
pipeline.measure_profile = lambda *args, **kw: measure(*args, **{**kw, "seconds": 0.5})  # decides nothing here
search = ["search", "--data", data, "--out", f"{place}/run", "--workers", "0", "--limit", "params=40k"]
search += ["--proxies", "macs,naswot,synflow", "--candidates", "12", "--finalists", "2", "--epochs", "2"]
search += ["--train-threads", "1"]
size, told = 8, []
while True:
    begun = os.path.exists(f"{place}/run/config.toml")
    with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()):
        try:
            main(["resume", f"{place}/run", "--quiet"] if begun else [*search, "--quiet"])
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
    if code == 0:
        break
    lines = errors.getvalue().strip().splitlines()
    told.append(lines[-1])
    assert code == 2 and "disk full" in lines[-1] and "Traceback" not in errors.getvalue(), (size, code, lines)
    assert begun <= os.path.exists(f"{place}/run/config.toml")
    log = f"{place}/run/trials.jsonl"
    assert not os.path.exists(log) or os.path.getsize(log) == 0 or open(log, "rb").read().endswith(b"\\n")
    size = 2 * size
    subprocess.run(["mount", "-o", f"remount,size={size}k", "none", place], check=True)
print(len(told), size)
subprocess.run(["cp", "-r", f"{place}/run", f"{place}-run"], check=True)
"""


def may_mount() -> bool:
    import subprocess

    line = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=8k none /mnt"]
    return shutil.which("unshare") is not None and subprocess.run(line, capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_disk_that_is_full_at_every_stage(npz: Path, tmp_path: Path) -> None:
    """A small disk that doubles whenever the run says that it is full: the run ends like any other."""
    import subprocess
    import sys

    if not may_mount():
        pytest.skip("no disk of our own can be mounted here")
    whole = archscout.search(str(npz), out=tmp_path / "whole", workers=0, limits={"params": "40k"}, **COUNTS)
    (tmp_path / "disk").mkdir()
    script = tmp_path / "filling.py"
    script.write_text(FILLING)
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, str(script), str(tmp_path / "disk"), str(npz)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    times, size = map(int, done.stdout.split()[-2:])
    assert times >= 8, done.stdout
    assert size < 40_000
    assert essence(tmp_path / "disk-run") == essence(whole.folder)


def test_time_after_the_last_event_counts_and_a_stage_gets_its_time_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full training logs nothing until its end; a run that is killed in it must not be given those minutes again."""
    from archscout import clock as clocks
    from archscout.run import Run

    moment = [1000.0]
    monkeypatch.setattr(clocks.time, "monotonic", lambda: moment[0])
    with Run.create(tmp_path / "run", 'data = "digits"\n') as run:
        clock = clocks.Clock(run, 600.0)
        assert clock.begun("verify") == pytest.approx(0.0, abs=1.0)
        moment[0] += 100.0
        assert clock.spent() == pytest.approx(100.0)
    with Run.open(tmp_path / "run") as run:  # killed here; the gap does not count
        moment[0] += 5000.0
        clock = clocks.Clock(run, 600.0)
        assert clock.spent() == pytest.approx(100.0, abs=1.0)
        assert clock.begun("verify") == pytest.approx(0.0, abs=1.0)
        assert clock.begun("train") == pytest.approx(100.0, abs=1.0)
