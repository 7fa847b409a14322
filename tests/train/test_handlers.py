"""The training handlers: cuts, kills and reruns change no byte; what is off is refused."""

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
from firstsight.train.handlers import finetune, midtrain, pretrain
from tests.train import tiny_study

Inputs = dict[str, Path]


@pytest.fixture(scope="module")
def trunk(inputs: dict[str, Path], site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_study.ran(
        pretrain, tiny_study.segment(10, "0", "2/5"), inputs, tmp_path_factory.mktemp("run") / "trunk", site
    )


def test_segments_leave_the_bits_of_an_unbroken_run(inputs: Inputs, site: Site, trunk: Path, tmp_path: Path) -> None:
    first = tiny_study.ran(pretrain, tiny_study.segment(10, "0", "1/5"), inputs, tmp_path / "first", site)
    second = tiny_study.segment(10, "1/5", "2/5")
    joined = tiny_study.ran(pretrain, second, {**inputs, "previous": first}, tmp_path / "second", site)
    for file in ("model.safetensors", "optimizer.safetensors", "spec.json", "tokenizer.json"):
        assert (joined / file).read_bytes() == (trunk / file).read_bytes(), file


def test_a_segment_refuses_a_checkpoint_that_stops_elsewhere(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"ends at 384 tokens\. Got 256"):
        tiny_study.ran(
            pretrain, tiny_study.segment(10, "3/5", "1"), {**inputs, "previous": trunk}, tmp_path / "out", site
        )


def test_reruns_leave_equal_bytes_and_nothing_transient(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path
) -> None:
    spec, reads = tiny_study.midtraining(tiny_study.SEES, 8, "1/2"), {**inputs, "trunk": trunk}
    often = replace(site, save_every=0.0)
    one = tiny_study.contents(tiny_study.ran(midtrain, spec, reads, tmp_path / "one", site))
    assert one == tiny_study.contents(tiny_study.ran(midtrain, spec, reads, tmp_path / "two", often))
    assert {name.partition("/")[0] for name in one} == {
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


def test_without_image_rows_mid_training_is_text_training_bit_for_bit(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path
) -> None:
    spec = tiny_study.midtraining(tiny_study.SEES, 6, "0")
    seeing = tiny_study.ran(midtrain, spec, {**inputs, "trunk": trunk}, tmp_path / "seeing", site)
    patched = tiny_study.ran(
        midtrain, replace(spec, model=tiny_study.PATCHED), {**inputs, "trunk": trunk}, tmp_path / "patched", site
    )
    one, other = (read_tensors(folder) for folder in (seeing, patched))
    before = read_tensors(trunk)
    for name, value in before.items():
        assert torch.equal(one[name], other[name]), name
        assert not torch.equal(one[name], value), f"{name} has not been trained"


def test_a_checkpoint_is_enough_to_ask(inputs: Inputs, site: Site, trunk: Path, tmp_path: Path) -> None:
    mid = tiny_study.ran(
        midtrain, tiny_study.midtraining(tiny_study.SEES, 4, "1/2"), {**inputs, "trunk": trunk}, tmp_path / "m", site
    )
    done = tiny_study.ran(
        finetune, tiny_study.finetuning(tiny_study.SEES, 4), {**inputs, "previous": mid}, tmp_path / "f", site
    )
    loaded = load(done)
    assert loaded.encoder is not None
    assert loaded.tokens_seen == 4 * 64
    picture = torch.randn(4, 16, generator=torch.Generator().manual_seed(0)).half()
    assert len(generate(loaded.model, [[6] * 4 + [9]], [picture], stop=set(), max_new_tokens=3)[0]) == 3


def test_features_and_pixels_through_the_tower_train_alike(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path
) -> None:
    reads = {**inputs, "trunk": trunk}
    spec = tiny_study.midtraining(tiny_study.SEES, 4, "1")
    ready = tiny_study.ran(midtrain, spec, reads, tmp_path / "ready", site)
    del reads["image0.features"]
    online = tiny_study.ran(midtrain, spec, reads, tmp_path / "online", site)
    one, other = (read_tensors(folder) for folder in (ready, online))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=2e-2, msg=name)


def test_a_vocabulary_that_is_too_small_is_refused(inputs: Inputs, site: Site, tmp_path: Path) -> None:
    spec = tiny_study.segment(3, "0", "1")
    short = replace(spec.pretrain, model=replace(tiny_study.LM, vocab_size=40))
    with pytest.raises(ModelError, match="52 tokens, the model 40"):
        tiny_study.ran(pretrain, replace(spec, pretrain=short), inputs, tmp_path, site)


def test_rows_that_are_computed_apart_train_as_together(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path
) -> None:
    spec, reads = tiny_study.midtraining(tiny_study.SEES, 8, "1/2"), {**inputs, "trunk": trunk}
    told = []
    for at_once in (0, 3, 1):  # 3 of 4 rows do not divide a step: two and two
        out = tiny_study.ran(midtrain, spec, reads, tmp_path / str(at_once), replace(site, rows_at_once=at_once))
        told.append([json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()])
        assert (out / "ledger.npy").read_bytes() == (tmp_path / "0" / "ledger.npy").read_bytes()
    for apart in told[1:]:
        assert [line["loss_tokens"] for line in apart] == [line["loss_tokens"] for line in told[0]]
        assert [line["loss"] for line in apart] == pytest.approx([line["loss"] for line in told[0]], rel=2e-2)
