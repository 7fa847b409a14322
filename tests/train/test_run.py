"""The training handlers: cuts, kills and reruns change no byte; what is off is refused."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from firstsight.errors import ModelError
from firstsight.model.checkpoint_io import load, read_tensors
from firstsight.model.generate import generate
from firstsight.recipe.stages import Midtrain
from firstsight.site import Progress, Site
from firstsight.train import handlers
from firstsight.train.handlers import finetune, midtrain, pretrain
from firstsight.train.loop import StepInfo, train
from tests.train import small

Inputs = dict[str, Path]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def trunk(inputs: dict[str, Path], site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.ran(pretrain, small.segment(10, "0", "2/5"), inputs, tmp_path_factory.mktemp("run") / "trunk", site)


def test_segments_leave_the_bits_of_an_unbroken_run(inputs: Inputs, site: Site, trunk: Path, tmp_path: Path) -> None:
    first = small.ran(pretrain, small.segment(10, "0", "1/5"), inputs, tmp_path / "first", site)
    second = small.segment(10, "1/5", "2/5")
    joined = small.ran(pretrain, second, {**inputs, "previous": first}, tmp_path / "second", site)
    for file in ("model.safetensors", "optimizer.safetensors", "spec.json", "tokenizer.json"):
        assert (joined / file).read_bytes() == (trunk / file).read_bytes(), file


def test_a_segment_refuses_a_checkpoint_that_stops_elsewhere(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"ends at 384 tokens\. Got 256"):
        small.ran(pretrain, small.segment(10, "3/5", "1"), {**inputs, "previous": trunk}, tmp_path / "out", site)


def test_reruns_leave_equal_bytes_and_nothing_transient(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path
) -> None:
    spec, reads = small.midtraining(small.SEES, 8, "1/2"), {**inputs, "trunk": trunk}
    often = replace(site, save_every=0.0)
    one = contents(small.ran(midtrain, spec, reads, tmp_path / "one", site))
    assert one == contents(small.ran(midtrain, spec, reads, tmp_path / "two", often))
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
    spec = small.midtraining(small.SEES, 6, "0")
    seeing = small.ran(midtrain, spec, {**inputs, "trunk": trunk}, tmp_path / "seeing", site)
    patched = small.ran(
        midtrain, replace(spec, model=small.PATCHED), {**inputs, "trunk": trunk}, tmp_path / "patched", site
    )
    one, other = (read_tensors(folder) for folder in (seeing, patched))
    before = read_tensors(trunk)
    for name, value in before.items():
        assert torch.equal(one[name], other[name]), name
        assert not torch.equal(one[name], value), f"{name} has not been trained"


def test_a_checkpoint_is_enough_to_ask(inputs: Inputs, site: Site, trunk: Path, tmp_path: Path) -> None:
    mid = small.ran(midtrain, small.midtraining(small.SEES, 4, "1/2"), {**inputs, "trunk": trunk}, tmp_path / "m", site)
    done = small.ran(finetune, small.finetuning(small.SEES, 4), {**inputs, "previous": mid}, tmp_path / "f", site)
    loaded = load(done)
    assert loaded.encoder is not None
    assert loaded.tokens_seen == 4 * 64
    picture = torch.randn(4, 16, generator=torch.Generator().manual_seed(0)).half()
    assert len(generate(loaded.model, [[6] * 4 + [9]], [picture], stop=set(), max_new_tokens=3)[0]) == 3


def test_features_and_pixels_through_the_tower_train_alike(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path
) -> None:
    reads = {**inputs, "trunk": trunk}
    spec = small.midtraining(small.SEES, 4, "1")
    ready = small.ran(midtrain, spec, reads, tmp_path / "ready", site)
    del reads["image0.features"]
    online = small.ran(midtrain, spec, reads, tmp_path / "online", site)
    one, other = (read_tensors(folder) for folder in (ready, online))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=2e-2, msg=name)


def test_the_log_adds_up_and_the_shares_are_those_asked_for(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path
) -> None:
    done = small.ran(
        midtrain, small.midtraining(small.SEES, 8, "1/4"), {**inputs, "trunk": trunk}, tmp_path / "m", site
    )
    lines = [json.loads(line) for line in (done / "log.jsonl").read_text().splitlines()]
    achieved = json.loads((done / "achieved.json").read_text())
    assert [line["seen"] for line in lines] == [64 * (n + 1) for n in range(8)]
    assert achieved["rows"] == {"text": 24, "captions-rich": 8}
    assert sum(line["loss_tokens"] for line in lines) == sum(achieved["loss_tokens"].values())


def test_progress_is_told_in_tokens(inputs: Inputs, site: Site, tmp_path: Path) -> None:
    heard: list[Progress] = []
    pretrain(small.segment(3, "0", "1"), inputs=inputs, out=tmp_path, site=site, on_progress=heard.append)
    assert (heard[-1].done, heard[-1].total, heard[-1].unit) == (192, 192, "tokens")
    assert {"loss", "lr", "tokens/s"} <= heard[-1].metrics.keys()


def test_a_vocabulary_that_is_too_small_is_refused(inputs: Inputs, site: Site, tmp_path: Path) -> None:
    spec = small.segment(3, "0", "1")
    short = replace(spec.pretrain, model=replace(small.LM, vocab_size=40))
    with pytest.raises(ModelError, match="52 tokens, the model 40"):
        small.ran(pretrain, replace(spec, pretrain=short), inputs, tmp_path, site)


def test_rows_that_are_computed_apart_train_as_together(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path
) -> None:
    spec, reads = small.midtraining(small.SEES, 8, "1/2"), {**inputs, "trunk": trunk}
    told = []
    for at_once in (0, 3, 1):  # 3 of 4 rows do not divide a step: two and two
        out = small.ran(midtrain, spec, reads, tmp_path / str(at_once), replace(site, rows_at_once=at_once))
        told.append([json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()])
        assert (out / "ledger.npy").read_bytes() == (tmp_path / "0" / "ledger.npy").read_bytes()
    for apart in told[1:]:
        assert [line["loss_tokens"] for line in apart] == [line["loss_tokens"] for line in told[0]]
        assert [line["loss"] for line in apart] == pytest.approx([line["loss"] for line in told[0]], rel=2e-2)


def work(spec: Midtrain, inputs: Mapping[str, Path], out: Path, site: Site, pause: float) -> None:
    """One attempt at a step, with a resume point and a pause after every update."""

    def slowly(*given: Any) -> Iterator[StepInfo]:
        for info in train(*given):
            time.sleep(pause)
            yield info

    handlers.train = slowly  # only in the child process that this runs in
    midtrain(spec, inputs=inputs, out=out, site=replace(site, save_every=0.0), on_progress=small.told)


def test_killed_at_any_time_and_run_again_leaves_the_same_bytes(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path
) -> None:
    spec, reads, out = small.midtraining(small.SEES, 40, "1/2"), {**inputs, "trunk": trunk}, tmp_path / "out"
    unbroken = contents(small.ran(midtrain, spec, reads, tmp_path / "unbroken", site))
    out.mkdir()
    way = "fork" if site.device == "cpu" else "spawn"  # a forked child need not import torch; a GPU wants a new process
    draw, seen, context = random.Random(0), 0, multiprocessing.get_context(way)
    for pause in (0.08, 0.08, 0.08, 0.0):
        child = context.Process(target=work, args=(spec, reads, out, site, pause))
        child.start()
        while pause and child.is_alive() and point(out) <= seen:
            time.sleep(0.005)
        if pause:
            time.sleep(draw.uniform(0, 0.3))
            child.kill()
        child.join()
        assert child.exitcode == (-signal.SIGKILL if pause else 0), "killed too late: this run proves nothing"
        seen = point(out)
    assert contents(out) == unbroken


def point(out: Path) -> int:
    file = out / "resume" / "point.json"
    return json.loads(file.read_text())["seen"] if file.is_file() else 0


@pytest.mark.parametrize("kind", ["weights", "moments"])
@pytest.mark.parametrize("harm", ["cut", "flipped", "gone", "nonsense"])
def test_a_damaged_resume_point_is_refused_aloud_and_the_bytes_are_right(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: str, kind: str
) -> None:
    spec, reads, out = small.segment(10, "0", "2/5"), dict(inputs), tmp_path / "out"

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    out.mkdir()
    with pytest.raises(KeyboardInterrupt):
        pretrain(spec, inputs=reads, out=out, site=replace(site, save_every=0.0), on_progress=stop)
    tensors = sorted((out / "resume").glob("*.safetensors"))[kind == "moments"]
    data = tensors.read_bytes()
    match harm:
        case "cut":
            tensors.write_bytes(data[: len(data) // 2])
        case "flipped":
            tensors.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "gone":
            tensors.unlink()
        case _:
            (out / "resume" / "point.json").write_text("{")
    small.ran(pretrain, spec, reads, out, site)
    assert "damaged" in capsys.readouterr().err
    assert contents(out) == contents(trunk)
