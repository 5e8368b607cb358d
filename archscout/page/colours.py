"""The colours of the figures, and what each role in the verification is drawn as."""

from __future__ import annotations

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # Okabe and Ito's palette, safe for colour-blind
PURPLE, SKY = "#CC79A7", "#56B4E9"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY)
ROLES = {"finalist": (BLUE, "circle"), "largest": (ORANGE, "square"), "random": (PURPLE, "diamond")}
ROLES["baseline"] = (GREEN, "triangle-up")
