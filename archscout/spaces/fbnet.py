"""The space of FBNet: chains of 22 layers, each one of eight inverted residual blocks or nothing."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from archscout.errors import UserError
from archscout.space import Arch, SearchSpace, Shape
from archscout.spaces.mobilenet import conv_bn

OPTIONS = ("k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip")
BLOCKS = {  # option -> kernel, expansion, groups of the 1x1 convolutions
    "k3_e1": (3, 1, 1), "k3_e1_g2": (3, 1, 2), "k3_e3": (3, 3, 1), "k3_e6": (3, 6, 1),
    "k5_e1": (5, 1, 1), "k5_e1_g2": (5, 1, 2), "k5_e3": (5, 3, 1), "k5_e6": (5, 6, 1),
}  # fmt: skip
SKIP = OPTIONS.index("skip")
WIDTHS = (16, 24, 32, 64, 112, 184, 352)  # channels of each stage
DEPTHS = (1, 4, 4, 4, 4, 4, 1)  # layers of each stage
STARTS = (0, 1, 5, 9, 13, 17, 21)  # the first layer of each stage
LAYERS = 22
STEM = 16
LARGE = 64  # images with a longer shorter side are halved by the stem and by the second stage too
DISTINCT = 9 * 9 * (9 * 585) ** 5  # a first layer, and up to three blocks of eight kinds in their order


def fbnet(input_shape: Shape, classes: int) -> SearchSpace:
    """The FBNet space: chains of 22 layers, whose latency on many devices is published by HW-NAS-Bench and HELP.

    Use it to check predictions of latency on chains, or for images where a large mobile network fits (a million
    parameters and more). A network is a 3x3 convolution to 16 channels, seven stages of 1, 4, 4, 4, 4, 4, 1 layers with
    16, 24, 32, 64, 112, 184, 352 channels, a 1x1 convolution to 1,504 channels (1,984 for images above 64 pixels),
    global average pooling and a linear layer. The third, fourth and sixth stage halve height and width; above 64 pixels
    the first convolution and the second stage do so too. Building costs 10 to 20 ms. Each layer is

    k3_e1, k3_e3, k3_e6, k5_e1, k5_e3, k5_e6: an inverted residual block of that kernel and expansion
    k3_e1_g2, k5_e1_g2: such a block whose 1x1 convolutions have two groups, with a channel shuffle behind the first
    skip: the identity; where shapes change, a 1x1 convolution with BN and ReLU

    Every convolution is followed by BN, all but those that end a block by ReLU; a block adds its input where shapes
    match. Text: a digit a layer, the place of its option in the list k3_e1, k3_e1_g2, k3_e3, k3_e6, k5_e1, k5_e1_g2,
    k5_e3, k5_e6, skip: the operator indices of the published tables.

    An identity is nothing, so its place among the layers of a stage behind the first makes no difference: the canonical
    form has the blocks first.

    Sources: Wu et al. 2019, "FBNet", arXiv 1812.03443; for small images Li et al. 2021, "HW-NAS-Bench",
    arXiv 2103.10584.
    """

    def build_from(picks: dict[str, Any]) -> nn.Module:
        arch = canonical(tuple(OPTIONS.index(option) for option in picks.values()))
        return FBNet([OPTIONS[index] for index in arch], input_shape, classes)

    return SearchSpace(
        name="fbnet",
        input_shape=input_shape,
        classes=classes,
        choices={f"layer{number + 1}": OPTIONS for number in range(LAYERS)},
        build_from=build_from,
        canonical_of=canonical,
        format_of=lambda arch: "".join(map(str, arch)),
        parse_of=parse_text,
        describe=lambda arch: describe(arch, input_shape),
        distinct=DISTINCT,
    )


def parse_text(text: str) -> Arch:
    """The architecture of a text of 22 digits; raises UserError for anything else."""
    if not re.fullmatch(f"[0-{SKIP}]{{{LAYERS}}}", text):
        raise UserError(
            f"'{text[:80]}' is no architecture of space 'fbnet': wanted {LAYERS} digits of 0 to {SKIP} "
            f"like {'73' * (LAYERS // 2)}"
        )
    return tuple(map(int, text))


def canonical(arch: Arch) -> Arch:
    """The architecture with the identities of each stage, its first layer apart, behind its blocks."""
    layers: list[int] = []
    for start, end in pairwise((*STARTS, LAYERS)):
        layers += [arch[start], *sorted(arch[start + 1 : end], key=lambda option: option == SKIP)]
    return tuple(layers)


def strides_of(input_shape: Shape) -> tuple[int, ...]:
    """Strides of the first convolution and of the seven stages."""
    return (2, 1, 2, 2, 2, 1, 2, 1) if min(input_shape[1:]) > LARGE else (1, 1, 1, 2, 2, 1, 2, 1)


def describe(arch: Arch, input_shape: Shape) -> dict[str, Any]:
    """The layers that are built, for the report."""
    first, *strides = strides_of(input_shape)
    stages = [{"name": "stem", "blocks": 1, "width": STEM, "stride": first, "text": "3x3 convolution"}]
    for stage, (start, depth, width) in enumerate(zip(STARTS, DEPTHS, WIDTHS, strict=True)):
        for number in range(start, start + depth):
            option, opens = OPTIONS[arch[number]], number == start
            if option == "skip" and (not opens or stage == 0):
                continue
            kernel, expand, groups = BLOCKS.get(option, (1, 1, 1))
            text = f"inverted residual, kernel {kernel}, expansion {expand}" + (", two groups" if groups > 1 else "")
            stages.append(
                {"name": f"layer{number + 1}", "blocks": 1, "width": width, "stride": strides[stage] if opens else 1}
                | {"text": text if option in BLOCKS else "1x1 convolution"}
            )
    stages.append({"name": "head", "blocks": 1, "width": head_of(input_shape), "stride": 1, "text": "1x1 convolution"})
    return {"kind": "stages", "stages": stages}


def head_of(input_shape: Shape) -> int:
    """Channels in front of the linear layer."""
    return 1984 if min(input_shape[1:]) > LARGE else 1504


class Block(nn.Module):
    """An inverted residual block, perhaps with groups: maps (N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, expand: int, groups: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expand
        layers = conv_bn(inputs, inner, 1, 1, groups=groups)
        if groups > 1:
            layers.append(nn.ChannelShuffle(groups))
        layers += conv_bn(inner, inner, kernel, stride, groups=inner)
        layers += conv_bn(inner, outputs, 1, 1, groups=groups)[:-1]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class FBNet(nn.Module):
    """A network of the fbnet space: maps (N, C, H, W) to logits (N, classes)."""

    def __init__(self, options: list[str], input_shape: Shape, classes: int) -> None:
        super().__init__()
        first, *strides = strides_of(input_shape)
        self.stem = nn.Sequential(*conv_bn(input_shape[0], STEM, 3, first))
        body: list[nn.Module] = []
        channels = STEM
        for stage, (start, depth, width) in enumerate(zip(STARTS, DEPTHS, WIDTHS, strict=True)):
            for number in range(start, start + depth):
                stride = strides[stage] if number == start else 1
                if options[number] in BLOCKS:
                    body.append(Block(channels, width, *BLOCKS[options[number]], stride))
                elif stride > 1 or channels != width:
                    body.append(nn.Sequential(*conv_bn(channels, width, 1, stride)))
                channels = width
        self.body = nn.Sequential(*body)
        head = head_of(input_shape)
        self.last = nn.Sequential(*conv_bn(channels, head, 1, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(head, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.last(self.body(self.stem(x)))).flatten(1))
