"""From a study to the graph of its steps: equal work is one node, whichever arms ask for it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from firstsight.errors import QuantityError, UnknownName
from firstsight.plan.step import STEP_VERSIONS, ContentIds, Step, content_key, find_address, names_without_digest
from firstsight.recipe.mixture import (
    DataSource,
    External,
    Mixture,
    Recaptioned,
    SyntheticBenchmarks,
    SyntheticCaptions,
    SyntheticDialogues,
    SyntheticTexts,
    SyntheticVocabulary,
)
from firstsight.recipe.stages import Donor, Encode, Finetune, Midtrain, Prepare, Pretrain, TokenizerSource, TrunkSegment
from firstsight.recipe.study import Arm, Study
from firstsight.recipe.vision import ContrastiveTraining, TowerSpec, VisionSpec
from firstsight.units import Share

LEAF_KINDS: dict[type, str] = {
    External: "named",
    SyntheticVocabulary: "vocabulary",
    SyntheticTexts: "texts",
    SyntheticCaptions: "captions",
    SyntheticDialogues: "dialogues",
    SyntheticBenchmarks: "benchmarks",
}
"""Specs that need nothing, and the kind of step that each is."""

NO_CONTENT_IDS: ContentIds = {}
"""Nothing is known of what the user has."""

MODEL_ROLES = ("trunk", "previous", "checkpoint")
"""Roles in which the model itself is handed on."""

MODEL_KINDS = ("pretrain", "midtrain", "finetune", "evaluate")
"""Kinds on the line from nothing to a judged model, which a donor's checkpoint may begin; all others make what these
read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """What a study runs."""

    title: str
    """Study and scale."""
    steps: tuple[Step, ...]
    """Every step once, parents first; seed by seed, and within a seed its trunk first."""
    arms: Mapping[str, tuple[Step, ...]]
    """By label, what an arm would run alone, parents first; the last step is its judgement."""
    seeds: Mapping[str, int]
    """Each arm's seed, by label."""

    def undigested_names(self) -> tuple[str, ...]:
        """Names of data and weights whose content nobody has looked at: with any, addresses are provisional."""
        names = {name for step in self.steps for name in names_without_digest(step.spec, step.content_ids)}
        return tuple(sorted(names))

    def final_step(self, label: str) -> Step:
        """The step that judges the arm called `label`."""
        if label not in self.arms:
            raise UnknownName("arm", label, self.arms)
        return self.arms[label][-1]

    def arms_by_step(self) -> dict[Step, tuple[str, ...]]:
        """Which arms need each step, by label, in the study's order."""
        labels_by_step: dict[Step, list[str]] = {step: [] for step in self.steps}
        for label, steps in self.arms.items():
            for step in steps:
                labels_by_step[step].append(label)
        return {step: tuple(labels) for step, labels in labels_by_step.items()}

    def find_step(self, prefix: str) -> Step:
        """The step whose address or digest begins with `prefix`; UnknownName or RequestError otherwise."""
        address = find_address(prefix, (step.address for step in self.steps))
        return next(step for step in self.steps if step.address == address)


def build_graph(study: Study, content_ids: ContentIds = NO_CONTENT_IDS) -> Graph:
    """The steps of all arms, with each trunk cut wherever one of the study's arms leaves it.

    `identities`: digests of the user's own sources by `known_as`. Without them addresses are provisional: right for
    counting, drawing and telling apart, but nothing can be stored under them.
    """
    builder = _GraphBuilder(content_ids=content_ids)
    cuts_by_trunk: dict[Pretrain | Donor, set[Share]] = {}
    for arm in study.arms:
        cuts_by_trunk.setdefault(arm.pretrain, set()).update({arm.start} - {Share(0)})
    finals = {arm.label: builder.evaluation(arm, sorted(cuts_by_trunk[arm.pretrain])) for arm in study.arms}
    order: dict[Step, None] = {}
    for seed in dict.fromkeys(arm.seed for arm in study.arms):
        seed_steps = [step for arm in study.arms if arm.seed == seed for step in _with_ancestors(finals[arm.label])]
        trunks = [
            step
            for trunk in seed_steps
            if trunk.kind == "pretrain" or trunk.donor_model
            for step in _with_ancestors(trunk)
        ]
        order.update(dict.fromkeys([*trunks, *seed_steps]))
    return Graph(
        title=f"{study.name} at {study.scale}",
        steps=tuple(order),
        arms={label: tuple(dict.fromkeys(_with_ancestors(final))) for label, final in finals.items()},
        seeds={arm.label: arm.seed for arm in study.arms},
    )


def _with_ancestors(step: Step) -> Iterator[Step]:
    """A step after everything that it needs; what is needed twice comes twice."""
    for _, parent in step.needs:
        yield from _with_ancestors(parent)
    yield step


@dataclass(frozen=True, kw_only=True, slots=True)
class _GraphBuilder:
    """Steps from specs, with what is known of the content of the user's own sources."""

    content_ids: ContentIds

    def step(self, kind: str, spec: Any, *, needs: Iterable[tuple[str, Step]] = ()) -> Step:
        return Step(kind=kind, spec=spec, needs=tuple(needs), version=STEP_VERSIONS[kind], content_ids=self.content_ids)

    def leaf(self, spec: DataSource | TokenizerSource | SyntheticBenchmarks) -> Step:
        """What is read and was never made from anything; content that is read in two ways has a leaf for each."""
        if not isinstance(spec, Recaptioned):
            return self.step(LEAF_KINDS[type(spec)], spec)
        digest = self.content_ids.get(content_key(spec))
        return _GraphBuilder(content_ids={spec.external.name: digest} if digest else {}).leaf(spec.external)

    def evaluation(self, arm: Arm, cuts: list[Share]) -> Step:
        """The arm's last step; QuantityError where its models do not go on from each other."""
        arm.check()
        model = self.trunk(arm, cuts)
        role = "trunk"
        for stage in arm.stages:
            model = self.stage(stage, [(role, model)] if model is not None else [])
            role = "previous"
        if model is None:
            raise QuantityError(
                f"{arm.label}: nothing is trained before it is judged. "
                "Got start 0 and no stages; set a start above 0 or add a stage."
            )
        inputs = [("checkpoint", model), ("benchmarks", self.leaf(arm.evaluate.benchmarks))]
        return self.step("evaluate", arm.evaluate, needs=inputs)

    def trunk(self, arm: Arm, cuts: list[Share]) -> Step | None:
        """What an arm branches from: a donor's checkpoint, or the chain of our own segments; nothing at start 0."""
        if not isinstance(arm.pretrain, Donor):
            return self.segments(arm.pretrain, [cut for cut in cuts if cut <= arm.start])
        if not arm.start:
            return None
        return replace(self.leaf(arm.pretrain.checkpoint(arm.start)), donor_model=arm.pretrain.model)

    def segments(self, pretrain: Pretrain, cuts: list[Share]) -> Step | None:
        """The chain of segments through `cuts`; an address depends on the cuts before it, never on later ones."""
        inputs = [("tokenizer", self.leaf(pretrain.tokenizer)), *self.text_indexes(pretrain.text, pretrain.tokenizer)]
        model: Step | None = None
        for since, until in zip([Share(0), *cuts], cuts, strict=False):
            previous_input = [("previous", model)] if model is not None else []
            segment = TrunkSegment(pretrain=pretrain, start=since, end=until)
            model = self.step("pretrain", segment, needs=[*previous_input, *inputs])
        return model

    def stage(self, stage: Midtrain | Finetune, model_input: list[tuple[str, Step]]) -> Step:
        """One stage with the model that it goes on from (none: untrained) and all that it reads."""
        kind = "midtrain" if isinstance(stage, Midtrain) else "finetune"
        text_inputs = self.text_indexes(stage.mix.text, stage.tokenizer)
        inputs = [("tokenizer", self.leaf(stage.tokenizer)), *text_inputs, *self.image_inputs(stage)]
        return self.step(kind, stage, needs=[*model_input, *inputs])

    def text_indexes(self, mixture: Mixture, tokenizer: TokenizerSource) -> Iterator[tuple[str, Step]]:
        """The text sources of a trunk or stage, in order."""
        for source_index, source in enumerate(mixture.sources):
            yield f"text{source_index}", self.prepared_index(source, tokenizer)

    def image_inputs(self, stage: Midtrain | Finetune) -> Iterator[tuple[str, Step]]:
        """What the image part reads. An encoder of our own is applied once for all arms; a named one to rows."""
        vision = stage.model.vision
        for source_index, data_source in enumerate(stage.mix.images.sources):
            index_step, source_step = self.prepared_index(data_source, stage.tokenizer), self.leaf(data_source)
            yield f"image{source_index}", index_step
            yield f"image{source_index}.source", source_step
            if stage.model.encoder == "frozen" and any(
                isinstance(tower.weights, ContrastiveTraining) for tower in vision.towers
            ):
                needs = [("source", source_step), ("index", index_step), *self.encoder_weights(vision)]
                yield (
                    f"image{source_index}.features",
                    self.step("encode", Encode(source=data_source, vision=vision), needs=needs),
                )
        yield from self.encoder_weights(vision)

    def encoder_weights(self, vision: VisionSpec) -> Iterator[tuple[str, Step]]:
        """The weights of each tower: trained here, or named."""
        for tower_index, tower_spec in enumerate(vision.towers):
            yield f"encoder{tower_index}", self.tower_weights(tower_spec)

    def tower_weights(self, tower_spec: TowerSpec) -> Step:
        if isinstance(tower_spec.weights, External):
            return self.leaf(tower_spec.weights)
        return self.step("contrast", tower_spec, needs=[("captions", self.leaf(tower_spec.weights.captions))])

    def prepared_index(self, source: DataSource, tokenizer: TokenizerSource) -> Step:
        needs = [("source", self.leaf(source)), ("tokenizer", self.leaf(tokenizer))]
        return self.step("prepare", Prepare(source=source, tokenizer=tokenizer), needs=needs)


def render_tree(graph: Graph, stored_addresses: Collection[str] = ()) -> tuple[str, ...]:
    """The graph as lines of text, every step once: first what is read, then the models as they branch.

    Shared steps say how many arms share them; a step whose address is in `stored` is marked.
    """
    arms_by_step = graph.arms_by_step()
    unshared_count = sum(len(steps) for steps in graph.arms.values())
    header = (
        f"{graph.title}: {len(graph.arms)} arms, {len(graph.steps)} steps ({unshared_count} if every arm ran alone)"
    )
    data_steps = [step for step in graph.steps if step.kind not in MODEL_KINDS and not step.donor_model]
    renderer = _TreeRenderer(
        children=_model_children(graph), arms_by_step=arms_by_step, stored_addresses=stored_addresses
    )
    return (header, "data", *_data_lines(data_steps, renderer), "models", *renderer.branches(None, ""))


def _model_children(graph: Graph) -> dict[Step | None, list[Step]]:
    """Who goes on from whom along the model line; models from nothing and donors' are the children of None."""
    children: dict[Step | None, list[Step]] = {}
    for step in graph.steps:
        if step.kind in MODEL_KINDS or step.donor_model:
            parents = [parent for role, parent in step.needs if role in MODEL_ROLES]
            children.setdefault(parents[0] if parents else None, []).append(step)
    return children


@dataclass(frozen=True, kw_only=True, slots=True)
class _TreeRenderer:
    children: dict[Step | None, list[Step]]
    arms_by_step: dict[Step, tuple[str, ...]]
    stored_addresses: Collection[str]

    def label(self, step: Step) -> str:
        """The address, what the user calls that source where the address does not say it, and whether it is stored."""
        stored_mark = " [stored]" if step.address in self.stored_addresses else ""
        return f"{step.address}{_source_name_suffix(step)}{stored_mark}"

    def arms_text(self, step: Step) -> str:
        labels = self.arms_by_step[step]
        return f"for {labels[0]}" if len(labels) == 1 else f"shared by {len(labels)} arms"

    def branches(self, parent: Step | None, indent: str) -> Iterator[str]:
        """A line for each chain that only the same arms use, its branches indented below."""
        child_steps = sorted(
            self.children.get(parent, []), key=lambda step: step.kind == "pretrain" or bool(step.donor_model)
        )
        for position, step in enumerate(child_steps):
            chain = [step]
            while (
                len(next_steps := self.children.get(chain[-1], [])) == 1
                and self.arms_by_step[next_steps[0]] == self.arms_by_step[step]
            ):
                chain.append(next_steps[0])
            connector, extension = ("└── ", "    ") if position == len(child_steps) - 1 else ("├── ", "│   ")
            steps = " → ".join(map(self.label, chain))
            labels = self.arms_by_step[step]
            line = f"{labels[0]}: {steps}" if len(labels) == 1 else f"{steps}  {self.arms_text(step)}"
            yield f"{indent}{connector}{line}"
            yield from self.branches(chain[-1], indent + extension)


def _source_name_suffix(step: Step) -> str:
    """The user's name for a source whose address says only its form."""
    source = step.spec.source if isinstance(step.spec, Prepare) else step.spec
    if not isinstance(source, External | Recaptioned) or content_key(source) not in step.content_ids:
        return ""
    return f" ({source.external.name if isinstance(source, Recaptioned) else source.name})"


def _data_lines(steps: list[Step], renderer: _TreeRenderer) -> Iterator[str]:
    for position, step in enumerate(steps):
        connector = "└── " if position == len(steps) - 1 else "├── "
        parent_slugs = ", ".join(parent.slug for _, parent in step.needs)
        yield f"{connector}{renderer.label(step)}{f' from {parent_slugs}' if parent_slugs else ''}  {renderer.arms_text(step)}"
