"""The run folder: what is logged is read back exactly, whatever interrupts the writing."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archscout.checkpoint import write_checkpoint
from archscout.errors import DiskFull, UserError
from archscout.result import Result
from archscout.run import Run

VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def boom() -> None:
    raise AssertionError("computed although logged")


def log_of(folder: Path) -> Path:
    return folder / "trials.jsonl"


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(), VALUE, max_size=8))
def test_resumed_values_equal_the_first_ones(tmp_path_factory, values) -> None:
    folder = tmp_path_factory.mktemp("run") / "r"
    with Run.create(folder, "x = 1\n") as run:
        first = {key: run.once(key, lambda value=value: value) for key, value in values.items()}
    with Run.open(folder) as run:
        again = {key: run.once(key, boom) for key in values}
        assert list(run.keys()) == list(values)
    assert repr(first) == repr(again) == repr(values)  # repr: also the types and every digit


def test_first_run_sees_what_the_resumed_one_sees(tmp_path) -> None:
    value = {"tuple": (1, 2.5), 3: 0.1 + 0.2}
    with Run.create(tmp_path, "") as run:
        assert run.once("k", lambda: value) == {"tuple": [1, 2.5], "3": 0.1 + 0.2}
        assert run.record("l", (1, (2,))) == [1, [2]] == run.recall("l")


def test_events_have_key_value_seconds_and_time(tmp_path) -> None:
    with Run.create(tmp_path, "") as run:
        run.once("slow", lambda: time.sleep(0.02))
        run.record("score/|nor_conv_3x3~0|+|none~0|", {"synflow": 1.5}, seconds=7)
        assert log_of(tmp_path).read_bytes().count(b"\n") == 2, "not flushed"
        slow, score = run.events()
        assert 0.02 <= slow["seconds"] < 1
        assert slow["value"] is None
        assert "slow" in run
        assert run.recall("slow") is None
        assert score["seconds"] == 7
        assert time.strptime(score["time"][:19], "%Y-%m-%dT%H:%M:%S")
        assert [e["event"] for e in run.events("score/")] == [score["event"]]
        assert "other" not in run
        assert run.recall("other") is None
        assert len(run) == 2
        run.record("slo", 1)  # after reading, the next line still goes to the end
        assert [json.loads(line)["event"] for line in log_of(tmp_path).open()][2] == "slo"


@pytest.mark.parametrize("value", [math.nan, {"a": [1, math.inf]}, {1, 2}, b"bytes"])
def test_what_is_not_json_is_refused_by_key(tmp_path, value) -> None:
    with Run.create(tmp_path, "") as run:
        with pytest.raises(ValueError, match="score/abc"):
            run.record("score/abc", value)
        assert "score/abc" not in run
        assert log_of(tmp_path).read_bytes() == b""


def test_a_key_is_logged_once(tmp_path) -> None:
    with Run.create(tmp_path, "") as run:
        run.record("a", 1)
        with pytest.raises(ValueError, match="'a' is already"):
            run.record("a", 2)
        assert run.recall("a") == 1


def test_failed_computation_logs_nothing(tmp_path) -> None:
    with Run.create(tmp_path, "") as run:
        with pytest.raises(KeyboardInterrupt):
            run.once("a", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run.once("a", lambda: 5) == 5


def test_every_torn_tail_is_dropped_and_the_log_goes_on(tmp_path) -> None:
    with Run.create(tmp_path, "") as run:
        run.record("a", 1.5)
        run.record("b", "ü")
    whole = log_of(tmp_path).read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        log_of(tmp_path).write_bytes(whole[:cut])
        with Run.open(tmp_path) as run:
            assert list(run.keys()) == ["a"]
            assert run.once("b", lambda: 2) == 2
        with Run.open(tmp_path) as run:
            assert (run.recall("a"), run.recall("b")) == (1.5, 2)
    assert "torn last line" in (tmp_path / "run.log").read_text()


@pytest.mark.parametrize(
    "line",
    [
        b"\x00\x00\n",
        b"{}\n",
        b"[1]\n",
        b'{"event":"x"}\n',
        b'{"event":"x","value":NaN}\n',
        b"\n",
        b'{"event":"a","value":3}\n',
    ],
)
def test_damaged_line_in_the_middle_is_named(tmp_path, line) -> None:
    with Run.create(tmp_path, "") as run:
        run.record("a", 1)
    before = log_of(tmp_path).read_bytes()
    log_of(tmp_path).write_bytes(before + line + before.replace(b'"a"', b'"z"'))
    with pytest.raises(UserError, match=r"line 2 of .*trials\.jsonl"):
        Run.open(tmp_path)
    log_of(tmp_path).write_bytes(before)
    Run.open(tmp_path).close()  # the failed opening left no lock behind


def test_two_processes_cannot_share_a_run(tmp_path) -> None:
    code = f"from archscout.run import Run\nRun.open({str(tmp_path)!r})"
    with Run.create(tmp_path, ""):
        with pytest.raises(UserError, match="in use"):
            Run.open(tmp_path)
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "in use by another process" in other.stderr
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_links_are_refused_before_the_lock_is_opened(tmp_path, monkeypatch) -> None:
    """Opening it may empty the file that a link leads to."""
    Run.create(tmp_path / "run", "").close()
    (tmp_path / "new").mkdir()
    (tmp_path / "precious").write_text("mine")
    for folder in ("run", "new"):
        (tmp_path / folder / ".lock").unlink(missing_ok=True)
        (tmp_path / folder / ".lock").symlink_to(tmp_path / "precious")
    monkeypatch.setattr("archscout.run.FileLock", lambda path: pytest.fail("the lock was opened"))
    with pytest.raises(UserError, match="leads out"):
        Run.open(tmp_path / "run")
    with pytest.raises(UserError, match="leads out"):
        Run.create(tmp_path / "new", "")
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_run_that_read_no_images_has_no_data(tmp_path) -> None:
    with Run.create(tmp_path / "run", 'data = "digits"\n') as run:
        run.record("versions", {})
    with pytest.raises(UserError, match="has read no images yet; type: archscout resume"):
        Result(tmp_path / "run").data()


def test_create_and_open_refuse_wrong_folders(tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match=r"--out.*archscout resume"):
        Run.create(tmp_path, "")
    assert os.listdir(tmp_path) == ["mine.txt"]
    with pytest.raises(UserError, match="is no run"):
        Run.open(tmp_path)
    with pytest.raises(UserError, match="is no run"):
        Run.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match="--out"):
        Run.create(tmp_path / "mine.txt", "")
    with Run.create(tmp_path / "deep" / "er", "a = 1\n") as run:
        assert run.config_text == "a = 1\n"
        assert run.checkpoints.is_dir()


def test_a_kill_between_config_and_log_leaves_a_run(tmp_path) -> None:
    Run.create(tmp_path, "a = 1\n").close()
    log_of(tmp_path).unlink()
    (tmp_path / "checkpoints").rmdir()
    with Run.open(tmp_path) as run:
        assert run.once("a", lambda: 1) == 1


class Full:
    """A file on a disk that has room for `room` more bytes."""

    def __init__(self, file, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.file.write(bytes(data[: self.room]))
        self.room -= written
        return written

    def __getattr__(self, name: str):
        return getattr(self.file, name)


def test_full_disk_is_a_user_error_and_leaves_whole_lines(tmp_path) -> None:
    with Run.create(tmp_path, "") as run:
        run.record("a", 1)
        run._file = Full(run._file, 20)
        with pytest.raises(UserError, match=rf"disk full: free space, then archscout resume {tmp_path}"):
            run.record("b", 2)
        assert "b" not in run
        assert log_of(tmp_path).read_bytes().endswith(b"\n")
        run._file = run._file.file
        run.record("b", 3)
    with Run.open(tmp_path) as run:
        assert (run.recall("a"), run.recall("b")) == (1, 3)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_real_enospc_while_writing_a_file(tmp_path, monkeypatch) -> None:
    def full(path, mode):
        return open("/dev/full", "wb")

    with Run.create(tmp_path, "") as run:
        run.path("report.html").write_text("old")
        before = sorted(os.listdir(tmp_path))
        monkeypatch.setattr("archscout.files.open", full, raising=False)
        with pytest.raises(DiskFull, match=f"disk full: free space, then archscout resume {tmp_path}"):
            run.write("report.html", "x" * 100)
        with pytest.raises(DiskFull, match="no room in"):  # by way of torch, which says something else
            write_checkpoint(tmp_path / "checkpoints" / "a.pt", {"identity": {}, "x": torch.zeros(10_000)})
        assert (tmp_path / "report.html").read_text() == "old"
        assert sorted(os.listdir(tmp_path)) == before
    monkeypatch.undo()
    monkeypatch.setattr("archscout.files.open", full, raising=False)
    with pytest.raises(DiskFull, match="--out"):
        Run.create(tmp_path / "new", "a = 1\n")


def test_files_are_written_whole_and_inside(tmp_path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with Run.create(tmp_path / "run", "") as run:
        assert run.write("checkpoints/a/b.bin", b"\x00\xff").read_bytes() == b"\x00\xff"
        assert run.write("a.json", "ü").read_text(encoding="utf-8") == "ü"
        (run.folder / "link").symlink_to(outside)
        for name in ("../x", "a/../../x", str(outside / "x"), "link/x", "", "."):
            with pytest.raises(UserError, match="leads out"):
                run.write(name, "x")
        for name in ("trials.jsonl", "./config.toml", "checkpoints/../run.log", ".lock"):
            with pytest.raises(UserError, match="keeps itself"):
                run.write(name, "x")
    assert not any(outside.iterdir())


def test_log_is_kept_while_open_and_logging_is_as_before_afterwards(tmp_path) -> None:
    logger = logging.getLogger("archscout")
    before = (logger.level, list(logger.handlers))
    with Run.create(tmp_path, ""):
        logger.info("hello from within")
    logger.warning("after")
    text = (tmp_path / "run.log").read_text()
    assert "INFO hello from within" in text
    assert "after" not in text
    assert (logger.level, list(logger.handlers)) == before


WRITER = """
import sys
from archscout.run import Run
with (Run.open if sys.argv[2] == "open" else lambda f: Run.create(f, ""))(sys.argv[1]) as run:
    print("on", flush=True)
    for i in range(10**6):
        run.once(f"k{i}", lambda: [i, i / 7])
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_killed_anywhere_the_log_is_whole(tmp_path, end) -> None:
    folder, count = tmp_path / "run", 0
    for start in ("create", "open", "open"):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), start], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"on\n"
        log = folder / "trials.jsonl"
        size, ends = log.stat().st_size, time.monotonic() + 60
        while log.stat().st_size < size + 20_000 and time.monotonic() < ends:  # on a busy machine that takes a while
            time.sleep(0.01)
        writer.send_signal(end)
        writer.wait()
        writer.stdout.close()
        with Run.open(folder) as run:
            assert len(run) > count
            count = len(run)
            for i, event in enumerate(run.events()):
                assert (event["event"], event["value"]) == (f"k{i}", [i, i / 7])


def test_bookkeeping_is_cheap(tmp_path) -> None:
    scores = {f"proxy{i}": i / 7 for i in range(10)}
    keys = [f"trial/nasbench201/{'|nor_conv_3x3~0|' * 6}{i}" for i in range(4000)]
    with Run.create(tmp_path, "") as run:
        start = time.process_time()
        for key in keys:
            run.record(key, scores)
        assert (time.process_time() - start) / len(keys) < 0.5e-3
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    with Run.open(tmp_path) as run:
        assert (tracemalloc.get_traced_memory()[0] - before) / len(keys) < 1000
        tracemalloc.stop()
        assert run.recall(keys[3999]) == scores
