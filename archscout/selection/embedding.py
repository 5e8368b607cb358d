"""Where images lie by similarity: one row of numbers per image, alike where the images are alike."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archscout.data import Part
from archscout.errors import UserError, unknown
from archscout.naming import find, word
from archscout.seeds import number_of
from archscout.selection.selector import Labelled
from archscout.weights import read_weights

VERSION = 2  # of the kinds below: raise it whenever one gives other numbers, so that cached ones are not taken
SIDES = (16, 32)  # least and most pixels of the longer side that the encoder sees, see default_side
PRETRAINED_SIDE = 224
SEEN = 50_000  # images that the autoencoder is trained on, with repeats
PASSES = 30  # over the images, at most
BATCHES = (32, 128)  # fewest and most images per step
STEPS = 1500  # that small data get by small batches
GROUP = 4  # images of one class that come together in a pass
LR = 5e-3
WARMUP = 0.25
DECAY = 0.05
SIMILARITY = 2.0  # weight of the triplet term beside the reconstruction error
CLUSTERS = 12  # of images that are alike, by which an audit is split
SAMPLE = 4096  # images from which mean, deviation and principal axes are taken
BLOCK_BYTES = 32_000_000

TORCHVISION = "torchvision:"
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # mean and deviation that its networks expect


class Images(Labelled, Protocol):
    """A part whose images can be had; data.Part is one.

    batch(positions) gives (anything, images (k, C, H, W), labels): uint8, or floats on any scale, all of one size.
    """

    def batch(self, positions: Any) -> tuple[Any, Tensor, Any]: ...


Encoder = Callable[[Images], np.ndarray]


def embed(
    part: Images,
    kind: Any = "autoencoder",
    *,
    dims: int = 32,
    seed: int = 0,
    side: int | None = None,
    mean: Any = None,
    std: Any = None,
    weights: str | Path | None = None,
    seen: int = SEEN,
    seconds: float | None = None,
    cache: str | Path | None = None,
    threads: int = 1,
    device: str = "cpu",
) -> np.ndarray:
    """The images of `part` as points, float32 (n, dims), by position; near where the images are alike.

    Points are centred and divided by one number, so that their mean squared norm is 1: two images are a squared
    distance of 2 apart on average. Images that are all the same are all at zero.

    kind:     "autoencoder"       a small network, trained on these images and labels; see train_encoder.
              "untrained"         the same network as it begins; a control.
              "pixels"            principal components of the resized pixels; a cheap control without labels.
              "torchvision:NAME"  what a pretrained network of torchvision has before its classifier, reduced to `dims`
                                  by principal components; wants `weights`, and downloads nothing.
              an array (n, d) or a function of the part that gives one, or the function's name as "module:function":
                                  your own points; `dims` and the rest are not used.
    dims:     numbers per image. Where fewer directions exist than that, the others are zero.
    side:     pixels to which the longer side is shrunk before; default half of it, at least 16 and at most 32. For
              torchvision the side of the square that the image is resized to, default 224.
    mean, std:  per channel, on the scale of the images; default: of a sample of them, or ImageNet's for torchvision,
              which then takes floats to be from 0 to 1.
    weights:  file with a state dict of the torchvision network: .safetensors, or written by torch.save.
    seen:     images that the autoencoder is trained on, with repeats, and never more than 30 passes.
    seconds:  wall-clock limit of the training (not of reading and encoding). How far it came depends on the machine;
              then only `cache` gives the same array twice.
    cache:    folder in which the array is kept and found again by images, labels and the settings above. Threads and
              device make no difference. Your own points are not kept.
    threads, device:  of torch; the same seed and threads give the same array on the CPU.

    Costs, for 50,000 images of 3 x 32 x 32: see benchmarks/results/embedding.json. Images are read in blocks, large
    ones from disk too; n * side * side * channels bytes are held for the autoencoder. Raises UserError for unknown
    kinds, parts that are empty, images of several sizes, points that are not finite or of another number than the part.
    """
    if len(part) == 0:
        raise UserError("no images to embed: the part is empty")
    if (own := given(kind, len(part))) is not None:
        return standardised(_checked(own(part), len(part), word(own)) if callable(own) else own)
    if not hasattr(part, "batch"):
        raise UserError(
            f"an embedding '{kind}' wants the images, but this {type(part).__name__} has labels alone; "
            "give the points yourself: embedding=array with a row per image"
        )
    for name, value in {"dims": dims, "seen": seen, "side": 1 if side is None else side}.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise UserError(f"an embedding's {name} is a whole number of at least 1, got {value!r}")
    if seconds is not None and not seconds > 0:
        raise UserError(f"seconds is above 0, or None for no limit; got {seconds}")
    settings = {
        "kind": kind, "dims": int(dims), "seed": int(seed), "side": side and int(side), "mean": _plain(mean),
        "std": _plain(std), "seen": int(seen), "seconds": seconds,
    }  # fmt: skip
    file = None
    if cache is not None:
        file = _folder(cache) / f"embedding-{_key(part, settings, weights)}.npy"
        if (found := _kept(file, (len(part), dims))) is not None:
            return found
    if kind == "autoencoder":
        part = shrink(part, side)
        side = max(part.images.shape[2:])
    encoder = learn(
        part, kind, dims=dims, seed=seed, side=side, mean=mean, std=std, weights=weights, seen=seen, seconds=seconds,
        threads=threads, device=device,
    )  # fmt: skip
    points = encoder(part)
    if not np.isfinite(points).all():
        raise ArithmeticError(f"the embedding '{kind}' is not finite for {_where(points)[0]} images")
    points = standardised(points)
    if file is not None:
        _keep(file, points)
    return points


def given(kind: Any, n: int) -> Any:
    """Of a kind that is your own, its points, float32 (n, d), or its function of the part; None for a kind known here.

    Raises UserError for an unknown name and for points of another number than `n` or not finite.
    """
    if isinstance(kind, str) and (kind in KINDS or kind.startswith(TORCHVISION)):
        return None
    found = find("embedding", kind, KINDS)
    return found if callable(found) else _checked(found, n, word(found))


def learn(
    part: Images,
    kind: str = "autoencoder",
    *,
    dims: int = 32,
    seed: int = 0,
    side: int | None = None,
    mean: Any = None,
    std: Any = None,
    weights: str | Path | None = None,
    seen: int = SEEN,
    seconds: float | None = None,
    threads: int = 1,
    device: str = "cpu",
) -> Encoder:
    """A function that embeds any part whose images are like those of `part`, float32 (n, dims), not standardised.

    For images that come later, and to judge an embedding on images that it was not made from; `embed` has the
    arguments.
    """
    from archscout.fit import threads_set  # which itself imports this package

    pretrained = kind.startswith(TORCHVISION)
    first = _images(part, np.arange(1))
    high, wide = first.shape[2:]
    size = (side or PRETRAINED_SIDE,) * 2 if pretrained else shrunk_size(high, wide, side or default_side(high, wide))
    if pretrained and mean is None and std is None:
        mean, std = IMAGENET if first.dtype == torch.uint8 else tuple(np.divide(each, 255) for each in IMAGENET)
    with threads_set(threads):
        normalise = _normaliser(part, size, 3 if pretrained else first.shape[1], seed, mean, std)
        inputs: Callable[[Images, np.ndarray], Tensor]

        def inputs(some: Images, positions: np.ndarray) -> Tensor:
            return normalise(resize(_images(some, positions), size).to(device))

        if kind == "pixels":
            return _principal(lambda some, at: inputs(some, at).flatten(1).cpu(), part, dims, seed, threads, size)
        if pretrained:
            network = pretrained_network(kind.removeprefix(TORCHVISION), weights).to(device)
            read = _reader(network, inputs, colour=True)
            try:
                read(part, np.arange(1))
            except (AssertionError, RuntimeError, ValueError) as error:
                why = str(error)[:200]
                raise UserError(
                    f"'{kind}' cannot take images of {size[0]} x {size[0]} ({why}); give side=224"
                ) from None
            return _principal(read, part, dims, seed, threads, size)
        if kind not in KINDS:
            raise unknown("embedding", kind, [*KINDS, f"{TORCHVISION}NAME"])
        encoder, decoder = autoencoder(first.shape[1], size, dims, seed)
        if kind == "autoencoder" and len(part) > 1:
            train_encoder(
                encoder, decoder, lambda at: inputs(part, at), part.labels, seed=seed, seen=seen, seconds=seconds,
                device=device,
            )  # fmt: skip
        read = _reader(encoder.to(device), inputs)
    return lambda some: _in_blocks(read, some, dims, threads, size)


def autoencoder(channels: int, size: tuple[int, int], dims: int, seed: int) -> tuple[nn.Module, nn.Module]:
    """An encoder of standardised images (n, channels, *size) to (n, dims), and a decoder back; for train_encoder.

    The encoder halves the sides by 3 x 3 convolutions with batch normalisation until 4 pixels or fewer are left, with
    32, 64, then 128 channels, and ends in a linear layer. The decoder is linear: a convolutional one costs more than
    the encoder and gave no better neighbours. Weights come from the seed.
    """
    steps = max(2, math.ceil(math.log2(max(size) / 4)))
    layers: list[nn.Module] = []
    width, (high, wide) = channels, size
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(number_of(seed, 0))
        for step in range(steps):
            out = min(128, 32 * 2**step)
            layers += [nn.Conv2d(width, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            width, high, wide = out, (high + 1) // 2, (wide + 1) // 2
        layers += [nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        encoder = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * high * wide, dims))
        decoder = nn.Sequential(nn.Linear(dims, channels * size[0] * size[1]), nn.Unflatten(1, (channels, *size)))
    return encoder.to(memory_format=torch.channels_last), decoder


def train_encoder(
    encoder: nn.Module,
    decoder: nn.Module,
    inputs: Callable[[np.ndarray], Tensor],
    labels: Any,
    *,
    seed: int,
    seen: int = SEEN,
    seconds: float | None = None,
    device: str = "cpu",
) -> None:
    """Trains an autoencoder in place: mean squared error per pixel plus `triplet_loss` of the code, by AdamW.

    inputs: positions (k,) -> standardised images (k, C, h, w). labels: (n,).
    seen, seconds: as in `embed`. The learning rate rises and falls linearly over the larger of the shares of either
    that is used up.

    Source: an autoencoder whose code has an image similarity term is what Poyser and Breckon 2025 (arXiv:2506.14667)
    select in; the network, the weights of the terms and the triplets here are ours.
    """
    labels = np.asarray(labels, dtype=np.int64)
    n = len(labels)
    total = min(seen, PASSES * n)
    size = min(max(2 ** round(math.log2(total / STEPS)), BATCHES[0]), BATCHES[1])
    batches = max(1, round(n / size))  # of a pass
    steps = max(1, round(total / n * batches))
    encoder.to(device).train()
    decoder.to(device).train()
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=DECAY, fused=True)
    draw = np.random.default_rng([seed % 2**64, 1])
    began = time.monotonic()
    for step in range(steps):
        place = (step + 0.5) / steps
        if seconds is not None:
            place = max(place, (time.monotonic() - began) / seconds)
            if place >= 1:
                break
        if step % batches == 0:
            order = grouped_order(labels, GROUP, draw)
        low, high = (n * (step % batches + i) // batches for i in (0, 1))
        at = order[low:high]
        images, target = inputs(at), torch.from_numpy(labels[at]).to(device)
        optimizer.param_groups[0]["lr"] = LR * min(place / WARMUP, (1 - place) / (1 - WARMUP))
        code = encoder(images)
        loss = F.mse_loss(decoder(code), images) + SIMILARITY * triplet_loss(code, target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def triplet_loss(points: Tensor, labels: Tensor, margin: float = 1.0) -> Tensor:
    """Mean of max(0, |a - p| - |a - q| + margin) over all triplets of a batch: a and p of one class, q of another.

    points (b, d), labels (b,); a scalar. Mean over the triplets of each image a, then over the images that have any;
    zero, with a gradient of zero, where none has: one class only, or no class twice. For each a the distances to the
    others are sorted and summed up, so that it costs b * b * log(b), not b * b * b. Source of the form: Schroff et al.
    2015, arXiv:1503.03832, without their mining, with which the codes of a new network collapse to one point.
    """
    squares = points.square().sum(1)
    apart = (squares[:, None] + squares - 2 * points @ points.T).clamp_min(1e-6).sqrt()
    same = labels[:, None] == labels
    alike = same.clone().fill_diagonal_(False)
    others = apart.masked_fill(same, torch.inf).sort(1).values
    near = torch.searchsorted(others.detach(), apart.detach() + margin)  # how many of another class are too near
    sums = F.pad(others.masked_fill(others.isinf(), 0).cumsum(1), (1, 0))
    hinge = near * (apart + margin) - sums.gather(1, near)
    triplets = alike.sum(1) * (~same).sum(1)
    each = (hinge * alike).sum(1) / triplets.clamp_min(1)
    return each.sum() / (triplets > 0).sum().clamp_min(1)


def grouped_order(labels: np.ndarray, group: int, draw: np.random.Generator) -> np.ndarray:
    """All positions in random order, but `group` of a class in a row, so that every batch has some of one class.

    Matters where classes are many or rare. The last group of a class is as large as what is left.
    """
    shuffled = draw.permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    within = np.arange(len(order)) - np.repeat(first, counts)
    groups = -(-counts // group)
    number = np.repeat(np.cumsum(groups) - groups, counts) + within // group
    return order[np.argsort(draw.permutation(groups.sum())[number], kind="stable")]


def clusters(points: np.ndarray, labels: Any, k: int, seed: int = 0) -> np.ndarray:
    """The cluster of each point, int64 (n,), from 0: at most `k` of them by k-means, or `k` in each class.

    points (n, d), as `embed` gives; labels (n,), or None to look at all together. With labels the numbers run on from
    class to class. Fewer where there are fewer different points. Costs a few passes of n * k * d; the same seed gives
    the same clusters.
    """
    if k < 1:
        raise UserError(f"the number of clusters is at least 1, got {k}")
    points = np.asarray(points, dtype=np.float32)
    names = np.zeros(len(points), dtype=np.int64) if labels is None else np.asarray(labels)
    if len(names) != len(points):
        raise UserError(f"clusters wants one label per point, got {len(names)} labels for {len(points)} points")
    found, used = np.zeros(len(points), dtype=np.int64), 0
    for name in np.unique(names):
        at = np.flatnonzero(names == name)
        numbers = _k_means(points[at], k, seed)
        found[at] = used + numbers
        used += int(numbers.max()) + 1
    return found


def _k_means(points: np.ndarray, k: int, seed: int) -> np.ndarray:
    """int64 (n,), numbers without gaps."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    k = min(k, len(np.unique(points, axis=0)))
    with threadpool_limits(1):  # several threads add up the centres in the order in which they come
        numbers = KMeans(k, n_init=4, random_state=seed % 2**32).fit(points).labels_
    return np.unique(numbers, return_inverse=True)[1].astype(np.int64)


def standardised(points: np.ndarray) -> np.ndarray:
    """Points (n, d) less their mean, over one number that makes their mean squared norm 1; zero if all are the same."""
    centred = points - points.mean(0, dtype=np.float64).astype(np.float32)
    norm = math.sqrt(np.square(centred).sum(dtype=np.float64) / len(points))
    small = 1e-6 * float(np.abs(points).max())  # what rounding leaves of equal points
    return centred / np.float32(norm) if norm > small else np.zeros_like(centred)


@dataclass(frozen=True)
class Shrunk:
    """A part in memory with small images (n, C, h, w); made by `shrink`."""

    images: Tensor
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, positions: Any) -> tuple[Any, Tensor, Any]:
        rows = np.asarray(positions, dtype=np.int64)
        return rows, self.images[torch.from_numpy(rows)], self.labels[rows]


def shrink(part: Images, side: int | None = None) -> Shrunk:
    """A copy of a part with its images shrunk to a longer side of `side` pixels, read in blocks of 32 MB."""
    first = _images(part, np.arange(1))
    channels, high, wide = first.shape[1:]
    n, size = len(part), shrunk_size(high, wide, side or default_side(high, wide))
    kept = torch.empty((n, channels, *size), dtype=first.dtype, memory_format=torch.channels_last)
    step = _block(first[0].numel())
    for start in range(0, n, step):
        at = np.arange(start, min(n, start + step))
        kept[start : start + step] = resize(_images(part, at), size)
    return Shrunk(kept, np.asarray(part.labels))


def default_side(high: int, wide: int) -> int:
    """The longer side in pixels at which the encoder sees images of that size: half of it, from 16 to 32."""
    return min(max(max(high, wide) // 2, SIDES[0]), SIDES[1])


def shrunk_size(high: int, wide: int, side: int) -> tuple[int, int]:
    """Height and width in the same proportions with at most `side` pixels; never more than before."""
    factor = min(1.0, side / max(high, wide))
    return max(1, round(high * factor)), max(1, round(wide * factor))


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (n, C, H, W) at another size, in the same type: linear, smoothed where it gets smaller, nothing random."""
    if images.shape[2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True)


def pretrained_network(name: str, weights: str | Path | None) -> nn.Module:
    """A network of torchvision in evaluation mode with the weights of a file and without its last layer.

    name: as torchvision.models.get_model knows it. The classifier in the file may have any number of classes. Raises
    UserError for unknown names, and for files that are absent, unreadable or of another network.
    """
    import torchvision

    known = torchvision.models.list_models(torchvision.models)
    if name not in known:
        raise unknown("network of torchvision", name, known)
    if weights is None:
        raise UserError(
            f"the embedding 'torchvision:{name}' wants weights=FILE and nothing is downloaded; where there is a "
            "connection, make the file with: import torch, torchvision; torch.save(torchvision.models.get_model("
            f"'{name}', weights='DEFAULT').state_dict(), '{name}.pt')"
        )
    with torch.random.fork_rng(devices=[]):
        network = torchvision.models.get_model(name, weights=None)
    last = [place for place, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)][-1]
    network.set_submodule(last, nn.Identity())
    state = {place: value for place, value in read_weights(weights).items() if not place.startswith(f"{last}.")}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        why = " ".join(str(error).split())[:300]
        raise UserError(f"'{weights}' holds no weights of torchvision's {name} ({why}); name another file") from None
    return network.eval().to(memory_format=torch.channels_last)


def _reader(
    network: nn.Module, inputs: Callable[[Images, np.ndarray], Tensor], *, colour: bool = False
) -> Callable[[Images, np.ndarray], Tensor]:
    """What the network, in evaluation mode, makes of images at some positions, (k, features)."""
    network.eval()

    def read(some: Images, positions: np.ndarray) -> Tensor:
        images = inputs(some, positions)
        if colour and images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        with torch.inference_mode():
            return network(images).flatten(1).float().cpu()

    return read


def _principal(
    read: Callable[[Images, np.ndarray], Tensor],
    part: Images,
    dims: int,
    seed: int,
    threads: int,
    size: tuple[int, int],
) -> Encoder:
    """Features projected on the principal axes of a sample of `part`'s."""
    from sklearn.utils.extmath import randomized_svd
    from threadpoolctl import threadpool_limits

    sample = _sample(len(part), seed)
    step = _block(3 * 4 * size[0] * size[1])
    some = torch.cat([read(part, sample[start : start + step]) for start in range(0, len(sample), step)])
    centre = some.mean(0)
    with threadpool_limits(threads):
        count = min(dims, *some.shape)
        axes = randomized_svd((some - centre).numpy(), count, random_state=seed % 2**32)[2]
    axes = torch.from_numpy(np.ascontiguousarray(axes, dtype=np.float32)).T
    return lambda some: _in_blocks(lambda images, at: (read(images, at) - centre) @ axes, some, dims, threads, size)


def _in_blocks(
    read: Callable[[Images, np.ndarray], Tensor], part: Images, dims: int, threads: int, size: tuple[int, int]
) -> np.ndarray:
    """What `read` gives for all images of a part, float32 (n, dims), filled up with zeros."""
    from archscout.fit import threads_set

    n = len(part)
    points = np.zeros((n, dims), dtype=np.float32)
    step = min(_block(_images(part, np.arange(1))[0].numel()), _block(3 * 4 * size[0] * size[1]))
    with threads_set(threads):
        for start in range(0, n, step):
            rows = read(part, np.arange(start, min(n, start + step))).numpy()
            points[start : start + step, : rows.shape[1]] = rows
    return points


def _block(bytes_each: int) -> int:
    """How many images are worked on at a time."""
    return max(1, min(512, BLOCK_BYTES // bytes_each))


def _sample(n: int, seed: int) -> np.ndarray:
    """Sorted positions of at most SAMPLE images."""
    return np.sort(np.random.default_rng([seed % 2**64, 2]).permutation(n)[:SAMPLE])


def _images(part: Images, positions: np.ndarray) -> Tensor:
    """(k, C, H, W), checked."""
    images = torch.as_tensor(part.batch(positions)[1])
    if images.ndim != 4 or len(images) != len(positions) or images.shape[1] not in (1, 3):
        raise UserError(
            f"batch({len(positions)} positions) gave images of shape {tuple(images.shape)}; "
            f"({len(positions)}, channels, height, width) with 1 or 3 channels is wanted"
        )
    if images.dtype == torch.uint8:
        return images
    images = images.float()
    finite = images.isfinite().flatten(1).all(1).numpy()
    if not finite.all():
        first = positions[np.flatnonzero(~finite)[0]]
        raise UserError(f"{(~finite).sum()} images have values that are not finite, the first at position {first}")
    return images


def _normaliser(
    part: Images, size: tuple[int, int], channels: int, seed: int, mean: Any, std: Any
) -> Callable[[Tensor], Tensor]:
    """Images of some type to float32, less mean and over deviation per channel; those of a sample where not given."""
    if mean is None or std is None:
        sample, step = _sample(len(part), seed), _block(3 * 4 * size[0] * size[1])
        sums: list[Tensor] = []
        for start in range(0, len(sample), step):
            some = resize(_images(part, sample[start : start + step]), size).double()
            sums.append(torch.stack([some.sum((0, 2, 3)), some.square().sum((0, 2, 3))]))
        total, squares = torch.stack(sums).sum(0) / (len(sample) * size[0] * size[1])
        spread = (squares - total.square()).clamp_min(0).sqrt()
        mean = total if mean is None else mean
        std = torch.where(spread > 1e-6 * total.abs(), spread, 1.0) if std is None else std
    centre, scale = (torch.as_tensor(each, dtype=torch.float32).view(1, -1, 1, 1) for each in (mean, std))
    if not {centre.numel(), scale.numel()} <= {1, channels}:
        raise UserError(f"mean and std have one value per channel, {channels}; got {_plain(mean)} and {_plain(std)}")
    if not (scale > 0).all():
        raise UserError(f"std is above 0 in every channel, got {_plain(std)}")
    return lambda images: (
        (images.to(torch.float32, memory_format=torch.channels_last) - centre.to(images.device))
        / scale.to(images.device)
    )


def _plain(values: Any) -> Any:
    return None if values is None else np.asarray(values, dtype=np.float64).reshape(-1).tolist()


def _checked(points: Any, n: int, name: str) -> np.ndarray:
    """Points that somebody gave, float32 (n, d), or UserError."""
    if isinstance(points, Tensor):
        points = points.detach().cpu().numpy()
    try:
        points = np.asarray(points, dtype=np.float32)
    except (TypeError, ValueError):
        raise UserError(f"the embedding '{name}' is {type(points).__name__}; an array ({n}, d) is wanted") from None
    if points.ndim != 2 or len(points) != n or points.shape[1] == 0:
        raise UserError(f"the embedding '{name}' has shape {points.shape}; ({n}, d) is wanted, a row per image")
    bad, first = _where(points)
    if bad:
        raise UserError(
            f"the embedding '{name}' has numbers that are not finite in {bad} of {n} rows, the first at position "
            f"{first}; mend or leave out those images"
        )
    return points


def _where(points: np.ndarray) -> tuple[int, int]:
    """How many rows have a number that is not finite, and the first of them (or -1)."""
    bad = np.flatnonzero(~np.isfinite(points).all(1))
    return len(bad), int(bad[0]) if len(bad) else -1


def _key(part: Images, settings: dict[str, Any], weights: str | Path | None) -> str:
    """A hash of what an embedding is made from. The images of a data.Part are hashed already, others are read."""
    digest = hashlib.blake2b(json.dumps({"version": VERSION, **settings}).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(part.labels, dtype=np.int64).tobytes())
    if weights is not None and Path(weights).is_file():
        with open(weights, "rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    if isinstance(part, Part):
        digest.update(f"{part.data.fingerprint}".encode())
        digest.update(np.ascontiguousarray(part.indices, dtype=np.int64).tobytes())
        return digest.hexdigest()
    n = len(part)
    first = _images(part, np.arange(1))
    digest.update(f"{first.dtype} {tuple(first.shape)}".encode())
    step = _block(first[0].numel() * first.element_size())
    for start in range(0, n, step):
        block = _images(part, np.arange(start, min(n, start + step))).permute(0, 2, 3, 1)
        digest.update(np.ascontiguousarray(block.numpy()).data)
    return digest.hexdigest()


def _folder(cache: str | Path) -> Path:
    try:
        Path(cache).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the cache folder '{cache}' ({error.strerror}); give another") from None
    return Path(cache)


def _kept(file: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """The array of a file, or None where there is none or it is not what was written."""
    try:
        points = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, pickle.UnpicklingError):
        return None
    good = isinstance(points, np.ndarray) and points.shape == shape and points.dtype == np.float32
    return points if good and np.isfinite(points).all() else None


def _keep(file: Path, points: np.ndarray) -> None:
    """Writes an array whole or not at all."""
    try:
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".partial-") as folder:
            np.save(Path(folder) / file.name, points, allow_pickle=False)
            os.replace(Path(folder) / file.name, file)
    except OSError as error:
        raise UserError(f"cannot write to the cache folder '{file.parent}' ({error.strerror}); give another") from None


KINDS: dict[str, None] = dict.fromkeys(("autoencoder", "untrained", "pixels"))
