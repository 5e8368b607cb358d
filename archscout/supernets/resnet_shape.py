"""The supernet of resnet_shape: the widest and deepest network, read at several widths and depths at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archscout.space import Arch, Shape
from archscout.spaces.resnet_shape import SHARES, Network, absent, added, full_width, names_of


class MixedConv(nn.Module):
    """A convolution whose number of output channels is a choice: maps (N, C, H, W) to (N, widest chosen, H', W').

    For each width that the choice gives weight, the first so many channels pass a batch normalisation of their own; the
    results are brought to the widest of them by averaging neighbouring channels (channel-wise interpolation), weighted
    and added. The statistics of a batch are those of its channels whatever the width: they are taken once, and scales,
    averages and weights are one matrix among channels. Channels above the widest are not computed.
    """

    def __init__(self, inputs: int, full: int, stride: int) -> None:
        super().__init__()
        self.widths = [max(1, round(share * full)) for share in SHARES]
        self.conv = nn.Conv2d(inputs, full, 3, stride, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in self.widths)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """weights (8,); x may have fewer channels than the convolution takes: the others are zero."""
        used = [i for i in range(len(SHARES)) if float(weights[i].detach()) > 0]
        most = max(self.widths[i] for i in used)
        kernel = self.conv.weight[:most, : x.shape[1]]
        y = F.conv2d(x, kernel, stride=self.conv.stride, padding=self.conv.padding)
        if self.training:
            y = self.normalised(y, used)
        matrix, shift = y.new_zeros(()), y.new_zeros(())
        for i in used:
            norm: Any = self.norms[i]
            scale, offset = norm.weight, norm.bias
            if not self.training:
                scale = scale * (norm.running_var + norm.eps).rsqrt()
                offset = offset - scale * norm.running_mean
            means = weights[i] * neighbours(self.widths[i], most).to(scale)
            matrix = matrix + F.pad(means * scale, (0, most - self.widths[i]))
            shift = shift + means @ offset
        return F.linear(y.permute(0, 2, 3, 1), matrix, shift).permute(0, 3, 1, 2)

    def normalised(self, y: Tensor, used: Sequence[int]) -> Tensor:
        """y with each channel brought to mean 0 and variance 1; the running statistics of the used widths follow."""
        mean, variance = y.new_zeros(y.shape[1]).float(), y.new_ones(y.shape[1]).float()
        first: nn.BatchNorm2d = self.norms[0]  # type: ignore[assignment]
        y = F.batch_norm(y, mean, variance, training=True, momentum=1.0, eps=first.eps)  # 1.0: both become the batch's
        for i in used:
            norm: Any = self.norms[i]
            norm.running_mean.lerp_(mean[: self.widths[i]], norm.momentum)
            norm.running_var.lerp_(variance[: self.widths[i]], norm.momentum)
            norm.num_batches_tracked.add_(1)
        return y


@lru_cache(maxsize=1024)
def neighbours(channels: int, wanted: int) -> Tensor:
    """The matrix (wanted, channels) of adaptive average pooling along channels."""
    return F.adaptive_avg_pool1d(torch.eye(channels)[None], wanted)[0].T.contiguous()


def interpolated(x: Tensor, wanted: int) -> Tensor:
    """Maps (N, C, H, W) brought to so many channels by averaging neighbouring ones."""
    if x.shape[1] == wanted:
        return x
    return F.linear(x.permute(0, 2, 3, 1), neighbours(x.shape[1], wanted).to(x)).permute(0, 3, 1, 2)


class SuperNetwork(nn.Module):
    """`alphas` has a row per decision: three depths (options 1 to depth), then the widths in order of execution.

    The maps behind the depths of a stage that the choice gives weight are brought to the widest of them as widths are,
    weighted and added.
    """

    def __init__(self, input_shape: Shape, classes: int, depth: int, width: int) -> None:
        super().__init__()
        self.arguments = (input_shape, classes, depth, width)
        self.names = names_of(depth)
        options = max(len(SHARES), depth)
        layers: dict[str, MixedConv] = {"stem": MixedConv(input_shape[0], width, 1)}
        channels = width
        for s in (1, 2, 3):
            for b in range(1, depth + 1):
                full = full_width(f"{s}.{b}.a", width)
                layers[f"{s}_{b}_a"] = MixedConv(channels, full, 2 if s > 1 and b == 1 else 1)
                layers[f"{s}_{b}_b"] = MixedConv(full, full, 1)
                channels = full
        self.layers = nn.ModuleDict(layers)
        self.classifier = nn.Linear(channels, classes)
        barred = torch.zeros(3 + len(self.names), options)
        barred[:3, depth:] = -torch.inf
        barred[3:, len(SHARES) :] = -torch.inf
        self.register_buffer("barred", barred, persistent=False)
        self.alphas = nn.Parameter(1e-3 * torch.randn(3 + len(self.names), options))

    def logits(self) -> Tensor:
        """The alphas, -inf for options that a decision does not have."""
        return self.alphas + self.get_buffer("barred")

    def forward(self, images: Tensor, choice: Tensor) -> Tensor:
        depth = self.arguments[2]
        rows = {name: choice[3 + place] for place, name in enumerate(self.names)}
        x = F.relu(self.layers["stem"](images, rows["stem"]))
        for s in (1, 2, 3):
            ends: list[Tensor] = []  # of the depths that the choice gives weight, times that weight
            deepest = max(d for d in range(depth) if float(choice[s - 1, d].detach()) > 0)
            for b in range(1, deepest + 2):
                stride = 2 if s > 1 and b == 1 else 1
                y = F.relu(self.layers[f"{s}_{b}_a"](x, rows[f"{s}.{b}.a"]))
                y = self.layers[f"{s}_{b}_b"](y, rows[f"{s}.{b}.b"])
                x = F.relu(added(x, y, stride))
                weight = choice[s - 1, b - 1]
                if float(weight.detach()) > 0:
                    ends.append(weight * x)
            most = max(end.shape[1] for end in ends)
            x = torch.stack([interpolated(end, most) for end in ends]).sum(0) if len(ends) > 1 else ends[0]
        return F.linear(x.mean((2, 3)), self.classifier.weight[:, : x.shape[1]], self.classifier.bias)

    def derive(self, choice: Tensor) -> Arch:
        """The largest weight of each decision; widths of blocks that are not there are zero."""
        depth = self.arguments[2]
        picked = choice.detach().argmax(1).tolist()
        blocks = {str(s): picked[s - 1] + 1 for s in (1, 2, 3)}
        widths = (0 if absent(name, blocks) else picked[3 + place] for place, name in enumerate(self.names))
        assert all(d < depth for d in picked[:3])
        return (*picked[:3], *widths)

    def expected_macs(self, choice: Tensor) -> Tensor:
        """Multiply-adds of an image at the expected widths, each block counted with the chance that it is there.

        Exact for a one-hot choice.
        """
        (inputs, height, side), classes, depth, _ = self.arguments
        wide = {}
        for place, name in enumerate(self.names):
            layer: MixedConv = self.layers[name.replace(".", "_")]  # type: ignore[assignment]
            wide[name] = (choice[3 + place, : len(SHARES)] * torch.tensor(layer.widths).to(choice)).sum()
        channels = wide["stem"]
        total = 9 * inputs * channels * height * side
        for s in (1, 2, 3):
            ending: Tensor | None = None
            for b in range(1, depth + 1):
                if s > 1 and b == 1:
                    height, side = -(-height // 2), -(-side // 2)
                there = choice[s - 1, b - 1 : depth].sum()
                inner, outputs = wide[f"{s}.{b}.a"], wide[f"{s}.{b}.b"]
                total = total + there * 9 * (channels * inner + inner * outputs) * height * side
                channels = torch.maximum(channels, outputs)
                last = choice[s - 1, b - 1] * channels
                ending = last if ending is None else ending + last
            assert ending is not None
            channels = ending
        return total + channels * classes

    @torch.no_grad()
    def discrete(self, arch: Arch) -> nn.Module:
        """The network of an architecture with the first channels of these weights."""
        input_shape, classes, _, width = self.arguments
        picks = {f"depth{s}": arch[s - 1] + 1 for s in (1, 2, 3)}
        picks |= {name: SHARES[arch[3 + place]] for place, name in enumerate(self.names)}  # type: ignore[misc]
        network = Network(picks, input_shape, classes, width)
        option = {name: arch[3 + place] for place, name in enumerate(self.names)}

        def fill(name: str, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
            ours: MixedConv = self.layers[name.replace(".", "_")]  # type: ignore[assignment]
            outputs, inputs = conv.weight.shape[:2]
            conv.weight.copy_(ours.conv.weight[:outputs, :inputs])
            norm.load_state_dict(ours.norms[option[name]].state_dict())

        fill("stem", network.stem, network.norm)
        blocks: Iterator[Any] = iter(network.blocks)
        for s in (1, 2, 3):
            for b in range(1, arch[s - 1] + 2):
                block = next(blocks)
                fill(f"{s}.{b}.a", block.a, block.norm_a)
                fill(f"{s}.{b}.b", block.b, block.norm_b)
        network.classifier.weight.copy_(self.classifier.weight[:, : network.classifier.in_features])
        network.classifier.bias.copy_(self.classifier.bias)
        return network
