"""Opens a page in headless Chromium, with the network cut off, and tells what happened."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-pings",
)


@dataclass(frozen=True)
class Page:
    """dom: the document after its scripts ran. console: every console message. requests: every http(s) or ws address
    that anything in the browser asked for on behalf of the page."""

    dom: str
    console: list[str]
    requests: list[str]


def binary() -> str:
    """The Chromium of this machine, or a skip."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    pytest.skip(f"no Chromium on this machine (looked for {', '.join(NAMES)})")


def open_page(path: str | Path, *, width: int = 1280, timeout: float = 120) -> Page:
    """Open a local file in a window of that width (500 at least) and return what became of it."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "net.json"
        done = _chromium(
            path,
            f"--user-data-dir={folder}/profile",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--log-net-log={log}",
            f"--window-size={width},900",
            "--enable-logging=stderr",
            "--v=0",
            "--virtual-time-budget=8000",
            "--dump-dom",
            timeout=timeout,
        )
        console = [line for line in done.stderr.splitlines() if re.search(r"\bCONSOLE[:(]", line)]
        return Page(done.stdout, console, _asked(log))


def screenshot(path: str | Path, picture: str | Path, *, width: int, height: int, dark: bool = False) -> Path:
    """A PNG of a local file in a window of that size; for looking at a page by eye."""
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder) / "frame.html"  # a window has a smallest width, a frame has none
        size = f'width="{width}" height="{height}"'
        frame.write_text(f'<body style="margin:0"><iframe {size} frameborder=0 src="{Path(path).resolve().as_uri()}">')
        _chromium(
            frame if width < 600 else path,
            f"--user-data-dir={folder}/profile",
            f"--window-size={width},{height}",
            f"--screenshot={picture}",
            "--virtual-time-budget=8000",
            *(["--blink-settings=preferredColorScheme=0"] if dark else []),
            timeout=120,
        )
    return Path(picture)


def _chromium(path: str | Path, *options: str, timeout: float) -> subprocess.CompletedProcess[str]:
    command = [binary(), *QUIET, *options, Path(path).resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, encoding="utf-8", errors="replace")
    if done.returncode:
        raise RuntimeError(f"Chromium ended with code {done.returncode}: {done.stderr[-2000:]}")
    return done


def _asked(log: Path) -> list[str]:
    """The addresses in a net log, without the browser's own housekeeping (its requests name a traffic annotation but
    no initiator)."""
    text = log.read_text(encoding="utf-8", errors="replace")
    try:
        record = json.loads(text)
    except json.JSONDecodeError:  # the browser may end before the closing brackets are written
        record = json.loads(text.rstrip().rstrip(",") + "]}")
    kinds = {number: name for name, number in record["constants"]["logEventTypes"].items()}
    found = []
    for event in record["events"]:
        params = event.get("params") or {}
        url = str(params.get("url", ""))
        if kinds.get(event["type"]) == "URL_REQUEST_START_JOB" and re.match(r"(https?|wss?):", url):
            initiator = str(params.get("initiator", ""))
            if initiator not in ("", "not an origin"):
                found.append(url)
    return found
