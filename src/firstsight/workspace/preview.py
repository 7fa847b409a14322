"""Preview the rows of a stage: prepare its data, train nothing, and write a page of what the stage would read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from firstsight.errors import QuantityError, UnknownName
from firstsight.files import file_name_part, write_atomic
from firstsight.plan.graph import MODEL_ROLES, Graph
from firstsight.plan.scheduler import EXTERNAL_KIND, missing_steps, result_path
from firstsight.plan.step import Step
from firstsight.plan.store import Store
from firstsight.recipe.stages import Finetune, Midtrain, TrunkSegment
from firstsight.recipe.study import Arm, Study
from firstsight.site import Site
from firstsight.workspace.execute import run_graph
from firstsight.workspace.progress import NO_DISPLAY, ProgressDisplay
from firstsight.workspace.sources import download_models, external_sources
from firstsight.workspace.study_graph import StoredStudy, prepare_study

if TYPE_CHECKING:
    from firstsight.data.loader import BatchStream


def write_preview(
    stored: StoredStudy,
    *,
    arm: str = "",
    stage: str = "",
    first: int = 0,
    count: int = 24,
    display: ProgressDisplay = NO_DISPLAY,
) -> Path:
    """Write a page of `count` rows of a stage from row `first` on; its path.

    Without names the first arm with images and its mid-training. Data that is missing is prepared; no encoder and no
    model is made. UnknownName for an arm or stage that the study does not have, QuantityError for rows outside it.
    """
    study, out = stored.study, stored.root
    arm_spec = study.arm(arm) if arm else next((arm for arm in study.arms if arm.stages), study.arms[0])
    stages = arm_stages(stored.graph, arm_spec)
    name = stage or ("midtrain" if "midtrain" in stages else list(stages)[-1])
    if name not in stages:
        raise UnknownName(f"stage of {arm_spec.label}", name, stages)
    _check_rows(stages[name].spec, first=first, count=count)

    def select(graph: Graph) -> Graph:
        return stage_data(graph, arm_stages(graph, arm_spec)[name], Store(out))

    store, graph = prepare_study(stored, display=display, select=select)
    data = select(graph)
    if missing_steps(data, store):
        run_graph(data, store, site=stored.site, display=display).check()
    page = out / f"preview-{file_name_part(arm_spec.label) or 'arm'}-{name}.html"
    with TemporaryDirectory() as scratch:
        site = download_models(external_sources(data), stored.site)
        streams = _StageStreams(store=store, site=site, scratch=Path(scratch))
        html = _render(streams, study, arm_spec, graph=graph, name=name, first=first, count=count)
    write_atomic(page, html)
    return page


def _check_rows(spec: TrunkSegment | Midtrain | Finetune, *, first: int, count: int) -> None:
    shape = spec.pretrain.row_shape if isinstance(spec, TrunkSegment) else spec.row_shape
    tokens = spec.pretrain.tokens_at(spec.end) if isinstance(spec, TrunkSegment) else spec.tokens
    total = shape.steps(tokens) * shape.batch_size
    if not 0 <= first < total:
        raise QuantityError(f"--first: wanted a row from 0 to {total - 1:,}, the stage's last. Got {first:,}.")
    if count < 1:
        raise QuantityError(f"--rows: wanted at least 1. Got {count}.")


def arm_stages(graph: Graph, arm: Arm) -> dict[str, Step]:
    """An arm's training steps by name in order: `pretrain` is its trunk's last segment, repeated kinds have numbers."""
    steps = graph.arms[arm.label]
    stages = [step for step in steps if step.kind == "pretrain"][-1:]
    stages += [step for step in steps if step.kind in ("midtrain", "finetune")]
    kinds = [step.kind for step in stages]
    numbers = [f"-{kinds[:end].count(kind)}" if kinds.count(kind) > 1 else "" for end, kind in enumerate(kinds, 1)]
    return {f"{step.kind}{number}": step for step, number in zip(stages, numbers, strict=True)}


def stage_data(graph: Graph, stage: Step, store: Store) -> Graph:
    """The part of a graph that makes the data of a stage, and of those before it that are not stored."""
    data: dict[Step, None] = {}
    stages = [stage]
    for step in stages:  # grows while it is iterated
        data.update(dict.fromkeys(parent for _, parent in _data_inputs(step) if parent.kind != EXTERNAL_KIND))
        stages += [model for _, model in _model_inputs(step) if not store.has(model.address)]
    chains = {f"data {number}": (*(parent for _, parent in step.needs), step) for number, step in enumerate(data, 1)}
    steps = dict.fromkeys(step for chain in chains.values() for step in chain)
    return Graph(title=graph.title, steps=tuple(steps), arms=chains, seeds=dict.fromkeys(chains, 0))


def _data_inputs(step: Step) -> Iterator[tuple[str, Step]]:
    """What determines a stage's rows, by role: data and tokenizer; no model, no encoder, no features."""
    for role, parent in step.needs:
        if role not in MODEL_ROLES and not role.startswith("encoder") and not role.endswith(".features"):
            yield role, parent


def _model_inputs(step: Step) -> list[tuple[str, Step]]:
    """The model that a stage starts from, with its role; none for a trunk, whose rows are counted from its start."""
    return [] if step.kind == "pretrain" else [(role, parent) for role, parent in step.needs if role in MODEL_ROLES][:1]


@dataclass(frozen=True, kw_only=True, slots=True)
class _StageStreams:
    """Batch streams of stages that need not have been trained."""

    store: Store
    site: Site
    scratch: Path

    def inputs(self, step: Step) -> Mapping[str, Path]:
        """The inputs of training without model and features; the model's folder has only its record of rows read."""
        parents = dict(_data_inputs(step))
        for parent in parents.values():
            if parent.kind != EXTERNAL_KIND:
                self.store.check_result(parent.address)
        paths = {role: result_path(parent, self.store, self.site) for role, parent in parents.items()}
        return paths | {role: self._model_folder(parent) for role, parent in _model_inputs(step)}

    def _model_folder(self, step: Step) -> Path:
        """The stored checkpoint, or a folder with only its record of the rows read; a donor's is empty."""
        if self.store.has(step.address):
            return self.store.check_result(step.address, ("achieved.json",))
        folder = self.scratch / step.address
        folder.mkdir(exist_ok=True)
        if step.kind != EXTERNAL_KIND:
            from firstsight.train.streams import achieved_record

            record = achieved_record(self.stream(step), self.inputs(step))
            (folder / "achieved.json").write_text(json.dumps(record))
        return folder

    def stream(self, step: Step) -> BatchStream:
        """The stage's batches, exactly as training reads them."""
        from firstsight.train.streams import stage_stream, trunk_stream

        if isinstance(step.spec, TrunkSegment):
            return trunk_stream(step.spec, inputs=self.inputs(step), site=self.site)
        return stage_stream(step.spec, inputs=self.inputs(step), site=self.site)


def _render(streams: _StageStreams, study: Study, arm: Arm, *, graph: Graph, name: str, first: int, count: int) -> str:
    from firstsight.data.tokenizer import load_tokenizer
    from firstsight.report.pages.preview_page import StageIdentity, preview_rows, render_preview, stage_overview
    from firstsight.report.pages.token_text import TokenDecoder

    step = arm_stages(graph, arm)[name]
    stream, tokenizer = streams.stream(step), load_tokenizer(streams.inputs(step)["tokenizer"])
    decoder, scale = TokenDecoder(tokenizer), study.scale
    address = f"{step.address} (provisional)" if graph.undigested_names() else step.address
    stage = StageIdentity(study=study.name, scale=scale, arm=arm.label, stage=name, seed=arm.seed, address=address)
    rows = preview_rows(stream, decoder, first_row=first, count=count)
    header = stage_overview(stream, step.spec, identity=stage, tokenizer=tokenizer, needs_spacing=decoder.needs_spacing)
    return render_preview(header, rows)
