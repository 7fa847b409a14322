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
from firstsight.data.loader import Batch, Pixels, Stream, ahead
from firstsight.data.loader.ledger import Draws
from firstsight.errors import ModelError
from firstsight.model.vision import features, load_encoder
from firstsight.model.weights import read_spec
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.schedule import Rate
from firstsight.recipe.stages import Finetune, Midtrain, Segment
from firstsight.recipe.vision import Patches
from firstsight.site import Progress, Site, Tell
from firstsight.train import checkpoint
from firstsight.train.compiled import settle, speed_up
from firstsight.train.encoder import contrast, encode
from firstsight.train.feeding import Inputs, achieved, stage_stream, trunk_stream
from firstsight.train.ledger import Ledger
from firstsight.train.loop import StepInfo, train
from firstsight.train.state import TrainState, branch, carry, fresh, resume
from firstsight.units import Tokens

__all__ = ["contrast", "encode", "finetune", "midtrain", "pretrain"]


def pretrain(spec: Segment, *, inputs: Inputs, out: Path, site: Site, tell: Tell) -> None:
    """Handler: the trunk from `since` to `until`, going on exactly where the previous segment's checkpoint stopped."""
    settle(site)
    trunk = spec.pretrain
    _check_vocabulary(trunk.model, inputs["tokenizer"])
    until = trunk.at(spec.until)
    stream = trunk_stream(spec, inputs=inputs, site=site)
    if spec.since:
        _check_clock(inputs["previous"], trunk.at(spec.since))
        state = resume(inputs["previous"], trunk.model, trunk.optim, seen=trunk.at(spec.since), device=site.device)
    else:
        state = fresh(trunk.model, trunk.optim, seed=trunk.seed, device=site.device)
    speed_up(state.model.lm, site, steps=trunk.rows.steps(trunk.tokens))  # of all segments: cuts change no bits
    _learn(state, stream, trunk.rate, until, Desk(inputs=inputs, out=out, site=site, tell=tell))


def midtrain(spec: Midtrain, *, inputs: Inputs, out: Path, site: Site, tell: Tell) -> None:
    """Handler: images enter, on the trunk's weights and, where carried, its moments; without a trunk on no training."""
    settle(site)
    _check_vocabulary(spec.model.lm, inputs["tokenizer"])
    until = spec.rows.whole(spec.tokens)
    stream = stage_stream(spec, inputs=inputs, site=site)
    state = _entered(spec, inputs, site, spec.moments)
    speed_up(state.model.lm, site, steps=stream.steps)
    _learn(state, stream, spec.rate, until, Desk(inputs=inputs, out=out, site=site, tell=tell))


def finetune(spec: Finetune, *, inputs: Inputs, out: Path, site: Site, tell: Tell) -> None:
    """Handler: instruction tuning of a checkpoint's weights with fresh moments and a schedule of its own."""
    settle(site)
    _check_vocabulary(spec.model.lm, inputs["tokenizer"])
    until = spec.rows.whole(spec.tokens)
    stream = stage_stream(spec, inputs=inputs, site=site)
    state = _entered(spec, inputs, site, "fresh")
    speed_up(state.model.lm, site, steps=stream.steps)
    _learn(state, stream, spec.rate, until, Desk(inputs=inputs, out=out, site=site, tell=tell))


def _entered(spec: Midtrain | Finetune, inputs: Inputs, site: Site, moments: Literal["carried", "fresh"]) -> TrainState:
    """The state that a stage starts with: branched off what came before, or untrained."""
    before, encoders = inputs.get("trunk", inputs.get("previous")), _towers(spec.model, inputs, "trained")
    if before is None:
        return fresh(spec.model, spec.optim, seed=spec.seed, device=site.device, encoders=encoders)
    state = branch(before, spec.model, spec.optim, seed=spec.seed, device=site.device, encoders=encoders)
    if moments == "carried":
        carry(state, before)
    return state


@dataclass(frozen=True, kw_only=True, slots=True)
class Desk:
    """Where a handler works: what it reads, where it leaves its results, on what machine, and whom it tells."""

    inputs: Inputs
    out: Path
    site: Site
    tell: Tell


def _learn(state: TrainState, stream: Stream, rate: Rate, until: Tokens, desk: Desk) -> None:
    """Train to `until` with resume points on the way, then leave the checkpoint."""
    out, point, each = desk.out, desk.out / "resume", int(stream.rows.tokens)
    log = Ledger(out, stream.names, steps=stream.steps)
    draws = Draws(out, stream, first=int(state.seen) // each)
    notes = checkpoint.find(point, state)
    log.open(notes)
    draws.open(None if notes is None else notes["draws"])
    saved, report = monotonic(), _Report(until, state.seen, desk.tell)
    ready = _eyes(state, stream, desk.inputs, desk.site)
    parts = _parts(stream.rows.batch, desk.site.rows_at_once)
    with closing(ahead(stream, int(state.seen) // each, readers=desk.site.readers, parts=parts)) as batches:
        for info in train(state, (tuple(map(ready, batch)) for batch in batches), rate.lr, until):
            log.add(info)
            draws.reach(info.step)
            report(info)
            if monotonic() - saved > desk.site.save_every:
                checkpoint.keep(point, state, log.notes() | {"draws": draws.notes()})
                saved = monotonic()
    encoders = _towers(state.model.spec, desk.inputs, "frozen")
    checkpoint.finish(out, state, tokenizer=desk.inputs["tokenizer"], encoders=encoders)
    draws.close()
    (out / "achieved.json").write_text(json.dumps(achieved(stream, desk.inputs), sort_keys=True, indent=1) + "\n")
    shutil.rmtree(point, ignore_errors=True)


def _parts(rows: int, at_once: int) -> list[tuple[int, int]]:
    """The fewest equal parts of a step's rows that hold at most `at_once` rows each; 0 sets no bound."""
    most = at_once or rows
    count = next(count for count in range(1, rows + 1) if rows % count == 0 and rows // count <= most)
    return [(number, count) for number in range(count)]


def _eyes(state: TrainState, stream: Stream, inputs: Inputs, site: Site) -> Callable[[Batch], Batch]:
    """Moves a batch to the site's device and, where its pictures are pixels for a frozen encoder, encodes them."""
    spec = state.model.spec
    encoder = None
    if isinstance(spec, VLMSpec) and not isinstance(spec.vision, Patches) and spec.encoder == "frozen" and _raw(stream):
        encoder = load_encoder(spec.vision, _towers(spec, inputs, "frozen")).to(site.device)

    def ready(batch: Batch) -> Batch:
        if site.device != "cpu":
            names = ("tokens", "targets", "docs", "positions", "slots", "images", "kinds")
            batch = replace(batch, **{name: getattr(batch, name).to(site.device, non_blocking=True) for name in names})
        if encoder is None or not len(batch.images):
            return batch
        return replace(batch, images=features(encoder, batch.images).half())

    return ready


def _raw(stream: Stream) -> bool:
    return any(isinstance(feed.pictures, Pixels) for feed in stream.feeds)


def _towers(spec: LMSpec | VLMSpec, inputs: Inputs, encoder: Literal["frozen", "trained"]) -> list[Path]:
    """The folders of the model's towers, where its encoder is of that kind."""
    if not isinstance(spec, VLMSpec) or spec.encoder != encoder:
        return []
    return [inputs[f"encoder{number}"] for number in range(len(spec.vision.towers))]


class _Report:
    """Tells progress at most twice a second."""

    def __init__(self, until: Tokens, seen: Tokens, tell: Tell) -> None:
        self.until, self.tell = until, tell
        self.seen, self.told = int(seen), monotonic()

    def __call__(self, info: StepInfo) -> None:
        now = monotonic()
        if now - self.told < 0.5 and info.seen < self.until:
            return
        speed = (info.seen - self.seen) / max(1e-9, now - self.told)
        numbers = {"loss": info.loss, "lr": info.lr, "tokens/s": speed}
        self.tell(Progress(done=info.seen, total=self.until, unit="tokens", numbers=numbers))
        self.seen, self.told = info.seen, now


def _check_vocabulary(spec: LMSpec, place: Path) -> None:
    size = tokenizer.load(place).size
    if size > spec.vocabulary:
        raise ModelError(f"{place}: has {size} tokens, the model {spec.vocabulary}. Give the model at least {size}.")


def _check_clock(folder: Path, wanted: Tokens) -> None:
    seen = read_spec(folder)["seen"]
    if seen != wanted:
        raise ModelError(f"{folder}: wanted a segment that ends at {wanted} tokens. Got {seen}. Run it again.")
