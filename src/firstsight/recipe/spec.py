"""`@spec`: a frozen dataclass that checks the names and types of its fields.

So a mistake in a study is an error at its own line, with the field and what is legal, not a failure of a later step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache, wraps
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, dataclass_transform, get_args, get_origin, get_type_hints

from firstsight.errors import FieldError
from firstsight.units import Share, Tokens

T = TypeVar("T")

OMITTED_AT_DEFAULT: Mapping[str, Any] = MappingProxyType({"omitted_at_default": True})
"""Metadata of a field that JSON lacks where it has its default, so that older recipes keep their addresses."""

_SIMPLE_TYPES: dict[Any, tuple[tuple[type, ...], str]] = {
    Share: ((Share,), "a Share, such as Share(1, 2)"),
    Tokens: ((int,), "a whole number of tokens, such as Tokens(28_000)"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "text"),
    bool: ((bool,), "True or False"),
    NoneType: ((NoneType,), "None"),
}
"""The classes of each type's values, and how a message calls them."""


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def spec(spec_class: type[T]) -> type[T]:
    """A frozen dataclass with keyword-only fields; FieldError for an unknown, a missing or a wrong one."""
    checked_class = cast(Any, dataclass(frozen=True, kw_only=True, slots=True)(spec_class))
    initialize: Callable[..., None] = checked_class.__init__

    @wraps(initialize)
    def check_and_initialize(self: Any, *values: Any, **named: Any) -> None:
        check_fields(checked_class, values, named)
        initialize(self, **{name: _as_declared(checked_class, name, value) for name, value in named.items()})

    checked_class.__init__ = check_and_initialize
    return checked_class


def _as_declared(spec_class: type, name: str, value: Any) -> Any:
    """The value as a float where the field is one: 1 and 1.0 are equal, so they must have one address."""
    return float(value) if type(value) is int and field_types(spec_class)[name] in (float, float | None) else value


def check_fields(spec_class: type, values: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Raise FieldError where the arguments of a spec's class are not exactly its fields, with values of their types."""
    known: tuple[Field[Any], ...] = tuple(item for item in fields(spec_class) if item.init)
    names, title = [item.name for item in known], spec_class.__name__
    legal = f"Its fields: {', '.join(names)}."
    if values:
        raise FieldError(f"{title}: wanted every field by its name. Got {_shorten(values[0])}. {legal}")
    if unknown := [name for name in named if name not in names]:
        raise FieldError(f"{title} has no field {unknown[0]!r}. {legal}")
    optional = {item.name for item in known if item.default is not MISSING or item.default_factory is not MISSING}
    if missing := [name for name in names if name not in named and name not in optional]:
        raise FieldError(f"{title}: wanted a value of {', '.join(missing)}. Got none. {legal}")
    for name, value in named.items():
        kind = field_types(spec_class)[name]
        if not matches(value, kind):
            former = getattr(spec_class, "FORMER_WORDS", {}).get(value) if isinstance(value, str) else None
            advice = f" {former!r} was formerly called {value!r}." if former else ""
            raise FieldError(f"{title}.{name}: wanted {describe(kind)}. Got {_shorten(value)}.{advice}")


@cache
def field_types(spec_class: type) -> dict[str, Any]:
    """The types of a dataclass's fields, by name, with annotations evaluated."""
    return get_type_hints(spec_class)


def matches(value: object, kind: Any) -> bool:
    """Whether a value has a type; kinds of types that specs do not use match everything."""
    arguments = get_args(kind)
    if kind in _SIMPLE_TYPES:
        return isinstance(value, _SIMPLE_TYPES[kind][0]) and (kind is bool or not isinstance(value, bool))
    if get_origin(kind) in (Union, UnionType):
        return any(matches(value, choice) for choice in arguments)
    if get_origin(kind) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if get_origin(kind) is tuple and isinstance(value, tuple):
        items = cast(tuple[object, ...], value)
        kinds = arguments[:1] * len(items) if arguments[-1] is Ellipsis else arguments
        return len(kinds) == len(items) and all(map(matches, items, kinds))
    expected = get_origin(kind) or kind
    return not isinstance(expected, type) or isinstance(value, expected)


def describe(kind: Any) -> str:
    """What a field of that type may be, as in messages."""
    if kind in _SIMPLE_TYPES:
        return _SIMPLE_TYPES[kind][1]
    if get_origin(kind) is Literal:
        return " or ".join(repr(choice) for choice in get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(dict.fromkeys(describe(choice) for choice in get_args(kind)))
    if get_origin(kind) is tuple:
        items = [describe(item) for item in get_args(kind) if item is not Ellipsis]
        return f"a tuple of: {', '.join(items)}"
    return getattr(kind, "__name__", str(kind))


def check_positive(value: object, names: Iterable[str]) -> None:
    """Raise FieldError where one of the named fields of a spec is below 1."""
    for name in names:
        if getattr(value, name) < 1:
            raise FieldError(f"{type(value).__name__}.{name}: wanted at least 1. Got {getattr(value, name):,}.")


def check_name(value: object, *names: str) -> None:
    """Raise FieldError where one of the named fields of a spec cannot be part of a file's name or of a command."""
    for name in names:
        text = getattr(value, name)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text) or ".." in text:
            wanted = "a letter or digit, then letters, digits, - _ and ., but not .."
            raise FieldError(
                f"{type(value).__name__}.{name}: wanted a name for files and commands ({wanted}). Got {text!r}."
            )


def _shorten(value: object) -> str:
    """A value as in a message; large ones by their type."""
    text = repr(value)
    return text if len(text) <= 60 else f"{type(value).__name__}: {text[:50]}..."
