"""What a person may change of how a supernet is searched, as texts like `beta=0.3`: names and kinds, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from archscout.differentiable.bilevel import Settings
from archscout.errors import UserError, unknown

#: fields of Settings that a person sets; the others follow from the images, the device and the time
SETTINGS = (
    "epochs", "batch_size", "lr", "lr_end", "momentum", "weight_decay", "clip", "arch_lr", "arch_decay", "order",
    "beta", "wait", "every", "stop_skips", "patience", "shift",
)  # fmt: skip
#: arguments of each method besides -> what they may be: a kind of number, or words
ARGUMENTS: dict[str, dict[str, Any]] = {
    "darts": {"sample": ("softmax", "gumbel"), "decide": ("largest", "perturbation", "zero-shot")},
    "pdarts": {"most_skips": int, "wait": float},
    "tas": {"tolerance": float, "strength": float, "decide": ("expected", "largest")},
}
#: and between which numbers
RANGES = {"most_skips": (0, 1000), "wait": (0, 1), "tolerance": (0, 1), "strength": (0, 1e6)}
AIM = ("limit", "target")  # costs may be below their limits, or are also drawn up to them
ARCH_IMAGES = ("chosen", "all")  # of the half that the architecture learns from, where a selector was asked for
WORDS = {"aim": AIM, "arch_images": ARCH_IMAGES}
KINDS: dict[str, Any] = dict.fromkeys(("batch_size", "every", "stop_skips", "shift"), int)
ORDERS = (1, 2, "difference")


def parse_options(given: Iterable[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Names and values from texts like "beta=0.3", or a mapping; numbers are made of what looks like one.

    Raises UserError for a text without "=", and for a name that is given twice.
    """
    if isinstance(given, Mapping):
        return {str(name): number(value) for name, value in given.items()}
    found: dict[str, Any] = {}
    for text in [given] if isinstance(given, str) else given:
        name, equals, value = (str(part).strip() for part in str(text).partition("="))
        if not equals or not name or not value:
            raise UserError(f"'{text}' sets nothing: wanted NAME=VALUE, type for example beta=0.3")
        if name in found:
            raise UserError(f"'{name}' of the supernet was given twice")
        found[name] = number(value)
    return found


def number(value: Any) -> Any:
    """The number that a text is, else the text."""
    for kind in (int, float):
        try:
            return kind(value) if isinstance(value, str) else value
        except ValueError:
            continue
    return value


@dataclass(frozen=True)
class Asked:
    """What a person asked of a supernet: fields of Settings, arguments of the method, and see AIM and ARCH_IMAGES."""

    fields: dict[str, Any]
    arguments: dict[str, Any]
    aim: str = AIM[0]
    arch_images: str = ARCH_IMAGES[0]


def sorted_out(method: str, given: Mapping[str, Any]) -> Asked:
    """Options for a method, sorted by what they are of.

    Raises UserError for a name that the method does not have, with those it has, and for a value of another kind.
    """
    own = ARGUMENTS.get(method, {})
    fields: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    words: dict[str, str] = {}
    for name, value in given.items():
        if name in own:
            arguments[name] = of_kind(name, value, own[name])
            low, high = RANGES.get(name, (0, 0))
            if name in RANGES and not low <= arguments[name] < high:
                raise UserError(f"supernet option {name}={value}: wanted from {low:g} to below {high:g}")
        elif name in WORDS:
            words[name] = of_kind(name, value, WORDS[name])
        elif name in SETTINGS:
            fields[name] = of_kind(name, value, ORDERS if name == "order" else KINDS.get(name, float))
        else:
            raise unknown(f"option of the supernet of {method}", name, (*own, *WORDS, *SETTINGS))
    Settings(**{**asdict(Settings()), **fields})  # refuses what is out of range
    return Asked(fields, arguments, **words)


def of_kind(name: str, value: Any, kind: Any) -> Any:
    """The value as the kind that an option has. Raises UserError if it is none."""
    if isinstance(kind, tuple):
        if value in kind:
            return value
        raise UserError(f"supernet option {name}={value}: wanted one of {', '.join(map(str, kind))}")
    plain = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    if not plain or kind(value) != value:
        raise UserError(f"supernet option {name}={value}: wanted a{' whole' if kind is int else ''} number")
    return kind(value)
