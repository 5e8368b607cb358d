"""Architectures and search spaces: named decisions plus a function that builds an ordinary network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from torch import nn

from archscout.errors import UserError
from archscout.naming import calling, full

Arch = tuple[int, ...]
Shape = tuple[int, int, int]
FACTORY = "a function (input_shape, classes) -> SearchSpace"


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """A set of networks: decisions with options, and the function that builds the network of a choice.

    A space of your own is one call of this class; everything but the first five fields has a default.

    name:          one word, the registry key.
    input_shape:   (channels, height, width) of one image.
    classes:       number of outputs.
    choices:       decision -> its options; an Arch holds one option index per decision, in this order.
    build_from:    picks (decision -> option) -> nn.Module mapping (N, C, H, W) to logits (N, classes). A pure
                   function: the same picks and the same torch seed give the same network.
    canonical_of:  arch -> the representative of all architectures with the same computation and weight sharing
                   (scores and costs are shared under it). Must be idempotent and set inactive decisions to zero.
    function_of:   arch -> text equal for architectures that can represent the same function; default: the text of
                   the canonical form.
    format_of, parse_of:  arch <-> text; default "3-0-1". parse_of raises UserError for what is not in the space.
    notation_of:   arch -> the text that other programs read, where it is not that of format; optional.
    describe:      arch -> JSON-able picture for the report, see page/network.py; optional.
    distinct:      number of canonical architectures where known.
    sample_of:     how a random canonical architecture is drawn; default: every raw choice equally likely.
    typical:       canonical architectures as a person would draw them, of every size; what a search proposes first.
    kinds:         decisions whose options make networks of different kinds, which proxies compare badly: the
                   verification gets the best of each.
    relax_of:      differentiable method -> function that makes a supernet of this space; see differentiable.choice.
    remake:        (factory, arguments) by which another process makes this space again; set by `portable`.
    """

    name: str
    input_shape: Shape
    classes: int
    choices: Mapping[str, tuple[Any, ...]]
    build_from: Callable[[dict[str, Any]], nn.Module]
    canonical_of: Callable[[Arch], Arch] | None = None
    function_of: Callable[[Arch], str] | None = None
    format_of: Callable[[Arch], str] | None = None
    parse_of: Callable[[str], Arch] | None = None
    notation_of: Callable[[Arch], str] | None = None
    describe: Callable[[Arch], dict[str, Any]] | None = None
    distinct: int | None = None
    sample_of: Callable[[np.random.Generator], Arch] | None = None
    typical: tuple[Arch, ...] = ()
    kinds: tuple[str, ...] = ()
    relax_of: Mapping[str, Callable[..., nn.Module]] | None = None
    remake: tuple[Callable[..., SearchSpace], tuple[Any, ...]] | None = None

    def __reduce__(self) -> Any:
        if self.remake:
            return portable, self.remake
        return super().__reduce__()

    def __post_init__(self) -> None:
        if not self.choices or any(len(options) == 0 for options in self.choices.values()):
            raise UserError(f"space '{self.name}' needs at least one decision, each with at least one option")

        if unknown := set(self.kinds) - set(self.choices):
            raise UserError(f"space '{self.name}' has no decision {', '.join(sorted(unknown))}, which its kinds name")

    @property
    def size(self) -> int:
        """Number of raw architectures (the product of the option counts)."""
        return math.prod(len(options) for options in self.choices.values())

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """The number of options of each decision."""
        return tuple(len(options) for options in self.choices.values())

    def __contains__(self, arch: object) -> bool:
        if not isinstance(arch, tuple) or len(arch) != len(self.widths):
            return False
        for index, width in zip(arch, self.widths, strict=True):
            if not isinstance(index, int) or not 0 <= index < width:
                return False
        return True

    def require(self, arch: Arch) -> Arch:
        """The same architecture, or a UserError that says why it is not of this space."""
        if arch not in self:
            widths = [len(options) for options in self.choices.values()]
            raise UserError(f"{arch!r} is no architecture of space '{self.name}': wanted indices below {widths}")
        return arch

    @cached_property
    def _kind_spots(self) -> tuple[int, ...]:
        return tuple(list(self.choices).index(name) for name in self.kinds)

    def kind(self, arch: Arch) -> tuple[int, ...]:
        """The indices of the options of an architecture in the decisions that are `kinds`; empty where none are."""
        return tuple(arch[spot] for spot in self._kind_spots)

    def __iter__(self) -> Iterator[Arch]:
        """Every raw architecture, in lexicographic order; lazily, since a space can be astronomically large."""
        return product(*(range(len(options)) for options in self.choices.values()))

    def decode(self, arch: Arch) -> dict[str, Any]:
        """The picks of an architecture: decision -> option."""
        self.require(arch)
        return {name: options[i] for i, (name, options) in zip(arch, self.choices.items(), strict=True)}

    def encode(self, picks: Mapping[str, Any]) -> Arch:
        """The architecture of some picks; the inverse of decode."""
        if set(picks) != set(self.choices):
            raise UserError(f"space '{self.name}' wants picks for {list(self.choices)}, got {list(picks)}")
        for name, options in self.choices.items():
            if picks[name] not in options:
                raise UserError(f"space '{self.name}': {name} is one of {list(options)}, got {picks[name]!r}")
        return tuple(options.index(picks[name]) for name, options in self.choices.items())

    def build(self, arch: Arch) -> nn.Module:
        """A freshly initialised network of an architecture, drawing from torch's current random state."""
        return self.build_from(self.decode(arch))

    def canonical(self, arch: Arch) -> Arch:
        """The representative of an architecture: same computation, same weight sharing, same costs and scores."""
        self.require(arch)
        return self.canonical_of(arch) if self.canonical_of else arch

    def function_key(self, arch: Arch) -> str:
        """A text that architectures share when they can represent the same function. For reporting and for folds."""
        return self.function_of(arch) if self.function_of else self.format(self.canonical(arch))

    def format(self, arch: Arch) -> str:
        """The text of an architecture, one line without commas or quotes."""
        self.require(arch)
        return self.format_of(arch) if self.format_of else "-".join(map(str, arch))

    def notation(self, arch: Arch) -> str:
        """The text by which other programs know an architecture: the space's usual notation, else that of format."""
        self.require(arch)
        return self.notation_of(arch) if self.notation_of else self.format(arch)

    def parse(self, text: str) -> Arch:
        """The architecture of a text; the inverse of format. Raises UserError for anything else."""
        text = text.strip()
        if self.parse_of:
            return self.require(self.parse_of(text))
        try:
            arch = tuple(int(part) for part in text.split("-"))
        except ValueError:
            raise UserError(
                f"'{text[:80]}' is no architecture of space '{self.name}': wanted "
                f"{len(self.choices)} numbers joined by '-', like {self.format((0,) * len(self.choices))}"
            ) from None
        return self.require(arch)

    def sample(self, rng: np.random.Generator) -> Arch:
        """A random architecture in canonical form: from `sample_of`, or every raw choice equally likely."""
        if self.sample_of:
            return self.sample_of(rng)
        return self.canonical(tuple(int(rng.integers(len(options))) for options in self.choices.values()))

    def mutate(self, arch: Arch, rng: np.random.Generator) -> Arch:
        """A canonical architecture that differs from `arch` by one changed decision.

        Tries a bounded number of times to differ from `arch` also in canonical form.
        """
        self.require(arch)
        base, open_ = self.canonical(arch), [i for i, width in enumerate(self.widths) if width > 1]
        if not open_:
            return base
        child = base
        for _ in range(32):
            spot = int(rng.choice(open_))
            shift = int(rng.integers(1, self.widths[spot]))
            value = (arch[spot] + shift) % self.widths[spot]
            child = self.canonical((*arch[:spot], value, *arch[spot + 1 :]))
            if child != base:
                break
        return child

    def neighbours(self, arch: Arch) -> Iterator[Arch]:
        """Every canonical architecture one decision away, each once, without `arch` itself."""
        self.require(arch)
        seen = {self.canonical(arch)}
        for spot, options in enumerate(self.choices.values()):
            for value in range(len(options)):
                near = self.canonical((*arch[:spot], value, *arch[spot + 1 :]))
                if near not in seen:
                    seen.add(near)
                    yield near


def portable(factory: Callable[..., SearchSpace], arguments: tuple[Any, ...]) -> SearchSpace:
    """The space `factory(*arguments)`, which travels to another process as that call instead of as closures.

    Raises UserError where a factory of a person's own fails, or gives no space.
    """
    if not callable(factory):
        raise UserError(f"a space is wanted as {FACTORY}; got {type(factory).__name__}")
    with calling("space", factory, FACTORY):
        made = factory(*arguments)
    if not isinstance(made, SearchSpace):
        raise UserError(f"space '{full(factory)}' gave {type(made).__name__}; wanted {FACTORY}")
    return replace(made, remake=(factory, arguments))
