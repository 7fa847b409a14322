"""Captioned pictures in WebDataset tars, as DataComp, CC12M and DataComp-DR have them.

A sample is neighbours with one key: key.jpg|jpeg|png|webp, key.txt, key.json ("caption" where there is no txt) and
key.syn.json ("syn_text": synthetic captions), which may also lie in a tar of the same name elsewhere. What else a
sample holds (paug.json, npz) is not read, but counts for the digest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from firstsight.data.images import MAX_IMAGE_BYTES, perceptual_hash
from firstsight.data.readers.filesystem import ReadContext, ReadDigest, open_folder
from firstsight.data.readers.tars import IMAGE_EXTENSIONS, TarMember, check_member, read_tar_members
from firstsight.data.readers.text import parse_json_object
from firstsight.data.records import ImageLocation, ImageText, Record, RecordError, RejectedRecord, parse_caption
from firstsight.errors import DataError

_SYNTHETIC_EXTENSION = "syn.json"
_SAMPLE_EXTENSIONS = (*IMAGE_EXTENSIONS, "txt", "json", _SYNTHETIC_EXTENSION)
TarSample = list[tuple[TarMember, bytes]]


def read_captions_tar(context: ReadContext) -> Iterator[Record | RejectedRecord]:
    """Captioned pictures of one tar in file order; what is synthetic is a function of seed and key alone."""
    external_captions = (
        _load_synthetic_captions(context) if context.choose_caption is not None and context.location.captions else None
    )
    seen_keys = set[str]()
    for key, sample in _read_samples(context):
        try:
            if key in seen_keys:
                raise RecordError("duplicate key", key)
            seen_keys.add(key)
            yield _make_image_text(context, key, _members_by_extension(sample), external_captions)
        except RecordError as refused:
            yield context.bad_record(refused, key)


def _read_samples(context: ReadContext) -> Iterator[tuple[str, TarSample]]:
    current, sample = "", TarSample()
    with context.folder.open_stream(context.shard.name, context.digest) as stream:
        for member, content in read_tar_members(stream, context.path, needs_content=_needs_content):
            if member.key != current and sample:
                yield current, sample
                sample = []
            current = member.key
            sample.append((member, content))
        if sample:
            yield current, sample


def _needs_content(member: TarMember) -> bool:
    return member.is_regular and member.extension in _SAMPLE_EXTENSIONS and member.size <= MAX_IMAGE_BYTES


def _members_by_extension(sample: TarSample) -> Mapping[str, tuple[TarMember, bytes]]:
    """Members by ending; every one must be trusted and stand there once."""
    parts = dict[str, tuple[TarMember, bytes]]()
    for member, content in sample:
        check_member(member)
        if member.extension in parts:
            raise RecordError("duplicate key", f"{member.name} stands twice in its sample")
        parts[member.extension] = (member, content)
    return parts


def _make_image_text(
    context: ReadContext,
    key: str,
    parts: Mapping[str, tuple[TarMember, bytes]],
    external_captions: Mapping[str, object] | None,
) -> ImageText:
    image_extension = next((extension for extension in IMAGE_EXTENSIONS if extension in parts), None)
    if image_extension is None:
        raise RecordError("no picture", f"has {', '.join(parts)}, none of {', '.join(IMAGE_EXTENSIONS)}")
    synthetic, choice = context.choose_caption(key) if context.choose_caption is not None else (False, 0)
    raw_caption = (
        select_caption(_synthetic_captions(key, parts, external_captions), choice)
        if synthetic
        else _original_caption(parts)
    )
    text = parse_caption(raw_caption)
    member, content = parts[image_extension]
    image_location = ImageLocation(
        shard=context.shard.name, offset=member.offset_data, size=member.size, hash=perceptual_hash(content)
    )
    return ImageText(id=key, image=image_location, caption=text, synthetic=synthetic)


def _original_caption(parts: Mapping[str, tuple[TarMember, bytes]]) -> object:
    """The caption that was found with the picture."""
    if "txt" in parts:
        try:
            return parts["txt"][1].decode()
        except UnicodeDecodeError as error:
            raise RecordError("not UTF-8", f"caption, byte {error.start}") from None
    raw_caption = parse_json_object(parts["json"][1]).get("caption") if "json" in parts else None
    if raw_caption is None:
        raise RecordError("no caption", f"has {', '.join(parts)}, no txt and no caption in json")
    return raw_caption


def _synthetic_captions(
    key: str, parts: Mapping[str, tuple[TarMember, bytes]], external_captions: Mapping[str, object] | None
) -> object:
    """The synthetic captions of a sample: its own, or those kept apart under its key or else under its uid."""
    if external_captions is None:
        return (
            parse_json_object(parts[_SYNTHETIC_EXTENSION][1]).get("syn_text") if _SYNTHETIC_EXTENSION in parts else None
        )
    if key in external_captions or "json" not in parts:
        return external_captions.get(key)
    return external_captions.get(f"uid {parse_json_object(parts['json'][1]).get('uid')}")


def select_caption(captions: object, choice: int) -> object:
    """One of a list of synthetic captions; raises Refused when there is none."""
    if not isinstance(captions, Sequence) or isinstance(captions, str) or not captions:
        raise RecordError("no caption", "wanted a synthetic one, got none")
    return captions[choice % len(captions)]


def _load_synthetic_captions(context: ReadContext) -> dict[str, object]:
    """syn_text of every key, and of every uid, in the tar of the shard's name among `location.captions`."""
    captions_folder, captions_digest = open_folder(context.location.captions), ReadDigest()
    if not captions_folder.has_file(context.shard.name):
        raise DataError(
            f"{context.location.captions}: wanted synthetic captions in {context.shard.name}, named as in {context.folder.original_path}. "
            "Got no such tar. Copy it, or take the shard out."
        )
    captions_by_key = dict[str, object]()
    keys_by_uid = dict[str, str]()
    tar_path = captions_folder.path(context.shard.name)
    with captions_folder.open_stream(context.shard.name, captions_digest) as stream:
        for member, content in read_tar_members(stream, tar_path, needs_content=_needs_content):
            if member.extension == _SYNTHETIC_EXTENSION:
                if member.key in captions_by_key:
                    raise DataError(f"{tar_path}: {member.name} stands there twice. Make the tar again.")
                captions_by_key[member.key] = _parse_object(content).get("syn_text")
            elif member.extension == "json" and isinstance(uid := _parse_object(content).get("uid"), str):
                keys_by_uid[f"uid {uid}"] = member.key
    context.digest.join(captions_digest.hexdigest())
    return captions_by_key | {uid: captions_by_key[key] for uid, key in keys_by_uid.items() if key in captions_by_key}


def _parse_object(content: bytes) -> dict[str, Any]:
    """A JSON object, or an empty one: its key is then refused where a caption is wanted."""
    try:
        value = json.loads(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
