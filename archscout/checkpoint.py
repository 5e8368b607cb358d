"""Checkpoints of trainings: written whole or not at all, and read back only into the training that wrote them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from archscout.errors import UserError
from archscout.files import whole


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes tensors and plain values to a file beside `path`, flushes it, and puts it in its place.

    Raises DiskFull if there is no room for it; an earlier checkpoint is then still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path, sync=True) as file:
        torch.save(content, file)


def read_checkpoint(path: Path, identity: dict[str, Any], device: torch.device | str = "cpu") -> dict[str, Any]:
    """The content of a checkpoint whose "identity" is the given one; tensors go to `device`, no pickle is executed.

    Raises UserError if the file cannot be read, or is of a training with another identity, and says what differs.
    """
    mend = mending(path)
    try:
        content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        kept = content["identity"]
    except (pickle.UnpicklingError, OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"checkpoint '{path}' cannot be read ({type(error).__name__}); {mend}") from None
    if kept != identity:
        kept = kept if isinstance(kept, dict) else {}
        names = dict.fromkeys((*identity, *kept))
        other = {name: (kept.get(name), identity.get(name)) for name in names if kept.get(name) != identity.get(name)}
        told = "; ".join(f"{name} was {was}, now {now}" for name, (was, now) in other.items())
        raise UserError(f"checkpoint '{path}' is of another training ({told}); {mend}")
    return content


def mending(path: Path) -> str:
    """What to do about a checkpoint that does not fit."""
    return f"delete '{path}' to start over, or name another checkpoint"
