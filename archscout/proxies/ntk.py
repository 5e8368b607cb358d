"""How unevenly the network learns."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from archscout.probe import NotDefined, Pass, Probe, Proxy, Quantity

CHUNK = 4


def tangent_kernel(run: Pass) -> Callable[[], Tensor]:
    """(N, N) float64: the inner products of J_n, the derivative of the sum of image n's outputs by all weights."""

    def finish() -> Tensor:
        weights = list(run.weights.values())
        if not weights:
            raise NotDefined("the network has no convolution or linear layer")
        outputs = run.logits.sum(1)
        chosen = torch.eye(len(outputs), device=outputs.device).split(CHUNK)
        grad = torch.autograd.grad
        parts = [grad(outputs, weights, c, retain_graph=True, is_grads_batched=True, allow_unused=True) for c in chosen]
        kernel = torch.zeros(len(outputs), len(outputs), dtype=torch.float64, device=outputs.device)
        for rows in zip(*parts, strict=True):
            if rows[0] is not None:
                row = torch.cat(rows).flatten(1).double()
                kernel += row @ row.T
        return kernel

    return finish


KERNEL = (Quantity(tangent_kernel, derivative=True), "first0")


def ntk(probe: Probe) -> float:
    """The condition number of the neural tangent kernel: largest over smallest eigenvalue of K, K_mn = J_m . J_n.

    J_n: derivative of the sum of image n's outputs by the weights of convolutions and linear layers, for the first 16
    images of a batch, batch normalisation in train mode with the statistics of these 16. A large number means that some
    directions are learnt far slower than others. Chen et al. 2021 (TE-NAS), arXiv 2102.11535; their code draws the
    weights anew (normal, fan-out) and takes 72 images.
    Data: one batch, no labels. Smaller is better. Scale: at least 1; grows with the number of images. Cost: one
    forward and 16 backwards of 16 images (as much as five batches of 64), and the memory of 16 times the weights.
    Fails by noise: the smallest eigenvalue hangs on the two images that are most alike.
    """
    kernel: Tensor = probe[KERNEL]
    if len(kernel) < 2:
        raise NotDefined("needs at least two images")
    if not torch.isfinite(kernel).all():
        raise NotDefined("a gradient is NaN or infinite")
    values = torch.linalg.eigvalsh(kernel)
    if float(values[0]) <= 1e-12 * float(values[-1]):
        raise NotDefined("the kernel is singular: the gradients of some images depend on each other")
    return float(values[-1] / values[0])


PROXY = Proxy(
    ntk,
    (KERNEL,),
    direction="min",
    paper="Chen et al. 2021, arXiv 2102.11535",
    data="images",
    cost="one forward, 16 backwards of 16 images",
)
