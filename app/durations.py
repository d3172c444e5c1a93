"""Durations as people write them: seconds, or "90s", "5m", "1h30m"."""

import math
import re

#: What stays for ever. Every negative duration becomes it.
FOR_EVER = -1.0

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_WHOLE = re.compile(rf"(-?)((?:{_PART.pattern})+)")


def seconds_of(value: object) -> float:
    """Seconds; FOR_EVER for anything negative. Raises ValueError."""
    seconds = _number(value)
    if seconds is None or not math.isfinite(seconds):
        raise ValueError('a duration is a number of seconds, or a text such as "90s", "5m", "1h30m"; -1 is for ever')
    return seconds if seconds >= 0 else FOR_EVER


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    if not isinstance(value, str) or len(value) > 40:
        return None
    text = value.strip().lower()
    whole = _WHOLE.fullmatch(text)
    if whole is None:
        return _plain(text)
    size = sum(float(count) * _UNITS[unit] for count, unit in _PART.findall(whole[2]))
    return -size if whole[1] else size


def _plain(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
