"""Handlers of the steps that train the decoder: pretrain, midtrain, finetune.

Each leaves a checkpoint folder whose bytes are a function of spec and inputs: killed at any time and run again,
it goes on from its resume point to the same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Literal

from firstsight.data import tokenizer
from firstsight.data.index import Index
from firstsight.data.loader import Batch, Features, Feed, Pixels, Stream
from firstsight.data.pack import pack
from firstsight.errors import ModelError
from firstsight.model.vision import features, load_siglip
from firstsight.model.weights import read_spec
from firstsight.recipe.mix import Captions, Mix, Named, Packing, Recaptioned, Source
from firstsight.recipe.model import LMSpec, Patches, Siglip, VLMSpec
from firstsight.recipe.schedule import Rate
from firstsight.recipe.stages import Finetune, Midtrain, Rows, Segment
from firstsight.site import Progress, Site, Tell
from firstsight.train import checkpoint
from firstsight.train.compiled import settle, speed_up
from firstsight.train.encoder import contrast, encode
from firstsight.train.ledger import Ledger
from firstsight.train.loop import StepInfo, train
from firstsight.train.state import TrainState, branch, fresh, resume
from firstsight.units import Share, Tokens

__all__ = ["contrast", "encode", "finetune", "midtrain", "pretrain"]

Inputs = Mapping[str, Path]


def pretrain(spec: Segment, *, inputs: Inputs, out: Path, site: Site, tell: Tell) -> None:
    """Handler: the trunk from `since` to `until`, going on exactly where the previous segment's checkpoint stopped."""
    settle(site)
    trunk = spec.pretrain
    _check_vocabulary(trunk.model, inputs["tokenizer"])
    until = trunk.at(spec.until)
    text = _text(inputs["text0"], trunk.rows, trunk.packing)
    stream = Stream(
        text=text,
        images=(),
        share=Share(0),
        rows=trunk.rows,
        seed=trunk.seed,
        text_rows_seen=0,
        steps=trunk.rows.steps(until),
        epochs=1,
    )
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
    stream = _stream(spec, inputs, until=until, epochs=1)
    state = _entered(spec, inputs, site, spec.moments)
    speed_up(state.model.lm, site, steps=stream.steps)
    _learn(state, stream, spec.rate, until, Desk(inputs=inputs, out=out, site=site, tell=tell))


def finetune(spec: Finetune, *, inputs: Inputs, out: Path, site: Site, tell: Tell) -> None:
    """Handler: instruction tuning of a checkpoint's weights with fresh moments and a schedule of its own."""
    settle(site)
    _check_vocabulary(spec.model.lm, inputs["tokenizer"])
    until = spec.rows.whole(spec.tokens)
    stream = _stream(spec, inputs, until=until, epochs=spec.epochs)
    state = _entered(spec, inputs, site, "fresh")
    speed_up(state.model.lm, site, steps=stream.steps)
    _learn(state, stream, spec.rate, until, Desk(inputs=inputs, out=out, site=site, tell=tell))


def _entered(spec: Midtrain | Finetune, inputs: Inputs, site: Site, moments: Literal["carried", "fresh"]) -> TrainState:
    """The state that a stage starts with: branched off what came before, or untrained."""
    before = inputs.get("trunk", inputs.get("previous"))
    if before is None:
        return fresh(spec.model, spec.optim, seed=spec.seed, device=site.device)
    return branch(before, spec.model, spec.optim, moments=moments, seed=spec.seed, device=site.device)


@dataclass(frozen=True, kw_only=True, slots=True)
class Desk:
    """Where a handler works: what it reads, where it leaves its results, on what machine, and whom it tells."""

    inputs: Inputs
    out: Path
    site: Site
    tell: Tell


def _learn(state: TrainState, stream: Stream, rate: Rate, until: Tokens, desk: Desk) -> None:
    """Train to `until` with resume points on the way, then leave the checkpoint."""
    steps, out = int(until) // stream.rows.tokens, desk.out
    ledger = Ledger(out, [feed.name for feed in stream.feeds], steps=steps)
    point = out / "resume"
    ledger.open(checkpoint.find(point, state))
    saved, report = monotonic(), _Report(until, state.seen, desk.tell)
    eyes = _eyes(state, stream, desk.inputs, desk.site)
    for info in train(state, _batches(stream, state, eyes), rate.lr, until):
        ledger.add(info)
        report(info)
        if monotonic() - saved > desk.site.save_every:
            checkpoint.keep(point, state, ledger.notes())
            saved = monotonic()
    checkpoint.finish(out, state, tokenizer=desk.inputs["tokenizer"], encoder=desk.inputs.get("encoder"))
    achieved = stream.achieved(steps).record()
    (out / "achieved.json").write_text(json.dumps(achieved, sort_keys=True, indent=1) + "\n")
    shutil.rmtree(point, ignore_errors=True)


def _batches(stream: Stream, state: TrainState, ready: Callable[[Batch], Batch]) -> Iterator[Batch]:
    """The stream from where the state stands, made ready for the model."""
    first = int(state.seen) // stream.rows.tokens
    return (ready(stream.batch(step)) for step in count(first))


def _eyes(state: TrainState, stream: Stream, inputs: Inputs, site: Site) -> Callable[[Batch], Batch]:
    """Moves a batch to the site's device and, where its pictures are pixels for a frozen encoder, encodes them."""
    spec = state.model.spec
    raw = any(isinstance(feed.pictures, Pixels) for feed in stream.feeds)
    tower = isinstance(spec, VLMSpec) and isinstance(spec.vision, Siglip) and raw
    encoder = load_siglip(inputs["encoder"]).to(site.device) if tower else None

    def ready(batch: Batch) -> Batch:
        if site.device != "cpu":
            names = ("tokens", "targets", "docs", "positions", "slots", "images", "kinds")
            batch = replace(batch, **{name: getattr(batch, name).to(site.device, non_blocking=True) for name in names})
        if encoder is None or not len(batch.images):
            return batch
        return replace(batch, images=features(encoder, batch.images).half())

    return ready


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


def _stream(spec: Midtrain | Finetune, inputs: Inputs, *, until: Tokens, epochs: int) -> Stream:
    mix, answers = spec.mix, isinstance(spec, Finetune)
    names = _names(mix)
    images = tuple(
        (_image(spec, inputs, role=f"image{nth}", name=name), part.share)
        for nth, (part, name) in enumerate(zip(mix.images.parts, names, strict=True))
    )
    return Stream(
        text=replace(_text(inputs["text0"], spec.rows, mix.packing), answers_only=answers),
        images=images,
        share=mix.spans(1)[0][1],
        rows=spec.rows,
        seed=spec.seed,
        text_rows_seen=_text_rows(inputs, spec.rows),
        steps=int(until) // spec.rows.tokens,
        epochs=epochs,
    )


def _text_rows(inputs: Inputs, rows: Rows) -> int:
    """Text rows that the stages before have read; their text goes on behind them."""
    before = inputs.get("trunk", inputs.get("previous"))
    note = None if before is None else before / "achieved.json"
    return json.loads(note.read_text())["text_rows_seen"] if note is not None and note.is_file() else 0


def _text(folder: Path, rows: Rows, packing: Packing) -> Feed:
    index = Index.open(folder)
    table = pack(index, length=rows.length, image_tokens=0, packing=packing)
    return Feed(name="text", index=index, table=table, pictures=None, answers_only=False)


def _image(spec: Midtrain | Finetune, inputs: Inputs, *, role: str, name: str) -> Feed:
    index, vision = Index.open(inputs[role]), spec.model.vision
    if f"{role}.features" in inputs:
        pictures = Features.open(inputs[f"{role}.features"])
    else:
        side = vision.image if isinstance(vision, Patches) else vision.vit.image
        pictures = Pixels(index=index, folder=inputs[f"{role}.source"], size=side)
    table = pack(index, length=spec.rows.length, image_tokens=spec.model.image_tokens, packing=spec.mix.packing)
    return Feed(name=name, index=index, table=table, pictures=pictures, answers_only=isinstance(spec, Finetune))


def _names(mix: Mix) -> Sequence[str]:
    """What each image part is called in logs; parts of one name are numbered."""
    plain = [_name(source) for source in mix.images.sources]
    total, so_far = Counter(plain), Counter[str]()
    names: list[str] = []
    for name in plain:
        so_far[name] += 1
        names.append(f"{name}-{so_far[name]}" if total[name] > 1 else name)
    return names


def _name(source: Source) -> str:
    match source:
        case Named():
            return source.name
        case Recaptioned():
            return source.named.name
        case Captions():
            return f"captions-{source.quality}"
        case _:
            return type(source).__name__.lower()


def _check_vocabulary(spec: LMSpec, place: Path) -> None:
    size = tokenizer.load(place).size
    if size > spec.vocabulary:
        raise ModelError(f"{place}: has {size} tokens, the model {spec.vocabulary}. Give the model at least {size}.")


def _check_clock(folder: Path, wanted: Tokens) -> None:
    seen = read_spec(folder)["seen"]
    if seen != wanted:
        raise ModelError(f"{folder}: wanted a segment that ends at {wanted} tokens. Got {seen}. Run it again.")
