"""Knowledge distillation: a trained network's answers as targets for a smaller one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archscout.errors import UserError
from archscout.fit import mode_set
from archscout.spaces.resnet_shape import Block, Network, names_of
from archscout.weights import read_weights


@dataclass(frozen=True)
class Teacher:
    """A network whose answers are learned beside the labels; give it to fit.

    The loss of an image: (1 - share) its loss by the label + share T² KL(softmax(teacher / T), softmax(own / T)).

    network:      images as the trained network gets them (normalised, augmented) -> logits over the same classes.
    share, temperature:  0.9 and 4 in TAS. Costs a forward of the teacher on every batch.
    mean, std:    per channel on the 0..255 scale, if the teacher wants images normalised otherwise than the student.
    Source: Hinton, Vinyals and Dean 2015, arXiv:1503.02531.
    """

    network: nn.Module
    share: float = 0.9
    temperature: float = 4.0
    mean: Any = None
    std: Any = None

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or not self.temperature > 0:
            raise UserError(
                f"a teacher has a share from 0 to 1 and a temperature above 0, got {self.share} and {self.temperature}"
            )

    @torch.no_grad()
    def answers(self, inputs: Tensor) -> Tensor:
        with mode_set(self.network, False):
            return self.network(inputs)

    def losses(self, own: Tensor, answers: Tensor, by_label: Tensor) -> Tensor:
        """The loss of each image (n,): own and answers are logits (n, classes), by_label (n,)."""
        if own.shape != answers.shape:
            raise UserError(f"the teacher answers {answers.shape[1]} classes, the network {own.shape[1]}")
        return (1 - self.share) * by_label + self.share * distance(own, answers, self.temperature)


def distance(own: Tensor, answers: Tensor, temperature: float) -> Tensor:
    """T² KL(softmax(answers / T), softmax(own / T)) of each image (n,); T² keeps its gradient's size whatever T is."""
    wanted, found = (logits.float() / temperature for logits in (answers, own))
    return temperature**2 * F.kl_div(
        found.log_softmax(1), wanted.log_softmax(1), reduction="none", log_target=True
    ).sum(1)


class Subsampled(Block):
    """A block whose input, where the block halves, is every second pixel between two lots of channels of zeros."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_b(self.b(F.relu(self.norm_a(self.a(x)))))
        if self.stride > 1:
            more = (self.outputs - x.shape[1]) // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, more, self.outputs - x.shape[1] - more))
        return F.relu(y + x)


def cifar_network(depth: int) -> nn.Module:
    """The CIFAR ResNet of a depth of 6 n + 2 with weights drawn anew, for 3x32x32 images and 10 classes."""
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise UserError(f"a CIFAR ResNet has 6 n + 2 layers, like 20 or 56; got {depth}")
    picks: dict[str, Any] = {f"depth{s}": blocks for s in (1, 2, 3)} | dict.fromkeys(names_of(blocks), 1.0)
    return Network(picks, (3, 32, 32), 10, 16, block=Subsampled)


def resnet_cifar(path: str | Path, depth: int) -> nn.Module:
    """A published CIFAR ResNet of depth 20, 32, 44, 56 or 110 from a file of its weights; zero-filled shortcuts.

    Images are normalised with mean (.485, .456, .406) and std (.229, .224, .225), times 255.
    Raises UserError for a file that is absent or of another network.
    """
    network = cifar_network(depth)
    blocks = (depth - 2) // 6
    names = {"conv1": "stem", "bn1": "norm", "linear": "classifier", "fc": "classifier"}
    parts = {"conv1": "a", "bn1": "norm_a", "conv2": "b", "bn2": "norm_b"}
    renamed = {}
    for key, value in read_weights(path).items():
        words = key.split(".")
        if words[0] in names:
            renamed[".".join([names[words[0]], *words[1:]])] = value
        elif words[0].startswith("layer") and len(words) > 3 and words[2] in parts:
            place = (int(words[0][5:]) - 1) * blocks + int(words[1])
            renamed[".".join(["blocks", str(place), parts[words[2]], *words[3:]])] = value
    try:
        network.load_state_dict(renamed)
    except RuntimeError as error:
        raise UserError(f"'{path}' holds no CIFAR ResNet-{depth}: {str(error).splitlines()[-1].strip()}") from None
    return network.eval()
