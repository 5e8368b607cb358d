"""The one exception that is the person's to mend, the wording of unknown names, and its way out of processes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """Something the person can mend: the message says what was got, what was wanted and what to type.

    The command line prints it as one line and exits with code 2.
    """


class Stopped(UserError):
    """Something outside stopped the work, such as too little memory; what was computed is kept, a run resumes."""


class DiskFull(Stopped):
    """There is no room on the disk."""


def unknown(what: str, got: str, known: Iterable[str], hint: str = "") -> UserError:
    """The error for a name that does not exist, with the nearest existing name.

    `what` is the kind of thing ("proxy"), `known` the names that exist, `hint` an extra sentence.
    """
    names = sorted(known)
    near = difflib.get_close_matches(got, names, n=1, cutoff=0.5)
    guess = f"; did you mean '{near[0]}'?" if near else ""
    extra = f" {hint}" if hint else ""
    there = f"known: {', '.join(names)}" if names else "there are none yet"
    return UserError(f"unknown {what} '{got}'{guess} ({there}){extra}")


@contextmanager
def leaving(note: Path) -> Iterator[None]:
    """In a process of several: a UserError also leaves its text in a file, since the launcher gets a traceback only."""
    try:
        yield
    except UserError as error:
        note.write_text(str(error), encoding="utf-8")
        raise


@contextmanager
def taking(note: Path) -> Iterator[None]:
    """Around the launch of several processes: raises the UserError of one of them that left it in the file."""
    try:
        yield
    except Exception:
        if note.exists():
            raise UserError(note.read_text(encoding="utf-8")) from None
        raise
