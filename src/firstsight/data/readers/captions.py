"""Captioned images: WebDataset tars as DataComp, CC12M and DataComp-DR have them, and tables.

A tar sample is neighbouring members with one key: one image (key.jpg, key.png, ...), key.txt, key.json ("caption" if
there is no txt) and key.syn.json ("syn_text": synthetic captions), which may also be in a tar of the same name in
another folder. Other members of a sample (paug.json, npz) are not parsed, but counted, and enter the digest. A key ends
at the first dot of a file's name, as in webdataset: samples whose names have more dots are rejected one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from firstsight.data.file_types import IMAGE_EXTENSIONS, is_documentation
from firstsight.data.images import perceptual_hash
from firstsight.data.readers.filesystem import ReadContext, ReadDigest, open_folder
from firstsight.data.readers.json_files import decode_utf8, parse_json_object, parse_optional_object
from firstsight.data.readers.tables import TableRow, table_records
from firstsight.data.readers.tars import DOTS_ADVICE, TarMember, check_member, extension_filter, read_tar_members
from firstsight.data.records import ImageLocation, ImageText, Record, RecordError, RejectedRecord, parse_caption
from firstsight.errors import DataError

_SYNTHETIC_EXTENSION = "syn.json"
_IMAGE_ENDINGS, _TEXT_ENDINGS = frozenset(IMAGE_EXTENSIONS), frozenset(("txt", "json"))
_READ_EXTENSIONS = _IMAGE_ENDINGS | _TEXT_ENDINGS | {_SYNTHETIC_EXTENSION}
_needs_content = extension_filter(_READ_EXTENSIONS)
_Entry = tuple[TarMember, bytes]
TarSample = Mapping[str, tuple[TarMember, bytes]]
"""Members of a sample and their bytes, by extension."""
SyntheticCaptions = Mapping[str, object] | None
"""syn_text by key, and by "uid <uid>", from another folder; None: in the samples themselves."""


def read_captions_tar(context: ReadContext) -> Iterator[Record | RejectedRecord]:
    """Captioned images of one tar in file order; which captions are synthetic depends on seed and key only."""
    has_external = context.choose_caption is not None and context.location.captions
    external = _load_synthetic_captions(context) if has_external else None
    keys = set[str]()
    with context.folder.open_stream(context.shard.name, context.digest) as stream:
        members = read_tar_members(stream, context.path, needs_content=_needs_content, notices=context.notices)
        for key, group in groupby(members, key=lambda entry: entry[0].key):
            entries, dotted = _split_group(context, list(group))
            for name in dotted:
                yield context.rejected(RecordError("dots in key", f"{name}: {DOTS_ADVICE}"), name)
            if not entries:
                continue
            try:
                if key in keys:
                    raise RecordError("duplicate key", key)
                keys.add(key)
                yield _make_image_text(context, key, _members_by_extension(entries), external)
            except RecordError as error:
                yield context.rejected(error, key)


def _split_group(context: ReadContext, entries: list[_Entry]) -> tuple[list[_Entry], list[str]]:
    """The members of one sample, and the names of the samples that only share its key, because their names have dots.

    Members that are no data are counted and left out: names without an ending, a README without an image.
    """
    has_image = any(member.extension in _IMAGE_ENDINGS for member, _ in entries)
    dotted = _dotted_samples(entries, has_image=has_image)
    sample: list[_Entry] = []
    for member, content in entries:
        place = f"{context.shard.name}, {member.name}"
        if not member.extension:
            context.notices.add("tar member: no ending", place)
        elif not has_image and is_documentation(member.name):
            context.notices.add("tar member: documentation", place)
        elif member.name.rpartition(".")[0] not in dotted:
            sample.append((member, content))
            if member.extension not in _READ_EXTENSIONS:
                context.notices.add(f"tar member: .{member.extension} of a sample", place)
    return sample, dotted


def _dotted_samples(entries: Sequence[_Entry], *, has_image: bool) -> list[str]:
    """Names up to their last dot of the samples in one group: each has an image and a text, or several have one."""
    stems: dict[str, set[str]] = {}
    for member, _ in entries:
        if "." in member.extension:
            stem, _, ending = member.name.rpartition(".")
            stems.setdefault(stem, set()).add(ending.lower())
    pairs = [stem for stem, endings in stems.items() if endings & _IMAGE_ENDINGS and endings & _TEXT_ENDINGS]
    images = [stem for stem, endings in stems.items() if endings & _IMAGE_ENDINGS]
    texts = [stem for stem, endings in stems.items() if "txt" in endings]
    if pairs or has_image:
        return pairs
    return next((names for names in (images, texts) if len(names) > 1), [])


def _members_by_extension(entries: Sequence[_Entry]) -> TarSample:
    sample = dict[str, tuple[TarMember, bytes]]()
    for member, content in entries:
        check_member(member)
        if member.extension in sample:
            raise RecordError("duplicate key", f"{member.name} occurs twice in its sample")
        sample[member.extension] = (member, content)
    return sample


def _make_image_text(context: ReadContext, key: str, sample: TarSample, external: SyntheticCaptions) -> ImageText:
    extensions = list(filter(sample.__contains__, IMAGE_EXTENSIONS))
    if not extensions:
        raise RecordError("no image", f"has {', '.join(sample)}, none of {', '.join(IMAGE_EXTENSIONS)}")
    if len(extensions) > 1:
        raise RecordError("several images", f"{' and '.join(sample[name][0].name for name in extensions)}")
    extension = extensions[0]
    is_synthetic, choice = context.caption_choice(key)
    if is_synthetic:
        caption = select_caption(_synthetic_captions(key, sample, external), choice)
    else:
        caption = _original_caption(sample)
    text, (member, content) = parse_caption(caption), sample[extension]
    image_hash, shard = perceptual_hash(content), context.shard.name
    image = ImageLocation(shard=shard, offset=member.offset_data, size=member.size, hash=image_hash)
    return ImageText(id=key, image=image, caption=text, synthetic=is_synthetic)


def _original_caption(sample: TarSample) -> object:
    if "txt" in sample:
        return decode_utf8(sample["txt"][1], "caption, ")
    caption = parse_json_object(sample["json"][1]).get("caption") if "json" in sample else None
    if caption is None:
        raise RecordError("no caption", f"has {', '.join(sample)}, no txt and no caption in json")
    return caption


def _synthetic_captions(key: str, sample: TarSample, external: SyntheticCaptions) -> object:
    """The synthetic captions of a sample: from the same tar, or from the external ones by its key or else its uid."""
    if external is None:
        member = sample.get(_SYNTHETIC_EXTENSION)
        return None if member is None else parse_json_object(member[1]).get("syn_text")
    if key in external or "json" not in sample:
        return external.get(key)
    return external.get(f"uid {parse_json_object(sample['json'][1]).get('uid')}")


def select_caption(captions: object, choice: int) -> object:
    """One of a list of synthetic captions; RecordError if there is none."""
    if not isinstance(captions, Sequence) or isinstance(captions, str) or not captions:
        raise RecordError("no caption", "wanted a synthetic one, got none")
    return captions[choice % len(captions)]


def _load_synthetic_captions(context: ReadContext) -> dict[str, object]:
    folder, digest, name = open_folder(context.location.captions), ReadDigest(), context.shard.name
    if not folder.has_file(name):
        raise DataError(
            f"{context.location.captions}: wanted synthetic captions in {name}, the name of the tar in "
            f"{context.folder.original_path}. Got no such tar. Copy it, or remove the shard."
        )
    captions, keys_by_uid = dict[str, object](), dict[str, str]()
    with folder.open_stream(name, digest) as stream:
        for member, content in read_tar_members(stream, folder.path(name), needs_content=_needs_content):
            if member.extension == _SYNTHETIC_EXTENSION:
                if member.key in captions:
                    raise DataError(f"{folder.path(name)}: {member.name} occurs twice. Make the tar again.")
                captions[member.key] = parse_optional_object(content).get("syn_text")
            elif member.extension == "json" and isinstance(uid := parse_optional_object(content).get("uid"), str):
                keys_by_uid[f"uid {uid}"] = member.key
    context.digest.join(digest.hexdigest())
    return captions | {uid: captions[key] for uid, key in keys_by_uid.items() if key in captions}


def read_captions_table(context: ReadContext) -> Iterator[Record | RejectedRecord]:
    """Captioned images of a table; a column of lists may contain synthetic captions."""

    def parse(row: TableRow) -> Record:
        is_synthetic, choice = context.caption_choice(row.id)
        caption = select_caption(row.get("synthetic"), choice) if is_synthetic else row["caption"]
        if caption is None:
            raise RecordError("no caption", "an empty cell")
        text, image = parse_caption(caption), row.image_location()
        if image is None:
            raise RecordError("no image", "an empty cell")
        return ImageText(id=row.id, image=image, caption=text, synthetic=is_synthetic)

    optional_fields = () if context.choose_caption is None else ("synthetic",)
    return table_records(context, parse, ("picture", "caption"), optional_fields=optional_fields)
