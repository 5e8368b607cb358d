"""The fewest layers between an image and the answer."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from archscout.costs.trace import hollow
from archscout.links import CONVOLVE
from archscout.probe import NotDefined, Probe, Proxy
from archscout.space import Shape

LAYERS = (*CONVOLVE, "linear")


class Lengths(TorchFunctionMode):
    """Writes on every tensor the fewest convolutions and linear layers on a way to it from a tensor of length 0."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        lengths = [n for n in map(length_of, tree_leaves((args, kwargs))) if n is not None]
        output = func(*args, **kwargs)
        if lengths:
            for tensor in tree_leaves(output):
                if isinstance(tensor, Tensor):
                    tensor.fewest_layers = min(lengths) + (func.__name__ in LAYERS)  # type: ignore[attr-defined]
        return output


def length_of(value: Any) -> int | None:
    return getattr(value, "fewest_layers", None) if isinstance(value, Tensor) else None


def fewest_layers(model: nn.Module, input_shape: Shape) -> int:
    """The fewest convolutions and linear layers on a way from an image (channels, height, width) to the output.

    Runs on shapes alone, on a copy without weights; a model that cannot is copied and really run. Raises NotDefined
    where the output does not depend on the image.
    """
    try:
        output = follow(hollow(model, {}), torch.zeros(1, *input_shape, device="meta"))
    except Exception:
        if any(p.is_meta for p in model.parameters()):
            raise
        with torch.random.fork_rng(devices=[]):
            output = follow(copy.deepcopy(model).float().cpu().eval(), torch.zeros(1, *input_shape))
    lengths = [n for n in map(length_of, tree_leaves(output)) if n is not None]
    if not lengths:
        raise NotDefined("no way leads from the image to the output")
    return min(lengths)


def follow(network: nn.Module, image: Tensor) -> Any:
    image.fewest_layers = 0  # type: ignore[attr-defined]
    with torch.no_grad(), Lengths():
        return network(image)


def short_path(probe: Probe) -> float:
    """The number of convolutions and linear layers on the shortest way from the image to the output.

    In a network with skip connections most of the gradient of deep layers comes by the short ways (Veit, Wilber &
    Belongie 2016, arXiv 1605.06431); of networks of like capacity the one with a shorter way is easier to train.
    Data: none. Smaller is better among networks of like capacity. Scale: layers. Cost: none (a trace on the meta
    device, about as long as two forwards of one image).
    Fails alone: the network that computes least has the shortest way. Has very many ties, and is the same for all
    networks of a space whose blocks are all residual. A fused attention counts as no layer, and a connection that is
    multiplied by zero as one that is there.
    """
    return float(fewest_layers(probe.model, tuple(probe.batches[0][0].shape[1:])))  # type: ignore[arg-type]


PROXY = Proxy(short_path, (), "min", "layers", "from Veit et al. 2016, arXiv 1605.06431", "none", "none")
