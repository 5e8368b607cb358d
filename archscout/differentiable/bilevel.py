"""The loop of DARTS and its kin: weights learn from one part of the data, the architecture from another."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.func import functional_call

from archscout.augment import augment
from archscout.checkpoint import mending, read_checkpoint, write_checkpoint
from archscout.differentiable.choice import chosen, entropy, softmax, weights_of
from archscout.errors import UserError
from archscout.fit import Diverged, Part, mode_set, normaliser, threads_set
from archscout.seeds import generator_of, number_of
from archscout.selection.drift import audit_selection
from archscout.selection.full import Full
from archscout.selection.selector import Selector, batches_of_round

log = logging.getLogger("archscout")
#: Of the edges of a derived cell, the share of skips from which on the search is said to collapse. The cells that were
#: published as good have two or three on eight edges (DARTS and P-DARTS, arXiv:1806.09055, arXiv:1904.12760); searches
#: that failed end with skips on most edges (Zela et al. 2020, arXiv:1909.09656; Liang et al. 2019, arXiv:1909.06035).
COLLAPSED = 0.5
SETTLED = 20  # architecture steps before it is looked for: the first ones tell how the alphas were drawn


@dataclass(frozen=True)
class Settings:
    """How a supernet is searched; the defaults are those of DARTS (Liu et al. 2019, arXiv:1806.09055).

    epochs:        passes over as many images as the weight data have, whatever the selector chooses.
    batch_size:    images of a weight step, and of an architecture step.
    lr, lr_end, momentum, weight_decay, clip:  of SGD on the weights; the rate falls along a cosine.
    arch_lr, arch_betas, arch_decay:  of Adam on the alphas.
    order:         1: the architecture gradient at the current weights. 2: through one virtual step of the weights,
                   exact. "difference": that by finite differences, as published, cheaper in memory.
    beta:          largest weight of the mean log-sum-exp of the alphas in the architecture loss; it grows linearly from
                   0 and keeps strong operations from running away (Ye et al. 2022, arXiv:2203.01665).
    wait:          epochs before the first architecture step.
    every:         weight steps per architecture step.
    stop_skips:    ends the search when the derived cell has this many skips (Liang et al. 2019, arXiv:1909.06035), from
                   the SETTLED-th architecture step on.
    patience:      ends it when the derived architecture has been the same for this many epochs.
                   Both look only at what comes after `wait`.
    flip, shift:   augmentation of the weight images, see augment.augment.
    report:        epochs between two entries of the history.
    precision:     "32-true", or "bf16-mixed": the supernet computes in bfloat16 where that is safe (torch.autocast);
                   it takes many times as long on processors without bfloat16. The differences of order "difference" are
                   in float32 all the same: they are smaller than what bfloat16 tells apart.
    """

    epochs: float = 50.0
    batch_size: int = 64
    lr: float = 0.025
    lr_end: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 3e-4
    clip: float = 5.0
    arch_lr: float = 3e-4
    arch_betas: tuple[float, float] = (0.5, 0.999)
    arch_decay: float = 1e-3
    order: Any = 1
    beta: float = 0.0
    wait: float = 0.0
    every: int = 1
    stop_skips: int | None = None
    patience: float | None = None
    flip: bool = False
    shift: int = 0
    report: float = 1.0
    precision: str = "32-true"

    def __post_init__(self) -> None:
        wanted = {
            "epochs above 0": self.epochs > 0,
            "batch_size of at least 2": self.batch_size >= 2,
            "lr above 0": self.lr > 0,
            "lr_end of at least 0": self.lr_end >= 0,
            "weight_decay and arch_decay of at least 0": min(self.weight_decay, self.arch_decay) >= 0,
            "momentum from 0 to below 1": 0 <= self.momentum < 1,
            "clip and arch_lr above 0": min(self.clip, self.arch_lr) > 0,
            "order 1, 2 or 'difference'": self.order in (1, 2, "difference"),
            "beta of at least 0": self.beta >= 0,
            "wait of at least 0": self.wait >= 0,
            "every of at least 1": self.every >= 1,
            "stop_skips of at least 0": self.stop_skips is None or self.stop_skips >= 0,
            "patience above 0": self.patience is None or self.patience > 0,
            "shift of at least 0": self.shift >= 0,
            "report above 0": self.report > 0,
            "precision 32-true or bf16-mixed": self.precision in ("32-true", "bf16-mixed"),
        }
        if broken := [text for text, kept in wanted.items() if not kept]:
            raise UserError(f"a differentiable search wants {', '.join(broken)}; got {asdict(self)}")


SUMS = ("loss", "arch_loss", "hits", "images", "arch_steps")


@dataclass
class Story:
    """What happened: `history`, entries {epoch, step, seconds, loss, arch_loss, accuracy, entropy, skips, arch, round,
    share}, the last two of the weight images that the selector chose; `alphas`, the choice after each of them;
    `seconds`; `stopped`, why it ended early; `audits` of a selection, each with the `epoch` in which it was made;
    `collapsed`, {epoch, skips, edges} when skips first took half of the derived cell, see COLLAPSED, None if they did
    not. `sums`, `since` and `audited` are kept for the entries to come.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    alphas: list[list[list[float]]] = field(default_factory=list)
    seconds: float = 0.0
    step: int = 0
    stopped: str | None = None
    audits: list[dict[str, Any]] = field(default_factory=list)
    collapsed: dict[str, Any] | None = None
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SUMS, 0.0))
    since: float = 0.0
    audited: int = 0


Chooser = Callable[[Tensor, torch.Generator, float], Tensor]  # logits, randomness, progress -> choice
Weigh = Callable[[Tensor], Tensor]  # losses of a batch -> the loss to step on


def plain_softmax(logits: Tensor, generator: torch.Generator, progress: float) -> Tensor:
    """The choice of DARTS: nothing random."""
    return softmax(logits)


def train_supernet(
    supernet: Any,
    weight_part: Part,
    arch_part: Part,
    settings: Settings,
    *,
    seed: int,
    mean: Any,
    std: Any,
    selector: Selector | None = None,
    arch_selector: Selector | None = None,
    chooser: Chooser = plain_softmax,
    merits: Callable[[Tensor], Tensor] = softmax,
    forward: Callable[..., Tensor] | None = None,
    penalty: Callable[[Tensor], Tensor] | None = None,
    method: Mapping[str, Any] | None = None,
    threads: int = 1,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    every_seconds: float = 60.0,
    audit_every: float | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    ends: Callable[[], bool] = lambda: False,
) -> Story:
    """Trains a supernet in place: a step of the alphas on architecture data, then one of the weights, and so on.

    weight_part, arch_part:  disjoint parts of the training images. selector, arch_selector: what of them is used, in
    rounds; default all. Their cost is counted in the seconds of the story where it arises.
    chooser:   logits -> choice. merits: logits -> what speaks for each option: of what is derived, along the way too,
               the largest counts. forward: (supernet, images, choice, training, step) -> logits, for a method that
               changes it.
    penalty:   something added to the architecture loss, such as an expected latency, from the softmax of the alphas,
               whatever `chooser` draws of it.
    method:    what makes this search another than one of the same settings: plain values, kept in the checkpoint.
    ends:      asked at each entry of the history; true ends the search.

    In several processes (torch.distributed, see several.py) each takes its share of every batch, gradients are
    averaged, and the first one decides, reports and saves: all have the same supernet at all times. BN sees its own
    share; so does the virtual step of order 2.

    The same arguments give the same alphas on the CPU, also if it is killed and resumed from `checkpoint`. Raises
    Diverged for a loss that is not finite, UserError for parts that share an image and for a checkpoint of another
    search: of other settings, seed, images, selectors, `method` or supernet.
    """
    disjoint(weight_part, arch_part)
    selector = selector or Full(weight_part, seed=seed)
    arch_selector = arch_selector or Full(arch_part, seed=seed + 1)
    steps_per_epoch = max(1, round(len(weight_part) / settings.batch_size))
    steps = max(1, round(settings.epochs * steps_per_epoch))
    entry_every = max(1, round(settings.report * steps_per_epoch))
    selector.expect(min(round(settings.epochs * len(weight_part)), steps * selector.record.size))
    arch_steps = len(range(math.ceil(settings.wait * steps_per_epoch), steps, settings.every))
    arch_selector.expect(arch_steps * min(settings.batch_size, arch_selector.record.size))
    place = torch.device(device)
    rank, ranks = placed()
    own = (rank,) if ranks > 1 else ()  # what the randomness of a process depends on besides seed and step
    supernet.to(place)
    if place.type == "cpu":
        supernet.to(memory_format=torch.channels_last)
    exact = forward or (lambda net, images, choice, training, step: net(images, choice))
    run = in_precision(exact, settings, place)
    weights = weights_of(supernet)
    optimizer = torch.optim.SGD(weights, settings.lr, settings.momentum, weight_decay=settings.weight_decay)
    architect = torch.optim.Adam(
        [supernet.alphas], settings.arch_lr, settings.arch_betas, weight_decay=settings.arch_decay
    )
    normalise = normaliser(mean, std, place)
    story = Story()
    feeds = [Feed(selector, weight_part, settings.batch_size), Feed(arch_selector, arch_part, settings.batch_size)]
    identity = {
        "settings": repr(settings), "seed": seed, "images": [marked(weight_part), marked(arch_part)],
        "scale": [np.asarray(one, float).ravel().tolist() for one in (mean, std)], "penalty": signature_of(penalty),
        "selectors": [one.signature() for one in (selector, arch_selector)],
        "method": {name: repr(value) for name, value in (method or {}).items()},
        "alphas": list(supernet.alphas.shape),
    }  # fmt: skip
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and path.exists():
        story = restore(path, identity, supernet, optimizer, architect, feeds)
    began = time.monotonic() - story.seconds
    saved = time.monotonic()

    def keep() -> None:
        if path is not None and rank == 0:
            story.seconds = time.monotonic() - began
            save(path, identity, story, supernet, optimizer, architect, feeds)

    def images_of(feed: Feed, step: int, plain: bool) -> tuple[Tensor, Tensor, Tensor]:
        positions, images, labels = feed.next_batch()
        if not plain:
            images = augment(images, generator_of(seed, 0, step, *own), flip=settings.flip, shift=settings.shift)
        return positions, normalise(images), labels.to(place)

    with mode_set(supernet, True), threads_set(threads), torch.random.fork_rng(devices=[]):
        while story.step < steps and story.stopped is None:
            step, progress = story.step, story.step / steps
            torch.manual_seed(number_of(seed, 1, step, *own))
            rate = settings.lr_end + (settings.lr - settings.lr_end) * 0.5 * (1 + math.cos(math.pi * progress))
            for group in optimizer.param_groups:
                group["lr"] = rate
            positions, images, labels = images_of(feeds[0], step, plain=False)

            if step >= settings.wait * steps_per_epoch and step % settings.every == 0:
                architect.zero_grad(set_to_none=True)
                arch_positions, arch_images, arch_labels = images_of(feeds[1], step, plain=True)
                losses, answers, _ = architecture_step(
                    supernet, run, settings, (images, labels, partial(selector.weigh, positions)),
                    (arch_images, arch_labels, partial(arch_selector.weigh, arch_positions)), optimizer,
                    draw=generator_of(seed, 2, step), chooser=chooser, penalty=penalty, step=step, progress=progress,
                    rate=rate, exact=exact,
                )  # fmt: skip
                outcomes = of_all(arch_positions, losses, answers, arch_labels)
                arch_selector.note(*outcomes)
                average_gradients([supernet.alphas])
                architect.step()
                value = float(outcomes[1].mean())
                story.sums["arch_loss"] += value
                story.sums["arch_steps"] += 1
                if not math.isfinite(value):
                    raise Diverged(step + 1, value)

            with torch.no_grad():
                choice = chooser(supernet.logits(), generator_of(seed, 3, step), progress)
            logits = run(supernet, images, choice, True, step)
            losses = nn.functional.cross_entropy(logits.float(), labels, reduction="none")
            loss = selector.weigh(positions, losses)
            outcomes = of_all(positions, losses.detach(), logits.detach(), labels)
            selector.note(*outcomes)
            value = float(selector.weigh(*outcomes[:2]))
            if not math.isfinite(value):
                raise Diverged(step + 1, value)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            average_gradients(weights)
            nn.utils.clip_grad_norm_(weights, settings.clip, foreach=True)
            optimizer.step()
            story.sums["loss"] += value * len(outcomes[0])
            story.sums["hits"] += int((outcomes[2].argmax(1) == outcomes[3]).sum())
            story.sums["images"] += len(outcomes[0])

            story.step += 1
            if story.step % entry_every == 0 or story.step == steps:
                with torch.no_grad():
                    choice = softmax(supernet.logits())
                    arch = supernet.derive(merits(supernet.logits()))
                done = story.step / steps_per_epoch
                learned = done > settings.wait
                if not learned or not story.history or tuple(story.history[-1]["arch"]) != arch:
                    story.since = max(done, settings.wait)
                story.alphas.append(choice.cpu().tolist())
                skips = supernet.skips(arch) if hasattr(supernet, "skips") else 0
                sums = story.sums
                story.history.append(
                    {
                        "epoch": done, "step": story.step, "seconds": time.monotonic() - began,
                        "loss": sums["loss"] / sums["images"], "accuracy": sums["hits"] / sums["images"],
                        "arch_loss": sums["arch_loss"] / max(1, sums["arch_steps"]), "entropy": entropy(choice),
                        "skips": skips, "arch": list(arch), "round": selector.record.round,
                        "share": len(selector.record.subset) / len(weight_part),
                    }
                )  # fmt: skip
                story.sums = dict.fromkeys(SUMS, 0.0)
                edges = getattr(supernet, "edges", 0)
                settled = len(range(math.ceil(settings.wait * steps_per_epoch), story.step, settings.every)) >= SETTLED
                if story.collapsed is None and edges and settled and skips >= COLLAPSED * edges:
                    story.collapsed = {"epoch": done, "skips": skips, "edges": edges}
                    if rank == 0:
                        log.warning(
                            "the search collapses into skip connections: %d of %d edges in epoch %.3g", skips, edges,
                            done,
                        )  # fmt: skip
                if on_progress is not None and rank == 0:
                    on_progress(story.history[-1])
                if settled and settings.stop_skips is not None and skips >= settings.stop_skips:
                    story.stopped = f"{skips} skips"
                elif learned and settings.patience is not None and done - story.since >= settings.patience:
                    story.stopped = f"the same architecture for {done - story.since:g} epochs"
                elif mean_of_all(float(rank == 0 and ends()), place) > 0:
                    story.stopped = "told to"
                if audit_every and selector.record.spent - story.audited >= audit_every * len(weight_part):
                    story.audited = selector.record.spent
                    mixed = chooser is plain_softmax  # else its weights never met the mixture of all options
                    seen = choice if mixed else chosen(supernet, arch, choice.shape[1]).to(place)
                    right = _right(supernet, weight_part, normalise, seen, run, story.step)
                    found = audit_selection(selector, right)
                    story.audits.append({**found.to_json(), "epoch": done})
                    if found.drifted and rank == 0:
                        log.warning("%s", found)
            if path is not None and time.monotonic() - saved >= every_seconds:
                keep()
                saved = time.monotonic()
    story.seconds = time.monotonic() - began
    keep()
    return story


def marked(part: Part) -> list[Any]:
    """How many images a part has, and of one of Data which they are."""
    data, indices = getattr(part, "data", None), getattr(part, "indices", None)
    if indices is None:
        return [len(part)]
    rows = np.ascontiguousarray(indices, dtype="<i8").tobytes()
    return [len(part), hashlib.sha256(rows).hexdigest(), getattr(data, "fingerprint", None)]


def signature_of(penalty: Callable[[Tensor], Tensor] | None) -> Any:
    """What tells a penalty from others in a checkpoint: its `signature()`, or only that there is one."""
    signed: Any = penalty
    return signed.signature() if hasattr(signed, "signature") else penalty is not None


def in_precision(run: Callable[..., Tensor], settings: Settings, place: torch.device) -> Callable[..., Tensor]:
    """The forward of a supernet in the precision of the settings."""
    if settings.precision == "32-true":
        return run

    def lower(*args: Any) -> Tensor:
        with torch.autocast(place.type, torch.bfloat16):
            return run(*args)

    return lower


def placed() -> tuple[int, int]:
    """The number of this process, and how many there are."""
    together = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if together else (0, 1)


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replaces gradients by their mean over the processes; one message for all."""
    ranks = placed()[1]
    grads = [p.grad for p in parameters if p.grad is not None]
    if ranks == 1 or not grads:
        return
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    dist.all_reduce(flat)
    for grad, part in zip(grads, flat.div_(ranks).split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def mean_of_all(value: float, place: torch.device) -> float:
    """The mean of a number over the processes."""
    ranks = placed()[1]
    if ranks == 1:
        return value
    box = torch.tensor([value], dtype=torch.float64 if place.type == "cpu" else torch.float32, device=place)
    dist.all_reduce(box)
    return float(box) / ranks


def of_first(arch: Sequence[int]) -> tuple[int, ...]:
    """The architecture of the first process, for all: what ends in a comparison of floats may differ between GPUs."""
    if placed()[1] == 1:
        return tuple(arch)
    box = [tuple(arch)]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def of_all(positions: Tensor, losses: Tensor, answers: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """The outcomes of a batch, joined with those of the other processes: positions, losses, logits, labels, in one
    message of float64, which holds them all exactly.
    """
    ranks = placed()[1]
    if ranks == 1:
        return positions, losses, answers, labels
    columns = [positions.to(losses.device)[:, None], losses[:, None], labels[:, None], answers]
    table = torch.cat([column.double() for column in columns], 1)
    boxes = [torch.empty_like(table) for _ in range(ranks)]
    dist.all_gather(boxes, table)
    whole = torch.cat(boxes)
    return whole[:, 0].long(), whole[:, 1].float(), whole[:, 3:].float(), whole[:, 2].long()


class _Called:
    """A supernet that answers with other weights."""

    def __init__(self, supernet: nn.Module, parameters: Mapping[str, Tensor]) -> None:
        self.supernet, self.parameters = supernet, parameters

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return functional_call(self.supernet, dict(self.parameters), args, kwargs)


def architecture_step(
    supernet: Any,
    run: Callable[..., Tensor],
    settings: Settings,
    weight_batch: tuple[Tensor, Tensor, Weigh],
    arch_batch: tuple[Tensor, Tensor, Weigh],
    optimizer: torch.optim.SGD,
    *,
    draw: torch.Generator,
    chooser: Chooser,
    penalty: Callable[[Tensor], Tensor] | None,
    step: int,
    progress: float,
    rate: float,
    exact: Callable[..., Tensor],
) -> tuple[Tensor, Tensor, float]:
    """The gradient of one architecture step, see architecture_gradient; batches are (images, labels, weigh), where
    `weigh` makes one loss of those of the images, as the selector that chose them wants it. exact: `run` in float32.
    """
    state = draw.get_state()
    of_weights = exact if settings.order == "difference" else run

    def choose() -> Tensor:
        draw.set_state(state)  # the same sample wherever the choice of this step is made
        return chooser(supernet.logits(), draw, progress)

    def arch_loss(choice: Tensor, parameters: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        answers = run(_Called(supernet, parameters), arch_batch[0], choice, True, step)
        losses = nn.functional.cross_entropy(answers.float(), arch_batch[1], reduction="none")
        return arch_batch[2](losses), losses, answers

    def weight_loss(choice: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        answers = of_weights(_Called(supernet, parameters), weight_batch[0], choice, True, step)
        return weight_batch[2](nn.functional.cross_entropy(answers.float(), weight_batch[1], reduction="none"))

    def extra() -> Tensor:
        logits = supernet.logits()
        added = settings.beta * progress * torch.logsumexp(logits, -1).mean()
        return added + (penalty(softmax(logits)) if penalty is not None else 0.0)

    return architecture_gradient(supernet, choose, arch_loss, weight_loss, extra, optimizer, settings, rate)


def architecture_gradient(
    supernet: Any,
    choose: Callable[[], Tensor],
    arch_loss: Callable[[Tensor, Mapping[str, Tensor]], tuple[Tensor, Tensor, Tensor]],
    weight_loss: Callable[[Tensor, Mapping[str, Tensor]], Tensor],
    extra: Callable[[], Tensor],
    optimizer: torch.optim.SGD,
    settings: Settings,
    rate: float,
) -> tuple[Tensor, Tensor, float]:
    """Puts the gradient of the architecture loss by the alphas into `alphas.grad`.

    With w' = w - rate (momentum buffer term + dL_train/dw + decay w), the virtual step of the weights, which is that of
    SGD but for the clipping of gradients:

        order 1:      dL_val(w, a)/da
        order 2:      dL_val(w', a)/da + (dw'/da)^T dL_val(w', a)/dw', by differentiating through the step
        "difference": the second term as -rate (dL_train(w+, a)/da - dL_train(w-, a)/da) / (2 eps),
                      w+- = w +- eps dL_val/dw', eps = .01 / |dL_val/dw'|

    Returns the losses (b,), the answers (b, classes) of the architecture images, and their mean loss.
    """
    alphas = supernet.alphas
    names = [name for name, _ in supernet.named_parameters() if name != "alphas"]
    current = {name: p for name, p in supernet.named_parameters() if name != "alphas"}
    if settings.order == 1:
        choice = choose()
        value, losses, answers = arch_loss(choice, {name: p.detach() for name, p in current.items()})
        (value + extra()).backward(inputs=[alphas])
        return losses.detach(), answers.detach(), float(value.detach())

    def virtual(gradients: Any) -> dict[str, Tensor]:
        moved = {}
        for name, gradient in zip(names, gradients, strict=True):
            p = current[name]
            if gradient is None:  # not drawn, so that SGD leaves it where it is
                moved[name] = p.detach()
                continue
            buffer = optimizer.state.get(p, {}).get("momentum_buffer") if p in optimizer.state else None
            push = gradient + settings.weight_decay * p.detach()
            if buffer is not None:
                push = push + settings.momentum * buffer
            moved[name] = p.detach() - rate * push
        return moved

    if settings.order == 2:
        choice = choose()
        leaves = {name: p.detach().requires_grad_(True) for name, p in current.items()}
        first = weight_loss(choice, leaves)
        gradients = torch.autograd.grad(first, [leaves[name] for name in names], create_graph=True, allow_unused=True)
        value, losses, answers = arch_loss(choice, virtual(gradients))
        (value + extra()).backward(inputs=[alphas])
        return losses.detach(), answers.detach(), float(value.detach())

    with torch.no_grad():
        fixed = choose()
    leaves = {name: p.detach().requires_grad_(True) for name, p in current.items()}
    gradients = torch.autograd.grad(weight_loss(fixed, leaves), [leaves[name] for name in names], allow_unused=True)
    moved = {name: p.detach().requires_grad_(True) for name, p in virtual(gradients).items()}
    choice = choose()
    value, losses, answers = arch_loss(choice, moved)
    direct, *steps = torch.autograd.grad(
        value + extra(), [alphas, *(moved[name] for name in names)], materialize_grads=True, allow_unused=True
    )
    norm = math.sqrt(sum(float((v.double() ** 2).sum()) for v in steps))
    eps = 0.01 / max(norm, 1e-12)
    sides = []
    for sign in (1.0, -1.0):
        shifted = {name: current[name].detach() + sign * eps * v for name, v in zip(names, steps, strict=True)}
        sides.append(torch.autograd.grad(weight_loss(choose(), shifted), alphas)[0])
    alphas.grad = direct - rate * (sides[0] - sides[1]) / (2 * eps)
    return losses.detach(), answers.detach(), float(value.detach())


class Feed:
    """Batches of a selector's rounds, one after another; in several processes each has its share of a batch."""

    def __init__(self, selector: Selector, part: Part, batch_size: int) -> None:
        self.selector, self.part = selector, part
        self.rate = max(1, round(len(part) / batch_size)) / len(part)  # batches per image
        self.batch = self.batches = self.drawn = 0

    def next_batch(self) -> tuple[Tensor, Tensor, Tensor]:
        if self.batch == self.batches:
            self.selector.next_round()
            self.batch, self.batches = 0, batches_of_round(self.selector.record, self.rate, self.drawn)
        order = self.selector.record.subset
        low, high = (len(order) * (self.batch + i) // self.batches for i in (0, 1))
        self.batch, self.drawn = self.batch + 1, self.drawn + 1
        rank, ranks = placed()
        positions = order[low : high - (high - low) % ranks][rank::ranks]
        _, images, labels = self.part.batch(positions.numpy())
        return positions, images, labels


def disjoint(one: Part, other: Part) -> None:
    """Raises UserError if two parts of the same Data share an image."""
    first, second = getattr(one, "indices", None), getattr(other, "indices", None)
    if first is None or second is None or getattr(one, "data", None) is not getattr(other, "data", None):
        return
    if len(shared := np.intersect1d(first, second)):
        raise UserError(
            f"{len(shared)} images are both in the weight data and in the architecture data; give disjoint parts"
        )


def _right(
    supernet: Any, part: Part, normalise: Any, choice: Tensor, run: Any, step: int
) -> Callable[[Tensor], Tensor]:
    """Positions -> whether the supernet answers them right, with the statistics of each batch of about 256.

    The batches are drawn anew, the same from the same step: those of neighbours would often hold one class only, and
    their statistics would take away what tells it from others.
    """

    @torch.no_grad()
    def right(positions: Tensor) -> Tensor:
        order = torch.randperm(len(positions), generator=generator_of(step, 6))
        found = torch.zeros(len(positions), dtype=torch.bool)
        for rows in order.tensor_split(max(1, round(len(order) / 256))):
            _, images, labels = part.batch(positions[rows].numpy())
            found[rows] = run(supernet, normalise(images), choice, False, step).argmax(1).cpu() == labels
        return found

    return right


def save(
    path: Path, identity: dict[str, Any], story: Story, supernet: nn.Module, optimizer: Any, architect: Any, feeds: Any
) -> None:
    """Writes a checkpoint."""
    content = {
        "identity": identity, "story": asdict(story), "supernet": supernet.state_dict(),
        "optimizer": optimizer.state_dict(), "architect": architect.state_dict(),
        "feeds": [
            {"batch": f.batch, "batches": f.batches, "drawn": f.drawn, "selector": f.selector.state_dict()}
            for f in feeds
        ],
    }  # fmt: skip
    write_checkpoint(path, content)


def restore(
    path: Path, identity: dict[str, Any], supernet: nn.Module, optimizer: Any, architect: Any, feeds: Any
) -> Story:
    """Puts a checkpoint back; raises UserError if it is of another search or unreadable."""
    content = read_checkpoint(path, identity)
    try:
        supernet.load_state_dict(content["supernet"])
    except RuntimeError as error:
        raise UserError(f"checkpoint '{path}' is of another supernet ({str(error)[:200]}); {mending(path)}") from None
    optimizer.load_state_dict(content["optimizer"])
    architect.load_state_dict(content["architect"])
    for feed, kept in zip(feeds, content["feeds"], strict=True):
        feed.batch, feed.batches, feed.drawn = kept["batch"], kept["batches"], kept["drawn"]
        feed.selector.load_state_dict(kept["selector"])
    return Story(**content["story"])
