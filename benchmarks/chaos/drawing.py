"""Reports without drawn figures: drawing would take most of the time of a command that runs a tiny study."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

_RESULTS = {"javascript_bundle": "", "vegalite_to_svg": "<svg/>", "svg_to_png": b"PNG"}


def without_drawing() -> AbstractContextManager[Any]:
    """A context in which the drawing functions of vl_convert return empty figures."""
    functions: dict[str, Any] = {name: lambda *_, result=result, **__: result for name, result in _RESULTS.items()}
    return patch.multiple("vl_convert", **functions)
