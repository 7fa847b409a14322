"""Handlers of the steps that train the decoder: pretrain, midtrain, finetune.

Each writes a checkpoint folder whose bytes depend only on spec and inputs. A step that was killed at any time resumes
and ends with the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Literal

from firstsight.data import tokenizer
from firstsight.data.loader import Batch, BatchStream, DecodedImages, prefetch_batches
from firstsight.data.loader.sample_ledger import SampleLedgerWriter
from firstsight.errors import Diverged, MixError, ModelError, Stopped
from firstsight.files import write_json
from firstsight.model.checkpoint_io import read_spec
from firstsight.model.vision import extract_features, extract_fixed, load_encoder
from firstsight.recipe.model import LMSpec, VLMSpec
from firstsight.recipe.stages import Finetune, Midtrain, Pretrain, TrunkSegment
from firstsight.recipe.vision import PatchProjectionSpec
from firstsight.site import ProgressCallback, Site
from firstsight.train import parallel
from firstsight.train.compilation import compile_decoder, configure_torch
from firstsight.train.divergence import explain_divergence
from firstsight.train.loop import MetricsLog, ProgressReporter, train
from firstsight.train.ranks import in_processes
from firstsight.train.resume import LastWeights, TrainingResume
from firstsight.train.spikes import LossCheck
from firstsight.train.state import (
    TrainState,
    branch_state,
    load_moments,
    resume_state,
    untrained_state,
    write_checkpoint,
)
from firstsight.train.step_meter import StepMeter
from firstsight.train.stop_signals import stop_signals
from firstsight.train.streams import StepInputs, achieved_record, stage_stream, trunk_stream
from firstsight.units import Tokens

_BATCH_TENSORS = ("tokens", "targets", "docs", "positions", "slots", "images", "source_ids")


@dataclass(frozen=True, kw_only=True, slots=True)
class StepContext:
    """What a handler gets in addition to its spec: input paths by role, output folder, site, progress callback."""

    inputs: StepInputs
    out: Path
    site: Site
    on_progress: ProgressCallback


@in_processes
def pretrain(spec: TrunkSegment, *, inputs: StepInputs, out: Path, site: Site, on_progress: ProgressCallback) -> None:
    """Train a trunk from the segment's start to its end, from the checkpoint of the segment before."""
    configure_torch(site)
    trunk, device = spec.pretrain, site.device
    start, until = trunk.tokens_at(spec.start), trunk.tokens_at(spec.end)
    _check_vocabulary(trunk.model, inputs["tokenizer"])
    stream = trunk_stream(spec, inputs=inputs, site=site)
    if spec.start:
        if (seen := read_spec(inputs["previous"])["seen"]) != start:
            folder = inputs["previous"]
            raise ModelError(f"{folder}: wanted a segment that ends at {start} tokens. Got {seen}. Run it again.")
        state = resume_state(inputs["previous"], trunk, tokens_seen=start, device=device)
    else:
        state = untrained_state(trunk.model, trunk.optim, trains=trunk.trains, seed=trunk.seed, device=device)
    steps = trunk.row_shape.steps(trunk.tokens)  # of all segments, so that all are compiled or none
    compile_decoder(state.model.lm, site, steps=steps)
    context = StepContext(inputs=inputs, out=out, site=site, on_progress=on_progress)
    _run_training(state, stream, trunk, until, context)


@in_processes
def train_stage(
    spec: Midtrain | Finetune, *, inputs: StepInputs, out: Path, site: Site, on_progress: ProgressCallback
) -> None:
    """Train on images and text, from a checkpoint's weights (and moments, if carried) or from an untrained model."""
    context = StepContext(inputs=inputs, out=out, site=site, on_progress=on_progress)
    configure_torch(site)
    _check_vocabulary(spec.model.lm, inputs["tokenizer"])
    stream = stage_stream(spec, inputs=inputs, site=site)
    folder, encoders = inputs.get("trunk", inputs.get("previous")), _tower_folders(spec.model, inputs, "included")
    model, optim, trains, device = spec.model, spec.optim, spec.trains, site.device
    if folder is None:
        state = untrained_state(model, optim, trains=trains, seed=spec.seed, device=device, encoders=encoders)
    else:
        state = branch_state(folder, model, optim, trains=trains, seed=spec.seed, device=device, encoders=encoders)
        if spec.moments == "carried":
            load_moments(state, folder)
    compile_decoder(state.model.lm, site, steps=stream.steps)
    _run_training(state, stream, spec, spec.rounded_tokens, context)


def _run_training(
    state: TrainState, stream: BatchStream, spec: Pretrain | Midtrain | Finetune, until: Tokens, context: StepContext
) -> None:
    out, site, step_tokens = context.out, context.site, int(stream.row_shape.tokens_per_step)
    start_step = int(state.tokens_seen) // step_tokens
    progress = ProgressReporter(context.on_progress, total=until, unit="tokens", done=state.tokens_seen)
    resume = TrainingResume(out, state, on_damage=progress.note)
    resumed = resume.load() or {}
    log_file, ledger_file = (resume.open_appended(name) for name in ("log.jsonl", "ledger.npy"))
    log = MetricsLog(log_file, stream.source_names, steps=stream.steps, state=resumed.get("log"))
    meter = StepMeter(spec, stored_features=not _reads_pixels(stream), device=site.device)
    loss_check = LossCheck(site.spike, resumed.get("losses", ()))
    ledger = SampleLedgerWriter(ledger_file, stream, first_step=start_step, state=resumed.get("ledger"))

    last_weights = LastWeights(resume, () if isinstance(spec, Pretrain) else spec.checkpoint_tokens)

    def save() -> None:
        extra_state = {"log": log.state_dict(), "ledger": ledger.state_dict(), "losses": loss_check.state_dict()}
        resume.save(extra_state, earlier=last_weights.files(state.tokens_seen))

    prepare, last_save = _batch_preparer(state, stream, context.inputs, site), monotonic()
    slices = micro_batch_slices(stream.row_shape.batch_size, site.rows_at_once)
    first_step = int(state.tokens_seen) // step_tokens
    signals, batches = list[int](), prefetch_batches(stream, first_step, num_workers=site.readers, replicas=slices)
    with stop_signals(signals.append), closing(batches), closing(resume):
        try:
            prepared = (tuple(map(prepare, batch)) for batch in meter.wait_for(batches))
            for info in train(state, prepared, spec.lr, until, loss_check=loss_check):
                meter.add_step(info)
                if record := log.add_step(info):
                    record |= meter.record()
                ledger.mark_trained(info.step)
                if record or progress.is_due or info.tokens_seen >= until:
                    metrics = {"loss": info.loss, "lr": info.lr, "tokens/s": progress.rate(info.tokens_seen)}
                    progress.report(info.tokens_seen, record=record, **metrics)
                resume.check()
                is_due = parallel.any_rank(bool(signals) or monotonic() - last_save > site.save_every)
                if last_weights.write_due(state) or is_due:
                    save()
                    last_save = monotonic()
                    if parallel.any_rank(bool(signals)):
                        resume.wait()
                        raise Stopped(f"saved at step {info.step:,} of {stream.steps:,}; the same command continues")
        except Diverged as error:
            save()
            resume.wait()
            raise explain_divergence(error, state, stream, out=out, prepare=prepare) from error
        resume.wait()
    encoders = _tower_folders(state.model.spec, context.inputs, "external")
    write_checkpoint(out, state, tokenizer=context.inputs["tokenizer"], encoders=encoders)
    if not parallel.rank():
        ledger.close(out / "ledger.json")
        write_json(out / "achieved.json", achieved_record(stream, context.inputs))
        last_weights.publish(out)
        resume.finish()


def micro_batch_slices(num_rows: int, max_rows: int) -> list[tuple[int, int]]:
    """(number, count) of this rank's parts of a step's rows: the fewest equal parts of at most `max_rows`; 0: no limit.

    MixError if the rows cannot be divided evenly among the ranks.
    """
    ranks = parallel.world_size()
    if num_rows % ranks:
        counts = ", ".join(str(count) for count in range(1, num_rows + 1) if num_rows % count == 0)
        raise MixError(
            f"processes: wanted a number that divides the {num_rows} rows of a step: {counts}. Got {ranks}. Change it."
        )
    rows = num_rows // ranks
    parts = next(parts for parts in range(1, rows + 1) if rows % parts == 0 and rows // parts <= (max_rows or rows))
    return [(parallel.rank() * parts + part, ranks * parts) for part in range(parts)]


def _batch_preparer(state: TrainState, stream: BatchStream, inputs: StepInputs, site: Site) -> Callable[[Batch], Batch]:
    """A function that moves a batch to the site's device and encodes pixels that an external encoder must encode."""
    spec, encoder = state.model.spec, None
    folders = _tower_folders(spec, inputs, "external")
    if (
        folders
        and _reads_pixels(stream)
        and isinstance(spec, VLMSpec)
        and not isinstance(spec.vision, PatchProjectionSpec)
    ):
        encoder = load_encoder(spec.vision, folders).to(site.device)

    extract = extract_fixed if isinstance(spec, VLMSpec) and spec.stores_features else extract_features

    def prepare(batch: Batch) -> Batch:
        if site.device != "cpu":
            moved = {name: getattr(batch, name).to(site.device, non_blocking=True) for name in _BATCH_TENSORS}
            batch = replace(batch, **moved)
        if encoder is None or not len(batch.images):
            return batch
        return replace(batch, images=extract(encoder, batch.images).half())

    return prepare


def _reads_pixels(stream: BatchStream) -> bool:
    """Whether batches have pixels instead of stored features."""
    return any(isinstance(source.images, DecodedImages) for source in stream.sources)


def _tower_folders(spec: LMSpec | VLMSpec, inputs: StepInputs, encoder: Literal["external", "included"]) -> list[Path]:
    """The folders of the model's towers if its encoder is of that kind, else none."""
    if not isinstance(spec, VLMSpec) or spec.encoder != encoder:
        return []
    return [inputs[f"encoder{number}"] for number in range(len(spec.vision.towers))]


def _check_vocabulary(spec: LMSpec, path: Path) -> None:
    size = tokenizer.load_tokenizer(path).vocab_size
    if size > spec.vocab_size:
        raise ModelError(f"{path}: has {size} tokens, the model {spec.vocab_size}. Give the model at least {size}.")
