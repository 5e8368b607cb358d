"""Hard images stay, the others are replaced at random: dds without an embedding."""

from __future__ import annotations

from typing import Any

from archscout.selection.dds import Dds
from archscout.selection.selector import Labelled


class HardRandom(Dds):
    """As dds, but an image always gives way to a random one of its class; the control of dds with an embedding.

    By default dds draws at random too, so that both choose the same images. They differ where dds has `among` other
    than 1, and this shows what the embedding adds there. Takes the settings of Dds; of these `embedding`, `cache` and
    `among` have no effect. Costs one permutation of the images per update.
    """

    name = "hard_random"
    embeds = False
    replacement = "random"

    def __init__(self, part: Labelled, **settings: Any) -> None:
        super().__init__(part, **{**settings, "embedding": None, "cache": None})
