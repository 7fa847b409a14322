"""The training handlers: segments and reruns change no byte; invalid inputs are errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from firstsight.errors import ModelError
from firstsight.model.checkpoint_io import load
from firstsight.model.generate import generate
from firstsight.model.tensors import read_tensors
from firstsight.site import Site
from firstsight.train.handlers import pretrain, train_stage
from tests.train import tiny_study

Inputs = dict[str, Path]


def test_segments_leave_the_bits_of_one_run(inputs: Inputs, site: Site, trunk: Path, tmp_path: Path) -> None:
    first = tiny_study.run_handler(pretrain, tiny_study.segment_spec(10, "0", "1/5"), inputs, tmp_path / "first", site)
    second = tiny_study.segment_spec(10, "1/5", "2/5")
    joined = tiny_study.run_handler(pretrain, second, {**inputs, "previous": first}, tmp_path / "second", site)
    for file in ("model.safetensors", "optimizer.safetensors", "spec.json", "tokenizer.json"):
        assert (joined / file).read_bytes() == (trunk / file).read_bytes(), file


def test_checkpoint_of_another_segment_is_an_error(inputs: Inputs, site: Site, trunk: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"ends at 384 tokens\. Got 256"):
        tiny_study.run_handler(
            pretrain, tiny_study.segment_spec(10, "3/5", "1"), {**inputs, "previous": trunk}, tmp_path / "out", site
        )


def test_reruns_leave_equal_bytes_and_no_temporary_files(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path
) -> None:
    spec, stage_inputs = tiny_study.midtrain_spec(tiny_study.FEATURE_VLM, 8, "1/2"), {**inputs, "trunk": trunk}
    often = replace(site, save_every=0.0)
    left = tiny_study.read_files(tiny_study.run_handler(train_stage, spec, stage_inputs, tmp_path / "one", site))
    assert left == tiny_study.read_files(
        tiny_study.run_handler(train_stage, spec, stage_inputs, tmp_path / "two", often)
    )
    assert {name.partition("/")[0] for name in left} == {
        "model.safetensors",
        "optimizer.safetensors",
        "spec.json",
        "tokenizer.json",
        "encoder0",
        "log.jsonl",
        "achieved.json",
        "ledger.npy",
        "ledger.json",
    }


def test_midtraining_without_images_is_text_training_bit_for_bit(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path
) -> None:
    spec = tiny_study.midtrain_spec(tiny_study.FEATURE_VLM, 6, "0")
    with_projector = tiny_study.run_handler(
        train_stage, spec, {**inputs, "trunk": trunk}, tmp_path / "with_projector", site
    )
    with_patches = tiny_study.run_handler(
        train_stage, replace(spec, model=tiny_study.PATCH_VLM), {**inputs, "trunk": trunk}, tmp_path / "patched", site
    )
    left, right = (read_tensors(folder) for folder in (with_projector, with_patches))
    before = read_tensors(trunk)
    for name, value in before.items():
        assert torch.equal(left[name], right[name]), name
        assert not torch.equal(left[name], value), f"{name} has not been trained"


def test_checkpoint_folder_is_enough_to_generate(inputs: Inputs, site: Site, trunk: Path, tmp_path: Path) -> None:
    mid = tiny_study.run_handler(
        train_stage,
        tiny_study.midtrain_spec(tiny_study.FEATURE_VLM, 4, "1/2"),
        {**inputs, "trunk": trunk},
        tmp_path / "m",
        site,
    )
    done = tiny_study.run_handler(
        train_stage,
        tiny_study.finetune_spec(tiny_study.FEATURE_VLM, 4),
        {**inputs, "previous": mid},
        tmp_path / "f",
        site,
    )
    loaded = load(done)
    assert loaded.encoder is not None
    assert loaded.tokens_seen == 4 * 64
    image = torch.randn(4, 16, generator=torch.Generator().manual_seed(0)).half()
    assert len(generate(loaded.model, [[6] * 4 + [9]], [image], stop=set(), max_new_tokens=3)[0]) == 3


def test_precomputed_features_train_like_pixels(inputs: Inputs, site: Site, trunk: Path, tmp_path: Path) -> None:
    stage_inputs = {**inputs, "trunk": trunk}
    spec = tiny_study.midtrain_spec(tiny_study.FEATURE_VLM, 4, "1")
    precomputed = tiny_study.run_handler(train_stage, spec, stage_inputs, tmp_path / "ready", site)
    del stage_inputs["image0.features"]
    online = tiny_study.run_handler(train_stage, spec, stage_inputs, tmp_path / "online", site)
    left, right = (read_tensors(folder) for folder in (precomputed, online))
    for name, value in left.items():
        torch.testing.assert_close(right[name], value, rtol=0, atol=2e-2, msg=name)


def test_too_small_vocabulary_is_an_error(inputs: Inputs, site: Site, tmp_path: Path) -> None:
    spec = tiny_study.segment_spec(3, "0", "1")
    short = replace(spec.pretrain, model=replace(tiny_study.LM, vocab_size=40))
    with pytest.raises(ModelError, match="52 tokens, the model 40"):
        tiny_study.run_handler(pretrain, replace(spec, pretrain=short), inputs, tmp_path, site)


def test_micro_batches_train_like_whole_batches(inputs: Inputs, site: Site, trunk: Path, tmp_path: Path) -> None:
    spec, stage_inputs = tiny_study.midtrain_spec(tiny_study.FEATURE_VLM, 8, "1/2"), {**inputs, "trunk": trunk}
    logs = []
    for at_once in (0, 3, 1):  # 3 of 4 rows do not divide a step: two and two
        out = tiny_study.run_handler(
            train_stage, spec, stage_inputs, tmp_path / str(at_once), replace(site, rows_at_once=at_once)
        )
        logs.append([json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()])
        assert (out / "ledger.npy").read_bytes() == (tmp_path / "0" / "ledger.npy").read_bytes()
    for log in logs[1:]:
        assert [line["loss_tokens"] for line in log] == [line["loss_tokens"] for line in logs[0]]
        assert [line["loss"] for line in log] == pytest.approx([line["loss"] for line in logs[0]], rel=2e-2)
