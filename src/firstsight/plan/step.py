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
from firstsight.plan.identity import Identities, identified, known_as
from firstsight.recipe.canon import encode
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.mix import Captions, Named, Recaptioned
from firstsight.recipe.stages import Encode, Evaluate, Finetune, Midtrain, Prepare, Segment
from firstsight.units import Share

VERSIONS: dict[str, int] = {
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
    identities: Identities = field(compare=False, default_factory=dict[str, str])
    """Digests of the named sources in the spec; a name without one stands for itself."""
    holds: LMSpec | None = field(compare=False, default=None)
    """The model that a donor declares for this checkpoint of its; the bytes themselves are what is identified."""
    address: str = field(init=False)

    def __post_init__(self) -> None:
        digest = sha256(self.canonical().encode()).hexdigest()[:12]
        object.__setattr__(self, "address", f"{_slug(self.kind, self.spec, self.identities)}-{digest}")

    @property
    def slug(self) -> str:
        """The readable part of the address."""
        return self.address[:-13]

    def canonical(self) -> str:
        """Everything that this step's identity hangs on, as one line of JSON."""
        identity = {
            "kind": self.kind,
            "spec": identified(self.spec, self.identities),
            "needs": {role: parent.address for role, parent in self.needs},
            "version": self.version,
        }
        return json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def need(self, role: str) -> Step | None:
        """The step that stands in `role`, if any."""
        return dict(self.needs).get(role)


def find(prefix: str, addresses: Iterable[str]) -> str:
    """The one address that begins with `prefix`, or whose digest does; UnknownName or RequestError otherwise."""
    known = sorted(set(addresses))
    if prefix in known:
        return prefix
    found = [address for address in known if address.startswith(prefix) or address[-12:].startswith(prefix)]
    if not found:
        raise UnknownName("step", prefix, known)
    if len(found) > 1:
        listed = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
        raise RequestError(
            f"{prefix!r} fits {len(found)} steps: {listed}. Write enough of one address to tell it apart."
        )
    return found[0]


def _slug(kind: str, spec: Any, identities: Identities) -> str:
    """What a person recognises in a listing: the kind and the one setting that tells its siblings apart."""
    hint = _hint(spec, identities)
    return f"{kind}-{hint}" if hint and hint != kind else kind


def _hint(spec: Any, identities: Identities) -> str:
    match spec:
        case Segment():
            return f"{_percent(spec.since)}-{_percent(spec.until)}"
        case Midtrain():
            return "staged-images" if isinstance(spec.mix.share, tuple) else f"{_percent(spec.mix.share)}-images"
        case Finetune():
            return f"{spec.epochs}-epochs" if spec.epochs > 1 else "1-epoch"
        case Evaluate():
            return f"{len(spec.vision) + len(spec.text)}-tasks"
        case Captions():
            return spec.quality
        case Named() | Recaptioned():
            return _named_hint(spec, identities)
        case Prepare(source=Named() | Recaptioned() as source) | Encode(source=Named() | Recaptioned() as source):
            return _named_hint(source, identities)
        case Prepare() | Encode():
            name = type(spec.source).__name__.lower()
            return "-".join(filter(None, (name, _hint(spec.source, identities))))
        case _:
            return ""


def _named_hint(source: Named | Recaptioned, identities: Identities) -> str:
    """The user's name for a source as long as it stands for itself; its form once a digest does."""
    named = source.named if isinstance(source, Recaptioned) else source
    if known_as(source) in identities:
        return named.form
    return re.sub(r"[^a-z0-9.]+", "-", named.name.lower()).strip("-.")


def _percent(share: Share) -> str:
    return f"{float(share * 100):.4g}".replace(".", "p").rjust(3, "0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One field in which two values differ."""

    path: str
    """Dotted: fields by name, places in a list by number, parents as `needs.<role>`."""
    first: Any
    second: Any

    def __str__(self) -> str:
        return f"{self.path}: {_shown(self.first)} | {_shown(self.second)}"


def difference(first: Any, second: Any) -> tuple[Difference, ...]:
    """Every field in which two steps, arms or specs differ, nearest first; steps are followed into what they need."""
    if isinstance(first, Step) and isinstance(second, Step):
        return tuple(_between_steps(first, second, path="", told=set()))
    return tuple(_between(encode(first), encode(second), path=""))


def _between_steps(first: Step, second: Step, *, path: str, told: set[tuple[str, str]]) -> Iterator[Difference]:
    """Each pair of unequal steps is told once, however many ways lead to it."""
    if first == second or (first.address, second.address) in told:
        return
    told.add((first.address, second.address))
    for name in ("kind", "version"):
        yield from _between(getattr(first, name), getattr(second, name), path=_join(path, name))
    ours, theirs = (identified(step.spec, step.identities) for step in (first, second))
    for found in _between(ours, theirs, path=_join(path, "spec")):
        key = (f"pretrain {found.path.rpartition('pretrain.')[2]}", str((found.first, found.second)))
        if "spec.pretrain." in found.path and key in told:
            continue  # the segments of a trunk carry one and the same Pretrain
        told.add(key)
        yield found
    roles = [role for role, _ in first.needs] + [role for role, _ in second.needs if first.need(role) is None]
    for role in roles:
        one, other, at = first.need(role), second.need(role), _join(path, f"needs.{role}")
        if one is not None and other is not None:
            yield from _between_steps(one, other, path=at, told=told)
        else:
            yield Difference(path=at, first=one.address if one else ABSENT, second=other.address if other else ABSENT)


def _between(first: Any, second: Any, *, path: str) -> Iterator[Difference]:
    """Compare canonical JSON values field by field."""
    if _same(first, second):
        return
    ours, theirs = _parts(first), _parts(second)
    if ours and theirs and ours.get("type") == theirs.get("type"):
        for name in ours | theirs:
            yield from _between(ours.get(name, ABSENT), theirs.get(name, ABSENT), path=_join(path, name))
    else:
        yield Difference(path=path, first=first, second=second)


def _parts(value: Any) -> dict[str, Any]:
    """A spec's fields by name, a list's items by place; nothing for what is one value, as a share is."""
    if isinstance(value, dict):
        body = cast(dict[str, Any], value)
        return {} if body.get("type") == "Share" else body
    items = cast(list[Any], value) if isinstance(value, list) else []
    return {str(place): item for place, item in enumerate(items)}


def _same(first: Any, second: Any) -> bool:
    """Equal as canonical JSON, where 1, 1.0 and true are three things."""
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _shown(value: Any) -> str:
    """One side of a difference, short enough for a line."""
    text = _words(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _words(value: Any) -> str:
    """A canonical value as a person writes it: shares as fractions, specs with their fields, words without quotes."""
    if isinstance(value, list):
        return f"[{', '.join(map(_words, cast(list[Any], value)))}]"
    if isinstance(value, dict):
        body = cast(dict[str, Any], value)
        told = ", ".join(f"{name}={_words(part)}" for name, part in body.items() if name != "type")
        return str(body["value"]) if body["type"] == "Share" else f"{body['type']}({told})"
    return value if isinstance(value, str) else json.dumps(value)
