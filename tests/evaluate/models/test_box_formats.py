"""Boxes that other people's models write in units of their own, judged as what they mean."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image

from firstsight.evaluate import harness
from firstsight.evaluate.harness import EvalConfig, evaluate_checkpoint
from firstsight.evaluate.metrics.boxes import iou, parse_box
from firstsight.evaluate.models import box_formats
from firstsight.evaluate.models.box_formats import (
    BOX_FORMATS,
    box_format_of,
    normalize_model_box,
)
from firstsight.evaluate.models.hf_model import processed_image_size
from firstsight.evaluate.models.interface import GenerationRequest
from firstsight.evaluate.models.native import load_eval_model
from firstsight.site import Site
from tests.evaluate.models import hf_folders as foreign_made
from tests.evaluate.scripted_model import Scripted

BOX = (0.1, 0.25, 0.5, 0.75)
"""In shares; below, as each family's makers write it of a picture that is 1,092 by 700 pixels for the model."""
WRITTEN = {
    "qwen2_vl": ["the cat(100,250),(500,750)", "(100, 250), (500, 750)", "two cats 2(100,250),(500,750)(0,0),(9,9)"],
    "qwen2_5_vl": [
        '```json\n[\n\t{"bbox_2d": [109, 175, 546, 525], "label": "cat 1"}\n]\n```',
        "The box is [109, 175, 546, 525].",
        "109, 175, 546, 525",
    ],
    "qwen3_vl": ['{"bbox_2d": [100, 250, 500, 750], "label": "cat"}'],
    "internvl": ["the cat[[100, 250, 500, 750]]", "[[100.0,250.0,500.0,750.0], [1, 2, 3, 4]]"],
}


@pytest.mark.parametrize(("kind", "answer"), [(kind, answer) for kind, said in WRITTEN.items() for answer in said])
def test_a_box_means_what_its_family_writes(kind: str, answer: str) -> None:
    found = parse_box(normalize_model_box(answer, BOX_FORMATS[kind], get_image_size=lambda: (1092.0, 700.0)))
    assert found is not None and iou(found, BOX) > 0.99


@pytest.mark.parametrize("answer", ["[0.1, 0.25, 0.5, 0.75]", "no cat", "", "(1,2)", "[1, 2, 3]", "[nan, 1, 2, 3]"])
@pytest.mark.parametrize("kind", list(BOX_FORMATS))
def test_what_is_in_shares_or_no_box_stays_as_it_is(kind: str, answer: str) -> None:
    assert normalize_model_box(answer, BOX_FORMATS[kind], get_image_size=lambda: (1092.0, 700.0)) == answer


def test_without_a_picture_pixels_mean_nothing() -> None:
    assert (
        normalize_model_box("[1, 2, 30, 40]", BOX_FORMATS["qwen2_5_vl"], get_image_size=lambda: None)
        == "[1, 2, 30, 40]"
    )


def test_nothing_is_guessed_of_other_families(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    assert box_format_of(tmp_path) is None
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')
    assert box_format_of(tmp_path) == BOX_FORMATS["qwen2_vl"]
    (tmp_path / "spec.json").write_text("{}")
    assert box_format_of(tmp_path) is None, "a checkpoint of firstsight answers in shares, whatever it was exported to"


def test_a_picture_is_as_large_as_the_processor_makes_it(tmp_path: Path) -> None:
    who = load_eval_model(foreign_made.qwen2_vl(tmp_path / "qwen"), site=Site())
    for size in ((640, 480), (100, 900), (28, 28)):
        found = processed_image_size(who, Image.new("RGB", size))
        assert found is not None
        # The law of Qwen-VL's scaling: whole blocks of 28 pixels, no more of them than the folder allows (4).
        blocks = [side / 28 for side in found]
        assert all(block == int(block) >= 1 for block in blocks)
        assert math.prod(blocks) <= max(4, max(blocks)) and (found[0] > found[1]) is (size[0] > size[1])
    assert processed_image_size(who, None) is None and processed_image_size(Scripted(), "picture") is None


class Thousandths(Scripted):
    """Says the one true box, `[0.1, 0.1, 0.8, 0.8]`, in thousandths, whatever it is asked."""

    def generate(self, requests: Sequence[GenerationRequest], *, max_new_tokens: int) -> Iterator[str]:
        for one in requests:
            self._count(one)
            yield "cat(100,100),(800,800)"


def test_a_judged_model_of_a_known_family_is_right_and_its_reading_is_told(
    benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = Thousandths()
    monkeypatch.setattr(harness, "load_eval_model", lambda checkpoint, *, site: who)
    asking = EvalConfig(tasks=("refcoco", "vqav2"), image_mode="both", prompt_style="paper")
    scores = {}
    for kind in ("qwen2_vl", "llava"):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        verdict = evaluate_checkpoint(
            tmp_path,
            benchmarks,
            config=asking,
            site=Site(),
            on_progress=lambda _: None,
            answers_folder=tmp_path / "sheets",
        )
        scores[kind] = verdict.scores["tasks"]
        said = {row.task.name: row.answer for row in verdict.answers}
        assert said["vqav2"] == "cat(100,100),(800,800)", "what is no box is left alone"
    assert scores["qwen2_vl"]["refcoco"]["score"] == scores["qwen2_vl"]["refcoco"]["blind"] == 1
    assert scores["qwen2_vl"]["refcoco"]["boxes"] == "boxes read as thousandths, as Qwen2-VL writes them"
    assert scores["llava"]["refcoco"]["score"] == 0 and "boxes" not in scores["llava"]["refcoco"]
    assert "boxes" not in scores["qwen2_vl"]["vqav2"]


def test_every_family_is_one_that_transformers_knows() -> None:
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    known = {config.model_type for config in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING}
    assert box_formats.BOX_FORMATS.keys() <= known
