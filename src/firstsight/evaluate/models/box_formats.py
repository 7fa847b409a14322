"""How other people's models write boxes, for the families whose makers say so, and the same boxes in shares.

PaliGemma's turn reads its own <loc0000> tokens; it stands here so that its output is stated like the others'.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from firstsight.evaluate.metrics.boxes import parse_box, rescale_box
from firstsight.evaluate.models.interface import EvalModel
from firstsight.evaluate.task import load_json

BoxUnit = Literal["thousandths", "pixels of the scaled picture", "1,024ths"]

_NUMBER_PATTERN = r"(\d+(?:\.\d+)?)"
_COMMA_PATTERN = r"\s*,\s*"
_CORNER_PAIRS = re.compile(
    rf"\(\s*{_NUMBER_PATTERN}{_COMMA_PATTERN}{_NUMBER_PATTERN}\s*\){_COMMA_PATTERN}\(\s*{_NUMBER_PATTERN}{_COMMA_PATTERN}{_NUMBER_PATTERN}\s*\)"
)
"""(left,top),(right,bottom): Qwen2-VL."""
_BRACKETED_LIST = re.compile(rf"\[\s*{_COMMA_PATTERN.join([_NUMBER_PATTERN] * 4)}\s*\]")
"""[left, top, right, bottom], also within brackets, words or JSON: all others."""
_BARE_LIST = re.compile(rf"\s*{_COMMA_PATTERN.join([_NUMBER_PATTERN] * 4)}\s*")
_THOUSAND = 1000.0

PixelSize = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxFormat:
    """In what a family of models counts the edges of a box, and where its makers say so."""

    family: str
    unit: BoxUnit
    source: str

    @property
    def description(self) -> str:
        """One line for whoever reads the score."""
        return f"boxes read as {self.unit}, as {self.family} writes them"


_QWEN2 = BoxFormat(family="Qwen2-VL", unit="thousandths", source="arXiv:2409.12191, 2.2")
_QWEN25 = BoxFormat(
    family="Qwen2.5-VL",
    unit="pixels of the scaled picture",
    source="QwenLM/Qwen2.5-VL, cookbooks/spatial_understanding.ipynb",
)
_QWEN3 = BoxFormat(family="Qwen3-VL", unit="thousandths", source="QwenLM/Qwen3-VL, cookbooks/2d_grounding.ipynb")
_INTERN = BoxFormat(
    family="InternVL", unit="thousandths", source="OpenGVLab/InternVL, internvl_chat/eval/refcoco/evaluate_grounding.py"
)
_GEMMA = BoxFormat(family="PaliGemma", unit="1,024ths", source="big_vision, configs/proj/paligemma/README")

BOX_FORMATS: dict[str, BoxFormat] = {
    "qwen2_vl": _QWEN2,
    "qwen2_5_vl": _QWEN25,
    "qwen3_vl": _QWEN3,
    "qwen3_vl_moe": _QWEN3,
    "internvl": _INTERN,
    "paligemma": _GEMMA,
}
"""By the `model_type` of config.json; of all others nothing is guessed."""


def box_format_of(checkpoint: Path) -> BoxFormat | None:
    """How the model in a folder writes boxes, where its family says so and not in shares; loads no weights."""
    config_path = checkpoint / "config.json"
    if (checkpoint / "spec.json").is_file() or not config_path.is_file():
        return None
    return BOX_FORMATS.get(str(load_json(config_path).get("model_type")))


def normalise_answer_box(answer: str, box_format: BoxFormat, *, get_image_size: Callable[[], PixelSize | None]) -> str:
    """The first box of an answer in shares of the picture; the answer as it is where it holds none.

    What is a box in shares already, as the question's other readers give it, stays so. `size` gives width and height
    of the scaled picture, None for a question without one.
    """
    if parse_box(answer) is not None or box_format.unit == "1,024ths":
        return answer
    match = _CORNER_PAIRS.search(answer) or _BRACKETED_LIST.search(answer) or _BARE_LIST.fullmatch(answer)
    box_scale = (_THOUSAND, _THOUSAND) if box_format.unit == "thousandths" else get_image_size() if match else None
    if match is None or box_scale is None:
        return answer
    return rescale_box(match[0], right_edge=box_scale[0], bottom_edge=box_scale[1]) or answer


def processed_image_size(model: EvalModel, image: object | None) -> PixelSize | None:
    """Width and height of a picture as a Qwen-VL's own processor scales it for the model."""
    from firstsight.evaluate.models.hf_model import HFModel

    if image is None or not isinstance(model, HFModel) or model.components.processor is None:
        return None
    image_processor: Any = model.components.processor.image_processor
    _, grid_height, grid_width = image_processor(images=[image], return_tensors="pt")["image_grid_thw"][0].tolist()
    return float(grid_width * image_processor.patch_size), float(grid_height * image_processor.patch_size)
