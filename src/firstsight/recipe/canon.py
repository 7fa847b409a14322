"""Specs as canonical JSON and back: the one form that addresses are digests of."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from typing import Any, cast

from firstsight.errors import QuantityError, UnknownName
from firstsight.recipe import lm, mix, model, schedule, stages, vision
from firstsight.units import Share

SPECS: dict[str, type] = {
    name: kind
    for module in (lm, mix, vision, model, schedule, stages)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and is_dataclass(kind)
}


def encode(value: object) -> Any:
    """A spec as plain JSON: dataclasses carry their type's name, shares stay exact fractions."""
    if is_dataclass(value) and not isinstance(value, type):
        body = {field.name: encode(getattr(value, field.name)) for field in fields(value)}
        return {"type": type(value).__name__, **body}
    if isinstance(value, Share):
        return {"type": "Share", "value": f"{value.numerator}/{value.denominator}"}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in cast(list[Any], value)]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise QuantityError(f"a spec holds numbers, words, shares and specs. Got {type(value).__name__}: {value!r}.")


def decode(value: Any) -> Any:
    """The spec that `encode` wrote; UnknownName for a type that this version does not know."""
    if isinstance(value, list):
        return tuple(decode(item) for item in cast(list[Any], value))
    if not isinstance(value, dict):
        return value
    body = cast(dict[str, Any], value)
    name: str = body["type"]
    if name == "Share":
        return Share(str(body["value"]))
    if name not in SPECS:
        raise UnknownName("spec", name, SPECS)
    return SPECS[name](**{key: decode(item) for key, item in body.items() if key != "type"})


def dumps(value: object) -> str:
    """Canonical text: sorted keys, no spaces, the same for equal specs on every machine."""
    return json.dumps(encode(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
