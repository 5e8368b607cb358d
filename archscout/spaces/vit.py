"""Vision transformers whose layers choose their own heads and MLP width."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from archscout.errors import UserError
from archscout.space import Arch, SearchSpace, Shape

WIDTHS = (64, 96, 128, 192)
DEPTHS = (2, 4, 6, 8, 10, 12)
HEADS = (2, 4, 6)
RATIOS = (1, 2, 4)
HEAD = 32  # channels of one head
TOKENS = 200  # the most patches an image is cut into


def vit(input_shape: Shape, classes: int) -> SearchSpace:
    """Vision transformers of 2 to 12 layers with 64 to 192 channels: about 0.05 to 5.5 million parameters.

    Use it for images large enough, or many enough, that attention pays; on small data convolutions learn faster, and
    the plain baseline beside the finalists shows whether they do. The network cuts the image into patches of `patch` x
    `patch` pixels (zeros fill the last row and column), maps each to `width` channels, adds a learned position, and
    passes the tokens through `depth` layers, a LayerNorm, the mean over all tokens and a linear layer. There is no
    class token: the mean is as good and leaves a plain map of tokens. A layer is x + attention(LN(x)), then
    x + MLP(LN(x)) with GELU, each layer with decisions of its own:

    heads: 2, 4 or 6 heads of 32 channels each, whatever the width.  ratio: the MLP is 1, 2 or 4 times the width.

    Decisions of layers beyond the depth are inactive. The smaller patch is the smallest power of two that gives at most
    200 tokens (1 for 8 x 8 pixels, 4 for 32 x 32, 16 for 224 x 224); the other is twice as large, four times cheaper,
    and offered where it leaves at least 16 tokens.

    Text: p4-w128-d2-h4r2-h2r1 is patch 4, width 128 and two layers, one of 4 heads and MLP ratio 2, one of 2 and 1.

    Sources: Chen, Peng, Fu and Ling 2021, "AutoFormer", arXiv 2107.00651; Dosovitskiy et al. 2020, arXiv 2010.11929.
    """
    choices: dict[str, tuple[Any, ...]] = {"patch": patches(input_shape), "width": WIDTHS, "depth": DEPTHS}
    for layer in range(1, max(DEPTHS) + 1):
        choices[f"heads{layer}"] = HEADS
        choices[f"ratio{layer}"] = RATIOS
    return space_of(input_shape, classes, choices)


def space_of(input_shape: Shape, classes: int, choices: dict[str, tuple[Any, ...]]) -> SearchSpace:
    """The space of some choices: patch, width and depth, then heads and ratio of each layer up to the largest depth."""
    names = list(choices)

    def decode(arch: Arch) -> dict[str, Any]:
        return {name: options[i] for i, (name, options) in zip(arch, choices.items(), strict=True)}

    def layers(picks: dict[str, Any], count: int | None = None) -> list[tuple[int, int]]:
        """Heads and ratio of the first `count` layers, by default of the active ones."""
        return [(picks[f"heads{n}"], picks[f"ratio{n}"]) for n in range(1, (count or picks["depth"]) + 1)]

    def build_from(picks: dict[str, Any]) -> nn.Module:
        return VisionTransformer(input_shape, classes, picks["patch"], picks["width"], layers(picks))

    def canonical(arch: Arch) -> Arch:
        keep = 3 + 2 * choices["depth"][arch[2]]
        return arch[:keep] + (0,) * (len(arch) - keep)

    def format_text(arch: Arch) -> str:
        picks = decode(arch)
        last = max((place for place, index in enumerate(arch) if index), default=0)
        written = layers(picks, max(picks["depth"], (last - 1) // 2))
        parts = [f"p{picks['patch']}", f"w{picks['width']}", f"d{picks['depth']}"]
        return "-".join([*parts, *(f"h{heads}r{ratio}" for heads, ratio in written)])

    def parse_text(text: str) -> Arch:
        values: dict[str, Any] = {}
        head, *rest = re.split(r"-(?=h)", text)
        match = re.fullmatch(r"p([0-9]{1,4})-w([0-9]{1,4})-d([0-9]{1,2})", head)
        if match is None:
            raise wrong(text, f"patch, width and depth where '{head[:20]}' is")
        values |= dict(zip(("patch", "width", "depth"), map(int, match.groups()), strict=True))
        for layer, part in enumerate(rest, 1):
            match = re.fullmatch(r"h([0-9]{1,2})r([0-9]{1,2})", part)
            if match is None:
                raise wrong(text, f"a layer like h4r2 where '{part[:20]}' is")
            values |= {f"heads{layer}": int(match[1]), f"ratio{layer}": int(match[2])}
        if not values["depth"] <= len(rest) <= max(choices["depth"]):
            raise wrong(text, f"{values['depth']} to {max(choices['depth'])} layers where {len(rest)} are")
        for name, value in values.items():
            if value not in choices[name]:
                raise wrong(text, f"{name} one of {', '.join(map(str, choices[name]))} where {value} is")
        return tuple(choices[name].index(values[name]) if name in values else 0 for name in names)

    def wrong(text: str, wanted: str) -> UserError:
        example = format_text((0,) * len(choices))
        return UserError(f"'{text[:120]}' is no architecture of space 'vit': wanted {wanted}; type one like {example}")

    def describe(arch: Arch) -> dict[str, Any]:
        picks = decode(arch)
        patch, width = picks["patch"], picks["width"]
        output = [width, *grid(input_shape, patch)]
        rows = [{"name": "patches", "blocks": 1, "text": f"{patch}x{patch} pixels each, position"}]
        first = 1
        for number, (heads, ratio) in enumerate(active := layers(picks), 1):
            if number == len(active) or active[number] != (heads, ratio):
                name = f"layer {first}" if first == number else f"layers {first}-{number}"
                rows.append({"name": name, "blocks": number + 1 - first, "text": f"{heads} heads, MLP ratio {ratio}"})
                first = number + 1
        return {"kind": "stages", "stages": [row | {"width": width, "output": output} for row in rows]}

    return SearchSpace(
        name="vit",
        input_shape=input_shape,
        classes=classes,
        choices=choices,
        build_from=build_from,
        canonical_of=canonical,
        format_of=format_text,
        parse_of=parse_text,
        describe=describe,
        distinct=count_distinct(choices),
    )


def count_distinct(choices: dict[str, tuple[Any, ...]]) -> int:
    """How many networks differ: for each depth the options of patch, width and the layers up to it."""
    counts = {name: len(options) for name, options in choices.items()}
    per_depth = (
        math.prod(counts[f"heads{n}"] * counts[f"ratio{n}"] for n in range(1, d + 1)) for d in choices["depth"]
    )
    return counts["patch"] * counts["width"] * sum(per_depth)


def grid(input_shape: Shape, patch: int) -> tuple[int, int]:
    """Rows and columns of patches."""
    _, height, width = input_shape
    return -(-height // patch), -(-width // patch)


def patches(input_shape: Shape) -> tuple[int, ...]:
    """The sides of a patch to choose from: the smallest power of two within TOKENS, and its double if 16 are left."""

    def tokens(patch: int) -> int:
        rows, columns = grid(input_shape, patch)
        return rows * columns

    patch = 1
    while tokens(patch) > TOKENS:
        patch *= 2
    return (patch, 2 * patch) if tokens(2 * patch) >= 16 else (patch,)


class Attention(nn.Module):
    """Self-attention of `heads` heads: maps (N, tokens, width) to the same shape."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, heads * HEAD)
        self.key = nn.Linear(width, heads * HEAD)
        self.value = nn.Linear(width, heads * HEAD)
        self.out = nn.Linear(heads * HEAD, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, tokens, _ = x.shape
        parts = (layer(x).view(n, tokens, self.heads, HEAD) for layer in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in parts))
        return self.out(mixed.transpose(1, 2).reshape(n, tokens, self.heads * HEAD))


class Layer(nn.Module):
    """Attention and MLP, each added to its input: maps (N, tokens, width) to the same shape."""

    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width * ratio), nn.GELU(), nn.Linear(width * ratio, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """A network of the vit space: maps (N, C, H, W) to logits (N, classes)."""

    def __init__(self, input_shape: Shape, classes: int, patch: int, width: int, layers: list[tuple[int, int]]) -> None:
        super().__init__()
        rows, columns = grid(input_shape, patch)
        missing = columns * patch - input_shape[2], rows * patch - input_shape[1]
        self.pad = nn.ZeroPad2d((0, missing[0], 0, missing[1])) if any(missing) else nn.Identity()
        self.embed = nn.Conv2d(input_shape[0], width, patch, stride=patch)
        # Standard normal as nn.Embedding: with the usual 0.02 short trainings by SGD hardly learn where a patch is.
        self.position = nn.Parameter(torch.randn(1, rows * columns, width))
        self.layers = nn.ModuleList(Layer(width, heads, ratio) for heads, ratio in layers)
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(self.pad(x)).flatten(2).transpose(1, 2) + self.position
        for layer in self.layers:
            x = layer(x)
        return self.classifier(self.norm(x).mean(1))
