"""The study `scale`: three image shares at two sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.plan.graph import build_graph
from firstsight.recipe.scales import get_scale, with_image_share
from firstsight.recipe.study import Arm
from firstsight.studies.scale import scale
from firstsight.studies.when import when
from firstsight.units import Share

TABLE_3 = {
    "vqav2": (0.7639, 0.7469, 0.25),
    "gqa": (0.6108, 0.606, 0.25),
    "textvqa": (0.468, 0.416, 0),
    "refcoco": (0.642, 0.589, 0),
    "ocid_ref": (0.461, 0.397, 0),
    "pope": (0.875, 0.871, 0.5),
}
"""With and without images, and the baseline that the stable score subtracts."""


def plain(arm: Arm, share: Share) -> Arm:
    """An arm as one of `when`, with an image share."""
    return replace(with_image_share(arm, share), name="share", at={})


@pytest.mark.parametrize(
    ("name", "smallest", "percents"),
    [("smoke", "w32", (0, 30, 80)), ("1b", "79m", (0, 10, 50)), ("7b", "79m", (0, 10, 50)), ("79m", "", (0, 10, 50))],
)
def test_arms_differ_in_share_and_size_only(name: str, smallest: str, percents: tuple[int, ...]) -> None:
    study = scale(replace(get_scale(name), seeds=1))
    arms = {arm.name: arm for arm in study.arms if arm.stages}
    suffixes = [f"-{smallest}", ""] if smallest else [""]
    assert set(arms) == {f"share-{percent:03d}{suffix}" for percent in percents for suffix in suffixes}
    late = when(get_scale(name)).arm("start-080.s1")
    for percent in percents:
        share = Share(percent, 100)
        assert replace(arms[f"share-{percent:03d}"], name="share", at={}) == plain(late, share)
        assert all(arms[f"share-{percent:03d}{suffix}"].at["image_share"] == share for suffix in suffixes)
    if smallest in ("79m",):
        small = when(get_scale("79m")).arm("start-080.s1")
        assert replace(arms["share-050-79m"], name="share", at={}) == plain(small, Share(1, 2))
    assert [claim.name for claim in study.claims] == ["images-help", *["smaller-prefers-more"] * bool(smallest)]
    build_graph(study)


def test_claims_name_arms_of_the_study_and_the_share_of_the_scale() -> None:
    for name, default in (("cpu", "share-080"), ("7b", "share-010")):
        study = scale(get_scale(name))
        names = {arm.name for arm in study.arms}
        assert all({*part.arms, *part.others} <= names for claim in study.claims for part in claim.compare)
        assert study.claims[0].compare[0].arms == (default,)


def test_the_published_difference_is_that_of_the_six_tasks_of_table_3() -> None:
    means = [sum(row[column] - row[2] for row in TABLE_3.values()) / 6 for column in (0, 1)]
    assert [round(mean, 4) for mean in means] == [0.4701, 0.4377]
    (part,) = scale(get_scale("7b")).claims[0].compare
    assert part.published == round(means[0] - means[1], 4)
