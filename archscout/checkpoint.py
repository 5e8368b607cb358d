"""Checkpoints of trainings: written whole or not at all, and read back only into the training that wrote them."""

from __future__ import annotations

import io
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors

from archscout.errors import UserError
from archscout.files import whole

log = logging.getLogger("archscout")


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


def npy(array: np.ndarray) -> bytes:
    """An array as the bytes of an .npy file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def read_weights(path: Path) -> tuple[bytes, dict[str, torch.Tensor]]:
    """The bytes and the tensors of the .safetensors file that a short training of a run left in its `checkpoints/`.

    Raises Lost where it is missing or damaged. Nothing in it is executed.
    """
    try:
        content = path.read_bytes()
        return content, load_tensors(content)
    except Exception as error:  # a damaged head fails in many ways
        raise Lost(path, error) from None


def read_answers(path: Path, images: int | None = None) -> np.ndarray:
    """The answers (images,) in an .npy file that a short training of a run left in its `checkpoints/`.

    images: how many were answered, None where that is not known. Raises Lost where the file is missing, damaged or of
    another number of images. Nothing in it is executed.
    """
    try:
        with open(path, "rb") as file:
            answers = np.lib.format.read_array(file, allow_pickle=False)
        if answers.ndim != 1 or answers.dtype.kind not in "iu" or images not in (None, len(answers)):
            raise ValueError(f"{answers.dtype} {answers.shape}, wanted the answers to {images} images")
        return answers
    except Exception as error:
        raise Lost(path, error) from None


def left_behind(weights: Path | None, answers: Path | None, images: int | None = None) -> bool:
    """Whether what a short training left can be read back: its weights and its answers, None for what it did not leave.

    What cannot is named in a warning.
    """
    try:
        if weights is not None:
            read_weights(weights)
        if answers is not None:
            read_answers(answers, images)
    except Lost as error:
        log.warning("%s: what left it trains again", error.what)
        return False
    return True


def mending(path: Path) -> str:
    """What to do about a checkpoint that does not fit."""
    return f"delete '{path}' to start over, or name another checkpoint"


class Lost(UserError):
    """What a short training left in `checkpoints/` cannot be read back; `what` says which file and why."""

    def __init__(self, path: Path, error: Exception) -> None:
        missing = isinstance(error, FileNotFoundError)
        why = "is missing" if missing else f"cannot be read ({type(error).__name__}: {error})"
        self.what = f"checkpoint '{path}' {why}"
        run = path.parent.parent
        super().__init__(f"{self.what}; put it back, or type archscout resume {run}, which trains it again")
