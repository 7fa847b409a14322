"""How do models of others score on the same questions? The paper's Table 9.

Hypothesis: the paper's recipe is on a level with published models of its size.
Arms: the paper's own recipe as in Table 9 (images enter at 80 % of the trunk, four epochs of fine-tuning), and models
of others in `transformers`' layout at the paths of the site file, evaluated as they are: `--models NAME,NAME`.
Metric: vision and text stable scores and every task, with the same questions, scorers and result files.
Refuted if: a published model of about the same size scores above the recipe on most tasks.
A model of others was not trained here, so it has no seeds: it is compared with the first seed of the recipe, paired
over questions, with an interval over questions alone. Prompts are the model's own (`docs/howto/other-models.md`),
training data and budgets differ, and benchmarks may be among its training data.
At the paper's scales the default is PaliGemma, as in Table 9, and LLaVA-1.5 in place of Prismatic, whose checkpoints
are not in `transformers`' layout. At the scales of the built-in world there is none.
"""

from __future__ import annotations

from dataclasses import replace

from firstsight.recipe.analysis import Axis, Bars, Claim, Comparison
from firstsight.recipe.mixture import External, SyntheticBenchmarks
from firstsight.recipe.scales import Scale, branch_at
from firstsight.recipe.stages import Finetune, PublicModel
from firstsight.recipe.study import Arm, Horizon, Study, over_seeds
from firstsight.studies.when import TEXT_KEPT, trunk_arm
from firstsight.units import Share, Tokens

MODEL = Axis(name="model", label="Model", unit="category")
PUBLISHED_MODELS = ("paligemma-3b-mix-224", "llava-1.5-7b-hf")
OWN = "own"
EPOCHS = 4
"""Of fine-tuning, in the paper's Table 9."""


def others(scale: Scale, models: str = "", horizon: Horizon = "branch") -> Study:
    """The paper's recipe, the models of others by their names in the site file, and the finished trunk on text tasks.

    `models` are separated by commas; by default PUBLISHED_MODELS at the paper's scales, and none at the others.
    """
    scale = scale.with_horizon(horizon)
    *stages, finetune = (late := branch_at(scale, Share(4, 5))).stages
    assert isinstance(finetune, Finetune)
    tuned = replace(finetune, epochs=EPOCHS)
    own = replace(late, name=OWN, stages=(*stages, tuned), at={MODEL.name: OWN}, group="")
    has_builtin_world = isinstance(scale.base.evaluate.benchmarks, SyntheticBenchmarks)
    names = [name.strip() for name in models.split(",") if name.strip()]
    names = names or ([] if has_builtin_world else list(PUBLISHED_MODELS))
    return Study(
        name="others",
        scale=scale.name,
        question="How does the recipe score beside models of others?",
        arms=(
            *over_seeds([trunk_arm(scale), own], range(1, scale.seeds + 1)),
            *(public_arm(scale, name) for name in names),
        ),
        axes=(MODEL,),
        figures=(Bars(x=MODEL.name),),
        claims=(replace(TEXT_KEPT, compare=(_of_own(TEXT_KEPT.compare[0]),)), *map(beside, names)),
    )


def public_arm(scale: Scale, name: str) -> Arm:
    """A model of the site file, on the scale's tasks; it has one seed, because nothing of it is trained."""
    model = PublicModel(weights=External(name=name, form="model", tokens=Tokens(0)))
    return replace(scale.base, name=name, pretrain=model, start=Share(1), stages=(), at={MODEL.name: name}, seed=1)


def beside(name: str) -> Claim:
    """The claim that the recipe gives as much vision as a model of others."""
    return Claim(
        name=f"beside-{name}",
        statement=f"The recipe gives more vision than {name}.",
        source="paper, Table 9",
        compare=(Comparison(arms=(OWN,), others=(name,), measure="vision"),),
        published="The numbers of Table 9 are not known to us.",
        caution="Paired over questions, without seeds. Sizes, data and budgets differ.",
    )


def _of_own(comparison: Comparison) -> Comparison:
    """The comparison with the recipe of this study in place of its arms."""
    return replace(comparison, arms=(OWN,))
