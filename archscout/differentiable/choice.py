"""The relaxation that all differentiable searches share: a choice among options becomes weights on all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from archscout.errors import UserError
from archscout.space import Arch, SearchSpace


@runtime_checkable
class Supernet(Protocol):
    """A network that holds every architecture of a space, mixed by a choice.

    alphas:    the architecture parameters, one row per decision.
    logits:    the alphas (decisions, options), -inf where a decision does not have an option.
    forward:   (images (N, C, H, W), choice (decisions, options)) -> logits (N, classes). With a one-hot choice it
               computes what the discrete network of that choice computes with the same weights.
    derive:    choice -> Arch, by the rule of the space (the largest per decision, unless the space says otherwise).
    discrete:  Arch -> the network of the space with the supernet's weights in it.

    Where the rows of a choice are not the decisions of the space, it has too: `chosen`, Arch -> float (decisions,
    options), one at what the architecture has; where derive keeps only some decisions: `rivals`, groups of decisions of
    which it keeps two, and `never`, the option it never takes. Where options are skip connections: `skips`, Arch -> how
    many its cell has, and `edges`, of how many. `labels`, the names of its rows and of their options, are for reports.
    For pdarts, see Progressive.
    """

    alphas: nn.Parameter

    def logits(self) -> Tensor: ...

    def __call__(self, images: Tensor, choice: Tensor) -> Tensor: ...

    def derive(self, choice: Tensor) -> Arch: ...

    def discrete(self, arch: Arch) -> nn.Module: ...


@runtime_checkable
class Progressive(Supernet, Protocol):
    """What pdarts wants of a supernet besides; it makes one with the options `cells` and `allowed` for each stage.

    allowed:       per decision, the options that it has; its logits are -inf elsewhere.
    cells_in_all:  how many cells the network has.
    is_skip:       (decision, option) -> whether that is a skip connection that the cap counts.
    forward:       takes skip_keep too: for each cell float (decisions, N), by which the skips of an image are
                   multiplied; None for ones.
    """

    allowed: Sequence[Sequence[int]]
    cells_in_all: int
    edges: int

    def skips(self, arch: Arch) -> int: ...

    def is_skip(self, decision: int, option: int) -> bool: ...


def relax(space: SearchSpace, method: str, **options: Any) -> Any:
    """The supernet of a space for a differentiable method; see require_supernet for what it raises."""
    require_supernet(space, method)
    return (space.relax_of or {})[method](**options)


def require_supernet(space: SearchSpace, method: str) -> None:
    """Raises UserError where a space has no supernet for a method, with the spaces that have one."""
    if method not in (space.relax_of or {}):
        able = supported(method)
        mend = f"add --space {'nasbench201' if 'nasbench201' in able else able[0]}: " if able else ""
        raise UserError(
            f"{mend}{method} cannot search space '{space.name}'; it can search {', '.join(able) or 'no space'}. "
            "A space of your own supports it by relax_of={'" + method + "': function of a supernet}"
        )


def supported(method: str) -> list[str]:
    """The names of the spaces that a method can search."""
    from archscout.spaces import SPACES

    return [name for name, make in SPACES.items() if method in (make((3, 32, 32), 10).relax_of or {})]


def softmax(alphas: Tensor) -> Tensor:
    """Every option weighted by the softmax of its logit (DARTS; Liu et al. 2019, arXiv:1806.09055)."""
    return alphas.softmax(-1)


def gumbel(alphas: Tensor, temperature: float, generator: torch.Generator, hard: bool = False) -> Tensor:
    """A sample of the Gumbel-softmax distribution; `hard` makes it one-hot and keeps its gradient.

    softmax((log p + g) / temperature) with g = -log(-log u), u uniform (Jang et al. 2017, arXiv:1611.01144; as search:
    Dong and Yang 2019, arXiv:1910.04465).
    """
    uniform = torch.rand(alphas.shape, generator=generator).clamp_(1e-9, 1 - 1e-7).to(alphas.device)
    soft = ((alphas.log_softmax(-1) - torch.log(-torch.log(uniform))) / temperature).softmax(-1)
    if not hard:
        return soft
    return one_hot(soft.argmax(-1), soft.shape[-1]).to(soft) + soft - soft.detach()


def one_hot(options: Tensor | Sequence[int], count: int) -> Tensor:
    """Float (decisions, count): weight one on an option of each decision."""
    return nn.functional.one_hot(torch.as_tensor(options, dtype=torch.int64), count).float()


def chosen(supernet: Any, arch: Arch, count: int) -> Tensor:
    """Float (decisions, count): one at each option that an architecture has, zero elsewhere."""
    return supernet.chosen(arch) if hasattr(supernet, "chosen") else one_hot(arch, count)


def labels_of(space: SearchSpace, supernet: Any) -> list[tuple[str, list[str]]]:
    """The name of each row of a choice and the names of its options."""
    if hasattr(supernet, "labels"):
        return list(supernet.labels)
    return [
        (name, [f"{option:g}" if isinstance(option, float) else str(option) for option in options])
        for name, options in space.choices.items()
    ]


def entropy(choice: Tensor) -> float:
    """The mean entropy over decisions in nats, as a share of that of equal weights: 1 undecided, 0 decided."""
    chance = choice.detach().double()
    options = (chance > 0).sum(-1).clamp(min=2).double()
    return float((torch.special.entr(chance).sum(-1) / options.log()).mean())


def weights_of(supernet: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained on the weight data: all but the alphas."""
    return [p for name, p in supernet.named_parameters() if name != "alphas"]
