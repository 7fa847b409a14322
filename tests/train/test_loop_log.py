"""log.jsonl and progress reports of the handlers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from firstsight.site import Progress, Site
from firstsight.track import MetricsWriter
from firstsight.train import step_meter
from firstsight.train.handlers import pretrain, train_stage
from firstsight.train.loop import StepInfo
from firstsight.train.step_meter import StepMeter
from firstsight.units import Tokens
from tests.train import tiny_study

Inputs = dict[str, Path]
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "log.md"


def test_log_and_achieved_record_agree_with_the_mix(inputs: Inputs, site: Site, trunk: Path, tmp_path: Path) -> None:
    done = tiny_study.run_handler(
        train_stage,
        tiny_study.midtrain_spec(tiny_study.FEATURE_VLM, 8, "1/4"),
        {**inputs, "trunk": trunk},
        tmp_path / "m",
        site,
    )
    lines = [json.loads(line) for line in (done / "log.jsonl").read_text().splitlines()]
    achieved = json.loads((done / "achieved.json").read_text())
    assert [line["seen"] for line in lines] == [64 * (n + 1) for n in range(8)]
    assert achieved["rows"] == {"text": 24, "captions-rich": 8}
    assert sum(line["loss_tokens"] for line in lines) == sum(achieved["loss_tokens"].values())


def documented_fields() -> list[list[str]]:
    """The fields of each table of the page that has units."""
    tables = PAGE.read_text().split("| field | unit | content |\n|---|---|---|\n")[1:]
    return [re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", table.partition("\n\n")[0], re.M) for table in tables]


def test_the_page_of_the_log_has_the_fields_that_are_written(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path
) -> None:
    spec, out = tiny_study.midtrain_spec(tiny_study.PATCH_VLM, 4, "1/2"), tmp_path / "out"
    (out / "logs").mkdir(parents=True)
    reports = list[Progress]()
    stage_inputs = {**inputs, "trunk": trunk}
    del stage_inputs["image0.features"]
    train_stage(spec, inputs=stage_inputs, out=out, site=site, on_progress=reports.append)
    records = [report.record for report in reports if report.record]
    with MetricsWriter(out, "midtrain-0", ()) as metrics:
        for record in records:
            metrics.write(record)
    log, beside = (
        [json.loads(line) for line in (out / name).read_text().splitlines()]
        for name in ("log.jsonl", "logs/midtrain-0.metrics.jsonl")
    )
    in_log, measured = documented_fields()
    assert [list(line) for line in log] == [in_log] * 4
    assert [list(line) for line in beside] == [in_log + measured] * 4
    assert [{name: line[name] for name in in_log} for line in beside] == log
    tokens = tiny_study.ROW_SHAPE.tokens_per_step
    for line in beside:
        assert line["peak_share"] is None and line["peak_memory_bytes"] > 1e6
        assert 0 <= line["data_wait_seconds"] <= line["seconds"]
        assert line["tokens_per_second"] * line["seconds"] == pytest.approx(tokens, rel=0.02, abs=1)


def test_flops_count_the_encoder_and_the_images_of_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the plan's cost of the whole stage, which counts the images of its rows."""
    monkeypatch.setattr(step_meter, "monotonic", iter(range(100)).__next__)
    spec = tiny_study.midtrain_spec(tiny_study.PATCH_VLM, 8, "1/2")
    lm, vision, projector = spec.model.lm, spec.model.vision, spec.model.projector
    image = 3 * (projector.flops(vision, lm) + vision.flops())
    meter = StepMeter(spec, stored_features=False, device="cpu")
    info = StepInfo(
        tokens_seen=Tokens(64),
        tokens=64,
        num_images=5,
        step=1,
        lr=0.0,
        loss=1.0,
        grad_norm=1.0,
        losses=(),
        loss_tokens=(),
    )
    for _ in range(3):
        meter.add_step(info)
    assert next(meter.wait_for(iter([()]))) == ()
    record = meter.record()
    assert (record["seconds"], record["data_wait_seconds"]) == (3.0, 1.0)
    assert record["flops_per_second"] == 64 * 3 * lm.flops(16) + 5 * image
    meter = StepMeter(spec, stored_features=True, device="cpu")
    meter.add_step(info)
    stored = 64 * 3 * lm.flops(16) + 5 * 3 * projector.flops(vision, lm)
    assert meter.record()["flops_per_second"] == stored


def test_progress_is_reported_in_tokens(inputs: Inputs, site: Site, tmp_path: Path) -> None:
    heard: list[Progress] = []
    pretrain(tiny_study.segment_spec(3, "0", "1"), inputs=inputs, out=tmp_path, site=site, on_progress=heard.append)
    assert (heard[-1].done, heard[-1].total, heard[-1].unit) == (192, 192, "tokens")
    assert {"loss", "lr", "tokens/s"} <= heard[-1].metrics.keys()
