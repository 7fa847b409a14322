"""Which encoder? The paper's encoders (Table 6), and three cheaper or less restricted uses of their tokens.

Hypothesis: DINOv2 with SigLIP is a little better than SigLIP alone, and a patch projection without an encoder does not
learn to use images in this budget (the paper: .470, .461 and .156). Pooling image tokens saves more than it costs.
Arms: images enter at 80 % of the trunk. The scale's SigLIP; SigLIP and DINOv2 concatenated; a patch projection of the
same grid; SigLIP with pixel shuffle by 2 and by 3 (729 tokens per image become 196 and 81), where its grid is at
least that large; SigLIP with bidirectional attention between the tokens of an image.
Metric: vision and text stable scores after fine-tuning, over seeds.
Refuted if: the patch projection comes within the interval of SigLIP, SigLIP alone scores above both together, or an arm
with pooled tokens is behind by more than the interval.
At the scales of the synthetic world, SigLIP is trained from scratch, and there is no pixel shuffle by 3, because the
grid is 2 x 2. The arm with DINOv2 needs the paper's SigLIP, whose grid is that of DINOv2.
All arms train on the same number of rows. Where rows are packed (the synthetic world), pooled images leave room for
more images. Where each image has its own row (the paper), they leave padding, so that only
a recipe with shorter rows saves time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from firstsight.errors import QuantityError
from firstsight.recipe.analysis import Axis, Claim, Comparison
from firstsight.recipe.mixture import External
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.scales import Scale, branch_at
from firstsight.recipe.scales.models import siglip_dinov2_384, siglip_so400m_384
from firstsight.recipe.scales.published import SEED_NOISE
from firstsight.recipe.study import Arm, Horizon, Study, over_seeds
from firstsight.recipe.vision import PatchProjectionSpec, Siglip
from firstsight.studies.when import trunk_arm
from firstsight.units import Share, Tokens

DINOV2 = External(name="dinov2-large-patch14-reg4-384", form="encoder", tokens=Tokens(0))
"""The paper's second tower: timm's vit_large_patch14_reg4_dinov2.lvd142m, in Hugging Face layout."""

ENCODER = Axis(name="encoder", label="Encoder and its tokens", unit="category")

BOTH_ENCODERS = Claim(
    name="both-encoders",
    statement="SigLIP with DINOv2 gives more vision than SigLIP alone.",
    source="paper, Table 6",
    compare=(
        Comparison(
            arms=("siglip-dinov2",), others=("siglip",), measure="vision", smallest=SEED_NOISE, published=0.0089
        ),
    ),
    published="Vision stable score .4696 with both, .4607 with SigLIP alone; text falls from .1503 to .1347.",
    caution="One run of each in the paper, where the same recipe with another seed moves VQAv2 by up to .65 points.",
)
NEEDS_ENCODER = Claim(
    name="needs-encoder",
    statement="A patch projection without an encoder is far below SigLIP in vision, by two points at least.",
    source="paper, Table 6",
    compare=(
        Comparison(
            arms=("patches",), others=("siglip",), measure="vision", expect="less", smallest=-0.02, published=-0.3043
        ),
    ),
    published="Vision stable score .1564 with a patch projection, .4607 with SigLIP; text .1503 with either.",
    caution="SigLIP was trained on images before, the patch projection was not. Text scores that agree in four digits "
    "may be a copy.",
)


def encoders(scale: Scale, horizon: Horizon = "branch") -> Study:
    """One arm for each encoder or use of its tokens, and the finished trunk on text tasks alone."""
    scale = scale.with_horizon(horizon)
    late = branch_at(scale, Share(80, 100))
    arms = [replace_model(late, name, model) for name, model in encoder_variants(late.stages[0].model)]
    has_both = any(arm.name == "siglip-dinov2" for arm in arms)
    return Study(
        name="encoders",
        scale=scale.name,
        question="Which vision encoder should a language model have?",
        arms=over_seeds([trunk_arm(scale), *arms], range(1, scale.seeds + 1)),
        axes=(ENCODER,),
        claims=(*[BOTH_ENCODERS] * has_both, NEEDS_ENCODER),
    )


def encoder_variants(model: VLMSpec) -> Iterator[tuple[str, VLMSpec]]:
    """(name, model) of the variants of a model with a SigLIP. Patches are as wide as the decoder, as in the paper."""
    vision = model.vision
    if not isinstance(vision, Siglip):
        raise QuantityError(f"this study varies a scale whose encoder is a SigLIP. Got {vision}. Name another scale.")
    yield "siglip", model
    if isinstance(vision.weights, External) and vision == siglip_so400m_384(vision.weights):
        yield "siglip-dinov2", replace(model, vision=siglip_dinov2_384(vision.weights, DINOV2))
    size, patch = vision.image_size, vision.vit.patch_size
    patches = PatchProjectionSpec(image_size=size, patch_size=patch, width=model.lm.width, fit=vision.fit)
    yield "patches", replace(model, vision=patches, stores_features=False)
    for factor in (2, 3):
        if factor <= vision.grid_size:
            yield f"shuffle-{factor}", replace(model, projector=replace(model.projector, pixel_shuffle=factor))
    yield "prefix", replace(model, attention="prefix")


def replace_model(arm: Arm, name: str, model: VLMSpec) -> Arm:
    """The same arm with another model in every stage, and its name as coordinate on ENCODER."""
    stages = tuple(replace(stage, model=model) for stage in arm.stages)
    return replace(arm, name=name, stages=stages, at={ENCODER.name: name})
