"""The section on how to use the network: files, and commands to copy."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from archscout.page.shape import Figures


def section(facts: Mapping[str, Any], figures: Figures) -> dict[str, Any] | str:
    files = list(facts.get("files") or ())
    if not files:
        return "Left out: no files have been written for use."
    folder = str(facts.get("folder") or "RUN")
    snippets = [dict(snippet) for snippet in facts.get("usage") or ()]
    if not snippets:
        snippets = _snippets(folder, [str(entry.get("name")) for entry in files], facts.get("data") or {})
    return {"files": files, "snippets": snippets, "folder": folder}


def _snippets(folder: str, files: Sequence[str], data: Mapping[str, Any]) -> list[dict[str, str]]:
    """The default ways to use a run: command line, Python, PyTorch, ONNX Runtime alone; none without an ONNX file."""
    onnx = next((name for name in files if name.endswith(".onnx")), None)
    if not onnx:
        return []
    shape = ", ".join(map(str, data.get("shape") or (3, 32, 32)))
    found = {
        "On the command line": f"archscout predict {shlex.quote(folder)} photo1.png photo2.png",
        "In Python": "from archscout import predict\n\n"
        f"for found in predict({folder!r}, ['photo1.png', 'photo2.png']):\n"
        "    print(found.name, found.label, found.confidence)",
        "As a PyTorch network": f"from archscout import Result\n\nmodel = Result({folder!r}).model()  # in eval mode",
        "With ONNX Runtime alone": "import numpy as np\nimport onnxruntime\n\n"
        f"session = onnxruntime.InferenceSession({str(Path(folder) / onnx)!r})\n"
        f"images = np.zeros((1, {shape}), np.float32)  # your images, pixels 0..255\n"
        "(probabilities,) = session.run(['probabilities'], {'image': images})\n"
        "print(probabilities.argmax(1))",
    }
    if "weights.safetensors" not in files:
        del found["As a PyTorch network"]
    return [{"title": title, "code": code} for title, code in found.items()]
