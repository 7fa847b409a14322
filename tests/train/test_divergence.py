"""Training stops before an update that is not finite, names its rows, and continues from the state before."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from firstsight.errors import Diverged
from firstsight.recipe.schedule import Rewarm
from firstsight.site import Site
from firstsight.train import encoder, handlers
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

    def train_badly(state: TrainState, batches: Iterator[Any], *arguments: Any) -> Iterator[Any]:
        def spoiled() -> Iterator[Any]:
            for batch in batches:
                if state.tokens_seen == (bad_update - 1) * 64:
                    state.model.lm.norm.weight.register_hook(lambda gradient: gradient * float("inf"))
                yield batch

        return train(state, spoiled(), *arguments)

    monkeypatch.setattr(handlers, "train", train_badly)
    out = tmp_path / "out"
    with pytest.raises(Diverged, match=f"in update {bad_update} "):
        tiny_study.run_handler(pretrain, SEGMENT, inputs, out, site)
    monkeypatch.undo()
    assert list((out / "resume" / f"{(bad_update - 1) * 64:015d}").glob("shard-*.safetensors"))
    tiny_study.run_handler(pretrain, SEGMENT, inputs, out, site)
    assert tiny_study.read_files(out) == tiny_study.read_files(trunk)


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
