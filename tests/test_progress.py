"""The bar shows itself at a terminal, late, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from archscout.progress import progress

CODE = """
import time
from archscout import progress as module
module.DELAY = {delay}
with module.progress("scoring", 4, quiet={quiet}) as bar:
    bar.advance(best=0.75)
    time.sleep(0.5)
    bar.total = 8
    bar.advance(2, best="3-1-[b]2", note="half [way]")
"""


def at_a_terminal(code: str) -> str:
    """What a program writes to stderr if that is a terminal."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    child = subprocess.Popen([sys.executable, "-c", code], stderr=theirs, env=environment)
    os.close(theirs)
    written = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        written += piece
    os.close(ours)
    assert child.wait() == 0
    return written.decode()


def test_bar_shows_counts_best_and_note() -> None:
    text = at_a_terminal(CODE.format(delay=0.05, quiet=False))
    for wanted in ("scoring", "3/8", "best 3-1-[b]2", "half [way]", "left"):
        assert wanted in text


@pytest.mark.parametrize(("delay", "quiet"), [(2.0, False), (0.05, True)])
def test_short_loops_and_quiet_ones_show_nothing(delay, quiet) -> None:
    assert at_a_terminal(CODE.format(delay=delay, quiet=quiet)) == ""


def test_silent_without_a_terminal() -> None:
    result = subprocess.run([sys.executable, "-c", CODE.format(delay=0.0, quiet=False)], capture_output=True)
    assert (result.stdout, result.stderr, result.returncode) == (b"", b"", 0)


def test_errors_pass_and_total_is_readable() -> None:
    with progress("x", None) as bar:
        bar.total = 3
        assert bar.total == 3
    with pytest.raises(KeyboardInterrupt), progress("x", None):
        raise KeyboardInterrupt
