"""One untrained network and some batches, whose passes all proxies share.

A proxy reads quantities, each named `quantity@pass`: `gradients@batch0`, `relu_kernel@batch0`, `gradients@ones`.
A **pass** (PASSES) says how the network and its input are prepared; a **quantity** (QUANTITIES) says what is collected
while that pass runs. The Probe runs each pass once and collects everything that was asked of it.
To add either is one function and one dictionary line; a proxy may also bring its own `Quantity` object.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from archscout.curvature import backward_along, forward_along
from archscout.duplicate import duplicate
from archscout.errors import UserError, unknown
from archscout.naming import word

Batch = tuple[Tensor, Tensor]


class NotDefined(Exception):
    """The score does not exist for this network; the message is the reason, in plain words."""


# --- proxies as values -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Proxy:
    """A number read from an untrained network, with what it needs and what it means.

    compute:    (Probe) -> float; raises NotDefined where the score does not exist.
    needs:      the quantities it reads, as `quantity@pass` or `(Quantity, pass)`, so that passes can be shared.
    direction:  "max" if more is better, "min" if less is better.
    unit:       of the score ("" for none).
    paper:      authors, year, identifier.
    data:       "none", "images" or "images and labels": what it reads of the batches.
    cost:       passes over one batch, in words.
    """

    compute: Callable[[Probe], float]
    needs: tuple[Need, ...] = ()
    direction: Literal["max", "min"] = "max"
    unit: str = ""
    paper: str = ""
    data: str = "images and labels"
    cost: str = ""

    @property
    def name(self) -> str:
        """The word it goes by: the name of its function."""
        return word(self.compute)

    def __post_init__(self) -> None:
        if self.direction not in ("max", "min"):
            raise UserError(f"a proxy's direction is 'max' or 'min', got {self.direction!r}")


def as_proxy(method: Any) -> Proxy:
    """A Proxy as it is; a plain function `(Probe) -> float` as a Proxy whose larger scores are better."""
    if isinstance(method, Proxy):
        return method
    if callable(method):
        return Proxy(method)
    raise UserError(f"a proxy is a name, a Proxy or a function (Probe) -> float, got {type(method).__name__}")


# --- the probe -------------------------------------------------------------------------------------------------------


class Probe:
    """One network, some batches, and the quantities that proxies read from them.

    Use it to write a proxy, or to read quantities yourself: `Probe(model, batches)["gradients@batch0"]`. It costs one
    forward per pass that is asked for, plus one backward per derivative. Everything runs on copies under a seed of its
    own: the model (weights, buffers, mode, gradients), the batches and the global random states stay as they are.
    Hooks on the model are copied with it and do fire.

    model:    maps (N, C, H, W) to logits (N, classes).
    batches:  (images, labels) pairs: float (N, C, H, W) already normalised, int64 (N,).
    classes:  number of classes; default: the largest label plus one.
    needs:    the quantities to plan for. One that was not planned is computed on first use, at the price of a pass.
    seed:     decides dropout, noise and re-initialisations; each pass draws from (seed, its name) alone.
    device:   where the passes run.

    `probe[need]` raises NotDefined if the quantity does not exist, or if its pass failed, with the reason.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        *,
        classes: int | None = None,
        needs: Iterable[Need] = (),
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        if not batches:
            raise UserError("a probe needs at least one batch of (images, labels)")
        for images, labels in batches:
            check_batch(images, labels)
        self.model = model
        self.batches = list(batches)
        self.classes = classes or int(max(labels.max() for _, labels in batches)) + 1
        self.seed = seed
        self.device = torch.device(device)
        self._values: dict[tuple[Quantity, str], Any] = {}
        self._reasons: dict[tuple[Quantity, str], str] = {}
        self._models: dict[Callable[[Probe], nn.Module], nn.Module] = {}
        self._planned = [resolve(need) for need in needs]

    def __getitem__(self, need: Need) -> Any:
        key = resolve(need)
        if key not in self._values and key not in self._reasons:
            self._run(key)
        if key in self._reasons:
            raise NotDefined(self._reasons[key])
        return self._values[key]

    def copy(self) -> nn.Module:
        """A fresh copy of the network on the probe's device: float32, channels-last, every parameter trainable."""
        network = duplicate(self.model).to(self.device, torch.float32).to(memory_format=torch.channels_last)
        return network.requires_grad_(True)

    @cached_property
    def trace(self) -> Any:
        """Counts of the network for one image: see archscout.costs.trace."""
        from archscout.costs.trace import trace

        _, *shape = self.batches[0][0].shape
        return trace(self.model, (int(shape[0]), int(shape[1]), int(shape[2])))

    def prepared(self, prepare: Callable[[Probe], nn.Module]) -> nn.Module:
        """The copy that `prepare` makes, made once and shared by the passes that name it."""
        if prepare not in self._models:
            with seeded(self.seed, prepare.__name__, self.device):
                self._models[prepare] = prepare(self)
        return self._models[prepare]

    def _run(self, key: tuple[Quantity, str]) -> None:
        """Run the pass of `key` once and store everything that is planned for it, or the reasons why not."""
        name = key[1]
        done = self._values.keys() | self._reasons.keys()
        asked = [key, *(p for p in dict.fromkeys(self._planned) if p[1] == name and p != key and p not in done)]
        try:
            self._collect(name, asked)
        except Exception as error:
            # Only the text is kept: a traceback would keep the tensors of the pass alive.
            self._reasons.update({k: reason(error) for k in asked if k not in self._values | self._reasons})

    def _collect(self, name: str, asked: list[tuple[Quantity, str]]) -> None:
        """Run the pass `name` for the quantities asked of it.

        If it cannot carry the derivative along the weights, the quantities that want it get a pass of their own, with
        attention spelled out: PyTorch's fused attention has no forward-mode derivative.
        """
        along = [k for k in asked if k[0].along]
        others = [k for k in asked if not k[0].along]
        if along and others:
            try:
                self._once(name, asked)
                return
            except Exception:
                self._once(name, others)
        elif others:
            self._once(name, others)
        if along:
            self._once(name, along, spelled=True)

    def _once(self, name: str, asked: list[tuple[Quantity, str]], spelled: bool = False) -> None:
        word_, index = split(name)
        kind = PASSES[word_]
        derivatives = [quantity for quantity, _ in asked if quantity.derivative]
        differentiate, known = bool(derivatives), all(quantity.reads for quantity in derivatives)
        with torch.inference_mode(False), torch.set_grad_enabled(differentiate), seeded(self.seed, name, self.device):
            run = Pass(self.prepared(kind.model), *kind.images(self, index), kind.objective)
            run.along = any(quantity.along for quantity in derivatives)
            run.due = {word for quantity in derivatives for word in quantity.reads} if known else None
            finish = {}
            try:
                for k in asked:
                    try:
                        finish[k] = k[0].start(run)
                    except Exception as error:
                        self._reasons[k] = reason(error)
                run.forward(differentiate, spelled)
                for k, end in finish.items():
                    try:
                        self._values[k] = end()
                    except Exception as error:
                        self._reasons[k] = reason(error)
            finally:
                run.close()


def layer_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> weight of every convolution and linear layer; a weight that several layers share appears once.

    The query, key and value weights of nn.MultiheadAttention are one packed layer.
    """
    found: dict[nn.Parameter, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)) and isinstance(module.weight, nn.Parameter):
            found.setdefault(module.weight, f"{name}.weight")
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            found.setdefault(module.in_proj_weight, f"{name}.in_proj_weight")
    return {name: weight for weight, name in found.items()}


class Weight(NamedTuple):
    """The weight of one convolution or linear layer, and the derivative of the pass's objective by it."""

    name: str
    value: Tensor
    gradient: Tensor


class Pass:
    """One running pass, as a quantity sees it: hook before the forward, read after it.

    model, images, labels: what runs (do not change them); logits: (N, classes), after the forward.
    stage: "forward", then "objective" or "outputs" while that backward runs: a hook on an output's gradient asks it.
    along: whether the pass also carries the derivative along the weights (see archscout.curvature).
    due:   the derivatives that are still to be read, after the last of which the graph is freed; None keeps it.
    """

    along: bool = False
    due: set[str] | None = None

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, objective: Objective) -> None:
        self.model, self.images, self.labels, self._objective = model, images, labels, objective
        self.logits: Tensor = images.new_empty(0)
        self.stage = "forward"
        self._handles: list[Any] = []

    def after(self, hook: Callable[[nn.Module, Any, Any], None], *kinds: type[nn.Module]) -> int:
        """Call `hook(module, inputs, output)` after every module of these kinds (all if none); the number hooked."""
        found = [m for m in self.model.modules() if not kinds or isinstance(m, kinds)]
        self._handles += [m.register_forward_hook(hook) for m in found]
        return len(found)

    def at(self, module: nn.Module, hook: Callable[..., Any], before: bool = False) -> None:
        """Call `hook(module, inputs, output)` after this module, or `hook(module, inputs)` before it."""
        register = module.register_forward_pre_hook if before else module.register_forward_hook
        self._handles.append(register(hook))

    def forward(self, differentiate: bool, spelled: bool) -> None:
        if differentiate:
            self.images = self.images.detach().requires_grad_(True)
        if self.along:
            self._forward_along(spelled)
        else:
            self.logits = self._checked(self.model(self.images))

    def _checked(self, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(self.images):
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise NotDefined(f"the network returned {got}, wanted logits ({len(self.images)}, classes)")
        if not torch.isfinite(output.detach()).all():
            raise NotDefined("the network's output is NaN or infinite")
        return output

    def _forward_along(self, spelled: bool) -> None:
        """The forward and the backward of the objective, both with the derivative along the weights."""
        if not self.weights:
            raise NotDefined("the network has no convolution or linear layer")
        values = list(self.weights.values())
        with forward_ad.dual_level():
            self.logits = self._checked(forward_along(self.model, self.weights, self.images, spelled))
            self.stage = "objective"
            pairs = backward_along(
                self.logits, lambda logits: self._objective(logits, self.labels), values, self._keeps("gradients")
            )
        self.gradients = self._per_weight([gradient for gradient, _ in pairs])
        self.rates = self._per_weight([rate for _, rate in pairs])

    def _keeps(self, derivative: str) -> bool:
        """Whether the graph is still needed after this derivative."""
        if self.due is None:
            return True
        self.due.discard(derivative)
        return bool(self.due)

    def _per_weight(self, found: Sequence[Tensor | None]) -> list[Weight]:
        pairs = zip(self.weights.items(), found, strict=True)
        return [Weight(name, w.detach(), torch.zeros_like(w) if g is None else g) for (name, w), g in pairs]

    @cached_property
    def weights(self) -> dict[str, nn.Parameter]:
        """Name -> weight of every convolution and linear layer; see `layer_weights`."""
        return layer_weights(self.model)

    @cached_property
    def objective(self) -> Tensor:
        """The scalar that this pass differentiates: the loss on a batch, the sum of outputs elsewhere."""
        return self._objective(self.logits, self.labels)

    @cached_property
    def gradients(self) -> list[Weight]:
        """The derivative of the objective by every weight, zero where a weight is not used. Runs once."""
        if not self.weights:
            raise NotDefined("the network has no convolution or linear layer")
        objective, values = self.objective, list(self.weights.values())
        self.stage = "objective"
        keep = self._keeps("gradients")
        return self._per_weight(torch.autograd.grad(objective, values, retain_graph=keep, allow_unused=True))

    @cached_property
    def rates(self) -> list[Weight]:
        """The derivative of every gradient as all weights w grow at the rate w: H w. Only in a pass that is `along`."""
        raise NotDefined("the pass does not carry the derivative along the weights: Quantity(..., along=True)")

    @cached_property
    def input_gradient(self) -> Tensor:
        """The derivative of the sum of all outputs by the images, (N, C, H, W). Runs once."""
        self.stage = "outputs"
        keep = self._keeps("input_gradient")
        (found,) = torch.autograd.grad(self.logits.sum(), [self.images], retain_graph=keep, allow_unused=True)
        if found is None:
            raise NotDefined("the network's output does not depend on its input")
        return found

    def close(self) -> None:
        """Remove the hooks and let go of the graph: a hook that asks for the stage would keep it alive for ever."""
        for handle in self._handles:
            handle.remove()
        self.logits = self.images = self.labels.new_empty(0)
        self.__dict__.pop("objective", None)


# --- quantities: what is collected while a pass runs -----------------------------------------------------------------

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
NORMS = (*BATCH_NORMS, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.GELU, nn.SiLU, nn.Mish, nn.ELU, nn.Hardswish)


@dataclass(frozen=True, eq=False)
class Quantity:
    """What a pass leaves behind: `start(run)` hooks what it needs and returns the function that reads the result.

    Hooks should reduce as they go: activations that a hook keeps stay in memory for the whole pass.
    derivative: whether it reads gradients; without any such quantity a pass runs without a graph.
    reads:      which of "gradients" and "input_gradient" it reads of the pass, if these are all the derivatives it
                takes: then the graph is freed early, which saves time. () says nothing.
    along:      whether it reads `rates`.
    """

    start: Callable[[Pass], Callable[[], Any]]
    derivative: bool = False
    reads: tuple[str, ...] = ()
    along: bool = False


def gradients(run: Pass) -> Callable[[], list[Weight]]:
    """Weight, value and derivative of the pass's objective, per convolution and linear layer."""
    return lambda: run.gradients


def input_gradient(run: Pass) -> Callable[[], Tensor]:
    """Derivative of the sum of all outputs by the images, (N, C, H, W)."""
    return lambda: run.input_gradient


def relu_kernel(run: Pass) -> Callable[[], Tensor]:
    """(N, N) float64: for each pair of images the number of rectifier units on which their signs agree.

    Accumulated layer by layer from one product G = X X', X = (output > 0) as (N, D): D + 2 G_ij - G_ii - G_jj.
    """
    total = torch.zeros(len(run.images), len(run.images), dtype=torch.float64, device=run.images.device)

    def add(module: nn.Module, inputs: Any, output: Tensor) -> None:
        # The order of the units does not matter, and moving the channels last makes flattening free.
        on = output.detach().gt(0).movedim(1, -1).flatten(1).to(torch.float32)
        both = (on @ on.T).double()
        total.add_(both.mul(2) - both.diag() - both.diag()[:, None] + on.shape[1])

    run.after(add, *RECTIFIERS)

    def finish() -> Tensor:
        if not total.any():
            raise NotDefined("no ReLU module ran (a functional relu is not seen: use nn.ReLU)")
        return total

    return finish


def features(run: Pass) -> Callable[[], Tensor]:
    """The features before global pooling: the last map (N, C, H, W) or tokens (N, T, C) of more than one position.

    They are the last such output of any module, before a closing layer normalisation.
    """
    last: list[Tensor] = []
    normalised: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, nn.LayerNorm):
            normalised[:] = [output]  # also what the modules around it return
        elif isinstance(output, Tensor) and not any(output is other for other in normalised):
            positions = output.shape[2:] if output.ndim == 4 else output.shape[1:2] if output.ndim == 3 else ()
            if math.prod(positions) > 1:
                last[:] = [output.detach()]

    run.after(keep)

    def finish() -> Tensor:
        if not last:
            raise NotDefined("no module returned a feature map of more than one pixel")
        return last[0]

    return finish


def norm_variances(run: Pass) -> Callable[[], list[Tensor]]:
    """Per batch normalisation, in order of execution: the variance of its input per channel, (C,)."""
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        count = inputs[0].numel() // inputs[0].shape[1]
        if module.training and module.momentum == 1 and isinstance(module.running_var, Tensor):
            found.append(module.running_var * ((count - 1) / count))  # just computed by the module itself
        else:
            found.append(inputs[0].detach().transpose(0, 1).flatten(1).var(1, correction=0))

    run.after(keep, *BATCH_NORMS)
    return lambda: found


QUANTITIES: dict[str, Quantity] = {
    "gradients": Quantity(gradients, derivative=True, reads=("gradients",)),
    "input_gradient": Quantity(input_gradient, derivative=True, reads=("input_gradient",)),
    "relu_kernel": Quantity(relu_kernel),
    "features": Quantity(features),
    "norm_variances": Quantity(norm_variances),
}


# --- passes: how the network and its input are prepared --------------------------------------------------------------

Objective = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class PassKind:
    """How a pass is prepared: `model(probe)`, `images(probe, index) -> (images, labels)`, `objective(logits, labels)`.

    Passes that name the same `model` function share one copy, so it must not depend on what ran before:
    batch statistics in train mode do not.
    """

    model: Callable[[Probe], nn.Module]
    images: Callable[[Probe, int], Batch]
    objective: Objective


def own(probe: Probe) -> nn.Module:
    """The network with its own weights, batch normalisation in train mode."""
    return probe.copy().train()


def positive(probe: Probe) -> nn.Module:
    """The network in float64 with the absolute values of its parameters; normalisation layers stay, in eval mode."""
    network = probe.copy().double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    return network


def positive_train(probe: Probe) -> nn.Module:
    """The network of `positive` with batch normalisation in train mode."""
    return positive(probe).train()


def absolute(probe: Probe) -> nn.Module:
    """The network in float64 with absolute parameters, without normalisation layers, and with even attention."""
    network = positive(probe)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, NORMS):
                setattr(parent, name, nn.Identity())
    return EvenlyAttending(network)


class EvenlyAttending(nn.Module):
    """A network in which `scaled_dot_product_attention` gives every token the mean of all values.

    Without normalisation the products of queries and keys grow with the cube of the signal, and beyond 10^16 their
    softmax and its derivative are noise or NaN. Weights that sum to one are all that a sum over paths needs of it.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with EvenAttention():
            return self.network(x)


class EvenAttention(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, _, value = args[:3]
        return value.mean(-2, keepdim=True).expand(*query.shape[:-1], value.shape[-1])


def gaussian(probe: Probe) -> nn.Module:
    """The network with standard normal weights and zero biases, batch normalisation in train mode.

    Momentum 1 makes each batch normalisation leave the variance of the batch that it just saw in `running_var`.
    """
    network = probe.copy().train()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
                module.weight.normal_()
            elif isinstance(module, NORMS):
                if isinstance(module, BATCH_NORMS):
                    module.momentum = 1.0
                if module.weight is not None:
                    module.weight.fill_(1)
            else:
                continue
            if module.bias is not None:
                module.bias.zero_()
    return network


def kaiming(probe: Probe) -> nn.Module:
    """The network with normal weights of variance 2 / fan-in and zero biases, batch normalisation in train mode.

    Its parameters are not trainable: quantities of this pass differentiate by maps inside the network.
    """
    network = probe.copy().train()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, NORMS) and module.weight is not None:
                module.weight.fill_(1)
            elif not isinstance(module, NORMS):
                continue
            if module.bias is not None:
                module.bias.zero_()
    return network.requires_grad_(False)


def frozen(probe: Probe) -> nn.Module:
    """The network of `kaiming` whose batch normalisation has the statistics of 16 noise images, as constants.

    So its images do not mix, and a derivative per image exists.
    """
    network = kaiming(probe)
    for module in network.modules():
        if isinstance(module, BATCH_NORMS):
            module.momentum = 1.0
    with torch.no_grad():
        network(noise(probe, 0)[0])
    return network.eval()


def batch(probe: Probe, index: int) -> Batch:
    if index >= len(probe.batches):
        raise NotDefined(f"needs {index + 1} batches, got {len(probe.batches)}: give more images")
    images, labels = probe.batches[index]
    images = images.detach().to(probe.device, torch.float32).contiguous(memory_format=torch.channels_last)
    return images, labels.to(probe.device, torch.int64)


def first(probe: Probe, index: int) -> Batch:
    """The first 16 images of a batch."""
    images, labels = batch(probe, index)
    return images[:16], labels[:16]


def ones(probe: Probe, index: int) -> Batch:
    shape = (1, *probe.batches[0][0].shape[1:])
    return torch.ones(shape, dtype=torch.float64, device=probe.device), torch.zeros(
        1, dtype=torch.int64, device=probe.device
    )


def noise(probe: Probe, index: int) -> Batch:
    """16 standard normal images of the batches' shape; index 1 adds a hundredth of other noise to the same images.

    More images do not help: the draw of the weights decides how much such a score varies.
    """
    shape = (16, *probe.batches[0][0].shape[1:])
    rng = torch.Generator().manual_seed(derive(probe.seed, "noise"))
    made = torch.randn(shape, generator=rng)
    for _ in range(index):
        made = made + 0.01 * torch.randn(shape, generator=rng)
    labels = torch.zeros(len(made), dtype=torch.int64, device=probe.device)
    return made.to(probe.device).contiguous(memory_format=torch.channels_last), labels


def noise_batch(probe: Probe, index: int) -> Batch:
    """32 standard normal images of the batches' shape, another draw for each index; so the batches' size is no matter.

    On NAS-Bench-201 cells the scores that read them rank as with 64 images (Spearman .994 and more).
    """
    rng = torch.Generator().manual_seed(derive(probe.seed, f"noise batch {index}"))
    made = torch.randn((32, *probe.batches[0][0].shape[1:]), generator=rng)
    labels = torch.zeros(len(made), dtype=torch.int64, device=probe.device)
    return made.to(probe.device).contiguous(memory_format=torch.channels_last), labels


def arc(probe: Probe, index: int) -> Batch:
    """32 images, in order and at equal distances, on the quarter circle from one standard normal image to another."""
    rng = torch.Generator().manual_seed(derive(probe.seed, f"arc {index}"))
    first, last = torch.randn((2, 1, *probe.batches[0][0].shape[1:]), generator=rng)
    angles = torch.linspace(0, np.pi / 2, 32)[:, None, None, None]
    made = first * angles.cos() + last * angles.sin()
    labels = torch.zeros(len(made), dtype=torch.int64, device=probe.device)
    return made.to(probe.device).contiguous(memory_format=torch.channels_last), labels


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy."""
    if int(labels.max()) >= logits.shape[1]:
        raise NotDefined(f"label {int(labels.max())} has no output: the network has {logits.shape[1]}")
    return F.cross_entropy(logits, labels)


def total(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of all outputs."""
    return logits.sum()


PASSES: dict[str, PassKind] = {
    "batch": PassKind(own, batch, loss),
    "first": PassKind(own, first, total),
    "ones": PassKind(absolute, ones, total),
    "ones_bn": PassKind(positive_train, ones, total),
    "positive": PassKind(positive, ones, total),
    "noise": PassKind(gaussian, noise, total),
    "kaiming": PassKind(kaiming, noise_batch, total),
    "frozen": PassKind(frozen, noise, total),
    "arc": PassKind(frozen, arc, total),
}


# --- names, seeds, checks --------------------------------------------------------------------------------------------

Need = str | tuple[Quantity, str]


def resolve(need: Need) -> tuple[Quantity, str]:
    """A need as (Quantity, pass name); UserError if either does not exist."""
    if isinstance(need, str):
        name, _, where = need.partition("@")
        if name not in QUANTITIES:
            raise unknown("quantity", name, QUANTITIES, "or give (Quantity, pass)")
        need = (QUANTITIES[name], where)
    split(need[1])
    return need[0], need[1]


def split(name: str) -> tuple[str, int]:
    """A pass name as (word, index): "batch1" is ("batch", 1) and "ones" is ("ones", 0)."""
    match = re.fullmatch(r"([a-z_]+)(\d*)", name)
    if not match or match[1] not in PASSES:
        raise unknown("pass", name, PASSES, "with a number for several: gradients@batch1")
    return match[1], int(match[2] or 0)


def derive(seed: int, text: str) -> int:
    """A seed in [0, 2^32) that depends on `seed` and `text` alone, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{text}".encode()).digest()[:4], "little")


@contextmanager
def seeded(seed: int, text: str, device: torch.device | str = "cpu") -> Iterator[None]:
    """Inside, the random states of torch, NumPy and Python follow from (seed, text); after it they are as before."""
    device = torch.device(device)
    states = random.getstate(), np.random.get_state()
    devices = [device] if device.type != "cpu" else []
    kind = device.type if devices else "cuda"
    try:
        with torch.random.fork_rng(devices, device_type=kind):
            value = derive(seed, text)
            torch.default_generator.manual_seed(value)
            if devices:
                torch.manual_seed(value)
            random.seed(value)
            np.random.seed(value)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def reason(error: Exception) -> str:
    """Why something failed, in one line: the text of a NotDefined or UserError, else the error's kind and text."""
    text = " ".join(str(error).split())[:300]
    if "Expected more than 1 value per channel" in text:
        return "a batch normalisation sees one value per channel, which has no variance"
    return text if isinstance(error, (NotDefined, UserError)) and text else f"{type(error).__name__}: {text}"


def check_batch(images: Any, labels: Any) -> None:
    """UserError unless images are floats (N, C, H, W) and labels whole numbers (N,)."""
    if not (isinstance(images, Tensor) and images.ndim == 4 and images.is_floating_point() and len(images)):
        got = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise UserError(f"images are a float tensor (N, C, H, W) with N > 0, got {got}")
    if not (isinstance(labels, Tensor) and labels.shape == (len(images),) and not labels.is_floating_point()):
        got = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise UserError(f"labels are an int64 tensor ({len(images)},), got {got}")
    if int(labels.min()) < 0:
        raise UserError(f"labels are class numbers from 0, got {int(labels.min())}")
