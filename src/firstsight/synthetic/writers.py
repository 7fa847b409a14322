"""The world's data in the formats that real data comes in: jsonl, image-text tars, LLaVA lists, OBELICS documents."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from firstsight.files import open_atomic
from firstsight.recipe.mixture import (
    SyntheticCaptions,
    SyntheticDialogues,
    SyntheticInterleaved,
    SyntheticMultitask,
    SyntheticTexts,
)
from firstsight.site import Progress, ProgressCallback, Site
from firstsight.synthetic.captions import noisy_caption, rich_caption, sample_document, sample_interleaved, true_phrases
from firstsight.synthetic.catalog import world_rng
from firstsight.synthetic.multitask import LlavaRecord, multitask_order, multitask_record, sample_turns
from firstsight.synthetic.questions import DIALOGUE_GENERATORS
from firstsight.synthetic.rendering import PixelBox, Renderer, cached_renderer, encode_png
from firstsight.synthetic.scenes import TRAINING_DISTRIBUTION, Scene, sample_scene

_DOCUMENTS_PER_SHARD = 50_000
_IMAGES_PER_SHARD = 5_000
"""Records in one shard."""
_TAR_BLOCK = 512
_REPORT_INTERVAL = 0.5
"""Seconds between reports of progress."""


def write_texts(
    spec: SyntheticTexts, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback
) -> None:
    """Writes text-00000.jsonl.zst ...; records have a field `loss` unless every word is in the loss."""
    for shard, indices in _shard_ranges(spec.documents, _DOCUMENTS_PER_SHARD):
        with _zstd_writer(out / f"text-{shard:05d}.jsonl.zst") as stream:
            for index in with_progress(indices, spec.documents, unit="documents", on_progress=on_progress):
                document = sample_document(spec.world, index)
                record: dict[str, Any] = {"id": f"text-{index:08d}", "text": document.text}
                if spec.loss_mask == "determined":
                    record["loss"] = document.loss_spans
                stream.write(json_line(record))


def write_captions(
    spec: SyntheticCaptions, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback
) -> None:
    """Writes 00000.tar ...: key.png, key.txt and key.json with uid, phrases and the annotation of the scene."""
    renderer = cached_renderer(spec.world, site.cache)
    distribution = replace(TRAINING_DISTRIBUTION, pairs=spec.pairs)
    for shard, indices in _shard_ranges(spec.images, _IMAGES_PER_SHARD):
        with tar_writer(out / f"{shard:05d}.tar") as add_file:
            for index in with_progress(indices, spec.images, unit="images", on_progress=on_progress):
                scene = sample_scene(spec.world, "captions", index, distribution=distribution)
                boxes, rng = renderer.boxes(scene), world_rng(spec.world, "caption words", index)
                caption = rich_caption(scene, boxes, rng) if spec.quality == "rich" else noisy_caption(scene, rng)
                info = {"uid": f"{index:032x}", "phrases": true_phrases(scene, boxes), **scene_annotation(scene, boxes)}
                add_file(f"{index:08d}.json", compact_json(info))
                add_file(f"{index:08d}.png", encode_png(renderer.render(scene)))
                add_file(f"{index:08d}.txt", caption.encode())


def write_dialogues(
    spec: SyntheticDialogues, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback
) -> None:
    """Writes dialogues.json in LLaVA's format and images.tar."""
    renderer = cached_renderer(spec.world, site.cache)
    numbers = with_progress(range(spec.images), spec.images, unit="images", on_progress=on_progress)
    _write_llava((_dialogue_record(spec, renderer, index) for index in numbers), renderer, out)


def write_multitask(
    spec: SyntheticMultitask, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback
) -> None:
    """Writes dialogues.json in LLaVA's format and images.tar; the id of a record begins with its task."""
    renderer, order = cached_renderer(spec.world, site.cache), multitask_order(spec)
    numbers = with_progress(range(spec.images), spec.images, unit="images", on_progress=on_progress)
    tasks = (order[index] for index in numbers)
    _write_llava((multitask_record(spec, renderer, task=task, number=n) for task, n in tasks), renderer, out)


def _dialogue_record(spec: SyntheticDialogues, renderer: Renderer, index: int) -> LlavaRecord:
    scene, rng = sample_scene(spec.world, "dialogues", index), world_rng(spec.world, "dialogue words", index)
    turns = sample_turns(scene, renderer.boxes(scene), DIALOGUE_GENERATORS, limit=spec.turns, rng=rng)
    return LlavaRecord(id=f"{index:08d}", scene=scene, turns=turns)


def _write_llava(records: Iterable[LlavaRecord], renderer: Renderer, out: Path) -> None:
    separator = b"[\n"
    with open_atomic(out / "dialogues.json") as json_file, tar_writer(out / "images.tar") as add_file:
        for record in records:
            image, turns = f"{record.id}.png", list[dict[str, str]]()
            for question, answer in record.turns:
                turns.append({"from": "human", "value": question if turns else f"<image>\n{question}"})
                turns.append({"from": "gpt", "value": answer})
            json_file.write(separator + compact_json({"id": record.id, "image": image, "conversations": turns}))
            add_file(image, encode_png(renderer.render(record.scene)))
            separator = b",\n"
        json_file.write(b"[]\n" if separator == b"[\n" else b"\n]\n")


def write_interleaved(
    spec: SyntheticInterleaved, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback
) -> None:
    """Writes documents-00000.jsonl.zst ... in OBELICS' layout, and images-00000.tar ... with their images."""
    renderer = cached_renderer(spec.world, site.cache)
    for shard, indices in _shard_ranges(spec.documents, _IMAGES_PER_SHARD):
        path = out / f"documents-{shard:05d}.jsonl.zst"
        with _zstd_writer(path) as stream, tar_writer(out / f"images-{shard:05d}.tar") as add_file:
            for index in with_progress(indices, spec.documents, unit="documents", on_progress=on_progress):
                parts = sample_interleaved(spec.world, index, images=spec.images_of(index))
                scenes = {f"{index:08d}-{n}.png": part for n, part in enumerate(parts) if isinstance(part, Scene)}
                names = iter(scenes)
                images = [next(names) if isinstance(part, Scene) else None for part in parts]
                texts = [None if isinstance(part, Scene) else part for part in parts]
                stream.write(json_line({"id": f"interleaved-{index:08d}", "images": images, "texts": texts}))
                for name, scene in scenes.items():
                    add_file(name, encode_png(renderer.render(scene)))


def scene_annotation(scene: Scene, boxes: Sequence[PixelBox]) -> dict[str, Any]:
    """The scene as JSON: things with place, sign and box in pixels, ground, number of specks; no kinds."""
    pairs = zip(scene.objects, boxes, strict=True)
    objects = [{"name": obj.name, "place": obj.place, "sign": obj.sign, "box": list(box)} for obj, box in pairs]
    return {"things": objects, "ground": scene.ground, "clutter": len(scene.clutter), "side": scene.world.image_size}


def compact_json(value: object) -> bytes:
    """JSON with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def json_line(value: object) -> bytes:
    """One line of jsonl."""
    return compact_json(value) + b"\n"


@contextmanager
def _zstd_writer(path: Path) -> Iterator[zstandard.ZstdCompressionWriter]:
    with open_atomic(path) as file, zstandard.ZstdCompressor(3).stream_writer(file) as stream:
        yield stream


def _shard_ranges(total: int, shard_size: int) -> Iterator[tuple[int, range]]:
    for shard in range(-(-total // shard_size)):
        yield shard, range(shard * shard_size, min(total, (shard + 1) * shard_size))


def with_progress(indices: Sequence[int], total: int, *, unit: str, on_progress: ProgressCallback) -> Iterator[int]:
    """`indices` one by one, reporting progress twice a second at most, and at the end."""
    last_report = time.monotonic()
    for index in indices:
        yield index
        if time.monotonic() - last_report > _REPORT_INTERVAL or index + 1 == total:
            last_report = time.monotonic()
            on_progress(Progress(done=index + 1, total=total, unit=unit))


@contextmanager
def tar_writer(path: Path) -> Iterator[Callable[[str, bytes], None]]:
    """A tar file being written: call the value with a name and its bytes. Owner, time and rights never vary."""
    with open_atomic(path) as file:
        yield lambda name, content: _write_tar_member(file, name, content)
        file.write(b"\0" * (2 * _TAR_BLOCK))


def _write_tar_member(file: BinaryIO, name: str, content: bytes) -> None:
    """One plain file in ustar form; `tarfile` takes ten times as long for the same bytes."""
    header = name.encode().ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2
    header += b"%011o\0" % len(content) + b"0" * 11 + b"\0"
    trailer = b"0" + b"\0" * 100 + b"ustar\x0000" + b"\0" * 64 + b"0000000\0" * 2 + b"\0" * 167
    checksum = b"%06o\0 " % (sum(header) + sum(trailer) + 8 * 32)
    file.write(header + checksum + trailer + content + b"\0" * (-len(content) % _TAR_BLOCK))
