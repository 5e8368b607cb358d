"""Known networks, made for images of any size: what a person would take instead of searching."""

from __future__ import annotations

import math
from typing import Any

import torchvision
from torch import nn
from torchvision.ops import Conv2dNormActivation

from archscout.errors import unknown
from archscout.space import Arch, SearchSpace, Shape
from archscout.spaces.plain import ResNet

LITE = (  # of EfficientNet-Lite0: expansion, kernel, stride, channels, blocks
    (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)  # fmt: skip
NAMES = (
    "resnet8", "resnet14", "resnet20",
    "mobilenetv2-0.35", "mobilenetv2-0.5", "mobilenetv2-1.0",
    "mobilenetv3small-0.5", "mobilenetv3small-1.0", "mobilenetv3large-0.75",
    "efficientnetlite-0.5", "efficientnetlite-1.0",
    "shufflenetv2-0.5", "shufflenetv2-1.0",
)  # fmt: skip


def known(input_shape: Shape, classes: int) -> SearchSpace:
    """Known networks as a space of one decision, so that `archscout.train(space="known:known", arch="resnet20")` works.

    ResNet-8, 14 and 20 of He et al. 2016 (16 channels in the first stage), MobileNetV2 (Sandler et al. 2018) and
    MobileNetV3 (Howard et al. 2019) with width factors, EfficientNet-Lite0 (EfficientNet of Tan and Le 2019 without
    squeeze-and-excitation and with ReLU6) with width factors, ShuffleNetV2 (Ma et al. 2018). All but the first three
    are made for 224 pixels and halve five times; here the first halvings are left out until a map of about 4x4 is left
    at the end, as is usual for small images. The first convolution takes as many channels as the images have.
    """

    def parse_text(text: str) -> Arch:
        if text not in NAMES:
            raise unknown("known network", text, NAMES)
        return (NAMES.index(text),)

    return SearchSpace(
        name="known",
        input_shape=input_shape,
        classes=classes,
        choices={"network": NAMES},
        build_from=lambda picks: network_of(picks["network"], input_shape, classes),
        format_of=lambda arch: NAMES[arch[0]],
        parse_of=parse_text,
        distinct=len(NAMES),
    )


def network_of(name: str, input_shape: Shape, classes: int) -> nn.Module:
    """The network of a name for images of a shape."""
    family, _, width = name.partition("-")
    if family.startswith("resnet"):
        return ResNet(input_shape, classes, 16, (int(family[6:]) - 2) // 6)
    models: Any = torchvision.models
    factor = float(width)
    if family == "mobilenetv2":
        network = models.mobilenet_v2(num_classes=classes, width_mult=factor)
    elif family.startswith("mobilenetv3"):
        network = getattr(models, f"mobilenet_v3_{family[11:]}")(num_classes=classes, width_mult=factor)
    elif family == "shufflenetv2":
        network = getattr(models, f"shufflenet_v2_x{width.replace('.', '_')}")(num_classes=classes)
    else:
        network = EfficientNetLite(classes, factor)
    take_channels(network, input_shape[0])
    halve_less(network, max(0, 5 - round(math.log2(min(input_shape[1:]) / 4))))
    return network


def take_channels(network: nn.Module, channels: int) -> None:
    """Gives the first convolution of a network so many input channels."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            parent, _, own = name.rpartition(".")
            fresh = nn.Conv2d(
                channels,
                module.out_channels,
                module.kernel_size,
                module.stride,
                module.padding,
                bias=module.bias is not None,
            )
            setattr(network.get_submodule(parent), own, fresh)
            return


def halve_less(network: nn.Module, count: int) -> None:
    """Takes out the first `count` halvings; the two branches of a ShuffleNet unit halve together."""
    left = count
    units = (torchvision.models.shufflenetv2.InvertedResidual,)
    inside = {id(m) for unit in network.modules() if isinstance(unit, units) for m in unit.modules()}
    for module in network.modules():
        if left and isinstance(module, units):
            strided = [m for m in module.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
            for convolution in strided:
                convolution.stride = (1, 1)
            left -= bool(strided)
        elif left and id(module) not in inside:
            if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
                module.stride, left = (1, 1), left - 1
            elif isinstance(module, nn.MaxPool2d) and module.stride == 2:
                module.stride, left = 1, left - 1


def round_channels(channels: float) -> int:
    """The nearest multiple of 8, at least 8 and at least nine tenths of the wish."""
    found = max(8, int(channels + 4) // 8 * 8)
    return found + 8 if found < 0.9 * channels else found


class MBConv(nn.Module):
    """An inverted residual block with ReLU6: maps (N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""

    def __init__(self, inputs: int, outputs: int, expand: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expand
        layers: list[nn.Module] = []
        if expand > 1:
            layers.append(Conv2dNormActivation(inputs, wide, 1, activation_layer=nn.ReLU6))
        layers.append(Conv2dNormActivation(wide, wide, kernel, stride, groups=wide, activation_layer=nn.ReLU6))
        layers.append(Conv2dNormActivation(wide, outputs, 1, activation_layer=None))
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Any) -> Any:
        return x + self.layers(x) if self.adds else self.layers(x)


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0 with a factor on the channels of its stages; maps (N, 3, H, W) to logits (N, classes)."""

    def __init__(self, classes: int, factor: float) -> None:
        super().__init__()
        stem, head = 32, 1280
        layers: list[nn.Module] = [Conv2dNormActivation(3, stem, 3, 2, activation_layer=nn.ReLU6)]
        inputs = stem
        for expand, kernel, stride, channels, blocks in LITE:
            outputs = round_channels(factor * channels)
            for number in range(blocks):
                layers.append(MBConv(inputs, outputs, expand, kernel, 1 if number else stride))
                inputs = outputs
        layers.append(Conv2dNormActivation(inputs, head, 1, activation_layer=nn.ReLU6))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(head, classes))

    def forward(self, x: Any) -> Any:
        return self.classifier(self.features(x).mean((2, 3)))
