"""Numbers and names as a reader wants them: digits, units, durations, and labels that plotly reads as text."""

# ruff: noqa: RUF001 (typographic minus, dash and times are meant)

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from archscout.costs.limits import IN_BYTES

BASE_UNITS = {"latency": "ms", "energy": "mJ", "power": "W"}


def digits(value: Any, count: int = 3) -> str:
    """A number with `count` significant digits, or a dash for what is no finite number."""
    if not is_number(value):
        return "–"
    if value == 0:
        return "0"
    size = int(f"{value:.{count - 1}e}".partition("e")[2])
    if size < -4 or size >= 9:
        return f"{value:.{count - 1}e}".replace("-", "−")
    return f"{value:,.{max(0, count - 1 - size)}f}".replace("-", "−")


def percent(value: Any, decimals: int = 1) -> str:
    """A share 0..1 in percent, or a dash."""
    return f"{100 * value:.{decimals}f}\u00a0%".replace("-", "−") if is_number(value) else "–"


def duration(seconds: Any) -> str:
    """Seconds as people say them, in at most two units, or a dash."""
    if not is_number(seconds):
        return "–"
    if seconds < 60:
        return f"{digits(seconds, 2 if seconds < 10 else 3)} s"
    total = round(seconds)
    hours, minutes = total // 3600, total % 3600 // 60
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {total % 60:02d} s"


def quantity(value: Any, name: str) -> str:
    """A cost with its unit in the size people read: '1.23 M', '4.56 MB', '7.89 ms'; a dash if it is no number."""
    if not is_number(value):
        return "–"
    if name in BASE_UNITS:
        return f"{digits(value)}\u00a0{BASE_UNITS[name]}"
    if name in IN_BYTES:
        return in_bytes(value)
    if name in ("params", "macs", "flops"):
        return _scaled(value, "")
    if name in ("accuracy", "balanced_accuracy"):
        return percent(value)
    return digits(value, 4)


def count(value: Any) -> str:
    """A count as people write it, 12,345, or a dash; what is not whole keeps up to three digits."""
    if not is_number(value):
        return "–"
    return f"{int(value):,}" if value == int(value) else f"{value:.3g}"


def in_bytes(value: Any) -> str:
    return _scaled(value, "B") if is_number(value) else "–"


def _scaled(value: float, unit: str) -> str:
    for prefix, step in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 0.9995 * step:
            return f"{digits(value / step)}\u00a0{prefix}{unit}"
    return f"{digits(value)}\u00a0{unit}".strip()


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return value


def role_words(role: Any) -> str:
    names = {
        "finalist": "finalist",
        "largest": "largest allowed network (a control)",
        "random": "random network (a control)",
        "baseline": "plain baseline (a control)",
    }
    return names.get(str(role), str(role or ""))


def plain_words(value: Any) -> str:
    """A setting as text: a bool as yes or no, a number unchanged, anything else as it prints."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if is_number(value):
        return f"{value:,}" if isinstance(value, int) else f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(plain_words, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {plain_words(entry)}" for key, entry in value.items())
    return "–" if value is None else str(value)


def label_text(text: Any, width: int = 0) -> str:
    """Text for plotly, which reads pseudo-HTML and `%{...}`: every active character as an entity, cut to `width`."""
    text = str(text)
    if width and len(text) > width:
        text = text[: width - 1] + "…"
    text = re.sub(r"[\x00-\x1f\x7f\u2028\u2029]", " ", text)
    return re.sub(r"[&<>%\"'${}]", lambda found: f"&#{ord(found[0])};", text)


def wrapped_label(text: str, width: int = 56, lines: int = 4) -> str:
    """A long text for a hover box, broken into lines."""
    parts = [text[at : at + width] for at in range(0, len(text), width)] or [""]
    if len(parts) > lines:
        parts = [*parts[: lines - 1], parts[lines - 1][: width - 1] + "…"]
    return "<br>".join(map(label_text, parts))


def shortened(value: Any) -> Any:
    """A number with four significant digits, to keep the page small; None if there is none."""
    return float(f"{value:.4g}") if is_number(value) else None
