"""The model card: its content, and names that are escaped."""

from __future__ import annotations

from pathlib import Path

import firstsight.hub.hf_classes  # noqa: F401
from firstsight.model.tensors import read_tensors


def test_the_card_describes_the_model_and_escapes_names(fallback_export: Path) -> None:
    expected = (fallback_export / "README.md").read_text()
    assert "\n# start-080 \\<b\\>\\*bold\\*\n" in expected
    assert "import firstsight.hub.hf_classes" in expected
    assert "4 tokens per image, letterbox, frozen in training" in expected
    assert "licence:" not in expected and "license:" not in expected
    count = sum(tensor.numel() for tensor in read_tensors(fallback_export).values())
    assert f"{count:,} parameters" in expected
