"""Should a model see images from its first step? The share of images without any trunk (the paper's Figure 6).

Hypothesis: a model that is trained on text and images from the start loses both vision and text by its images, in a
budget in which a trained text model gains vision by them.
Arms: mid-training from an untrained model with 0, 1, 5, 10, 20, 50 and 100 % of images and the scale's own share, as
in `how_much`, which says how the axis is to be read; the same fine-tuning.
Metric: vision and text stable scores after fine-tuning, over seeds.
Refuted if: an arm with images scores more in vision or text than the one without, beyond the interval over seeds.
Known confound: at the horizon `branch`, these models have seen the tokens of mid-training alone, at 1b less than a
hundredth of the trunk's. With `full` mid-training is longer by the whole trunk.
"""

from __future__ import annotations

from firstsight.recipe.analysis import Claim, Comparison, Sweep
from firstsight.recipe.scales import IMAGE_SHARE, Scale, branch_at
from firstsight.recipe.study import Horizon, Study, over_seeds
from firstsight.studies.how_much import SHARES, share_arms
from firstsight.studies.when import SMALLEST
from firstsight.units import Share

WITH_IMAGES = ("share-010", "share-020", "share-050", "share-100")

FROM_SCRATCH = Claim(
    name="from-scratch",
    statement="From scratch, 10 % of images or more hurt both vision and text.",
    source="paper, Figure 6",
    compare=(
        Comparison(arms=WITH_IMAGES, others=("share-000",), measure="vision", expect="less", smallest=-SMALLEST),
        Comparison(arms=WITH_IMAGES, others=("share-000",), measure="text", expect="less", smallest=-SMALLEST),
    ),
    published="The figure shows it; its values are not printed.",
    caution="With more images the model reads less text. All arms re-warm, and have no text model to begin with.",
    dissent="Kimi K2.5 (arXiv 2602.02276, Table 1): images from the start at 10 % are best at a fixed budget, vision "
    "knowledge 25.8 against 25.0 (start 50 %) and 24.2 (80 %), text knowledge 45.5, 43.9 and 43.1. Native multimodal "
    "scaling laws (arXiv 2504.07951), 457 models: loss falls alike with compute, to the power of -.0492 from the start "
    "and -.0494 with late fusion. Beyond Language Modeling (arXiv 2603.03276): vision does not hurt language in joint "
    "training from scratch.",
)


def from_scratch(scale: Scale, horizon: Horizon = "branch") -> Study:
    """Image-text training from an untrained model with 0 to 100 % of images."""
    scale = scale.with_horizon(horizon)
    return Study(
        name="from-scratch",
        scale=scale.name,
        question="Should a model be trained on images from its first step?",
        arms=over_seeds(share_arms(branch_at(scale, Share(0)), SHARES), range(1, scale.seeds + 1)),
        axes=(IMAGE_SHARE,),
        figures=(Sweep(x="image_share"),),
        claims=(FROM_SCRATCH,),
    )
