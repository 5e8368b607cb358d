"""How much the images agree on where each weight should go."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from archscout.probe import BATCH_NORMS, NotDefined, Probe, Proxy, batch, layer_weights

CHUNK = 16  # images whose gradients are in memory at once


def alone(probe: Probe) -> nn.Module:
    """The network in train mode, with batch normalisation that keeps no running statistics, as `vmap` wants it."""
    network = probe.copy().train()
    for module in network.modules():
        if isinstance(module, BATCH_NORMS):
            module.running_mean = module.running_var = module.num_batches_tracked = None
            module.track_running_stats = False
    return network.requires_grad_(False)


def gradsign(probe: Probe) -> float:
    """The agreement of gradient signs: sum over weights of |sum over images of sign(dL_n/dw)|.

    w: weights of convolutions and linear layers; L_n: cross-entropy of image n, which passes alone, so that batch
    normalisation in train mode has the statistics of that one image. Zhang & Jia 2022, arXiv 2110.08616.
    Data: one batch with labels. Larger is better. Scale: between 0 and images times weights, so compare only under one
    batch size. Cost: a forward and a backward of each image, as much as three of the batch, and the memory of 16 times
    the weights.
    A count of weights in disguise: it ranks 40 cells of NAS-Bench-201 as `params` does (rank correlation .99). Fails
    as that does; undefined where a normalised map has one place.
    """
    network = probe.prepared(alone)
    images, labels = batch(probe, 0)
    weights = {name: weight.detach() for name, weight in layer_weights(network).items()}
    if not weights:
        raise NotDefined("the network has no convolution or linear layer")

    def loss(values: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(network, values, (image[None],)), label[None])

    gradients = vmap(grad(loss), (None, 0, 0), randomness="different")
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for some in torch.arange(len(images)).split(CHUNK):
        for name, each in gradients(weights, images[some], labels[some]).items():
            if not torch.isfinite(each).all():
                raise NotDefined("a gradient is NaN or infinite")
            total[name] += each.sign().sum(0)
    value = sum(float(each.double().abs().sum()) for each in total.values())
    if value == 0:
        raise NotDefined("every gradient is zero: the loss does not depend on the weights")
    return value


PROXY = Proxy(
    gradsign,
    (),
    paper="Zhang & Jia 2022, arXiv 2110.08616",
    cost="one forward, one backward of each image alone",
)
