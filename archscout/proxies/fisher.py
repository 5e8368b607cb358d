"""How much the loss would change without single channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from archscout.probe import CONVOLUTIONS, NotDefined, Pass, Probe, Proxy, Quantity


def channel_saliency(run: Pass) -> Callable[[], float]:
    """The sum over layers of fan-in times the sum over channels of half the mean over images of (sum of a dL/da)^2."""
    found: list[float] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        kept = output.detach()
        fan_in = module.weight[0].numel()  # type: ignore[index]

        def reduce(gradient: Tensor) -> None:
            if run.stage == "objective":
                product = kept * gradient.detach()
                product = product.movedim(1, -1) if isinstance(module, CONVOLUTIONS) else product
                channels = product.reshape(len(kept), -1, product.shape[-1]).sum(1)
                found.append(fan_in * float(channels.double().square().sum()) / (2 * len(kept)))

        if output.requires_grad:
            output.register_hook(reduce)

    run.after(keep, *CONVOLUTIONS, nn.Linear)

    def finish() -> float:
        assert run.gradients
        return sum(found)

    return finish


SALIENCY = (Quantity(channel_saliency, derivative=True, reads=("gradients",)), "batch0")


def fisher(probe: Probe) -> float:
    """The Fisher pruning score: sum over layers and channels of fan-in * 1/2 mean_n (sum_hw a dL/da)^2.

    a: outputs of convolutions and linear layers, of image n at place hw; L: mean cross-entropy of one batch, batch
    normalisation in train mode; fan-in: weights per output channel. The paper scores channels. The released code of the
    proxy writes a channel's score to each of its weights and sums those: hence the fan-in, which published scores have.
    Turner et al. 2020, arXiv 1906.04113; summed over the network by Abdelfattah et al. 2021, arXiv 2101.08134.
    Data: one batch with labels. Larger is better. Scale: squared loss; divides by the square of the batch size, so
    compare only under one. Cost: one forward, one backward. Fails at the top as `grad_norm` does.
    """
    value: float = probe[SALIENCY]
    if value == 0:
        raise NotDefined("no channel matters: the loss does not depend on any output of a layer")
    return value


PROXY = Proxy(
    fisher,
    (SALIENCY,),
    paper="Turner et al. 2020, arXiv 1906.04113; Abdelfattah et al. 2021, arXiv 2101.08134",
    cost="one forward, one backward",
)
