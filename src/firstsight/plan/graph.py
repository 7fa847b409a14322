"""From a study to the graph of its steps: arms that need equal work share one step."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from firstsight.errors import UnknownName
from firstsight.plan.features import FeatureRoom
from firstsight.plan.refusals import check_arm
from firstsight.plan.source_needs import grow_sources
from firstsight.plan.step import (
    FEATURES_SUFFIX,
    STEP_VERSIONS,
    ContentIds,
    Step,
    content_key,
    find_address,
    names_without_digest,
)
from firstsight.recipe.mixture import DataSource, External, Mixture, Recaptioned, SyntheticBenchmarks, base_source
from firstsight.recipe.stages import (
    TRUNK_GRID,
    Donor,
    Encode,
    Finetune,
    Midtrain,
    Prepare,
    Pretrain,
    PublicModel,
    TokenizerSource,
    TrunkSegment,
)
from firstsight.recipe.study import Arm, Study
from firstsight.recipe.synthetic_sizes import SyntheticSource, size_text
from firstsight.recipe.vision import ContrastiveTraining, TowerSpec
from firstsight.units import Share

MODEL_ROLES = ("trunk", "previous", "checkpoint")
"""Roles of an input that is a model's checkpoint."""
MODEL_KINDS = ("pretrain", "midtrain", "finetune", "evaluate")
"""Kinds of steps that train or evaluate a model; the others make the inputs of these."""

Inputs = Iterable[tuple[str, Step]]
"""(role, step) of inputs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """All steps of a study, and which arms need them."""

    title: str
    """Study and scale."""
    steps: tuple[Step, ...]
    """Every step once, parents first; seed by seed, and within a seed its trunk first."""
    arms: Mapping[str, tuple[Step, ...]]
    """By label, the steps that an arm would run alone, parents first; the last one is its evaluation."""
    seeds: Mapping[str, int]
    """Each arm's seed, by label."""

    def undigested_names(self) -> tuple[str, ...]:
        """Names of data and weights without a digest of their content: with any, addresses are provisional."""
        return tuple(sorted({name for s in self.steps for name in names_without_digest(s.spec, s.content_ids)}))

    def final_step(self, label: str) -> Step:
        """The evaluation of the arm called `label`."""
        if label not in self.arms:
            raise UnknownName("arm", label, self.arms)
        return self.arms[label][-1]

    def arms_by_step(self) -> dict[Step, tuple[str, ...]]:
        """The labels of the arms that need each step, in the study's order."""
        members = {label: set(steps) for label, steps in self.arms.items()}
        return {step: tuple(label for label, steps in members.items() if step in steps) for step in self.steps}

    def find_step(self, prefix: str) -> Step:
        """The step whose address or digest begins with `prefix`; UnknownName or RequestError otherwise."""
        address = find_address(prefix, (step.address for step in self.steps))
        return next(step for step in self.steps if step.address == address)


def build_graph(study: Study, content_ids: ContentIds | None = None, room: FeatureRoom | None = None) -> Graph:
    """The steps of all arms. Those of an arm are the same in every study that has it.

    Built-in sources are as large as `grow_sources` makes them. QuantityError or UnknownName where an arm could not
    run (`plan.refusals`).
    `content_ids`: digests of the user's own sources. Without them addresses are provisional and nothing can be stored.
    `room`: for stored features, which are in no address; by default there is room for all.
    """
    for arm in study.arms:
        check_arm(arm)
    study, builder = grow_sources(study), _GraphBuilder(content_ids or {}, room or FeatureRoom())
    finals = {arm.label: builder.evaluation(arm) for arm in study.arms}
    order: dict[Step, None] = {}
    for seed in dict.fromkeys(arm.seed for arm in study.arms):
        steps = [step for arm in study.arms if arm.seed == seed for step in with_ancestors(finals[arm.label])]
        order.update(dict.fromkeys(step for trunk in filter(_is_trunk, steps) for step in with_ancestors(trunk)))
        order.update(dict.fromkeys(steps))
    return Graph(
        title=f"{study.name} at {study.scale}",
        steps=tuple(order),
        arms={label: tuple(with_ancestors(final)) for label, final in finals.items()},
        seeds={arm.label: arm.seed for arm in study.arms},
    )


def select_arms(graph: Graph, labels: Collection[str]) -> Graph:
    """The part of a graph that the arms with these labels need."""
    arms = {label: steps for label, steps in graph.arms.items() if label in labels}
    needed = {step for steps in arms.values() for step in steps}
    seeds = {label: graph.seeds[label] for label in arms}
    return replace(graph, steps=tuple(step for step in graph.steps if step in needed), arms=arms, seeds=seeds)


def trunk_cuts(pretrain: Pretrain, start: Share) -> tuple[Share, ...]:
    """The ends of the segments of a trunk up to `start`: those of TRUNK_GRID before it, and itself.

    So a trunk up to a share has one address in all studies. Shares of equally many whole steps are one cut.
    """
    ends = {pretrain.tokens_at(share): share for share in reversed(TRUNK_GRID) if share < start}
    return tuple(sorted((ends | {pretrain.tokens_at(start): start}).values())) if start else ()


def with_ancestors(step: Step) -> Iterator[Step]:
    """A step after all of its ancestors, each once."""
    return iter(_ancestors(step, {}))


def _ancestors(step: Step, found: dict[Step, None]) -> dict[Step, None]:
    """`found` with the ancestors of a step and the step itself."""
    if step not in found:
        for _, parent in step.needs:
            _ancestors(parent, found)
        found[step] = None
    return found


@dataclass(frozen=True, slots=True)
class _GraphBuilder:
    """Makes steps from specs."""

    content_ids: ContentIds
    room: FeatureRoom = field(default_factory=FeatureRoom)
    steps: dict[tuple[Any, ...], Step] = field(default_factory=dict[tuple[Any, ...], Step])
    """Those made so far, by kind, spec and inputs: the digest of a spec takes longer than its hash."""

    def step(self, kind: str, spec: Any, needs: Inputs = ()) -> Step:
        inputs = tuple(needs)
        key = kind, spec, inputs
        if key not in self.steps:
            version = STEP_VERSIONS[kind]
            self.steps[key] = Step(kind=kind, spec=spec, needs=inputs, version=version, content_ids=self.content_ids)
        return self.steps[key]

    def leaf(self, spec: DataSource | TokenizerSource | SyntheticBenchmarks) -> Step:
        """The step of a source, without inputs; for Recaptioned its external source, by the digest of both captions."""
        if isinstance(spec, Recaptioned):
            digest = self.content_ids.get(content_key(spec))
            return _GraphBuilder({spec.external.name: digest} if digest else {}).leaf(spec.external)
        return self.step("named" if isinstance(spec, External) else spec.TAG, spec)

    def evaluation(self, arm: Arm) -> Step:
        """The arm's last step."""
        model, role = self.trunk(arm), "trunk"
        for stage in arm.resolved_stages():
            model, role = self.stage(stage, [(role, model)] if model else []), "previous"
        assert model is not None  # check_arm
        inputs = [("checkpoint", model), ("benchmarks", self.leaf(arm.evaluate.benchmarks))]
        return self.step("evaluate", arm.evaluate, inputs)

    def trunk(self, arm: Arm) -> Step | None:
        """What an arm branches from: a public checkpoint, or the last segment of its own trunk; None at start 0."""
        if isinstance(arm.pretrain, PublicModel):
            return self.leaf(arm.pretrain.weights)
        if not isinstance(arm.pretrain, Donor):
            return self.segments(arm.pretrain, trunk_cuts(arm.pretrain, arm.start))
        if not arm.start:
            return None
        return replace(self.leaf(arm.pretrain.checkpoint(arm.start)), donor_model=arm.pretrain.model)

    def segments(self, pretrain: Pretrain, cuts: Sequence[Share]) -> Step | None:
        """The chain of segments through `cuts`; an address depends on the cuts before it, never on later ones."""
        inputs = [("tokenizer", self.leaf(pretrain.tokenizer)), *self.text_indexes(pretrain.text, pretrain.tokenizer)]
        model: Step | None = None
        for start, end in zip([Share(0), *cuts], cuts, strict=False):
            segment = TrunkSegment(pretrain=pretrain, start=start, end=end)
            model = self.step("pretrain", segment, [*([("previous", model)] if model else []), *inputs])
        return model

    def stage(self, stage: Midtrain | Finetune, model: Inputs) -> Step:
        """One stage, which continues `model` (empty: untrained), with all that it reads."""
        texts = self.text_indexes(stage.mix.text, stage.tokenizer)
        inputs = [*model, ("tokenizer", self.leaf(stage.tokenizer)), *texts, *self.image_inputs(stage)]
        return self.step(stage.TAG, stage, inputs)

    def text_indexes(self, mixture: Mixture, tokenizer: TokenizerSource) -> Inputs:
        for number, source in enumerate(mixture.sources):
            yield f"text{number}", self.index(source, tokenizer)

    def image_inputs(self, stage: Midtrain | Finetune) -> Inputs:
        """Index and images of each source; its features too where they are stored."""
        towers = [(f"encoder{number}", self.tower(tower)) for number, tower in enumerate(stage.model.vision.towers)]
        features = self.features(stage, towers)
        for number, source in enumerate(stage.mix.images.sources):
            yield f"image{number}", self.index(source, stage.tokenizer)
            yield f"image{number}.source", self.leaf(source)
            if features:
                yield f"image{number}{FEATURES_SUFFIX}", features[number]
        yield from towers

    def features(self, stage: Midtrain | Finetune, towers: Inputs) -> list[Step]:
        """The features of each image source of a stage: those of an external encoder that is trained in this study, and
        those that the recipe stores and there is room for; else none."""
        model, fixed = stage.model, stage.model.stores_features
        if not fixed and (model.encoder == "included" or all(tower.kind != "contrast" for _, tower in towers)):
            return []
        steps: list[Step] = []
        for source in stage.mix.images.sources:
            inputs = [("source", self.leaf(source)), ("index", self.index(source, stage.tokenizer)), *towers]
            spec = Encode(source=source, vision=model.vision, fixed_batches=fixed)
            steps.append(self.step("encode", spec, inputs))
        return steps if not fixed or self.room.admit(steps) else []

    def tower(self, tower: TowerSpec) -> Step:
        """The weights of an encoder: trained in this study, or external."""
        if isinstance(tower.weights, ContrastiveTraining):
            return self.step("contrast", tower, [("captions", self.leaf(tower.weights.captions))])
        return self.leaf(tower.weights)

    def index(self, source: DataSource, tokenizer: TokenizerSource) -> Step:
        """A source, tokenized and indexed."""
        inputs = [("source", self.leaf(source)), ("tokenizer", self.leaf(tokenizer))]
        return self.step("prepare", Prepare(source=source, tokenizer=tokenizer), inputs)


def render_tree(graph: Graph, stored_addresses: Collection[str] = ()) -> tuple[str, ...]:
    """The graph as lines of text, every step once: first the data, then the models as they branch.

    Shared steps show how many arms share them; steps in `stored_addresses` are marked.
    """
    unshared = sum(len(steps) for steps in graph.arms.values())
    header = f"{graph.title}: {len(graph.arms)} arms, {len(graph.steps)} steps ({unshared} if every arm ran alone)"
    renderer = _TreeRenderer(graph, stored_addresses)
    return (header, "data", *renderer.data_lines(), "models", *renderer.branches(None, ""))


class _TreeRenderer:
    def __init__(self, graph: Graph, stored_addresses: Collection[str]) -> None:
        self.graph, self.stored_addresses, self.arms_by_step = graph, stored_addresses, graph.arms_by_step()
        self.children: dict[Step | None, list[Step]] = {}
        """The models that continue each model, branches before the trunk; those that continue none are None's."""
        for step in filter(_is_model, graph.steps):
            parent = next((parent for role, parent in step.needs if role in MODEL_ROLES), None)
            self.children.setdefault(parent, []).append(step)
        for siblings in self.children.values():
            siblings.sort(key=_is_trunk)

    def data_lines(self) -> Iterator[str]:
        steps = [step for step in self.graph.steps if not _is_model(step)]
        for step in steps:
            connector = "└── " if step == steps[-1] else "├── "
            origin = f" from {', '.join(parent.slug for _, parent in step.needs)}" if step.needs else ""
            yield f"{connector}{self.label(step)}{origin}  {self.arms_text(step)}"

    def branches(self, parent: Step | None, indent: str) -> Iterator[str]:
        """A line for each chain of steps that the same arms use, with its branches indented below."""
        siblings = self.children.get(parent, [])
        for step in siblings:
            chain, arms = [step], self.arms_by_step[step]
            while len(following := self.children.get(chain[-1], [])) == 1 and self.arms_by_step[following[0]] == arms:
                chain.append(following[0])
            connector, extension = ("└── ", "    ") if step == siblings[-1] else ("├── ", "│   ")
            steps = " → ".join(map(self.label, chain))
            line = f"{arms[0]}: {steps}" if len(arms) == 1 else f"{steps}  {self.arms_text(step)}"
            yield f"{indent}{connector}{line}"
            yield from self.branches(chain[-1], indent + extension)

    def label(self, step: Step) -> str:
        """The address, the size of a built-in source, the user's name of another, and whether it is stored."""
        source = step.spec.source if isinstance(step.spec, Prepare) else step.spec
        name = f" ({size_text(step.spec)})" if isinstance(step.spec, SyntheticSource) else ""
        if isinstance(source, External | Recaptioned) and content_key(source) in step.content_ids:
            name = f" ({base_source(source).name})"
        return f"{step.address}{name}{' [stored]' if step.address in self.stored_addresses else ''}"

    def arms_text(self, step: Step) -> str:
        labels = self.arms_by_step[step]
        return f"for {labels[0]}" if len(labels) == 1 else f"shared by {len(labels)} arms"


def _is_model(step: Step) -> bool:
    return step.kind in MODEL_KINDS or step.is_public_checkpoint


def _is_trunk(step: Step) -> bool:
    return step.kind == "pretrain" or bool(step.donor_model)
