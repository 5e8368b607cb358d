"""Whether the code that a run names may be imported: only if the run was made here, or if the person says so."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from archscout.errors import UserError

FOLDER = "ARCHSCOUT_CONFIG"  # environment variable that names another folder for what archscout keeps of a person
SEAL = "# made here: "  # begins the last line of the config.toml of a run that names code
METHODS = ("space", "strategy", "select", "recipe")
_CODE = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_][\w.]*")


def home() -> Path:
    """The folder of what archscout keeps of a person: $ARCHSCOUT_CONFIG, or in the user's config folder."""
    import platformdirs

    named = os.environ.get(FOLDER)
    return Path(named) if named else Path(platformdirs.user_config_path("archscout"))


def code_in(config: Mapping[str, Any]) -> list[str]:
    """What a config names that runs code when it is followed: `module:name`, and Ray clusters, which send pickles."""
    proxies = config.get("proxies")
    many = [proxies] if isinstance(proxies, str) else list(proxies) if isinstance(proxies, list | tuple) else []
    named = [config.get(name) for name in METHODS] + many
    found = [name for name in named if isinstance(name, str) and ":" in name]
    data = config.get("data")
    if isinstance(data, str) and _CODE.fullmatch(data) and not data.startswith("torchvision:"):
        found.append(data)
    if isinstance(workers := config.get("workers"), str) and "://" in workers:
        found.append(workers)
    return found


def sealed(text: str, config: Mapping[str, Any]) -> str:
    """The text of a new run's config.toml; if it names code, with a last line that shows that it was made here.

    So the run can be resumed without a question. The line holds a keyed hash of the text; the key lies in `home()` and
    is made with the first seal. Where that cannot be written there is no such line, and resuming asks.
    """
    if not code_in(config):
        return text
    try:
        return f"{text}{SEAL}{_hash(text, make=True)}\n"
    except OSError:
        return text


def unsealed(text: str) -> str:
    """The text of a config.toml without the seal."""
    return text.partition(SEAL)[0]


def require_trust(folder: str | Path, named: Iterable[str], trust: bool) -> None:
    """UserError if a run names code and neither was made here nor is trusted by the person."""
    listed = list(dict.fromkeys(named))
    if not listed or trust or _sealed(Path(folder)):
        return
    raise UserError(
        f"run {folder} names code that would be run ({', '.join(listed)[:200]}), and it was not made here by you: look "
        "at that code, and if you trust it and this run, add --trust (in Python: trust=True)"
    )


def _sealed(folder: Path) -> bool:
    try:
        text, found, kept = (folder / "config.toml").read_text(encoding="utf-8").partition(SEAL)
        return bool(found) and hmac.compare_digest(kept.strip(), _hash(text, make=False))
    except (OSError, ValueError, TypeError):
        return False


def _hash(text: str, *, make: bool) -> str:
    place = home() / "key"
    if make and not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # another process was faster
            handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(32))
    key = place.read_bytes()
    if len(key) < 32:
        raise OSError("the key is damaged")
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
