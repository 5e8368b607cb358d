"""Stages of inverted residual blocks, depthwise or fused: networks to run on CPUs and small devices."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from archscout.errors import UserError
from archscout.space import Arch, SearchSpace, Shape

RESOLUTIONS = (100, 75, 50)  # per cent of the image's height and width
STEMS = (8, 16, 32)
HALVINGS = ("late", "early", "pool")
KINDS = ("depthwise", "fused")
KERNELS = (3, 5)
EXPANDS = (1, 2, 4)
WIDTHS = (
    (8, 16, 24, 32, 48, 64), (16, 32, 48, 64, 96, 128), (32, 64, 96, 128, 192, 256),
    (48, 96, 144, 192, 256, 384), (64, 128, 192, 256, 384, 512),
)  # fmt: skip
DEPTHS = (0, 1, 2, 3)
NAMED = ("resolution", "stem", "halving")  # the decisions of the whole network; behind them come those of each stage
FIELDS = ("kind", "kernel", "expand", "width", "depth")


def mobilenet(input_shape: Shape, classes: int) -> SearchSpace:
    """Three to five stages of inverted or plain residual blocks, from a few hundred to several million parameters.

    Use it to find a network for a device. The network resizes its image itself (`resolution`, per cent of height and
    width, bilinear), then come a 3x3 convolution (`stem` channels), the stages, BN, ReLU, global average pooling and a
    linear layer. `halving` is where and how maps shrink: late, after a stage on whole images; early, in each stage from
    the first on; or pool, which is early but with the maximum of each 2 x 2 pixels behind a convolution in the place of
    its stride. Early ones cost least and learn most in little time (docs/decisions/013). The blocks of a stage share
    its decisions:

    kind:   depthwise (1x1 expansion, k x k depthwise convolution, 1x1 projection) or fused (k x k dense convolution
            that expands, 1x1 projection; without expansion one dense convolution, as in a plain residual network).
            Depthwise needs the fewest weights and multiply-adds; fused is up to four times faster to train on CPUs.
    kernel: k, 3 or 5.  expand: 1, 2 or 4 times the input channels.  width: output channels.
    depth:  blocks; 0 ends the network before this stage (the first stage has at least one). Decisions of stages after
            the end are inactive.

    Every convolution is followed by BN, all but the projections by ReLU; a block adds its input where shapes match. The
    number of stages and their strides follow the image: maps shrink to about 4 x 4; images larger than 64 pixels are
    halved by the first convolution. Beyond 32 pixels the first stage halves by strides, and
    there is no other way.

    Text: r75-s16-f3e1w16x2-d5e4w32x3 is resolution 75 %, stem 16, two fused blocks (kernel 3, expand 1, width 16),
    three depthwise blocks (kernel 5, expand 4, width 32), late; r75-s16-pool-f3e1w16x2 pools.

    Sources: Sandler et al. 2018, "MobileNetV2", arXiv 1801.04381; Tan and Le 2021, "EfficientNetV2", arXiv 2104.00298.
    """
    strides = plan_strides(input_shape)
    stages = len(strides) - 1
    choices: dict[str, tuple[Any, ...]] = {
        "resolution": resolutions(input_shape), "stem": STEMS, "halving": halvings(strides),
    }  # fmt: skip
    for stage in range(1, stages + 1):
        choices[f"kind{stage}"] = KINDS
        choices[f"kernel{stage}"] = KERNELS
        choices[f"expand{stage}"] = EXPANDS
        choices[f"width{stage}"] = WIDTHS[stage - 1]
        choices[f"depth{stage}"] = DEPTHS if stage > 1 else DEPTHS[1:]
    made = space_of(input_shape, classes, choices, strides)
    return replace(made, typical=tuple(map(made.canonical, typical(choices, strides))))


def space_of(input_shape: Shape, classes: int, choices: dict[str, tuple[Any, ...]], strides: list[int]) -> SearchSpace:
    """The space of some choices; `strides` are those of the stem and of each stage."""
    stages = len(strides) - 1
    names = list(choices)
    halved = {word: strides if word == HALVINGS[0] else early(strides) for word in choices["halving"]}

    def active(picks: dict[str, Any]) -> list[dict[str, Any]]:
        """The stages up to the end of the network, each as a mapping of its decisions."""
        found = []
        for stage in range(1, stages + 1):
            if picks[f"depth{stage}"] == 0:
                break
            stride = halved[picks["halving"]][stage]
            found.append({field: picks[f"{field}{stage}"] for field in FIELDS} | {"stride": stride})
        return found

    def decode(arch: Arch) -> dict[str, Any]:
        return {name: options[i] for i, (name, options) in zip(arch, choices.items(), strict=True)}

    def build_from(picks: dict[str, Any]) -> nn.Module:
        size = resized(input_shape, picks["resolution"])
        return MobileNet(input_shape, classes, size, picks["stem"], strides[0], active(picks), picks["halving"])

    def canonical(arch: Arch) -> Arch:
        keep = len(NAMED) + len(FIELDS) * len(active(decode(arch)))
        return arch[:keep] + (0,) * (len(arch) - keep)

    def format_text(arch: Arch) -> str:
        picks = decode(arch)
        parts = [f"r{picks['resolution']}", f"s{picks['stem']}"]
        if picks["halving"] != HALVINGS[0]:
            parts.append(picks["halving"])
        last = max((place for place, index in enumerate(arch) if index), default=0)
        written = max(len(active(picks)), (last - len(NAMED)) // len(FIELDS) + 1)
        for s in range(1, written + 1):
            kind, kernel, expand = picks[f"kind{s}"], picks[f"kernel{s}"], picks[f"expand{s}"]
            parts.append(f"{kind[0]}{kernel}e{expand}w{picks[f'width{s}']}x{picks[f'depth{s}']}")
        return "-".join(parts)

    def parse_text(text: str) -> Arch:
        parts = text.split("-")
        found: dict[str, Any] = {name: options[0] for name, options in choices.items()}
        values: dict[str, Any] = {"halving": parts.pop(2) if set(parts[2:3]) & set(HALVINGS) else HALVINGS[0]}
        if not 3 <= len(parts) <= 2 + stages:
            raise wrong(text, f"r.. and s.. and 1 to {stages} stages")
        for field, letter, part in zip(("resolution", "stem"), "rs", parts, strict=False):
            match = re.fullmatch(rf"{letter}([0-9]{{1,4}})", part)
            if match is None:
                raise wrong(text, f"{letter} and a number where '{part[:20]}' is")
            values[field] = int(match[1])
        for stage, part in enumerate(parts[2:], 1):
            match = re.fullmatch(r"([df])([0-9]{1,2})e([0-9]{1,2})w([0-9]{1,4})x([0-9]{1,2})", part)
            if match is None:
                first = (
                    f"{' or '.join(choices['halving'][1:])}, or " if stage == 1 and len(choices["halving"]) > 1 else ""
                )
                raise wrong(text, f"{first}a stage like f3e1w16x2 where '{part[:20]}' is")
            values[f"kind{stage}"] = "depthwise" if match[1] == "d" else "fused"
            for field, value in zip(("kernel", "expand", "width", "depth"), match.groups()[1:], strict=True):
                values[f"{field}{stage}"] = int(value)
        for name, value in values.items():
            if value not in choices[name]:
                raise wrong(text, f"{name} one of {', '.join(map(str, choices[name]))} where {value} is")
        found |= values
        return tuple(choices[name].index(found[name]) for name in names)

    def wrong(text: str, wanted: str) -> UserError:
        example = format_text((0,) * len(choices))
        return UserError(
            f"'{text[:120]}' is no architecture of space 'mobilenet': wanted {wanted}; type one like {example}"
        )

    def describe(arch: Arch) -> dict[str, Any]:
        picks = decode(arch)
        height, width = resized(input_shape, picks["resolution"])
        first = f"image resized to {width} x {height}; 3x3 convolution"
        rows: list[dict[str, Any]] = [
            {"name": "stem", "blocks": 1, "width": picks["stem"], "stride": strides[0], "text": first}
        ]
        for number, stage in enumerate(active(picks), 1):
            text = f"{stage['kind']}, kernel {stage['kernel']}, expansion {stage['expand']}"
            rows.append(
                {"name": f"stage{number}", "blocks": stage["depth"], "width": stage["width"], "stride": stage["stride"]}
                | {"text": text + ", halved by a pool" * (stage["stride"] > 1 and picks["halving"] == "pool")}
            )
        return {"kind": "stages", "stages": rows, "resolution": min(height, width)}

    return SearchSpace(
        name="mobilenet",
        input_shape=input_shape,
        classes=classes,
        choices=choices,
        build_from=build_from,
        canonical_of=canonical,
        format_of=format_text,
        parse_of=parse_text,
        describe=describe,
        kinds=("halving",),
        distinct=count_distinct(choices, stages),
    )


def typical(choices: dict[str, tuple[Any, ...]], strides: list[int]) -> Iterator[Arch]:
    """Networks at full resolution as a person would draw them, middling widths first; kernel 3 all over.

    Of every rank of width, first of plain residual blocks (fused, without expansion), two or three in each stage, one
    network that pools and one that is early; then late ones of one rank and of the next after the first stage, and
    inverted residual ones (depthwise, the largest expansion).
    """
    halves = sum(stride > 1 for stride in strides[1:])
    fused, inverted = ("fused", EXPANDS[0]), ("depthwise", EXPANDS[-1])
    ranks = sorted(range(len(choices["width1"])), key=lambda rank: abs(rank - 2.4))
    soon = [
        (rank, 0, halving, fused, [depth] * max(halves, 3))
        for depth, rank, halving in product((2, 3), ranks, ("pool", "early"))
    ]
    late = [
        (rank, step, HALVINGS[0], block, [1] + [depth] * last)
        for rank, depth, last, (block, step) in product(
            ranks, (2, 3), (len(strides) - 3, len(strides) - 2), ((fused, 0), (fused, 1), (inverted, 0))
        )
        if rank + step < len(ranks)
    ]
    for rank, step, halving, (kind, expand), depths in soon + late:
        if halving not in choices["halving"]:
            continue
        picks: dict[str, Any] = {"resolution": RESOLUTIONS[0], "halving": halving}
        room = choices["width1"][rank] / (1 if halving == HALVINGS[0] else 2)
        picks["stem"] = max(stem for stem in STEMS if stem <= max(room, STEMS[0]))
        for stage in range(1, len(strides)):
            blocks = depths[stage - 1] if stage <= len(depths) else 0
            width = choices[f"width{stage}"][rank + step * (stage > 1)]
            picks |= {f"kind{stage}": kind, f"kernel{stage}": KERNELS[0], f"expand{stage}": expand}
            picks |= {f"width{stage}": width, f"depth{stage}": blocks}
        yield tuple(choices[name].index(picks[name]) for name in choices)


def count_distinct(choices: dict[str, tuple[Any, ...]], stages: int) -> int:
    """How many networks differ: from the last stage on, one that ends here plus depths x options x what may follow."""
    follow = 1
    for stage in range(stages, 0, -1):
        options = math.prod(len(choices[f"{field}{stage}"]) for field in ("kind", "kernel", "expand", "width"))
        depths = choices[f"depth{stage}"]
        follow = sum(depth > 0 for depth in depths) * options * follow + (0 in depths)
    return math.prod(len(choices[name]) for name in NAMED) * follow


def plan_strides(input_shape: Shape) -> list[int]:
    """Strides of the stem and of each stage: three to five stages, until the shorter side is 4 to 7."""
    side = min(input_shape[1:])
    strides = [2 if side > 64 else 1]
    side = -(-side // strides[0])
    strides.append(2 if side > 32 else 1)
    side = -(-side // strides[1])
    while side >= 8 and len(strides) <= 5:
        strides.append(2)
        side = -(-side // 2)
    return strides + [1] * (4 - len(strides))


def halvings(strides: list[int]) -> tuple[str, ...]:
    """The ways to halve: all where the first stage could halve and does not, else the strides as they are."""
    return HALVINGS if strides[1] == 1 and 2 in strides[1:] else HALVINGS[:1]


def early(strides: list[int]) -> list[int]:
    """The same strides with all halvings a stage earlier, where the first stage has none."""
    return [strides[0], *strides[2:], 1] if strides[1] == 1 else strides


def resized(input_shape: Shape, per_cent: int) -> tuple[int, int]:
    """Height and width of an image at a resolution, rounded to whole pixels."""
    height, width = ((side * per_cent + 50) // 100 for side in input_shape[1:])
    return height, width


def resolutions(input_shape: Shape) -> tuple[int, ...]:
    """The resolutions that leave at least 16 pixels on the shorter side, and always the full one."""
    return tuple(r for r in RESOLUTIONS if r == 100 or min(resized(input_shape, r)) >= 16)


class Block(nn.Module):
    """An inverted residual block: maps (N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""

    def __init__(
        self, inputs: int, outputs: int, kind: str, kernel: int, expand: int, stride: int, halving: str = HALVINGS[0]
    ) -> None:
        super().__init__()
        inner = inputs * expand
        layers: list[nn.Module] = []
        if kind == "fused":
            outer = inner if expand > 1 else outputs
            layers += conv_bn(inputs, outer, kernel, stride, halving=halving)
        else:
            if expand > 1:
                layers += conv_bn(inputs, inner, 1, 1)
            layers += conv_bn(inner, inner, kernel, stride, inner, halving)
        if kind != "fused" or expand > 1:
            layers += conv_bn(inner, outputs, 1, 1)[:-1]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class MobileNet(nn.Module):
    """A network of the mobilenet space: maps (N, C, H, W) to logits (N, classes)."""

    def __init__(
        self,
        input_shape: Shape,
        classes: int,
        size: tuple[int, int],
        stem: int,
        stem_stride: int,
        stages: list[dict[str, Any]],
        halving: str,
    ) -> None:
        super().__init__()
        self.size = None if size == tuple(input_shape[1:]) else size
        self.stem = nn.Sequential(*conv_bn(input_shape[0], stem, 3, stem_stride))
        body, channels = [], stem
        for s in stages:
            blocks = []
            for place in range(s["depth"]):
                stride = 1 if place else s["stride"]
                blocks.append(Block(channels, s["width"], s["kind"], s["kernel"], s["expand"], stride, halving))
                channels = s["width"]
            body.append(nn.Sequential(*blocks))
        self.body = nn.Sequential(*body)
        self.last = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.size is not None:
            x = F.interpolate(x, size=self.size, mode="bilinear", align_corners=False)
        return self.classifier(self.pool(self.last(self.body(self.stem(x)))).flatten(1))


def conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1, halving: str = HALVINGS[0]
) -> list[nn.Module]:
    """Convolution without bias, BN, ReLU; a stride of two as a pool behind the convolution where `halving` says so."""
    pools = halving == "pool" and stride > 1
    conv = nn.Conv2d(
        inputs, outputs, kernel, stride=1 if pools else stride, padding=kernel // 2, groups=groups, bias=False
    )
    pool = [nn.MaxPool2d(stride, ceil_mode=True)] if pools else []
    return [conv, *pool, nn.BatchNorm2d(outputs), nn.ReLU()]
