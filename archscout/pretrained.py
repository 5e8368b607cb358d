"""Networks of torchvision with weights from a local file, as candidates of a verification and as teachers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archscout.distill import cifar_network, resnet_cifar
from archscout.errors import UserError, unknown
from archscout.fit import Recipe
from archscout.space import Arch, SearchSpace, Shape
from archscout.weights import read_weights

CIFAR = {f"cifar_resnet{depth}": depth for depth in (20, 32, 44, 56, 110)}
NAMES = (
    "resnet18", "resnet34", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large",
    "efficientnet_b0", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0",
    "mnasnet0_5", "mnasnet1_0", "densenet121", *CIFAR,
)  # fmt: skip
SIDE = 64  # pixels to which smaller images are brought for networks that divide the side by 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the images on which such networks were trained, in 0..1
SLOWER = 0.1  # learning rate of a fine-tuning, relative to that of a training from nothing


def pretrained(
    input_shape: Shape,
    classes: int,
    files: tuple[tuple[str, str], ...] = (),
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> SearchSpace:
    """Known networks, one decision; those named in `files` begin with the weights of their file, the others anew.

    Use it to ask whether fine-tuning beats what a search finds. files: (name, path) pairs, see read_weights; the last
    layer is drawn anew unless the file's has as many classes. mean, std: per channel on the 0..255 scale, by which the
    images were normalised before they reach the network; a network that is built without them takes both from its
    weights. A network brings images to what its weights know: grey becomes three equal channels, sides below SIDE are
    enlarged (bilinear; CIFAR ResNets: to 32), and the normalisation is exchanged. That is part of the network, so
    its costs are counted and it is exported.

    Sources: the networks of torchvision.models; `cifar_resnetN`: He et al. 2016, arXiv:1512.03385, section 4.2.
    Raises UserError for images of other than 1 or 3 channels, and for files that are absent or of another network.
    """
    if input_shape[0] not in (1, 3):
        raise UserError(f"pretrained networks know images of 1 or 3 channels, got {input_shape[0]}")
    given = dict(files)
    for name in given:
        if name not in NAMES:
            raise unknown("pretrained network", name, NAMES)

    def build_from(picks: dict[str, Any]) -> nn.Module:
        name = picks["network"]
        network = bare(name, classes) if name not in given else loaded(name, given[name], classes)
        return Adapted(network, input_shape, 32 if name in CIFAR else SIDE, mean, std)

    def parse_text(text: str) -> Arch:
        if text not in NAMES:
            raise unknown("pretrained network", text, NAMES)
        return (NAMES.index(text),)

    return SearchSpace(
        name="pretrained",
        input_shape=input_shape,
        classes=classes,
        choices={"network": NAMES},
        build_from=build_from,
        format_of=lambda arch: NAMES[arch[0]],
        parse_of=parse_text,
        distinct=len(NAMES),
    )


def parse_files(given: Any) -> dict[str, str]:
    """name -> absolute path, from a mapping or from texts like "resnet18=weights.pth". Raises UserError otherwise."""
    pairs = list(given.items()) if isinstance(given, Mapping) else [str(text).partition("=")[::2] for text in given]
    found = {}
    for name, path in pairs:
        if not isinstance(path, str) or not isinstance(name, str) or not name or not path:
            raise UserError(
                f"'{name or path}' names no weights (got {path!r}); write NETWORK=FILE, like resnet18=resnet18.pth"
            )
        if name not in NAMES:
            raise unknown("pretrained network", name, NAMES)
        place = Path(path).expanduser()
        if not os.path.isfile(place):  # Path.is_file raises for a name that no file can have
            raise UserError(f"there are no weights at '{path}'; check the path of {name}")
        found[name] = str(place.resolve())
    return found


def bare(name: str, classes: int) -> nn.Module:
    """The network of a name with weights drawn anew."""
    if name in CIFAR:
        return cifar(name, None, classes)
    import torchvision

    return getattr(torchvision.models, name)(weights=None, num_classes=classes)


def cifar(name: str, path: str | None, classes: int) -> nn.Module:
    """A CIFAR ResNet, from a file or anew."""
    network = (cifar_network(CIFAR[name]) if path is None else resnet_cifar(path, CIFAR[name])).train()
    if classes != 10:
        replace_head(network, classes)
    return network


def loaded(name: str, path: str, classes: int) -> nn.Module:
    """The network of a name with the weights of a file; its last layer is kept if it fits."""
    if torch.tensor(0.0).device.type == "meta":  # only its shapes are wanted
        return bare(name, classes)
    if name in CIFAR:
        return cifar(name, path, classes)
    weights = read_weights(path)
    heads = [key for key, value in weights.items() if key.endswith("weight") and value.ndim == 2]
    network = bare(name, len(weights[heads[-1]]) if heads else classes)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"'{path}' holds no {name}: {str(error).splitlines()[-1].strip()[:200]}") from None
    if head_of(network)[1].out_features != classes:
        replace_head(network, classes)
    return network


def head_of(network: nn.Module) -> tuple[str, nn.Linear]:
    """The name and module of the last linear layer, which answers the classes."""
    return [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]


def replace_head(network: nn.Module, classes: int) -> None:
    """Puts a new last layer for other classes into a network."""
    name, old = head_of(network)
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, nn.Linear(old.in_features, classes))


class Adapted(nn.Module):
    """A pretrained network behind the way that brings normalised images (N, C, H, W) to what it knows."""

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        input_shape: Shape,
        side: int,
        mean: tuple[float, ...] | None,
        std: tuple[float, ...] | None,
    ) -> None:
        super().__init__()
        self.network = network
        height, width = input_shape[1:]
        factor = side / min(height, width)
        self.size = None if factor <= 1 else (round(height * factor), round(width * factor))
        ours = [np.broadcast_to(np.asarray(v, dtype=float), 3) for v in (mean or (0.0,), std or (1.0,))]
        scale, shift = ours[1] / (255 * np.array(STD)), (ours[0] / 255 - MEAN) / STD
        for name, values in (("scale", scale), ("shift", shift)):
            self.register_buffer(name, torch.tensor(values.tolist()).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        x = x * self.scale + self.shift
        if self.size is not None:
            x = F.interpolate(x, self.size, mode="bilinear", align_corners=False)
        return self.network(x)


def fine_tuning(recipe: Recipe) -> Recipe:
    """The recipe for weights that are not drawn anew: a tenth of the learning rate, and a short warm-up."""
    return replace(recipe, lr=SLOWER * recipe.lr, warmup=0.1)
