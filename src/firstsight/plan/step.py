"""Steps, their addresses, and the fields in which two of them differ.

A step is a spec with its inputs; its address is a digest of both, so that equal work has an equal address.

Paths, devices and worker counts never enter an address. The user's own data and weights enter by a digest of their
content where it is known, else by name. A captioned source has one digest for its real captions
alone and another for real and synthetic captions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import combinations
from typing import Any, cast

from firstsight.errors import RequestError, UnknownName
from firstsight.recipe.mixture import (
    External,
    Recaptioned,
    SyntheticCaptions,
    SyntheticInterleaved,
    SyntheticMultitask,
    base_source,
)
from firstsight.recipe.model import LMSpec
from firstsight.recipe.serialize import canonical_json, to_json
from firstsight.recipe.stages import Encode, Evaluate, Finetune, Midtrain, Prepare, TrunkSegment
from firstsight.units import Share

STEP_VERSIONS: dict[str, int] = {
    **dict.fromkeys(("named", "vocabulary", "texts", "captions", "interleaved", "contrast"), 1),
    **dict.fromkeys(("dialogues", "multitask", "benchmarks"), 2),
    **dict.fromkeys(("prepare", "encode", "pretrain", "midtrain", "finetune"), 2),
    "evaluate": 3,
}
"""Version of each kind of step; to be raised when its handler writes other bytes for the same spec."""

TRAINING_KINDS = ("pretrain", "midtrain", "finetune")
"""Kinds of steps that train the decoder, in one process or in several."""
ContentIds = Mapping[str, str]
"""The digest of each external source, by `content_key`."""

FEATURES_SUFFIX = ".features"
"""Ends the role of an image source's stored features. With `VLMSpec.stores_features` they are in no address: training
computes the same ones where the site has no room for them."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One piece of work; two steps are equal when their addresses are."""

    kind: str = field(compare=False)
    spec: Any = field(compare=False)
    needs: tuple[tuple[str, Step], ...] = field(compare=False, default=())
    """(role, step) of each input of the handler."""
    version: int = field(compare=False)
    content_ids: ContentIds = field(compare=False, default_factory=dict[str, str])
    donor_model: LMSpec | None = field(compare=False, default=None)
    """The model spec of a donor's checkpoint; not part of the address, which contains the checkpoint's digest."""
    address: str = field(init=False)

    def __post_init__(self) -> None:
        needs = {role: parent.address for role, parent in self.needs}
        address = step_address(self.kind, self.spec, needs, version=self.version, content_ids=self.content_ids)
        object.__setattr__(self, "address", address)

    @property
    def slug(self) -> str:
        """The readable part of the address: the kind, and the setting that distinguishes it from its siblings."""
        return self.address[:-13]

    @property
    def is_public_checkpoint(self) -> bool:
        """Whether it is the weights of others: of a donor, or of a whole model."""
        return self.donor_model is not None or (isinstance(self.spec, External) and self.spec.form == "model")

    def parent(self, role: str) -> Step | None:
        """The input in `role`, if any."""
        return dict(self.needs).get(role)


def step_address(kind: str, spec: Any, needs: Mapping[str, str], *, version: int, content_ids: ContentIds) -> str:
    """The address of a step whose inputs have the addresses `needs`, by role."""
    digest = step_digest(kind, to_json(spec), needs, version=version, content_ids=content_ids)
    hint = _hint(spec, content_ids)
    return f"{kind}-{hint}-{digest}" if hint and hint != kind else f"{kind}-{digest}"


def step_digest(kind: str, spec_json: Any, needs: Mapping[str, str], *, version: int, content_ids: ContentIds) -> str:
    """The last part of a step's address, from the JSON of its spec."""
    spec_json = _replace_names(spec_json, content_ids, suffix="")
    model = spec_json.get("model")
    if isinstance(model, dict) and cast(dict[str, Any], model).get("stores_features"):
        needs = {role: address for role, address in needs.items() if not role.endswith(FEATURES_SUFFIX)}
    identity = {"kind": kind, "spec": spec_json, "needs": dict(needs), "version": version}
    return sha256(canonical_json(identity).encode()).hexdigest()[:12]


def find_address(prefix: str, addresses: Iterable[str]) -> str:
    """The one address that begins with `prefix`, or whose digest does; UnknownName or RequestError otherwise."""
    candidates = sorted(set(addresses))
    if prefix in candidates:
        return prefix
    matches = [address for address in candidates if address.startswith(prefix) or address[-12:].startswith(prefix)]
    if not matches:
        raise UnknownName("step", prefix, candidates)
    if len(matches) > 1:
        examples = ", ".join(matches[:5]) + (", ..." if len(matches) > 5 else "")
        raise RequestError(f"{prefix!r} matches {len(matches)} steps: {examples}. Write more of the address.")
    return matches[0]


def _hint(spec: Any, content_ids: ContentIds) -> str:
    match spec:
        case TrunkSegment():
            return f"{_percent(spec.start)}-{_percent(spec.end)}"
        case Midtrain(mix=mix):
            return "staged-images" if isinstance(mix.image_share, tuple) else f"{_percent(mix.image_share)}-images"
        case Finetune():
            return f"{spec.epochs}-epochs" if spec.epochs > 1 else "1-epoch"
        case Evaluate():
            return f"{len(spec.vision_tasks) + len(spec.text_tasks)}-tasks"
        case SyntheticCaptions():
            return spec.quality
        case SyntheticInterleaved():
            return f"{spec.max_images}-images" if spec.max_images > 1 else "1-image"
        case SyntheticMultitask():
            return "-".join(map(_percent, spec.shares.values()))
        case External() | Recaptioned():
            external = base_source(spec)
            if content_key(spec) in content_ids:
                return external.form  # the user's name must not enter the address of digested content
            return re.sub(r"[^a-z0-9.]+", "-", external.name.lower()).strip("-.")
        case Prepare(source=source) | Encode(source=source):
            hint = _hint(source, content_ids)
            return hint if isinstance(source, External | Recaptioned) else "-".join(filter(None, (source.TAG, hint)))
        case _:
            return ""


def _percent(share: Share) -> str:
    return f"{float(share * 100):.4g}".replace(".", "p").rjust(3, "0")


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


ABSENT = "(absent)"
_MAX_VALUE_WIDTH = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldDifference:
    """One field in which two values differ."""

    path: str
    """Dotted: fields by name, items of a list by number, inputs of a step as `needs.<role>`."""
    first: Any
    second: Any

    @property
    def texts(self) -> tuple[str, str]:
        """Both values as text, shortened."""
        return _shorten(_format_value(self.first)), _shorten(_format_value(self.second))

    def __str__(self) -> str:
        return f"{self.path}: {' | '.join(self.texts)}"


def field_differences(first: Any, second: Any) -> tuple[FieldDifference, ...]:
    """Every field in which two steps, arms or specs differ; a step's own fields first, then those of its inputs."""
    if isinstance(first, Step) and isinstance(second, Step):
        return tuple(_step_differences(first, second, path="", visited=set()))
    return tuple(_json_differences(to_json(first), to_json(second), path=""))


def differences_of_pairs(specs: Mapping[str, Any]) -> dict[tuple[str, str], tuple[FieldDifference, ...]]:
    """The fields in which each two of several specs differ, by their names, the earlier one first."""
    values = {name: to_json(value) for name, value in specs.items()}
    pairs = combinations(values, 2)
    return {(a, b): tuple(_json_differences(values[a], values[b], path="")) for a, b in pairs}


def _step_differences(first: Step, second: Step, *, path: str, visited: set[object]) -> Iterator[FieldDifference]:
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
    inputs, others = dict(first.needs), dict(second.needs)
    for role in inputs | others:
        role_path = _join(path, f"needs.{role}")
        if role in inputs and role in others:
            yield from _step_differences(inputs[role], others[role], path=role_path, visited=visited)
        else:
            addresses = [needs[role].address if role in needs else ABSENT for needs in (inputs, others)]
            yield FieldDifference(path=role_path, first=addresses[0], second=addresses[1])


def _json_differences(first: Any, second: Any, *, path: str) -> Iterator[FieldDifference]:
    """Compare canonical JSON values field by field; 1, 1.0 and true are three values."""
    if canonical_json(first) == canonical_json(second):
        return
    values, others = _children(first), _children(second)
    if not values or not others or values.get("type") != others.get("type"):
        yield FieldDifference(path=path, first=first, second=second)
        return
    for name in values | others:
        yield from _json_differences(values.get(name, ABSENT), others.get(name, ABSENT), path=_join(path, name))


def _children(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        body = cast(dict[str, Any], value)
        return {} if body.get("type") == "share" else body
    items = cast(list[Any], value) if isinstance(value, list) else []
    return {str(index): item for index, item in enumerate(items)}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_VALUE_WIDTH else f"{text[: _MAX_VALUE_WIDTH - 3]}..."


def _format_value(value: Any) -> str:
    """A canonical value: shares as fractions, specs as `tag(field=value, ...)`, text without quotes."""
    if isinstance(value, list):
        return f"[{', '.join(map(_format_value, cast(list[Any], value)))}]"
    if isinstance(value, dict):
        body = cast(dict[str, Any], value)
        fields = ", ".join(f"{name}={_format_value(item)}" for name, item in body.items() if name != "type")
        return str(body["value"]) if body["type"] == "share" else f"{body['type']}({fields})"
    return value if isinstance(value, str) else json.dumps(value)
