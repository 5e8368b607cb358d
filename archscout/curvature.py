"""The second derivative along the weights, carried along by one forward and one backward.

A pass that carries a derivative computes, beside every value, how fast that value changes as all weights w grow at the
rate w (forward-mode differentiation). The backward of such a pass leaves the gradients g and their rate of change H w,
exactly. PyTorch's own rules for it are complete but slow for the operations that fill a convolutional network, so
convolution, batch normalisation in train mode and ReLU have rules here; everything else uses PyTorch's.
Carrying the derivative costs four convolutions more where a forward and backward have three, and 2.5 times the memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function, forward_ad
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

ops: Any = torch.ops.aten


def forward_along(model: nn.Module, weights: Mapping[str, nn.Parameter], images: Tensor, spelled: bool) -> Any:
    """What the model returns for images, with its derivative along the named weights. Inside forward_ad.dual_level.

    spelled: whether functions that PyTorch differentiates only once are written out, which changes last digits.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of what PyTorch loads for it
        duals = {name: forward_ad.make_dual(weight, weight.detach()) for name, weight in weights.items()}
    with Rules(spelled), sdpa_kernel(SDPBackend.MATH) if spelled else nullcontext():
        return torch.func.functional_call(model, duals, (images,))


def backward_along(
    logits: Tensor, objective: Callable[[Tensor], Tensor], weights: Sequence[nn.Parameter], keep: bool
) -> list[tuple[Tensor | None, Tensor | None]]:
    """Per weight (gradient g, rate of change H w) of the objective of logits that `forward_along` made; None for zero.

    keep: whether the graph is needed again. Inside the same forward_ad.dual_level.
    """
    value, rate = forward_ad.unpack_dual(logits)
    value = value.detach().requires_grad_(True)
    with torch.enable_grad():
        (first,) = torch.autograd.grad(objective(value), [value], create_graph=True)
        slope = None
        if rate is not None and first.requires_grad:
            (slope,) = torch.autograd.grad(first, [value], rate.detach(), allow_unused=True)
    seed = first.detach()
    if rate is not None:
        seed = forward_ad.make_dual(seed, torch.zeros_like(seed) if slope is None else slope)
    found = torch.autograd.grad(logits, weights, seed, retain_graph=keep, allow_unused=True)
    return [(None, None) if each is None else tuple(forward_ad.unpack_dual(each)) for each in found]


class Rules(TorchFunctionMode):
    """Inside, the operations below run by the rules of this file."""

    def __init__(self, spelled: bool) -> None:
        super().__init__()
        self.spelled = spelled

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if func in CONVOLVE and len(args) == 7 and not given and not isinstance(args[4], str):
            if args[0].ndim == args[1].ndim:
                return Convolution.apply(func, *args)
        elif func is F.batch_norm and given.get("training") and args[0].numel() > args[0].shape[1]:
            weight, bias = given["weight"], given["bias"]
            weight = args[0].new_ones(args[0].shape[1]) if weight is None else weight
            bias = args[0].new_zeros(args[0].shape[1]) if bias is None else bias
            return Normalisation.apply(*args, weight, bias, given["momentum"], given["eps"])
        elif func is F.relu and not given.get("inplace"):
            return Rectifier.apply(args[0])
        elif func in WRITTEN and self.spelled:
            given.pop("inplace", None)
            return WRITTEN[func](*args, **given)
        return func(*args, **given)


def group_norm(x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    parts = x.reshape(len(x), groups, -1)
    centred = parts - parts.mean(2, keepdim=True)
    y = (centred * (centred.square().mean(2, keepdim=True) + eps).rsqrt()).reshape(x.shape)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    y = y if weight is None else y * weight.view(shape)
    return y if bias is None else y + bias.view(shape)


CONVOLVE = (torch.conv1d, torch.conv2d, torch.conv3d)
WRITTEN: dict[Any, Callable[..., Tensor]] = {
    F.hardsigmoid: lambda x: F.hardtanh(x + 3, 0, 6) / 6,
    F.silu: lambda x: x * torch.sigmoid(x),
    F.mish: lambda x: x * torch.tanh(F.softplus(x)),
    F.group_norm: group_norm,
}


class Convolution(Function):
    """y = w * x + b. Where w grows at the rate w, y grows at the rate w * x' + (y - b)."""

    @staticmethod
    def forward(ctx: Any, convolve: Any, x: Tensor, w: Tensor, b: Tensor | None, *how: Any) -> Tensor:
        y = convolve(x, w, b, *how)
        ctx.save_for_backward(x, w, b)
        ctx.save_for_forward(x, w, b)
        ctx.convolve, ctx.how, ctx.y = convolve, how, y.detach()
        ctx.set_materialize_grads(False)
        return y

    @staticmethod
    def jvp(ctx: Any, _: Any, x_rate: Tensor | None, w_rate: Tensor | None, b_rate: Tensor | None, *rest: Any) -> Any:
        _, w, b = ctx.saved_tensors
        y, ctx.y = ctx.y, None
        shape = (1, -1) + (1,) * (y.ndim - 2)
        rate: Any = None if x_rate is None else ctx.convolve(x_rate, w, None, *ctx.how)
        if w_rate is not None:
            rate = y.clone() if rate is None else rate.add_(y)
            rate = rate if b is None else rate.sub_(b.view(shape))
        return rate if b_rate is None else rate + b_rate.view(shape)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> Any:
        x, w, _ = ctx.saved_tensors
        mask = [wanted(node) for node, _ in ctx.next_functions[:2]]  # of x and w
        gx, gw = ConvolutionBackward.apply(gy, x, w, ctx.how, mask)
        gb = gy.transpose(0, 1).flatten(1).sum(1) if ctx.needs_input_grad[3] else None
        return None, gx, gw, gb, None, None, None, None


def wanted(node: Any) -> bool:
    """Whether the running backward reads what flows into a node; `ctx.needs_input_grad` says only whether one could."""
    if node is None or hasattr(node, "variable"):  # no derivative; a leaf, of which PyTorch does not say
        return node is not None
    ask = getattr(torch._C, "_will_engine_execute_node", None)
    return ask is None or ask(node)


def convolution_backward(gy: Tensor, x: Tensor, w: Tensor, how: Any, mask: Sequence[bool]) -> list[Tensor | None]:
    """The derivative by x and by w, or None where the mask says so."""
    stride, padding, dilation, groups = how
    zero = [0] * (x.ndim - 2)
    one = [[v] * len(zero) if isinstance(v, int) else v for v in (stride, padding, dilation)]
    return ops.convolution_backward(gy, x, w, None, *one, False, zero, groups, [*mask, False])[:2]


class ConvolutionBackward(Function):
    @staticmethod
    def forward(ctx: Any, gy: Tensor, x: Tensor, w: Tensor, how: Any, mask: Any) -> Any:
        ctx.gx, gw = convolution_backward(gy, x, w, how, mask)
        ctx.save_for_forward(gy, x, w)
        ctx.how, ctx.mask = how, mask
        ctx.set_materialize_grads(False)
        return ctx.gx, gw

    @staticmethod
    def jvp(ctx: Any, gy_rate: Tensor | None, x_rate: Tensor | None, w_rate: Tensor | None, *rest: Any) -> Any:
        gy, x, w = ctx.saved_tensors
        gx, ctx.gx = ctx.gx, None
        found: list[Any] = [None, None]
        if gy_rate is not None:
            found = list(convolution_backward(gy_rate, x, w, ctx.how, ctx.mask))
        if x_rate is not None and ctx.mask[1]:
            more = convolution_backward(gy, x_rate, w, ctx.how, (False, True))[1]
            found[1] = more if found[1] is None else found[1].add_(more)
        if w_rate is not None and gx is not None:
            found[0] = gx.clone() if found[0] is None else found[0].add_(gx)
        return tuple(found)


class Normalisation(Function):
    """Batch normalisation in train mode: y = w n + b, n = (x - m) / s with the batch's mean m and deviation s.

    Its Jacobian J = (w / s) (1 - mean - n mean(n .)) is symmetric, so the kernel of its backward serves forward too.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Any, variance: Any, w: Tensor, b: Tensor, momentum: float, eps: float
    ) -> Any:
        y, m, r = torch.native_batch_norm(x, w, b, mean, variance, True, momentum, eps)
        ctx.save_for_backward(x, w, m, r)
        ctx.save_for_forward(x, w, m, r)
        ctx.eps, ctx.means = eps, None
        ctx.set_materialize_grads(False)
        return y

    @staticmethod
    def jvp(ctx: Any, x_rate: Tensor | None, *rest: Any) -> Any:
        if x_rate is None:
            return None
        y_rate, along, mean = jacobian(x_rate, ctx.saved_tensors, ctx.eps)
        ctx.means = along, mean
        return y_rate

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> Any:
        gx, gw, gb = NormalisationBackward.apply(gy, *ctx.saved_tensors, ctx.eps, ctx.means)
        return gx, None, None, gw, gb, None, None


def jacobian(v: Tensor, saved: Sequence[Tensor], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(J v, sum n v, sum v), the sums per channel."""
    x, w, m, r = saved
    return ops.native_batch_norm_backward(v, x, w, None, None, m, r, True, eps, [True, True, True])


class NormalisationBackward(Function):
    """gx = J gy. Its rate is J gy' plus the rate of J, which follows from n' = J x' / w and s' = mean(n x')."""

    @staticmethod
    def forward(ctx: Any, gy: Tensor, x: Tensor, w: Tensor, m: Tensor, r: Tensor, eps: float, means: Any) -> Any:
        gx, gw, gb = jacobian(gy, (x, w, m, r), eps)
        ctx.save_for_forward(gy, x, w, m, r)
        ctx.eps, ctx.means, ctx.found = eps, means, (gx, gw, gb)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(gw, gb)
        return gx, gw, gb

    @staticmethod
    def jvp(ctx: Any, gy_rate: Tensor | None, x_rate: Tensor | None, *rest: Any) -> Any:
        gy, x, w, m, r = ctx.saved_tensors
        (gx, gw, gb), ctx.found = ctx.found, None
        rate = torch.zeros_like(gx) if gy_rate is None else jacobian(gy_rate, (x, w, m, r), ctx.eps)[0]
        if x_rate is None:
            return rate, None, None
        count = x.numel() // x.shape[1]
        product = ops.native_batch_norm_backward(  # sum of gy x', in one sweep
            gy, x_rate, w, None, None, torch.zeros_like(m), torch.ones_like(r), True, ctx.eps, [False, True, False]
        )[1]
        nx, mx, ny, my, xy = (each / count for each in (*ctx.means, gw, gb, product))
        shape = (1, -1) + (1,) * (x.ndim - 2)
        by_rate, by_x = -w * r * r * ny, w * r**3 * (2 * nx * ny + mx * my - xy)
        for value, factor in ((gx, -r * nx), (x_rate, by_rate), (x, by_x)):
            rate.addcmul_(value, factor.view(shape))
        return rate.sub_((by_rate * mx + by_x * m).view(shape)), None, None


class Rectifier(Function):
    """y = max(x, 0)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.relu(x)
        ctx.save_for_backward(y)
        ctx.y = y.detach()
        return y

    @staticmethod
    def jvp(ctx: Any, x_rate: Tensor) -> Tensor:
        y, ctx.y = ctx.y, None
        return ops.threshold_backward(x_rate, y, 0)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> Any:
        return RectifierBackward.apply(gy, ctx.saved_tensors[0].detach())


class RectifierBackward(Function):
    @staticmethod
    def forward(ctx: Any, gy: Tensor, y: Tensor) -> Tensor:
        ctx.y = y
        ctx.set_materialize_grads(False)
        return ops.threshold_backward(gy, y, 0)

    @staticmethod
    def jvp(ctx: Any, gy_rate: Tensor | None, _: Any) -> Any:
        return None if gy_rate is None else ops.threshold_backward(gy_rate, ctx.y, 0)
