"""Reading Vega-Lite specifications in tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Spec = dict[str, Any]


def nodes(part: Any) -> Iterator[Spec]:
    """Every object of a specification."""
    if isinstance(part, dict):
        yield part
    for item in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from nodes(item)


def layer_rows(spec: Spec, mark: str) -> list[list[Spec]]:
    """The rows of every layer with this mark."""
    layers = [node for node in nodes(spec) if isinstance(node.get("mark"), dict) and node["mark"]["type"] == mark]
    return [spec["datasets"][layer["data"]["name"]] if "data" in layer else [] for layer in layers]
