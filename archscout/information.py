"""The Fisher information of a few weights of a network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archscout.probe import NotDefined, Pass, Quantity

LAYERS, DIRECTIONS = 128, 10


def fisher_information(run: Pass) -> Callable[[], Tensor]:
    """(K, K) float64: the Fisher information of one weight, drawn at random, of each of at most 128 layers.

    F = mean_n J_n' (diag p_n - p_n p_n') J_n, J_n (classes, K): derivative of the logits of image n by these weights,
    p_n: its softmax. For more than ten classes the factor S of the middle matrix S S' is replaced by ten random
    combinations of its columns, which leaves F right on average. Layers: 2-D convolutions and linear layers.

    One backward to the images per class or combination, without weight gradients: the derivative by one weight is the
    gradient of one output channel times what that weight multiplies, one input channel. It supposes that the images do
    not mix, so batch normalisation has fixed statistics.
    """
    draw = torch.Generator().manual_seed(torch.initial_seed())
    sample = weights_of(run.model, draw)
    jacobian = torch.zeros(0)  # (N, directions, K) during the backwards
    direction = 0

    def watch(place: int, layer: nn.Conv2d | nn.Linear, spot: list[int]) -> None:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            factor = factor_of(layer, spot, inputs[0].detach())
            axis = -1 if isinstance(layer, nn.Linear) else 1

            def add(gradient: Tensor) -> None:
                product = gradient.detach().select(axis, spot[0]) * factor
                jacobian[:, direction, place] += product.reshape(len(product), -1).sum(1).double().cpu()

            if output.requires_grad:
                output.register_hook(add)

        run.at(layer, keep)

    for place, (layer, spot) in enumerate(sample):
        watch(place, layer, spot)

    def finish() -> Tensor:
        nonlocal jacobian, direction
        if len(sample) < 2:
            raise NotDefined("needs at least two convolutions or linear layers")
        p = torch.softmax(run.logits.detach().double().cpu(), 1)
        root = torch.diag_embed(p.sqrt()) - p[:, :, None] * p.sqrt()[:, None, :]
        if root.shape[2] > DIRECTIONS:
            signs = torch.randint(2, (root.shape[2], DIRECTIONS), generator=draw).double() * 2 - 1
            root = root @ signs / DIRECTIONS**0.5
        jacobian = torch.zeros(len(p), root.shape[2], len(sample), dtype=torch.float64)
        for direction in range(root.shape[2]):
            torch.autograd.grad(run.logits, [run.images], root[:, :, direction].to(run.logits), retain_graph=True)
        rows = jacobian.flatten(0, 1)
        return rows.T @ rows / len(p)

    return finish


def weights_of(network: nn.Module, draw: torch.Generator) -> list[tuple[nn.Conv2d | nn.Linear, list[int]]]:
    """At most 128 layers, drawn at random and in order, with the position of one random weight of each."""
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    chosen = sorted(torch.randperm(len(layers), generator=draw)[:LAYERS].tolist())
    return [
        (layers[i], [int(torch.randint(size, (), generator=draw)) for size in layers[i].weight.shape]) for i in chosen
    ]


def factor_of(layer: nn.Conv2d | nn.Linear, spot: list[int], x: Tensor) -> Tensor:
    """What the weight at `spot` multiplies, at every place of the layer's output."""
    if isinstance(layer, nn.Linear):
        return x[..., spot[1]]
    channel = spot[0] // (layer.out_channels // layer.groups) * (layer.in_channels // layer.groups) + spot[1]
    kernel = torch.zeros(1, 1, *layer.kernel_size, dtype=x.dtype, device=x.device)
    kernel[0, 0, spot[2], spot[3]] = 1
    part = x[:, channel : channel + 1]
    if layer.padding_mode == "zeros":
        return F.conv2d(part, kernel, None, layer.stride, layer.padding, layer.dilation)[:, 0]
    part = F.pad(part, layer._reversed_padding_repeated_twice, layer.padding_mode)
    return F.conv2d(part, kernel, None, layer.stride, 0, layer.dilation)[:, 0]


FISHER = (Quantity(fisher_information, derivative=True), "frozen")
