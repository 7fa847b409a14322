"""Numbers as text: the one way in which pages, figures and terminal output print scores, intervals and times."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil

from firstsight.evaluate.statistics.bootstrap import Interval


def format_percent(share: float | None, digits: int = 1) -> str:
    """A share of 1 in percent, without the sign: 53.1; an empty string for None."""
    return "" if share is None else _with_minus(f"{100 * share:.{digits}f}")


def format_points(difference: float) -> str:
    """A difference of shares in points with its sign: +2.1; 0.0 has none."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else _with_minus(text)


def format_interval(interval: Interval) -> str:
    """An interval of differences in points: +0.3 to +4.1."""
    return f"{format_points(interval[0])} to {format_points(interval[1])}"


def format_p_value(p_value: float | None, family_size: int = 1) -> str:
    """A p-value and the number of comparisons it is corrected for: p = 0.013 after Holm for 5. None counts as 1."""
    p_value = 1.0 if p_value is None else p_value
    text = f"p = {p_value:.2g}" if p_value >= 0.0001 else "p < 0.0001"
    return f"{text} after Holm for {family_size}" if family_size > 1 else text


def format_score(score: float) -> str:
    """The score of a single answer, without trailing zeros: 1, 0.5, 0.33."""
    return f"{score:.2f}".removesuffix("0").removesuffix(".0")


def format_duration(seconds: float) -> str:
    """Seconds in a unit that fits: 42 s, 9.5 min, 31 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.3g} h"


def join_names(names: Sequence[str]) -> str:
    """Names as a list in a sentence: a, b or c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def axis_limit(differences: Iterable[float]) -> float:
    """Half the width of an axis centred on 0 that contains all `differences`: a multiple of 5 points, at least 5."""
    return 0.05 * ceil(max([0.01, *map(abs, differences)]) / 0.05 - 1e-9)


def _with_minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")
