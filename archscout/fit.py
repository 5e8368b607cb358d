"""Training and evaluation: one plain loop, exact to the bit after a resume, and arrays of what a network answers."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from archscout.augment import BORDERS, augment
from archscout.checkpoint import mending, read_checkpoint, write_checkpoint
from archscout.drop_path import DropPath
from archscout.errors import UserError, leaving, taking, unknown
from archscout.seeds import generator_of, number_of
from archscout.selection.drift import audit_selection
from archscout.selection.full import Full
from archscout.selection.selector import Selector, batches_of_round
from archscout.space import Shape

log = logging.getLogger("archscout")
METRICS = ("accuracy", "balanced_accuracy")


class Part(Protocol):
    """What training needs of a part of the data; see data.Part."""

    @property
    def labels(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def batch(self, positions: Any) -> tuple[Any, Tensor, Tensor]: ...


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: plain values, a log entry that Recipe(**values) reads back.

    lr:               peak learning rate of SGD.
    momentum:         of SGD. nesterov: whether in Nesterov's form.
    weight_decay:     on weights of two and more dimensions. decay_all: on normalisation and biases too.
    batch_size:       images per step; the batches of a round differ by at most one image.
    label_smoothing:  share of the target spread evenly over the classes.
    flip, shift, cutout, border:  augmentation, see augment.augment; shift and cutout in pixels, 0 for none.
    fill:             what cutout fills with, the mean of the "image" or of the "data" (zero after normalisation).
    balanced:         whether log class priors are added to the training logits, which aims at balanced accuracy
                      (Menon et al. 2021, arXiv:2007.07314); the priors of the images that a selector chose.
    warmup:           share of the steps in which the learning rate rises linearly; then it falls to zero.
    schedule:         how it falls: "linear", or "cosine" (Loshchilov and Hutter 2017, arXiv:1608.03983).
    clip:             largest norm of the gradient.
    ema:              decay of an average of the weights over steps, which the network has in the end; None for none.
    precision:        a Lightning Fabric precision: "32-true", "bf16-mixed", ...
    auxiliary:        weight of the loss of an auxiliary head, which the network gets for the training (Szegedy et al.
                      2015, arXiv:1409.4842); for networks with `make_auxiliary`, those of darts. 0 for none.
    drop_path:        rate of dropped paths at the end, to which it rises linearly from 0 (see drop_path.DropPath); for
                      networks that have such modules, those of darts.
    """

    lr: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 128
    label_smoothing: float = 0.1
    flip: bool = False
    shift: int = 0
    cutout: int = 0
    balanced: bool = False
    warmup: float = 0.25
    clip: float = 5.0
    ema: float | None = None
    precision: str = "32-true"
    nesterov: bool = True
    decay_all: bool = False
    schedule: str = "linear"
    border: str = "reflect"
    fill: str = "image"
    auxiliary: float = 0.0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        wanted = {
            "lr above 0": self.lr > 0,
            "batch_size of at least 1": self.batch_size >= 1,
            "label_smoothing in [0, 1)": 0 <= self.label_smoothing < 1,
            "warmup in [0, 1)": 0 <= self.warmup < 1,
            "clip above 0": self.clip > 0,
            "ema None or in (0, 1)": self.ema is None or 0 < self.ema < 1,
            "schedule linear or cosine": self.schedule in ("linear", "cosine"),
            f"border {' or '.join(BORDERS)}": self.border in BORDERS,
            "fill image or data": self.fill in ("image", "data"),
            "auxiliary of at least 0": self.auxiliary >= 0,
            "drop_path in [0, 1)": 0 <= self.drop_path < 1,
        }
        if broken := [text for text, kept in wanted.items() if not kept]:
            raise UserError(f"a recipe wants {', '.join(broken)}; got {asdict(self)}")


class Diverged(RuntimeError):
    """Training met a loss that is not finite; `step` (from 1) is where."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(step, loss)
        self.step, self.loss = step, loss

    def __str__(self) -> str:
        return f"training diverged: the loss is {self.loss} at step {self.step}"


@dataclass(frozen=True)
class Fit:
    """What a training did.

    history:  one {epoch, step, loss, accuracy, lr} per epoch or per tenth of the run, whichever is shorter; loss and
              accuracy are means over the training batches since the entry before.
    seconds:  wall-clock time, all resumed stretches together.
    steps, epochs:  how many were made.
    changes:  the shortenings that `allow` asked for, {done, epochs} each (epochs done then, epochs in all from then
              on); `replay(changes)` repeats them.
    audits:   what `audit_every` asked for, a selection.drift.Drift as plain values each.
    """

    history: list[dict[str, float]]
    seconds: float
    steps: int
    epochs: float
    changes: list[dict[str, float]] = field(default_factory=list)
    audits: list[dict[str, Any]] = field(default_factory=list)


def recipe_for(
    part: Part, shape: Shape, classes: int, *, mirrors: bool, balanced: bool, epochs: float | None = None
) -> Recipe:
    """Good settings for small images and short trainings, on a CPU above all.

    part: the training images. shape: (channels, height, width). mirrors: whether a left-right flip keeps the class.
    balanced: whether balanced accuracy is the metric. epochs: how long the training will be; default: about 10.

    Batches are 16 to 128 images: as large as leaves 1,500 steps, which small data need to learn at all, and at most a
    hundredth of the images, since a network that sees few images often does better by the noise of small batches. The
    learning rate is 0.3 in batches of 128 and falls with the power 3/4 of their size (decision 012).
    Images are moved only where each is seen often enough: not at all below 6 epochs, by a sixteenth of the side below
    30, then by an eighth up to 4 pixels, since a defect at the border is lost in a longer move. Labels are smoothed by
    0.1, but not under `balanced`, where an even share would outweigh the rarest classes. Decision 011 has the trials.
    """
    epochs = epochs or 10.0
    side = min(shape[1], shape[2])
    largest = min(len(part) * epochs / 1500, len(part) / 100)
    batch = max(16, min(128, 2 ** round(math.log2(max(1.0, largest)))))
    return Recipe(
        lr=0.3 * (batch / 128) ** 0.75,
        batch_size=batch,
        label_smoothing=0.0 if balanced else 0.1,
        flip=mirrors,
        shift=0 if epochs < 6 else side // 16 if epochs < 30 else max(side // 16, min(side // 8, 4)),
        balanced=balanced,
    )


def learning_rate(recipe: Recipe, position: float) -> float:
    """The learning rate at a position in [0, 1] of the training: up linearly over `warmup`, then down to zero.

    Down linearly, or as lr (1 + cos(pi r)) / 2 with r from 0 to 1 behind the warm-up.
    """
    if position < recipe.warmup:
        return recipe.lr * position / recipe.warmup
    if recipe.schedule == "cosine":
        return 0.5 * recipe.lr * (1 - math.cos(math.pi * (1 - position) / (1 - recipe.warmup)))
    return recipe.lr * (1 - position) / (1 - recipe.warmup)


def log_priors(labels: Any, classes: int, weights: Any = None) -> Tensor:
    """The log shares (classes,) of the classes in `labels`, by weight; a class without images counts as one image."""
    counts = np.maximum(np.bincount(np.asarray(labels, dtype=np.int64), weights=weights, minlength=classes), 1)
    return torch.from_numpy(np.log(counts / counts.sum())).float()


def training_losses(logits: Tensor, labels: Tensor, recipe: Recipe, priors: Tensor | None) -> Tensor:
    """The loss of each image (n,): cross-entropy with smoothed labels, of logits plus log priors where given."""
    if priors is not None:
        logits = logits + priors
    return F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing, reduction="none")


def replay(changes: Sequence[Mapping[str, float]]) -> Callable[[float], float | None]:
    """An `allow` that repeats the `changes` of an earlier Fit, so that the same weights come out."""
    recorded = {change["done"]: change["epochs"] for change in changes}
    return lambda done: recorded.get(done)


@contextmanager
def threads_set(threads: int) -> Iterator[None]:
    """Sets the number of torch's threads inside and puts it back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def mode_set(model: nn.Module, training: bool) -> Iterator[None]:
    """Puts a model in training or evaluation mode inside, and every module back into its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def fit(
    model: nn.Module,
    part: Part,
    *,
    recipe: Recipe,
    epochs: float,
    seed: int,
    mean: Any,
    std: Any,
    selector: Selector | None = None,
    threads: int = 1,
    device: str = "cpu",
    devices: int = 1,
    checkpoint: str | Path | None = None,
    every: float = 30.0,
    on_progress: Callable[[int, int, float, float], None] | None = None,
    allow: Callable[[float], float | None] | None = None,
    audit_every: float | None = None,
    teacher: Any = None,
) -> Fit:
    """Trains `model` in place on the images of `part`.

    The same arguments give the same weights on the CPU, also if the training is killed and resumed from `checkpoint`:
    the order of a round comes from (seed, round), augmentation and dropout from (seed, step). torch's global random
    state and thread number are as before afterwards. One step costs one forward and one backward pass of a batch.

    epochs:       passes over as many images as the part has, whatever the selector chooses; 0.3 is fine.
    mean, std:    per channel, on the 0..255 scale.
    selector:     what chooses the images of each round; default: all.
    threads:      CPU threads of torch, per process.
    device, devices:  "cpu" or "cuda", and how many; several are processes that share each batch (Lightning Fabric).
    checkpoint:   file that is written every `every` seconds and at the end, and gone on from if it exists.
    on_progress:  called after each step with (step, steps, loss, accuracy of this batch).
    allow:        called after each step with the epochs done; may return a smaller number of epochs in all, and the
                  learning rate then falls over what is left, from where it is.
    audit_every:  epochs between audits of what the selector leaves out, which can widen its rounds (see
                  selection.drift); each costs a forward pass of up to 3,000 images. None for no audits.
    teacher:      a distill.Teacher whose answers are learned beside the labels.

    Raises Diverged for a loss that is not finite; UserError if the checkpoint is of another training or unreadable.
    """
    if len(part) == 0:
        raise UserError("no images to train on: the part is empty")
    if not epochs > 0:
        raise UserError(f"epochs is above 0, got {epochs}")
    selector = selector or Full(part, seed=seed)
    job: dict[str, Any] = {
        "recipe": recipe, "epochs": epochs, "seed": seed, "mean": mean, "std": std, "selector": selector,
        "threads": threads, "checkpoint": None if checkpoint is None else Path(checkpoint), "every": every,
        "on_progress": on_progress, "allow": allow, "audit_every": audit_every, "teacher": teacher,
    }  # fmt: skip
    if device == "cpu" and devices == 1 and recipe.precision in ("32-true", "bf16-mixed"):
        return _train(None, model, part, **job)
    return _fit_fabric(model, part, device, devices, job)


def _fit_fabric(model: nn.Module, part: Part, device: str, devices: int, job: dict[str, Any]) -> Fit:
    """The same training under Lightning Fabric: accelerators, mixed precision, several processes."""
    from lightning_fabric import Fabric

    kind, _, number = device.partition(":")
    strategy = "ddp_spawn" if devices > 1 else "auto"
    which: Any = [int(number)] if number else devices
    fabric = Fabric(accelerator=kind, devices=which, strategy=strategy, precision=job["recipe"].precision)
    if devices == 1:
        return _train(fabric, model, part, **job)
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.pt"
        with taking(answer.with_suffix(".told")):
            fabric.launch(partial(_train_spawned, model, part, job, answer))
        values, weights, state = torch.load(answer, weights_only=True, map_location="cpu")
    model.load_state_dict(weights)
    job["selector"].load_state_dict(state)
    return Fit(**values)


def _train_spawned(model: nn.Module, part: Part, job: dict[str, Any], answer: Path, fabric: Any) -> None:
    """One process of several; rank 0 leaves what it found in the file `answer`.

    Tensors sent to a process share their memory with the sender, so each process works on copies. A value returned
    would travel through a pipe that the launcher reads only after the process has ended: more than the 64 kB that
    a pipe holds would wait for ever.
    """
    model, selector = deepcopy(model), deepcopy(job["selector"])
    with leaving(answer.with_suffix(".told")):
        fitted = _train(fabric, model, part, **{**job, "selector": selector})
    if fabric.global_rank == 0:
        torch.save((asdict(fitted), model.state_dict(), selector.state_dict()), answer)
    fabric.barrier()  # a process that ended with the group still open can abort in the threads that serve it
    torch.distributed.destroy_process_group()


@contextmanager
def parts_of_training(model: nn.Module, recipe: Recipe, seed: int) -> Iterator[list[DropPath]]:
    """What a recipe adds to a network for its training: an auxiliary head inside, gone afterwards; its dropped paths.

    The head is drawn from the seed. Raises UserError where the network has no place for what the recipe wants.
    """
    paths = [module for module in model.modules() if isinstance(module, DropPath)]
    make = getattr(model, "make_auxiliary", None)
    lacking = [
        text
        for text, lacks in (
            (f"paths to drop (drop_path={recipe.drop_path:g})", recipe.drop_path and not paths),
            (f"place for an auxiliary head (auxiliary={recipe.auxiliary:g})", recipe.auxiliary and make is None),
        )
        if lacks
    ]
    if lacking:
        raise UserError(
            f"this network has no {' and no '.join(lacking)}, which the recipe wants; networks of space darts have. "
            "Take another recipe, or 0 for these"
        )
    if recipe.auxiliary and make is not None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(number_of(seed, 6))
            model.auxiliary = make()
    try:
        yield paths
    finally:
        if recipe.auxiliary:
            model.register_module("auxiliary", None)
        for path in paths:
            path.rate = 0.0


def _train(fabric: Any, model: nn.Module, part: Part, *, recipe: Recipe, seed: int, **job: Any) -> Fit:
    """The training with the parts that only training has."""
    with parts_of_training(model, recipe, seed) as paths:
        return _loop(fabric, model, part, recipe=recipe, seed=seed, paths=paths, **job)


@dataclass
class _State:
    """Where a training stands, apart from weights, optimizer and selector: all that a checkpoint must hold."""

    steps: int  # in all
    step: int = 0  # done
    start_step: int = 0  # from where the learning rate's position runs to 1
    start_position: float = 0.0
    batch: int = 0  # done in this round
    batches: int = 0  # of this round
    seconds: float = 0.0
    images: int = 0  # since the last entry of history, as are the next two
    loss_sum: float = 0.0
    correct: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    changes: list[dict[str, float]] = field(default_factory=list)
    audits: list[dict[str, Any]] = field(default_factory=list)
    audited: int = 0  # images spent at the last audit

    def position(self, ahead: float) -> float:
        """How far the schedule is, in [0, 1], `ahead` steps from here."""
        done = (self.step + ahead - self.start_step) / max(1, self.steps - self.start_step)
        return self.start_position + (1 - self.start_position) * done

    def shorten(self, steps: int) -> None:
        """Makes `steps` the whole; the position goes on from where it is."""
        self.start_position, self.start_step = self.position(0), self.step
        self.steps = steps


def _loop(
    fabric: Any,
    model: nn.Module,
    part: Part,
    *,
    recipe: Recipe,
    epochs: float,
    seed: int,
    paths: Sequence[DropPath],
    mean: Any,
    std: Any,
    selector: Selector,
    threads: int,
    checkpoint: Path | None,
    every: float,
    on_progress: Callable[[int, int, float, float], None] | None,
    allow: Callable[[float], float | None] | None,
    audit_every: float | None,
    teacher: Any,
) -> Fit:
    """The loop. `fabric` is None on one CPU process."""
    device = torch.device("cpu") if fabric is None else fabric.device
    rank, ranks = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)
    steps_per_epoch = max(1, round(len(part) / recipe.batch_size))
    state = _State(steps=max(1, round(epochs * steps_per_epoch)))
    entry_every = min(steps_per_epoch, math.ceil(state.steps / 10))
    identity = {"recipe": asdict(recipe), "epochs": float(epochs), "seed": seed, "images": len(part)}
    identity["selector"] = selector.signature()
    if teacher is not None:
        teacher.network.to(device)
        identity["teacher"] = [teacher.share, teacher.temperature]
    selector.expect(min(round(epochs * len(part)), state.steps * selector.record.size))
    if rank == 0 and selector.record.size < recipe.batch_size <= len(part):
        log.warning(
            "a round of %d images is smaller than a batch of %d: each step has %d images, and the training fewer than "
            "its epochs say; choose a larger share or smaller batches",
            selector.record.size, recipe.batch_size, selector.record.size,
        )  # fmt: skip
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])

    model.to(device)
    optimizer: Any = _optimizer(model, recipe)
    average = (
        None if recipe.ema is None else AveragedModel(model, multi_avg_fn=_averaging(recipe.ema), use_buffers=True)
    )
    network, optimizer = (model, optimizer) if fabric is None else fabric.setup(model, optimizer)
    if checkpoint is not None and checkpoint.exists():
        state = _load(checkpoint, identity, model, optimizer, average, selector, device)
    mixed: Any = nullcontext()
    if fabric is None and recipe.precision == "bf16-mixed":
        mixed = torch.autocast("cpu", torch.bfloat16)
    normalise = normaliser(mean, std, device)
    fill = torch.as_tensor(np.array(mean, dtype=np.float32)) if recipe.fill == "data" else None
    taught = normalise if teacher is None or teacher.mean is None else normaliser(teacher.mean, teacher.std, device)
    priors: Tensor | None = None
    parameters = [p for p in model.parameters() if p.requires_grad]
    began = saved = time.monotonic() - state.seconds
    saved += state.seconds

    def save() -> None:
        if checkpoint is not None and rank == 0:
            state.seconds = time.monotonic() - began
            _save(checkpoint, identity, state, model, optimizer, average, selector)

    gpus = [g.device.index for g in generators[1:]]
    with mode_set(model, True), threads_set(threads), torch.random.fork_rng(devices=gpus):
        while state.step < state.steps:
            if state.batch == state.batches:
                spent = selector.record.spent
                if audit_every and spent - state.audited >= audit_every * len(part):
                    right = partial(_right, fabric, network, part, normalise, device)
                    found = audit_selection(selector, right)
                    state.audits.append(found.to_json())
                    state.audited = spent
                    if found.drifted and rank == 0:
                        log.warning("%s", found)
                selector.next_round()
                priors, state.batch = None, 0
                state.batches = batches_of_round(selector.record, steps_per_epoch / len(part), state.step)
            order = selector.record.subset
            low, high = (len(order) * (state.batch + i) // state.batches for i in (0, 1))
            positions = order[low : high - (high - low) % ranks][rank::ranks]
            _, images, labels = part.batch(positions.numpy())
            images = augment(
                images,
                generator_of(seed, 0, state.step, rank),
                flip=recipe.flip,
                shift=recipe.shift,
                cutout=recipe.cutout,
                border=recipe.border,
                fill=fill,
            )
            inputs, targets = normalise(images), labels.to(device)

            lr = learning_rate(recipe, state.position(0.5))
            for group in optimizer.param_groups:
                group["lr"] = lr
            for path in paths:
                path.rate = recipe.drop_path * state.position(0)
            for generator in generators:  # dropout and its kin draw from these
                generator.manual_seed(number_of(seed, 1, state.step, rank))
            with mixed:
                answers = network(inputs)
            logits, aside = answers if recipe.auxiliary else (answers, None)
            logits = logits.float()
            if recipe.balanced and priors is None:  # those of the images that are trained on
                weights = selector.record.weights[order].double().numpy()
                priors = log_priors(part.labels[order.numpy()], logits.shape[1], weights).to(device)
            losses = training_losses(logits, targets, recipe, priors)
            if teacher is not None:
                with mixed:
                    said = teacher.answers(taught(images))
                losses = teacher.losses(logits, said, losses)
            whole = losses
            if aside is not None:
                whole = losses + recipe.auxiliary * training_losses(aside, targets, recipe, priors)
            loss = selector.weigh(positions, whole)
            outcomes = [positions, losses.detach(), logits.detach(), targets]
            if ranks > 1:  # every process knows the outcomes of all, so that a checkpoint of one holds all
                outcomes = [fabric.all_gather(t.cpu()).flatten(0, 1) for t in outcomes]
            selector.note(*outcomes)
            hits = (logits.detach().argmax(1) == targets).sum()
            value, correct, size = _gathered(fabric, loss, hits, len(targets))
            if not math.isfinite(value):
                raise Diverged(state.step + 1, value)

            optimizer.zero_grad(set_to_none=True)
            if fabric is None:
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, recipe.clip, foreach=True)
            else:
                fabric.backward(loss)
                fabric.clip_gradients(network, optimizer, max_norm=recipe.clip)
            optimizer.step()
            if average is not None:
                average.update_parameters(model)

            state.step, state.batch = state.step + 1, state.batch + 1
            state.images, state.loss_sum, state.correct = (
                state.images + size, state.loss_sum + value * size, state.correct + correct,
            )  # fmt: skip
            done = state.step / steps_per_epoch
            wanted = allow(done) if allow is not None and rank == 0 else None
            if ranks > 1 and allow is not None:  # the clocks of processes differ; one decides
                wanted = fabric.broadcast(wanted)
            if wanted is not None and round(wanted * steps_per_epoch) < state.steps:
                state.shorten(max(state.step, round(wanted * steps_per_epoch)))
                selector.expect(round(state.steps / steps_per_epoch * len(part)))
                state.changes.append({"done": done, "epochs": float(wanted)})
            if state.step % entry_every == 0 or state.step == state.steps:
                entry = {"loss": state.loss_sum / state.images, "accuracy": state.correct / state.images, "lr": lr}
                state.history.append({"epoch": done, "step": state.step, **entry})
                state.images, state.loss_sum, state.correct = 0, 0.0, 0
            if time.monotonic() - saved >= every and state.step < state.steps:
                save()
                saved = time.monotonic()
            if on_progress is not None and rank == 0:
                on_progress(state.step, state.steps, value, correct / size)
        save()
    if average is not None:
        model.load_state_dict(average.module.state_dict())
    epochs_done = state.step / steps_per_epoch
    return Fit(state.history, time.monotonic() - began, state.step, epochs_done, state.changes, state.audits)


@torch.no_grad()
def _right(fabric: Any, network: nn.Module, part: Part, normalise: Any, device: torch.device, where: Tensor) -> Tensor:
    """Whether the network answers the images at some positions right, bool (k,); in every process the same."""
    answers = []
    with mode_set(network, False):
        for some in where.split(256):
            _, images, labels = part.batch(some.numpy())
            answers.append(network(normalise(images)).argmax(1).cpu() == labels)
    right = torch.cat(answers)
    return right if fabric is None or fabric.world_size == 1 else fabric.broadcast(right)


def normaliser(mean: Any, std: Any, device: torch.device | str = "cpu") -> Callable[[Tensor], Tensor]:
    """A function of uint8 images (n, C, H, W) that gives float32 ones, less `mean` and over `std`, on `device`."""
    centre = torch.as_tensor(np.array(mean, dtype=np.float32)).view(1, -1, 1, 1).to(device)
    spread = torch.as_tensor(np.array(std, dtype=np.float32)).view(1, -1, 1, 1).to(device)
    if not (spread > 0).all():
        raise UserError(f"std is above 0 in every channel, got {list(std)}")
    scale = 1 / spread
    return lambda images: (
        images.to(device).to(torch.float32, memory_format=torch.channels_last).sub_(centre).mul_(scale)
    )


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD; weight decay on weights only, or on normalisation and biases too."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": recipe.weight_decay * recipe.decay_all},
    ]
    nesterov = recipe.nesterov and recipe.momentum > 0
    return torch.optim.SGD(
        [g for g in groups if g["params"]], lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov
    )


def _averaging(decay: float) -> Callable[..., None]:
    """The update of averaged weights: the decay grows to `decay`, so that the first weights are soon forgotten."""

    def update(averages: Sequence[Tensor], weights: Sequence[Tensor], count: Any) -> None:
        share = 1 - min(decay, (1 + float(count)) / (10 + float(count)))
        for average, weight in zip(averages, weights, strict=True):
            if average.is_floating_point():
                average.lerp_(weight, share)
            else:
                average.copy_(weight)

    return update


def _gathered(fabric: Any, loss: Tensor, hits: Tensor, size: int) -> tuple[float, int, int]:
    """Mean loss, correct answers and images of a step, over all processes."""
    if fabric is None or fabric.world_size == 1:
        return float(loss.detach()), int(hits), size
    both = fabric.all_reduce(torch.stack([loss.detach().float(), hits.float()]), reduce_op="sum")
    return float(both[0]) / fabric.world_size, int(both[1]), size * fabric.world_size


def _save(
    path: Path,
    identity: dict[str, Any],
    state: _State,
    model: nn.Module,
    optimizer: Any,
    average: AveragedModel | None,
    selector: Selector,
) -> None:
    """Writes a checkpoint."""
    content: dict[str, Any] = {
        "identity": identity,
        "state": asdict(state),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": None if average is None else average.state_dict(),
        "selector": selector.state_dict(),
    }
    write_checkpoint(path, content)


def _load(
    path: Path,
    identity: dict[str, Any],
    model: nn.Module,
    optimizer: Any,
    average: AveragedModel | None,
    selector: Selector,
    device: torch.device,
) -> _State:
    """Puts a checkpoint back and returns where it stood."""
    content = read_checkpoint(path, identity, device)
    try:
        model.load_state_dict(content["model"])
    except RuntimeError as error:
        raise UserError(f"checkpoint '{path}' is of another network ({str(error)[:200]}); {mending(path)}") from None
    optimizer.load_state_dict(content["optimizer"])
    if average is not None:
        average.load_state_dict(content["average"])
    selector.load_state_dict({name: _on_cpu(value) for name, value in content["selector"].items()})
    return _State(**content["state"])


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a network answered on n images, and how right it was.

    labels, predictions:  int64 (n,).
    confidence:           float32 (n,), the probability of the predicted class.
    losses:               float32 (n,), cross-entropy in nats.
    classes:              number of classes.
    """

    labels: np.ndarray
    predictions: np.ndarray
    confidence: np.ndarray
    losses: np.ndarray
    classes: int

    @cached_property
    def confusion(self) -> np.ndarray:
        """int64 (classes, classes): images of a class (row) by predicted class (column)."""
        cells = np.bincount(self.labels * self.classes + self.predictions, minlength=self.classes**2)
        return cells.reshape(self.classes, self.classes)

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return float((self.labels == self.predictions).mean())

    @property
    def balanced_accuracy(self) -> float:
        """The mean recall of the classes that are present."""
        counts = self.confusion.sum(1)
        return float((self.confusion.diagonal()[counts > 0] / counts[counts > 0]).mean())

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        return float(self.losses.mean())

    @property
    def per_class(self) -> list[dict[str, float | int | None]]:
        """{recall, precision, n} of each class; None where nothing was to be found, or nothing was said."""
        right, there, said = self.confusion.diagonal(), self.confusion.sum(1), self.confusion.sum(0)
        return [
            {"recall": float(r / t) if t else None, "precision": float(r / s) if s else None, "n": int(t)}
            for r, t, s in zip(right, there, said, strict=True)
        ]

    def metric(self, name: str) -> float:
        """`accuracy` or `balanced_accuracy`, by name."""
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
        return float(getattr(self, name))


def evaluate(
    model: nn.Module,
    part: Part,
    *,
    mean: Any,
    std: Any,
    batch_size: int = 256,
    threads: int = 1,
    device: str = "cpu",
) -> Evaluation:
    """Answers of `model`, in evaluation mode, to all images of a part; one forward pass each, no augmentation.

    mean, std: per channel, on the 0..255 scale. The model is moved to `device`; its modes and torch's threads are as
    before afterwards. Raises UserError for an empty part, ArithmeticError for logits that are not finite.
    """
    if len(part) == 0:
        raise UserError("no images to evaluate on: the part is empty")
    normalise = normaliser(mean, std, device)
    model.to(device)
    predictions, confidence, losses, truth, classes = [], [], [], [], 0
    with mode_set(model, False), threads_set(threads), torch.inference_mode():
        for start in range(0, len(part), batch_size):
            _, images, labels = part.batch(np.arange(start, min(start + batch_size, len(part))))
            logs = model(normalise(images)).float().log_softmax(1).cpu()
            best, answer = logs.max(1)
            predictions.append(answer)
            confidence.append(best.exp())
            losses.append(F.nll_loss(logs, labels, reduction="none"))
            truth.append(labels)
            classes = logs.shape[1]
    found = [torch.cat(parts).numpy() for parts in (truth, predictions, confidence, losses)]
    if np.isnan(found[2]).any():
        raise ArithmeticError(f"the network gives logits that are not finite for {np.isnan(found[2]).sum()} images")
    return Evaluation(found[0], found[1], found[2], found[3], classes)
