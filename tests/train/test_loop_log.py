"""log.jsonl and progress reports of the handlers."""

from __future__ import annotations

import json
from pathlib import Path

from firstsight.site import Progress, Site
from firstsight.train.handlers import pretrain, train_stage
from tests.train import tiny_study

Inputs = dict[str, Path]


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


def test_progress_is_reported_in_tokens(inputs: Inputs, site: Site, tmp_path: Path) -> None:
    heard: list[Progress] = []
    pretrain(tiny_study.segment_spec(3, "0", "1"), inputs=inputs, out=tmp_path, site=site, on_progress=heard.append)
    assert (heard[-1].done, heard[-1].total, heard[-1].unit) == (192, 192, "tokens")
    assert {"loss", "lr", "tokens/s"} <= heard[-1].metrics.keys()
