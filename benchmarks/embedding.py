"""What the image-similarity embedding costs, and how much of it is about content, beside two controls.

    python benchmarks/embedding.py --data FOLDER [--seeds 3] [--quick]

FOLDER holds images/cifar10_lossless.zip. Each kind of embedding (32 numbers per image) is learned from the 50,000
training images of CIFAR-10 and applied to the 10,000 of the test part, which no design choice has seen; and likewise
from the train part of scikit-learn's digits to their validation part (`--quick`: digits alone). Per data set:

neighbours_KIND       accuracy on held-out images of the vote of the 10 nearest learning images. Each held-out image
                      is one sample: its mean over the seeds. `largest_class` is the accuracy of always saying the
                      most frequent class.
KIND_less_KIND        the same, difference per image.
error_KIND            mean squared error, on held-out images, of the best linear map from the embedding back to the
                      standardised small image, over that of as many principal components; a sample per seed.
seconds_KIND          wall-clock time of `embed`, reading, training and encoding together, on all cores; a sample per
                      seed. `cpu` beside it is the processor time in seconds, which other jobs on the machine disturb
                      less.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import main_job
import results_file

from archscout.data import load
from archscout.selection.embedding import embed, learn, shrink

HERE = Path(__file__).resolve().parent
KINDS = ("autoencoder", "untrained", "pixels")
NEAREST = 10


def votes(known: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The class of most of the nearest known points, int64 (n,)."""
    points, names = torch.from_numpy(known), torch.from_numpy(labels)
    answers = []
    for block in torch.from_numpy(asked).split(500):
        near = torch.cdist(block, points).topk(NEAREST, largest=False).indices
        answers.append(torch.nn.functional.one_hot(names[near]).sum(1).argmax(1))
    return torch.cat(answers).numpy()


def pixels_of(part: Any, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Standardised small images as rows, float32."""
    images = shrink(part).images.numpy().astype(np.float32)
    return ((images - mean) / std).reshape(len(images), -1)


def linear_error(points: np.ndarray, images: np.ndarray, later: np.ndarray, images_later: np.ndarray) -> float:
    """Mean squared error on later images of the least-squares map from points to images."""
    points, later = (np.hstack([each, np.ones((len(each), 1), np.float32)]) for each in (points, later))
    solved = np.linalg.lstsq(points.T @ points, points.T @ images, rcond=1e-7)[0]
    return float(np.mean((later @ solved - images_later) ** 2))


def measure(name: str, known: Any, asked: Any, mean: Any, std: Any, seeds: int, threads: int) -> list[dict[str, Any]]:
    """The figures of one data set."""
    mean, std = (np.array(each, dtype=np.float32)[:, None, None] for each in (mean, std))
    images, images_later = pixels_of(known, mean, std), pixels_of(asked, mean, std)
    right: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    errors: dict[str, list[float]] = {kind: [] for kind in KINDS}
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    cpu: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for seed in range(seeds):
        for kind in KINDS:
            began = time.perf_counter(), time.process_time()
            embed(known, kind, seed=seed, threads=threads)
            seconds[kind].append(time.perf_counter() - began[0])
            cpu[kind].append(time.process_time() - began[1])
            encoder = learn(known, kind, seed=seed, threads=threads)
            points, later = encoder(known), encoder(asked)
            right[kind].append(votes(points, known.labels, later) == asked.labels)
            errors[kind].append(linear_error(points, images, later, images_later))
            print(f"{name} {kind} seed {seed}: {seconds[kind][-1]:.1f} s, {right[kind][-1].mean():.4f}", flush=True)
    chance = 100 * float(np.bincount(known.labels).max()) / len(known)
    about = {"seeds": seeds, "learned_from": len(known), "largest_class": chance}
    percent = {kind: 100 * np.mean(right[kind], axis=0) for kind in KINDS}
    figures = [results_file.figure(f"{name}_neighbours_{kind}", percent[kind], "%", **about) for kind in KINDS]
    for kind in KINDS[1:]:
        ahead = percent["autoencoder"] - percent[kind]
        figures.append(results_file.figure(f"{name}_autoencoder_less_{kind}", ahead, "points", **about))
    for kind in KINDS:
        over = np.divide(errors[kind], errors["pixels"])
        figures.append(results_file.figure(f"{name}_error_{kind}", over, "of principal components"))
    for kind in KINDS:
        more = {"images": len(known), "cpu": float(np.mean(cpu[kind]))}
        figures.append(results_file.figure(f"{name}_seconds_{kind}", seconds[kind], "s", **more))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ARCHSCOUT_DATA"), help="folder of real data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a few digits with one seed; a test of the script")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "embedding.json")
    args = parser.parse_args()
    threads, seeds = torch.get_num_threads(), 1 if args.quick else args.seeds
    digits = load("digits", seed=0)
    parts = digits.part("train"), digits.part("validation")
    if args.quick:
        parts = tuple(replace(part, indices=part.indices[:300]) for part in parts)
    figures = measure("digits", *parts, digits.mean, digits.std, seeds, threads)
    if not args.quick:
        with tempfile.TemporaryDirectory() as work:
            data = load(main_job.cifar10(Path(work), Path(args.data or "absent")), seed=0)
            known, asked = data.merge("train", "validation"), data.part("test")
            figures += measure("cifar10", known, asked, data.mean, data.std, seeds, threads)
    results_file.write(args.out, figures, threads=threads, dims=32, nearest=NEAREST)
    for each in figures:
        print(f"{each['name']:36s} {each['value']:8.3f} ({each['low']:.3f} to {each['high']:.3f}), n = {each['n']}")


if __name__ == "__main__":
    main()
