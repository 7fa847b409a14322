"""What the user's own data and weights are known by: a digest of their content, never their name or place.

A source that is read in two ways (its real captions alone, or with synthetic ones beside them) is two contents, so it
has a digest for each way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from firstsight.recipe.mixture import External, Recaptioned
from firstsight.recipe.serialize import to_json

ContentIds = Mapping[str, str]
"""Digest of content by `known_as`."""

SYNTHETIC_SUFFIX = " with synthetic captions"


def content_key(source: External | Recaptioned) -> str:
    """The key under which a source's digest stands."""
    return source.external.name + SYNTHETIC_SUFFIX if isinstance(source, Recaptioned) else source.name


def json_with_digests(spec: object, content_ids: ContentIds) -> Any:
    """Canonical JSON of a spec with digests in the place of names; a name without a digest stays."""
    return _replace_names(to_json(spec), content_ids, suffix="")


def names_without_digest(spec: object, content_ids: ContentIds) -> frozenset[str]:
    """Names in a spec that no digest stands for."""
    return frozenset(_external_names(json_with_digests(spec, content_ids)))


def _replace_names(value: Any, content_ids: ContentIds, *, suffix: str) -> Any:
    if isinstance(value, list):
        return [_replace_names(item, content_ids, suffix=suffix) for item in cast(list[Any], value)]
    if not isinstance(value, dict):
        return value
    fields = cast(dict[str, Any], value)
    if fields.get("type") == External.TAG:
        digest = content_ids.get(fields["name"] + suffix)
        return fields if digest is None else {"type": External.TAG, "form": fields["form"], "digest": digest}
    child_suffix = SYNTHETIC_SUFFIX if fields.get("type") == Recaptioned.TAG else ""
    return {key: _replace_names(item, content_ids, suffix=child_suffix) for key, item in fields.items()}


def _external_names(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in cast(list[Any], value):
            yield from _external_names(item)
    elif isinstance(value, dict):
        fields = cast(dict[str, Any], value)
        if fields.get("type") == External.TAG and "name" in fields:
            yield fields["name"]
        for item in fields.values():
            yield from _external_names(item)
