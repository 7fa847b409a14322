"""The fields in which two steps, arms or specs differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from firstsight.plan.step import Step, json_with_digests
from firstsight.recipe.serialize import to_json

ABSENT = "(absent)"
"""The value of a field that one side does not have."""
MAX_VALUE_WIDTH = 80
"""Characters of a printed value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldDifference:
    """One field in which two values differ."""

    path: str
    """Dotted: fields by name, items of a list by number, inputs of a step as `needs.<role>`."""
    first: Any
    second: Any

    def __str__(self) -> str:
        return f"{self.path}: {_shorten(_format_value(self.first))} | {_shorten(_format_value(self.second))}"


def field_differences(first: Any, second: Any) -> tuple[FieldDifference, ...]:
    """Every field in which two steps, arms or specs differ; a step's own fields first, then those of its inputs."""
    if isinstance(first, Step) and isinstance(second, Step):
        return tuple(_step_differences(first, second, path="", visited=set()))
    return tuple(_json_differences(to_json(first), to_json(second), path=""))


def _step_differences(
    first: Step, second: Step, *, path: str, visited: set[tuple[str, str]]
) -> Iterator[FieldDifference]:
    """Each pair of unequal steps is compared once, however many paths lead to it."""
    if first == second or (first.address, second.address) in visited:
        return
    visited.add((first.address, second.address))
    for name in ("kind", "version"):
        yield from _json_differences(getattr(first, name), getattr(second, name), path=_join(path, name))
    specs = [json_with_digests(step.spec, step.content_ids) for step in (first, second)]
    for difference in _json_differences(*specs, path=_join(path, "spec")):
        if "spec.pretrain." in difference.path:  # every segment of a trunk contains the same Pretrain
            key = (difference.path.rpartition("pretrain.")[2], f"{difference.first} {difference.second}")
            if key in visited:
                continue
            visited.add(key)
        yield difference
    roles = dict.fromkeys(role for step in (first, second) for role, _ in step.needs)
    for role in roles:
        parents = [step.parent(role) for step in (first, second)]
        role_path = _join(path, f"needs.{role}")
        if parents[0] and parents[1]:
            yield from _step_differences(parents[0], parents[1], path=role_path, visited=visited)
        else:
            addresses = [parent.address if parent else ABSENT for parent in parents]
            yield FieldDifference(path=role_path, first=addresses[0], second=addresses[1])


def _json_differences(first: Any, second: Any, *, path: str) -> Iterator[FieldDifference]:
    """Compare canonical JSON values field by field; 1, 1.0 and true are three values."""
    if json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True):
        return
    values, others = _children(first), _children(second)
    if not values or not others or values.get("type") != others.get("type"):
        yield FieldDifference(path=path, first=first, second=second)
        return
    for name in values | others:
        yield from _json_differences(values.get(name, ABSENT), others.get(name, ABSENT), path=_join(path, name))


def _children(value: Any) -> dict[str, Any]:
    """A spec's fields by name, a list's items by number; empty for a number, text or share."""
    if isinstance(value, dict):
        body = cast(dict[str, Any], value)
        return {} if body.get("type") == "share" else body
    items = cast(list[Any], value) if isinstance(value, list) else []
    return {str(index): item for index, item in enumerate(items)}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_VALUE_WIDTH else f"{text[: MAX_VALUE_WIDTH - 3]}..."


def _format_value(value: Any) -> str:
    """A canonical value: shares as fractions, specs as `tag(field=value, ...)`, text without quotes."""
    if isinstance(value, list):
        return f"[{', '.join(map(_format_value, cast(list[Any], value)))}]"
    if isinstance(value, dict):
        body = cast(dict[str, Any], value)
        fields = ", ".join(f"{name}={_format_value(item)}" for name, item in body.items() if name != "type")
        return str(body["value"]) if body["type"] == "share" else f"{body['type']}({fields})"
    return value if isinstance(value, str) else json.dumps(value)
