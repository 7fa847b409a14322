"""From a study to the graph of its steps: equal work is one node, whichever arms ask for it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from firstsight.errors import QuantityError, UnknownName
from firstsight.plan.identity import Identities, known_as, unidentified
from firstsight.plan.step import VERSIONS, Step, find
from firstsight.recipe.mix import Benchmarks, Blend, Captions, Dialogues, Named, Recaptioned, Source, Texts, Vocabulary
from firstsight.recipe.stages import Donor, Encode, Finetune, Midtrain, Prepare, Pretrain, Segment, Tokenizer
from firstsight.recipe.study import Arm, Study
from firstsight.recipe.vision import Contrast, TowerSpec, VisionSpec
from firstsight.units import Share

LEAVES: dict[type, str] = {
    Named: "named",
    Vocabulary: "vocabulary",
    Texts: "texts",
    Captions: "captions",
    Dialogues: "dialogues",
    Benchmarks: "benchmarks",
}
"""Specs that need nothing, and the kind of step that each is."""

UNKNOWN: Identities = {}
"""Nothing is known of what the user has."""

LINE = ("trunk", "previous", "checkpoint")
"""Roles in which the model itself is handed on."""

MODEL = ("pretrain", "midtrain", "finetune", "evaluate")
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

    def unknown(self) -> tuple[str, ...]:
        """Names of data and weights whose content nobody has looked at: with any, addresses are provisional."""
        found = {name for step in self.steps for name in unidentified(step.spec, step.identities)}
        return tuple(sorted(found))

    def final(self, label: str) -> Step:
        """The step that judges the arm called `label`."""
        if label not in self.arms:
            raise UnknownName("arm", label, self.arms)
        return self.arms[label][-1]

    def users(self) -> dict[Step, tuple[str, ...]]:
        """Which arms need each step, by label, in the study's order."""
        found: dict[Step, list[str]] = {step: [] for step in self.steps}
        for label, steps in self.arms.items():
            for step in steps:
                found[step].append(label)
        return {step: tuple(labels) for step, labels in found.items()}

    def find(self, prefix: str) -> Step:
        """The step whose address or digest begins with `prefix`; UnknownName or RequestError otherwise."""
        address = find(prefix, (step.address for step in self.steps))
        return next(step for step in self.steps if step.address == address)


def graph(study: Study, identities: Identities = UNKNOWN) -> Graph:
    """The steps of all arms, with each trunk cut wherever one of the study's arms leaves it.

    `identities`: digests of the user's own sources by `known_as`. Without them addresses are provisional: right for
    counting, drawing and telling apart, but nothing can be stored under them.
    """
    draft = _Draft(identities=identities)
    cuts: dict[Pretrain | Donor, set[Share]] = {}
    for arm in study.arms:
        cuts.setdefault(arm.pretrain, set()).update({arm.start} - {Share(0)})
    finals = {arm.label: draft.judged(arm, sorted(cuts[arm.pretrain])) for arm in study.arms}
    order: dict[Step, None] = {}
    for seed in dict.fromkeys(arm.seed for arm in study.arms):
        ours = [step for arm in study.arms if arm.seed == seed for step in _upto(finals[arm.label])]
        trunks = [step for trunk in ours if trunk.kind == "pretrain" or trunk.holds for step in _upto(trunk)]
        order.update(dict.fromkeys([*trunks, *ours]))
    return Graph(
        title=f"{study.name} at {study.scale}",
        steps=tuple(order),
        arms={label: tuple(dict.fromkeys(_upto(final))) for label, final in finals.items()},
        seeds={arm.label: arm.seed for arm in study.arms},
    )


def _upto(step: Step) -> Iterator[Step]:
    """A step after everything that it needs; what is needed twice comes twice."""
    for _, parent in step.needs:
        yield from _upto(parent)
    yield step


@dataclass(frozen=True, kw_only=True, slots=True)
class _Draft:
    """Steps from specs, with what is known of the content of the user's own sources."""

    identities: Identities

    def step(self, kind: str, spec: Any, *, needs: Iterable[tuple[str, Step]] = ()) -> Step:
        return Step(kind=kind, spec=spec, needs=tuple(needs), version=VERSIONS[kind], identities=self.identities)

    def leaf(self, spec: Source | Tokenizer | Benchmarks) -> Step:
        """What is read and was never made from anything; content that is read in two ways has a leaf for each."""
        if not isinstance(spec, Recaptioned):
            return self.step(LEAVES[type(spec)], spec)
        digest = self.identities.get(known_as(spec))
        return _Draft(identities={spec.named.name: digest} if digest else {}).leaf(spec.named)

    def judged(self, arm: Arm, cuts: list[Share]) -> Step:
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
        reads = [("checkpoint", model), ("benchmarks", self.leaf(arm.evaluate.benchmarks))]
        return self.step("evaluate", arm.evaluate, needs=reads)

    def trunk(self, arm: Arm, cuts: list[Share]) -> Step | None:
        """What an arm branches from: a donor's checkpoint, or the chain of our own segments; nothing at start 0."""
        if not isinstance(arm.pretrain, Donor):
            return self.segments(arm.pretrain, [cut for cut in cuts if cut <= arm.start])
        if not arm.start:
            return None
        return replace(self.leaf(arm.pretrain.checkpoint(arm.start)), holds=arm.pretrain.model)

    def segments(self, pretrain: Pretrain, cuts: list[Share]) -> Step | None:
        """The chain of segments through `cuts`; an address depends on the cuts before it, never on later ones."""
        reads = [("tokenizer", self.leaf(pretrain.tokenizer)), *self.words(pretrain.text, pretrain.tokenizer)]
        model: Step | None = None
        for since, until in zip([Share(0), *cuts], cuts, strict=False):
            before = [("previous", model)] if model is not None else []
            segment = Segment(pretrain=pretrain, since=since, until=until)
            model = self.step("pretrain", segment, needs=[*before, *reads])
        return model

    def stage(self, stage: Midtrain | Finetune, model: list[tuple[str, Step]]) -> Step:
        """One stage with the model that it goes on from (none: untrained) and all that it reads."""
        kind = "midtrain" if isinstance(stage, Midtrain) else "finetune"
        words = self.words(stage.mix.text, stage.tokenizer)
        reads = [("tokenizer", self.leaf(stage.tokenizer)), *words, *self.sight(stage)]
        return self.step(kind, stage, needs=[*model, *reads])

    def words(self, text: Blend, tokenizer: Tokenizer) -> Iterator[tuple[str, Step]]:
        """The text sources of a trunk or stage, in order."""
        for number, source in enumerate(text.sources):
            yield f"text{number}", self.index(source, tokenizer)

    def sight(self, stage: Midtrain | Finetune) -> Iterator[tuple[str, Step]]:
        """What the image part reads. An encoder of our own is applied once for all arms; a named one to rows."""
        vision = stage.model.vision
        for number, wanted in enumerate(stage.mix.images.sources):
            index, source = self.index(wanted, stage.tokenizer), self.leaf(wanted)
            yield f"image{number}", index
            yield f"image{number}.source", source
            if stage.model.encoder == "frozen" and any(isinstance(one.weights, Contrast) for one in vision.towers):
                needs = [("source", source), ("index", index), *self.encoders(vision)]
                yield f"image{number}.features", self.step("encode", Encode(source=wanted, vision=vision), needs=needs)
        yield from self.encoders(vision)

    def encoders(self, vision: VisionSpec) -> Iterator[tuple[str, Step]]:
        """The weights of each tower: trained here, or named."""
        for number, tower in enumerate(vision.towers):
            yield f"encoder{number}", self.tower(tower)

    def tower(self, vision: TowerSpec) -> Step:
        if isinstance(vision.weights, Named):
            return self.leaf(vision.weights)
        return self.step("contrast", vision, needs=[("captions", self.leaf(vision.weights.captions))])

    def index(self, source: Source, tokenizer: Tokenizer) -> Step:
        needs = [("source", self.leaf(source)), ("tokenizer", self.leaf(tokenizer))]
        return self.step("prepare", Prepare(source=source, tokenizer=tokenizer), needs=needs)


def tree(graph: Graph, stored: Collection[str] = ()) -> tuple[str, ...]:
    """The graph as lines of text, every step once: first what is read, then the models as they branch.

    Shared steps say how many arms share them; a step whose address is in `stored` is marked.
    """
    users = graph.users()
    alone = sum(len(steps) for steps in graph.arms.values())
    head = f"{graph.title}: {len(graph.arms)} arms, {len(graph.steps)} steps ({alone} if every arm ran alone)"
    data = [step for step in graph.steps if step.kind not in MODEL and not step.holds]
    drawing = _Drawing(children=_children(graph), users=users, stored=stored)
    return (head, "data", *_data(data, drawing), "models", *drawing.branches(None, ""))


def _children(graph: Graph) -> dict[Step | None, list[Step]]:
    """Who goes on from whom along the model line; models from nothing and donors' are the children of None."""
    found: dict[Step | None, list[Step]] = {}
    for step in graph.steps:
        if step.kind in MODEL or step.holds:
            before = [parent for role, parent in step.needs if role in LINE]
            found.setdefault(before[0] if before else None, []).append(step)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Drawing:
    children: dict[Step | None, list[Step]]
    users: dict[Step, tuple[str, ...]]
    stored: Collection[str]

    def name(self, step: Step) -> str:
        """The address, what the user calls that source where the address does not say it, and whether it is stored."""
        stored = " [stored]" if step.address in self.stored else ""
        return f"{step.address}{_called(step)}{stored}"

    def shared(self, step: Step) -> str:
        labels = self.users[step]
        return f"for {labels[0]}" if len(labels) == 1 else f"shared by {len(labels)} arms"

    def branches(self, parent: Step | None, indent: str) -> Iterator[str]:
        """A line for each chain that only the same arms use, its branches indented below."""
        below = sorted(self.children.get(parent, []), key=lambda step: step.kind == "pretrain" or bool(step.holds))
        for number, step in enumerate(below):
            chain = [step]
            while len(after := self.children.get(chain[-1], [])) == 1 and self.users[after[0]] == self.users[step]:
                chain.append(after[0])
            corner, down = ("└── ", "    ") if number == len(below) - 1 else ("├── ", "│   ")
            steps = " → ".join(map(self.name, chain))
            labels = self.users[step]
            line = f"{labels[0]}: {steps}" if len(labels) == 1 else f"{steps}  {self.shared(step)}"
            yield f"{indent}{corner}{line}"
            yield from self.branches(chain[-1], indent + down)


def _called(step: Step) -> str:
    """The user's name for a source whose address says only its form."""
    source = step.spec.source if isinstance(step.spec, Prepare) else step.spec
    if not isinstance(source, Named | Recaptioned) or known_as(source) not in step.identities:
        return ""
    return f" ({source.named.name if isinstance(source, Recaptioned) else source.name})"


def _data(steps: list[Step], drawing: _Drawing) -> Iterator[str]:
    for number, step in enumerate(steps):
        corner = "└── " if number == len(steps) - 1 else "├── "
        reads = ", ".join(parent.slug for _, parent in step.needs)
        yield f"{corner}{drawing.name(step)}{f' from {reads}' if reads else ''}  {drawing.shared(step)}"
