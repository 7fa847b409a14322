"""Captioned pictures in WebDataset tars, as DataComp, CC12M and DataComp-DR have them.

A sample is neighbours with one key: key.jpg|jpeg|png|webp, key.txt, key.json ("caption" where there is no txt) and
key.syn.json ("syn_text": synthetic captions), which may also lie in a tar of the same name elsewhere. What else a
sample holds (paug.json, npz) is not read, but counts for the digest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from firstsight.data.pictures import MOST_BYTES, checked
from firstsight.data.records import Bad, ImageText, Place, Record, Refused, caption
from firstsight.data.sources.places import Digest, Pass, folder
from firstsight.data.sources.tars import PICTURES, Member, members, trusted
from firstsight.data.sources.text import loaded
from firstsight.errors import DataError

_SYNTHETIC = "syn.json"
_READ = (*PICTURES, "txt", "json", _SYNTHETIC)
Sample = list[tuple[Member, bytes]]


def captions(run: Pass) -> Iterator[Record | Bad]:
    """Captioned pictures of one tar in file order; what is synthetic is a function of seed and key alone."""
    apart = _synthetic(run) if run.share is not None and run.location.captions else None
    seen = set[str]()
    for key, sample in _samples(run):
        try:
            if key in seen:
                raise Refused("duplicate key", key)
            seen.add(key)
            yield _captioned(run, key, _parts(sample), apart)
        except Refused as refused:
            yield run.bad(refused, key)


def _samples(run: Pass) -> Iterator[tuple[str, Sample]]:
    current, sample = "", Sample()
    with run.folder.stream(run.shard.name, run.digest) as stream:
        for member, content in members(stream, run.where, wanted=_wanted):
            if member.key != current and sample:
                yield current, sample
                sample = []
            current = member.key
            sample.append((member, content))
        if sample:
            yield current, sample


def _wanted(member: Member) -> bool:
    return member.plain and member.ending in _READ and member.size <= MOST_BYTES


def _parts(sample: Sample) -> Mapping[str, tuple[Member, bytes]]:
    """Members by ending; every one must be trusted and stand there once."""
    found = dict[str, tuple[Member, bytes]]()
    for member, content in sample:
        trusted(member)
        if member.ending in found:
            raise Refused("duplicate key", f"{member.name} stands twice in its sample")
        found[member.ending] = (member, content)
    return found


def _captioned(
    run: Pass, key: str, parts: Mapping[str, tuple[Member, bytes]], apart: Mapping[str, object] | None
) -> ImageText:
    kind = next((ending for ending in PICTURES if ending in parts), None)
    if kind is None:
        raise Refused("no picture", f"has {', '.join(parts)}, none of {', '.join(PICTURES)}")
    synthetic, pick = run.share(key) if run.share is not None else (False, 0)
    told = one_of(_written(key, parts, apart), pick) if synthetic else _real(parts)
    text = caption(told)
    member, content = parts[kind]
    place = Place(shard=run.shard.name, offset=member.offset_data, size=member.size, hash=checked(content))
    return ImageText(id=key, image=place, caption=text, synthetic=synthetic)


def _real(parts: Mapping[str, tuple[Member, bytes]]) -> object:
    """The caption that was found with the picture."""
    if "txt" in parts:
        try:
            return parts["txt"][1].decode()
        except UnicodeDecodeError as error:
            raise Refused("not UTF-8", f"caption, byte {error.start}") from None
    told = loaded(parts["json"][1]).get("caption") if "json" in parts else None
    if told is None:
        raise Refused("no caption", f"has {', '.join(parts)}, no txt and no caption in json")
    return told


def _written(key: str, parts: Mapping[str, tuple[Member, bytes]], apart: Mapping[str, object] | None) -> object:
    """The synthetic captions of a sample: its own, or those kept apart under its key or else under its uid."""
    if apart is None:
        return loaded(parts[_SYNTHETIC][1]).get("syn_text") if _SYNTHETIC in parts else None
    if key in apart or "json" not in parts:
        return apart.get(key)
    return apart.get(f"uid {loaded(parts['json'][1]).get('uid')}")


def one_of(texts: object, pick: int) -> object:
    """One of a list of synthetic captions; raises Refused when there is none."""
    if not isinstance(texts, Sequence) or isinstance(texts, str) or not texts:
        raise Refused("no caption", "wanted a synthetic one, got none")
    return texts[pick % len(texts)]


def _synthetic(run: Pass) -> dict[str, object]:
    """syn_text of every key, and of every uid, in the tar of the shard's name among `location.captions`."""
    beside, own = folder(run.location.captions), Digest()
    if not beside.holds(run.shard.name):
        raise DataError(
            f"{run.location.captions}: wanted synthetic captions in {run.shard.name}, named as in {run.folder.said}. "
            "Got no such tar. Copy it, or take the shard out."
        )
    found = dict[str, object]()
    uids = dict[str, str]()
    where = beside.path(run.shard.name)
    with beside.stream(run.shard.name, own) as stream:
        for member, content in members(stream, where, wanted=_wanted):
            if member.ending == _SYNTHETIC:
                if member.key in found:
                    raise DataError(f"{where}: {member.name} stands there twice. Make the tar again.")
                found[member.key] = _object(content).get("syn_text")
            elif member.ending == "json" and isinstance(uid := _object(content).get("uid"), str):
                uids[f"uid {uid}"] = member.key
    run.digest.join(own.hexdigest())
    return found | {uid: found[key] for uid, key in uids.items() if key in found}


def _object(content: bytes) -> dict[str, Any]:
    """A JSON object, or an empty one: its key is then refused where a caption is wanted."""
    try:
        value = json.loads(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
