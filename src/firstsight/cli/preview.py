"""`preview`: the data of one stage made where it is missing, and a page of the rows that the stage would read."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from firstsight.cli import terminal
from firstsight.errors import QuantityError, UnknownName
from firstsight.plan.graph import MODEL_ROLES, Graph, build_graph
from firstsight.plan.scheduler import EXTERNAL_KIND, missing_steps, result_path
from firstsight.plan.step import Step
from firstsight.plan.store import Store
from firstsight.recipe.stages import Finetune, Midtrain, TrunkSegment
from firstsight.recipe.study import Arm, Study
from firstsight.site import Site
from firstsight.workspace import run, source_ids

if TYPE_CHECKING:
    from firstsight.data.loader import BatchStream

TRAINED = ("pretrain", "midtrain", "finetune")


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A request as it was typed; empty words leave the choice to the study."""

    arm: str
    stage: str
    first: int
    rows: int


def write_preview(study: Study, asked: Asked, *, out: Path) -> Path:
    """Make what is missing of the stage's data, never its encoder or model, and write the page; its path.

    UnknownName for an arm or stage that the study does not have.
    """
    arm = study.arm(asked.arm) if asked.arm else _first(study)
    stages = stages_of(build_graph(study), arm)
    name = asked.stage or ("midtrain" if "midtrain" in stages else list(stages)[-1])
    if name not in stages:
        raise UnknownName(f"stage of {arm.label}", name, stages)
    _check(asked, stages[name].spec)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    store, steps = _known(study, stages[name], out=out)
    stages = stages_of(steps, arm)
    data = data_of(steps, stages[name], store)
    if missing_steps(data, store):
        run.run_graph(data, store, jobs=None).check()
    page = out / f"preview-{_slug(arm.label)}-{name}.html"
    with TemporaryDirectory() as scratch:
        place = source_ids.brought(source_ids.sources_of(data), run.site())
        sitting = _Sitting(study=study, arm=arm, store=store, site=place, scratch=Path(scratch))
        text = _page(sitting, name, stages[name], asked, provisional=bool(steps.undigested_names()))
    page.write_text(text, encoding="utf-8")
    terminal.lines([f"preview: {page}"])
    return page


def _check(asked: Asked, spec: TrunkSegment | Midtrain | Finetune) -> None:
    """Raise QuantityError for rows outside of the stage, before anything is made."""
    shape = spec.pretrain.row_shape if isinstance(spec, TrunkSegment) else spec.row_shape
    tokens = spec.pretrain.tokens_at(spec.end) if isinstance(spec, TrunkSegment) else spec.tokens
    total = shape.steps(tokens) * shape.batch_size
    if not 0 <= asked.first < total:
        raise QuantityError(f"--first: wanted a row from 0 to {total - 1:,}, the stage's last. Got {asked.first:,}.")
    if asked.rows < 1:
        raise QuantityError(f"--rows: wanted at least 1. Got {asked.rows}.")


def _known(study: Study, stage: Step, *, out: Path) -> tuple[Store, Graph]:
    """The store, and the plan with the user's own data of a stage looked at and prepared: no encoder, no benchmark."""
    steps, store, site = build_graph(study), Store(out), run.site()
    part = data_of(steps, stage, store)
    if not part.undigested_names():
        return store, source_ids.known_graph(study, site)
    source_ids.check_places(source_ids.sources_of(part), site)
    site = source_ids.brought(source_ids.sources_of(part), site)
    content = source_ids.looked_at(part, store, site=site, jobs=None, made=run.made)
    steps = build_graph(study, {**source_ids.noted(steps, site), **content.identities})
    content.adopt(steps.steps, store)
    return store, steps


def _first(study: Study) -> Arm:
    """The first arm that sees pictures, else the first."""
    return next((arm for arm in study.arms if arm.stages), study.arms[0])


def stages_of(plan: Graph, arm: Arm) -> dict[str, Step]:
    """An arm's training steps by name, in order: a trunk's last segment is the trunk; kinds that recur are numbered."""
    steps = plan.arms[arm.label]
    trunk = [step for step in steps if step.kind == "pretrain"][-1:]
    line = [*trunk, *(step for step in steps if step.kind in TRAINED[1:])]
    total, so_far, found = Counter(step.kind for step in line), Counter[str](), dict[str, Step]()
    for step in line:
        so_far[step.kind] += 1
        found[f"{step.kind}-{so_far[step.kind]}" if total[step.kind] > 1 else step.kind] = step
    return found


def _reads(step: Step) -> Iterator[tuple[str, Step]]:
    """What a stage needs to know its rows: data and tokenizer; no model, no encoder, no features."""
    for role, parent in step.needs:
        if role not in MODEL_ROLES and not role.startswith("encoder") and not role.endswith(".features"):
            yield role, parent


def _before(step: Step) -> tuple[str, Step] | None:
    """The model that a stage goes on from, with its role; a trunk is read from its beginning."""
    found = ((role, parent) for role, parent in step.needs if role in MODEL_ROLES)
    return None if step.kind == "pretrain" else next(found, None)


def data_of(steps: Graph, stage: Step, store: Store) -> Graph:
    """The part of a study that makes the data of a stage and of those before it whose reading nobody has noted."""
    wanted: dict[Step, None] = {}
    line = [stage]
    for step in line:  # it grows while it is read
        wanted.update(dict.fromkeys(parent for _, parent in _reads(step) if parent.kind != EXTERNAL_KIND))
        before = _before(step)
        if before is not None and not store.has(before[1].address):
            line.append(before[1])
    makers = {
        f"data {number}": (*(parent for _, parent in step.needs), step) for number, step in enumerate(wanted, start=1)
    }
    every = dict.fromkeys(one for chain in makers.values() for one in chain)
    return Graph(title=steps.title, steps=tuple(every), arms=makers, seeds=dict.fromkeys(makers, 0))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sitting:
    """What does not change while a page is made."""

    study: Study
    arm: Arm
    store: Store
    site: Site
    scratch: Path

    def inputs(self, step: Step) -> Mapping[str, Path]:
        """What training would be given, without model and features; the model's place tells what was read before."""
        found = {role: result_path(parent, self.store, self.site) for role, parent in _reads(step)}
        before = _before(step)
        return found if before is None else {**found, before[0]: self.told(before[1])}

    def told(self, step: Step) -> Path:
        """A folder with the note of what a stage has read: its checkpoint, or the same note without the training.

        A donor leaves no note: what it has read is not ours.
        """
        if self.store.has(step.address):
            return self.store.path(step.address)
        folder = self.scratch / step.address
        folder.mkdir(exist_ok=True)
        if step.kind == EXTERNAL_KIND:
            return folder
        from firstsight.train.streams import achieved_record

        note = achieved_record(self.stream(step), self.inputs(step))
        (folder / "achieved.json").write_text(json.dumps(note))
        return folder

    def stream(self, step: Step) -> BatchStream:
        """The stage's batches, exactly as training reads them."""
        from firstsight.train.streams import stage_stream, trunk_stream

        inputs = self.inputs(step)
        if isinstance(step.spec, TrunkSegment):
            return trunk_stream(step.spec, inputs=inputs, site=self.site)
        return stage_stream(step.spec, inputs=inputs, site=self.site)


def _page(sitting: _Sitting, name: str, step: Step, asked: Asked, *, provisional: bool) -> str:
    from firstsight.data import tokenizer
    from firstsight.report.pages.preview_page import StageIdentity, preview_rows, render_preview, stage_facts
    from firstsight.report.pages.token_text import TokenDecoder

    study, arm = sitting.study, sitting.arm
    stream, words = sitting.stream(step), tokenizer.load_tokenizer(sitting.inputs(step)["tokenizer"])
    speller = TokenDecoder(words)
    where = StageIdentity(
        study=study.name,
        scale=study.scale,
        arm=arm.label,
        stage=name,
        seed=arm.seed,
        address=f"{step.address} (provisional)" if provisional else step.address,
    )
    rows = preview_rows(stream, speller, first_row=asked.first, count=asked.rows)
    return render_preview(
        stage_facts(stream, step.spec, identity=where, tokenizer=words, needs_spacing=speller.needs_spacing),
        rows,
    )


def _slug(label: str) -> str:
    """A label as part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", label).strip("-.") or "arm"
