"""Handlers of the steps that train the decoder: pretrain, midtrain, finetune.

Each leaves a checkpoint folder whose bytes are a function of spec and inputs: killed at any time and run again,
it goes on from its resume point to the same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Literal

from firstsight.data import tokenizer
from firstsight.data.loader import Batch, BatchStream, DecodedImages, prefetch_batches
from firstsight.data.loader.sample_ledger import SampleLedgerWriter
from firstsight.errors import ModelError
from firstsight.model.checkpoint_io import read_spec
from firstsight.model.vision import extract_features, load_encoder
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.schedule import LRSchedule
from firstsight.recipe.stages import Finetune, Midtrain, TrunkSegment
from firstsight.recipe.vision import PatchProjectionSpec
from firstsight.site import Progress, ProgressCallback, Site
from firstsight.train import checkpoint
from firstsight.train.compilation import compile_decoder, configure_torch
from firstsight.train.encoder import encode_features, train_contrastive
from firstsight.train.loop import StepInfo, train
from firstsight.train.metrics_log import MetricsLog
from firstsight.train.state import TrainState, branch_state, load_moments, resume_state, untrained_state
from firstsight.train.streams import StepInputs, achieved_record, stage_stream, trunk_stream
from firstsight.units import Tokens

__all__ = ["encode_features", "finetune", "midtrain", "pretrain", "train_contrastive"]


def pretrain(spec: TrunkSegment, *, inputs: StepInputs, out: Path, site: Site, on_progress: ProgressCallback) -> None:
    """Handler: the trunk from `since` to `until`, going on exactly where the previous segment's checkpoint stopped."""
    configure_torch(site)
    trunk = spec.pretrain
    _check_vocabulary(trunk.model, inputs["tokenizer"])
    until = trunk.tokens_at(spec.end)
    stream = trunk_stream(spec, inputs=inputs, site=site)
    if spec.start:
        _check_tokens_seen(inputs["previous"], trunk.tokens_at(spec.start))
        state = resume_state(
            inputs["previous"], trunk.model, trunk.optim, tokens_seen=trunk.tokens_at(spec.start), device=site.device
        )
    else:
        state = untrained_state(trunk.model, trunk.optim, seed=trunk.seed, device=site.device)
    compile_decoder(
        state.model.lm, site, steps=trunk.row_shape.steps(trunk.tokens)
    )  # of all segments: cuts change no bits
    _run_training(
        state, stream, trunk.schedule, until, StepContext(inputs=inputs, out=out, site=site, on_progress=on_progress)
    )


def midtrain(spec: Midtrain, *, inputs: StepInputs, out: Path, site: Site, on_progress: ProgressCallback) -> None:
    """Handler: images enter, on the trunk's weights and, where carried, its moments; without a trunk on no training."""
    configure_torch(site)
    _check_vocabulary(spec.model.lm, inputs["tokenizer"])
    until = spec.row_shape.round_up(spec.tokens)
    stream = stage_stream(spec, inputs=inputs, site=site)
    state = _initial_state(spec, inputs, site, spec.moments)
    compile_decoder(state.model.lm, site, steps=stream.steps)
    _run_training(
        state, stream, spec.schedule, until, StepContext(inputs=inputs, out=out, site=site, on_progress=on_progress)
    )


def finetune(spec: Finetune, *, inputs: StepInputs, out: Path, site: Site, on_progress: ProgressCallback) -> None:
    """Handler: instruction tuning of a checkpoint's weights with fresh moments and a schedule of its own."""
    configure_torch(site)
    _check_vocabulary(spec.model.lm, inputs["tokenizer"])
    until = spec.row_shape.round_up(spec.tokens)
    stream = stage_stream(spec, inputs=inputs, site=site)
    state = _initial_state(spec, inputs, site, "fresh")
    compile_decoder(state.model.lm, site, steps=stream.steps)
    _run_training(
        state, stream, spec.schedule, until, StepContext(inputs=inputs, out=out, site=site, on_progress=on_progress)
    )


def _initial_state(
    spec: Midtrain | Finetune, inputs: StepInputs, site: Site, moments: Literal["carried", "fresh"]
) -> TrainState:
    """The state that a stage starts with: branched off what came before, or untrained."""
    source_folder, encoders = inputs.get("trunk", inputs.get("previous")), _tower_folders(spec.model, inputs, "trained")
    if source_folder is None:
        return untrained_state(spec.model, spec.optim, seed=spec.seed, device=site.device, encoders=encoders)
    state = branch_state(source_folder, spec.model, spec.optim, seed=spec.seed, device=site.device, encoders=encoders)
    if moments == "carried":
        load_moments(state, source_folder)
    return state


@dataclass(frozen=True, kw_only=True, slots=True)
class StepContext:
    """Where a handler works: what it reads, where it leaves its results, on what machine, and whom it tells."""

    inputs: StepInputs
    out: Path
    site: Site
    on_progress: ProgressCallback


def _run_training(
    state: TrainState, stream: BatchStream, schedule: LRSchedule, until: Tokens, context: StepContext
) -> None:
    """Train to `until` with resume points on the way, then leave the checkpoint."""
    out, resume_folder, step_tokens = context.out, context.out / "resume", int(stream.row_shape.tokens_per_step)
    metrics_log = MetricsLog(out, stream.source_names, steps=stream.steps)
    sample_ledger = SampleLedgerWriter(out, stream, first_step=int(state.tokens_seen) // step_tokens)
    resume_state = checkpoint.load_resume_point(resume_folder, state)
    metrics_log.restore(resume_state)
    sample_ledger.open(None if resume_state is None else resume_state["draws"])
    last_save, report_progress = monotonic(), _ProgressReporter(until, state.tokens_seen, context.on_progress)
    prepare_batch = _batch_preparer(state, stream, context.inputs, context.site)
    slices = _micro_batch_slices(stream.row_shape.batch_size, context.site.rows_at_once)
    with closing(
        prefetch_batches(
            stream, int(state.tokens_seen) // step_tokens, num_workers=context.site.readers, replicas=slices
        )
    ) as batches:
        for info in train(state, (tuple(map(prepare_batch, batch)) for batch in batches), schedule.lr, until):
            metrics_log.add_step(info)
            sample_ledger.mark_trained(info.step)
            report_progress(info)
            if monotonic() - last_save > context.site.save_every:
                checkpoint.save_resume_point(
                    resume_folder, state, metrics_log.state_dict() | {"draws": sample_ledger.state_dict()}
                )
                last_save = monotonic()
    encoders = _tower_folders(state.model.spec, context.inputs, "frozen")
    checkpoint.write_checkpoint(out, state, tokenizer=context.inputs["tokenizer"], encoders=encoders)
    sample_ledger.close()
    (out / "achieved.json").write_text(
        json.dumps(achieved_record(stream, context.inputs), sort_keys=True, indent=1) + "\n"
    )
    shutil.rmtree(resume_folder, ignore_errors=True)


def _micro_batch_slices(num_rows: int, max_rows: int) -> list[tuple[int, int]]:
    """The fewest equal parts of a step's rows that hold at most `at_once` rows each; 0 sets no bound."""
    row_limit = max_rows or num_rows
    count = next(count for count in range(1, num_rows + 1) if num_rows % count == 0 and num_rows // count <= row_limit)
    return [(number, count) for number in range(count)]


def _batch_preparer(state: TrainState, stream: BatchStream, inputs: StepInputs, site: Site) -> Callable[[Batch], Batch]:
    """Moves a batch to the site's device and, where its pictures are pixels for a frozen encoder, encodes them."""
    spec = state.model.spec
    encoder = None
    if (
        isinstance(spec, VLMSpec)
        and not isinstance(spec.vision, PatchProjectionSpec)
        and spec.encoder == "frozen"
        and _has_pixels(stream)
    ):
        encoder = load_encoder(spec.vision, _tower_folders(spec, inputs, "frozen")).to(site.device)

    def prepare_batch(batch: Batch) -> Batch:
        if site.device != "cpu":
            field_names = ("tokens", "targets", "docs", "positions", "slots", "images", "source_ids")
            batch = replace(
                batch, **{name: getattr(batch, name).to(site.device, non_blocking=True) for name in field_names}
            )
        if encoder is None or not len(batch.images):
            return batch
        return replace(batch, images=extract_features(encoder, batch.images).half())

    return prepare_batch


def _has_pixels(stream: BatchStream) -> bool:
    return any(isinstance(source.images, DecodedImages) for source in stream.sources)


def _tower_folders(spec: LMSpec | VLMSpec, inputs: StepInputs, encoder: Literal["frozen", "trained"]) -> list[Path]:
    """The folders of the model's towers, where its encoder is of that kind."""
    if not isinstance(spec, VLMSpec) or spec.encoder != encoder:
        return []
    return [inputs[f"encoder{number}"] for number in range(len(spec.vision.towers))]


class _ProgressReporter:
    """Tells progress at most twice a second."""

    def __init__(self, until: Tokens, tokens_seen: Tokens, on_progress: ProgressCallback) -> None:
        self.until, self.on_progress = until, on_progress
        self.tokens_seen, self.last_report = int(tokens_seen), monotonic()

    def __call__(self, info: StepInfo) -> None:
        current_time = monotonic()
        if current_time - self.last_report < 0.5 and info.tokens_seen < self.until:
            return
        speed = (info.tokens_seen - self.tokens_seen) / max(1e-9, current_time - self.last_report)
        numbers = {"loss": info.loss, "lr": info.lr, "tokens/s": speed}
        self.on_progress(Progress(done=info.tokens_seen, total=self.until, unit="tokens", metrics=numbers))
        self.tokens_seen, self.last_report = info.tokens_seen, current_time


def _check_vocabulary(spec: LMSpec, tokenizer_path: Path) -> None:
    size = tokenizer.load_tokenizer(tokenizer_path).vocab_size
    if size > spec.vocab_size:
        raise ModelError(
            f"{tokenizer_path}: has {size} tokens, the model {spec.vocab_size}. Give the model at least {size}."
        )


def _check_tokens_seen(folder: Path, expected_tokens: Tokens) -> None:
    tokens_seen = read_spec(folder)["seen"]
    if tokens_seen != expected_tokens:
        raise ModelError(
            f"{folder}: wanted a segment that ends at {expected_tokens} tokens. Got {tokens_seen}. Run it again."
        )
