"""DARTS: every option of every decision at once, weighted, and the weights of the options learned by gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from archscout.differentiable.bilevel import Settings, Story, of_first, plain_softmax, train_supernet
from archscout.differentiable.choice import gumbel, relax, softmax
from archscout.differentiable.zero_shot import by_zero_shot, settled_among
from archscout.errors import UserError
from archscout.fit import Part, normaliser
from archscout.seeds import generator_of
from archscout.selection.selector import Selector
from archscout.space import Arch, SearchSpace


@dataclass(frozen=True)
class Found:
    """What a differentiable search gives: the architecture, the supernet it was derived from, and how it went.

    choice:     what the method decided by, float (decisions, options) on the CPU; the larger, the better.
    options:    those with which choice.relax makes such a supernet again.
    most_skips: how many skips the method allows an architecture, None where it does not count them.
    """

    arch: Arch
    supernet: Any
    story: Story
    choice: Tensor
    options: dict[str, Any] = field(default_factory=dict)
    most_skips: int | None = None


def darts(
    space: SearchSpace,
    weight_data: Part,
    arch_data: Part,
    *,
    seed: int = 0,
    mean: Any,
    std: Any,
    selector: Selector | None = None,
    arch_selector: Selector | None = None,
    sample: Literal["softmax", "gumbel"] = "softmax",
    temperature: tuple[float, float] = (10.0, 0.1),
    decide: Literal["largest", "perturbation", "zero-shot"] = "largest",
    penalty: Callable[[Tensor], Tensor] | None = None,
    supernet: dict[str, Any] | None = None,
    settings: Settings | None = None,
    threads: int = 1,
    device: str = "cpu",
    checkpoint: Any = None,
    audit_every: float | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    ends: Callable[[], bool] = lambda: False,
    **more: Any,
) -> Found:
    """Searches a space by DARTS; one supernet is trained, and one architecture derived from it.

    space:        one that supports "darts"; see choice.relax.
    weight_data, arch_data:  disjoint parts of the training images.
    selector, arch_selector:  what of them is used, in rounds; default all.
    sample:       "softmax" mixes all options; "gumbel" draws one per decision and step, at a temperature that falls
                  geometrically (Dong and Yang 2019, arXiv:1910.04465).
    decide:       "largest" takes the option of the largest weight. "perturbation" takes, decision by decision, the one
                  whose removal raises the loss on architecture images most (Wang et al. 2021, arXiv:2108.04392).
                  "zero-shot" takes, of the architectures that the largest weights gave in the second half of the
                  search, the one that the proxies rank first: a remedy where a short search still wavers.
    penalty:      softmax of the alphas -> what is added to the architecture loss, such as an expected latency.
    supernet:     options of the space's supernet. settings: see bilevel.Settings; **more are single fields of it.

    One step costs a forward and backward of the supernet on weight images and one on architecture images; order 2 about
    three times that. Known to collapse into skip connections: the story says how many there are; `beta`, `stop_skips`,
    "gumbel", "perturbation" and "zero-shot" are remedies. Source: Liu, Simonyan and Yang 2019, arXiv:1806.09055.
    """
    settings = with_more(settings or Settings(), more)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = relax(space, "darts", **(supernet or {}))
    chooser = plain_softmax if sample == "softmax" else gumbel_chooser(temperature)
    mine: dict[str, Any] = {"name": "darts", "space": space.name, "sample": sample, "supernet": supernet or {}}
    if sample == "gumbel":
        mine["temperature"] = tuple(temperature)
    story = train_supernet(
        network, weight_data, arch_data, settings, seed=seed, mean=mean, std=std, selector=selector,
        arch_selector=arch_selector, chooser=chooser, penalty=penalty, method=mine, threads=threads, device=device,
        checkpoint=checkpoint, audit_every=audit_every, on_progress=on_progress, ends=ends,
    )  # fmt: skip
    with torch.no_grad():
        choice = softmax(network.logits())
    if decide == "perturbation":
        choice = by_perturbation(network, choice, arch_data, mean=mean, std=std, seed=seed, device=device)
    arch = network.derive(choice)
    if decide == "zero-shot":
        among = settled_among(space, story, arch)
        arch, _ = by_zero_shot(space, among, arch_data, mean=mean, std=std, seed=seed, device=device)
    arch = of_first(arch)
    return Found(arch, network, story, choice.cpu(), dict(supernet or {}))


def with_more(settings: Settings, more: dict[str, Any]) -> Settings:
    """The settings with some fields replaced; raises UserError for a name that is no field."""
    names = [f.name for f in fields(Settings)]
    for name in more:
        if name not in names:
            raise UserError(f"a differentiable search has no setting '{name}'; it has {', '.join(names)}")
    return replace(settings, **more)


def falling(temperature: tuple[float, float]) -> Callable[[float], float]:
    """Progress from 0 to 1 -> a temperature that falls geometrically from the first to the second number."""
    high, low = temperature
    if not 0 < low <= high:
        raise UserError(f"the temperature falls from a number to a smaller one above 0, got {high} and {low}")
    return lambda progress: high * (low / high) ** progress


def gumbel_chooser(temperature: tuple[float, float]) -> Callable[[Tensor, torch.Generator, float], Tensor]:
    """A choice that draws one option per decision, at a temperature that falls from the first to the second number."""
    heat = falling(temperature)

    def choose(logits: Tensor, generator: torch.Generator, progress: float) -> Tensor:
        return gumbel(logits, heat(progress), generator, hard=True)

    return choose


@torch.no_grad()
def by_perturbation(
    network: Any, choice: Tensor, part: Part, *, mean: Any, std: Any, seed: int, device: str, images: int = 512
) -> Tensor:
    """A one-hot choice: per decision the option whose removal raises the loss on some images most.

    Decisions are taken one after another in a random order, and what is decided stays. An option that the supernet
    never derives is out from the start; of rival decisions (see choice.Supernet) the two stay whose removal raises the
    loss most, the rows of the others are zero. Costs one forward of `images` images per option.
    """
    draw = generator_of(seed, 4)
    rows = torch.randperm(len(part), generator=draw)[:images]
    _, pixels, labels = part.batch(rows.numpy())
    inputs = normaliser(mean, std, device)(pixels)

    def loss_of(given: Tensor) -> float:
        return float(torch.nn.functional.cross_entropy(network(inputs, given).float().cpu(), labels))

    result = choice.clone()
    if hasattr(network, "never"):
        result[:, network.never] = 0.0
        result /= result.sum(1, keepdim=True)
    for decision in torch.randperm(len(choice), generator=draw).tolist():
        options = (result[decision] > 0).nonzero().squeeze(1).tolist()
        without = []
        for option in options:
            given = result.clone()
            given[decision, option] = 0.0
            given[decision] /= given[decision].sum().clamp(min=1e-12)
            without.append(loss_of(given))
        result[decision] = 0.0
        result[decision, options[max(range(len(options)), key=lambda i: without[i])]] = 1.0
    for rivals in getattr(network, "rivals", ()):
        losses = {}
        for decision in rivals:
            given = result.clone()
            given[decision] = 0.0
            losses[decision] = loss_of(given)
        for decision in sorted(rivals, key=lambda decision: -losses[decision])[2:]:
            result[decision] = 0.0
    return result
