"""Boxes in the units of several model families, converted to shares of the image."""

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
from firstsight.evaluate.models.interface import GenerationRequest, RawAnswer
from firstsight.evaluate.models.native import load_eval_model
from firstsight.site import Site
from tests.evaluate.models import tiny_hf_models
from tests.evaluate.scripted_model import ScriptedModel

BOX = (0.1, 0.25, 0.5, 0.75)
"""In shares; below, as each family's makers write it of an image of 1,092 by 700 pixels."""
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


@pytest.mark.parametrize(
    ("kind", "answer"), [(kind, answer) for kind, answers in WRITTEN.items() for answer in answers]
)
def test_a_familys_boxes_are_converted_to_shares(kind: str, answer: str) -> None:
    box = parse_box(normalize_model_box(answer, BOX_FORMATS[kind], get_image_size=lambda: (1092.0, 700.0)))
    assert box is not None and iou(box, BOX) > 0.99


@pytest.mark.parametrize("answer", ["[0.1, 0.25, 0.5, 0.75]", "no cat", "", "(1,2)", "[1, 2, 3]", "[nan, 1, 2, 3]"])
@pytest.mark.parametrize("kind", list(BOX_FORMATS))
def test_shares_and_answers_without_a_box_are_unchanged(kind: str, answer: str) -> None:
    assert normalize_model_box(answer, BOX_FORMATS[kind], get_image_size=lambda: (1092.0, 700.0)) == answer


def test_pixels_without_an_image_are_unchanged() -> None:
    assert (
        normalize_model_box("[1, 2, 30, 40]", BOX_FORMATS["qwen2_5_vl"], get_image_size=lambda: None)
        == "[1, 2, 30, 40]"
    )


def test_other_families_have_no_box_format(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    assert box_format_of(tmp_path) is None
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')
    assert box_format_of(tmp_path) == BOX_FORMATS["qwen2_vl"]
    (tmp_path / "spec.json").write_text("{}")
    assert box_format_of(tmp_path) is None, "a checkpoint of firstsight answers in shares, whatever it was exported to"


def test_the_image_size_is_that_of_the_processor(tmp_path: Path) -> None:
    model = load_eval_model(tiny_hf_models.qwen2_vl(tmp_path / "qwen"), site=Site())
    for size in ((640, 480), (100, 900), (28, 28)):
        image_size = processed_image_size(model, Image.new("RGB", size))
        assert image_size is not None
        # Qwen-VL scales to whole blocks of 28 pixels, at most as many as the folder allows (4).
        blocks = [side / 28 for side in image_size]
        assert all(block == int(block) >= 1 for block in blocks)
        assert math.prod(blocks) <= max(4, max(blocks)) and (image_size[0] > image_size[1]) is (size[0] > size[1])
    assert processed_image_size(model, None) is None and processed_image_size(ScriptedModel(), "picture") is None


class Thousandths(ScriptedModel):
    """Answers the true box, `[0.1, 0.1, 0.8, 0.8]`, in thousandths."""

    def generate(self, requests: Sequence[GenerationRequest], *, max_new_tokens: int) -> Iterator[RawAnswer]:
        for request in requests:
            self.record(request)
            yield RawAnswer("cat(100,100),(800,800)", (-1.0,) * len(request.references))


def test_boxes_are_scored_in_the_familys_unit_which_scores_mention(
    benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Thousandths()
    monkeypatch.setattr(harness, "load_eval_model", lambda checkpoint, *, site: model)
    config = EvalConfig(tasks=("refcoco", "vqav2"), image_mode="both", prompt_style="paper")
    scores = {}
    for kind in ("qwen2_vl", "llava"):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        result = evaluate_checkpoint(
            tmp_path,
            benchmarks,
            config=config,
            site=Site(),
            on_progress=lambda _: None,
            answers_folder=tmp_path / "sheets",
        )
        scores[kind] = result.scores.tasks
        answers = {row.task.name: row.answer for row in result.answers}
        assert answers["vqav2"] == "cat(100,100),(800,800)", "an answer without a box is unchanged"
    assert scores["qwen2_vl"]["refcoco"].score == scores["qwen2_vl"]["refcoco"].blind == 1
    assert scores["qwen2_vl"]["refcoco"].boxes == "boxes read as thousandths, as Qwen2-VL writes them"
    assert scores["llava"]["refcoco"].score == 0 and scores["llava"]["refcoco"].boxes is None
    assert scores["qwen2_vl"]["vqav2"].boxes is None


def test_every_family_is_a_model_type_of_transformers() -> None:
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    known = {config.model_type for config in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING}
    assert box_formats.BOX_FORMATS.keys() <= known
