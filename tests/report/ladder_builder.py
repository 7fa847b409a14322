"""The study `ladder` with scores of given effects at three sizes of decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from firstsight.recipe.scales import get_scale
from firstsight.recipe.study import Study
from firstsight.report.results import ArmResult
from firstsight.studies.ladder import ladder
from tests.report.study_builder import StudyEffects, build_arms

SIZES = {"-w32": 99_360, "-w64": 329_792, "": 1_183_872}
"""Suffix of the arms' names, and their size."""
LARGEST_VISION = {0: 0.08, 20: 0.24, 40: 0.36, 60: 0.48, 80: 0.6, 100: 0.52}
SMALLER_VISION = {
    "-w32": {0: 0.3, 20: 0.24, 40: 0.2, 60: 0.26, 80: 0.28, 100: 0.22},
    "-w64": {0: 0.1, 20: 0.22, 40: 0.34, 60: 0.44, 80: 0.5, 100: 0.54},
}


def ladder_study(seeds: int = 2) -> Study:
    """The study at scale cpu."""
    return ladder(replace(get_scale("cpu"), seeds=seeds))


def ladder_arms(
    folder: Path,
    *,
    seeds: Mapping[str, tuple[int, ...]] | None = None,
    vision: Mapping[str, Mapping[int, float]] = SMALLER_VISION,
    questions: int = 60,
    noise: float = 0.01,
) -> list[ArmResult]:
    """The arms of all sizes. `vision` are the effects of the smaller sizes, `seeds` the seeds (default: 1 and 2)."""
    arms: list[ArmResult] = []
    for suffix, size in SIZES.items():
        effects = StudyEffects(
            folder=folder / f"size{suffix}",
            questions=questions,
            noise=noise,
            seeds=(seeds or {}).get(suffix, (1, 2)),
            vision=dict(vision.get(suffix, LARGEST_VISION)),
        )
        for arm in build_arms(effects):
            name = f"{arm.name}{suffix}"
            arms.append(replace(arm, name=name, label=f"{name}.s{arm.seed}", at={**arm.at, "decoder_size": size}))
    return arms
