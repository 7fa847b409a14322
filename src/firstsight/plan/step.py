"""A step is a spec with what it needs; its address is a digest of both, so equal work has an equal address.

Paths, devices and worker counts never enter an address; the user's own data and weights enter by the digest of their
content, where it is known. Where the bytes that a kind of step leaves change for the same spec, its number in
`VERSIONS` is raised by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, cast

from firstsight.errors import RequestError, UnknownName
from firstsight.plan.content_ids import ContentIds, content_key, json_with_digests
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.mixture import External, Recaptioned, SyntheticCaptions
from firstsight.recipe.serialize import to_json
from firstsight.recipe.stages import Encode, Evaluate, Finetune, Midtrain, Prepare, TrunkSegment
from firstsight.units import Share

STEP_VERSIONS: dict[str, int] = {
    "named": 1,
    "vocabulary": 1,
    "texts": 1,
    "captions": 1,
    "dialogues": 1,
    "benchmarks": 1,
    "prepare": 2,
    "contrast": 1,
    "encode": 2,
    "pretrain": 2,
    "midtrain": 2,
    "finetune": 2,
    "evaluate": 2,
}

ABSENT = "(absent)"
"""Stands where one side of a difference has nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One piece of work: two steps are equal when their addresses are."""

    kind: str = field(compare=False)
    spec: Any = field(compare=False)
    """A spec of `firstsight.recipe`."""
    needs: tuple[tuple[str, Step], ...] = field(compare=False, default=())
    """What the handler reads, by role."""
    version: int = field(compare=False)
    content_ids: ContentIds = field(compare=False, default_factory=dict[str, str])
    """Digests of the named sources in the spec; a name without one stands for itself."""
    donor_model: LMSpec | None = field(compare=False, default=None)
    """The model that a donor declares for this checkpoint of its; the bytes themselves are what is identified."""
    address: str = field(init=False)

    def __post_init__(self) -> None:
        digest = sha256(self.canonical_identity().encode()).hexdigest()[:12]
        object.__setattr__(self, "address", f"{_slug(self.kind, self.spec, self.content_ids)}-{digest}")

    @property
    def slug(self) -> str:
        """The readable part of the address."""
        return self.address[:-13]

    def canonical_identity(self) -> str:
        """Everything that this step's identity hangs on, as one line of JSON."""
        identity = {
            "kind": self.kind,
            "spec": json_with_digests(self.spec, self.content_ids),
            "needs": {role: parent.address for role, parent in self.needs},
            "version": self.version,
        }
        return json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def parent(self, role: str) -> Step | None:
        """The step that stands in `role`, if any."""
        return dict(self.needs).get(role)


def find_address(prefix: str, addresses: Iterable[str]) -> str:
    """The one address that begins with `prefix`, or whose digest does; UnknownName or RequestError otherwise."""
    candidates = sorted(set(addresses))
    if prefix in candidates:
        return prefix
    matches = [address for address in candidates if address.startswith(prefix) or address[-12:].startswith(prefix)]
    if not matches:
        raise UnknownName("step", prefix, candidates)
    if len(matches) > 1:
        match_list = ", ".join(matches[:5]) + (", ..." if len(matches) > 5 else "")
        raise RequestError(
            f"{prefix!r} fits {len(matches)} steps: {match_list}. Write enough of one address to tell it apart."
        )
    return matches[0]


def _slug(kind: str, spec: Any, content_ids: ContentIds) -> str:
    """What a person recognises in a listing: the kind and the one setting that tells its siblings apart."""
    hint = _hint(spec, content_ids)
    return f"{kind}-{hint}" if hint and hint != kind else kind


def _hint(spec: Any, content_ids: ContentIds) -> str:
    match spec:
        case TrunkSegment():
            return f"{_percent(spec.start)}-{_percent(spec.end)}"
        case Midtrain():
            return (
                "staged-images"
                if isinstance(spec.mix.image_share, tuple)
                else f"{_percent(spec.mix.image_share)}-images"
            )
        case Finetune():
            return f"{spec.epochs}-epochs" if spec.epochs > 1 else "1-epoch"
        case Evaluate():
            return f"{len(spec.vision_tasks) + len(spec.text_tasks)}-tasks"
        case SyntheticCaptions():
            return spec.quality
        case External() | Recaptioned():
            return _external_hint(spec, content_ids)
        case Prepare(source=External() | Recaptioned() as source) | Encode(source=External() | Recaptioned() as source):
            return _external_hint(source, content_ids)
        case Prepare() | Encode():
            name = spec.source.TAG
            return "-".join(filter(None, (name, _hint(spec.source, content_ids))))
        case _:
            return ""


def _external_hint(source: External | Recaptioned, content_ids: ContentIds) -> str:
    """The user's name for a source as long as it stands for itself; its form once a digest does."""
    external = source.external if isinstance(source, Recaptioned) else source
    if content_key(source) in content_ids:
        return external.form
    return re.sub(r"[^a-z0-9.]+", "-", external.name.lower()).strip("-.")


def _percent(share: Share) -> str:
    return f"{float(share * 100):.4g}".replace(".", "p").rjust(3, "0")


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldDifference:
    """One field in which two values differ."""

    path: str
    """Dotted: fields by name, places in a list by number, parents as `needs.<role>`."""
    first: Any
    second: Any

    def __str__(self) -> str:
        return f"{self.path}: {_shorten_value(self.first)} | {_shorten_value(self.second)}"


def field_differences(first: Any, second: Any) -> tuple[FieldDifference, ...]:
    """Every field in which two steps, arms or specs differ, nearest first; steps are followed into what they need."""
    if isinstance(first, Step) and isinstance(second, Step):
        return tuple(_step_differences(first, second, path="", visited=set()))
    return tuple(_json_differences(to_json(first), to_json(second), path=""))


def _step_differences(
    first: Step, second: Step, *, path: str, visited: set[tuple[str, str]]
) -> Iterator[FieldDifference]:
    """Each pair of unequal steps is told once, however many ways lead to it."""
    if first == second or (first.address, second.address) in visited:
        return
    visited.add((first.address, second.address))
    for name in ("kind", "version"):
        yield from _json_differences(getattr(first, name), getattr(second, name), path=_join_path(path, name))
    first_spec, second_spec = (json_with_digests(step.spec, step.content_ids) for step in (first, second))
    for spec_difference in _json_differences(first_spec, second_spec, path=_join_path(path, "spec")):
        key = (
            f"pretrain {spec_difference.path.rpartition('pretrain.')[2]}",
            str((spec_difference.first, spec_difference.second)),
        )
        if "spec.pretrain." in spec_difference.path and key in visited:
            continue  # the segments of a trunk carry one and the same Pretrain
        visited.add(key)
        yield spec_difference
    roles = [role for role, _ in first.needs] + [role for role, _ in second.needs if first.parent(role) is None]
    for role in roles:
        first_parent, second_parent, parent_path = (
            first.parent(role),
            second.parent(role),
            _join_path(path, f"needs.{role}"),
        )
        if first_parent is not None and second_parent is not None:
            yield from _step_differences(first_parent, second_parent, path=parent_path, visited=visited)
        else:
            yield FieldDifference(
                path=parent_path,
                first=first_parent.address if first_parent else ABSENT,
                second=second_parent.address if second_parent else ABSENT,
            )


def _json_differences(first: Any, second: Any, *, path: str) -> Iterator[FieldDifference]:
    """Compare canonical JSON values field by field."""
    if _is_same_json(first, second):
        return
    first_values, second_values = _child_values(first), _child_values(second)
    if first_values and second_values and first_values.get("type") == second_values.get("type"):
        for name in first_values | second_values:
            yield from _json_differences(
                first_values.get(name, ABSENT), second_values.get(name, ABSENT), path=_join_path(path, name)
            )
    else:
        yield FieldDifference(path=path, first=first, second=second)


def _child_values(value: Any) -> dict[str, Any]:
    """A spec's fields by name, a list's items by place; nothing for what is one value, as a share is."""
    if isinstance(value, dict):
        fields = cast(dict[str, Any], value)
        return {} if fields.get("type") == "share" else fields
    items = cast(list[Any], value) if isinstance(value, list) else []
    return {str(position): item for position, item in enumerate(items)}


def _is_same_json(first: Any, second: Any) -> bool:
    """Equal as canonical JSON, where 1, 1.0 and true are three things."""
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def _join_path(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _shorten_value(value: Any) -> str:
    """One side of a difference, short enough for a line."""
    text = _format_value(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _format_value(value: Any) -> str:
    """A canonical value as a person writes it: shares as fractions, specs with their fields, words without quotes."""
    if isinstance(value, list):
        return f"[{', '.join(map(_format_value, cast(list[Any], value)))}]"
    if isinstance(value, dict):
        fields = cast(dict[str, Any], value)
        field_list = ", ".join(
            f"{name}={_format_value(field_value)}" for name, field_value in fields.items() if name != "type"
        )
        return str(fields["value"]) if fields["type"] == "share" else f"{fields['type']}({field_list})"
    return value if isinstance(value, str) else json.dumps(value)
