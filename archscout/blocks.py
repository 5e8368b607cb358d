"""The blocks of a network, and what a pass leaves behind for each of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archscout.probe import CONVOLUTIONS, NotDefined, Pass, Quantity

CONSTANT = 1e-10  # a variance below this share of the mean square is rounding
NO_BLOCKS = "found no blocks behind the stem: list them in an attribute `blocks` of the network"


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The repeated parts of a network: cells, residual blocks, stages of a kind of one's own.

    A list or tuple of modules in the attribute `blocks` of the network decides. Else the rule is:

    1. A *stage* is an nn.Sequential or nn.ModuleList with an entry that has children and holds a convolution or linear
       layer. Its entries that have children are blocks; those that are stages themselves are opened.
    2. A network that is a stage or has stages as children gives the blocks of all of them, in order.
    3. Without stages, its children that have children and hold such a layer, classifiers apart, are the blocks if they
       are several. If it is a single one, the rule is applied to it.
    4. Otherwise, as in a plain chain of layers, every convolution is a block.

    So they are the cells and reductions of nasbench201, the blocks of mobilenet, macro and plain, the layers of vit,
    the blocks of the residual and inverted residual networks and the transformers of torchvision, and the convolutions
    of a VGG. What returns neither maps (N, C, H, W) nor tokens (N, T, C) is no block.
    """
    named = getattr(network, "blocks", None)
    if isinstance(named, list | tuple) and named:
        return list(named)
    while True:
        parts = [module for module in (network, *network.children()) if is_stage(module)]
        if parts:
            return entries(network) if parts[0] is network else [b for stage in parts for b in entries(stage)]
        parts = [child for child in network.children() if is_part(child)]
        if len(parts) != 1:
            return parts or [m for m in network.modules() if isinstance(m, CONVOLUTIONS)]
        network = parts[0]


def has(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether it has children and holds a module of these kinds."""
    return any(True for _ in module.children()) and any(isinstance(m, kinds) for m in module.modules())


def is_stage(module: nn.Module) -> bool:
    """Whether it is a container of blocks."""
    container = isinstance(module, nn.Sequential | nn.ModuleList)
    return container and any(has(entry, *CONVOLUTIONS, nn.Linear) for entry in module.children())


def is_part(module: nn.Module) -> bool:
    """Whether it has children and a convolution, or a linear layer and is no plain chain as classifiers are."""
    chain = isinstance(module, nn.Sequential) and not any(any(True for _ in m.children()) for m in module)
    return has(module, *CONVOLUTIONS) or (has(module, nn.Linear) and not chain)


def entries(stage: nn.Sequential | nn.ModuleList | Any) -> list[nn.Module]:
    """The blocks of a stage, those of stages inside it included."""
    found: list[nn.Module] = []
    for entry in stage:
        if is_stage(entry):
            found += entries(entry)
        elif any(True for _ in entry.children()):
            found.append(entry)
    return found


def is_map(value: Any) -> bool:
    """Whether it is a feature map (N, C, H, W) or tokens (N, T, C)."""
    return isinstance(value, Tensor) and value.ndim in (3, 4)


def as_map(features: Tensor) -> Tensor:
    """A feature map as it is; tokens (N, T, C) as a map (N, C, T, 1)."""
    return features if features.ndim == 4 else features.transpose(1, 2)[..., None]


def block_entropies(run: Pass) -> Callable[[], list[float]]:
    """Per block in order of execution: the entropy, in nats, of the spectrum of its output's channel covariance.

    The first number belongs to the map that enters the first block (the stem's), so there is one more than blocks. A
    block that reads the images is the stem itself. At most log C, for channels that are uncorrelated and equally
    large; at most log(N H W - 1) too, which small batches of small maps can come to feel.
    """
    found: list[float] = []

    def begin(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        # Before the block, as it may begin with an operation in place.
        if not found and inputs and is_map(inputs[0]) and inputs[0] is not run.images:
            found.append(spectral_entropy(as_map(inputs[0].detach())))

    def add(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if inputs and is_map(inputs[0]) and is_map(output):
            found.append(spectral_entropy(as_map(output.detach())))

    for block in blocks_of(run.model):
        run.at(block, begin, before=True)
        run.at(block, add)

    def finish() -> list[float]:
        if len(found) < 2:
            raise NotDefined(NO_BLOCKS)
        if not all(math.isfinite(entropy) for entropy in found):
            raise NotDefined("the output of a block is constant, NaN or infinite")
        return found

    return finish


def spectral_entropy(features: Tensor) -> float:
    """The entropy, in nats, of the eigenvalues, divided by their sum, of the channel covariance of (N, C, H, W).

    NaN if the features are constant.
    """
    rows = features.movedim(1, -1).flatten(0, 2)
    size = float(rows.square().mean())
    rows = rows - rows.mean(0)
    gram = (rows.T @ rows if rows.shape[1] <= rows.shape[0] else rows @ rows.T).double()
    if not float(gram.diagonal().sum()) > CONSTANT * size * rows.numel():
        return math.nan
    values = torch.linalg.eigvalsh(gram).clamp_min(0)
    return float(torch.special.entr(values / values.sum()).sum())


def block_jacobians(run: Pass) -> Callable[[], list[float]]:
    """Per block behind the stem, in order of execution: the largest singular value of its mean Jacobian.

    g: random signs at every place of the output, h: their gradient by the block's input, both with one row per pixel
    of the output (where a block shrinks the map, the input pixels that belong to one output pixel lie side by side).
    As E g'g = I, the matrix h'g / (N H W), of (C_in stride^2, C_out), estimates the block's Jacobian between places
    that lie above each other, averaged over images and places.

    Every block runs on a graph of its own, which is freed before the next one runs.
    """
    found: list[float] = []
    reasons: list[str] = []
    leaves: list[Tensor] = []
    pool = torch.empty(0)
    seed = torch.initial_seed()

    def signs(like: Tensor) -> Tensor:
        """Random signs (N, C, H, W): the first of one sequence, the same for every block."""
        nonlocal pool
        if len(pool) < like.numel():
            draw = torch.Generator().manual_seed(seed)
            eight = torch.randint(256, (-(-like.numel() // 8), 1), generator=draw, dtype=torch.uint8)
            bits = (eight >> torch.arange(8, dtype=torch.uint8)) & 1
            pool = bits.flatten().to(like.device, torch.float32).mul_(2).sub_(1)
        n, channels, height, width = like.shape
        return pool[: like.numel()].view(n, height, width, channels).permute(0, 3, 1, 2)

    def cut(module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        if not (inputs and is_map(inputs[0])) or inputs[0] is run.images:
            return None
        leaves.append(inputs[0].detach().requires_grad_(True))
        return (leaves[-1].clone(), *inputs[1:])  # a copy, as a block may begin with an operation in place

    def add(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        if not (inputs and is_map(inputs[0])) or inputs[0] is run.images:
            return None
        leaf = leaves.pop()
        if not is_map(output):
            return None
        if output is inputs[0]:
            reasons.append("a block passes its input on unchanged: there is nothing to train in it")
            return output.detach()
        made = as_map(output)
        g = signs(made)
        (h,) = torch.autograd.grad(made, [leaf], g, allow_unused=True) if made.requires_grad else (None,)
        norm = 0.0 if h is None else mean_jacobian_norm(as_map(h), g)
        if not 0 < norm < math.inf:
            reasons.append("a block enlarges its map, or the gradient at its input is zero, NaN or infinite")
        found.append(norm)
        return output.detach()

    for block in blocks_of(run.model):
        run.at(block, cut, before=True)
        run.at(block, add)

    def finish() -> list[float]:
        if reasons or not found:
            raise NotDefined(reasons[0] if reasons else NO_BLOCKS)
        return found

    return finish


def mean_jacobian_norm(h: Tensor, g: Tensor) -> float:
    """The largest singular value of h'g / (N H W); h (N, C_in, H s, W s) is folded to the places of g (N, C, H, W).

    NaN where the map grows.
    """
    if h.shape[2] < g.shape[2] or h.shape[3] < g.shape[3]:
        return math.nan
    stride = max(-(-h.shape[2] // g.shape[2]), -(-h.shape[3] // g.shape[3]))
    if stride > 1:
        height, width = stride * g.shape[2], stride * g.shape[3]
        h = F.pixel_unshuffle(F.pad(h, (0, width - h.shape[3], 0, height - h.shape[2])), stride)
    rows, signs = h.movedim(1, -1).flatten(0, 2), g.movedim(1, -1).flatten(0, 2)
    product = (rows.T @ signs).double() / len(signs)
    gram = product.T @ product if product.shape[1] <= product.shape[0] else product @ product.T
    if not torch.isfinite(gram).all():
        return math.nan
    return math.sqrt(max(float(torch.linalg.eigvalsh(gram)[-1]), 0.0))


ENTROPIES = (Quantity(block_entropies), "kaiming")
JACOBIANS = (Quantity(block_jacobians, derivative=True), "kaiming")
