"""Hard images stay, mastered ones are replaced at random: dds without its similarity index."""

from __future__ import annotations

from typing import Any

from archscout.selection.dds import Dds
from archscout.selection.selector import Labelled


class HardRandom(Dds):
    """As dds, but a mastered image gives way to a random one of its class; the control that shows what the index adds.

    Takes the settings of Dds, without an embedding. Costs one permutation of the images per update.
    """

    name = "hard_random"
    embeds = False
    replacement = "random"

    def __init__(self, part: Labelled, **settings: Any) -> None:
        super().__init__(part, **{**settings, "embedding": None, "cache": None})
