"""The one way from a source to an index: shards to parts, parts to one folder, its manifest last.

parts/<name>/       finished shards of an unfinished index; gone when it is done
merged.json         the manifest while parts are cleared away: all else is there
refused.json        what was counted of a source that is too bad to use; quarantine.jsonl beside it
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from firstsight.data import readers
from firstsight.data.index import INDEX_FORMAT
from firstsight.data.prepare.job import PrepareJob, prepare_job
from firstsight.data.prepare.merge_shards import merge_parts, merge_quarantines
from firstsight.data.prepare.progress import PrepareProgress
from firstsight.data.prepare.shard_writer import ShardPart, load_finished_part
from firstsight.data.prepare.source_stats import SourceStats, check_bad_share, collect_stats, format_stats
from firstsight.data.prepare.workers import DISK_FULL_ERRORS, write_shards
from firstsight.errors import StepFailed
from firstsight.files import write_atomic
from firstsight.recipe import serialize
from firstsight.recipe.stages import Prepare
from firstsight.site import ProgressCallback, Site


def prepare(spec: Prepare, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback) -> None:
    """Handler: check, tokenize and index a source, in `site.readers` processes; goes on after a kill, equal bytes.

    Raises DataError when more records are bad than the source's location allows or a shard is torn, StepFailed when
    the disk is full; finished shards stay for the next try.
    """
    job = prepare_job(spec, inputs=inputs, out=out, site=site)
    shards = readers.list_shards(job.location, job.form)
    with _disk_full_as_error(out):
        if _is_published(out, job, shards):
            return
        (out / "refused.json").unlink(missing_ok=True)
        parts = _write_missing_parts(job, shards, worker_count=site.readers, on_progress=on_progress)
        stats = collect_stats(parts)
        merge_quarantines(parts, out)
        write_atomic(out / "refused.json", format_stats(stats), sync=True)
        check_bad_share(stats, job.location)
        (out / "refused.json").unlink()
        _publish(out, job, parts, stats)


def _write_missing_parts(
    job: PrepareJob, shards: Sequence[readers.Shard], *, worker_count: int, on_progress: ProgressCallback
) -> list[ShardPart]:
    """The parts of all shards, made where they are not there yet."""
    existing_parts = {shard: load_finished_part(job, shard) for shard in shards}
    missing = [shard for shard, part in existing_parts.items() if part is None]
    progress = PrepareProgress(shards, on_progress)
    for shard, part in existing_parts.items():
        if part is not None:
            progress.add_finished(shard, part.counts["samples"] + part.counts["bad"])
    for shard, shard_progress in write_shards(job, missing, worker_count=worker_count):
        progress(shard, shard_progress)
    progress.finish()
    finished_parts = {shard: part or load_finished_part(job, shard) for shard, part in existing_parts.items()}
    missing_names = [shard.name for shard, part in finished_parts.items() if part is None]
    if missing_names:
        raise StepFailed(
            f"{job.parts_path}: wanted a part of {missing_names[0]}. Got none: something deletes them. Try again."
        )
    return [part for part in finished_parts.values() if part is not None]


def _is_published(out: Path, job: PrepareJob, shards: Sequence[readers.Shard]) -> bool:
    """Whether an earlier try has put everything together; what it did not clear away is cleared away now."""
    manifest_paths = [file for name in ("merged.json", "manifest.json") if (file := out / name).is_file()]
    if not manifest_paths:
        return False
    read_info = json.loads((out / "read.json").read_text())
    if read_info["key"] == job.key and [_parse_shard(entry) for entry in read_info["shards"]] == list(shards):
        _remove_parts(out)
        return True
    for file in manifest_paths:
        file.unlink()
    return False


def _parse_shard(entry: Mapping[str, Any]) -> readers.Shard:
    """The shard that an entry of read.json speaks of."""
    return readers.Shard(**{field.name: entry[field.name] for field in fields(readers.Shard)})


def _publish(out: Path, job: PrepareJob, parts: Sequence[ShardPart], stats: SourceStats) -> None:
    merged = merge_parts(parts, out, vocab_size=job.vocab_size)
    shard_entries = [
        {**asdict(part.shard), "sha256": part.digest, "records": part.counts["samples"] + part.counts["bad"]}
        for part in parts
    ]
    read_info = {"key": job.key, "source": serialize.to_json(job.source), "shards": shard_entries}
    write_atomic(out / "read.json", json.dumps(read_info, ensure_ascii=False, indent=0) + "\n", sync=True)
    manifest = {
        "format": INDEX_FORMAT,
        "form": job.form,
        **stats.to_dict(),
        "tokenizer": job.tokenizer_digest,
        "special": asdict(job.special_tokens),
        "source": _combine_digests([part.digest for part in parts]),
    }
    manifest["counts"] |= {"images": merged.image_count}
    manifest["digest"] = _combine_digests([json.dumps(manifest, sort_keys=True), *merged.digests])
    write_atomic(out / "merged.json", json.dumps(manifest, sort_keys=True, indent=1) + "\n", sync=True)
    _remove_parts(out)


def _remove_parts(out: Path) -> None:
    """Parts go, then the manifest gets its name: who finds a manifest finds nothing unfinished."""
    shutil.rmtree(out / "parts", ignore_errors=True)
    if (out / "merged.json").is_file():
        (out / "merged.json").replace(out / "manifest.json")


def _combine_digests(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


@contextmanager
def _disk_full_as_error(out: Path) -> Iterator[None]:
    """A full disk as an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL_ERRORS:
            raise
        raise StepFailed(
            f"{out}: wanted room for the index of a source. Got: {error.strerror}. "
            "Make room and give the same command again: it goes on from the shards that are finished."
        ) from error
