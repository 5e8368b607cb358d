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
from archscout.files import write_whole

FOLDER = "ARCHSCOUT_CONFIG"  # environment variable that names another folder for what archscout keeps of a person
SEAL = ".seal"  # file of a run whose config names code: a keyed hash of that config
METHODS = ("space", "strategy", "select", "recipe")
_CODE = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_][\w.]*")


def home() -> Path:
    """The folder of what archscout keeps of a person: $ARCHSCOUT_CONFIG, or in the user's config folder."""
    import platformdirs

    named = os.environ.get(FOLDER)
    return Path(named) if named else Path(platformdirs.user_config_path("archscout"))


def code_in(config: Mapping[str, Any]) -> list[str]:
    """What a config names that runs code when it is followed: `module:name`, and Ray clusters, which send pickles."""
    proxies = config.get("proxies") or ()
    named = [config.get(name) for name in METHODS] + ([proxies] if isinstance(proxies, str) else list(proxies))
    found = [name for name in named if isinstance(name, str) and ":" in name]
    data = config.get("data")
    if isinstance(data, str) and _CODE.fullmatch(data) and not data.startswith(("torchvision:", "object:")):
        found.append(data)
    if isinstance(workers := config.get("workers"), str) and "://" in workers:
        found.append(workers)
    return found


def seal(folder: str | Path, config: Mapping[str, Any]) -> None:
    """Marks a new run as made here, if its config names code; so that it can be resumed without a question.

    The mark is a keyed hash of the text of config.toml; the key lies in `home()` and is made with the first seal. Where
    that cannot be written there is no mark, and resuming asks.
    """
    if not code_in(config):
        return
    try:
        write_whole(Path(folder) / SEAL, _hash(Path(folder), make=True))
    except OSError:
        return


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
        kept = (folder / SEAL).read_text(encoding="ascii")
        return hmac.compare_digest(kept, _hash(folder, make=False))
    except (OSError, ValueError, TypeError):
        return False


def _hash(folder: Path, *, make: bool) -> str:
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
    return hmac.new(key, (folder / "config.toml").read_bytes(), hashlib.sha256).hexdigest()
