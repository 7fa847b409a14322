"""Three tiny studies, each a folder with a study file, a site file and, for `own`, a user's data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_HEADER = '''
"""A tiny study for the fault campaign."""
from dataclasses import replace

from firstsight.recipe.mixture import SyntheticBenchmarks, SyntheticCaptions, SyntheticDialogues, SyntheticTexts
from firstsight.recipe.mixture import SyntheticVocabulary, SyntheticWorld, ImageTextMix, single_source
from firstsight.recipe.model import openlm_spec
from firstsight.recipe.scales import Scale, branch_at
from firstsight.recipe.stages import Evaluate, RowShape
from firstsight.recipe.study import Arm, Study, over_seeds
from firstsight.recipe.vision import ViTSpec
from firstsight.studies.frozen import train_encoder
from firstsight.units import Share, Tokens

WORLD = SyntheticWorld(objects=16, kinds=4, image_size=48, max_objects=4, seed=0)
ROWS = RowShape(batch_size=4, length=64)
LM = openlm_spec(layers=2, width=32, heads=2, vocab_size=512)
TEXTS = single_source(SyntheticTexts(world=WORLD, documents=600, loss_mask="determined"))
CAPTIONS = SyntheticCaptions(world=WORLD, images=160, quality="rich")
DIALOGUES = SyntheticDialogues(world=WORLD, images=80, turns=2)
EVALUATE = Evaluate(
    benchmarks=SyntheticBenchmarks(world=WORLD, questions=8), vision_tasks=("pope",), text_tasks=("boolq",)
)


def tokens(steps):
    return Tokens(steps * ROWS.tokens_per_step)


def trunk(arm: Arm) -> Arm:
    """The arm on a tiny trunk of 12 steps."""
    run = replace(arm.pretrain, model=LM, text=TEXTS, row_shape=ROWS, tokens=tokens(12),
                  tokenizer=SyntheticVocabulary(world=WORLD))
    return replace(arm, pretrain=run)
'''
_TEXTS = (
    _HEADER
    + '''

def texts(scale: Scale) -> Study:
    """Text models at three points of a trunk."""
    base = trunk(scale.base)
    evaluate = replace(EVALUATE, vision_tasks=())
    arms = [replace(base, name=f"text-{percent:03d}", start=Share(percent, 100), stages=(), evaluate=evaluate)
            for percent in (50, 100)]
    return Study(name="texts", scale=scale.name, question="Does text alone run?", arms=over_seeds(arms, [1, 2]))
'''
)
_IMAGES = (
    _HEADER
    + '''

def images(scale: Scale) -> Study:
    """A frozen and a trained encoder from the same point of a trunk, with fine-tuning."""
    base = trunk(branch_at(scale, Share(1, 2)))
    midtrain, finetune = base.stages
    vision = midtrain.model.vision
    vit = ViTSpec(layers=2, width=32, heads=2, mlp_width=64, image_size=48, patch_size=24)
    weights = replace(vision.weights, captions=CAPTIONS, text_width=32, steps=6, batch_size=16)
    model = replace(midtrain.model, lm=LM, vision=replace(vision, vit=vit, weights=weights))
    shared = dict(model=model, row_shape=ROWS, tokenizer=base.pretrain.tokenizer)
    midtrain = replace(midtrain, **shared, tokens=tokens(8), mix=mix(CAPTIONS, Share(1, 2)))
    finetune = replace(finetune, **shared, epoch_tokens=tokens(6), mix=mix(DIALOGUES, Share(3, 4)))
    frozen = replace(base, name="frozen", at={}, group="", stages=(midtrain, finetune), evaluate=EVALUATE)
    arms = [frozen, replace(train_encoder(frozen, "trained", Share(1, 2)), at={})]
    return Study(name="images", scale=scale.name, question="Do images run?", arms=over_seeds(arms, [1]))


def mix(images, share):
    return ImageTextMix(text=TEXTS, images=single_source(images), image_share=share, share_unit="rows",
                        packing="best_fit")
'''
)
_MACHINE = """
[machine]
device = "cpu"
compile = false
save_every = 0
readers = 1
cache = "cache"
"""


@dataclass(frozen=True, slots=True)
class Project:
    """A study in a folder of its own, and the words of the command that runs it."""

    name: str
    root: Path

    @property
    def study(self) -> str:
        """The study as the command takes it: file and function."""
        return f"{self.root / 'study.py'}:{'mine' if self.name == 'own' else self.name}"

    @property
    def scale(self) -> str:
        return "79m" if self.name == "own" else "smoke"

    @property
    def site(self) -> Path:
        return self.root / "site.toml"

    def write(self) -> None:
        """Write study file, site file and data. The site saves a resume point at every update."""
        self.root.mkdir(parents=True)
        if self.name == "own":
            from tests.own_data import STUDY, OwnData  # imports torch and transformers

            data = OwnData(self.root / "data")
            data.write()
            data.write_site(self.site)
            self.site.write_text(self.site.read_text().replace("compile = false", "compile = false\nsave_every = 0"))
            (self.root / "study.py").write_text(STUDY)
            return
        (self.root / "study.py").write_text({"texts": _TEXTS, "images": _IMAGES}[self.name])
        self.site.write_text(_MACHINE)


STUDIES = ("texts", "images", "own")
