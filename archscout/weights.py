"""Weights of networks that others saved, read from a file as tensors alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from archscout.errors import UserError


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a torch state dict, alone or under "state_dict", without "module.".

    Nothing in the file is executed. Raises UserError where there are none.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        why = error.strerror or str(error)
        raise UserError(f"there are no weights at '{path}' ({why}); give the path of a state dict") from None
    except Exception as error:  # safetensors, zip and pickle each have their own
        raise UserError(
            f"'{path}' holds no weights that can be read safely ({type(error).__name__}); save network.state_dict() "
            "with torch.save"
        ) from None
    content = content.get("state_dict", content) if isinstance(content, dict) else {}
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"'{path}' holds no weights, names with tensors; save network.state_dict() with torch.save")
    return {str(name).removeprefix("module."): value for name, value in content.items()}
