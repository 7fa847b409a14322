"""What the user's own data and weights are known by: a digest of their content, never their name or place.

A source that is read in two ways (its real captions alone, or with synthetic ones beside them) is two contents, so it
has a digest for each way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from firstsight.recipe.canon import encode
from firstsight.recipe.mix import Named, Recaptioned

Identities = Mapping[str, str]
"""Digest of content by `known_as`."""

SYNTHETIC = " with synthetic captions"


def known_as(source: Named | Recaptioned) -> str:
    """The key under which a source's digest stands."""
    return source.named.name + SYNTHETIC if isinstance(source, Recaptioned) else source.name


def identified(spec: object, identities: Identities) -> Any:
    """Canonical JSON of a spec with digests in the place of names; a name without a digest stays."""
    return _walk(encode(spec), identities, suffix="")


def unidentified(spec: object, identities: Identities) -> frozenset[str]:
    """Names in a spec that no digest stands for."""
    return frozenset(_names(identified(spec, identities)))


def _walk(value: Any, identities: Identities, *, suffix: str) -> Any:
    if isinstance(value, list):
        return [_walk(item, identities, suffix=suffix) for item in cast(list[Any], value)]
    if not isinstance(value, dict):
        return value
    body = cast(dict[str, Any], value)
    if body.get("type") == "Named":
        digest = identities.get(body["name"] + suffix)
        return body if digest is None else {"type": "Named", "form": body["form"], "digest": digest}
    inner = SYNTHETIC if body.get("type") == "Recaptioned" else ""
    return {key: _walk(item, identities, suffix=inner) for key, item in body.items()}


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in cast(list[Any], value):
            yield from _names(item)
    elif isinstance(value, dict):
        body = cast(dict[str, Any], value)
        if body.get("type") == "Named" and "name" in body:
            yield body["name"]
        for item in body.values():
            yield from _names(item)
