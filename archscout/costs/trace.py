"""What one image costs a network: operations, multiply-adds, weights and live activations, without running it."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from archscout.space import Shape

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Op:
    """One operation of a forward pass for one image.

    kind:      conv, linear, matmul (of two activations), bn (any normalisation), relu, pool, add, cat, resize or other.
    macs:      multiply-adds of conv, linear and matmul; zero for the rest.
    flops:     macs, plus the element-wise work described at `trace`.
    inputs, outputs, weights: numbers read of activations, written, and read of parameters and buffers.
    kernel, stride: the larger side of the window and of its step (1 where there is none; a global pool has its map's).
    groups:    of a convolution, else 1.
    channels_in, channels_out: of conv, linear and matmul (the length of the inner product, and of a row of the result);
               for the rest the channels of the output.
    height, width: of the output map, 1 where there is none.
    """

    kind: str
    macs: int = 0
    flops: int = 0
    inputs: int = 0
    outputs: int = 0
    weights: int = 0
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    channels_in: int = 1
    channels_out: int = 1
    height: int = 1
    width: int = 1


@dataclass(frozen=True, slots=True)
class Trace:
    """The costs of one forward pass for one image that need no device; see `trace`.

    folded: the places in `ops` of those that a deployed runtime does within the operation before them.
    """

    params: int
    weight_bytes: int
    macs: int
    flops: int
    peak_activation_bytes: int
    ops: tuple[Op, ...]
    ram_int8_bytes: int = 0
    flash_int8_bytes: int = 0
    training_activation_bytes: int = 0
    folded: tuple[int, ...] = ()


def trace(model: nn.Module, input_shape: Shape) -> Trace:
    """Record one forward pass of a network for one image of `input_shape` (channels, height, width), in eval mode.

    Use it for every cost that can be counted. Nothing is computed: the pass runs on shapes only, on a copy without
    weights, in about 10 ms for a network of a few hundred operations once its shapes were met before. The model stays
    untouched, and may itself be on the meta device. A model that cannot run without data (for instance one that reads a
    value to decide what to do) is copied and really run on the CPU, on an image of zeros. Its own errors are raised.

    params counts all parameters once. weight_bytes takes every parameter and buffer as fp32; counters that are single
    whole numbers are left out. macs counts convolutions, linear layers and matrix products. flops = macs + 2 for each
    output of a normalisation (1 without scale), 1 for each output of an activation, and for each output of a pool the
    size of its window; the windows of an adaptive pool are taken as (input // output + 1) a side, their upper bound.
    This reproduces the count published with the NAS-Bench-201 proxies (Krishnakumar et al. 2022, arXiv 2210.03230).

    peak_activation_bytes is the largest sum of memory that the image and the results of operations hold at once, as
    PyTorch frees them: a result lives until nothing refers to it, views and in-place operations take no memory, and
    scratch memory inside an operation is not counted.

    ram_int8_bytes is the same sum where every number is one byte and the graph is known beforehand: a result lives from
    the operation that makes it to the last one that reads it. A normalisation right after a convolution or linear layer
    is folded into it, and so is an activation after any operation, if nothing else reads what lies between; no other
    result takes the place of an input. flash_int8_bytes is a byte for each weight, and 8 for each output channel of a
    convolution, linear layer or normalisation that stays: a 32-bit bias and a scale. Both leave out the runtime.

    training_activation_bytes is the most that a training step holds per image in fp32: what the operations so far saved
    for the backward pass, and the gradients of the inputs and outputs of the one whose turn it is. Dropout masks and
    statistics of normalisations are left out.
    """
    made: dict[int, Any] = {}
    try:
        twin = hollow(model, made)
        recorder = Recorder(made.values())
        recorder.run(twin, torch.zeros(1, *input_shape, device="meta"))
    except Exception:
        if any(t.is_meta for t in model.parameters()):
            raise
        real = copy.deepcopy(model).cpu().eval()
        recorder = Recorder((*real.parameters(), *real.buffers()))
        with torch.random.fork_rng(devices=[]):
            recorder.run(real, torch.zeros(1, *input_shape))
    tensors = list(model.parameters())
    numbers = {id(t): t for t in (*tensors, *model.buffers()) if t.is_floating_point() or t.dim()}
    return Trace(
        params=sum(t.numel() for t in tensors),
        weight_bytes=4 * sum(t.numel() for t in numbers.values()),
        macs=sum(op.macs for op in recorder.ops),
        flops=sum(op.flops for op in recorder.ops),
        peak_activation_bytes=recorder.peak,
        ops=tuple(recorder.ops),
        **deployed(recorder.ops, recorder.steps, recorder.sizes),
        training_activation_bytes=recorder.training_peak,
    )


@dataclass(frozen=True, slots=True)
class Step:
    """What an `Op` read and made: numbers of values (memories of activations), and weights as (memory, size, axes).

    fold: "norm" or "activation" where it works on one value number by number, else "".
    """

    reads: tuple[int, ...]
    makes: tuple[int, ...]
    weights: tuple[tuple[int, int, int], ...] = ()
    fold: str = ""


def deployed(ops: Sequence[Op], steps: Sequence[Step], sizes: Sequence[int]) -> dict[str, Any]:
    """ram_int8_bytes, flash_int8_bytes and folded of a recorded pass, as `trace` defines them.

    sizes: how many numbers each value holds; value 0 is the image.
    """
    readers: list[set[int]] = [set() for _ in sizes]
    for place, step in enumerate(steps):
        for value in step.reads:
            readers[value].add(place)
    home = list(range(len(sizes)))  # the value in whose memory a folded result lies
    born, maker = [0] * len(sizes), [""] * len(sizes)
    last = [max(places, default=0) for places in readers]
    folded: list[int] = []
    flash = 0
    seen: set[int] = set()
    for place, (op, step) in enumerate(zip(ops, steps, strict=True)):
        before = home[step.reads[0]] if step.reads else 0
        into = ("conv", "linear") if step.fold == "norm" else ("conv", "linear", "add", "pool", "bn", "matmul")
        in_place = step.makes == step.reads
        alone = len(step.reads) == 1 and (in_place or readers[step.reads[0]] == {place})
        if step.fold and alone and len(step.makes) == 1 and maker[before] in into:
            folded.append(place)
            made = step.makes[0]
            home[made] = before
            last[before] = max(last[before], last[made], place)
            maker[before] = maker[before] if step.fold == "norm" else "activation"
        else:
            for made in step.makes:
                if made not in step.reads:
                    born[made], last[made] = place, max(last[made], place)
                maker[made] = op.kind
            new = [weight for weight in step.weights if weight[0] not in seen]
            flash += sum(size for _, size, axes in new if axes > 1)
            if op.kind in ("conv", "linear", "bn") and new:
                channels = max((size for _, size, axes in new if axes == 1), default=0)
                flash += 8 * (channels if op.kind == "bn" else op.channels_out)
        seen.update(key for key, _, _ in step.weights)
    if steps:
        for made in steps[-1].makes:
            last[home[made]] = len(steps) - 1
    live = [0] * (max(len(steps), 1) + 1)
    for value, size in enumerate(sizes):
        if home[value] == value:
            live[born[value]] += size
            live[last[value] + 1] -= size
    peak = most = 0
    for change in live:
        peak += change
        most = max(most, peak)
    return {"ram_int8_bytes": most, "flash_int8_bytes": flash, "folded": tuple(folded)}


def hollow(model: nn.Module, made: dict[int, Any]) -> Any:
    """A copy of a module and its submodules in eval mode with tensors on the meta device; shares plain attributes.

    Forward hooks, which may belong to someone who records activations, are left out; pre-hooks, which compute weights
    in some libraries, stay. `made` maps ids to copies, so that what is shared stays shared.
    """
    if id(model) in made:
        return made[id(model)]
    twin = object.__new__(type(model))
    made[id(model)] = twin
    state = dict(model.__dict__)
    state["training"] = False
    state["_parameters"] = {name: on_meta(t, made) for name, t in model._parameters.items()}
    state["_buffers"] = {name: on_meta(t, made) for name, t in model._buffers.items()}
    state["_modules"] = {name: m if m is None else hollow(m, made) for name, m in model._modules.items()}
    state["_forward_hooks"] = type(model._forward_hooks)()
    for name, value in state.items():  # tensors that are plain attributes, such as a fixed mask
        if isinstance(value, torch.Tensor):
            state[name] = on_meta(value, made)
    twin.__dict__ = state
    return twin


def on_meta(tensor: torch.Tensor | None, made: dict[int, Any]) -> torch.Tensor | None:
    """A tensor of the same shape and type without memory."""
    if tensor is None:
        return None
    if id(tensor) not in made and tensor.is_meta:
        made[id(tensor)] = tensor
    elif id(tensor) not in made:
        bare = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        made[id(tensor)] = nn.Parameter(bare, requires_grad=False) if isinstance(tensor, nn.Parameter) else bare
    return made[id(tensor)]


class FusedAttention(TorchFunctionMode):
    """Attention on the meta device as the one operation that it is on a CPU, where it holds no (tokens, tokens) map."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention and len(args) >= 3:
            query, key, value = args[:3]
            others = [*args[3:], *(kwargs or {}).values()]
            plain = all(other is None or other is False or type(other) is float for other in others)
            if plain and query.is_meta and query.dim() == 4 and query.shape[-1] == value.shape[-1]:
                return aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)[0]
        return func(*args, **(kwargs or {}))


class Recorder(TorchDispatchMode):
    """Sees every operation below autograd: keeps an `Op` of each, and the sum of live memory."""

    def __init__(self, weights: Iterable[Any]) -> None:
        super().__init__()
        self.weights = {storage_of(t) for t in weights if isinstance(t, torch.Tensor)}
        self.ops: list[Op] = []
        self.live = 0
        self.peak = 0
        self.known: dict[int, int] = {}  # counted storages that live -> number of their value
        self.sizes: list[int] = []  # numbers in each value
        self.steps: list[Step] = []
        self.saved: set[int] = set()  # values that a backward pass needs
        self.saved_bytes = 0
        self.training_peak = 0

    def run(self, model: nn.Module, image: torch.Tensor) -> None:
        """Record the forward pass of `model` on `image`."""
        self.is_bare = image.is_meta
        self.allocate(image)
        with torch.no_grad(), FusedAttention(), self:
            model(image)

    def allocate(self, tensor: torch.Tensor) -> None:
        """Count the memory of a tensor if it is new, until it is freed."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known or key in self.weights:
            return
        size = storage.nbytes()
        self.known[key] = len(self.sizes)
        self.sizes.append(size // tensor.element_size())
        self.live += size
        weakref.finalize(storage, self.free, key, size).atexit = False

    def free(self, key: int, size: int) -> None:
        self.known.pop(key, None)
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        signature = self.signature(func, args, kwargs)
        if signature in MEMO:  # the same operation on the same shapes: only make what it returns
            specs, op, is_tuple = MEMO[signature]
            made = tuple(torch.empty_strided(*spec[:2], dtype=spec[2], device="meta") for spec in specs)
            result = made if is_tuple else made[0]
        else:
            result = func(*args, **kwargs)
            made = tuple(tensors_in((result,)))
            op = (
                None if func.is_view or not any(t.numel() for t in made) else self.describe(func, args, kwargs, made[0])
            )
            if signature is not None and is_fresh(result, (*args, *kwargs.values())):
                if len(MEMO) >= 20_000:
                    MEMO.clear()
                MEMO[signature] = tuple((t.shape, t.stride(), t.dtype) for t in made), op, isinstance(result, tuple)
        first_only = func in POOLS or func in NORMS  # the others are indices or statistics for a backward pass
        for output in made[:1] if first_only else made:
            self.allocate(output)
        self.peak = max(self.peak, self.live)
        if op is not None:
            self.ops.append(op)
            self.note(func, (*args, *kwargs.values()), made[:1] if first_only else made, op)
        return result

    def note(self, func: Any, arguments: Any, made: Sequence[torch.Tensor], op: Op) -> None:
        """Keep the `Step` of an `Op`, and what a training would have to hold by then."""
        reads, weights = [], []
        for tensor in tensors_in(arguments):
            key = storage_of(tensor)
            if key in self.weights:
                weights.append((key, tensor.numel(), tensor.dim()))
            elif key in self.known:
                reads.append(self.known[key])
        makes = tuple(self.known[key] for key in map(storage_of, made) if key in self.known)
        fold = "norm" if func in NORMS else "activation" if func in RELUS or func in FOLDABLE else ""
        self.steps.append(Step(tuple(dict.fromkeys(reads)), makes, tuple(weights), fold))
        if func in KEEP_RESULT:
            kept = makes
        elif func in OTHER_PRODUCTS:
            kept = (*reads, *makes)
        elif func in KEEP_INPUT or (func in FACTORS and len(reads) + len(weights) > 1):
            kept = tuple(reads)
        else:
            kept = ()
        for value in kept:
            if value not in self.saved:
                self.saved.add(value)
                self.saved_bytes += 4 * self.sizes[value]
        if func in WITH_PLACES:
            self.saved_bytes += 8 * op.outputs
        self.training_peak = max(self.training_peak, self.saved_bytes + 4 * (op.inputs + op.outputs))

    def signature(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What the result's shape and the `Op` depend on; None where a call must really be made."""
        if not (self.is_bare and remembered(func)):
            return None
        parts: list[Any] = [func]
        has_tensor = False
        for value in (*args, *kwargs.items()):
            if isinstance(value, torch.Tensor):
                has_tensor = True
                weight = storage_of(value) in self.weights
                parts.append((value.shape, value.stride(), value.dtype, weight))
            elif isinstance(value, list | tuple):
                if any(isinstance(item, torch.Tensor | list | tuple) for item in value):
                    return None
                parts.append((type(value), *value))
            else:
                parts.append((type(value), value))
        return tuple(parts) if has_tensor else None

    def describe(self, func: Any, args: Any, kwargs: Any, output: torch.Tensor) -> Op:
        """The `Op` of a call."""
        inputs = weights = 0
        for tensor in tensors_in((*args, *kwargs.values())):
            if self.is_bare and tensor.dim() and not tensor.is_meta:
                raise TypeError("the network holds tensors that cannot be moved to the meta device")
            if storage_of(tensor) in self.weights:
                weights += tensor.numel()
            else:
                inputs += tensor.numel()
        outputs = output.numel()
        shape = output.shape
        channels = shape[1] if len(shape) > 1 else 1
        height, width = (shape[2], shape[3]) if len(shape) == 4 else (1, 1)
        common = {"inputs": inputs, "outputs": outputs, "weights": weights, "height": height, "width": width}
        if func in CONVOLUTIONS:
            x, weight, _, stride, _, _, transposed, _, groups = args[:9]
            positions = math.prod((x if transposed else output).shape[2:]) * x.shape[0]
            macs = positions * weight.numel()
            size = {"kernel": max(weight.shape[2:]), "stride": max(stride), "groups": groups}
            return Op("conv", macs, macs, **common, **size, channels_in=x.shape[1], channels_out=channels)
        if func in PRODUCTS:
            left = args[PRODUCTS[func]]
            macs = outputs * left.shape[-1]
            kind = "linear" if weights else "matmul"
            return Op(kind, macs, macs, **common, channels_in=left.shape[-1], channels_out=shape[-1])
        if func in OTHER_PRODUCTS:
            query, key, value = args[:3]
            pairs = math.prod(query.shape[:-1]) * key.shape[-2]
            macs = pairs * (query.shape[-1] + value.shape[-1])
            return Op("matmul", macs, macs + pairs, **common, channels_in=query.shape[-1], channels_out=shape[-1])
        common |= {"channels_in": channels, "channels_out": channels}
        if func in NORMS:
            return Op("bn", 0, outputs * (2 if weights else 1), **common)
        if func in RELUS:
            return Op("relu", 0, outputs, **common)
        if func in ACTIVATIONS:
            return Op("other", 0, outputs, **common)
        if func in POOLS:
            window = as_pair(args[1])
            stride = as_pair(args[2]) if len(args) > 2 and args[2] else window
            return Op("pool", 0, outputs * math.prod(window), **common, kernel=max(window), stride=max(stride))
        if func in ADAPTIVE_POOLS or is_global_mean(func, args):
            before = args[0].shape[2:]
            sides = list(zip(before, (height, width), strict=False))
            work = outputs * math.prod(big // small + 1 for big, small in sides)
            return Op(
                "pool",
                0,
                work,
                **common,
                kernel=max(-(-b // s) for b, s in sides),
                stride=max(b // s for b, s in sides),
            )
        return Op(KINDS.get(func, "other"), **common)


# Signature of a call -> shapes of what it returns, its Op, whether it returns a tuple. The kernels that infer shapes
# take up to a millisecond a call, and networks repeat few shapes; this remembers pure facts and changes no result.
MEMO: dict[Any, tuple[tuple[Any, ...], Op | None, bool]] = {}


@cache
def remembered(func: Any) -> bool:
    """Whether an operation returns new tensors that depend on the shapes of its arguments alone."""
    if func.is_view or torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
        return False
    schema = func._schema
    returns = all(str(value.type) == "Tensor" and value.alias_info is None for value in schema.returns)
    return bool(schema.returns) and returns and all(value.alias_info is None for value in schema.arguments)


def is_fresh(result: Any, arguments: Iterable[Any]) -> bool:
    """Whether a result is one meta tensor or a tuple of them, and none shares memory with an argument."""
    made = result if isinstance(result, tuple) else (result,)
    if not all(isinstance(t, torch.Tensor) and t.is_meta for t in made):
        return False
    return {storage_of(t) for t in made}.isdisjoint(storage_of(t) for t in tensors_in(arguments))


def storage_of(tensor: torch.Tensor) -> int:
    """A number that tensors of one memory share."""
    return tensor.untyped_storage()._cdata


def tensors_in(values: Iterable[Any]) -> Iterable[torch.Tensor]:
    """The tensors among values and the lists or tuples in them."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


def as_pair(value: Any) -> tuple[int, ...]:
    """A window given as one number or one for each side."""
    sides = (value,) if isinstance(value, int) else tuple(value)
    return sides * 2 if len(sides) == 1 else sides


def is_global_mean(func: Any, args: Any) -> bool:
    """Whether a call is the mean over height and width of a map, which is what a global average pool becomes."""
    if func is not aten.mean.dim or args[0].dim() != 4 or args[1] is None:
        return False
    return {axis % 4 for axis in args[1]} == {2, 3}


def overloads(*names: str) -> set[Any]:
    """The default forms of the named operations, those of them that this torch has, also in place."""
    found = set()
    for name in names:
        for form in (name, f"{name}_"):
            packet = getattr(aten, form, None)
            if packet is not None:
                found |= {getattr(packet, overload) for overload in packet.overloads() if overload != "out"}
    return found


CONVOLUTIONS = overloads("convolution", "_convolution")
# Product -> place of its left matrix among the arguments.
PRODUCTS = {
    **dict.fromkeys(overloads("mm", "bmm", "mv", "dot"), 0),
    **dict.fromkeys(overloads("addmm", "baddbmm", "addbmm", "addmv"), 1),
}
OTHER_PRODUCTS = overloads(
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)
NORMS = overloads(
    "batch_norm",
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm",
    "native_layer_norm",
    "native_group_norm",
)
RELUS = overloads("relu")
ACTIVATIONS = overloads(
    "hardtanh", "leaky_relu", "elu", "gelu", "silu", "mish", "softplus", "sigmoid", "hardsigmoid", "hardswish", "tanh",
    "_prelu_kernel", "prelu", "_softmax", "clamp", "clamp_min", "threshold",
)  # fmt: skip
POOLS = overloads("avg_pool2d", "max_pool2d_with_indices", "max_pool2d", "avg_pool1d", "avg_pool3d")
FOLDABLE = ACTIVATIONS - overloads("_softmax")
# What autograd keeps for the backward pass: the result, the input, or both factors; and where a maximum was found.
KEEP_RESULT = RELUS | overloads("sigmoid", "tanh", "_softmax")
FACTORS = overloads("mul", "div")
WITH_PLACES = overloads("max_pool2d_with_indices", "adaptive_max_pool2d")
ADAPTIVE_POOLS = overloads("_adaptive_avg_pool2d", "adaptive_max_pool2d")
KEEP_INPUT = CONVOLUTIONS | set(PRODUCTS) | NORMS | POOLS | ADAPTIVE_POOLS | (ACTIVATIONS - KEEP_RESULT)
KINDS = {
    **dict.fromkeys(overloads("add", "sum"), "add"),
    **dict.fromkeys(overloads("cat", "stack"), "cat"),
    **dict.fromkeys(
        overloads(
            "upsample_bilinear2d", "upsample_nearest2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
            "_upsample_nearest_exact2d", "_upsample_bicubic2d_aa",
        ),
        "resize",
    ),
}  # fmt: skip
