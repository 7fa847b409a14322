"""Digests that stand for the user's own data and weights in addresses, instead of their name or path.

A source that is read in two ways (its real captions alone, or with synthetic captions too) has a digest for each way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from firstsight.recipe.mixture import External, Recaptioned
from firstsight.recipe.serialize import to_json

ContentIds = Mapping[str, str]
"""Digest of content by `content_key`."""

SYNTHETIC_SUFFIX = " with synthetic captions"


def content_key(source: External | Recaptioned) -> str:
    """The key of a source's digest in ContentIds."""
    return source.external.name + SYNTHETIC_SUFFIX if isinstance(source, Recaptioned) else source.name


def json_with_digests(spec: object, content_ids: ContentIds) -> Any:
    """Canonical JSON of a spec in which digests replace names; a name without a digest stays."""
    return _replace_names(to_json(spec), content_ids, suffix="")


def names_without_digest(spec: object, content_ids: ContentIds) -> frozenset[str]:
    """The names in a spec that have no digest."""
    return frozenset(_external_names(json_with_digests(spec, content_ids)))


def _replace_names(value: Any, content_ids: ContentIds, *, suffix: str) -> Any:
    if isinstance(value, list):
        return [_replace_names(item, content_ids, suffix=suffix) for item in cast(list[Any], value)]
    if not isinstance(value, dict):
        return value
    body = cast(dict[str, Any], value)
    if body["type"] == External.TAG and (digest := content_ids.get(body["name"] + suffix)):
        return {"type": External.TAG, "form": body["form"], "digest": digest}
    suffix = SYNTHETIC_SUFFIX if body["type"] == Recaptioned.TAG else ""
    return {key: _replace_names(item, content_ids, suffix=suffix) for key, item in body.items()}


def _external_names(value: Any) -> Iterator[str]:
    body = cast(dict[str, Any], value) if isinstance(value, dict) else {}
    if body.get("type") == External.TAG and "name" in body:
        yield body["name"]
    for item in cast(list[Any], value) if isinstance(value, list) else body.values():
        yield from _external_names(item)
