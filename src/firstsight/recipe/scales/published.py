"""What the paper and its authors' code state about their runs, and what a scale assumes where these say nothing or
contradict each other. `firstsight plan` prints both beside its own numbers.

Sources: paper Tables 2 and 7 and section 2; the run names in open_lm's `scripts/lm_eval.sh`; DCLM's training
configurations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from firstsight.recipe.scales.paper import PAPER_SIZES
from firstsight.recipe.stages import Donor, Pretrain
from firstsight.units import Share

PUBLISHED_DEVICE = "a100"

SEED_NOISE = 0.0065
"""Share of VQAv2 that another seed of fine-tuning changes at the most, by the paper on its Table 7, whose six pairs of
runs differ by up to .63 points (73.83 and 74.46)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedRun:
    """One size of the paper."""

    size: str
    """As in PAPER_SIZES."""
    gpu_hours: int | None = None
    """Hours on one PUBLISHED_DEVICE for the trunk; None where they are not published."""
    rates: Mapping[Share, float] = field(default_factory=dict[Share, float])
    """Learning rates of mid-training by the share of the trunk at which it starts: the first rate of arms that continue
    the trunk's schedule, the peak of those that warm up again (0 and 100 %)."""
    assumptions: tuple[str, ...] = ()
    """What the scale assumes besides COMMON_ASSUMPTIONS, as sentences."""


COMMON_ASSUMPTIONS = (
    "fine-tuning has Prismatic's defaults (peak 2e-5, 3 % warm-up, cosine to 0, 128 rows, weight decay 0.1); those "
    "that the paper used are not published.",
    "mid-training carries AdamW's moments over from the trunk, with a z-loss of 1e-4; neither is published.",
    "the text of all stages is that of the trunk; the paper's mid-training has MathPile in place of ProofPile.",
    "captions are the regenerated ones alone; how the paper chose between them and alt text is not published.",
    "the projector has 3 linear layers as in the authors' code; the paper's text has 2.",
    "images are resized to a square as in the authors' training code; other code of theirs letterboxes.",
)

_NOT_IN_TABLES = "the trunk has 150 x 20 tokens a parameter, in batches of 512 as at 79m; no table has this size."


PUBLISHED = (
    PublishedRun(
        size="79m",
        gpu_hours=1_200,
        assumptions=(
            "re-warmed arms have the peak of 3e-3 that is published for 1b, here that of the trunk itself.",
            "arms at 20 to 80 % continue the trunk's schedule as at 1b; the rates of these runs are not public.",
        ),
    ),
    PublishedRun(
        size="154m",
        assumptions=(
            _NOT_IN_TABLES,
            "arms at 20 to 80 % continue the trunk's schedule as at 1b; the authors' runs of this size warm up again "
            "over 1,000 steps there too.",
        ),
    ),
    PublishedRun(
        size="411m",
        assumptions=(
            _NOT_IN_TABLES,
            "arms at 20 to 80 % continue the trunk's schedule as at 1b; the authors' runs of this size warm up again "
            "over 2,500 steps there too.",
        ),
    ),
    PublishedRun(
        size="1b",
        gpu_hours=106_000,
        rates={
            Share(0): 3e-3,
            Share(20, 100): 0.009080349589287376,
            Share(40, 100): 0.006499974971416897,
            Share(60, 100): 0.0034466737184832607,
            Share(80, 100): 0.0009788970261355868,
            Share(1): 3e-3,
        },
        assumptions=(
            "the trunk has batches of 512 rows, as in the run's name and the warm-up of Figure 3; Table 2 prints 256.",
            "arms start at exactly 20 to 80 % of the trunk; the published rates belong to checkpoints at 19.7, 40.4, "
            "60.2 and 80.1 % of it.",
        ),
    ),
    PublishedRun(
        size="7b",
        assumptions=(
            "the trunk is DCLM's run of 276B tokens; which run the paper started from is not published.",
            "mid-training has the 28.8B tokens, batches of 256 and 10 % images of 1b; the paper's are not published, "
            "and 20 tokens a parameter would be 138B.",
            "re-warmed arms have a peak of 6e-4, three tenths of the trunk's as at 1b; the 3e-3 of 1b would be above "
            "the trunk's own 2e-3.",
        ),
    ),
)


def published_run(trunk: Pretrain | Donor) -> PublishedRun | None:
    """What is published of a trunk: that of the size with the same decoder and number of tokens; None for any other."""
    sizes = ((run, PAPER_SIZES[run.size]) for run in PUBLISHED)
    return next((run for run, size in sizes if (trunk.model, trunk.tokens) == (size.lm, size.tokens)), None)
