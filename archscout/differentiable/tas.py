"""TAS: widths and depths of a residual network by sampled candidates, towards a target of operations."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from archscout.differentiable.bilevel import Settings, signature_of, train_supernet
from archscout.differentiable.choice import one_hot, relax, softmax
from archscout.differentiable.darts import Found, falling, with_more
from archscout.errors import UserError
from archscout.fit import Part
from archscout.selection.selector import Selector
from archscout.space import Arch, SearchSpace

log = logging.getLogger("archscout")


def tas(
    space: SearchSpace,
    weight_data: Part,
    arch_data: Part,
    *,
    target: float | None,
    seed: int = 0,
    mean: Any,
    std: Any,
    tolerance: float = 0.05,
    strength: float = 2.0,
    temperature: tuple[float, float] = (5.0, 0.1),
    decide: Literal["expected", "largest"] = "expected",
    selector: Selector | None = None,
    arch_selector: Selector | None = None,
    penalty: Callable[[Tensor], Tensor] | None = None,
    settings: Settings | None = None,
    threads: int = 1,
    device: str = "cpu",
    checkpoint: Any = None,
    audit_every: float | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    ends: Callable[[], bool] = lambda: False,
    **more: Any,
) -> Found:
    """Searches the shape of a network under a target of multiply-adds by transformable architecture search.

    space:        one that supports "tas" (resnet_shape).
    target:       wanted share of the multiply-adds of the full network, above 0 and below 1; None for no target.
    tolerance:    relative distance from the target that costs nothing.
    strength:     weight of the penalty: log of the expected multiply-adds above the band, minus it below.
    temperature:  of the Gumbel sampling, at the beginning and at the end.
    decide:       "expected" takes of each decision the option nearest to the mean under the softmax of its alphas, as
                  the penalty does. "largest" takes that of the largest weight, as published: right after
                  hundreds of epochs; where weights are still nearly even, it is chance.
    penalty:      softmax of the alphas -> what is added to the architecture loss besides, such as an expected latency
                  over its limit.
    settings:     see bilevel.Settings; **more are single fields of it.

    Of each decision two options are drawn per step and mixed by channel-wise interpolation. What is derived is brought
    into the band, if it is not there, by the smallest steps away from it, see `into_band`, which raises UserError where
    no network is small enough. Final training by distillation from the full network: fit(...,
    teacher=...), or `archscout train --recipe tas --teacher RUN`. Costs two candidates' forward and backward on each
    side per step. Source: Dong and Yang 2019, arXiv:1905.09717.
    """
    if (target is not None and not 0 < target < 1) or not 0 < tolerance < 1:
        raise UserError(f"tas wants target and tolerance between 0 and 1, got {target} and {tolerance}")
    if decide not in ("expected", "largest"):
        raise UserError(f"tas wants decide to be expected or largest, got {decide}")
    heat, merits_of = falling(temperature), nearness if decide == "expected" else log_weights
    settings = with_more(settings or Settings(lr=0.1, weight_decay=5e-4, arch_lr=1e-3), more)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = relax(space, "tas")
    wanted = None if target is None else target * full_macs(network)

    def steered(choice: Tensor) -> Tensor:
        extra = choice.sum() * 0 if penalty is None else penalty(choice)
        if wanted is None:
            return extra
        return extra + strength * outside(network.expected_macs(choice) / wanted, tolerance)

    def chooser(logits: Tensor, generator: torch.Generator, progress: float) -> Tensor:
        return two_of(logits, heat(progress), generator)

    mine = {
        "name": "tas", "space": space.name, "target": target, "tolerance": tolerance, "strength": strength,
        "temperature": tuple(temperature), "penalty": signature_of(penalty), "decide": decide,
    }  # fmt: skip
    story = train_supernet(
        network, weight_data, arch_data, settings, seed=seed, mean=mean, std=std, selector=selector,
        arch_selector=arch_selector, chooser=chooser, merits=merits_of, penalty=steered, method=mine, threads=threads,
        device=device, checkpoint=checkpoint, audit_every=audit_every, on_progress=on_progress, ends=ends,
    )  # fmt: skip
    with torch.no_grad():
        merits = merits_of(network.logits())
    if wanted is None:
        arch = network.derive(merits)
    else:
        arch = into_band(network, merits, wanted * (1 - tolerance), wanted * (1 + tolerance))
    return Found(arch, network, story, merits.exp().cpu())


def outside(share: Tensor, tolerance: float) -> Tensor:
    """How far a cost, as a share of its target, is outside the band 1 +- tolerance: |log share|, and 0 inside."""
    inside = abs(float(share.detach()) - 1) <= tolerance
    return share * 0 if inside else torch.log(share).abs()


def full_macs(network: Any) -> float:
    """Multiply-adds of the widest and deepest network."""
    widest = torch.zeros_like(network.logits())
    last = torch.isfinite(network.logits()).sum(1) - 1
    widest[torch.arange(len(last)), last] = 1.0
    with torch.no_grad():
        return float(network.expected_macs(widest))


def two_of(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Two options per decision drawn without replacement, weighted by their Gumbel-softmax, the others zero.

    A decision of one option has that one.
    """
    uniform = torch.rand(logits.shape, generator=generator).clamp_(1e-9, 1 - 1e-7).to(logits.device)
    noisy = (logits.log_softmax(-1) - torch.log(-torch.log(uniform))) / temperature
    best = noisy.topk(min(2, noisy.shape[-1]), -1).indices
    mask = torch.zeros_like(noisy, dtype=torch.bool).scatter(-1, best, True) & torch.isfinite(logits)
    return noisy.masked_fill(~mask, -torch.inf).softmax(-1)


def log_weights(logits: Tensor) -> Tensor:
    """The logarithms of the softmax of the logits, -27.6 at least."""
    return softmax(logits).clamp(min=1e-12).log()


def nearness(logits: Tensor) -> Tensor:
    """Minus the squared distance of each option (decisions, options) from the mean under the softmax of the logits.

    In steps of options, which are evenly apart; -inf for options that a decision does not have.
    """
    places = torch.arange(logits.shape[1], device=logits.device, dtype=logits.dtype)
    mean = (softmax(logits) * places).sum(1, keepdim=True)
    return (-(places - mean).square()).masked_fill(~torch.isfinite(logits), -torch.inf)


def into_band(network: Any, merits: Tensor, low: float, high: float) -> Arch:
    """The architecture of the largest merits, moved into a band of multiply-adds where it is outside.

    merits: (decisions, options), what speaks for an option, such as its log weight.

    Step by step the decision changes to its neighbouring option (narrower or wider, shallower or deeper) that loses
    least merit, among the steps that do not pass the band by. Where all of them do, a decision may rise past it and
    stays there, for others to come down. Where that does not end inside either, the walk ends below the band, never
    above it, at the nearest network that it met, and a warning says so. Raises UserError where it meets none.
    """
    merits = merits.detach()
    finite = torch.isfinite(network.logits().detach())
    picked = merits.argmax(1).tolist()

    def cost(options: list[int]) -> float:
        return float(network.expected_macs(one_hot(options, merits.shape[1]).to(merits)))

    Move = tuple[float, int, list[int], float]  # the merit it loses, decision, options, multiply-adds
    now, risen = cost(picked), set[int]()
    below: list[tuple[list[int], float]] = []  # where a decision rose past the band
    while not low <= now <= high:
        way = -1 if now > high else 1
        moves: list[Move] = []
        passing: list[Move] = []
        for decision, option in enumerate(picked):
            new = option + way
            if decision in risen:
                continue
            if 0 <= new < merits.shape[1] and bool(finite[decision, new]):
                trial = [*picked[:decision], new, *picked[decision + 1 :]]
                changed = cost(trial)
                if changed == now:
                    continue
                passes = changed < low if way < 0 else changed > high
                price = float(merits[decision, option] - merits[decision, new])
                (passing if passes else moves).append((price, decision, trial, changed))
        if moves:
            _, _, picked, now = min(moves, key=lambda move: move[:2])
            continue
        if way < 0:
            ends = [(one, changed) for _, _, one, changed in passing] + below
            if not ends:
                raise UserError(
                    f"the smallest network that tas can reach has {now:.4g} multiply-adds, above the {high:.4g} that "
                    "the target allows; raise the target"
                )
            picked, now = max(ends, key=lambda end: end[1])
        elif passing:
            below.append((picked, now))
            _, decision, picked, now = min(passing, key=lambda move: move[:2])
            risen.add(decision)
            continue
        log.warning("tas ends at %.4g multiply-adds: no step leads between %.4g and %.4g", now, low, high)
        break
    return network.derive(one_hot(picked, merits.shape[1]))
