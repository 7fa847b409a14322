"""Exact quantities: a budget is a whole number of tokens, a share is a fraction; neither is a float."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import NewType

from firstsight.errors import QuantityError

Tokens = NewType("Tokens", int)
Steps = NewType("Steps", int)

_SUFFIX = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_BYTE_UNITS = (("PB", 10**15), ("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3), ("B", 1))
_SECONDS = {"d": 86_400, "h": 3_600, "min": 60, "m": 60, "s": 1}
_NUMBER = re.compile(r"(\d[\d_,]*(?:\.\d+)?)\s*([kMBT]?)")


class Share(Fraction):
    """An exact part of a whole, from 0 to 1 inclusive. Prints as a percentage."""

    def __new__(cls, numerator: int | str | Fraction = 0, denominator: int | None = None) -> Share:
        share = super().__new__(cls, Fraction(numerator), denominator)
        if not 0 <= share <= 1:
            raise QuantityError(f"a share is between 0 and 1 (0 % and 100 %). Got {Fraction(share)}.")
        return share

    def __str__(self) -> str:
        percent = Fraction(self) * 100
        return f"{percent.numerator} %" if percent.denominator == 1 else f"{float(percent):.4g} %"

    def __format__(self, format_spec: str) -> str:
        """`str` in the given width; Fraction would print 1/5 here from Python 3.12 on."""
        return format(str(self), format_spec)


def parse_share(text: str) -> Share:
    """Read "10%", "1/8" or "0.1" exactly; raises QuantityError for anything else."""
    stripped = text.strip()
    try:
        return Share(Fraction(stripped[:-1].strip()) / 100) if stripped.endswith("%") else Share(Fraction(stripped))
    except (ValueError, ZeroDivisionError):
        raise QuantityError(f"wanted a share such as 10%, 1/8 or 0.1. Got {text!r}.") from None


def parse_tokens(text: str) -> Tokens:
    """Read "28B", "1.4M" or "28_795_904_000" as a whole number of tokens."""
    if not (match := _NUMBER.fullmatch(text.strip())):
        raise QuantityError(f"wanted a number of tokens such as 28B or 600_000. Got {text!r}.")
    token_count = Fraction(match[1].replace("_", "").replace(",", "")) * _SUFFIX[match[2]]
    if token_count.denominator != 1:
        raise QuantityError(f"wanted a whole number of tokens. Got {text!r} = {float(token_count)}.")
    return Tokens(int(token_count))


def parse_bytes(text: str) -> int:
    """Read "64 MB" or "1.5 GB" as a number of bytes; QuantityError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(PB|TB|GB|MB|kB|B)", text.strip())
    count = Fraction(match[1]) * dict(_BYTE_UNITS)[match[2]] if match else Fraction(1, 2)
    if count.denominator != 1:
        raise QuantityError(f"wanted a size such as 64 MB or 1.5 GB. Got {text!r}.")
    return int(count)


def parse_duration(text: str) -> float:
    """Read "2h", "1.5h", "90 min", "1h30min", "45s" or "3d" as seconds above 0; QuantityError for anything else."""
    parts = re.fullmatch(r"((\d+(?:\.\d+)?)\s*(?:d|h|min|m|s)\s*)+", text.strip())
    numbers = re.findall(r"(\d+(?:\.\d+)?)\s*(d|h|min|m|s)", text) if parts else []
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in numbers)
    if not 0 < seconds < math.inf:
        raise QuantityError(f"wanted a time above 0 such as 2h, 90min or 1h30min. Got {text!r}.")
    return seconds


def format_count(count: int | float) -> str:
    """Three digits and a suffix: 28795904000 becomes 28.8B."""
    for suffix, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{suffix}" if count < 1000 * size else f"{count / size:,.0f}{suffix}"
    return f"{count:.3g}" if isinstance(count, float) else str(count)


def format_bytes(count: int) -> str:
    """Three digits and a unit: 3102720 becomes 3.1 MB."""
    suffix, size = next((unit for unit in _BYTE_UNITS if count >= unit[1]), _BYTE_UNITS[-1])
    return f"{count / size:.3g} {suffix}" if size > 1 else f"{count} B"
