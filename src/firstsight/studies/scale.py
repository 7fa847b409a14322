"""Do images in pre-training help a larger model too, and does a smaller one want more of them? (Table 3, Appendix H)

Hypothesis: with images in mid-training a model is better in vision than without, also at 7B; the smaller the model,
the larger the best share.
Arms: images enter at 80 % of the trunk, with none in mid-training, a small and a large share (0, 10 and 50 % at the
paper's scales; 0, 30 and 80 % in the built-in world), fine-tuning alike; all of it at the scale's own size and at the
smallest of its family: 79m, or in the built-in world a decoder of a twelfth. The smallest size itself has one size.
Metric: vision and text stable scores after fine-tuning, over seeds.
Refuted if: the arm without images is not behind at the largest size, or both sizes prefer the same share, beyond the
interval over seeds.
The paper does not say which share and which trunk its 7B models had: 7b has the share and the tokens of 1b
(`firstsight plan scale --scale 7b` lists what is assumed). "Prefers" is tested by two comparisons, of the large with
the small share at the small size and of the small with the large share at the large size.
"""

from __future__ import annotations

from dataclasses import replace

from firstsight.recipe.analysis import Claim, Comparison, Grid, Sweep
from firstsight.recipe.scales import IMAGE_SHARE, PAPER_SIZES, Scale, branch_at, smaller_sizes, with_image_share
from firstsight.recipe.study import Horizon, Study, over_seeds
from firstsight.studies.ladder import SIZE, at_sizes
from firstsight.studies.when import SMALLEST, trunk_arm
from firstsight.units import Share

PAPER_SHARES, WORLD_SHARES = (0, 10, 50), (0, 30, 80)
"""None, a small and a large image share, in percent; the scale's own is among them."""


def scale(scale: Scale, horizon: Horizon = "branch") -> Study:
    """Three image shares at the scale's own size and at the smallest, and their finished trunks on text tasks alone."""
    largest = scale.with_horizon(horizon)
    if largest.name == next(iter(PAPER_SIZES)):
        return _shares(largest)
    name, smallest = next(iter(smaller_sizes(largest).items()))
    study = at_sizes(_shares, smaller={name: smallest.with_horizon(horizon)}, largest=largest)
    figures = (Sweep(x=IMAGE_SHARE.name, lines=SIZE.name), Grid(x=IMAGE_SHARE.name, y=SIZE.name))
    return replace(study, figures=figures, claims=(*study.claims, _smaller_prefers_more(_percents(scale), name)))


def _percents(scale: Scale) -> tuple[int, int, int]:
    return PAPER_SHARES if scale.name in PAPER_SIZES else WORLD_SHARES


def _shares(scale: Scale) -> Study:
    """The study at one size."""
    percents = _percents(scale)
    late = replace(branch_at(scale, Share(80, 100)), at={})
    arms = [replace(with_image_share(late, Share(n, 100)), name=f"share-{n:03d}") for n in percents]
    default = next(f"share-{n:03d}" for n in percents if Share(n, 100) == late.stages[0].mix.image_share)
    return Study(
        name="scale",
        scale=scale.name,
        question="Do images in pre-training help a larger model too?",
        arms=over_seeds([trunk_arm(scale), *arms], range(1, scale.seeds + 1)),
        axes=(IMAGE_SHARE,),
        claims=(_images_help(default),),
    )


def _images_help(default: str) -> Claim:
    return Claim(
        name="images-help",
        statement="Images in pre-training give more vision than none, with equal fine-tuning.",
        source="paper, Table 3 (7B)",
        compare=(
            Comparison(arms=(default,), others=("share-000",), measure="vision", smallest=SMALLEST, published=0.0325),
        ),
        published="Vision stable score .4701 with images and .4377 without, from six tasks: VQAv2 76.39 and 74.69, GQA "
        "61.08 and 60.6, TextVQA 46.8 and 41.6, RefCOCO 64.2 and 58.9, OCID 46.1 and 39.7, POPE 87.5 and 87.1. VizWiz, "
        "which the score leaves out, falls: 10.88 and 11.69.",
        caution="One run of each, of a trunk and a share that the paper does not name. The VQAv2 of its 7B model, "
        "76.39, is that of 5 % and two epochs in Table 7: a copy, or its 7B trunk is lightly trained.",
    )


def _smaller_prefers_more(percents: tuple[int, int, int], size: str) -> Claim:
    small, large = (f"share-{percent:03d}" for percent in percents[1:])
    return Claim(
        name="smaller-prefers-more",
        statement="A smaller model prefers a larger image share: the larger one of two is better at the smallest size, "
        "the smaller one at the largest.",
        source="paper, in words",
        compare=(
            Comparison(arms=(f"{large}-{size}",), others=(f"{small}-{size}",), measure="vision", smallest=SMALLEST),
            Comparison(arms=(small,), others=(large,), measure="vision", smallest=SMALLEST),
        ),
        published="In words: 10 to 20 % is best at 1B, and smaller models prefer larger fractions.",
        caution="Sizes differ in their budgets as in the paper; in the built-in world one recipe serves both sizes.",
    )
