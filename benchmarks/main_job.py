"""The main job on real images, and the plain baseline trained for the same wall-clock time under the same limits.

    python benchmarks/main_job.py --data FOLDER [--only cifar10] [--minutes 60] [--quick]

FOLDER holds images/magnetic_tile_64.npz and images/cifar10_lossless.zip; Fashion-MNIST is read from Debian's package
dataset-fashion-mnist; the digits are inside scikit-learn. Data that are absent are skipped and said so. Cells (a data
set and an arm) that results/main_job.json already holds are skipped, so that it runs in pieces. The baseline is the
plain residual network that stood beside the winner in the search's own verification, trained with the same recipe for
the whole budget of the search. The test part of each data set is opened once per arm, by the audit.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import shutil
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
import results_file

import archscout

HERE = Path(__file__).resolve().parent
FASHION = Path("/usr/share/datasets/fashion-mnist")
SETTINGS: dict[str, dict] = {
    "digits": {"limits": {"params": "60k"}},
    "tiles": {"limits": {"latency": "5ms", "memory": "2MB"}},
    "cifar10": {"limits": {"latency": "5ms"}},
    "fashion": {"limits": {"latency": "3ms"}},
}


def cifar10(folder: Path, root: Path) -> str:
    """CIFAR-10 with its own test part, as an .npz file."""
    from PIL import Image

    out = {}
    with zipfile.ZipFile(root / "images" / "cifar10_lossless.zip") as archive:
        about = json.loads(archive.read("meta.json"))
        (rows, columns), (height, width) = about["tile"], about["size"]
        for split in ("train", "test"):
            labels = np.load(io.BytesIO(archive.read(f"{split}_labels.npy")), allow_pickle=False)
            sheets = []
            for number in range(len(labels) // (rows * columns)):
                sheet = np.asarray(Image.open(io.BytesIO(archive.read(f"{split}_{number:02d}.webp"))).convert("RGB"))
                tiles = sheet.reshape(rows, height, columns, width, 3).transpose(0, 2, 1, 3, 4)
                sheets.append(tiles.reshape(-1, height, width, 3))
            out[split] = (np.concatenate(sheets), labels)
    np.savez(folder / "cifar10.npz", X=out["train"][0], y=out["train"][1], X_test=out["test"][0], y_test=out["test"][1])
    return str(folder / "cifar10.npz")


def fashion(folder: Path, root: Path) -> str:
    """Fashion-MNIST with its own test part, as an .npz file."""

    def read(name: str, skip: int) -> np.ndarray:
        with gzip.open(FASHION / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=skip)

    np.savez(
        folder / "fashion.npz",
        X=read("train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28),
        y=read("train-labels-idx1-ubyte.gz", 8),
        X_test=read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28),
        y_test=read("t10k-labels-idx1-ubyte.gz", 8),
    )
    return str(folder / "fashion.npz")


def tiles(folder: Path, root: Path) -> str:
    """The magnetic tiles as a folder of PNG files, one sub-folder per class."""
    from PIL import Image

    with np.load(root / "images" / "magnetic_tile_64.npz", allow_pickle=False) as stored:
        images, labels, names = stored["X"], stored["y"], [str(name) for name in stored["classes"]]
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / "tiles" / names[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze()).save(place / f"{number:05d}.png")
    return str(folder / "tiles")


def digits(folder: Path, root: Path) -> str:
    return "digits"


SOURCES = {"digits": digits, "tiles": tiles, "cifar10": cifar10, "fashion": fashion}


def cell_of(result: archscout.Result, minutes: float) -> dict:
    """What is kept of a run: the test metric with its interval, minutes and who won."""
    best = result.best
    test, metric = best["test"], best["metric"]
    verified = result.events.get("verified") or []
    return {
        "metric": metric,
        "value": 100 * test[metric],
        "low": 100 * test[f"{metric}_interval"][0],
        "high": 100 * test[f"{metric}_interval"][1],
        "n": test["n"],
        "accuracy": 100 * test["accuracy"],
        "minutes": minutes,
        "arch": best["arch"],
        "space": best["space"],
        "role": best["role"],
        "latency_ms": best["latency"]["median"],
        "params": best["costs"].get("params"),
        "epochs": result.events["trained"]["epochs"],
        "candidates": len(result.front) and sum(c["rank"] is not None for c in result.candidates),
        "verified": [
            {k: r[k] for k in ("space", "arch", "role", "validation")} | {"rounds": len(r["rounds"])} for r in verified
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ARCHSCOUT_DATA"), help="folder of real data")
    parser.add_argument("--budget", default="10m", help="wall-clock time of each arm")
    parser.add_argument("--only", action="append", choices=list(SOURCES), help="only these data sets")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no new cell after this many minutes")
    parser.add_argument("--quick", action="store_true", help="digits, counts instead of budgets; a test of the script")
    parser.add_argument("--keep", type=Path, help="keep the run folders here")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "main_job.json")
    args = parser.parse_args()
    began = time.monotonic()
    names = ["digits"] if args.quick else args.only or list(SOURCES)
    cells: dict[str, dict] = {}
    if args.out.exists() and not args.quick:
        cells = json.loads(args.out.read_text())["cells"]
    for name in names:
        budget = "2m" if name == "digits" else args.budget
        long = {"budget": budget}
        few = {"candidates": 6, "finalists": 1, "epochs": 0.5, "workers": 0, "proxies": "macs,naswot"}
        with tempfile.TemporaryDirectory() as work:
            try:
                source = SOURCES[name](Path(work), Path(args.data or "absent"))
            except OSError as error:
                print(f"{name}: skipped, data absent ({error})", file=sys.stderr)
                continue
            for arm in ("archscout", "baseline"):
                if f"{name}/{arm}" in cells or (time.monotonic() - began) / 60 > args.minutes:
                    continue
                folder = (args.keep or Path(work)) / f"{name}-{arm}"
                shutil.rmtree(folder, ignore_errors=True)
                start = time.monotonic()
                if arm == "archscout":
                    asked = {**SETTINGS[name], **(few if args.quick else long)}
                    result = archscout.search(source, out=folder, seed=args.seed, **asked)
                else:
                    verified = cells[f"{name}/archscout"]["verified"]
                    arch = next((v["arch"] for v in verified if v["role"] == "baseline"), None)
                    if arch is None:
                        print(f"{name}: no plain baseline fits the limits", file=sys.stderr)
                        continue
                    asked = {"epochs": 0.5} if args.quick else long
                    result = archscout.train(source, space="plain", arch=arch, out=folder, seed=args.seed, **asked)
                cells[f"{name}/{arm}"] = {
                    **cell_of(result, (time.monotonic() - start) / 60),
                    "limits": SETTINGS[name]["limits"],
                    "budget": budget,
                }
                print(name, arm, json.dumps(cells[f"{name}/{arm}"])[:400], flush=True)
                save(args.out, cells, args.budget)
    if not cells:
        raise SystemExit("no cell was run: give --data FOLDER")
    save(args.out, cells, args.budget)


def save(path: Path, cells: dict[str, dict], budget: str) -> None:
    """Write the figures that follow from the cells, and the cells."""
    figures = []
    for name in SOURCES:
        ours, plain = cells.get(f"{name}/archscout"), cells.get(f"{name}/baseline")
        reach = None if plain is None else plain["value"]
        for arm, cell in (("accuracy", ours), ("baseline", plain)):
            if cell:
                figures.append(
                    {
                        "name": f"{arm}_{name}",
                        "value": cell["value"],
                        "unit": f"% {cell['metric'].replace('_', ' ')}, test part, one seed",
                        "low": cell["low"],
                        "high": cell["high"],
                        "n": cell["n"],
                        "known": None,
                        "reach": reach if arm == "accuracy" else None,
                    }
                )
        if ours:
            minutes = {
                "name": f"minutes_{name}",
                "value": ours["minutes"],
                "unit": "minutes",
                "low": None,
                "high": None,
            }
            figures.append({**minutes, "n": 1, "known": None, "reach": 20.0})
    results_file.write(
        path,
        figures,
        command=f"python benchmarks/main_job.py --data FOLDER --budget {budget}",
        cells=cells,
    )


if __name__ == "__main__":
    main()
