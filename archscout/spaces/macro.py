"""The space of NAS-Bench-Macro: chains of eight layers, each an identity or an inverted residual block."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from archscout.errors import UserError
from archscout.space import Arch, SearchSpace, Shape
from archscout.spaces.mobilenet import Block, conv_bn

OPTIONS = ("identity", "mb3_k3", "mb6_k5")
SHAPES = {1: (3, 3), 2: (5, 6)}  # option -> kernel, expansion
STARTS = (0, 2, 5)  # the first layer of each stage: halves height and width, doubles the channels
LAYERS = 8
STEM = 32
HEAD = 1280
DISTINCT = 3_969  # (3 x 3) (3 x 7) (3 x 7): a first layer, and the blocks that follow it in their order


def macro(input_shape: Shape, classes: int) -> SearchSpace:
    """The NAS-Bench-Macro space: chains of up to eight inverted residual blocks, with published accuracies for each.

    Use it to check a method on chains, whose accuracies on CIFAR-10 are published for all 6,561. A network is a 3x3
    convolution to 32 channels, eight layers, a 1x1 convolution to 1,280 channels, global average pooling and a linear
    layer. Layers 1, 3 and 6 halve height and width and double the channels (64, 128, 256 at the end). Each layer is

    0: the identity; where shapes change, a 1x1 convolution with BN and without ReLU
    1: an inverted residual block with kernel 3 and expansion 3
    2: an inverted residual block with kernel 5 and expansion 6

    Every convolution is followed by BN, all but those that end a layer by ReLU; a block adds its input where shapes
    match. Text: the published encoding, a digit a layer, such as 01210201. For 3x32x32 images and 10 classes,
    parameters and multiply-adds (of convolutions and the linear layer) are the published ones for all 6,561.

    An identity between equal shapes is nothing, so its place among the layers of its stage makes no difference:
    the canonical form has the blocks first. The published accuracies of networks with one canonical form are equal.

    Source: Su et al. 2021, "Prioritized architecture sampling with Monto-Carlo tree search", arXiv 2103.11922.
    """

    def build_from(picks: dict[str, Any]) -> nn.Module:
        return Macro(canonical(tuple(OPTIONS.index(option) for option in picks.values())), input_shape, classes)

    return SearchSpace(
        name="macro",
        input_shape=input_shape,
        classes=classes,
        choices={f"layer{number + 1}": OPTIONS for number in range(LAYERS)},
        build_from=build_from,
        canonical_of=canonical,
        format_of=lambda arch: "".join(map(str, arch)),
        parse_of=parse_text,
        describe=describe,
        distinct=DISTINCT,
    )


def parse_text(text: str) -> Arch:
    """The architecture of a text such as 01210201; raises UserError for anything else."""
    if not re.fullmatch(f"[012]{{{LAYERS}}}", text):
        raise UserError(
            f"'{text[:80]}' is no architecture of space 'macro': wanted {LAYERS} digits of 0, 1, 2 like 01210201"
        )
    return tuple(map(int, text))


def canonical(arch: Arch) -> Arch:
    """The architecture with the identities of each stage, its first layer apart, behind its blocks."""
    layers: list[int] = []
    for start, end in pairwise((*STARTS, LAYERS)):
        layers += [arch[start], *sorted(arch[start + 1 : end], key=lambda option: option == 0)]
    return tuple(layers)


def describe(arch: Arch) -> dict[str, Any]:
    """The layers that are built, for the report."""
    stages = [{"name": "stem", "blocks": 1, "width": STEM, "stride": 1, "text": "3x3 convolution"}]
    width = STEM
    for number, option in enumerate(arch):
        first = number in STARTS
        width *= 2 if first else 1
        if option or first:
            kernel, expand = SHAPES.get(option, (1, 1))
            text = f"inverted residual, kernel {kernel}, expansion {expand}" if option else "1x1 convolution"
            stages.append(
                {"name": f"layer{number + 1}", "blocks": 1, "width": width, "stride": 1 + first, "text": text}
            )
    stages.append({"name": "head", "blocks": 1, "width": HEAD, "stride": 1, "text": "1x1 convolution"})
    return {"kind": "stages", "stages": stages}


class Macro(nn.Module):
    """A NAS-Bench-Macro network: maps (N, C, H, W) to logits (N, classes)."""

    def __init__(self, arch: Arch, input_shape: Shape, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(input_shape[0], STEM, 3, 1))
        body: list[nn.Module] = []
        channels = STEM
        for number, option in enumerate(arch):
            first = number in STARTS
            outputs, stride = channels * (1 + first), 1 + first
            if option:
                kernel, expand = SHAPES[option]
                body.append(Block(channels, outputs, "depthwise", kernel, expand, stride))
            elif first:
                body.append(nn.Sequential(*conv_bn(channels, outputs, 1, stride)[:-1]))
            channels = outputs
        self.body = nn.Sequential(*body)
        self.last = nn.Sequential(*conv_bn(channels, HEAD, 1, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(HEAD, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.pool(self.last(self.body(self.stem(x)))).flatten(1))
