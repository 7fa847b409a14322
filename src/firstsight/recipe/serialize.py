"""Specs as canonical JSON and back. Addresses are digests of this JSON.

A spec class is named in JSON by its `TAG`, never by its class name: `{"type": "midtrain", ...}`. So a class may be
renamed without moving an address or breaking a stored checkpoint. A tag is unique and never changes: all are listed in
tests/golden/tags.txt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import Field, fields, is_dataclass
from functools import cache
from typing import Any, cast

from firstsight.errors import QuantityError, UnknownName
from firstsight.recipe import analysis, mixture, model, schedule, stages, study, vision
from firstsight.recipe.spec import OMITTED_AT_DEFAULT
from firstsight.units import Share

SPEC_CLASSES: dict[str, type] = {
    str(vars(spec_class)["TAG"]): spec_class
    for module in (mixture, vision, model, schedule, stages, analysis, study)
    for spec_class in vars(module).values()
    if isinstance(spec_class, type) and "TAG" in vars(spec_class)
}


_PLAIN_TYPES = frozenset((str, int, float, bool, type(None)))


def to_json(value: object) -> Any:
    """A spec as plain JSON: a dataclass as an object with its tag, a share as an exact fraction.

    Fields with the metadata `spec.OMITTED_AT_DEFAULT` are left out where they have their default.
    """
    if type(value) in _PLAIN_TYPES:  # most values of a spec
        return value
    spec_fields = _spec_fields(type(value))
    if spec_fields is not None:
        present = [field for field in spec_fields if not _is_omitted(field, getattr(value, field.name))]
        body = {field.name: to_json(getattr(value, field.name)) for field in present}
        return {"type": str(vars(type(value))["TAG"]), **body}
    if isinstance(value, Share):
        return {"type": "share", "value": f"{value.numerator}/{value.denominator}"}
    if isinstance(value, Mapping):
        return {"type": "mapping", **{key: to_json(item) for key, item in cast(Mapping[str, Any], value).items()}}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in cast(list[Any], value)]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise QuantityError(f"a spec contains numbers, text, shares and specs. Got {type(value).__name__}: {value!r}.")


@cache
def _spec_fields(value_class: type) -> tuple[Field[Any], ...] | None:
    """The fields of a dataclass; None of another class."""
    return fields(value_class) if is_dataclass(value_class) else None


def _is_omitted(field: Field[Any], value: object) -> bool:
    return bool(field.metadata) and OMITTED_AT_DEFAULT.items() <= field.metadata.items() and value == field.default


def from_json(value: Any) -> Any:
    """The spec of a value that `to_json` returned; UnknownName for a tag that this version lacks."""
    if isinstance(value, list):
        return tuple(from_json(item) for item in cast(list[Any], value))
    if not isinstance(value, dict):
        return value
    body = cast(dict[str, Any], value)
    tag: str = body["type"]
    if tag == "share":
        return Share(str(body["value"]))
    if tag not in SPEC_CLASSES and tag != "mapping":
        raise UnknownName("spec", tag, SPEC_CLASSES)
    values = {key: from_json(item) for key, item in body.items() if key != "type"}
    return values if tag == "mapping" else SPEC_CLASSES[tag](**values)


def find_specs(value: object, classes: tuple[type, ...]) -> Iterator[Any]:
    """The specs of some classes in a value, in order; those inside one of them are left out."""
    if isinstance(value, classes):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in cast(list[Any], value):
            yield from find_specs(item, classes)
    else:
        for field in _spec_fields(type(value)) or ():
            yield from find_specs(getattr(value, field.name), classes)


def canonical_json(value: Any) -> str:
    """Plain JSON as canonical text: sorted keys, no spaces, the same for equal values on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
