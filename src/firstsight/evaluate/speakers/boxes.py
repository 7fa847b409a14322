"""How other people's models write boxes, for the families whose makers say so, and the same boxes in shares.

PaliGemma's turn reads its own <loc0000> tokens; it stands here so that its output is stated like the others'.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from firstsight.evaluate.metrics.boxes import parse_box, rescaled
from firstsight.evaluate.question import load
from firstsight.evaluate.speakers.speaker import Speaker

Unit = Literal["thousandths", "pixels of the scaled picture", "1,024ths"]

_NUMBER = r"(\d+(?:\.\d+)?)"
_COMMA = r"\s*,\s*"
_PAIRS = re.compile(rf"\(\s*{_NUMBER}{_COMMA}{_NUMBER}\s*\){_COMMA}\(\s*{_NUMBER}{_COMMA}{_NUMBER}\s*\)")
"""(left,top),(right,bottom): Qwen2-VL."""
_LIST = re.compile(rf"\[\s*{_COMMA.join([_NUMBER] * 4)}\s*\]")
"""[left, top, right, bottom], also within brackets, words or JSON: all others."""
_BARE = re.compile(rf"\s*{_COMMA.join([_NUMBER] * 4)}\s*")
_THOUSAND = 1000.0

Size = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Writing:
    """In what a family of models counts the edges of a box, and where its makers say so."""

    family: str
    unit: Unit
    source: str

    @property
    def told(self) -> str:
        """One line for whoever reads the score."""
        return f"boxes read as {self.unit}, as {self.family} writes them"


_QWEN2 = Writing(family="Qwen2-VL", unit="thousandths", source="arXiv:2409.12191, 2.2")
_QWEN25 = Writing(
    family="Qwen2.5-VL",
    unit="pixels of the scaled picture",
    source="QwenLM/Qwen2.5-VL, cookbooks/spatial_understanding.ipynb",
)
_QWEN3 = Writing(family="Qwen3-VL", unit="thousandths", source="QwenLM/Qwen3-VL, cookbooks/2d_grounding.ipynb")
_INTERN = Writing(
    family="InternVL", unit="thousandths", source="OpenGVLab/InternVL, internvl_chat/eval/refcoco/evaluate_grounding.py"
)
_GEMMA = Writing(family="PaliGemma", unit="1,024ths", source="big_vision, configs/proj/paligemma/README")

WRITINGS: dict[str, Writing] = {
    "qwen2_vl": _QWEN2,
    "qwen2_5_vl": _QWEN25,
    "qwen3_vl": _QWEN3,
    "qwen3_vl_moe": _QWEN3,
    "internvl": _INTERN,
    "paligemma": _GEMMA,
}
"""By the `model_type` of config.json; of all others nothing is guessed."""


def writing(checkpoint: Path) -> Writing | None:
    """How the model in a folder writes boxes, where its family says so and not in shares; loads no weights."""
    file = checkpoint / "config.json"
    if (checkpoint / "spec.json").is_file() or not file.is_file():
        return None
    return WRITINGS.get(str(load(file).get("model_type")))


def in_shares(answer: str, of: Writing, *, size: Callable[[], Size | None]) -> str:
    """The first box of an answer in shares of the picture; the answer as it is where it holds none.

    What is a box in shares already, as the question's other readers give it, stays so. `size` gives width and height
    of the scaled picture, None for a question without one.
    """
    if parse_box(answer) is not None or of.unit == "1,024ths":
        return answer
    found = _PAIRS.search(answer) or _LIST.search(answer) or _BARE.fullmatch(answer)
    whole = (_THOUSAND, _THOUSAND) if of.unit == "thousandths" else size() if found else None
    if found is None or whole is None:
        return answer
    return rescaled(found[0], whole=whole[0], high=whole[1]) or answer


def scaled(who: Speaker, picture: object | None) -> Size | None:
    """Width and height of a picture as a Qwen-VL's own processor scales it for the model."""
    from firstsight.evaluate.speakers.foreign import Foreign

    if picture is None or not isinstance(who, Foreign) or who.parts.processor is None:
        return None
    images: Any = who.parts.processor.image_processor
    _, high, wide = images(images=[picture], return_tensors="pt")["image_grid_thw"][0].tolist()
    return float(wide * images.patch_size), float(high * images.patch_size)
