"""Plain residual networks of several widths and depths: what a person would try first."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from archscout.errors import UserError
from archscout.space import Arch, SearchSpace, Shape

WIDTHS = (8, 12, 16, 24, 32, 48, 64)
DEPTHS = (1, 2, 3)


def plain(input_shape: Shape, classes: int) -> SearchSpace:
    """The family of the baseline network: residual networks with three stages of basic blocks.

    Use it as the yardstick that a search must beat. Two decisions, 21 networks: `width`, the channels of the first
    stage (8 to 64; the next stages have twice and four times as many), and `depth`, the blocks of each stage (1, 2, 3:
    ResNet-8, ResNet-14, ResNet-20 with their 6 depth + 2 weight layers). A block is conv-BN-ReLU-conv-BN, plus its
    input, then ReLU; the input passes a 1x1 convolution with BN where shapes change. Images larger than 64 pixels are
    halved by the first convolution, larger than 128 once more by a max pool. ResNet-20 of width 16 has 272,474
    parameters for 3x32x32 images and 10 classes: the 269,722 of the published one and 2,752 of its two 1x1 convolutions
    with BN.

    Source: He, Zhang, Ren and Sun 2016, "Deep residual learning for image recognition", arXiv 1512.03385, section 4.2.
    """

    def build_from(picks: dict[str, Any]) -> nn.Module:
        return ResNet(input_shape, classes, picks["width"], picks["depth"])

    def describe(arch: Arch) -> dict[str, Any]:
        width, depth = WIDTHS[arch[0]], DEPTHS[arch[1]]
        stages = [
            {
                "name": f"stage{number + 1}",
                "blocks": depth,
                "width": width * 2**number,
                "stride": 2 if number else 1,
                "text": f"{depth} residual blocks of two 3x3 convolutions",
            }
            for number in range(3)
        ]
        stem = {"name": "stem", "blocks": 1, "width": width, "stride": shrink(input_shape), "text": "3x3 convolution"}
        return {"kind": "stages", "stages": [stem, *stages]}

    return SearchSpace(
        name="plain",
        input_shape=input_shape,
        classes=classes,
        choices={"width": WIDTHS, "depth": DEPTHS},
        build_from=build_from,
        format_of=lambda arch: f"resnet{6 * DEPTHS[arch[1]] + 2}-w{WIDTHS[arch[0]]}",
        parse_of=parse_text,
        describe=describe,
        distinct=len(WIDTHS) * len(DEPTHS),
    )


def parse_text(text: str) -> Arch:
    """The architecture of a text like resnet20-w16; raises UserError for anything else."""
    layers = {6 * depth + 2: place for place, depth in enumerate(DEPTHS)}
    match = re.fullmatch(r"resnet([0-9]{1,3})-w([0-9]{1,3})", text)
    if match is None or int(match[1]) not in layers or int(match[2]) not in WIDTHS:
        raise UserError(
            f"'{text[:80]}' is no architecture of space 'plain': wanted resnetL-wW with L one of {list(layers)} "
            f"and W one of {list(WIDTHS)}, like resnet20-w16"
        )
    return (WIDTHS.index(int(match[2])), layers[int(match[1])])


def shrink(input_shape: Shape) -> int:
    """How many times smaller the first stage is than the image: 1 up to 64 pixels, 2 up to 128, else 4."""
    side = min(input_shape[1:])
    return 1 if side <= 64 else 2 if side <= 128 else 4


class Block(nn.Module):
    """Two 3x3 convolutions and the input: maps (N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.relu2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # A 1x1 convolution of stride 2 reads every second pixel. Written so, since PyTorch 2.14's own backward of it
        # corrupts the memory of the process on some CPUs (seen with 12 to 24 channels, AVX-512).
        passed = x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride]
        return self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))) + self.shortcut(passed))


class ResNet(nn.Module):
    """A plain residual network: maps (N, C, H, W) to logits (N, classes)."""

    def __init__(self, input_shape: Shape, classes: int, width: int, depth: int) -> None:
        super().__init__()
        small = shrink(input_shape)
        self.conv1 = nn.Conv2d(input_shape[0], width, 3, stride=min(small, 2), padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.shrink: nn.Module = nn.MaxPool2d(3, stride=2, padding=1) if small == 4 else nn.Identity()
        widths = (width, width, 2 * width, 4 * width)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(
                Block(widths[number], widths[number + 1], 2 if number else 1),
                *(Block(widths[number + 1], widths[number + 1], 1) for _ in range(depth - 1)),
            )
            for number in range(3)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.shrink(self.relu(self.bn1(self.conv1(x))))
        return self.linear(self.pool(self.layer3(self.layer2(self.layer1(x)))).flatten(1))
