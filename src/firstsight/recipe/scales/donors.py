"""Public runs with checkpoints all along them, and the scale of a study that branches from one of them.

Every number is the publisher's, from the places in `PublicRun.sources`; what was derived from them is in `inferred`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from firstsight.errors import UnknownName
from firstsight.recipe.mixture import External
from firstsight.recipe.model import LMSpec, Rope, llama_family_spec, openlm_spec
from firstsight.recipe.scales import models
from firstsight.recipe.scales.base import PAPER_REWARM, Scale
from firstsight.recipe.scales.paper import PAPER_TOKENIZER, paper_scale
from firstsight.recipe.schedule import Rewarm
from firstsight.recipe.stages import TRUNK_GRID, Donor, Midtrain, Pretrain, RowShape
from firstsight.units import Share, Tokens

CHAT_ROWS = 64
"""Rows of the embedding that a branch adds for the tokens of dialogues where the donor has none to spare."""
FLOOR, REWARM_PEAK = 0.003, 0.3
"""Last rate of a branch, and peak of one that warms up again, in parts of the trunk's peak: those of the paper's 1b."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicRun:
    """A public run: what its publisher states about it, and where its checkpoints are."""

    name: str
    model: LMSpec
    row_shape: RowShape
    steps: int
    """Of the run, or of the part of it that follows one curve of learning rates."""
    schedule: tuple[float, float, int, Tokens | None]
    """Peak rate, last rate, warm-up steps, and the tokens of the cosine where the run ended before it; a last rate that
    equals the peak is a plateau."""
    checkpoints: tuple[tuple[int, str], ...]
    """(step, hub name@revision) of those near TRUNK_GRID."""
    spacing: str
    """All public checkpoints."""
    tokenizer: str
    """Hub name."""
    text: str
    """What the run was trained on."""
    licence: str
    optimizer: str
    """Where AdamW's moments are published; empty where they are not, or nothing was found."""
    size: str
    """The paper's size whose budget its branches have."""
    sources: tuple[str, ...]
    inferred: tuple[str, ...] = ()

    @property
    def tokens(self) -> Tokens:
        return Tokens(self.steps * self.row_shape.tokens_per_step)

    def source_name(self, step: int) -> str:
        """The name of a checkpoint in recipes and site files."""
        return f"{self.name}-step{step}"

    @property
    def tokenizer_source(self) -> External:
        """Its tokenizer in recipes and site files; the paper's own where it is that one."""
        if self.tokenizer == NEOX_TOKENIZER:
            return PAPER_TOKENIZER
        return External(name=f"{self.name}-tokenizer", form="tokenizer", tokens=Tokens(0))

    @property
    def vocab_size(self) -> int:
        """Rows of a branch's embedding: the donor's, or CHAT_ROWS more where its tokenizer fills them."""
        spare = self.model.vocab_size > TOKENIZER_SIZES.get(self.tokenizer, self.model.vocab_size)
        return self.model.vocab_size + (0 if spare else CHAT_ROWS)

    def donor(self) -> Donor:
        """The run in place of a trunk."""
        peak, last, warmup, curve = self.schedule
        curve_steps = self.steps if curve is None else self.row_shape.steps(curve)
        return Donor(
            model=self.model,
            tokenizer=self.tokenizer_source,
            row_shape=self.row_shape,
            tokens=self.tokens,
            schedule=Rewarm(peak_lr=peak, min_lr=last, warmup=Share(warmup, curve_steps)),
            schedule_tokens=curve,
            checkpoints=tuple(
                (Share(step, self.steps), External(name=self.source_name(step), form="checkpoint", tokens=Tokens(0)))
                for step, _ in self.checkpoints
            ),
        )

    def differences(self, scale: str) -> Iterator[str]:
        """How a study of its branches differs from the paper's, as sentences; at a scale of another name they have the
        budget and the data of that scale."""
        paper, donor = paper_scale(self.size).base.pretrain, self.donor()
        assert isinstance(paper, Pretrain)
        ratio, paper_ratio = (run.tokens / run.model.parameters() for run in (donor, paper))
        yield (
            f"the trunk is a public run of {self.tokens / 1e9:,.0f}B tokens, {ratio:,.0f} a parameter; the paper's at "
            f"{self.size} has {paper.tokens / 1e9:,.0f}B, {paper_ratio:,.0f} a parameter. Its text: {self.text}."
        )
        yield (
            f"its peak rate is {donor.schedule.peak_lr:g}, the paper's {paper.schedule.peak_lr:g}. Branches continue "
            f"its own curve from each checkpoint down to {FLOOR:g} of its peak; those at 0 and 100 % warm up again to "
            f"{REWARM_PEAK:g} of it. Both parts are those of the paper's 1b."
        )
        shares = ", ".join(str(share) for share, _ in donor.checkpoints if share != 1)
        yield f"checkpoints are at {shares} and 100 % of the run; 0 % is an untrained model of this study's own seed."
        yield "branches start with fresh moments: no published optimizer state has a form that firstsight imports."
        if scale == self.name:
            yield f"branches have the budget and the text of the paper's {self.size}, not the donor's data."
        else:
            yield f"branches have the budget, the data and the tasks of the scale {scale}, not the paper's."
        yield f"the decoder is {_decoder_text(self.model)}; the paper's has OpenLM's settings."
        if self.tokenizer != NEOX_TOKENIZER:
            yield f"the tokenizer is {self.tokenizer}; the paper's is {NEOX_TOKENIZER}."
        yield from (f"inferred: {sentence}" for sentence in self.inferred)

    def schedule_text(self) -> str:
        """Its rates: warm-up, peak and last rate of its curve, or a plateau."""
        peak, last, warmup, curve = self.schedule
        form = "plateau" if peak == last else f"cosine to {last:g}"
        length = f" at {curve / 1e12:g}T tokens" if curve else ""
        return f"{warmup:,} steps to {peak:g}, {form}{length}"

    def commands(self) -> Iterator[str]:
        """The lines of a shell that import its checkpoints, then those of the site file that name them."""
        for step, location in self.checkpoints:
            repository, _, revision = location.partition("@")
            option = f" --revision {revision}" if revision else ""
            seen = step * self.row_shape.tokens_per_step
            yield f"firstsight import {repository}{option} --out donors/{self.source_name(step)} --seen {seen}"
        last = self.source_name(self.checkpoints[-1][0])
        names = {self.source_name(step): f"donors/{self.source_name(step)}" for step, _ in self.checkpoints}
        for name, path in {**names, self.tokenizer_source.name: f"donors/{last}"}.items():
            yield from (f"[sources.{name}]", f'path = "{path}"')


NEOX_TOKENIZER = "EleutherAI/gpt-neox-20b"
TOKENIZER_SIZES = {NEOX_TOKENIZER: 50_277, "allenai/dolma2-tokenizer": 100_278}
"""Tokens of the tokenizers that leave rows of the embedding unused."""


def donor_scale(run: PublicRun, base: Scale | None = None) -> Scale:
    """The scale `base` (default: the paper's of the run's size) whose arms branch from a public run."""
    name = run.name if base is None else f"{base.name}-{run.name}"
    base, donor = base or paper_scale(run.size), run.donor()
    lm, tokenizer = replace(run.model, vocab_size=run.vocab_size), run.tokenizer_source
    peak = donor.schedule.peak_lr
    rewarm = replace(PAPER_REWARM, peak_lr=REWARM_PEAK * peak, min_lr=FLOOR * peak, warmup=base.rewarm.warmup)
    stages = tuple(
        replace(stage, model=replace(stage.model, lm=lm), tokenizer=tokenizer, moments="fresh")
        for stage in base.base.stages
    )
    stages = tuple(replace(stage, schedule=rewarm) if isinstance(stage, Midtrain) else stage for stage in stages)
    arm = replace(base.base, pretrain=donor, stages=stages)
    return replace(base, name=name, base=arm, rewarm=rewarm)


def public_run(name: str) -> PublicRun:
    """The run of that name; UnknownName with the nearest names otherwise."""
    if name not in PUBLIC_RUNS:
        raise UnknownName("public run", name, PUBLIC_RUNS)
    return PUBLIC_RUNS[name]


def run_table() -> list[tuple[str, ...]]:
    """All runs as rows of text, titles first."""
    titles = ("run", "parameters", "tokens", "learning rate", "checkpoints near 20 to 100 %", "tokenizer", "licence")
    rows: list[tuple[str, ...]] = [(*titles, "moments")]
    for run in PUBLIC_RUNS.values():
        steps = ", ".join(f"{step:,}" for step, _ in run.checkpoints)
        sizes = f"{run.model.parameters() / 1e9:.2f}B", f"{run.tokens / 1e12:.2f}T"
        moments = "published" if run.optimizer else "not found"
        rows.append((run.name, *sizes, run.schedule_text(), f"steps {steps}", run.tokenizer, run.licence, moments))
    return rows


def run_lines(run: PublicRun) -> Iterator[str]:
    """All that is known of a run, and how to get its checkpoints."""
    shape = run.row_shape
    yield f"{run.name}: {run.model.parameters():,} parameters, {run.model.layers} layers, width {run.model.width}"
    yield f"run: {run.tokens:,} tokens in {run.steps:,} steps of {shape.batch_size:,} x {shape.length:,}"
    yield f"learning rate: {run.schedule_text()}"
    yield f"text: {run.text}; tokenizer: {run.tokenizer}; licence: {run.licence}"
    yield f"checkpoints: {run.spacing}"
    for share, source in run.donor().checkpoints:
        yield f"  {source.name} at {share}, learning rate {run.donor().lr(run.donor().tokens_at(share)):.4g}"
    yield f"AdamW's moments: {run.optimizer or 'nothing published was found'}"
    yield from (f"source: {source}" for source in run.sources)
    yield from (f"differs from the paper: {sentence}" for sentence in run.differences(run.name))
    yield from ("", "Import its checkpoints, then paste the other lines into the site file:", "", *run.commands())


def run_of_donor(donor: object) -> PublicRun | None:
    """The public run that a donor is; None of any other."""
    return next((run for run in PUBLIC_RUNS.values() if run.donor() == donor), None)


def _decoder_text(lm: LMSpec) -> str:
    """The settings of a decoder in which it differs from OpenLM's, in words."""
    fraction = lm.rope.fraction if isinstance(lm.rope, Rope) else Share(1)
    features = {
        "parallel attention and MLP": lm.block == "parallel",
        "norms after attention and MLP": lm.block == "post_norm",
        "RMSNorm": lm.norm == "rms",
        "biases": lm.has_biases,
        "GELU without a gate": lm.mlp == "gelu",
        "no QK-norm": not lm.qk_norm,
        f"rotary over {fraction} of each head": fraction != 1,
        f"no rotary in every {lm.rotary_period}th layer": lm.rotary_period > 0,
        f"a window of {lm.window:,} tokens": lm.window > 0,
        "grouped keys": lm.kv_heads != lm.heads,
        "tied embeddings": lm.ties_embeddings,
    }
    return ", ".join(feature for feature, is_used in features.items() if is_used)


def _near_grid(steps: int, spacing: int) -> list[int]:
    """The steps nearest to the shares of TRUNK_GRID where a checkpoint was saved, the last one at the end."""
    return [*(spacing * round(share * steps / spacing) for share in TRUNK_GRID[:-1]), steps]


def _pythia(name: str, *, layers: int, width: int, heads: int, vocab: int, peak: float, size: str) -> PublicRun:
    lm = replace(
        openlm_spec(layers=layers, width=width, heads=heads, vocab_size=vocab),
        mlp_width=4 * width,
        qk_norm=False,
        rope=Rope(base=10_000.0, fraction=Share(1, 4)),
        block="parallel",
        mlp="gelu",
        has_biases=True,
    )
    hub = f"EleutherAI/pythia-{name}"
    return PublicRun(
        name=f"pythia-{name}",
        model=lm,
        row_shape=RowShape(batch_size=1024, length=2048),
        steps=143_000,
        schedule=(peak, peak / 10, 1430, None),
        checkpoints=tuple((step, f"{hub}@step{step}") for step in _near_grid(143_000, 1000)),
        spacing="154: steps 0, 1, 2, 4 to 512, and every 1,000",
        tokenizer=NEOX_TOKENIZER,
        text="the Pile",
        licence="Apache-2.0",
        optimizer="EleutherAI/neox-ckpt-pythia-* (DeepSpeed's files: all steps or powers of two, by size)",
        size=size,
        sources=(
            "github.com/EleutherAI/pythia: README and models/*.yml",
            "cards of the hub's EleutherAI/pythia-* and EleutherAI/neox-ckpt-pythia-*",
        ),
        inferred=("the README's table has a peak of 3e-4 for 1B; the configuration used here has 2.5e-4.",)
        if name == "1b"
        else (),
    )


def _olmo2(
    name: str, *, hub: str, lm: LMSpec, batch: int, steps: int, spacing: int, peak: float, size: str
) -> PublicRun:
    shape = RowShape(batch_size=batch, length=4096)
    horizon = Tokens(6_500_000_000_000 if name == "32b" else 5_000_000_000_000)
    warmup = 2000 if name == "32b" else 8_388_608_000 // shape.tokens_per_step

    def revision(step: int) -> str:
        return f"{hub}@stage1-step{step}-tokens{-(-step * shape.tokens_per_step // 10**9)}B"

    return PublicRun(
        name=f"olmo2-{name}",
        model=replace(lm, norm="rms", eps=1e-6, rope=Rope(base=500_000.0), block="post_norm", qk_norm=True),
        row_shape=shape,
        steps=steps,
        schedule=(peak, peak / 10, warmup, horizon),
        checkpoints=tuple((step, revision(step)) for step in _near_grid(steps, spacing)),
        spacing=f"every {spacing:,} steps of stage 1, then stage 2",
        tokenizer="allenai/dolma2-tokenizer",
        text="OLMo-mix-1124",
        licence="Apache-2.0",
        optimizer="olmo-checkpoints.org (OLMo's own files, every checkpoint)",
        size=size,
        sources=(
            "github.com/allenai/OLMo: README, configs/official-1124 and official-0425 (yaml, csv)",
            "github.com/allenai/OLMo-core: src/scripts/official/OLMo2",
        ),
        inferred=(
            "100 % is the end of stage 1; its cosine is longer and was cut there.",
            "revisions of intermediate steps are named like the published last one, tokens rounded up.",
        ),
    )


def _smollm(name: str, *, lm: LMSpec, shape: RowShape, steps: int, spacing: int, peak: float, size: str) -> PublicRun:
    is_third = name.startswith("smollm3")
    hub = "HuggingFaceTB/" + {"smollm3-3b": "SmolLM3-3B-checkpoints"}.get(
        name, f"SmolLM2-{name.removeprefix('smollm2-').upper()}-intermediate-checkpoints"
    )

    def revision(step: int) -> str:
        return f"stage{1 if step <= 3_450_000 else 2}-step-{step}" if is_third else f"step-{step}"

    where = "smollm3/stage1_8T.yaml" if is_third else "smollm2/*.yaml"
    return PublicRun(
        name=name,
        model=lm,
        row_shape=shape,
        steps=steps,
        schedule=(peak, peak, 2000, None),
        checkpoints=tuple((step, f"{hub}@{revision(step)}") for step in _near_grid(steps, spacing)),
        spacing=f"every {spacing:,} steps",
        tokenizer="HuggingFaceTB/SmolLM3-3B" if is_third else "HuggingFaceTB/SmolLM2-135M",
        text="web, code and mathematics in stages",
        licence="Apache-2.0",
        optimizer="",
        size=size,
        sources=(f"github.com/huggingface/smollm: text/pretraining/{where}", f"card of {hub}"),
        inferred=("100 % is a checkpoint on the plateau of the rate: the run goes on, and its decay is left out.",),
    )


def _llama(layers: int, width: int, heads: tuple[int, int], mlp: int, vocab: int) -> LMSpec:
    return llama_family_spec(
        layers=layers, width=width, heads=heads[0], kv_heads=heads[1], mlp_width=mlp, vocab_size=vocab
    )


_SMOL = replace(models.smollm2_1b(), rope=Rope(base=10_000.0))
_RUNS = (
    _pythia("70m", layers=6, width=512, heads=8, vocab=50_304, peak=1e-3, size="79m"),
    _pythia("160m", layers=12, width=768, heads=12, vocab=50_304, peak=6e-4, size="154m"),
    _pythia("410m", layers=24, width=1024, heads=16, vocab=50_304, peak=3e-4, size="411m"),
    _pythia("1b", layers=16, width=2048, heads=8, vocab=50_304, peak=2.5e-4, size="1b"),
    _pythia("1.4b", layers=24, width=2048, heads=16, vocab=50_304, peak=2e-4, size="1b"),
    _pythia("2.8b", layers=32, width=2560, heads=32, vocab=50_304, peak=1.6e-4, size="7b"),
    _pythia("6.9b", layers=32, width=4096, heads=32, vocab=50_432, peak=1.2e-4, size="7b"),
    _pythia("12b", layers=36, width=5120, heads=40, vocab=50_688, peak=1.2e-4, size="7b"),
    _olmo2("1b", hub="allenai/OLMo-2-0425-1B", lm=_llama(16, 2048, (16, 16), 8192, 100_352), batch=512,
           steps=1_907_359, spacing=10_000, peak=4e-4, size="1b"),
    _olmo2("7b", hub="allenai/OLMo-2-1124-7B", lm=_llama(32, 4096, (32, 32), 11_008, 100_352), batch=1024,
           steps=928_646, spacing=1000, peak=3e-4, size="7b"),
    _olmo2("13b", hub="allenai/OLMo-2-1124-13B", lm=_llama(40, 5120, (40, 40), 13_824, 100_352), batch=2048,
           steps=596_057, spacing=1000, peak=3e-4, size="7b"),
    _olmo2("32b", hub="allenai/OLMo-2-0325-32B", lm=_llama(64, 5120, (40, 8), 27_648, 100_352), batch=2048,
           steps=721_901, spacing=1000, peak=6e-4, size="7b"),
    PublicRun(
        name="olmo3-7b",
        model=replace(_llama(32, 4096, (32, 32), 11_008, 100_352), norm="rms", eps=1e-6, rope=Rope(base=500_000.0),
                      block="post_norm", qk_norm=True, window=4096, window_period=4),
        row_shape=RowShape(batch_size=512, length=8192),
        steps=597_000,
        schedule=(3e-4, 3e-5, 2000, Tokens(5_000_000_000_000)),
        checkpoints=tuple((step, f"allenai/Olmo-3-1025-7B@stage1-step{step}") for step in _near_grid(597_000, 1000)),
        spacing="every 1,000 steps of stage 1 (1,413,814), then stages 2 and 3",
        tokenizer="allenai/dolma2-tokenizer",
        text="Dolma 3",
        licence="Apache-2.0",
        optimizer="olmo-checkpoints.org (OLMo-core's own files, every checkpoint)",
        size="7b",
        sources=("github.com/allenai/OLMo-core: src/scripts/official/OLMo3 (py, csv, README)",),
        inferred=("100 % is step 597,000: there the cosine for 5T tokens was replaced by one for 7T.",
                  "revisions are named stage1-stepN, as that of the last step."),
    ),
    _smollm("smollm2-135m", lm=replace(models.smollm2_135m(), rope=Rope(base=10_000.0)),
            shape=RowShape(batch_size=512, length=2048), steps=1_200_000, spacing=240_000, peak=3e-3, size="154m"),
    _smollm("smollm2-360m", lm=replace(models.smollm2_360m(), rope=Rope(base=10_000.0)),
            shape=RowShape(batch_size=768, length=2048), steps=1_600_000, spacing=160_000, peak=3e-3, size="411m"),
    _smollm("smollm2-1.7b", lm=_SMOL, shape=RowShape(batch_size=1024, length=2048), steps=4_375_000,
            spacing=125_000, peak=5e-4, size="1b"),
    _smollm("smollm3-3b", lm=replace(_llama(36, 2048, (16, 4), 11_008, 128_256), eps=1e-6, rope=Rope(base=50_000.0),
            ties_embeddings=True, rotary_period=4), shape=RowShape(batch_size=576, length=4096), steps=4_000_000,
            spacing=40_000, peak=2e-4, size="7b"),
    PublicRun(
        name="amber-7b",
        model=models.amber_7b(),
        row_shape=RowShape(batch_size=2240, length=2048),
        steps=274_680,
        schedule=(3e-4, 3e-5, 2000, None),
        checkpoints=tuple((763 * (n + 1), f"LLM360/Amber@ckpt_{n:03d}") for n in (71, 143, 215, 287, 359)),
        spacing="360, ckpt_000 to ckpt_359 (main)",
        tokenizer="LLM360/Amber",
        text="1,259B tokens of AmberDatasets",
        licence="Apache-2.0",
        optimizer="",
        size="7b",
        sources=("card of the hub's LLM360/Amber", "Liu et al. 2023 (LLM360), section 3"),
        inferred=("its 360 checkpoints are taken as equally far apart, 763 steps.",
                  "a revision with pickles alone has to be converted first."),
    ),
)  # fmt: skip
PUBLIC_RUNS = {run.name: run for run in _RUNS}
