"""Training stops before an update that is not finite, names its rows, and continues from the state before."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from firstsight.errors import Diverged, LossSpike, StepFailed
from firstsight.recipe.schedule import Rewarm
from firstsight.site import Site
from firstsight.train import encoder, handlers, spikes
from firstsight.train.divergence import ADVICE
from firstsight.train.encoder import train_contrastive
from firstsight.train.handlers import pretrain, train_stage
from firstsight.train.state import TrainState
from firstsight.train.streams import stage_stream
from firstsight.units import Share
from tests.train import tiny_study

Inputs = dict[str, Path]
SEGMENT = tiny_study.segment_spec(10, "0", "2/5")


def test_one_image_with_features_that_are_not_finite_is_named(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path
) -> None:
    spec = tiny_study.midtrain_spec(tiny_study.FEATURE_VLM, 8, "1/2")
    features = np.load(inputs["image0.features"] / "features.npy")
    done = tiny_study.run_handler(train_stage, spec, {**inputs, "trunk": trunk}, tmp_path / "whole", site)
    stream = stage_stream(spec, inputs={**inputs, "trunk": trunk}, site=site)
    rows = [records for step in range(8) for records in stream.step_records(step)]
    position = [number for number, records in enumerate(rows) if records[0][0] == 1][6]
    records = [record for _, record in rows[position]]
    features[records[-1], 0, 0] = np.nan  # each record has one image
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features" / "features.npy", features)
    stage_inputs = {**inputs, "trunk": trunk, "image0.features": tmp_path / "features"}
    out, messages = tmp_path / "midtrain-0123", list[str]()
    for _ in range(2):
        with pytest.raises(Diverged) as error:
            tiny_study.run_handler(train_stage, spec, stage_inputs, out, site)
        messages.append(str(error.value))
    step, row = divmod(int(position), tiny_study.ROW_SHAPE.batch_size)
    assert messages[0] == messages[1], "the next attempt says the same"
    assert messages[0].startswith("midtrain-0123: wanted a finite loss and gradient norm. Got loss nan and gradient")
    assert f" in update {step + 1} (to {64 * (step + 1)} tokens), at learning rate 0.0" in messages[0]
    assert f"in row {row} ({', '.join(f'captions-rich record {record}' for record in records)})." in messages[0]
    assert f"the weights after {64 * step} tokens are kept in {out / 'resume'}" in messages[0]
    lines = (out / "resume" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, step + 1))
    # the same record with finite features: the step continues and ends as if nothing had happened
    tiny_study.run_handler(train_stage, spec, {**inputs, "trunk": trunk}, out, site)
    assert tiny_study.read_files(out) == tiny_study.read_files(done)


@pytest.mark.parametrize("bad_update", [1, 3])
def test_the_next_attempt_continues_from_the_last_good_state(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad_update: int
) -> None:
    """A fault of the machine in one update: the same command ends with the bytes of an undisturbed run."""
    train = handlers.train

    def train_badly(state: TrainState, batches: Iterator[Any], *arguments: Any, **options: Any) -> Iterator[Any]:
        def spoiled() -> Iterator[Any]:
            for batch in batches:
                if state.tokens_seen == (bad_update - 1) * 64:
                    state.model.lm.norm.weight.register_hook(lambda gradient: gradient * float("inf"))
                yield batch

        return train(state, spoiled(), *arguments, **options)

    monkeypatch.setattr(handlers, "train", train_badly)
    out = tmp_path / "out"
    with pytest.raises(Diverged, match=f"in update {bad_update} "):
        tiny_study.run_handler(pretrain, SEGMENT, inputs, out, site)
    monkeypatch.undo()
    assert list((out / "resume" / f"{(bad_update - 1) * 64:015d}").glob("shard-*.safetensors"))
    tiny_study.run_handler(pretrain, SEGMENT, inputs, out, site)
    assert tiny_study.read_files(out) == tiny_study.read_files(trunk)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_row_that_is_not_finite_stops_all_ranks(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path, ranks: int
) -> None:
    """The images of one record are NaN, so that its row is on one rank of two; both ranks stop and name that row."""
    spec = tiny_study.midtrain_spec(tiny_study.FEATURE_VLM, 4, "1/4")
    features = np.load(inputs["image0.features"] / "features.npy")
    stage_inputs = {**inputs, "trunk": trunk}
    records = stage_stream(spec, inputs=stage_inputs, site=site).step_records(1)
    row = next(row for row, ((source, _), *_) in enumerate(records) if source == 1)
    features[[record for _, record in records[row]]] = np.nan
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features" / "features.npy", features)
    stage_inputs["image0.features"] = tmp_path / "features"
    out = tmp_path / "out"
    with pytest.raises(StepFailed) as error:
        tiny_study.run_handler(train_stage, spec, stage_inputs, out, replace(site, processes=ranks))
    message = str(error.value)
    assert message.startswith("out: wanted a finite loss and gradient norm. Got loss nan and gradient norm nan"), (
        message
    )
    assert (
        " in update 2 (to 128 tokens), at learning rate 0.0" in message and f", in row {row} (captions-rich" in message
    )
    assert f"the weights after 64 tokens are kept in {out / 'resume'}. {ADVICE}" in message
    assert list((out / "resume" / f"{64:015d}").glob("shard-*.safetensors"))
    assert not list(out.glob("*.safetensors"))


def test_a_spike_stops_the_step_again_and_again_until_the_rule_is_removed(
    inputs: Inputs, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = 3
    monkeypatch.setattr(spikes, "SPIKE_WINDOW", window)
    spec = tiny_study.segment_spec(10, "0", "1")
    rough = replace(spec, pretrain=replace(spec.pretrain, schedule=replace(tiny_study.SCHEDULE, peak_lr=1.0)))
    undisturbed = tiny_study.run_handler(pretrain, rough, inputs, tmp_path / "undisturbed", site)
    losses = [json.loads(line)["loss"] for line in (undisturbed / "log.jsonl").read_text().splitlines()]
    before = {step: losses[step - window : step] for step in range(window, len(losses))}
    excess = {step: (losses[step] - np.mean(last)) / np.std(last, ddof=1) for step, last in before.items()}
    step = max(excess, key=excess.__getitem__)
    assert excess[step] > 0, "a rate of 1 raises the loss"
    out, messages = tmp_path / "out", list[str]()
    for _ in range(2):
        with pytest.raises(LossSpike) as error:
            tiny_study.run_handler(pretrain, rough, inputs, out, replace(site, spike=0.99 * excess[step]))
        messages.append(str(error.value))
    assert messages[0] == messages[1], "the losses before are part of the resume point"
    assert f"standard deviations above the mean of 3 updates. Got loss {losses[step]:.6g} and" in messages[0]
    assert f" in update {step + 1} " in messages[0]
    named = [float(number) for number in re.findall(r"row \d \([^)]*\): (\d+\.\d+)", messages[0])]
    assert len(named) == tiny_study.ROW_SHAPE.batch_size and named == sorted(named, reverse=True)
    for deviations in (1.01 * excess[step], 0.0):
        goes_on = shutil.copytree(out, tmp_path / f"below-{deviations}")
        tiny_study.run_handler(pretrain, rough, inputs, goes_on, replace(site, spike=deviations))
        assert tiny_study.read_files(goes_on) == tiny_study.read_files(undisturbed)


def test_a_learning_rate_that_is_too_high_diverges_in_every_row(inputs: Inputs, site: Site, tmp_path: Path) -> None:
    schedule = Rewarm(peak_lr=1e30, min_lr=1e29, warmup=Share(1, 10))
    spec = replace(SEGMENT, pretrain=replace(SEGMENT.pretrain, schedule=schedule))
    with pytest.raises(Diverged, match=r"in each of the 4 rows: .*Lower the peak learning rate") as error:
        tiny_study.run_handler(pretrain, spec, inputs, tmp_path / "out", site)
    assert "\n" not in str(error.value) and "e+29" in str(error.value)
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_contrastive_training_stops(
    inputs: Inputs, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sigmoid_loss, calls = encoder._sigmoid_loss, iter(range(99))

    def spoiled(*arguments: Any) -> torch.Tensor:
        loss = sigmoid_loss(*arguments)
        return loss * float("nan") if next(calls) == 2 else loss

    monkeypatch.setattr(encoder, "_sigmoid_loss", spoiled)
    role_paths: Mapping[str, Path] = {"captions": inputs["captions"]}
    with pytest.raises(Diverged, match=r"in step 3, at learning rate .* 00000\.tar at byte .*starts over"):
        tiny_study.run_handler(train_contrastive, tiny_study.SIGLIP, role_paths, tmp_path / "out", site)
    assert not list((tmp_path / "out").iterdir())
    tiny_study.run_handler(train_contrastive, tiny_study.SIGLIP, role_paths, tmp_path / "out", site)
    assert tiny_study.read_files(tmp_path / "out") == tiny_study.read_files(inputs["encoder0"])
