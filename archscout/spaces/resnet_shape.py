"""Residual networks whose widths, layer by layer, and depths, stage by stage, are to be chosen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from archscout.errors import UserError
from archscout.space import Arch, SearchSpace, Shape

SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of the full width
PARTS = ("a", "b")


def resnet_shape(input_shape: Shape, classes: int, depth: int = 3, width: int = 16) -> SearchSpace:
    """ResNet-(6 depth + 2) with every width and depth open: pruned shapes of one known network.

    Decisions: `depth1` to `depth3`, the blocks of each stage, 1 to `depth`; `stem`, and `S.B.a`, `S.B.b` for the two
    convolutions of block B of stage S: the share of the full width (width, 2 width, 4 width) that a layer keeps, .3 to
    1. A block is conv-BN-ReLU-conv-BN plus its input, then ReLU; the input is halved by average pooling where the stage
    begins with a stride. A sum of unequal widths has the wider one, the other is filled up with zeros: nothing that a
    layer found is cut off, and maps never become narrower. Widths of blocks that are not there are zero in canonical
    form. depth=3 is ResNet-20, 9 is ResNet-56.

    Use it to make a known network smaller under a limit. Source: Dong and Yang 2019, "TAS", arXiv:1905.09717.
    """
    if depth < 1 or width < 4:
        raise UserError(f"resnet_shape wants depth >= 1 and width >= 4, got {depth} and {width}")
    layers = names_of(depth)
    choices: dict[str, tuple[Any, ...]] = {f"depth{s}": tuple(range(1, depth + 1)) for s in (1, 2, 3)}
    choices |= dict.fromkeys(layers, SHARES)

    def build_from(picks: dict[str, Any]) -> nn.Module:
        return Network(picks, input_shape, classes, width)

    def canonical(arch: Arch) -> Arch:
        blocks = {str(s): arch[s - 1] + 1 for s in (1, 2, 3)}
        return (*arch[:3], *(0 if absent(n, blocks) else i for n, i in zip(layers, arch[3:], strict=True)))

    def format_of(arch: Arch) -> str:
        depths = "".join(f"-{i + 1}" for i in arch[:3])
        return f"d{depths[1:]}-w" + "".join(map(str, arch[3:]))

    def parse_of(text: str) -> Arch:
        match = re.fullmatch(r"d(\d+)-(\d+)-(\d+)-w([0-7]+)", text)
        if match is None or len(match[4]) != len(layers) or not all(1 <= int(match[s]) <= depth for s in (1, 2, 3)):
            raise UserError(
                f"'{text[:80]}' is no architecture of resnet_shape: wanted dA-B-C-wDIGITS with depths of 1 to {depth} "
                f"and {len(layers)} digits of 0 to 7"
            )
        return (*(int(match[s]) - 1 for s in (1, 2, 3)), *map(int, match[4]))

    def describe(arch: Arch) -> dict[str, Any]:
        picks = {name: choices[name][option] for name, option in zip(choices, arch, strict=True)}
        wide = {stage: max(inputs, outputs) for stage, inputs, _, outputs, _ in blocks_of(picks, width)}
        stages = [
            {
                "name": f"stage{s}", "blocks": picks[f"depth{s}"], "stride": 2 if s > 1 else 1, "width": wide[s],
                "text": "residual blocks of two 3x3 convolutions",
            }
            for s in (1, 2, 3)
        ]  # fmt: skip
        return {"kind": "stages", "stages": stages}

    def relax(**options: Any) -> nn.Module:
        from archscout.supernets.resnet_shape import SuperNetwork

        return SuperNetwork(input_shape, classes, depth, width, **options)

    return SearchSpace(
        name="resnet_shape", input_shape=input_shape, classes=classes, choices=choices, build_from=build_from,
        canonical_of=canonical, format_of=format_of, parse_of=parse_of, describe=describe, relax_of={"tas": relax},
        distinct=len(SHARES) * sum(len(SHARES) ** (2 * d) for d in range(1, depth + 1)) ** 3,
    )  # fmt: skip


def names_of(depth: int) -> list[str]:
    """The decisions on widths, in the order of execution."""
    return ["stem", *(f"{s}.{b}.{p}" for s in (1, 2, 3) for b in range(1, depth + 1) for p in PARTS)]


def absent(name: str, blocks: dict[str, int]) -> bool:
    """Whether a layer belongs to a block that a network of so many blocks per stage does not have."""
    return name != "stem" and int(name.split(".")[1]) > blocks[name[0]]


def full_width(name: str, width: int) -> int:
    return width if name == "stem" else width * 2 ** (int(name[0]) - 1)


def width_of(name: str, picks: dict[str, Any], width: int) -> int:
    """Channels of a layer."""
    return max(1, round(picks[name] * full_width(name, width)))


def blocks_of(picks: dict[str, Any], width: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(stage, channels that come, those of its first and of its second convolution, stride) of each block, in order."""
    channels = width_of("stem", picks, width)
    for s in (1, 2, 3):
        for b in range(1, picks[f"depth{s}"] + 1):
            inner, outputs = (width_of(f"{s}.{b}.{p}", picks, width) for p in PARTS)
            yield s, channels, inner, outputs, 2 if s > 1 and b == 1 else 1
            channels = max(channels, outputs)


def added(x: Tensor, y: Tensor, stride: int) -> Tensor:
    """The input of a block, halved where the block halves, plus what it gives; the narrower is filled with zeros."""
    if stride > 1:
        x = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
    return filled(x, y.shape[1]) + filled(y, x.shape[1])


def filled(x: Tensor, channels: int) -> Tensor:
    """Maps (N, C, H, W) with zeros behind their channels, up to so many where they have fewer."""
    return x if x.shape[1] >= channels else F.pad(x, (0, 0, 0, 0, 0, channels - x.shape[1]))


class Block(nn.Module):
    """conv-BN-ReLU-conv-BN plus the input, then ReLU; it gives the wider of `inputs` and `outputs` channels."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride, self.outputs = stride, outputs
        self.a = nn.Conv2d(inputs, inner, 3, stride, 1, bias=False)
        self.norm_a = nn.BatchNorm2d(inner)
        self.b = nn.Conv2d(inner, outputs, 3, 1, 1, bias=False)
        self.norm_b = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(added(x, self.norm_b(self.b(F.relu(self.norm_a(self.a(x))))), self.stride))


class Network(nn.Module):
    """A network of the space: maps (N, C, H, W) to logits (N, classes)."""

    def __init__(
        self,
        picks: dict[str, Any],
        input_shape: Shape,
        classes: int,
        width: int,
        block: type[Block] = Block,
    ) -> None:
        super().__init__()
        channels = width_of("stem", picks, width)
        self.stem = nn.Conv2d(input_shape[0], channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        blocks = []
        for _, inputs, inner, outputs, stride in blocks_of(picks, width):
            blocks.append(block(inputs, inner, outputs, stride))
            channels = max(inputs, outputs)
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.blocks(F.relu(self.norm(self.stem(x)))).mean((2, 3)))


def macs_of(picks: dict[str, Any], input_shape: Shape, classes: int, width: int) -> int:
    """Multiply-adds of one image, from the shapes alone."""
    channels, (height, side) = width_of("stem", picks, width), input_shape[1:]
    total = 9 * input_shape[0] * channels * height * side
    for _, inputs, inner, outputs, stride in blocks_of(picks, width):
        height, side = -(-height // stride), -(-side // stride)
        total += 9 * (inputs * inner + inner * outputs) * height * side
        channels = max(inputs, outputs)
    return total + channels * classes
