"""The shipped studies: one module for each question, which has a function of its own name."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib import import_module

from firstsight.recipe.study import Study


def shipped_studies() -> list[str]:
    """The names of all shipped studies, as on the command line."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def shipped_function(name: str) -> Callable[..., Study]:
    """The function of a shipped study: `how_much` in the module `how_much` of the study how-much."""
    function = name.replace("-", "_")
    return getattr(import_module(f"{__name__}.{function}"), function)
