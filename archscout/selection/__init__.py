"""Selectors: what chooses the training images of the next round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from archscout.naming import find
from archscout.selection.dds import Dds
from archscout.selection.disagreement import Disagreement
from archscout.selection.el2n import El2n
from archscout.selection.entropy import Entropy
from archscout.selection.fixed import Fixed
from archscout.selection.full import Full
from archscout.selection.hard_random import HardRandom
from archscout.selection.infobatch import InfoBatch
from archscout.selection.kcentre import KCentre
from archscout.selection.loader import made_by
from archscout.selection.proportional import Proportional
from archscout.selection.random import Random
from archscout.selection.redrawn import Redrawn
from archscout.selection.selector import Labelled, Record, Selector

SELECTORS: dict[str, Callable[..., Selector]] = {
    "full": Full,
    "dds": Dds,
    "disagreement": Disagreement,
    "hard_random": HardRandom,
    "random": Random,
    "fixed": Fixed,
    "redrawn": Redrawn,
    "kcentre": KCentre,
    "entropy": Entropy,
    "el2n": El2n,
    "infobatch": InfoBatch,
    "proportional": Proportional,
}


def make_selector(
    select: Any, part: Labelled, *, seed: int, share: float, cache: Any = None, answers: Any = None
) -> Selector | None:
    """The selector of a name or factory for a part, or None for "full".

    cache: folder of the embedding, for selectors that compare images.  answers: what several networks answered, as
    {answers, asked}, for selectors that compare networks.
    """
    if select == "full":
        return None
    make = find("selector", select, SELECTORS)
    more = {"cache": cache} if cache is not None and getattr(make, "embeds", False) else {}
    if answers is not None and getattr(make, "compares", False):
        more |= answers
    return made_by(make, part, seed=seed, share=share, **more)


__all__ = ["SELECTORS", "Record", "Selector", "make_selector"]
