"""From a source to its index: processes write a part for each shard, which are merged; the manifest is written last.

parts/<name>/       finished shards of an unfinished index; removed at the end
complete.json       size, time and digest of every file of a finished index, so that a second run finds damage
refused.json        the counts of a source with too many rejected records, which quarantine.jsonl lists
"""

from __future__ import annotations

import errno
import hashlib
import json
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from multiprocessing.connection import Connection, wait
from pathlib import Path
from time import monotonic
from typing import Any

from firstsight.data import readers, tokenizer
from firstsight.data.index import INDEX_FORMAT, ShardInfo
from firstsight.data.prepare.merge_shards import merge_parts, merge_quarantines
from firstsight.data.prepare.shard_writer import PrepareJob, ShardPart, ShardProgress, ShardWriter, load_finished_part
from firstsight.data.readers import Shard
from firstsight.data.records import Notices
from firstsight.errors import DataError, FirstsightError, StepFailed
from firstsight.files import FileDigests, file_sha256, write_atomic, write_json
from firstsight.limits import apply_limits
from firstsight.recipe import mixture, serialize
from firstsight.recipe.stages import Prepare
from firstsight.resume_folder import check_regular, remove_path, seal_json, unseal_json
from firstsight.site import Location, Progress, ProgressCallback, Site
from firstsight.worker_process import WorkerProcess

COMPLETE = "complete.json"
READING = "reading 2"
"""Changed if equal files of others give other records than before; their digests, and so addresses, change with it."""
_REPORT_INTERVAL = 0.5
"""Seconds between two progress reports."""
_SOURCE_FORMS: Mapping[type[mixture.DataSource], mixture.ExternalForm] = {
    mixture.SyntheticTexts: "text",
    mixture.SyntheticCaptions: "captions",
    mixture.SyntheticDialogues: "dialogues",
    mixture.SyntheticInterleaved: "interleaved",
    mixture.SyntheticMultitask: "dialogues",
    mixture.Recaptioned: "captions",
}


def prepare(spec: Prepare, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback) -> None:
    """Handler: check, tokenize and index a source in `site.readers` processes; a killed run resumes to equal bytes.

    Raises DataError when more records are rejected than `most_bad` allows or a shard is truncated, StepFailed
    when the disk is full; finished shards stay for the next run.
    """
    job = prepare_job(spec, inputs=inputs, out=out, site=site)
    listing = readers.list_source(job.location, job.form)
    shards = listing.shards
    with _disk_full_as_error(out):
        digests = readers.cached_shard_digests(job.source, job.location, site.cache)
        if _is_undamaged(out, on_progress) and _is_published(out, job, shards, digests):
            remove_path(out / "parts")
            return
        _clear(out)
        parts = _write_missing_parts(job, shards, worker_count=site.readers, on_progress=on_progress)
        stats = _count_records(parts, listing.notices)
        merge_quarantines(parts, out)
        write_json(out / "refused.json", stats, sync=True)
        _check_rejected_share(parts, job.location, stats)
        (out / "refused.json").unlink()
        for part in parts:
            digests.record(part.shard.label, part.shard.size, part.shard.stamp, digest=part.digest)
        digests.save()
        _publish(out, job, parts, stats)


def prepare_job(spec: Prepare, *, inputs: Mapping[str, Path], out: Path, site: Site) -> PrepareJob:
    """The job of a step; RequestError if the site does not have the source."""
    source, location = spec.source, readers.locate_source(spec.source, inputs.get("source"), site)
    text_tokenizer = tokenizer.load_tokenizer(inputs["tokenizer"])
    # Declared sizes and `most_bad`, which decides whether a source is accepted, do not change its parts.
    location_fields = [location.path, location.pictures, location.captions, dict(location.columns), location.split]
    identity = [INDEX_FORMAT, READING, readers.without_declared_size(source), location_fields, text_tokenizer.digest]
    return PrepareJob(
        source=source,
        location=location,
        form=source.form if isinstance(source, mixture.External) else _SOURCE_FORMS[type(source)],
        tokenizer_path=inputs["tokenizer"],
        parts_path=out / "parts",
        tokenizer_digest=text_tokenizer.digest,
        special_tokens=text_tokenizer.special_ids,
        vocab_size=text_tokenizer.vocab_size,
        limits=site.limits,
        key=hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
    )


def _write_missing_parts(
    job: PrepareJob, shards: Sequence[readers.Shard], *, worker_count: int, on_progress: ProgressCallback
) -> list[ShardPart]:
    parts = {shard: _find_part(job, shard, on_progress) for shard in shards}
    progress = _PrepareProgress(parts, on_progress)
    missing = [shard for shard, part in parts.items() if part is None]
    for shard, shard_progress in write_shards(job, missing, worker_count=worker_count):
        progress.update(shard, shard_progress)
    progress.report()
    parts |= {shard: load_finished_part(job, shard, is_new=True) for shard in missing}
    if lost := [shard.name for shard, part in parts.items() if part is None]:
        raise StepFailed(f"{job.parts_path}: wanted a part of {lost[0]}. Got none: something removed it. Try again.")
    return [part for part in parts.values() if part is not None]


def _find_part(job: PrepareJob, shard: readers.Shard, on_progress: ProgressCallback) -> ShardPart | None:
    try:
        return load_finished_part(job, shard, is_new=False)
    except DataError as error:
        _note(f"{error} It is written again.", on_progress)
        return None


def _note(line: str, on_progress: ProgressCallback) -> None:
    sys.stderr.write(f"{line}\n")
    on_progress(Progress(done=0, total=0, unit="bytes", note=line))


class _PrepareProgress:
    """Sums the progress of all shards and reports it at most twice a second; the speed is that of this run."""

    def __init__(self, parts: Mapping[readers.Shard, ShardPart | None], on_progress: ProgressCallback) -> None:
        self._total_bytes = sum(shard.byte_count for shard in parts)
        self._finished_bytes = sum(shard.byte_count for shard, part in parts.items() if part)
        self._finished_records = sum(part.record_count for part in parts.values() if part)
        self._on_progress, self._shards = on_progress, dict[readers.Shard, ShardProgress]()
        self._start = self._last_report = monotonic()

    def update(self, shard: readers.Shard, progress: ShardProgress) -> None:
        self._shards[shard] = progress
        if monotonic() - self._last_report >= _REPORT_INTERVAL:
            self.report()

    def report(self) -> None:
        self._last_report = monotonic()
        seconds = max(self._last_report - self._start, 1e-9)
        records = sum(progress.records for progress in self._shards.values())
        tokens = sum(progress.tokens for progress in self._shards.values())
        done = self._finished_bytes + sum(progress.bytes for progress in self._shards.values())
        total_records = float(self._finished_records + records)
        metrics = {"records": total_records, "tokens/s": tokens / seconds, "records/s": records / seconds}
        self._on_progress(Progress(done=done, total=max(self._total_bytes, done), unit="bytes", metrics=metrics))


def _count_records(parts: Sequence[ShardPart], files: Notices) -> dict[str, Any]:
    """Counts of a source: of records, by split, rejected by reason, captions, and what of it was not read."""
    counts, rejected = Counter[str](), Counter[str]()
    captions = Counter({"real": 0, "synthetic": 0})
    splits: dict[str, Counter[str]] = {}
    notices = Notices({f"file: {reason}": entry for reason, entry in files.entries.items()})
    for part in parts:
        for reason, (count, first) in part.notices.items():
            notices.add(reason, first, count)
        counts.update(part.counts)
        captions.update(part.caption_counts)
        split = {name: part.counts[name] for name in ("samples", "shown", "tokens", "loss tokens", "bad")}
        splits.setdefault(part.shard.split, Counter()).update(split)
        rejected.update({reason: count for reason, (count, _) in part.rejections.items()})
    return {
        "counts": dict(counts),
        "splits": splits,
        "refused": rejected,
        "captions": captions,
        "notices": notices.entries,
    }


def _check_rejected_share(parts: Sequence[ShardPart], location: Location, stats: Mapping[str, Any]) -> None:
    accepted, rejected = stats["counts"]["samples"], stats["counts"]["bad"]
    if accepted and rejected <= (accepted + rejected) * location.most_bad:
        return
    first = {reason: record for part in reversed(parts) for reason, (_, record) in part.rejections.items()}
    reasons = "; ".join(
        f"{count} x {reason} (first: {first[reason].shard}, {first[reason].where}: {first[reason].detail})"
        for reason, count in sorted(stats["refused"].items(), key=lambda item: (-item[1], item[0]))
    )
    raise DataError(
        f"{location.path}: wanted at most {location.most_bad} rejected records. Got {rejected} of "
        f"{accepted + rejected}: {reasons or 'no record at all'}. Repair the source, remove its damaged shards, or "
        "allow more with most_bad."
    )


def _is_undamaged(out: Path, on_progress: ProgressCallback) -> bool:
    """Whether an earlier run has completed the index, and its files are as they were.

    Files with the size and time of then are not read.
    """
    path = out / COMPLETE
    if not path.exists():
        return False
    try:
        check_regular(path)
        for name, (size, time, sha256) in unseal_json(path.read_text()).items():
            file = out / name
            check_regular(file)
            status = file.stat()
            if [status.st_size, status.st_mtime_ns] != [size, time] and file_sha256(file) != sha256:
                raise DataError(f"{name} does not have the content that was written.")
    except (OSError, ValueError, TypeError, AttributeError, DataError) as error:
        _note(f"{out}: the prepared source is damaged: {error} It is prepared again.", on_progress)
        return False
    return True


def _is_published(out: Path, job: PrepareJob, shards: Sequence[readers.Shard], digests: FileDigests) -> bool:
    """Whether an index is that of the job and of the bytes of today."""
    read_info = json.loads((out / "read.json").read_text())
    prepared = [ShardInfo.from_json(entry) for entry in read_info["shards"]]
    if read_info["key"] == _content_key(job) and len(prepared) == len(shards):
        reader = readers.RecordReader(job.location, job.form, source=job.source)
        with suppress(DataError):  # the source has changed
            readers.check_shards_unchanged(prepared, shards, reader=reader, digests=digests, advice="")
            return True
    return False


def _clear(out: Path) -> None:
    """Remove all but the parts, for a new index."""
    for path in out.iterdir():
        if path.name != "parts" or path.is_symlink() or path.is_file():
            remove_path(path)


def _content_key(job: PrepareJob) -> str:
    """Equal for two jobs that make equal indices of equal shards; without the paths of this machine."""
    source, location = readers.without_declared_size(job.source), job.location
    identity = [INDEX_FORMAT, READING, source, dict(location.columns), location.split, job.tokenizer_digest]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _publish(out: Path, job: PrepareJob, parts: Sequence[ShardPart], stats: Mapping[str, Any]) -> None:
    image_count, digests = merge_parts(parts, out, vocab_size=job.vocab_size)
    shards = [asdict(part.shard) | {"sha256": part.digest, "records": part.record_count} for part in parts]
    for shard in shards:
        del shard["stamp"]  # the time of a file on this machine
    read_info = {"key": _content_key(job), "source": serialize.to_json(job.source), "shards": shards}
    write_atomic(out / "read.json", json.dumps(read_info, ensure_ascii=False, indent=0) + "\n", sync=True)
    manifest = {
        "format": INDEX_FORMAT,
        "form": job.form,
        **{name: value for name, value in stats.items() if name != "notices"},
        "tokenizer": job.tokenizer_digest,
        "special": asdict(job.special_tokens),
        "source": _combine_digests([part.digest for part in parts] + _limits_text(job) + _reading_text(job)),
    }
    manifest["counts"] |= {"images": image_count}
    manifest["digest"] = _combine_digests([json.dumps(manifest, sort_keys=True), *digests])
    manifest["notices"] = stats["notices"]  # not in the digest: a README that is added makes no other data
    write_json(out / "manifest.json", manifest, sync=True)
    _write_complete(out)
    remove_path(out / "parts")


def _limits_text(job: PrepareJob) -> list[str]:
    """Other limits than the defaults, which make other records of equal files."""
    changed = job.limits.changed_for_records()
    return [json.dumps(changed, sort_keys=True)] if changed else []


def _reading_text(job: PrepareJob) -> list[str]:
    """How the user's files were read; steps of a study that write data read it back as ever."""
    return [READING] if isinstance(mixture.base_source(job.source), mixture.External) else []


def _write_complete(out: Path) -> None:
    record = dict[str, list[Any]]()
    for file in sorted(out.iterdir()):
        if file.name != "parts":
            record[file.name] = [file.stat().st_size, file.stat().st_mtime_ns, file_sha256(file)]
    write_atomic(out / COMPLETE, seal_json(record), sync=True)


def _combine_digests(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


@contextmanager
def _disk_full_as_error(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise StepFailed(
            f"{out}: wanted room for the index of a source. Got: {error.strerror}. "
            "Make room and run the same command again: it resumes after the shards that are finished."
        ) from error


_ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""There are as many processes as cores, so each computes on one thread."""
_Progress = tuple[Shard, ShardProgress]


def write_shards(job: PrepareJob, shards: Sequence[Shard], *, worker_count: int) -> Iterator[_Progress]:
    """Write the parts of `shards` in `worker_count` processes, or in this one, and yield the progress of each shard.

    Raises the error of the first shard that fails; parts that are finished by then stay.
    """
    if worker_count > 1 and len(shards) > 1:
        yield from _write_in_workers(job, shards, min(worker_count, len(shards)))
        return
    writer = ShardWriter(job)
    for shard in shards:
        for progress in writer.write(shard):
            yield shard, progress


def _write_in_workers(job: PrepareJob, shards: Sequence[Shard], worker_count: int) -> Iterator[_Progress]:
    # The largest shard first, so that no process works on it alone at the end.
    pending = sorted(shards, key=lambda shard: -shard.byte_count)
    workers: list[WorkerProcess] = []
    active: dict[object, tuple[WorkerProcess, Shard]] = {}
    try:
        for _ in range(worker_count):
            workers.append(WorkerProcess("firstsight.data.prepare.handler:serve_shards", environment=_ENVIRONMENT))
            workers[-1].send(job)
        idle = list(workers)
        while pending or active:
            while pending and idle:
                worker, shard = idle.pop(), pending.pop(0)
                worker.send(shard)
                active[worker.connection] = worker, shard
            for connection in wait([worker.connection for worker, _ in active.values()]):
                worker, shard = active[connection]
                for progress in _receive(worker, shard):
                    if progress is None:
                        idle.append(worker)
                        del active[connection]
                    else:
                        yield shard, progress
    finally:
        for worker in workers:
            worker.kill()


def _receive(worker: WorkerProcess, shard: Shard) -> list[ShardProgress | None]:
    """Progress of the shard, and None when its part is complete. Raises the worker's error."""
    messages = worker.receive()
    if not messages:
        advice = "Try fewer readers" if worker.exit_code() == -signal.SIGKILL else "Its log has the reason"
        raise StepFailed(f"{shard.name}: a reader process {worker.exit_description()} before it was done. {advice}.")
    if isinstance(messages[-1], Exception):
        raise messages[-1]
    return messages


def serve_shards(connection: Connection) -> None:
    """A worker's main function: write the part of each shard that arrives, until the pipe closes."""
    job: PrepareJob = connection.recv()
    apply_limits(job.limits)
    writer: ShardWriter | None = None
    while True:
        try:
            shard: Shard = connection.recv()
        except EOFError:
            return
        try:
            writer = writer or ShardWriter(job)
            for progress in writer.write(shard):
                connection.send(progress)
            connection.send(None)
        except FirstsightError as error:
            connection.send(DataError(str(error)))
        except OSError as error:
            connection.send(OSError(error.errno, error.strerror, error.filename))
