"""Through which eyes? The paper's encoders (Table 6), and three cheaper or freer ways to show what they saw.

Hypothesis: DINOv2 beside SigLIP adds a little to SigLIP alone, and a patch projection without an encoder does not learn
to see in this budget (the paper: .470, .461 and .156). Pooled image tokens cost less than they save.
Arms: images enter at 80 % of the trunk. The scale's SigLIP; SigLIP and DINOv2 side by side; a patch projection of the
same grid; SigLIP with squares of 2 x 2 and of 3 x 3 image tokens as one (729 tokens a picture become 196 and 81), where
its grid holds such a square; SigLIP with the tokens of a picture attending to each other both ways.
Metric: vision and text stable scores after fine-tuning, over seeds.
Refuted if: the patch projection comes within the interval of SigLIP, SigLIP alone is ahead of both together, or an arm
with pooled tokens falls behind by more than the interval.
The built-in world trains its own SigLIP and has no DINOv2, so that this arm stands at the paper's scales alone; the
world's grid is 2 x 2, so that squares of 3 are left out.
All arms train on as many rows. Where rows are filled (the built-in world), pooling shows more pictures in them, and may
show some twice; where one picture has a row to itself (the paper), it leaves padding behind, and its saving is in a
recipe of shorter rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from firstsight.errors import QuantityError
from firstsight.recipe.mixture import External
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.scales import Scale, branch_at
from firstsight.recipe.scales.models import siglip_dinov2_384
from firstsight.recipe.stages import Finetune, Midtrain
from firstsight.recipe.study import Arm, Study, over_seeds
from firstsight.recipe.vision import PatchProjectionSpec, Siglip
from firstsight.studies.when import trunk_arm
from firstsight.units import Share, Tokens

DINOV2 = External(name="dinov2-large-patch14-reg4-384", form="encoder", tokens=Tokens(0))
"""The paper's second tower: timm's vit_large_patch14_reg4_dinov2.lvd142m, in Hugging Face layout."""


def encoders(scale: Scale) -> Study:
    """One arm for each way of seeing, and the finished trunk judged on text alone."""
    late_arm = branch_at(scale, Share(80, 100))
    arms = [replace_model(late_arm, name, model) for name, model in encoder_variants(late_arm.stages[0].model)]
    return Study(
        name="encoders",
        scale=scale.name,
        question="Which encoder should a language model see through?",
        arms=over_seeds([trunk_arm(scale), *arms], range(1, scale.seeds + 1)),
    )


def encoder_variants(model: VLMSpec) -> Iterator[tuple[str, VLMSpec]]:
    """Variants of a model that sees through a SigLIP, by name. Patches are as wide as the decoder, as in the paper."""
    vision = model.vision
    if not isinstance(vision, Siglip):
        raise QuantityError(f"this study varies a scale that sees through a SigLIP. Got {vision}. Name one that does.")
    yield "siglip", model
    if isinstance(vision.weights, External):
        yield "siglip-dinov2", replace(model, vision=siglip_dinov2_384(vision.weights, DINOV2))
    patches = PatchProjectionSpec(
        image_size=vision.image_size, patch_size=vision.vit.patch_size, width=model.lm.width, fit=vision.fit
    )
    yield "patches", replace(model, vision=patches)
    for factor in (2, 3):
        if factor <= vision.grid_size:
            yield f"shuffle-{factor}", replace(model, projector=replace(model.projector, pixel_shuffle=factor))
    yield "prefix", replace(model, attention="prefix")


def replace_model(arm: Arm, name: str, model: VLMSpec) -> Arm:
    """The same arm with another model in every stage."""
    return replace(arm, name=name, stages=tuple(_stage_with_model(stage, model) for stage in arm.stages))


def _stage_with_model(stage: Midtrain | Finetune, model: VLMSpec) -> Midtrain | Finetune:
    """Rows that are filled with smaller pictures use a source up sooner: it may be gone through once more."""
    mix, has_fewer_image_tokens = stage.mix, model.image_tokens < stage.model.image_tokens
    if has_fewer_image_tokens and mix.packing == "best_fit":
        components = tuple(
            replace(component, max_epochs=component.max_epochs + 1) for component in mix.images.components
        )
        mix = replace(mix, images=replace(mix.images, components=components))
    return replace(stage, model=model, mix=mix)
