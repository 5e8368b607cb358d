"""Recipes by name: how a network is trained fully."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from archscout.fit import Part, Recipe, recipe_for
from archscout.space import Shape


def darts(
    part: Part, shape: Shape, classes: int, *, mirrors: bool, balanced: bool, epochs: float | None = None
) -> Recipe:
    """The published evaluation of DARTS on CIFAR-10, for networks of the space darts; it takes 600 epochs.

    Use it to compare with published accuracies of cells: SGD without Nesterov's form, momentum 0.9, batches of 96,
    learning rate 0.025 falling along a cosine to 0, weight decay 3e-4 on all parameters, gradients cut at norm 5; a
    random crop after padding with zeros (an eighth of the side: 4 pixels of 32), a random flip where mirroring keeps
    the class, cutout of half the side (16 pixels of 32) filled with the mean of the data; an auxiliary head of weight
    0.4, and dropped paths whose rate rises from 0 to 0.2.

    Two things are finer than published: the learning rate and the rate of dropped paths change with each step instead
    of each epoch. The arguments are those of recipe_for; `part`, `classes` and `epochs` change nothing.

    Sources: Liu, Simonyan and Yang 2019, arXiv:1806.09055, and its code; cutout: DeVries and Taylor 2017,
    arXiv:1708.04552.
    """
    side = min(shape[1:])
    return Recipe(
        lr=0.025, momentum=0.9, weight_decay=3e-4, batch_size=96, label_smoothing=0.0, flip=mirrors, shift=side // 8,
        cutout=side // 2, balanced=balanced, warmup=0.0, clip=5.0, nesterov=False, decay_all=True, schedule="cosine",
        border="zero", fill="data", auxiliary=0.4, drop_path=0.2,
    )  # fmt: skip


def pdarts(
    part: Part, shape: Shape, classes: int, *, mirrors: bool, balanced: bool, epochs: float | None = None
) -> Recipe:
    """The published evaluation of P-DARTS on CIFAR-10, for networks of the space darts; it takes 600 epochs.

    As `darts`, but for batches of 128 and dropped paths whose rate rises from 0 to 0.3. Source: Chen, Xie, Wu and Tian
    2019, arXiv:1904.12760.
    """
    usual = darts(part, shape, classes, mirrors=mirrors, balanced=balanced, epochs=epochs)
    return replace(usual, batch_size=128, drop_path=0.3)


def nasbench201(
    part: Part, shape: Shape, classes: int, *, mirrors: bool, balanced: bool, epochs: float | None = None
) -> Recipe:
    """The published training of NAS-Bench-201, for networks of the space nasbench201; it takes 200 epochs.

    Use it to compare with published accuracies of cells: SGD with Nesterov's momentum of 0.9, batches of 256, learning
    rate 0.1 falling along a cosine to 0, weight decay 5e-4 on all parameters, gradients as they are; a random crop
    after padding with zeros (an eighth of the side: 4 pixels of 32), and a random flip where mirroring keeps the class.

    The learning rate changes with each step instead of each epoch. The arguments are those of recipe_for; `part`,
    `classes` and `epochs` change nothing. Source: Dong and Yang 2020, arXiv:2001.00326.
    """
    return Recipe(
        lr=0.1, momentum=0.9, weight_decay=5e-4, batch_size=256, label_smoothing=0.0, flip=mirrors,
        shift=min(shape[1:]) // 8, balanced=balanced, warmup=0.0, clip=1e9, nesterov=True, decay_all=True,
        schedule="cosine", border="zero",
    )  # fmt: skip


def tas(
    part: Part, shape: Shape, classes: int, *, mirrors: bool, balanced: bool, epochs: float | None = None
) -> Recipe:
    """The published final training of TAS on CIFAR, for networks of the space resnet_shape; it takes 305 epochs.

    Use it with the unpruned network as the teacher (`--teacher RUN`), whose answers are .9 of the loss at temperature
    4, to compare with published accuracies of shapes: SGD with Nesterov's momentum of 0.9, batches of 256, learning
    rate 0.1 rising for 5 epochs and then falling along a cosine to 0, weight decay 5e-4 on all parameters; a random
    crop after padding with zeros (an eighth of the side: 4 pixels of 32), and a random flip where mirroring keeps the
    class.

    The learning rate changes with each step instead of each epoch. The arguments are those of recipe_for; `part`,
    `classes` and `epochs` change nothing. Source: Dong and Yang 2019, arXiv:1905.09717, and its code.
    """
    usual = nasbench201(part, shape, classes, mirrors=mirrors, balanced=balanced, epochs=epochs)
    return replace(usual, warmup=5 / EPOCHS["tas"])


RECIPES: dict[str, Callable[..., Recipe]] = {
    "auto": recipe_for, "darts": darts, "pdarts": pdarts, "nasbench201": nasbench201, "tas": tas,
}  # fmt: skip
#: of a training that names neither epochs nor a budget
EPOCHS = {"darts": 600.0, "pdarts": 600.0, "nasbench201": 200.0, "tas": 305.0}
