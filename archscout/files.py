"""Files that appear whole or not at all, and folders from which nothing leads out."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from archscout.errors import DiskFull, UserError

FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


@contextmanager
def whole(path: str | os.PathLike[str], *, sync: bool = False) -> Iterator[IO[bytes]]:
    """A file to write to that takes the place of `path` when the block ends, and is gone if it fails.

    What stood at `path` is replaced, also where it was a link: nothing is written through one. `sync` forces the
    content to the disk first, so that a power cut leaves the old or the new file. Raises DiskFull if there is no room,
    OSError for anything else that cannot be written.
    """
    place = Path(path)
    draft = place.with_name(f".{place.name}.{secrets.token_hex(4)}.part")
    try:
        with open(draft, "xb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(draft, place)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if is_full(error):
            raise no_room(place.parent) from None
        raise


def write_whole(path: str | os.PathLike[str], content: str | bytes, *, sync: bool = False) -> None:
    """Writes a file of that content (text as UTF-8), whole or not at all; see `whole`."""
    with whole(path, sync=sync) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def user_cache() -> Path:
    """The folder of what can be made again: $ARCHSCOUT_CACHE, or archscout's in the user's cache ($XDG_CACHE_HOME)."""
    if named := os.environ.get("ARCHSCOUT_CACHE"):
        return Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_path("archscout"))


def is_full(error: BaseException | None) -> bool:
    """Whether an exception comes from a full disk or quota, perhaps by way of others."""
    seen = 0
    while error is not None and seen < 20:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False


def no_room(folder: str | os.PathLike[str]) -> DiskFull:
    """The error for a disk on which a folder has no room."""
    return DiskFull(
        f"disk full: no room in '{folder}'; free space, then go on (a run with archscout resume RUN): nothing is lost"
    )


def refuse_exits(folder: str | os.PathLike[str]) -> None:
    """Raises UserError if something below a folder is a link that leads out of it, or is no plain file or folder.

    For folders that may come from somebody else: writing to such a file would write elsewhere. What vanishes meanwhile,
    as the drafts of a run at work do, is passed over.
    """
    root = Path(folder).resolve()
    for where, folders, files in os.walk(root):
        for name in (*folders, *files):
            place = Path(where, name)
            try:
                mode = os.lstat(place).st_mode
            except FileNotFoundError:
                continue
            if stat.S_ISLNK(mode):
                if root not in place.resolve().parents:
                    raise UserError(f"'{place}' is a link that leads out of '{folder}': remove it, or put a copy there")
            elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise UserError(f"'{place}' is no plain file: remove it")
