"""P-DARTS: DARTS in stages, each with a deeper supernet and fewer options."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from archscout.differentiable.bilevel import Settings, Story, train_supernet
from archscout.differentiable.choice import chosen, relax, softmax
from archscout.differentiable.darts import Found, with_more
from archscout.errors import UserError
from archscout.fit import Part
from archscout.seeds import generator_of
from archscout.selection.selector import Selector
from archscout.space import SearchSpace


@dataclass(frozen=True)
class Schedule:
    """The stages of a search: the cells, options per decision and dropout rate of each supernet, see pdarts."""

    depths: tuple[int, ...]
    options: tuple[int, ...]
    dropout: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.depths) == len(self.options) == len(self.dropout) > 0:
            raise UserError(
                f"pdarts wants as many depths as options and dropout rates, got {self.depths}, {self.options}, "
                f"{self.dropout}"
            )


#: The published search on CIFAR-10: of each stage 25 epochs, batches of 96, a rate that falls to 0, 6e-4 on the alphas;
#: what is not named here is as in DARTS. The images are cropped and mirrored there, see `flip` and `shift`.
PUBLISHED = Settings(epochs=25.0, batch_size=96, lr_end=0.0, arch_lr=6e-4)
SCHEDULES = {  # by the name of the space; that of darts is the published one
    "darts": Schedule((5, 11, 17), (8, 5, 3), (0.0, 0.4, 0.7)),
    "nasbench201": Schedule((1, 2, 3), (5, 3, 2), (0.0, 0.4, 0.7)),
}


def pdarts(
    space: SearchSpace,
    weight_data: Part,
    arch_data: Part,
    *,
    seed: int = 0,
    mean: Any,
    std: Any,
    depths: Sequence[int] | None = None,
    options: Sequence[int] | None = None,
    dropout: Sequence[float] | None = None,
    most_skips: int | None = 2,
    wait: float = 0.4,
    make_selector: Callable[[Part, int], Selector | None] | None = None,
    make_arch_selector: Callable[[Part, int], Selector | None] | None = None,
    penalty: Callable[[Tensor], Tensor] | None = None,
    supernet: dict[str, Any] | None = None,
    settings: Settings | None = None,
    threads: int = 1,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    audit_every: float | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    ends: Callable[[], bool] = lambda: False,
    **more: Any,
) -> Found:
    """Searches a space by progressive DARTS: three supernets, growing in depth, their options cut after each.

    depths:     cells (per stage of the network on nasbench201, in all on darts) of each supernet.
    options:    how many options a decision has in each stage; those of the largest weight stay.
    dropout:    rate at which skip connections are dropped, per stage; it decays to zero along the stage. What is left
                out of these three is as in SCHEDULES; published for darts: (5, 11, 17), (8, 5, 3), (0, 0.4, 0.7).
    most_skips: an architecture with more skips (on darts: in its normal cell) loses that of the smallest weight and is
                derived anew, and so on; None for no limit.
    wait:       share of each stage's epochs in which only weights are trained.
    make_selector, make_arch_selector:  (part, stage) -> Selector of that stage, or None for all images.
    supernet:   options of the space's supernets, such as channels; see DARTS.
    checkpoint: file beside which each stage keeps one of its own; a search that was killed goes on from the last.
    ends:       asked at each entry of the history; true ends the stage that is under way, and so each later one.
    settings:   of each stage, default PUBLISHED; `epochs` are those of one stage. **more are single fields of it.

    Three things are not as in the authors' code: dropout leaves out the whole map that a skip gives of an image, not
    single elements; its rate falls in one line over the stage, theirs in one line while only weights train and then
    anew, from the full rate, by a fifth an epoch; the gradients of the alphas are not clipped.

    Costs the sum over stages; a deeper supernet pays for fewer options. Source: Chen, Xie, Wu and Tian 2019,
    arXiv:1904.12760.
    """
    schedule = with_given(space, depths, options, dropout)
    settings = with_more(settings or PUBLISHED, more)
    settings = replace(settings, wait=wait * settings.epochs)
    allowed: list[tuple[int, ...]] | None = None
    whole = Story()
    stages = zip(schedule.depths, schedule.options, schedule.dropout, strict=True)
    for stage, (depth, count, rate) in enumerate(stages):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed + 1000 * stage)
            made = {**(supernet or {}), "cells": depth, "allowed": allowed}
            network = relax(space, "pdarts", **made)
        if stage == 0:
            widest = max(len(ops) for ops in network.allowed)
            if count < widest:
                raise UserError(f"the first stage of pdarts has all {widest} options, got options={schedule.options}")
        began = time.monotonic()
        selector = make_selector(weight_data, stage) if make_selector else None
        arch_selector = make_arch_selector(arch_data, stage) if make_arch_selector else None
        making = time.monotonic() - began
        story = train_supernet(
            network, weight_data, arch_data, settings, seed=seed + stage, mean=mean, std=std, selector=selector,
            arch_selector=arch_selector,
            forward=skip_dropout(network, rate, seed + stage, settings, len(weight_data)), penalty=penalty,
            method={"name": "pdarts", "space": space.name, "dropout": rate, **made}, threads=threads, device=device,
            checkpoint=of_stage(checkpoint, stage), audit_every=audit_every, on_progress=on_progress, ends=ends,
        )  # fmt: skip
        shift = whole.seconds + making
        for entry in story.history:
            whole.history.append({**entry, "stage": stage, "seconds": entry["seconds"] + shift})
        whole.alphas += story.alphas
        whole.audits += [{**audit, "stage": stage} for audit in story.audits]
        if whole.collapsed is None and story.collapsed is not None:
            whole.collapsed = {**story.collapsed, "stage": stage}
        whole.stopped = story.stopped
        whole.seconds += making + story.seconds
        whole.step += story.step
        with torch.no_grad():
            choice = softmax(network.logits())
        if stage + 1 < len(schedule.depths):
            allowed = strongest(choice, network.allowed, schedule.options[stage + 1])
    choice = cap_skips(network, choice, most_skips)
    return Found(network.derive(choice), network, whole, choice.cpu(), made, most_skips)


def of_stage(checkpoint: str | Path | None, stage: int) -> Path | None:
    """The file of one stage's checkpoint."""
    if checkpoint is None:
        return None
    path = Path(checkpoint)
    return path.with_name(f"{path.stem}-stage{stage}{path.suffix}")


def with_given(
    space: SearchSpace, depths: Sequence[int] | None, options: Sequence[int] | None, dropout: Sequence[float] | None
) -> Schedule:
    """The schedule of a space with what is given in its place. Raises UserError for a space that has none otherwise."""
    given = {"depths": depths, "options": options, "dropout": dropout}
    if space.name not in SCHEDULES and None in given.values():
        raise UserError(
            f"pdarts has no schedule for space '{space.name}', only for {', '.join(SCHEDULES)}; "
            "give depths, options and dropout"
        )
    usual = SCHEDULES.get(space.name)
    return Schedule(**{name: tuple(getattr(usual, name) if v is None else v) for name, v in given.items()})


def strongest(choice: Tensor, allowed: Sequence[Sequence[int]], count: int) -> list[tuple[int, ...]]:
    """Per decision its `count` allowed options of the largest weight, or all it has."""
    kept = []
    for row, ops in zip(choice.tolist(), allowed, strict=True):
        kept.append(tuple(sorted(sorted(ops, key=lambda op: (-row[op], op))[:count])))
    return kept


def cap_skips(network: Any, choice: Tensor, most: int | None) -> Tensor:
    """The choice, where the derived architecture has too many skips without those of the smallest weight.

    One skip goes at a time, and the architecture is derived anew: another edge may take its place. Where an edge has
    nothing but a skip, it stays.
    """
    choice = choice.clone()
    while most is not None and network.skips(arch := network.derive(choice)) > most:
        spots = chosen(network, arch, choice.shape[1]).nonzero().tolist()
        skips = [(float(choice[d, op]), d, op) for d, op in spots if network.is_skip(d, op)]
        left = [skip for skip in skips if skip[0] > 0]
        if not left:
            break
        _, decision, option = min(left)
        choice[decision, option] = 0.0
    return choice


def skip_dropout(
    network: Any, rate: float, seed: int, settings: Settings, images: int
) -> Callable[[Any, Tensor, Tensor, bool, int], Tensor]:
    """A forward that drops the skips of each image with a rate that falls to zero along the training."""
    steps = max(1, round(settings.epochs * max(1, round(images / settings.batch_size))))

    def forward(net: Any, images: Tensor, choice: Tensor, training: bool, step: int) -> Tensor:
        now = rate * max(0.0, 1 - step / steps)
        if not training or now <= 0:
            return net(images, choice)
        draw = generator_of(seed, 5, step)
        shape = (network.cells_in_all, choice.shape[0], len(images))
        keep = (torch.rand(shape, generator=draw) >= now).to(images) / (1 - now)
        return net(images, choice, list(keep))

    return forward
